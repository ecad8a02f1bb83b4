//! A run repeated: in its recorded cuts row for row, in fresh ones to the same tables, and compared by `tidemill diff`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::{Outcome, Tidemill, files_under};
use tidemill_tests::live::{counts, places, signal};
use tidemill_tests::nexmark::{Happening, JUDGES, LATE, generate};
use tidemill_tests::oracle::Oracle;

use crate::story::{Story, assert_same, diff};
use crate::{assert_books_balance, counter, tidemill};

fn replay(out: &Path, options: &[&str]) -> Outcome {
    tidemill().command(&[&["replay", "--out", out.to_str().unwrap()][..], options].concat())
}

/// A replay that must succeed; gives what it said.
#[track_caller]
fn replayed(out: &Path, options: &[&str]) -> String {
    let done = replay(out, options);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.code, Some(0), "{options:?}: {said}{}", done.stderr);
    said
}

#[test]
fn a_live_run_that_was_killed_is_repeated_row_for_row_with_what_was_late_and_unverified() {
    let story = Story::new();
    // Far more than usual comes days late, and so cannot be verified.
    let rates = Rates { very_late: 2_000, late: 5_000, ..Rates::default() };
    let bytes = corpus::events(30_000, 71, rates);
    let line = story.live(&bytes, &["--processes", "2"], |piece, running| {
        if piece % 4 == 0 {
            signal(places(running.pid())[piece % 2].1, "KILL");
        }
    });
    assert_books_balance(&line);
    assert!(counter(&line, "unverified") > 0 && counter(&line, "late") > 0, "nothing was decided by time: {line}");
    assert!(!files_under(&story.out.join("_tidemill/bindings")).is_empty(), "bindings left the log");
    let (live, repeated) = (story.out.to_str().unwrap(), story.place("repeated"));

    // Where it was read from is recorded; a replay that is killed goes on.
    let arguments = ["replay", "--bindings", live, "--out", repeated.to_str().unwrap()];
    let mut killed = tidemill().start(&arguments);
    assert!(killed.until(|_| files_under(&repeated.join("_tidemill/log")).len() >= 10), "{}", killed.said());
    killed.signal("KILL");
    assert_eq!(killed.wait().code, None, "it ended before it was killed");
    for again in 0..2 {
        let said = replayed(&repeated, &["--bindings", live, "--workers", "2"]);
        assert!(said.contains(&format!("{} unverified", counter(&line, "unverified"))), "{again}: {said}");
        assert_same(&story.out, &repeated, "in recorded cuts");
    }
    let epochs = |data: &Path| tidemill().query(data, "SELECT DISTINCT epoch, complete_through FROM progress");
    assert_eq!(epochs(&story.out), epochs(&repeated), "each epoch is repeated, and what it says about time");

    // From another name of the same log, by one worker.
    let (elsewhere, from) = (story.place("elsewhere"), format!("{}?topics=events.*", story.log.address()));
    replayed(&elsewhere, &["--bindings", live, "--from", &from, "--workers", "1"]);
    assert_same(&story.out, &elsewhere, "from an address");
}

#[test]
fn what_was_late_for_windows_and_joins_is_repeated_row_for_row_also_what_was_left_out() {
    let nexmark = Tidemill::new(env!("CARGO_BIN_EXE_nexmark-under-test"));
    let story = Story::of(nexmark.clone(), LATE);
    // Windows wait for two seconds at least, and at most for seventeen.
    let happenings = generate(20_000, 75, 30_000);
    let lines: Vec<_> = happenings.iter().map(|happening| serde_json::to_vec(happening).unwrap()).collect();
    let bytes = corpus::joined(lines.iter().map(Vec::as_slice));
    let line = story.live(&bytes, &["--workers", "2"], |piece, running| {
        if piece == 6 {
            signal(places(running.pid())[0].1, "KILL");
        }
    });
    assert_books_balance(&line);
    let number = |data: &Path, sql: &str| {
        let answer = nexmark.query(data, &format!("SELECT coalesce(({sql}), 0) AS n"));
        let row: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        row["n"].as_u64().unwrap_or_else(|| panic!("{sql}: {row}"))
    };
    let late_by =
        |data: &Path| JUDGES.map(|(judge, _)| counts(data).get(&format!("{judge}/late")).copied().unwrap_or(0));
    let found = late_by(&story.out);
    for ((judge, aside), late) in JUDGES.into_iter().zip(found) {
        assert!(late > 0, "{judge}: nothing was late: {found:?}");
        if let Some(table) = aside {
            assert_eq!(number(&story.out, &format!("SELECT count(*) FROM {table}")), late, "{judge}");
        }
    }

    let (live, from) = (story.out.to_str().unwrap(), story.log.address());
    let replay = |name: &str, options: &[&str]| {
        let out = story.place(name);
        let done = nexmark.command(&[&["replay", LATE, "--out", out.to_str().unwrap()], options].concat());
        assert_eq!(done.code, Some(0), "{name}: {}", done.stderr);
        out
    };
    let compared = |other: &Path| nexmark.command(&["diff", live, other.to_str().unwrap()]);
    for workers in ["1", "3"] {
        let repeated = replay(workers, &["--bindings", live, "--workers", workers]);
        let done = compared(&repeated);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(done.code, Some(0), "{workers} workers: {said}{}", done.stderr);
        for table in ["counts", "recent", "totals", "versions", "pairs", "answers"] {
            let equal = said.lines().find(|told| told.starts_with(&format!("{table}: equal, ")));
            assert!(equal.is_some_and(|told| !told.contains(" 0 rows")), "{workers} workers: {table}: {said}");
        }
        assert_eq!(late_by(&repeated), found, "{workers} workers");
    }

    // In fresh cuts, longer ones, other records are late; but each is counted or set aside, once.
    let fresh = replay("fresh", &["--from", &from, "--state", live]);
    let done = compared(&fresh);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("counts, ") && done.stderr.contains("late_for_counts"), "{}", done.stderr);
    for data in [&story.out, &fresh] {
        let kept = number(data, "SELECT sum(bids) FROM counts");
        let bids = happenings.iter().filter(|happening| matches!(happening, Happening::Bid(_))).count() as u64;
        assert_eq!(kept + late_by(data)[0], bids, "{}", data.display());
    }
}

#[test]
fn a_live_run_replayed_in_fresh_cuts_has_the_same_tables_and_a_row_more_is_named() {
    let story = Story::new();
    let bytes = corpus::events(30_000, 72, Rates { late: 5_000, ..Rates::any_order() });
    let line = story.live(&bytes, &[], |_, _| {});
    assert_books_balance(&line);
    let (from, live) = (story.log.address(), story.out.to_str().unwrap());
    let fresh = story.place("fresh");
    replayed(&fresh, &["--from", &from, "--state", live]);
    assert_same(&story.out, &fresh, "in fresh cuts");
    let repeated = story.place("repeated");
    replayed(&repeated, &["--bindings", live]);
    assert_same(&fresh, &repeated, "in recorded cuts");
    let expected = Oracle::of([bytes.as_slice()]).answer().0.without_server_times();
    expected.assert_equal(&tidemill().tables(&fresh).without_server_times(), "the oracle");

    // One event more, read by a replay of all that is there, and by none that ends where the live run was.
    let more = br#"{"event_id":"one-more","event_type":"click","user_id":"somebody","timestamp":1772333400000}"#;
    story.store(&[more]);
    let (bounded, longer) = (story.place("bounded"), story.place("longer"));
    replayed(&bounded, &["--from", &from, "--state", live]);
    assert_same(&story.out, &bounded, "through the last commit of the live run");
    replayed(&longer, &["--from", &from]);
    let compared = diff(&story.out, &longer);
    let said = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert_eq!(compared.code, Some(1), "{said}{}", compared.stderr);
    assert!(compared.stderr.contains("raw_events"), "{}", compared.stderr);
    let different = said.lines().find(|found| found.starts_with("raw_events: DIFFERENT")).expect(&said);
    assert!(different.contains(r#""event_id":"one-more""#), "{different}");
    assert!(said.contains("no row to match the other's"), "{said}");
    assert!(said.contains("page_views_by_minute: equal, "), "{said}");

    // Retention takes what the run began with.
    story.retain_only(more);
    for options in [&["--bindings", live][..], &["--from", &from, "--bindings", live]] {
        replay(&story.place("too-late"), options)
            .assert_refused(&[3], &["events.other/", "retention removed", "replay"]);
    }
}

#[test]
fn a_run_over_files_that_grew_is_repeated_without_naming_them() {
    let story = Story::new();
    let folder = story.place("files");
    fs::create_dir(&folder).unwrap();
    let pieces = corpus::cut(&corpus::events(30_000, 73, Rates { very_late: 2_000, ..Rates::default() }), 3);
    let inputs = [
        corpus::file(&folder, "a.ndjson", &pieces[0]),
        corpus::file(&folder, "b.ndjson.gz", &corpus::gzipped(&pieces[1])),
    ];
    let job = |files: usize| tidemill().job(&inputs[..files], &story.out).eager();
    job(1).workers(2).finish();
    let mut grows = OpenOptions::new().append(true).open(&inputs[0]).unwrap();
    grows.write_all(&pieces[2]).unwrap();
    let line = job(2).workers(1).finish();
    assert!(counter(&line, "unverified") > 0, "{line}");
    let (live, repeated) = (story.out.to_str().unwrap(), story.place("repeated"));
    replayed(&repeated, &["--bindings", live]);
    assert_same(&story.out, &repeated, "files");

    // What is not there any more as it was read is refused by name.
    let mut changed = fs::read(&inputs[0]).unwrap();
    let digit = changed.iter().position(u8::is_ascii_digit).unwrap();
    changed[digit] = if changed[digit] == b'1' { b'2' } else { b'1' };
    fs::write(&inputs[0], changed).unwrap();
    replay(&story.place("changed"), &["--bindings", live]).assert_refused(&[3], &["a.ndjson"]);
}

#[test]
fn what_cannot_be_repeated_is_refused_with_a_reason() {
    let story = Story::new();
    let bytes = corpus::events(6_000, 74, Rates::within_horizon());
    story.live(&bytes, &["--keep-bindings", "0"], |_, _| {});
    let live = story.out.to_str().unwrap();
    let forgotten = replay(&story.place("forgotten"), &["--bindings", live]);
    forgotten.assert_refused(&[3], &["recorded from epoch", "--keep-bindings", "fresh cuts"]);
    let itself = replay(&story.out, &["--bindings", live]);
    itself.assert_refused(&[2], &["name a new place"]);
    let nothing = replay(&story.place("new"), &["--bindings", story.place("nowhere").to_str().unwrap()]);
    nothing.assert_refused(&[3], &["nowhere"]);
    // A place that another run began, live or not, is left alone.
    let (other, from) = (story.place("other"), story.log.address());
    let begun =
        tidemill().command(&["run", "web_analytics", "--from", &from, "--until-end", "--out", other.to_str().unwrap()]);
    assert_eq!(begun.code, Some(0), "{}", begun.stderr);
    replay(&other, &["--from", &from]).assert_refused(&[3], &["begun with other settings"]);
    replay(&other, &["--bindings", live]).assert_refused(&[3], &["other"]);
    let bounded = story.place("bounded");
    replayed(&bounded, &["--bindings", other.to_str().unwrap()]);
    assert_same(&other, &bounded, "a run to the end of the log, repeated");
    diff(&story.out, &story.place("nowhere")).assert_refused(&[3], &["nowhere"]);
}
