//! Every table equals the oracle's, row for row, at any worker count and however the same lines are laid out in files.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::oracle::{Books, Oracle};

use crate::{USER_KEY, assert_books_balance, assert_engine_agrees, counter, root, tidemill};

const EVENTS: u64 = 200_000;

#[track_caller]
fn assert_books(line: &Value, books: &Books) {
    assert_books_balance(line);
    let found = Books {
        events_read: counter(line, "events_read"),
        accepted: counter(line, "accepted"),
        malformed: counter(line, "malformed"),
        duplicates: counter(line, "duplicates"),
        conflicting_duplicates: counter(line, "conflicting_duplicates"),
    };
    assert_eq!(found, *books);
}

/// Runs one generated file at 1, 2 and 4 workers against the naive oracle, and once against the ClickHouse engine.
#[track_caller]
fn check_seed(seed: u64) {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(EVENTS, seed, Rates::within_horizon());
    let (expected, books) = Oracle::of([bytes.as_slice()]).answer();
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    for workers in [1, 2, 4] {
        let out = folder.path().join(format!("workers-{workers}"));
        let line = tidemill().job(&input, &out).workers(workers).option(&["--epoch-bytes", "4194304"]).finish();
        assert_books(&line, &books);
        expected.assert_equal(&tidemill().tables(&out), &format!("seed {seed}, {workers} workers"));
        assert_eq!(tidemill().unverified(&out), []);
        if workers == 2 {
            assert_engine_agrees(&input, &out, &["--books", &line.to_string()]);
        }
    }
}

#[test]
fn every_table_equals_the_oracle_at_any_worker_count_for_seed_1() {
    check_seed(1);
}

#[test]
fn every_table_equals_the_oracle_at_any_worker_count_for_seed_2() {
    check_seed(2);
}

#[test]
fn every_table_equals_the_oracle_at_any_worker_count_for_seed_3() {
    check_seed(3);
}

/// Runs files that hold the lines of one generated file in another layout, and expects its tables.
#[track_caller]
fn check_layout(seed: u64, lay_out: impl FnOnce(&[u8]) -> Vec<(String, Vec<u8>)>) {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(EVENTS, seed, Rates::any_order());
    let (expected, books) = Oracle::of([bytes.as_slice()]).answer();
    let files = lay_out(&bytes);
    let inputs: Vec<PathBuf> = files.iter().map(|(name, file)| corpus::file(folder.path(), name, file)).collect();
    let out = folder.path().join("out");
    let line = tidemill().job(&inputs, &out).workers(2).option(&["--epoch-bytes", "2097152"]).finish();
    assert_books(&line, &books);
    assert_eq!(tidemill().unverified(&out), []);
    let found = tidemill().tables(&out).without_server_times();
    expected.without_server_times().assert_equal(&found, &format!("seed {seed}"));
}

#[test]
fn lines_shuffled_within_the_horizon_change_no_table() {
    // Ten minutes of the three hours that the lines stand for.
    let distance = usize::try_from(EVENTS / 18).unwrap();
    check_layout(11, |bytes| vec![("shuffled.ndjson".into(), corpus::shuffled(bytes, distance, 11))]);
}

#[test]
fn a_file_dealt_over_three_overlapping_ones_changes_no_table() {
    check_layout(12, |bytes| {
        let hands = corpus::dealt(bytes, 3);
        hands.into_iter().enumerate().map(|(hand, file)| (format!("server-{hand}.ndjson"), file)).collect()
    });
}

#[test]
fn ten_consecutive_files_named_in_reverse_change_no_table() {
    check_layout(13, |bytes| {
        let pieces = corpus::cut(bytes, 10);
        let mut files: Vec<_> =
            pieces.into_iter().enumerate().map(|(piece, file)| (format!("part-{}.ndjson", 9 - piece), file)).collect();
        files.reverse();
        files
    });
}

#[test]
fn compressed_files_of_several_pieces_change_no_table() {
    check_layout(14, |bytes| {
        let pieces = corpus::cut(bytes, 3);
        vec![
            ("first.ndjson.gz".into(), corpus::gzipped(&pieces[0])),
            ("second.ndjson.zst".into(), corpus::zstandard(&pieces[1])),
            ("third.ndjson".into(), pieces[2].clone()),
        ]
    });
}

#[test]
fn a_last_line_without_its_end_counts() {
    check_layout(15, |bytes| vec![("cut.ndjson".into(), bytes.strip_suffix(b"\n").unwrap().to_vec())]);
}

#[test]
fn events_beyond_the_horizon_are_set_aside_and_the_rest_is_exact() {
    let folder = TempDir::new().unwrap();
    let rates = Rates { very_late: 500, ..Rates::default() };
    let input = [corpus::file(folder.path(), "events.ndjson", &corpus::events(EVENTS, 16, rates))];
    let mut answers = Vec::new();
    for workers in [1, 3] {
        let out = folder.path().join(format!("workers-{workers}"));
        let line = tidemill().job(&input, &out).workers(workers).option(&["--epoch-bytes", "2097152"]).finish();
        assert_books_balance(&line);
        let unverified = tidemill().unverified(&out);
        assert_eq!(counter(&line, "unverified"), unverified.len() as u64);
        assert!(unverified.len() > 20, "{line}");
        assert_engine_agrees(&input, &out, &["--allow-unverified", "--books", &line.to_string()]);
        answers.push((tidemill().tables(&out), unverified));
    }
    assert!(answers[0] == answers[1], "with recorded cuts the verdict does not depend on the workers");
}

#[test]
fn the_real_access_log_equals_the_oracle() {
    let log = root().join("../shared/data/access-2015.log.gz");
    assert!(log.exists(), "{} is missing; put the real access log beside the repository", log.display());
    let folder = TempDir::new().unwrap();
    let input = [log];
    for workers in [1, 2] {
        let out = folder.path().join(format!("workers-{workers}"));
        let job = tidemill().job(&input, &out).workers(workers).option(&["--epoch-bytes", "131072"]);
        let line = job.environment(USER_KEY.0, USER_KEY.1).finish();
        assert_books_balance(&line);
        assert_engine_agrees(&input, &out, &["--format", "combined", "--books", &line.to_string()]);
    }
}

#[test]
fn odd_web_server_lines_equal_the_oracle() {
    let folder = TempDir::new().unwrap();
    let lines = [
        r#"198.51.100.7 - - [10/Oct/2025:13:55:36 -0700] "GET /a.html?x=1 HTTP/1.1" 200 2326"#,
        r#"198.51.100.7 - ada [10/Oct/2025:13:55:36 -0700] "GET / HTTP/1.0" 304 - "-" "agent \"quoted\" \\ end""#,
        r#"198.51.100.7 - - [10/Oct/2025:20:55:37 +0000] "GET /style.CSS?v=2 HTTP/1.1" 200 10 "-" "a""#,
        r#"198.51.100.7 - - [10/Oct/2025:20:55:37 +0000] "GET /style.css/ HTTP/1.1" 200 10 "-" "a""#,
        r#"198.51.100.7 - - [10/Oct/2025:20:55:37 +0000] "GET /v1.2/docs HTTP/1.1" 200 10 "-" "a""#,
        r#"198.51.100.7 - - [10/Oct/2025:20:55:37 +0000] "HEAD / HTTP/1.1" 200 0 "-" "a""#,
        r#"198.51.100.7 - - [10/Oct/2025:20:55:38 +0000] "POST /form HTTP/1.1" 503 12 "-" "a""#,
        r#"198.51.100.7 - - [10/Oct/2025:20:55:38 +0000] "GET /gone HTTP/1.1" 404 12 "-" "a""#,
        r#"198.51.100.7 - - [10/Oct/2025:20:55:38 +0000] "GET /%E4%B8%AD/caf\xc3\xa9 HTTP/1.1" 200 12 "-" "a""#,
        r#"198.51.100.7 - - [10/Oct/2025:20:55:38 +0000] "-" 408 - "-" "-""#,
        r#"2001:db8::1 - - [10/Oct/2025:20:55:39 +0000] "GET /six HTTP/2.0" 200 12 "https://example.org/" "b""#,
        r#"2001:db8::1 - - [10/Oct/2025:20:55:39 +0000] "GET /six HTTP/2.0" 200 12 "https://example.org/" "b""#,
        r#"198.51.100.7 - - [10/Oct/2025:20:55:39 +0000] "GET /cut HTTP/1.1" 200 12 "-" "never ends"#,
        r#"198.51.100.7 - - [10/Foo/2025:20:55:39 +0000] "GET / HTTP/1.1" 200 12 "-" "a""#,
        r#"198.51.100.7 - - [10/Oct/2025:20:55:39 +0000] "GET / HTTP/1.1" 20 12 "-" "a""#,
        "no log line at all",
        "",
    ];
    let input = [corpus::file(folder.path(), "access.log", &corpus::joined(lines.map(str::as_bytes)))];
    let out = folder.path().join("out");
    let job = tidemill().job(&input, &out).option(&["--format", "combined"]).environment(USER_KEY.0, USER_KEY.1);
    let line = job.finish();
    assert_eq!((counter(&line, "events_read"), counter(&line, "malformed")), (16, 4), "{line}");
    assert_engine_agrees(&input, &out, &["--format", "combined", "--books", &line.to_string()]);
}
