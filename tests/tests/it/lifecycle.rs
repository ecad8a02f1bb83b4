//! Stopping and going on: finished runs, appended lines, added files, changed files, signals.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::files_under;
use tidemill_tests::oracle::Oracle;

use crate::{assert_books_balance, counter, tidemill};

const EVENTS: u64 = 40_000;

/// Every file of a folder with its content.
fn content_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files_under(folder).into_iter().map(|file| (file.clone(), fs::read(folder.join(file)).unwrap())).collect()
}

#[test]
fn a_finished_run_started_again_says_so_and_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(EVENTS, 61, Rates::within_horizon());
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let out = folder.path().join("out");
    let job = tidemill().job(&input, &out).eager();
    let first = job.workers(1).finish();
    let before = content_of(&out);
    let second = job.workers(3).finish();
    for name in ["events_read", "accepted", "malformed", "duplicates", "late", "unverified", "epochs"] {
        assert_eq!(counter(&second, name), counter(&first, name), "{name}: counters are cumulative over the folder");
    }
    let after = content_of(&out);
    let changed: Vec<_> = after.iter().filter(|(file, now)| before.get(*file) != Some(now)).map(|(f, _)| f).collect();
    assert!(changed.is_empty() && before.len() == after.len(), "changed or new: {changed:?}");
}

#[test]
fn appended_lines_are_read_from_where_it_stopped() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(EVENTS, 62, Rates::within_horizon());
    let lines = corpus::lines(&bytes);
    let (first, rest) = lines.split_at(lines.len() / 3);
    let input = [corpus::file(folder.path(), "events.ndjson", &corpus::joined(first.iter().copied()))];
    let out = folder.path().join("out");
    let job = tidemill().job(&input, &out).eager();
    let half = job.workers(2).finish();
    let mut file = OpenOptions::new().append(true).open(&input[0]).unwrap();
    file.write_all(&corpus::joined(rest.iter().copied())).unwrap();
    let line = job.workers(1).finish();
    assert!(counter(&line, "events_read") > counter(&half, "events_read"), "{line}");
    assert_books_balance(&line);
    let (expected, books) = Oracle::of([bytes.as_slice()]).answer();
    assert_eq!(counter(&line, "accepted"), books.accepted, "{line}");
    expected.assert_equal(&tidemill().tables(&out), "after lines were appended");
}

#[test]
fn added_files_are_read_in_the_next_start() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(EVENTS, 63, Rates::within_horizon());
    let pieces = corpus::cut(&bytes, 3);
    let inputs: Vec<PathBuf> = ["a.ndjson", "b.ndjson", "c.ndjson"]
        .iter()
        .zip(&pieces)
        .map(|(name, piece)| corpus::file(folder.path(), name, piece))
        .collect();
    let out = folder.path().join("out");
    for files in 1..=inputs.len() {
        let line = tidemill().job(&inputs[..files], &out).eager().workers(files).finish();
        assert_books_balance(&line);
        let (expected, books) = Oracle::of(pieces[..files].iter().map(Vec::as_slice)).answer();
        assert_eq!(counter(&line, "accepted"), books.accepted, "{line}");
        expected.assert_equal(&tidemill().tables(&out), &format!("{files} files"));
    }
}

#[test]
fn a_file_whose_read_part_changed_or_vanished_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(5_000, 64, Rates::within_horizon());
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let out = folder.path().join("out");
    let job = tidemill().job(&input, &out);
    job.finish();
    let before = tidemill().tables(&out);
    let mut changed = bytes.clone();
    let digit = changed.iter().rposition(u8::is_ascii_digit).unwrap();
    changed[digit] = if changed[digit] == b'1' { b'2' } else { b'1' };
    let shortened = bytes[..bytes.len() / 2].to_vec();
    let grown = [changed.as_slice(), b"{}\n"].concat();
    for (what, content) in [("changed", &changed), ("shortened", &shortened), ("changed and grown", &grown)] {
        fs::write(&input[0], content).unwrap();
        eprintln!("{what}");
        job.outcome().assert_refused(&[3], &["events.ndjson"]);
    }
    fs::remove_file(&input[0]).unwrap();
    job.outcome().assert_refused(&[3], &["events.ndjson"]);
    before.assert_equal(&tidemill().tables(&out), "a refused start changes nothing");
    fs::write(&input[0], &bytes).unwrap();
    job.finish();
}

#[test]
fn a_compressed_file_that_changed_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(5_000, 65, Rates::within_horizon());
    let input = [corpus::file(folder.path(), "events.ndjson.zst", &corpus::zstandard(&bytes))];
    let job = tidemill().job(&input, &folder.path().join("out"));
    job.finish();
    fs::write(&input[0], corpus::zstandard(&corpus::events(5_000, 66, Rates::within_horizon()))).unwrap();
    job.outcome().assert_refused(&[3], &["events.ndjson.zst"]);
}

#[test]
fn a_signal_ends_the_epoch_and_the_next_start_goes_on() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(200_000, 67, Rates::within_horizon());
    let oracle = Oracle::of([bytes.as_slice()]);
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let (expected, books) = oracle.answer();
    for signal in ["TERM", "INT"] {
        let out = folder.path().join(signal);
        let job = tidemill().job(&input, &out).option(&["--epoch-bytes", "1048576"]);
        let mut running = job.workers(2).start();
        assert!(running.until(|_| files_under(&out.join("_tidemill/log")).len() >= 3), "it ended before the signal");
        running.signal(signal);
        let outcome = running.wait();
        assert_eq!(outcome.code, Some(0), "{signal}: {}", outcome.stderr);
        let line = outcome.json();
        assert_eq!(line["status"], "stopped", "{signal}: {line}");
        assert_books_balance(&line);
        assert!(counter(&line, "checkpoints") >= 1, "{line}");
        tidemill().check_visible_prefix(&out, &input, &oracle, signal);
        let rest = job.workers(1).finish();
        assert!(!rest["resumed_from"].is_null(), "{rest}");
        assert_eq!(counter(&rest, "accepted"), books.accepted, "{rest}");
        expected.assert_equal(&tidemill().tables(&out), signal);
    }
}

#[test]
fn drained_means_that_nothing_can_be_added() {
    let folder = TempDir::new().unwrap();
    let pieces = corpus::cut(&corpus::events(EVENTS, 68, Rates::within_horizon()), 2);
    let inputs =
        [corpus::file(folder.path(), "a.ndjson", &pieces[0]), corpus::file(folder.path(), "b.ndjson", &pieces[1])];
    let out = folder.path().join("out");
    tidemill().job(&inputs[..1], &out).option(&["--drain"]).finish();
    let (expected, _) = Oracle::of([pieces[0].as_slice()]).answer();
    expected.assert_equal(&tidemill().tables(&out), "drained");
    let refused = tidemill().job(&inputs, &out).outcome();
    refused.assert_refused(&[3], &["drain"]);
    expected.assert_equal(&tidemill().tables(&out), "after the refusal");
}

#[test]
fn a_drained_folder_is_complete_through_its_last_minute_and_has_the_tables_of_its_pipeline() {
    const TEN: i64 = 1_431_856_800_000;
    let folder = TempDir::new().unwrap();
    let event = |id: &str, at: i64| {
        format!(
            "{{\"event_id\":\"{id}\",\"event_type\":\"page_view\",\"user_id\":\"u\",\"timestamp\":{at},\"properties\":{{\"page\":\"/\"}}}}\n"
        )
    };
    let mut lines: String = (0..2_000).map(|n| event(&format!("e{n}"), TEN + n * 1_000)).collect();
    // Eight of another year, and one of a year to come: they are counted, and say nothing of where the data ends.
    (0..8).for_each(|n| lines.push_str(&event(&format!("stray{n}"), TEN + 400 * 86_400_000)));
    lines.push_str(&event("ahead", TEN + 40_000 * 86_400_000));
    let input = [corpus::file(folder.path(), "events.ndjson", lines.as_bytes())];
    for (pipeline, drain, through) in [
        ("web_analytics", &["--drain"][..], Some("2015-05-17T10:34:00.000Z")),
        ("web_analytics", &[], Some("2015-05-17T10:31:19.000Z")),
        ("top_pages", &["--drain"], Some("2015-05-17T10:34:00.000Z")),
    ] {
        let out = folder.path().join(format!("{pipeline}-{}", drain.len()));
        tidemill().job(&input, &out).pipeline(pipeline).option(drain).finish();
        let row = tidemill().query(&out, "SELECT DISTINCT complete_through FROM progress");
        let row: Value = serde_json::from_slice(&row).unwrap();
        assert_eq!(row["complete_through"].as_str(), through, "{pipeline} {drain:?}");
        let shown =
            tidemill().query(&out, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'lake'");
        let shown = String::from_utf8(shown).unwrap();
        assert_eq!(shown.contains("\"sessions\""), pipeline == "web_analytics", "{shown}");
        assert_eq!(shown.contains("\"top_pages\""), pipeline == "top_pages", "{shown}");
        let (code, compared) = {
            let place = out.to_str().unwrap();
            let outcome = tidemill().command(&["diff", place, place]);
            (outcome.code, String::from_utf8(outcome.stdout).unwrap())
        };
        assert_eq!(code, Some(0), "{compared}");
        assert_eq!(compared.contains("sessions: equal"), pipeline == "web_analytics", "{compared}");
        assert_eq!(compared.contains("top_pages: equal"), pipeline == "top_pages", "{compared}");
    }
}
