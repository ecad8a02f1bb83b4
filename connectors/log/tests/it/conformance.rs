//! The contracts of sources and sinks, on the log.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use serde_json::Value;
use tidemill_connectors::conformance::{sink, source};
use tidemill_connectors::events::Event;
use tidemill_dataflow::sink::TableWriter;
use tidemill_embedded_log::{LogOptions, LogPlace, LogReader, LogTable};

use crate::log::{Log, event};

fn shown(event: &Event) -> String {
    event.event_id().to_owned()
}

fn loaded() -> Log {
    let log = Log::new();
    log.load("events.a", 2, 0..600);
    log.load("events.b", 1, 600..640);
    log.append("events.c", 0, &[b"{}", b"", event(700).as_bytes(), b"\xff"]);
    log
}

#[test]
fn a_source_replays_from_any_bound_offset() {
    let log = loaded();
    source::replays_from_any_bound_offset(|| log.until_end("events.*"), shown).unwrap();
}

#[test]
fn blocks_of_a_source_depend_on_content_and_limits_alone() {
    let log = loaded();
    source::blocks_depend_on_content_and_limits_alone(|| log.until_end("events.*"), shown).unwrap();
}

#[test]
fn a_source_goes_on_after_a_restart() {
    let log = loaded();
    let append = || {
        log.load("events.a", 2, 1_000..1_100);
        log.load("events.z", 2, 1_100..1_200);
    };
    source::goes_on_after_a_restart(|| log.until_end("events.*"), shown, append).unwrap();
}

#[test]
fn a_source_refuses_changed_content() {
    let log = loaded();
    let anew = || {
        fs::remove_dir_all(log.root().join("events.b")).unwrap();
        log.load("events.b", 1, 600..640);
    };
    source::refuses_changed_content(|| log.until_end("events.*"), anew).unwrap();
    let deleted = || fs::remove_dir_all(log.root().join("events.c")).unwrap();
    source::refuses_changed_content(|| log.until_end("events.*"), deleted).unwrap();
    let shortened = || {
        let old = Log::new();
        old.load("events.a", 2, 0..300);
        let id = fs::read(log.root().join("events.a/topic.json")).unwrap();
        fs::remove_dir_all(log.root().join("events.a")).unwrap();
        fs::rename(old.root().join("events.a"), log.root().join("events.a")).unwrap();
        fs::write(log.root().join("events.a/topic.json"), id).unwrap();
    };
    source::refuses_changed_content(|| log.until_end("events.*"), shortened).unwrap();
}

#[test]
fn a_source_never_waits_in_read() {
    let log = loaded();
    source::never_waits_in_read(log.live("events.*")).unwrap();
    source::never_waits_in_read(log.until_end("events.*")).unwrap();
}

/// The rows that a reader of the topic sees, added up by key.
fn read(root: &Path, topic: &str, partitions: u32) -> sink::ReadBack {
    let mut cells = BTreeMap::<(String, i64, String), (i64, i64)>::new();
    for partition in 0..partitions {
        let mut reader = LogReader::open(root, topic, partition).map_err(|error| error.to_string())?;
        while let Some((_, record)) = reader.next().map_err(|error| error.to_string())? {
            let row: Value = serde_json::from_slice(record.value).map_err(|error| error.to_string())?;
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            let number = |name: &str| row[name].as_i64().unwrap();
            let minute = string_to_timestamp_nanos(&text("window_start")).unwrap() / 1_000_000;
            let cell = cells.entry((text("tenant"), minute, text("currency"))).or_default();
            *cell = (cell.0 + number("orders"), cell.1 + number("amount_cents"));
        }
    }
    let row = |((tenant, minute, currency), (orders, cents))| (tenant, minute, currency, orders, cents);
    Ok(cells.into_iter().map(row).collect())
}

fn check(function: impl Fn(&sink::Sink<'_>) -> Result<(), String>) {
    for (partitions, segment_bytes) in [(1, 64 << 20), (3, 10_000)] {
        let folder = tempfile::tempdir().unwrap();
        let place = LogPlace { partitions, ..LogPlace::at(folder.path()) };
        let options = LogOptions { segment_bytes, ..LogOptions::default() };
        let spec = sink::table();
        let topic = spec.name.clone();
        let writer = || Box::new(LogTable::new(place.clone(), options, spec.clone())) as Box<dyn TableWriter>;
        let tested = sink::Sink {
            instance: "a pipeline".into(),
            writer: &writer,
            read: &|_| read(folder.path(), &topic, partitions),
        };
        function(&tested).unwrap();
    }
}

#[test]
fn rows_of_a_table_come_back_as_written() {
    check(sink::rows_come_back_as_written);
}

#[test]
fn a_repeated_write_of_a_table_has_the_effect_of_one() {
    check(sink::a_repeated_write_has_the_effect_of_one);
}

#[test]
fn a_write_of_a_table_that_stopped_halfway_is_completed() {
    check(sink::a_write_that_stopped_halfway_is_completed);
}

#[test]
fn a_restart_of_a_table_goes_on_behind_what_was_committed() {
    check(sink::a_restart_goes_on_behind_what_was_committed);
}

#[test]
fn a_fenced_writer_of_a_table_changes_nothing() {
    check(sink::a_fenced_writer_changes_nothing);
}
