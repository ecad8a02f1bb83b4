//! What says which files and which state there are: the log's objects, checkpoints' manifests and pieces, the files that a
//! replay of the archive has pinned. Checksums fit, as whoever writes them may do; what they cover is anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tidemill_connectors::parquet_source::ParquetSource;
use tidemill_dataflow::checkpoint::{Manifest, Piece, load_manifest};
use tidemill_dataflow::source::Source;
use tidemill_log::testing::{MemoryStore, seal};
use tidemill_log::{
    Binding, CheckpointEntry, Commit, DataFile, Entry, FOLDER, FORMAT, History, Location, Log, LogOptions, LogState,
    PartitionBinding, PartitionStatus, TableChange, reader,
};
use tidemill_query::Visible;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::input::{Input, piece};
use crate::memory::within;
use crate::segments::folder;

/// What manifests are made of.
pub(crate) const WORDS: [&str; 40] = [
    "\ne",
    "\ns",
    "\nb",
    "{\"seal\":",
    "{\"bind\":",
    "{\"commit\":",
    "{\"checkpoint\":",
    "{\"gc\":",
    "\"epoch\":",
    "\"run\":",
    "\"watermark\":",
    "\"partitions\":[",
    "\"partition\":",
    "\"name\":",
    "\"end\":",
    "\"lines\":",
    "\"digest\":",
    "\"status\":\"active\"",
    "\"status\":\"finished\"",
    "\"detail\":",
    "\"last\":true",
    "\"checkpoint\":true",
    "\"tables\":[",
    "\"added\":[",
    "\"removed\":[",
    "\"path\":",
    "\"rows\":",
    "\"bytes\":",
    "\"drained\":true",
    "\"last_event\":",
    "\"state\":",
    "\"number\":",
    "\"previous\":",
    "\"bindings\":",
    "\"dropped_through\":",
    "dt=2015-05-17/hour=10",
    "null",
    "18446744073709551615",
    "-9223372036854775808",
    "{\"first\":1,\"epochs\":[",
];

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mode = input.byte() % 4;
    // JSON's maps and texts, read and written a few times.
    within(bytes.len() * 400 + (4 << 20), || match mode {
        0 => log(input.0),
        1 => manifest(input.0),
        2 => pieces(input),
        _ => pinned(input.0),
    });
}

fn framed(kind: &str, payload: &[u8]) -> Vec<u8> {
    let header = format!("tidemill {kind} {FORMAT} {:016x} {}\n", xxh3_64(payload), payload.len());
    [header.as_bytes(), payload].concat()
}

/// A log of the objects that the lines of the input say: `e` an entry, `s` a snapshot, `b` bindings.
fn log(text: &[u8]) {
    let mut objects = BTreeMap::from([(format!("{FOLDER}/format"), framed("format", b"{\"format\":1}"))]);
    let (mut number, mut previous, mut entries, mut exact) = (0_u64, 0_u64, Vec::new(), true);
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let (kind, json) = line.split_at(1);
        let value: Value = serde_json::from_slice(json).unwrap_or_default();
        exact &= !has_floats(&value);
        match kind {
            b"s" => {
                entries.clear();
                number = value["state"]["number"].as_u64().unwrap_or_default();
                previous = value["previous"].as_u64().unwrap_or_default();
                objects.insert(format!("{FOLDER}/snapshots/{number:020}"), framed("snapshot", json));
            }
            b"b" => {
                let first = value["first"].as_u64().unwrap_or_default();
                let epochs = value["epochs"].as_array().map_or(0, Vec::len) as u64;
                let last = first.wrapping_add(epochs).wrapping_sub(1);
                objects.insert(format!("{FOLDER}/bindings/{first:020}-{last:020}"), framed("bindings", json));
            }
            _ => {
                number = number.wrapping_add(1);
                let front =
                    format!("{{\"number\":{number},\"previous\":{previous},\"run\":1,\"sequence\":{number},\"entry\":");
                let object = framed("entry", &[front.as_bytes(), json, b"}"].concat());
                previous = xxh3_64(&object);
                objects.insert(format!("{FOLDER}/log/{number:020}"), object);
                entries.extend(serde_json::from_slice::<Entry>(json));
            }
        }
    }
    let objects = objects.into_iter().map(|(name, object)| (name, Bytes::from(object))).collect();
    let store = Arc::new(MemoryStore::holding(objects));
    let Ok(state) = reader::read(Arc::<MemoryStore>::clone(&store), FOLDER) else { return };
    let visible = Visible::from(&state);
    assert_eq!(visible.epoch, state.committed());
    for epoch in [0, 1, 2, u64::MAX] {
        let _ = (state.partitions_as_of(epoch), state.watermark_as_of(epoch), state.replayable_from_start());
    }
    if let Ok(Some(history)) = History::open(store, FOLDER) {
        for binding in history.take(100) {
            let Ok(binding) = binding else { break };
            assert!(binding.epoch <= state.committed().unwrap_or_default());
        }
    }
    if exact {
        assert_eq!(reread(&state), state, "a state is what is stored of it");
        folded_in_any_pieces(&entries, &state);
    }
}

fn reread(state: &LogState) -> LogState {
    let stored = serde_json::to_vec(state).expect("a state can always be written");
    serde_json::from_slice(&stored).expect("a state can be read again")
}

/// Folding all entries is folding some, storing the state, and folding the rest.
fn folded_in_any_pieces(entries: &[Entry], whole: &LogState) {
    if entries.len() as u64 != whole.number() {
        return;
    }
    let mut state = LogState::default();
    for (number, entry) in (1..).zip(entries) {
        state.apply(number, entry.clone()).expect("it was applied before");
        state = reread(&state);
    }
    assert_eq!(&state, whole);
}

/// Numbers that JSON does not keep to the last bit.
fn has_floats(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(values) => values.iter().any(has_floats),
        Value::Object(members) => members.values().any(has_floats),
        _ => false,
    }
}

/// A checkpoint's manifest.
fn manifest(json: &[u8]) {
    let path = Manifest::path(1, 1);
    let checksum = format!("{:032x}", xxh3_128(json));
    let store = MemoryStore::holding(BTreeMap::from([(path.clone(), Bytes::copy_from_slice(json))]));
    let entry = CheckpointEntry { epoch: 1, manifest: path.clone(), checksum };
    let Ok(manifest) = load_manifest(&store, &entry) else { return };
    let (encoded, sum) = manifest.encode();
    let again = MemoryStore::holding(BTreeMap::from([(path, Bytes::from(encoded))]));
    assert_eq!(load_manifest(&again, &CheckpointEntry { checksum: sum, ..entry }).ok(), Some(manifest));
}

/// A piece of state, the checksums of its index and of its sections as they should be.
fn pieces(mut input: Input<'_>) {
    let odd = input.byte();
    let (mut index, mut body) = (Vec::new(), Vec::new());
    let mut sections = Vec::new();
    let count = usize::from(input.byte() % 8);
    let start = 20 + count * 25;
    for _ in 0..count {
        let (group, section) = (input.byte(), input.piece());
        let offset = if odd & 1 == 0 { (start + body.len()) as u64 } else { input.number(8) };
        let length = if odd & 2 == 0 { section.len() as u64 } else { input.number(8) };
        body.extend_from_slice(section);
        index.push(group);
        index.extend_from_slice(&offset.to_le_bytes());
        index.extend_from_slice(&length.to_le_bytes());
        index.extend_from_slice(&xxh3_64(section).to_le_bytes());
        sections.push((group, section));
    }
    let said =
        if odd & 4 == 0 { u32::try_from(count).unwrap_or_default().to_le_bytes().to_vec() } else { vec![0xff; 4] };
    let head = [b"TMPIECE1", &said[..], &xxh3_64(&index).to_le_bytes()].concat();
    let decoded = Piece::decode(Bytes::from([head, index, body].concat()));
    match decoded {
        Ok(piece) if odd & 7 == 0 => assert_eq!(piece.sections().collect::<Vec<_>>(), sections),
        Ok(piece) => assert!(piece.sections().map(|(_, section)| section.len()).sum::<usize>() <= 1 << 20),
        Err(problem) => assert!(odd & 7 != 0, "{problem}"),
    }
}

/// What a binding of the archive has pinned.
fn pinned(json: &[u8]) {
    let Ok(detail) = serde_json::from_slice(json) else { return };
    let root = folder().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let binding = |name: &str, end: u64| PartitionBinding {
        partition: 0,
        name: name.to_owned(),
        end,
        lines: end,
        digest: String::new(),
        watermark: None,
        status: PartitionStatus::Active,
        detail: Value::clone(&detail),
    };
    let location = Location::Folder(root.path().to_owned());
    let source = ParquetSource { location, table: "raw_events".to_owned(), since: None, until: None };
    let name =
        detail["name"].as_str().map_or_else(|| "raw_events/_recent".to_owned(), |name| format!("raw_events/{name}"));
    for end in [0, 1, u64::MAX] {
        let Ok(mut reader) = source.open(&[binding(&name, end)]) else { continue };
        let _ = (reader.partitions(), reader.position(0));
        let _ = reader.head(0);
        let _ = reader.read(0, 1 << 16, None);
        let _ = reader.read(0, 1 << 16, Some(end.wrapping_add(1)));
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = written_log();
    seeds.push([&[1], &b"{\"epoch\":7,\"run\":1,\"source\":\"{}\",\"operators\":[{\"id\":\"sessions\",\"version\":1,\"pieces\":[\
        {\"path\":\"p\",\"bytes\":3,\"first\":1,\"last\":7,\"expires\":1767225600000,\"version\":1}]}],\"plan\":[{\"id\":\"sessions\",\
        \"kind\":\"session_windows\"}],\"dropped\":[\"x\"]}"[..]].concat());
    seeds.push([&[2, 0, 2, 3][..], &piece(b"abc"), &[200], &piece(&[0; 40])].concat());
    seeds.push([&[2, 3, 1, 3][..], &piece(b"abc"), &[0xff; 16]].concat());
    for name in ["_recent", "dt=2015-05-17/hour=10"] {
        let files = "[{\"path\":\"tables/x.parquet\",\"rows\":3,\"bytes\":100},{\"path\":\"tables/y.parquet\",\"rows\":4,\"bytes\":5}]";
        let detail = format!("{{\"name\":\"{name}\",\"span\":{{\"since\":null,\"until\":null}},\"files\":{files}}}");
        seeds.push([&[3], detail.as_bytes()].concat());
    }
    seeds
}

/// Logs as a pipeline writes them: all entries, a snapshot of it, and bindings that were let go of.
fn written_log() -> Vec<Vec<u8>> {
    let store = Arc::new(MemoryStore::default());
    let mut log = Log::start(Arc::<MemoryStore>::clone(&store), LogOptions::default()).expect("memory takes it").log;
    let mut append = |entry| log.append(entry).expect("entries in order");
    append(Entry::Seal(seal(1)));
    for epoch in 1..=3 {
        let partitions = vec![PartitionBinding {
            partition: 0,
            name: "a.ndjson".to_owned(),
            end: epoch * 100,
            lines: epoch,
            digest: format!("{epoch:016x}"),
            watermark: Some(1_767_225_600_000),
            status: PartitionStatus::Active,
            detail: serde_json::json!({ "path": "/a.ndjson", "size": epoch }),
        }];
        let watermark = Some(1_767_225_600_000 + epoch.cast_signed());
        append(Entry::Bind(Binding { epoch, watermark, partitions, last: epoch == 3, checkpoint: true }));
        let path = format!("tables/raw_events/_recent/{epoch:012}-000-000.parquet");
        let added = vec![DataFile { path, rows: 1, bytes: 2 }];
        let tables = vec![TableChange { table: "raw_events".to_owned(), added, removed: Vec::new() }];
        append(Entry::Commit(Commit { epoch, watermark, tables, drained: epoch == 3, ..Commit::default() }));
        let (manifest, checksum) = (Manifest::path(epoch, 1), String::new());
        append(Entry::Checkpoint(CheckpointEntry { epoch, manifest, checksum }));
    }
    let line = |kind: &str, payload: &[u8]| [kind.as_bytes(), payload, b"\n"].concat();
    let mut entries = Vec::new();
    for (name, object) in store.objects() {
        let payload = object.split(|byte| *byte == b'\n').nth(1).unwrap_or_default();
        if name.contains("/log/") {
            let envelope: Value = serde_json::from_slice(payload).unwrap_or_default();
            entries.extend(line("e", envelope["entry"].to_string().as_bytes()));
        }
    }
    let state = serde_json::to_string(log.state()).expect("a state can always be written");
    let snapshot = line("s", format!("{{\"previous\":7,\"state\":{state}}}").as_bytes());
    let bindings =
        line("b", b"{\"first\":1,\"epochs\":[{\"w\":5,\"all\":true},{\"p\":[{\"n\":0,\"e\":3,\"l\":1,\"d\":\"x\"}]}]}");
    let seal =
        line("e", br#"{"seal":{"run":2,"format":1,"plan":"p","build":"b","workers":1,"processes":1,"checkpoint":3}}"#);
    vec![
        [&[0], &entries[..]].concat(),
        [&[0], &snapshot[..], &seal].concat(),
        [&[0], &bindings[..], &snapshot, &seal].concat(),
    ]
}
