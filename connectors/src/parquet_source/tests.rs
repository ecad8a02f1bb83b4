//! Events become rows, rows become files, and all of it is read back.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, TimestampMillisecondArray};
use proptest::prelude::*;
use tempfile::TempDir;
use tidemill_dataflow::source::{Block, BlockReader, Decode, Decoded, PartitionBinding, Source, SourceError};
use tidemill_dataflow::time::EventTime;
use tidemill_log::testing::seal;
use tidemill_log::{
    Binding, Commit, DataFile, DurableLocal, Entry, Faults, Location, Log, LogOptions, PartitionStatus, Store,
    TableChange,
};
use tidemill_tables::{TableSpec, calendar::HOUR_MS, web_analytics};

use super::ParquetSource;
use crate::events::{Bounds, Event, NdjsonDecoder};
use crate::lake::{LakeTable, RowOrder, plan_rolls, roll};

/// 2015-05-17T10:00:00Z.
const TEN: i64 = 1_431_856_800_000;

fn decode(text: &str) -> Vec<Event> {
    let mut out = Decoded::default();
    let block = Block { partition: 0, offset: 0, first_line: 1, bytes: text.as_bytes().to_vec(), skipped: 0 };
    NdjsonDecoder::within(Bounds::of_archive()).decode(block, &mut out);
    assert_eq!(out.malformed, [], "{text}");
    out.records
}

/// The events as rows of the archive, column by column of its schema.
fn rows(events: &[Event]) -> RecordBatch {
    let spec = web_analytics::raw_events();
    let text = |of: &dyn Fn(&Event) -> Option<String>| -> ArrayRef {
        Arc::new(events.iter().map(of).collect::<StringArray>())
    };
    let owned = |found: Option<&str>| found.map(str::to_owned);
    let columns = spec.columns.iter().map(|column| match column.name.as_str() {
        "tenant" => text(&|e| Some(e.tenant().text.to_owned())),
        "event_id" => text(&|e| Some(e.event_id().to_owned())),
        "event_type" => text(&|e| Some(e.event_type().to_owned())),
        "user_id" => text(&|e| Some(e.user().text.to_owned())),
        "session_id" => text(&|e| owned(e.session_id())),
        "timestamp" => {
            let times = TimestampMillisecondArray::from_iter_values(events.iter().map(|e| e.timestamp().0));
            Arc::new(times.with_timezone("UTC"))
        }
        "server_time" => {
            let times =
                events.iter().map(|e| e.server_time().map(|time| time.0)).collect::<TimestampMillisecondArray>();
            Arc::new(times.with_timezone("UTC"))
        }
        "app_version" => text(&|e| owned(e.app_version())),
        "os" => text(&|e| owned(e.os())),
        "screen_resolution" => text(&|e| owned(e.screen_resolution())),
        "locale" => text(&|e| owned(e.locale())),
        "country" => text(&|e| owned(e.country())),
        "city" => text(&|e| owned(e.city())),
        "page" => text(&|e| e.page().map(|page| page.text.to_owned())),
        "properties" => text(&|e| owned(e.properties())),
        "extra" => text(&Event::extra),
        other => panic!("a column {other} that an event does not fill"),
    });
    RecordBatch::try_new(spec.stored_schema(), columns.collect()).unwrap()
}

/// A lake in a folder, with a log that names its files.
struct Archive {
    folder: TempDir,
    store: Arc<dyn Store>,
    spec: TableSpec,
    log: Log,
}

impl Archive {
    fn new() -> Archive {
        let folder = TempDir::new().unwrap();
        let store: Arc<dyn Store> = Arc::new(DurableLocal::open(folder.path(), Faults::None).unwrap());
        let mut log = Log::start(Arc::clone(&store), LogOptions::default()).unwrap().log;
        log.append(Entry::Seal(seal(log.run()))).unwrap();
        Archive { folder, store, spec: web_analytics::raw_events(), log }
    }

    /// Commits one epoch with these events.
    fn add(&mut self, events: &[Event]) {
        let epoch = self.log.state().committed().unwrap_or(0) + 1;
        let binding = Binding { epoch, watermark: None, partitions: Vec::new(), last: false, checkpoint: false };
        self.log.append(Entry::Bind(binding)).unwrap();
        let table = LakeTable::new(self.spec.clone(), Arc::clone(&self.store));
        let added = table.write_epoch(epoch, 0, vec![rows(events)], RowOrder::AsGiven).unwrap();
        self.commit(epoch, TableChange { table: self.spec.name.clone(), added, removed: Vec::new() });
    }

    /// Rolls every whole range of two epochs, and deletes what was rolled.
    fn roll(&mut self) {
        let committed = self.log.state().committed().unwrap();
        let visible: Vec<DataFile> = self.log.state().tables()[&self.spec.name]
            .iter()
            .map(|(path, file)| DataFile { path: path.clone(), rows: file.rows, bytes: file.bytes })
            .collect();
        for due in plan_rolls(&visible, committed, 2, &[]) {
            let change = roll(&self.spec, &*self.store, &due).unwrap();
            let removed = change.removed.clone();
            self.commit(committed, change);
            self.log.collect(&removed).unwrap();
        }
    }

    fn commit(&mut self, epoch: u64, change: TableChange) {
        self.log.append(Entry::Commit(Commit { epoch, tables: vec![change], ..Commit::default() })).unwrap();
    }

    fn source(&self, since: Option<i64>, until: Option<i64>) -> ParquetSource {
        let location = Location::from(self.folder.path());
        let (since, until) = (since.map(EventTime), until.map(EventTime));
        ParquetSource { location, table: self.spec.name.clone(), since, until }
    }
}

fn event(id: u32, time: i64) -> Event {
    let line = format!(r#"{{"event_id":"e{id}","event_type":"click","user_id":"u","timestamp":{time}}}"#);
    decode(&line).remove(0)
}

/// Epochs with events of three hours, all but the last epoch rolled.
fn filled() -> Archive {
    let mut archive = Archive::new();
    for epoch in 0..4_u32 {
        let at = |id: u32| TEN + i64::from(id % 3) * HOUR_MS + i64::from(id);
        let events: Vec<Event> = (epoch * 10..epoch * 10 + 10).map(|id| event(id, at(id))).collect();
        archive.add(&events);
    }
    archive.roll();
    archive
}

/// All blocks of all partitions, partition by partition.
fn blocks(reader: &mut dyn BlockReader, limit: usize) -> Result<Vec<Block>, SourceError> {
    let mut blocks = Vec::new();
    for partition in 0..u32::try_from(reader.partitions().len()).unwrap() {
        while let Some(block) = reader.read(partition, limit, None)? {
            blocks.push(block);
        }
        assert!(reader.position(partition).finished, "nothing more is there at the end only");
    }
    Ok(blocks)
}

fn times_of(blocks: &[Block]) -> Vec<i64> {
    let lines = blocks.iter().flat_map(|block| decode(std::str::from_utf8(&block.bytes).unwrap()));
    let mut times: Vec<i64> = lines.map(|event| event.timestamp().0).collect();
    times.sort_unstable();
    times
}

fn all_times() -> Vec<i64> {
    let mut times: Vec<i64> = (0..40).map(|id| TEN + i64::from(id % 3) * HOUR_MS + i64::from(id)).collect();
    times.sort_unstable();
    times
}

#[test]
fn every_visible_row_is_read_once_whatever_the_limit() {
    let archive = filled();
    let source = archive.source(None, None);
    for limit in [1, 200, 1 << 20] {
        let mut reader = source.open(&[]).unwrap();
        let names: Vec<String> = reader.partitions().into_iter().map(|partition| partition.name).collect();
        let hours = ["raw_events/dt=2015-05-17/hour=10", "raw_events/dt=2015-05-17/hour=11"];
        assert_eq!(names[..2], hours);
        assert_eq!(names[2..], ["raw_events/dt=2015-05-17/hour=12", "raw_events/_recent"]);
        assert_eq!(times_of(&blocks(&mut *reader, limit).unwrap()), all_times());
        assert_eq!((0..4).map(|partition| reader.position(partition).lines).sum::<u64>(), 40);
    }
}

#[test]
fn a_row_out_of_the_span_is_left_out_and_its_file_is_not_read() {
    let archive = filled();
    let (since, until) = (TEN + HOUR_MS + 4, TEN + 2 * HOUR_MS + 30);
    let mut reader = archive.source(Some(since), Some(until)).open(&[]).unwrap();
    for path in archive.store.list("tables/raw_events/dt=2015-05-17/hour=10").unwrap() {
        archive.store.delete(&path).unwrap();
    }
    let expected: Vec<i64> = all_times().into_iter().filter(|time| (since..until).contains(time)).collect();
    assert_eq!(times_of(&blocks(&mut *reader, 300).unwrap()), expected);
    let mut none = archive.source(Some(TEN + 9 * HOUR_MS), None).open(&[]).unwrap();
    assert!(blocks(&mut *none, 300).unwrap().is_empty());
}

/// What the engine records of a partition that stands at this block's end.
fn binding(reader: &dyn BlockReader, partition: u32) -> PartitionBinding {
    let (info, position) = (reader.partitions().remove(partition as usize), reader.position(partition));
    PartitionBinding {
        partition,
        name: info.name,
        end: position.offset,
        lines: position.lines,
        digest: position.digest,
        watermark: None,
        status: PartitionStatus::Active,
        detail: info.detail,
    }
}

#[test]
fn a_file_whose_decoder_panics_is_refused_by_name() {
    let archive = filled();
    let path = archive.store.list("tables/raw_events/_recent").unwrap().remove(0);
    // In a row group a dictionary of no values, which `parquet` divides by.
    let damaged = include_bytes!("../../../tests/fuzz/corpus/tables/dictionary-of-no-values");
    archive.store.put(&path, &damaged[1..]).unwrap();
    let source = archive.source(None, None);
    let mut recent = binding(&*source.open(&[]).unwrap(), 3);
    recent.partition = 0;
    recent.detail["files"] = serde_json::json!([{ "path": path, "rows": 1, "bytes": damaged.len() - 1 }]);
    let refused = source.open(&[recent]).and_then(|mut reader| blocks(&mut *reader, 300)).expect_err("it is refused");
    let refused = refused.to_string();
    assert!(refused.contains(&path) && refused.contains("it is damaged"), "{refused}");
}

#[test]
fn a_restart_that_had_read_more_than_there_is_is_refused() {
    let archive = filled();
    let source = archive.source(None, None);
    let first = source.open(&[]).unwrap();
    let recorded = PartitionBinding { end: 1_000, lines: 1_000, ..binding(&*first, 0) };
    for (end, lines) in [(1_000, 1_000), (0, 1), (u64::MAX, u64::MAX)] {
        let opened = source.open(&[PartitionBinding { end, lines, ..recorded.clone() }]).map(drop);
        let error = opened.expect_err("it is refused").to_string();
        assert!(error.contains("were read before"), "{error}");
    }
    let mut endless = recorded;
    endless.detail["files"][0]["rows"] = u64::MAX.into();
    let error = source.open(&[endless]).map(drop).expect_err("it is refused").to_string();
    assert!(error.contains("more rows than can be counted"), "{error}");
}

#[test]
fn a_restart_at_any_place_reads_the_same_blocks_of_the_same_files() {
    let mut archive = filled();
    let source = archive.source(None, Some(TEN + 2 * HOUR_MS + 20));
    let mut first = source.open(&[]).unwrap();
    let mut stops: Vec<Vec<PartitionBinding>> = Vec::new();
    let mut read = Vec::new();
    let partitions = u32::try_from(first.partitions().len()).unwrap();
    for partition in 0..partitions {
        loop {
            stops.push((0..partitions).map(|one| binding(&*first, one)).collect());
            let Some(block) = first.read(partition, 250, None).unwrap() else { break };
            read.push(block);
        }
    }
    // What was committed since is no part of this replay.
    archive.add(&[event(99, TEN)]);
    let whole = times_of(&read);
    for stop in &stops {
        let mut again = source.open(stop).unwrap();
        let after = |block: &&Block| block.offset >= stop[block.partition as usize].end;
        let expected: Vec<&Block> = read.iter().filter(after).collect();
        let found = blocks(&mut *again, 250).unwrap();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected);
        // And up to there from the start, as a recorded cut is replayed.
        let mut replayed = source.open(&stops[0]).unwrap();
        let mut before = Vec::new();
        for recorded in stop {
            while let Some(block) = replayed.read(recorded.partition, 250, Some(recorded.end)).unwrap() {
                before.push(block);
            }
            assert_eq!(replayed.position(recorded.partition).offset, recorded.end);
        }
        before.extend(found);
        assert_eq!(times_of(&before), whole);
    }
}

#[test]
fn a_file_that_went_meanwhile_is_named() {
    let mut archive = filled();
    let source = archive.source(None, None);
    let mut reader = source.open(&[]).unwrap();
    archive.add(&[event(99, TEN)]);
    archive.roll();
    let error = blocks(&mut *reader, 1 << 20).unwrap_err();
    assert!(matches!(&error, SourceError::Changed { partition, .. } if partition == "raw_events/_recent"), "{error}");
    let expected = "tables/raw_events/_recent/000000000004-000-000.parquet was rolled into another file and deleted";
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn a_table_or_an_archive_that_is_not_there_is_named() {
    let archive = filled();
    let other = ParquetSource { table: "raw".into(), ..archive.source(None, None) };
    let error = other.open(&[]).err().unwrap().to_string();
    assert!(error.ends_with("has no rows in a table raw; raw_events"), "{error}");
    let empty = TempDir::new().unwrap();
    let source = ParquetSource { location: Location::from(empty.path()), ..archive.source(None, None) };
    assert!(source.open(&[]).err().unwrap().to_string().contains("there is no pipeline at"));
}

#[test]
fn the_head_of_a_partition_is_no_later_than_its_next_row() {
    let archive = filled();
    let mut reader = archive.source(Some(TEN + 5), None).open(&[]).unwrap();
    for partition in 0..4 {
        let mut head = reader.head(partition).unwrap();
        while let Some(block) = reader.read(partition, 1, None).unwrap() {
            assert!(head.unwrap().0 <= times_of(&[block])[0]);
            head = reader.head(partition).unwrap();
        }
        assert_eq!(head.is_none(), reader.position(partition).finished);
    }
}

/// A member's value: mostly what its column takes.
fn value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        6 => "\"[a-zü/ ]{0,8}\"",
        2 => r#""(\\["\\/bfnrt]|\\u00[0-9a-f]{2}|\\ud83d\\ude00|[a-z]){0,4}""#,
        1 => "-?(0|[1-9][0-9]{0,13})",
        1 => Just("null".to_owned()),
        1 => Just("[1, {\"a\":null}]".to_owned()),
        1 => Just("{\"x\" : 1}".to_owned()),
        1 => Just("\"203.0.113.9\"".to_owned()),
    ];
    scalar.boxed()
}

fn object_of(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let member = (prop::sample::select(names), value()).prop_map(|(name, value)| format!("\"{name}\":{value}"));
    prop::collection::vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(", ")))
}

/// A line of an event, also with odd values and unknown members everywhere.
fn any_line() -> impl Strategy<Value = String> {
    let context = object_of(&["app_version", "os", "screen_resolution", "locale", "device", "\u{fc}"]);
    let geo = object_of(&["country", "city", "zip"]);
    let properties = object_of(&["page", "amount_cents", "currency", "plan"]);
    let member = prop_oneof![
        3 => context.prop_map(|object| format!("\"context\":{object}")),
        3 => geo.prop_map(|object| format!("\"geo\":{object}")),
        3 => properties.prop_map(|object| format!("\"properties\":{object}")),
        1 => (0..2_000_000_000_000_i64).prop_map(|time| format!("\"server_time\":{time}")),
        6 => (prop::sample::select(&["session_id", "tenant", "client_time", "server_time", "ip", "context", "geo",
            "properties", "unknown", "a\\u0062c"][..]), value()).prop_map(|(name, value)| format!("\"{name}\":{value}")),
    ];
    let kind = prop::sample::select(&["page_view", "purchase", "error", "click"][..]);
    (kind, 0..4_102_444_800_000_i64, prop::collection::vec(member, 0..8)).prop_map(|(kind, time, members)| {
        // A page view and a purchase are none without these.
        let needed = match kind {
            "page_view" => r#","properties":{"plan":"x","page":"/a"}"#,
            "purchase" => r#","properties":{"amount_cents":5,"currency":"EUR"}"#,
            _ => "",
        };
        let members: String = members.iter().map(|one| format!(",{one}")).collect();
        format!(r#"{{"event_id":"e","event_type":"{kind}","user_id":"ü","timestamp":{time}{members}{needed}}}"#)
    })
}

/// Everything that an event tells, but the fingerprint, which is of the line's spelling.
fn told(event: &Event) -> impl PartialEq + std::fmt::Debug + use<> {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    (
        (event.tenant().text.to_owned(), event.tenant().hash, event.user().text.to_owned(), event.user().hash),
        (event.id(), event.event_type().to_owned(), event.kind(), event.timestamp(), event.server_time()),
        (event.page().map(|page| (page.text.to_owned(), page.hash)), event.amount_cents()),
        (event.currency().map(|currency| currency.text.to_owned()), owned(event.session_id())),
        [event.app_version(), event.os(), event.screen_resolution(), event.locale(), event.country(), event.city()]
            .map(owned),
        (owned(event.properties()), event.extra()),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_archived_event_reads_back_as_it_was(lines in prop::collection::vec(any_line(), 1..30)) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let events = decode(&text);
        let mut archive = Archive::new();
        archive.add(&events);
        let mut reader = archive.source(None, None).open(&[]).unwrap();
        let read: Vec<Event> = blocks(&mut *reader, 700)
            .unwrap()
            .iter()
            .flat_map(|block| decode(std::str::from_utf8(&block.bytes).unwrap()))
            .collect();
        prop_assert_eq!(read.len(), events.len());
        for (one, other) in read.iter().zip(&events) {
            prop_assert_eq!(told(one), told(other));
        }
    }
}

#[test]
fn a_page_that_stands_in_its_column_alone_is_read_back() {
    for (properties, expected) in [
        (Some(r#"{"path":"/a"}"#), r#"{"path":"/a","page":"/a"}"#),
        (Some("{ }"), r#"{ "page":"/a"}"#),
        (None, r#"{"page":"/a"}"#),
    ] {
        let view =
            r#"{"event_id":"e","event_type":"page_view","user_id":"u","timestamp":5,"properties":{"page":"/a"}}"#;
        let mut batch = rows(&decode(view));
        let mut columns = batch.columns().to_vec();
        let at = batch.schema().index_of("properties").unwrap();
        columns[at] = Arc::new(StringArray::from(vec![properties]));
        batch = RecordBatch::try_new(batch.schema(), columns).unwrap();
        let mut line = String::new();
        super::line::Rows::new(&batch).unwrap().write(0, &mut line).unwrap();
        let event = decode(&line).remove(0);
        assert_eq!((event.page().unwrap().text, event.properties().unwrap()), ("/a", expected));
    }
}
