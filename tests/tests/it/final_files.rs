//! The Parquet folder as others read it: final files alone, and no word of the log. Every row is in exactly one of them once
//! a run has ended, however it did, and a minute after its commit while it goes on.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use arrow::array::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::files_under;
use tidemill_tests::live::EventLog;
use tidemill_tests::services::wait_until;

use crate::{counter, stop, tidemill};

/// How often each event is in the files `dt=*/hour=*/*.parquet` of `raw_events`.
fn seen(out: &Path) -> BTreeMap<String, u64> {
    let folder = out.join("tables/raw_events");
    let is_final = |path: &PathBuf| {
        let text = path.to_string_lossy();
        text.contains("dt=") && text.contains("/hour=") && text.ends_with(".parquet")
    };
    let mut seen = BTreeMap::new();
    for path in files_under(&folder).into_iter().filter(is_final) {
        let file = File::open(folder.join(path)).unwrap();
        let rows = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        for batch in rows.map(Result::unwrap) {
            let column = batch.column_by_name("event_id").unwrap();
            let ids = arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8).unwrap();
            for id in ids.as_string::<i32>().iter().flatten() {
                *seen.entry(id.to_owned()).or_default() += 1;
            }
        }
    }
    seen
}

#[track_caller]
fn assert_each_once(out: &Path, events: u64) {
    let seen = seen(out);
    let doubled: Vec<_> = seen.iter().filter(|(_, times)| **times > 1).take(3).collect();
    assert_eq!((seen.len() as u64, doubled), (events, vec![]));
}

#[test]
fn a_run_that_has_finished_leaves_every_row_in_a_final_file() {
    let folder = TempDir::new().unwrap();
    let file = corpus::file(folder.path(), "events.ndjson", &corpus::events(30_000, 5, Rates::clean()));
    let out = folder.path().join("out");
    let run = tidemill().job(std::slice::from_ref(&file), &out).option(&["--drain"]);
    let line = run.finish();
    let accepted = counter(&line, "accepted");
    assert!(accepted > 20_000, "{line}");
    assert_each_once(&out, accepted);
    // A finished folder stays as it is.
    run.finish();
    assert_each_once(&out, accepted);
}

#[test]
fn whatever_kills_a_run_while_it_makes_files_final_no_row_is_in_two_of_them() {
    let folder = TempDir::new().unwrap();
    let file = corpus::file(folder.path(), "events.ndjson", &corpus::events(30_000, 6, Rates::clean()));
    for kill_after in [0, 100, 250, 400, 600, 800] {
        let out = folder.path().join(format!("out-{kill_after}"));
        // Some hundred epochs: files become final all the time, and the last ones at the end.
        let run = tidemill().job(std::slice::from_ref(&file), &out).option(&["--epoch-bytes", "65536"]);
        for more in 0..3 {
            drop(run.start().kill_after(Duration::from_millis(kill_after + 60 * more)));
        }
        let line = run.finish();
        assert_each_once(&out, counter(&line, "accepted"));
    }
}

#[test]
fn a_live_run_makes_files_final_within_a_minute_and_when_it_is_stopped() {
    let folder = TempDir::new().unwrap();
    let log = EventLog::new(folder.path().join("log"));
    let (to, out) = (log.address(), folder.path().join("out"));
    let generate = |seed: &str| {
        let made = ["generate", "--to", &to, "--events", "2000", "--seed", seed, "--within-horizon"];
        assert_eq!(tidemill().command(&made).code, Some(0));
    };
    let accepted = || {
        let answer = tidemill().try_query(&out, "SELECT count(*) AS n FROM raw_events").unwrap_or_default();
        serde_json::from_slice::<serde_json::Value>(&answer).map_or(0, |row| row["n"].as_u64().unwrap_or(0))
    };
    generate("1");
    let mut run = tidemill().start(&["run", "web_analytics", "--from", &to, "--out", out.to_str().unwrap(), "--json"]);
    wait_until("the events are committed", || {
        run.assert_alive("it reads a log that never ends");
        accepted() > 1_900
    });
    let first = accepted();
    wait_until("they are in final files", || seen(&out).len() as u64 == first);
    assert_each_once(&out, first);
    generate("2");
    wait_until("more are committed", || accepted() > first);
    stop(run);
    assert_each_once(&out, accepted());
}
