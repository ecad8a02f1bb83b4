//! Input as people have it: what a run says at its end of what it could not use, and that it loses nothing silently.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::files_under;

use crate::{assert_books_balance, counter, tidemill};

const DAY: i64 = 86_400_000;
/// Ten o'clock on 10 March 2026.
const TEN: i64 = 1_773_136_800_000;

fn event(number: u32, at: i64) -> String {
    format!(
        "{{\"event_id\":\"e{number}\",\"event_type\":\"page_view\",\"user_id\":\"u{}\",\"timestamp\":{at},\
         \"properties\":{{\"page\":\"/\"}}}}\n",
        number % 50
    )
}

fn line(number: u32, day: u32) -> String {
    let minute = number * 6 % 720;
    format!(
        "192.0.2.1 - - [{day}/Mar/2026:{:02}:{:02}:00 +0000] \"GET /p{number} HTTP/1.1\" 200 12 \"-\" \"agent\"\n",
        10 + minute / 60,
        minute % 60
    )
}

/// The views that all tables have.
fn views(out: &Path) -> i64 {
    let answer = tidemill().query(out, "SELECT coalesce(sum(views), 0) AS n FROM page_views_by_minute");
    serde_json::from_slice::<Value>(&answer).unwrap()["n"].as_i64().unwrap()
}

#[test]
fn logs_that_are_concatenated_newest_first_lose_nothing_whatever_the_epochs() {
    let text: String = [12, 11, 10].iter().flat_map(|day| (0..3_000).map(|number| line(number, *day))).collect();
    for epoch_bytes in ["256KiB", "100MiB"] {
        let folder = TempDir::new().unwrap();
        let input = [corpus::file(folder.path(), "access.log", text.as_bytes())];
        let out = folder.path().join("out");
        let options = ["--epoch-bytes", epoch_bytes, "--memory-budget", "1GiB"];
        let ended = tidemill().job(&input, &out).workers(2).option(&options).finish();
        assert_books_balance(&ended);
        assert_eq!((counter(&ended, "accepted"), counter(&ended, "unverified")), (9_000, 0), "{epoch_bytes}: {ended}");
        assert_eq!(views(&out), 9_000, "{epoch_bytes}");
    }
}

#[test]
fn input_of_which_nothing_can_be_read_is_refused_with_the_first_reasons_each_time_it_is_given() {
    let folder = TempDir::new().unwrap();
    let input = [corpus::file(folder.path(), "people.json", b"name,age\nx,1\ny,2\n")];
    let out = folder.path().join("out");
    for attempt in ["first", "again"] {
        let outcome = tidemill().job(&input, &out).outcome();
        outcome.assert_refused(&[3], &["all 3 records", "people.json, line 1", "--format"]);
        assert_eq!(counter(&outcome.json(), "malformed"), 3, "{attempt}");
    }
    let empty = [corpus::file(folder.path(), "empty.json", b"\n \n")];
    tidemill().job(&empty, &folder.path().join("empty")).finish();
}

#[test]
fn a_small_file_without_a_record_is_named_beside_a_large_one_and_read_anew_once_it_is_corrected() {
    let folder = TempDir::new().unwrap();
    let good: String = (0..2_000).map(|number| event(number, TEN + i64::from(number) * 1_000)).collect();
    let seconds = event(9_000, TEN / 1_000);
    let large = corpus::file(folder.path(), "large.ndjson", good.as_bytes());
    let input = [large, corpus::file(folder.path(), "small.ndjson", seconds.as_bytes())];
    let out = folder.path().join("out");
    let first = tidemill().job(&input, &out).outcome();
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let named = "small.ndjson: no line of it is a record (1 line); the first, line 1: ";
    assert!(first.stderr.contains(named), "{}", first.stderr);
    assert_eq!(first.json()["without_records"][0]["first"]["line"], 1);
    assert!(!first.stderr.contains("large.ndjson: no line"), "{}", first.stderr);

    let _ = corpus::file(folder.path(), "small.ndjson", event(9_000, TEN).as_bytes());
    let corrected = tidemill().job(&input, &out).outcome();
    assert_eq!(corrected.code, Some(0), "{}", corrected.stderr);
    let line = corrected.json();
    assert_books_balance(&line);
    assert_eq!((counter(&line, "accepted"), counter(&line, "malformed_before")), (2_001, 1), "{line}");
    assert!(corrected.stderr.contains("1 malformed (1 in earlier runs)"), "{}", corrected.stderr);
    assert_eq!(views(&out), 2_001);
}

#[test]
fn input_of_another_kind_is_called_by_its_name() {
    let folder = TempDir::new().unwrap();
    let errors = "2026/03/10 10:00:00 [error] 1#0: *1 open() failed, client: 192.0.2.1, server: a\n".repeat(3);
    for (content, reason) in [
        (errors.as_bytes(), "error log"),
        (b"#Version: 1.0\n2026-03-10\t10:00:00\tIAD\n", "#Fields"),
        (b"{\"a\":1}\r{\"a\":2}\r", "lines end in CR alone"),
        (&[0x9f, 0x07, 0xe1, 0x02, 0xfe, 0x0a, 0x03, 0xc8].repeat(99), "it is no text"),
    ] {
        let input = [corpus::file(folder.path(), "given", content)];
        tidemill().job(&input, &folder.path().join("out")).outcome().assert_refused(&[3], &["given", reason]);
        let _ = std::fs::remove_dir_all(folder.path().join("out"));
    }
}

#[test]
fn reasons_are_said_by_count_with_a_first_place_from_one_malformed_record_of_a_hundred_on() {
    let folder = TempDir::new().unwrap();
    let good: String = (0..300).map(|number| event(number, TEN + i64::from(number) * 1_000)).collect();
    let bad = "{}\nnot json\n{}\n{}\n";
    let input = [corpus::file(folder.path(), "a.ndjson", format!("{good}{bad}").as_bytes())];
    let outcome = tidemill().job(&input, &folder.path().join("out")).outcome();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    for part in ["4 of 304 records are malformed", "a.ndjson, line 301: event_id is missing"] {
        assert!(outcome.stderr.contains(part), "{part} in {}", outcome.stderr);
    }
    let reasons = outcome.json()["malformed_by_reason"].clone();
    let counts: Vec<u64> = reasons.as_array().unwrap().iter().map(|reason| reason["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [3, 1], "{reasons}");
    assert_eq!((&reasons[0]["first"]["line"], &reasons[1]["first"]["line"]), (&301.into(), &302.into()), "{reasons}");

    let few = [corpus::file(folder.path(), "b.ndjson", format!("{good}not json\n").as_bytes())];
    let one_bad = tidemill().job(&few, &folder.path().join("few")).outcome();
    assert!(!one_bad.stderr.contains("records are malformed"), "{}", one_bad.stderr);
    assert_eq!(one_bad.json()["malformed_by_reason"][0]["count"], 1);
}

#[test]
fn a_run_that_leaves_events_unverified_says_how_many_how_old_and_what_to_do() {
    let folder = TempDir::new().unwrap();
    // Server times vouch for the new ones, so that the watermark moves.
    let served = |number: u32, at: i64| {
        event(number, at).replace("\"properties\"", &format!("\"server_time\":{at},\"properties\""))
    };
    let new: String = (0..3_000).map(|number| served(number, TEN + i64::from(number) * 1_000)).collect();
    let old: String = (3_000..3_010).map(|number| served(number, TEN - 3 * DAY)).collect();
    let input = [corpus::file(folder.path(), "a.ndjson", format!("{new}{old}").as_bytes())];
    let job = tidemill().job(&input, &folder.path().join("out")).option(&["--epoch-bytes", "256KiB"]);
    let outcome = job.outcome();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(counter(&outcome.json(), "unverified"), 10, "{}", outcome.stderr);
    assert_eq!(outcome.json()["unverified_by_age"]["unverified_up_to_7d"], 10);
    for part in ["10 events are unverified", "10 by a day to 7 days", "unverified_events", "--out"] {
        assert!(outcome.stderr.contains(part), "{part} in {}", outcome.stderr);
    }
}

#[test]
fn another_pipeline_on_a_finished_folder_is_refused_and_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let input = [corpus::file(folder.path(), "a.ndjson", &corpus::events(2_000, 71, Rates::within_horizon()))];
    let out = folder.path().join("out");
    tidemill().job(&input, &out).finish();
    let before = files_under(&out);
    let other = tidemill().job(&input, &out).pipeline("top_pages").outcome();
    other.assert_refused(&[3], &["checkpoint"]);
    assert_eq!(files_under(&out), before, "a refused start writes nothing");
    tidemill().job(&input, &out).finish();
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let folder = TempDir::new().unwrap();
    let absent = folder.path().join("absent");
    let absent = absent.to_str().unwrap();
    for arguments in [&["query", "--data", absent, "SELECT 1"][..], &["diff", absent, absent]] {
        let outcome = tidemill().command(arguments);
        outcome.assert_refused(&[1, 3], &["there is no folder", absent, "--out"]);
        assert!(!outcome.stderr.contains("canonicalize"), "{}", outcome.stderr);
    }
}
