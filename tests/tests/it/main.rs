//! The job as others run it: the command on real files, its tables against oracles, its promises under attack.
//!
//! The modules say `cfg(test)` so that the lints know the helpers in them for test code.

#[cfg(test)]
mod accept_loss;
#[cfg(test)]
mod access;
#[cfg(test)]
mod attacks;
#[cfg(test)]
mod attacks_on_others;
#[cfg(test)]
mod avro;
#[cfg(test)]
mod chaos;
#[cfg(test)]
mod chaos_services;
#[cfg(test)]
mod collect;
#[cfg(test)]
mod completeness;
#[cfg(test)]
mod config;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod contract;
#[cfg(test)]
mod corruption;
#[cfg(test)]
mod dead_letters;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod disk_full;
#[cfg(test)]
mod docs;
#[cfg(test)]
mod early_start;
#[cfg(test)]
mod fencing;
#[cfg(test)]
mod final_files;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod hang;
#[cfg(test)]
mod kafka_faults;
#[cfg(test)]
mod keyed_panics;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod links;
#[cfg(test)]
mod live;
mod lost_tables;
#[cfg(test)]
mod nexmark;
#[cfg(test)]
mod odd_input;
#[cfg(test)]
mod otlp;
#[cfg(test)]
mod processes;
#[cfg(test)]
mod quarantine;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod repeats;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod rescale;
#[cfg(test)]
mod retention;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod second_start;
#[cfg(test)]
mod senders;
#[cfg(test)]
mod story;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod user_key;
mod views;
#[cfg(test)]
mod why_open;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tidemill_tests::harness::{Outcome, Running, Tidemill};

/// The command under test.
fn tidemill() -> Tidemill {
    Tidemill::new(env!("CARGO_BIN_EXE_tidemill-under-test"))
}

/// The root of the repository.
fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the package is a folder of the repository").to_owned()
}

/// A number from the environment, for longer runs by hand.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

/// Two addresses that are free now.
fn free_addresses() -> [String; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("it listens").to_string())
}

/// The interpreter that has the independent engine.
#[track_caller]
fn oracle_python() -> PathBuf {
    let python = root().join(".cache/venv/bin/python");
    assert!(python.exists(), "{} is missing; `make venv` installs the independent engine", python.display());
    python
}

/// By which runs name the users of logs that are compared with the oracle.
const USER_KEY: (&str, &str) = ("TIDEMILL_HASH_KEY", "a key of the tests");

/// Compares every table of a run with what the ClickHouse engine computes from the same files.
#[track_caller]
fn assert_engine_agrees(inputs: &[PathBuf], data: &Path, options: &[&str]) {
    let mut command = Command::new(oracle_python());
    command.arg(root().join("tests/oracle/compare.py")).args(inputs).arg("--data").arg(data);
    command.arg("--tidemill").arg(tidemill().binary()).args(options).env(USER_KEY.0, USER_KEY.1);
    assert_agrees(&mut command);
}

/// Runs a comparison of the oracle to its end; what it says is the report if it finds a difference.
#[track_caller]
fn assert_agrees(command: &mut Command) {
    let done = command.output().expect("the interpreter starts");
    let said = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{command:?}: {}\n{}", done.status, String::from_utf8_lossy(&said));
}

/// Ends a live run and expects that it ended because it was asked to.
#[track_caller]
fn stop(running: Running) -> Outcome {
    running.signal("TERM");
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(outcome.json()["status"], "stopped", "{}", outcome.stderr);
    outcome
}

/// A counter of the `--json` line.
#[track_caller]
fn counter(line: &Value, name: &str) -> u64 {
    line[name].as_u64().unwrap_or_else(|| panic!("{name} is no counter in {line}"))
}

/// Checks the sum that every `--json` line promises.
#[track_caller]
fn assert_books_balance(line: &Value) {
    let parts = ["accepted", "duplicates", "malformed", "quarantined", "unverified"].map(|part| counter(line, part));
    assert_eq!(counter(line, "events_read"), parts.iter().sum::<u64>(), "{line}");
    assert!(counter(line, "conflicting_duplicates") <= counter(line, "duplicates"), "{line}");
}
