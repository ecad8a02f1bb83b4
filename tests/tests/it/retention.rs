//! What grows without end unless somebody says so: the lake of a live run, and the collector's log.

use std::path::Path;

use tempfile::TempDir;
use tidemill_tests::live::EventLog;
use tidemill_tests::services::wait_until;

use crate::processes::until_said;
use crate::{stop, tidemill};

/// One number of a table.
fn number(out: &Path, what: &str, table: &str) -> i64 {
    let answer = tidemill().query(out, &format!("SELECT coalesce({what}, 0) AS n FROM {table}"));
    serde_json::from_slice::<serde_json::Value>(&answer).unwrap()["n"].as_i64().unwrap()
}

#[test]
fn a_live_run_keeps_events_for_as_long_as_it_is_told_and_what_was_counted_of_them_stays() {
    let folder = TempDir::new().unwrap();
    let log = EventLog::new(folder.path().join("log"));
    let (to, out) = (log.address(), folder.path().join("out"));
    let generate = |events: &str, seed: &str| {
        let made = ["generate", "--to", &to, "--events", events, "--seed", seed, "--within-horizon"];
        assert_eq!(tidemill().command(&made).code, Some(0));
    };
    // Some hundred epochs, so that most are rolled.
    let from = ["--from", &to, "--out", out.to_str().unwrap(), "--epoch-bytes", "65536", "--json"];
    let days_later = |days: u32, options: &[&str]| {
        let faults = [("TIDEMILL_FAULTS".to_owned(), format!("days_ahead:{days}"))].into();
        tidemill().with_environment(faults).start(&[&["run", "web_analytics"][..], &from, options].concat())
    };
    generate("60000", "1");
    let first = days_later(0, &["--until-end"]).wait();
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let said = "the lake keeps events for 90 days and tables by minute for 730 days; --raw-days and --rollup-days";
    assert!(first.stderr.contains(said), "{}", first.stderr);
    let (events, views) = (number(&out, "count(*)", "raw_events"), number(&out, "sum(views)", "page_views_by_minute"));
    assert!(events > 50_000, "{events}");

    // The next commits are of a month later, and of four months later.
    generate("2000", "2");
    assert_eq!(days_later(30, &["--until-end"]).wait().code, Some(0));
    let month_later = number(&out, "count(*)", "raw_events");
    assert!(month_later > events, "nothing is 90 days old: {month_later}");
    let mut four_months_later = days_later(120, &[]);
    generate("2000", "3");
    wait_until("events of the first day are gone", || {
        four_months_later.assert_alive("it reads a log that never ends");
        number(&out, "count(*)", "raw_events") < events / 2
    });
    stop(four_months_later);
    assert!(number(&out, "count(*)", "raw_events") > 0, "what came since stays");
    assert!(number(&out, "sum(views)", "page_views_by_minute") > views, "two years have not passed");
}

#[test]
fn a_run_over_files_keeps_everything_unless_it_is_told_otherwise() {
    let folder = TempDir::new().unwrap();
    let (file, out) = (folder.path().join("old.ndjson"), folder.path().join("out"));
    let made = ["generate", "--out", file.to_str().unwrap(), "--events", "20000", "--within-horizon"];
    assert_eq!(tidemill().command(&made).code, Some(0));
    let outcome = tidemill().job(&[file], &out).option(&["--epoch-bytes", "65536"]).outcome();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("the lake keeps"), "{}", outcome.stderr);
    assert_eq!(number(&out, "count(*)", "raw_events"), outcome.json()["accepted"].as_i64().unwrap());
}

#[test]
fn a_collector_says_for_how_long_its_log_keeps_records() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("log");
    let (log, state) = (log.to_str().unwrap(), folder.path().to_str().unwrap());
    for (options, said) in [
        (&[][..], "the log keeps records for 7 days; --retain says otherwise"),
        (&["--retain", "forever"], "the log keeps records for ever;"),
        (&["--retain", "36h", "--pipeline", state], "for 36 hours, and longer what a --pipeline still needs;"),
    ] {
        let collect = ["collect", "--log", log, "--listen", "127.0.0.1:0", "--open"];
        let mut running = tidemill().start(&[&collect[..], options].concat());
        until_said(&mut running, said);
        running.signal("TERM");
        assert_eq!(running.wait().code, Some(0));
    }
}
