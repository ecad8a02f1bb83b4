//! The key behind the users of web server logs, where none is set: random, kept with the state, the same for ever after.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tidemill_tests::corpus;
use tidemill_tests::harness::Outcome;

use crate::tidemill;

const SAID: &str = "TIDEMILL_HASH_KEY is not set";

fn lines(minutes: std::ops::Range<u32>) -> String {
    let line = |minute| format!("192.0.2.1 - - [10/Mar/2026:10:{minute:02}:00 +0000] \"GET /a HTTP/1.1\" 200 1\n");
    minutes.map(line).collect()
}

#[track_caller]
fn run(input: &[PathBuf], out: &Path) -> Outcome {
    let done = tidemill().job(input, out).outcome();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    done
}

/// The users of a run's events.
fn users(out: &Path) -> Vec<String> {
    let found = tidemill().query(out, "SELECT DISTINCT user_id FROM raw_events ORDER BY user_id");
    let rows = String::from_utf8(found).expect("rows are text");
    rows.lines().map(|row| serde_json::from_str::<Value>(row).expect("JSON")["user_id"].to_string()).collect()
}

fn key_of(out: &Path) -> PathBuf {
    out.join("_tidemill/user_key")
}

#[test]
fn a_log_without_a_key_gets_one_that_is_random_kept_and_said_once_and_that_a_replay_has_too() {
    let folder = TempDir::new().expect("a folder");
    let input = [corpus::file(folder.path(), "access.log", lines(0..9).as_bytes())];
    let [out, other, again, set] = ["out", "other", "again", "set"].map(|name| folder.path().join(name));
    let key = key_of(&out);
    let first = run(&input, &out);
    assert_eq!(first.stderr.matches(SAID).count(), 1, "{}", first.stderr);
    assert!(first.stderr.contains(key.to_str().expect("a path in UTF-8")), "{}", first.stderr);
    let secret = fs::read_to_string(&key).expect("the key is kept");
    assert_eq!(key.metadata().expect("it is there").permissions().mode() & 0o777, 0o600);
    assert!(!first.stderr.contains(secret.trim()));

    let mut log = OpenOptions::new().append(true).open(&input[0]).expect("the log");
    log.write_all(lines(9..20).as_bytes()).expect("more lines");
    let second = run(&input, &out);
    assert!(!second.stderr.contains(SAID), "{}", second.stderr);
    assert_eq!(users(&out).len(), 1, "an address is one user, before and after");

    run(&input, &other);
    assert_ne!(users(&other), users(&out), "another state has another key");
    let [out_text, again_text] = [&out, &again].map(|path| path.to_str().expect("a path in UTF-8"));
    let replayed = tidemill().command(&["replay", "--bindings", out_text, "--out", again_text]);
    assert_eq!(replayed.code, Some(0), "{}", replayed.stderr);
    assert!(!replayed.stderr.contains(SAID), "{}", replayed.stderr);
    assert_eq!(tidemill().command(&["diff", out_text, again_text]).code, Some(0));
    assert_eq!(users(&again), users(&out));

    // The kept file is one that can be set; another key is refused over this state.
    let file = key.to_str().expect("a path in UTF-8");
    let done = tidemill().job(&input, &set).environment("TIDEMILL_HASH_KEY_FILE", file).outcome();
    assert_eq!((done.code, key_of(&set).exists()), (Some(0), false), "{}", done.stderr);
    assert_eq!(users(&set), users(&out));
    let refused = tidemill().job(&input, &out).environment("TIDEMILL_HASH_KEY", "another").outcome();
    refused.assert_refused(&[3], &["TIDEMILL_HASH_KEY"]);
}

#[test]
fn events_need_no_key_and_a_state_that_was_begun_without_one_says_how_to_go_on() {
    let folder = TempDir::new().expect("a folder");
    let events = r#"{"event_id":"e","event_type":"click","user_id":"u","timestamp":1767225600000}"#;
    let out = folder.path().join("events-out");
    let done = run(&[corpus::file(folder.path(), "events.ndjson", format!("{events}\n").as_bytes())], &out);
    assert!(!done.stderr.contains(SAID) && !key_of(&out).exists(), "{}", done.stderr);

    // As builds did that had no random keys.
    let known = ("TIDEMILL_HASH_KEY", "tidemill: no TIDEMILL_HASH_KEY was set");
    let (input, old) = ([corpus::file(folder.path(), "access.log", lines(0..9).as_bytes())], folder.path().join("old"));
    let before = || tidemill().job(&input, &old).environment(known.0, known.1).outcome();
    assert_eq!(before().code, Some(0));
    tidemill().job(&input, &old).outcome().assert_refused(&[3], &[known.0, known.1, "as was taken then"]);
    assert_eq!(before().code, Some(0));
}
