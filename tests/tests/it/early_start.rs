//! A run that is started before what it reads is there.

use std::path::PathBuf;

use tempfile::TempDir;
use tidemill_tests::harness::Running;
use tidemill_tests::live::{EventLog, committed};
use tidemill_tests::oracle::Oracle;
use tidemill_tests::services::wait_until;

use crate::processes::until_said;
use crate::{assert_books_balance, counter, stop, tidemill};

/// What a run says that finds no topics.
const WAITS: &str = "waiting until something writes it";

/// A run over a log whose folder does not exist yet.
struct Early {
    _folder: TempDir,
    log: EventLog,
    out: PathBuf,
}

impl Early {
    fn new() -> Early {
        let folder = TempDir::new().unwrap();
        let (log, out) = (EventLog::new(folder.path().join("log")), folder.path().join("out"));
        Early { _folder: folder, log, out }
    }

    /// Starts the run of these topics, and waits until it says that it waits.
    fn started(&self, topics: &str, options: &[&str]) -> Running {
        let from = format!("{}?topics={topics}", self.log.address());
        let places = ["run", "web_analytics", "--from", &from, "--out", self.out.to_str().unwrap(), "--json"];
        let mut running = tidemill().start(&[&places[..], &["--epoch-every", "100ms"], options].concat());
        until_said(&mut running, WAITS);
        running
    }
}

#[test]
fn a_run_that_is_started_before_its_topics_says_once_what_it_waits_for_and_reads_them_from_their_beginning() {
    for options in [&[][..], &["--processes", "2"]] {
        let early = Early::new();
        let mut running = early.started("events.*", options);
        let (to, amount) = (early.log.address(), ["--events", "3000", "--span", "10m", "--within-horizon"]);
        let made = tidemill().command(&[&["generate", "--to", &to][..], &amount].concat());
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        let stored = early.log.records();
        wait_until(&format!("{stored} events are committed"), || {
            running.assert_alive("it reads a log that never ends");
            committed(&early.out) == stored
        });
        let outcome = stop(running);
        assert_eq!(outcome.stderr.matches(WAITS).count(), 1, "{}", outcome.stderr);
        let log = early.log.address();
        let named = format!("no topic in the log {} matches `events.*`", log.strip_prefix("log://").unwrap());
        assert!(outcome.stderr.contains(&named), "{}", outcome.stderr);
        let line = outcome.json();
        assert_books_balance(&line);
        let tables = tidemill().tables(&early.out);
        let lines = early.log.lines_as_read(&tables);
        let (expected, books) = Oracle::of([lines.as_slice()]).answer();
        assert_eq!(counter(&line, "accepted"), books.accepted, "{options:?}: {line}");
        expected.assert_equal(&tables, &format!("{options:?}"));
    }
}

#[test]
fn a_run_that_waits_for_its_topics_ends_well_when_it_is_asked_to_and_waits_again_when_it_is_started_again() {
    let early = Early::new();
    for options in [&[][..], &["--supervise"], &["--processes", "2"]] {
        let line = stop(early.started("events.page_view", options)).json();
        assert_eq!(counter(&line, "events_read"), 0, "{options:?}: {line}");
    }
}

#[test]
fn the_end_of_topics_that_are_not_there_is_refused() {
    let early = Early::new();
    let (from, out) = (early.log.address(), early.out.to_str().unwrap());
    let refused = tidemill().command(&["run", "web_analytics", "--from", &from, "--out", out, "--until-end"]);
    refused.assert_refused(&[2], &["no topic in the log", "start what writes it"]);
}
