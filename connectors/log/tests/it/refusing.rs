//! What cannot be read as it was is refused, with the partition and the offsets.

use std::fs;

use tidemill_dataflow::source::{PartitionBinding, Source, SourceError};
use tidemill_embedded_log::LogSource;

use crate::log::*;

fn refusal(source: &LogSource, recorded: &[PartitionBinding]) -> String {
    match source.open(recorded) {
        Ok(_) => panic!("it was opened"),
        Err(error @ (SourceError::Changed { .. } | SourceError::Missing { .. } | SourceError::Usage(_))) => {
            error.to_string()
        }
        Err(error) => panic!("{error}"),
    }
}

/// A topic of one record a segment.
fn loaded() -> Log {
    let log = Log::new();
    let events: Vec<String> = (0..100).map(event).collect();
    log.append("t", 0, &events.iter().map(String::as_bytes).collect::<Vec<_>>());
    log
}

fn read_some(source: &LogSource, count: usize) -> Vec<PartitionBinding> {
    let mut reading = opened(source, &[]);
    reading.until(0, (1, None), |_, read| read.ids.len() == count).unwrap();
    reading.bindings()
}

#[test]
fn an_offset_that_retention_took_is_named_with_those_that_are_there() {
    let log = loaded();
    let source = log.live("t");
    let recorded = read_some(&source, 10);
    log.writer("t", 1).retain(0, &|_| 40).unwrap();
    let error = refusal(&source, &recorded);
    assert!(error.contains("t/0: offset 10 is wanted and offsets 40 to 100 are available"), "{error}");
    assert!(error.contains("retention"), "{error}");
    assert!(error.ends_with("give --accept-loss t/0:10-39"), "{error}");
}

#[test]
fn an_offset_that_retention_takes_while_it_is_read_stops_the_run() {
    let log = loaded();
    let mut reading = opened(&log.live("t"), &[]);
    reading.until(0, (1, None), |_, read| read.ids.len() == 10).unwrap();
    log.writer("t", 1).retain(0, &|_| 40).unwrap();
    let error = reading.until(0, (1, None), |_, read| read.ids.len() == 90).unwrap_err();
    assert!(matches!(&error, SourceError::Missing { loss, .. } if loss.partition == "t/0"), "{error}");
    assert!(error.to_string().contains("offsets 40 to 100 are available"), "{error}");
}

#[test]
fn a_log_that_was_set_back_is_refused() {
    let log = loaded();
    let source = log.live("t");
    let recorded = read_some(&source, 60);
    let old = Log::new();
    let events: Vec<String> = (0..50).map(event).collect();
    old.append("t", 0, &events.iter().map(String::as_bytes).collect::<Vec<_>>());
    let id = fs::read(log.root().join("t/topic.json")).unwrap();
    fs::remove_dir_all(log.root().join("t")).unwrap();
    fs::rename(old.root().join("t"), log.root().join("t")).unwrap();
    fs::write(log.root().join("t/topic.json"), id).unwrap();
    let error = refusal(&source, &recorded);
    assert!(error.contains("offset 60 is wanted and offsets 0 to 50 are available"), "{error}");
    assert!(error.contains("set back"), "{error}");
}

#[test]
fn topics_that_are_gone_made_anew_or_not_meant_any_more_are_refused() {
    let log = loaded();
    let recorded = read_some(&log.live("t"), 10);
    let error = refusal(&log.live("other*"), &recorded);
    assert!(error.contains("topics= does not mean it any more"), "{error}");
    fs::remove_dir_all(log.root().join("t")).unwrap();
    assert!(refusal(&log.live("t"), &recorded).contains("it was read before and is gone"));
    log.load("t", 1, 0..100);
    assert!(refusal(&log.live("t"), &recorded).contains("made anew"));
}

#[test]
fn an_end_of_topics_that_are_not_there_is_refused_with_the_folder() {
    let log = Log::new();
    let error = refusal(&log.until_end("events.click"), &[]);
    assert!(error.contains("topic `events.click` is not in the log"), "{error}");
    let none = refusal(&log.until_end("events.*"), &[]);
    assert!(none.contains("no topic in the log") && none.contains("events.*"), "{none}");
}

#[test]
fn positions_of_another_source_are_refused() {
    let log = loaded();
    let mut recorded = read_some(&log.live("t"), 10);
    recorded[0].digest = "no digest of ours".into();
    assert!(refusal(&log.live("t"), &recorded).contains("digest"));
    recorded[0].name = "a file.ndjson".into();
    assert!(refusal(&log.live("t"), &recorded).contains("no partition of a topic"));
}

#[test]
fn damage_is_an_error_with_the_file_while_it_is_read() {
    let log = loaded();
    let path = log.root().join("t/0/00000000000000000005.log");
    let mut content = fs::read(&path).unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::write(&path, content).unwrap();
    let mut reading = opened(&log.until_end("t"), &[]);
    let error = reading.until(0, (1 << 20, None), |_, _| false).unwrap_err().to_string();
    assert!(error.contains("00000000000000000005.log is damaged at byte 0"), "{error}");
}

#[test]
fn a_topic_that_is_deleted_while_it_is_read_stops_the_run() {
    let log = loaded();
    let mut reading = opened(&log.live("t"), &[]);
    reading.until(0, (1, None), |_, read| read.ids.len() == 10).unwrap();
    fs::remove_dir_all(log.root().join("t")).unwrap();
    let error = (0..10_000).find_map(|_| {
        reading.reader.wait(std::time::Duration::from_millis(5)).unwrap();
        reading.reader.discover().err()
    });
    let error = error.unwrap();
    assert!(matches!(&error, SourceError::Changed { partition, .. } if partition == "t/0"), "{error}");
}
