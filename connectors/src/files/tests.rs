//! The promises of the file source: blocks, resuming, refusals, over-long lines.

mod forms;
mod torn;
mod turning;
mod twins;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use flate2::write::GzEncoder;
use proptest::prelude::*;
use tempfile::TempDir;
use tidemill_dataflow::time::EventTime;
use tidemill_log::PartitionStatus;

use super::*;
use crate::events::{HashKey, LogReader, MAX_LINE_BYTES};

fn folder() -> TempDir {
    TempDir::new().unwrap()
}

fn write(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn append(path: &Path, content: &str) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(content.as_bytes()).unwrap();
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn source(paths: &[PathBuf]) -> FileSource {
    // Events of these tests are short: their times are of the first seconds of 1970.
    FileSource::new(FilesConfig { paths: paths.to_vec(), bounds: Bounds::of_archive(), ..FilesConfig::default() })
}

fn open(paths: &[PathBuf], recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
    source(paths).open(recorded)
}

/// The same, where nothing will be appended.
fn drained(path: &Path, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
    draining(path).open(recorded)
}

fn draining(path: &Path) -> FileSource {
    let bounds = Bounds::of_archive();
    FileSource::new(FilesConfig { paths: vec![path.to_owned()], drain: true, bounds, ..FilesConfig::default() })
}

fn open_one(path: &Path, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
    open(&[path.to_owned()], recorded)
}

/// The same of lines that no guess knows.
fn open_as_events(path: &Path, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
    let format = Format::Ndjson;
    FileSource::new(FilesConfig { paths: vec![path.to_owned()], format, ..FilesConfig::default() }).open(recorded)
}

/// The binding that the engine would record now.
pub(super) fn binding(reader: &dyn BlockReader, partition: u32) -> PartitionBinding {
    let info = &reader.partitions()[partition as usize];
    let position = reader.position(partition);
    PartitionBinding {
        partition,
        name: info.name.clone(),
        end: position.offset,
        lines: position.lines,
        digest: position.digest,
        watermark: None,
        status: if position.finished { PartitionStatus::Finished } else { PartitionStatus::Active },
        detail: info.detail.clone(),
    }
}

fn bindings(reader: &dyn BlockReader) -> Vec<PartitionBinding> {
    (0..u32::try_from(reader.partitions().len()).unwrap()).map(|number| binding(reader, number)).collect()
}

fn read_all(reader: &mut dyn BlockReader, partition: u32, limit: usize) -> Vec<Block> {
    std::iter::from_fn(|| reader.read(partition, limit, None).unwrap()).collect()
}

fn joined(blocks: &[Block]) -> Vec<u8> {
    blocks.iter().flat_map(|block| block.bytes.clone()).collect()
}

fn changed(result: Result<Box<dyn BlockReader>, SourceError>) -> String {
    match result.map(|_| ()) {
        Err(error @ SourceError::Changed { .. }) => error.to_string(),
        other => panic!("expected a changed partition, got {other:?}"),
    }
}

fn event(number: u32) -> String {
    format!(r#"{{"event_id":"e{number}","event_type":"click","user_id":"u","timestamp":{}}}"#, 1_000 + number)
}

fn events(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| event(number) + "\n").collect()
}

const MIXED: &str = "one\r\n\ntwo two\n\nthree three three\nlast without newline";

#[test]
fn blocks_hold_as_many_whole_lines_as_fit_and_at_least_one() {
    let folder = folder();
    let path = write(&folder, "a", MIXED);
    for limit in 1..MIXED.len() + 2 {
        let mut reader = drained(&path, &[]).unwrap();
        let blocks = read_all(&mut *reader, 0, limit);
        assert_eq!(joined(&blocks), MIXED.as_bytes());
        let (mut offset, mut lines) = (0, 0);
        for (number, block) in blocks.iter().enumerate() {
            assert_eq!((block.offset, block.first_line, block.skipped), (offset, lines + 1, 0));
            let text = std::str::from_utf8(&block.bytes).unwrap();
            assert!(text.len() <= limit || text.trim_end_matches('\n').matches('\n').count() == 0, "{limit} {text:?}");
            if let Some(next) = blocks.get(number + 1) {
                let next_line = next.bytes.iter().position(|b| *b == b'\n').map_or(next.bytes.len(), |at| at + 1);
                assert!(text.len() + next_line > limit, "one more line would fit in {limit}");
            }
            offset += block.bytes.len() as u64;
            lines += text.lines().count() as u64;
        }
        let position = reader.position(0);
        assert_eq!((position.offset, position.lines, position.finished), (MIXED.len() as u64, 6, true));
    }
}

#[test]
fn an_empty_file_has_no_blocks_and_is_finished() {
    let folder = folder();
    let path = write(&folder, "a", "");
    let mut reader = open_one(&path, &[]).unwrap();
    assert!(!reader.position(0).finished);
    assert_eq!((reader.head(0).unwrap(), reader.read(0, 100, None).unwrap()), (None, None));
    assert_eq!((reader.position(0).lines, reader.position(0).finished), (0, true));
}

#[test]
fn a_newline_appended_behind_the_last_line_ends_it_and_is_no_line() {
    for (appended, expected) in [("\n", ""), ("\nnew\n", "new\n"), ("new\n", "new\n"), ("\n\n", "\n")] {
        let folder = folder();
        let path = write(&folder, "a", MIXED);
        let mut reader = drained(&path, &[]).unwrap();
        read_all(&mut *reader, 0, 1_000);
        let recorded = bindings(&*reader);
        append(&path, appended);
        assert_eq!(reader.read(0, 1_000, None).unwrap(), None, "the end that was met stays the end in one run");

        let mut resumed = open_one(&path, &recorded).unwrap();
        let blocks = read_all(&mut *resumed, 0, 1_000);
        assert_eq!(joined(&blocks), expected.as_bytes(), "{appended:?}");
        let position = resumed.position(0);
        assert_eq!(position.lines, 6 + expected.lines().count() as u64, "{appended:?}");
        assert_eq!(position.offset, (MIXED.len() + appended.len()) as u64);
        // Recorded cuts give the same blocks when all of it is there from the start.
        let mut replay = open_one(&path, &[]).unwrap();
        let end = MIXED.len() as u64;
        let first = replay.read(0, 1_000, Some(end)).unwrap().unwrap();
        assert_eq!(first.bytes, MIXED.as_bytes());
        assert_eq!(replay.position(0).digest, recorded[0].digest);
        assert_eq!(replay.read(0, 1_000, Some(end)).unwrap(), None);
        assert_eq!(read_all(&mut *replay, 0, 1_000), blocks);
        assert_eq!(replay.position(0), position);
    }
}

#[test]
fn reading_goes_on_where_it_stopped_in_every_packing() {
    let content = events(0..3_000);
    let (first, second) = content.as_bytes().split_at(100_001);
    let members = [gzip(first), gzip(second)].concat();
    let frames = [zstd::encode_all(first, 1).unwrap(), zstd::encode_all(second, 19).unwrap()].concat();
    for packed in [content.clone().into_bytes(), members, frames] {
        let folder = folder();
        let path = write(&folder, "a.log", packed);
        let mut whole = open_one(&path, &[]).unwrap();
        let blocks = read_all(&mut *whole, 0, 10_000);
        assert_eq!(joined(&blocks), content.as_bytes());
        for stop in [0, 1, 7, blocks.len()] {
            let mut reader = open_one(&path, &[]).unwrap();
            for block in &blocks[..stop] {
                assert_eq!(reader.read(0, 10_000, None).unwrap().as_ref(), Some(block));
            }
            let recorded = bindings(&*reader);
            let mut resumed = open_one(&path, &recorded).unwrap();
            assert_eq!(resumed.position(0).digest, recorded[0].digest);
            assert_eq!(resumed.partitions(), reader.partitions());
            resumed.head(0).unwrap();
            assert_eq!(read_all(&mut *resumed, 0, 10_000), blocks[stop..]);
            assert_eq!(resumed.position(0), whole.position(0));
        }
    }
}

#[test]
fn a_file_that_was_touched_is_accepted_if_its_content_is_not() {
    let folder = folder();
    let content = events(0..50);
    for packed in [content.clone().into_bytes(), gzip(content.as_bytes())] {
        let path = write(&folder, "a", &packed);
        let mut reader = open_one(&path, &[]).unwrap();
        reader.read(0, 500, None).unwrap();
        let recorded = bindings(&*reader);
        fs::remove_file(&path).unwrap();
        fs::write(&path, &packed).unwrap();
        let mut resumed = open_one(&path, &recorded).unwrap();
        assert_eq!(read_all(&mut *resumed, 0, 700), read_all(&mut *reader_at(&path, 500), 0, 700));
    }
}

/// A reader of a file that has handed out one block.
fn reader_at(path: &Path, limit: usize) -> Box<dyn BlockReader> {
    let mut reader = open_one(path, &[]).unwrap();
    reader.read(0, limit, None).unwrap();
    reader
}

#[test]
fn a_file_that_changed_is_refused_by_name() {
    let content = events(0..50);
    let edited = content.replacen("e1\"", "f1\"", 1);
    for (before, after, problem) in [
        (content.clone().into_bytes(), edited.clone().into_bytes(), "not what was read before"),
        (gzip(content.as_bytes()), gzip(edited.as_bytes()), "not what was read before"),
        (content.clone().into_bytes(), content.as_bytes()[..300].to_vec(), "it has 300 now"),
        (gzip(content.as_bytes()), gzip(&content.as_bytes()[..300]), "shorter now"),
    ] {
        let folder = folder();
        let path = write(&folder, "a", &before);
        let recorded = bindings(&*reader_at(&path, 500));
        fs::write(&path, &after).unwrap();
        let message = changed(open_one(&path, &recorded));
        assert!(message.contains(problem), "{message}");
        assert!(message.starts_with(path.to_str().unwrap()) && message.contains("bring back"), "{message}");
    }
}

#[test]
fn a_change_that_keeps_all_times_is_found_before_anything_is_read() {
    let folder = folder();
    let path = write(&folder, "a", events(0..50));
    let mut recorded = bindings(&*reader_at(&path, 500));
    fs::write(&path, events(0..50).replacen("e1\"", "f1\"", 1)).unwrap();
    recorded[0].detail = open_one(&path, &[]).unwrap().partitions()[0].detail.clone();
    let mut reader = open_one(&path, &recorded).unwrap();
    let error = reader.read(0, 500, None).unwrap_err();
    assert!(matches!(error, SourceError::Changed { .. }), "{error}");
}

#[test]
fn a_file_that_vanished_or_is_no_longer_given_is_refused() {
    let folder = folder();
    let (a, b) = (write(&folder, "a", events(0..50)), write(&folder, "b", events(50..90)));
    let recorded = bindings(&*reader_at(&a, 500));
    let refusal = changed(open_one(&b, &recorded));
    assert!(refusal.contains("not among the files given now"), "{refusal}");
    // A copy does not stand for a file that was left out.
    let copy = write(&folder, "copy", events(0..50));
    let of_a_copy = changed(open_one(&copy, &recorded));
    assert!(of_a_copy.contains("not among the files given now"), "{of_a_copy}");
    fs::remove_file(&copy).unwrap();
    fs::remove_file(&a).unwrap();
    for paths in [vec![b.clone()], vec![a.clone(), b.clone()]] {
        let message = changed(open(&paths, &recorded));
        assert!(message.contains("does not exist any more"), "{message}");
    }
    let error = open(&[b, a], &[]).map(|_| ()).unwrap_err();
    assert!(matches!(error, SourceError::Usage(_)), "{error}");
}

#[test]
fn new_files_are_numbered_after_the_recorded_ones_in_their_order() {
    let folder = folder();
    let paths =
        [("a", 0), ("b", 10), ("c", 20), ("d", 30)].map(|(name, first)| write(&folder, name, events(first..first + 9)));
    let [a, b, c, d] = paths.clone();
    let mut reader = open(&[b.clone(), a.clone()], &[]).unwrap();
    reader.read(1, 100, None).unwrap();
    let recorded = bindings(&*reader);
    let again = open(&[d.clone(), c.clone(), a.clone(), b.clone()], &recorded).unwrap();
    let names: Vec<_> = again.partitions().into_iter().map(|info| info.name).collect();
    assert_eq!(names, [b, a, d, c].map(|path| path.to_str().unwrap().to_owned()));
    assert_eq!((again.position(0).offset, again.position(1).lines), (0, 1));
}

#[test]
fn a_file_keeps_its_first_name_whatever_it_is_called_later() {
    let folder = folder();
    let path = write(&folder, "a", events(0..50));
    let recorded = bindings(&*reader_at(&path, 500));
    let other = folder.path().join(".").join("a");
    let reader = open_one(&other, &recorded).unwrap();
    assert_eq!(reader.partitions()[0].name, path.to_str().unwrap());
}

#[test]
fn what_cannot_be_an_input_is_refused_with_the_remedy() {
    let folder = folder();
    let a = write(&folder, "a", events(0..2));
    for (paths, problem) in [
        (vec![], "no input file"),
        (vec![folder.path().join("none")], "does not exist"),
        (vec!["-".into()], "write what it gives into a file"),
        (vec!["/dev/null".into()], "write what it gives into a file"),
        (vec!["https://example.org/access.log".into()], "is an address"),
        (vec![folder.path().to_owned()], "is a folder"),
        (vec![folder.path().join("none*")], "matches no file"),
        (vec![folder.path().join("[")], "is no pattern"),
    ] {
        match open(&paths, &[]).map(|_| ()) {
            Err(SourceError::Usage(message)) => assert!(message.contains(problem), "{message}"),
            other => panic!("expected a usage error, got {other:?}"),
        }
    }
    let recorded = bindings(&*reader_at(&a, 50));
    let config = FilesConfig { paths: vec![a], format: Format::Log(LogReader::Combined), ..FilesConfig::default() };
    let error = FileSource::new(config).open(&recorded).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("was read as ndjson before"), "{error}");
}

#[test]
fn a_packed_file_that_is_damaged_or_cut_short_is_refused_by_name() {
    let content = events(0..5_000);
    for packed in [gzip(content.as_bytes()), zstd::encode_all(content.as_bytes(), 1).unwrap()] {
        let mut flipped = packed.clone();
        flipped[packed.len() / 2] ^= 0x55;
        for broken in [packed[..packed.len() - 5].to_vec(), packed[..packed.len() / 2].to_vec(), flipped] {
            let folder = folder();
            let path = write(&folder, "a", broken);
            // A damage near the start shows when the file is opened, to tell its format.
            let read = || -> Result<(), SourceError> {
                let mut reader = open_one(&path, &[])?;
                while reader.read(0, 10_000, None)?.is_some() {}
                Ok(())
            };
            match read() {
                Err(SourceError::Refused { partition, problem: said }) => {
                    assert_eq!(partition, path.to_str().unwrap());
                    assert!(said.contains("data is damaged (") || said.contains("data is cut short"), "{said}");
                }
                other => panic!("expected a refusal, got {other:?}"),
            }
        }
    }
}

#[test]
fn an_over_long_line_is_alone_in_its_block_and_cut() {
    let folder = folder();
    for (long, end) in [
        (3 << 20, "\n"),
        (3 << 20, "\r\n"),
        (3 << 20, ""),
        (MAX_LINE_BYTES + 1, "\r\n"),
        (MAX_LINE_BYTES + 2, "\n"),
        (MAX_LINE_BYTES + 3, ""),
    ] {
        let after = if end.is_empty() { String::new() } else { event(2) };
        let path = write(&folder, "a", format!("{}\n{}{end}{after}", event(1), "z".repeat(long)));
        for limit in [100, 64 << 10, 2 << 20, 16 << 20] {
            let source = draining(&path);
            let mut decoder = source.decoder();
            let mut reader = source.open(&[]).unwrap();
            let mut out = Decoded::default();
            while let Some(block) = reader.read(0, limit, None).unwrap() {
                assert!(block.bytes.len() <= MAX_LINE_BYTES + 2);
                let mut decoded = Decoded::default();
                decoder.decode(block, &mut decoded);
                out.records.append(&mut decoded.records);
                out.malformed.append(&mut decoded.malformed);
            }
            assert_eq!((out.records.len(), out.malformed.len()), (1 + usize::from(!after.is_empty()), 1));
            let letter = &out.malformed[0];
            assert_eq!((letter.line, letter.bytes), (2, long as u64), "{long} {end:?} {limit}");
            assert_eq!((letter.reason.as_str(), letter.payload.len()), ("line is longer than 1 MiB", MAX_LINE_BYTES));
            let position = reader.position(0);
            assert_eq!(position.offset, fs::metadata(&path).unwrap().len());
            assert_eq!(position.lines, 2 + u64::from(!after.is_empty()));
            let mut resumed = open_one(&path, &bindings(&*reader)).unwrap();
            assert_eq!(resumed.read(0, limit, None).unwrap(), None);
        }
    }
}

#[test]
fn a_recorded_cut_within_an_over_long_line_is_its_end() {
    let folder = folder();
    let path = write(&folder, "a", "z".repeat(3 << 20));
    let mut reader = drained(&path, &[]).unwrap();
    let first = reader.read(0, 100, None).unwrap().unwrap();
    append(&path, "z\n");
    let mut replay = open_one(&path, &[]).unwrap();
    assert_eq!(replay.read(0, 100, Some(3 << 20)).unwrap(), Some(first));
    assert_eq!(replay.position(0).digest, reader.position(0).digest);
    assert_eq!(replay.read(0, 100, None).unwrap().unwrap().bytes, b"z\n");
}

#[test]
fn a_file_shorter_than_a_recorded_cut_is_refused() {
    let folder = folder();
    let path = write(&folder, "a", MIXED);
    let mut reader = open_one(&path, &[]).unwrap();
    reader.read(0, 1_000, Some(1_000)).unwrap();
    let error = reader.read(0, 1_000, Some(1_000)).unwrap_err();
    assert!(error.to_string().contains("it ends at"), "{error}");
}

#[test]
fn the_head_is_the_smallest_time_of_the_first_events_and_moves_nothing() {
    let folder = folder();
    let mut lines: Vec<_> = (0..600).rev().map(event).collect();
    lines.insert(0, "malformed".into());
    let path = write(&folder, "a", lines.join("\n"));
    let mut reader = open_one(&path, &[]).unwrap();
    assert_eq!(reader.head(0).unwrap(), Some(EventTime(1_000 + 599 - 255)));
    let before = reader.position(0);
    let mut plain = open_one(&path, &[]).unwrap();
    assert_eq!(before, plain.position(0));
    assert_eq!(reader.read(0, 35_000, None).unwrap(), plain.read(0, 35_000, None).unwrap());
    assert_eq!(reader.head(0).unwrap(), Some(EventTime(1_000)), "fewer than 256 are left");
    read_all(&mut *reader, 0, 10_000);
    assert_eq!(reader.head(0).unwrap(), None);
}

#[test]
fn hundreds_of_files_are_read_in_turns() {
    let folder = folder();
    let paths: Vec<_> = (0..150_u32)
        .map(|number| {
            let content = events(number * 10..number * 10 + 10);
            let content = if number % 3 == 0 { gzip(content.as_bytes()) } else { content.into_bytes() };
            write(&folder, &format!("{number}"), content)
        })
        .collect();
    let mut reader = open(&paths, &[]).unwrap();
    let mut contents = vec![Vec::new(); paths.len()];
    for round in 0..11 {
        for number in 0..150_u32 {
            let head = reader.head(number).unwrap();
            assert_eq!(head, (round < 10).then(|| EventTime(i64::from(1_000 + number * 10 + round))));
            let block = reader.read(number, 1, None).unwrap();
            contents[number as usize].extend(block.map(|block| block.bytes).unwrap_or_default());
        }
    }
    for (number, content) in (0..).zip(contents) {
        assert_eq!(content, events(number * 10..number * 10 + 10).as_bytes());
    }
}

#[test]
fn each_file_is_decoded_as_what_it_holds() {
    let folder = folder();
    let log = "203.0.113.9 - - [17/May/2015:10:05:03 +0000] \"GET /a HTTP/1.0\" 200 1\n";
    let paths = [
        write(&folder, "log.gz", gzip(log.repeat(3).as_bytes())),
        write(&folder, "events", format!("\n {}", events(0..3))),
        write(&folder, "blank", " \n\n"),
    ];
    let source = source(&paths);
    let mut decoder = source.decoder();
    let mut reader = source.open(&[]).unwrap();
    append(&paths[2], log);
    let mut kinds = Vec::new();
    for number in 0..3 {
        let mut out = Decoded::default();
        decoder.decode(reader.read(number, 10_000, None).unwrap().unwrap(), &mut out);
        assert_eq!(out.malformed, []);
        kinds.extend(out.records.iter().map(|event| event.event_type().to_owned()));
    }
    assert_eq!(kinds.join(" "), "page_view page_view page_view click click click page_view");

    let recorded = bindings(&*reader);
    let other =
        FilesConfig { paths: paths.to_vec(), user_key: HashKey::from_secret("s").into(), ..FilesConfig::default() };
    let message = changed(FileSource::new(other).open(&recorded));
    assert!(message.contains("TIDEMILL_HASH_KEY: none was set when"), "{message}");
}

#[test]
fn a_key_is_asked_for_once_and_only_where_a_web_server_log_is_read() {
    let asked = Arc::new(AtomicU32::new(0));
    let config = |paths: &[PathBuf], answer: Result<HashKey, String>| {
        let asked = Arc::clone(&asked);
        let user_key = UserKey::when_needed(move || {
            asked.fetch_add(1, Ordering::Relaxed);
            answer.clone()
        });
        FilesConfig { paths: paths.to_vec(), user_key, ..FilesConfig::default() }
    };
    let folder = folder();
    let log = "203.0.113.9 - - [17/May/2015:10:05:03 +0000] \"GET /a HTTP/1.0\" 200 1\n";
    let own = HashKey::from_secret("s");
    let (events, late) = (write(&folder, "events", events(0..3)), write(&folder, "late", "no record yet\n"));

    let refused = || Err("there is no key".to_owned());
    let source = FileSource::new(config(&[events.clone(), late.clone()], refused()));
    let mut reader = source.open(&[]).unwrap();
    assert!(reader.read(0, 10_000, None).unwrap().is_some());
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    // A file whose first record comes later asks where that is read, and is not read without a key.
    append(&late, log);
    let error = (0..3).find_map(|_| reader.read(1, 10_000, None).err()).expect("a log needs a key");
    assert_eq!(error.to_string(), format!("{}: there is no key", late.display()));
    assert!(FileSource::new(config(&[write(&folder, "log", log)], refused())).open(&[]).is_err());

    asked.store(0, Ordering::Relaxed);
    let logs = [write(&folder, "one", log), write(&folder, "two", log.replace("/a", "/b"))];
    let keyed = FileSource::new(config(&logs, Ok(own)));
    let mut users = BTreeSet::new();
    for _ in 0..2 {
        let (mut opened, mut decoder) = (keyed.open(&[]).unwrap(), keyed.decoder());
        for number in 0..2 {
            let mut out = Decoded::default();
            decoder.decode(opened.read(number, 10_000, None).unwrap().unwrap(), &mut out);
            users.extend(out.records.iter().map(|event| event.user().text.to_owned()));
        }
    }
    assert_eq!((asked.load(Ordering::Relaxed), users.len()), (1, 1));
}

#[test]
fn a_file_replaced_while_it_is_read_is_noticed_when_it_is_opened_again() {
    let folder = folder();
    let paths: Vec<_> =
        (0..70).map(|number| write(&folder, &format!("{number}"), events(number..number + 10))).collect();
    let mut reader = open(&paths, &[]).unwrap();
    for number in 0..70 {
        reader.read(number, 100, None).unwrap();
    }
    let kept = folder.path().join("kept");
    fs::rename(&paths[0], kept).unwrap();
    File::create(&paths[0]).unwrap().write_all(events(0..10).as_bytes()).unwrap();
    let error = reader.read(0, 100, None).unwrap_err();
    assert!(error.to_string().contains("was replaced"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn recorded_cuts_give_the_same_blocks_again(
        lines in prop::collection::vec("[a-z\r]{0,30}\n", 0..60),
        last in "[a-z]{0,10}",
        limits in prop::collection::vec(1_usize..120, 1..30),
        stop in 0_usize..30,
        heads in any::<bool>(),
        packed in any::<bool>(),
        drain in any::<bool>(),
    ) {
        let content = lines.concat() + &last;
        let folder = folder();
        let path = write(&folder, "a", if packed { gzip(content.as_bytes()) } else { content.clone().into_bytes() });
        let mut reader = if drain { drained(&path, &[]) } else { open_one(&path, &[]) }.unwrap();
        let (mut cuts, mut blocks, mut recorded) = (Vec::new(), Vec::new(), bindings(&*reader));
        for (step, limit) in limits.iter().cycle().enumerate() {
            if step == stop {
                recorded = bindings(&*reader);
                blocks.clear();
                cuts.clear();
            }
            let Some(block) = reader.read(0, *limit, None).unwrap() else { break };
            blocks.push(block);
            cuts.push((*limit, reader.position(0)));
        }
        let mut replay = open_one(&path, &recorded).unwrap();
        for ((limit, position), block) in cuts.iter().zip(&blocks) {
            if heads {
                replay.head(0).unwrap();
            }
            let again = replay.read(0, *limit, Some(position.offset)).unwrap();
            prop_assert_eq!(again.as_ref(), Some(block));
            prop_assert_eq!(&replay.position(0).digest, &position.digest);
            prop_assert_eq!(replay.position(0).lines, position.lines);
        }
        prop_assert_eq!(replay.read(0, 50, None).unwrap(), None);
    }
}
