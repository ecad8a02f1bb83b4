//! An epoch is in a topic once, whoever writes it how often and wherever it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::conformance::sink::revenue;
use tidemill_dataflow::sink::{SinkNotes, SinkStart, TableWriter};
use tidemill_embedded_log::{Fenced, LogOptions, LogPlace, LogReader, LogTable, Record, TopicWriter};
use tidemill_tables::web_analytics;

struct Setting {
    folder: TempDir,
    instance: String,
    /// A later run has begun.
    later: Arc<AtomicBool>,
}

impl Setting {
    fn new() -> Setting {
        Setting { folder: tempfile::tempdir().unwrap(), instance: "p".into(), later: Arc::default() }
    }

    fn start(&self, run: u64, committed: u64, bound: u64) -> SinkStart {
        let later = Arc::clone(&self.later);
        let fence = move || match later.load(Ordering::SeqCst) {
            true => Err("a later run has begun".into()),
            false => Ok(()),
        };
        SinkStart {
            instance: self.instance.clone(),
            run,
            committed,
            bound,
            fence: Arc::new(fence),
            notes: SinkNotes::default(),
        }
    }

    fn table(&self) -> LogTable {
        let place = LogPlace { prefix: "out.".into(), ..LogPlace::at(self.folder.path()) };
        LogTable::new(place, LogOptions::default(), web_analytics::revenue_by_minute())
    }

    fn opened(&self, run: u64, committed: u64, bound: u64) -> LogTable {
        let mut table = self.table();
        table.open(&self.start(run, committed, bound)).unwrap();
        table
    }

    fn topic(&self) -> String {
        self.table().topic().to_owned()
    }

    /// Epoch and orders of each record.
    fn published(&self) -> Vec<(u64, i64)> {
        let mut reader = LogReader::open(self.folder.path(), &self.topic(), 0).unwrap();
        let mut rows = Vec::new();
        while let Some((_, record)) = reader.next().unwrap() {
            let value: Value = serde_json::from_slice(record.value).unwrap();
            rows.push((value["epoch"].as_u64().unwrap(), value["orders"].as_i64().unwrap()));
        }
        rows
    }
}

#[test]
fn an_epoch_written_twice_is_there_once_keyed_by_the_tables_key() {
    let setting = Setting::new();
    let mut table = setting.opened(1, 0, 0);
    table.write_epoch(1, 0, revenue(&[1, 2])).unwrap();
    table.write_epoch(2, 0, revenue(&[])).unwrap();
    table.write_epoch(3, 0, revenue(&[3])).unwrap();
    table.write_epoch(3, 0, revenue(&[3])).unwrap();
    drop(table);
    // Killed before the log said that epoch 3 is there: it is written again by the next run.
    let mut next = setting.opened(2, 2, 3);
    next.write_epoch(3, 0, revenue(&[3])).unwrap();
    next.write_epoch(4, 0, revenue(&[4])).unwrap();
    assert_eq!(setting.published(), [(1, 1), (1, 2), (3, 3), (4, 4)]);
    let mut reader = LogReader::open(setting.folder.path(), &setting.topic(), 0).unwrap();
    let (_, record) = reader.next().unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(record.key), r#"["default","1970-01-01T00:00:00.000Z","EUR"]"#);
}

#[test]
fn rows_that_fold_away_leave_nothing() {
    let setting = Setting::new();
    let mut table = setting.opened(1, 0, 0);
    table.write_epoch(1, 0, [revenue(&[5]), revenue(&[-5])].concat()).unwrap();
    table.write_epoch(2, 0, [revenue(&[5]), revenue(&[2])].concat()).unwrap();
    assert_eq!(setting.published(), [(2, 7)]);
    assert!(table.write_epoch(3, 1, revenue(&[1])).is_err(), "one shard");
}

#[test]
fn a_writer_of_an_earlier_run_is_fenced_and_writes_nothing() {
    let setting = Setting::new();
    let mut old = setting.opened(1, 0, 0);
    old.write_epoch(1, 0, revenue(&[1])).unwrap();
    let mut new = setting.opened(2, 1, 2);
    setting.later.store(true, Ordering::SeqCst);
    let error = old.write_epoch(2, 0, revenue(&[666])).unwrap_err();
    assert!(error.downcast_ref::<Fenced>().is_some() && error.to_string().contains("fenced"), "{error}");
    setting.later.store(false, Ordering::SeqCst);
    new.write_epoch(2, 0, revenue(&[2])).unwrap();
    // Its successor's records fence it even where the fence knows nothing.
    let by_note = old.write_epoch(3, 0, revenue(&[666])).unwrap_err();
    assert!(by_note.downcast_ref::<Fenced>().is_some(), "{by_note}");
    new.write_epoch(3, 0, revenue(&[3])).unwrap();
    assert_eq!(setting.published(), [(1, 1), (2, 2), (3, 3)]);
}

#[test]
fn a_topic_that_holds_more_than_the_log_knows_is_refused() {
    let setting = Setting::new();
    setting.opened(1, 0, 9).write_epoch(9, 0, revenue(&[1])).unwrap();
    let error = setting.table().open(&setting.start(2, 3, 5)).unwrap_err().to_string();
    assert!(error.contains("epochs through 9") && error.contains("log ends at 5"), "{error}");
}

#[test]
fn a_topic_of_another_pipeline_or_of_no_table_is_refused() {
    let mut setting = Setting::new();
    setting.opened(1, 0, 1).write_epoch(1, 0, revenue(&[1])).unwrap();
    setting.instance = "q".into();
    let error = setting.table().open(&setting.start(1, 0, 1)).unwrap_err().to_string();
    assert!(error.contains("another pipeline"), "{error}");
    let foreign = Setting::new();
    let mut writer = TopicWriter::open(foreign.folder.path(), &foreign.topic(), 1, &LogOptions::default()).unwrap();
    writer.append(0, &[Record { key: b"", value: b"{}", time_ms: 0 }]).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let refused = foreign.table().open(&foreign.start(1, 0, 1)).unwrap_err().to_string();
    assert!(refused.contains("not written by a table"), "{refused}");
}

#[test]
fn an_epoch_of_many_chunks_that_was_written_in_part_is_completed() {
    let orders: Vec<i64> = (1..=30_000).collect();
    let expected: Vec<(u64, i64)> = orders.iter().map(|orders| (1, *orders)).collect();
    let whole = Setting::new();
    whole.opened(1, 0, 1).write_epoch(1, 0, revenue(&orders)).unwrap();
    assert_eq!(whole.published(), expected);
    let segment =
        |setting: &Setting| setting.folder.path().join(setting.topic()).join("0").join("00000000000000000000.log");
    let content = std::fs::read(segment(&whole)).unwrap();
    // A crash that left any part of what was written.
    for part in 1..=8 {
        let setting = Setting::new();
        drop(setting.opened(1, 0, 1));
        std::fs::write(segment(&setting), &content[..content.len() * part / 8]).unwrap();
        setting.opened(2, 0, 1).write_epoch(1, 0, revenue(&orders)).unwrap();
        assert_eq!(setting.published(), expected, "{part} eighths");
    }
}

#[test]
fn a_topic_that_is_locked_is_waited_for() {
    let setting = Setting::new();
    let mut table = setting.opened(1, 0, 0);
    table.write_epoch(1, 0, revenue(&[1])).unwrap();
    let holder = TopicWriter::open(setting.folder.path(), &setting.topic(), 1, &LogOptions::default()).unwrap();
    thread::scope(|scope| {
        let writing = scope.spawn(|| table.write_epoch(2, 0, revenue(&[2])));
        drop(holder);
        writing.join().unwrap().unwrap();
    });
    assert_eq!(setting.published(), [(1, 1), (2, 2)]);
}
