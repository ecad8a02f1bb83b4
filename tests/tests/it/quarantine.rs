//! A record that panics the process: set aside after two panics, a dead letter, and the rest exact.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::{Outcome, Run};
use tidemill_tests::live::EventLog;
use tidemill_tests::oracle::Oracle;

use crate::dead_letters::letters;
use crate::processes::shaped;
use crate::story::assert_same;
use crate::{assert_books_balance, counter, tidemill};

const EVENTS: u64 = 20_000;

/// Lines of events, and one in the middle of them whose id no other has.
fn one_of(lines: &[&[u8]], skip: usize) -> (String, usize) {
    let id_of = |line: &[u8]| Some(serde_json::from_slice::<Value>(line).ok()?["event_id"].as_str()?.to_owned());
    let ids: Vec<Option<String>> = lines.iter().map(|line| id_of(line)).collect();
    let mut times: BTreeMap<&String, u32> = BTreeMap::new();
    ids.iter().flatten().for_each(|id| *times.entry(id).or_default() += 1);
    let mut found = ids.iter().enumerate().skip(skip).filter_map(|(at, id)| Some((id.clone()?, at)));
    found.find(|(id, _)| times[id] == 1).expect("most ids are there once")
}

/// The same run, in which the event panics at a stage.
fn poisoned(run: &Run, id: &str, stage: &str) -> Run {
    run.environment("TIDEMILL_FAULTS", &format!("panic_on:{id}@{stage}"))
}

/// Checks what a run that set one record aside has written.
#[track_caller]
fn check(line: &Value, out: &Path, rest: &[u8], id: &str, context: &str) {
    assert_books_balance(line);
    let (expected, books) = Oracle::of([rest]).answer();
    assert_eq!(counter(line, "quarantined"), 1, "{context}: {line}");
    assert_eq!(counter(line, "accepted"), books.accepted, "{context}: {line}");
    expected.assert_equal(&tidemill().tables(out), context);
    let aside: Vec<Value> = letters(out).into_iter().filter(|letter| reason(letter).contains("panicked")).collect();
    assert_eq!(aside.len(), 1, "{context}: {aside:?}");
    assert!(reason(&aside[0]).contains("is asked to panic"), "{context}: {aside:?}");
    assert!(aside[0]["payload"].as_str().is_some_and(|payload| payload.contains(id)), "{context}: {aside:?}");
}

fn reason(letter: &Value) -> &str {
    letter["reason"].as_str().unwrap()
}

/// The line of a supervised run that panicked twice and was started three times.
#[track_caller]
pub(crate) fn third_time_lucky(outcome: &Outcome, context: &str) -> Value {
    assert_eq!(outcome.code, Some(0), "{context}: {}", outcome.stderr);
    assert!(outcome.stderr.contains("attempt 3 begins"), "{context}: {}", outcome.stderr);
    assert!(!outcome.stderr.contains("attempt 4 begins"), "{context}: {}", outcome.stderr);
    let says = ["the next start sets it aside, as a dead letter", "the next start sets them aside, as dead letters"];
    assert!(says.iter().any(|sentence| outcome.stderr.contains(sentence)), "{context}: {}", outcome.stderr);
    outcome.json()
}

#[test]
fn a_line_that_panics_is_set_aside_by_the_supervised_run_itself() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(EVENTS, 81, Rates::within_horizon());
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let mut lines = corpus::lines(&bytes);
    let (id, at) = one_of(&lines, 12_345);
    lines.remove(at);
    let rest = corpus::joined(lines);
    for (shape, stage) in [((1, 2), "pass"), ((2, 1), "decode"), ((2, 1), "encode")] {
        let context = format!("{shape:?}, {stage}");
        let out = folder.path().join(format!("{}-{stage}", shape.0));
        let run = poisoned(&shaped(&tidemill().job(&input, &out).eager(), shape), &id, stage);
        let line = third_time_lucky(&run.outcome(), &context);
        check(&line, &out, &rest, &id, &context);
        let letter = letters(&out).into_iter().find(|letter| reason(letter).contains("panicked")).unwrap();
        assert_eq!(letter["line"], at + 1, "{context}: {letter}");
    }
}

#[test]
fn a_message_that_panics_is_set_aside_wherever_it_is_handled() {
    let folder = TempDir::new().unwrap();
    let log = EventLog::new(folder.path().join("log"));
    let to = format!("{}?partitions=2", log.address());
    let made = tidemill().command(&["generate", "--to", &to, "--events", "20000", "--span", "10m", "--within-horizon"]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let mut messages: Vec<Vec<u8>> = Vec::new();
    log.for_each(|_, _, message| messages.push(message.to_vec()));
    let mut lines: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let (id, at) = one_of(&lines, 5_000);
    lines.remove(at);
    let rest = corpus::joined(lines);
    for (shape, stage) in [((2, 1), "pass"), ((1, 2), "decode"), ((2, 1), "encode")] {
        let context = format!("{shape:?}, {stage}");
        let out = folder.path().join(format!("{}-{stage}", shape.0));
        let out_text = out.display().to_string();
        let run = tidemill().stream(&log.address(), std::slice::from_ref(&out_text), &out_text);
        let run = run.option(&["--until-end", "--epoch-bytes", "1048576"]);
        let line = third_time_lucky(&poisoned(&shaped(&run, shape), &id, stage).outcome(), &context);
        check(&line, &out, &rest, &id, &context);
    }
    // A replay honours the list, in the run's cuts and in others: without it, the event would be in the tables.
    let (live, from) = (folder.path().join("2-pass"), log.address());
    let (place, again) = (live.to_str().unwrap(), |name: &str| folder.path().join(name));
    for (out, options) in [
        (again("repeated"), vec!["--bindings", place]),
        (again("afresh"), vec!["--from", from.as_str(), "--state", place]),
    ] {
        let arguments = [vec!["replay", "--out", out.to_str().unwrap()], options].concat();
        let done = tidemill().command(&arguments);
        assert_eq!(done.code, Some(0), "{arguments:?}: {}", done.stderr);
        assert_same(&live, &out, "replayed");
        let aside = letters(&out).iter().filter(|letter| reason(letter).contains("is asked to panic")).count();
        assert_eq!(aside, 1, "{arguments:?}");
    }
}

#[test]
fn starts_by_hand_say_what_the_next_one_does_and_a_kill_in_between_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(60_000, 83, Rates::within_horizon());
    let pieces = corpus::cut(&bytes, 2);
    let name = |(at, piece): (usize, &Vec<u8>)| corpus::file(folder.path(), &format!("part-{at}.ndjson"), piece);
    let inputs: Vec<PathBuf> = pieces.iter().enumerate().map(name).collect();
    let mut lines = corpus::lines(&bytes);
    let (id, at) = one_of(&lines, 50_000);
    lines.remove(at);
    let out = folder.path().join("out");
    let run = poisoned(&tidemill().job(&inputs, &out).eager(), &id, "pass");
    run.workers(2)
        .outcome()
        .assert_refused(&[1], &["part-1.ndjson", "the next start looks at the records of that epoch one by one"]);
    run.outcome().assert_refused(&[1], &["panicked in", "the next start sets it aside, as a dead letter"]);
    // It may have finished before the kill.
    drop(run.workers(3).start().kill_after(Duration::from_millis(300)));
    let line = shaped(&run, (2, 1)).finish();
    check(&line, &out, &corpus::joined(lines), &id, "after a kill");
    let before = fs::read_dir(out.join("_tidemill/quarantine")).unwrap().count();
    assert_eq!(run.finish()["quarantined"], 1, "it stays set aside");
    assert_eq!(fs::read_dir(out.join("_tidemill/quarantine")).unwrap().count(), before);
}
