//! The command of a run that is alive, given once more: refused, and the first one goes on.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::{Outcome, Run, Running, files_under};
use tidemill_tests::live::{EventLog, committed, ended};
use tidemill_tests::oracle::Oracle;
use tidemill_tests::services::{Services, unique, wait_until};

use crate::processes::Live;
use crate::{stop, tidemill};

/// Checks that a start was refused because this process runs there.
#[track_caller]
fn assert_refused(outcome: &Outcome, pid: u32, place: &str) {
    let process = format!("process {pid} on");
    outcome.assert_refused(&[3], &[place, &process, "since", "is alive", "kill -TERM", "--take-over"]);
    assert_eq!(outcome.stderr.lines().count(), 1, "one sentence: {}", outcome.stderr);
}

#[test]
fn a_second_start_is_refused_and_the_first_runs_on() {
    let live = Live::new();
    let out = live.out().display().to_string();
    let running = live.started((2, 1));
    for shape in [(2, 1), (1, 2)] {
        assert_refused(&live.start(shape).wait(), running.pid(), &out);
    }
    let said = running.said();
    assert!(!said.contains("attempt 2"), "it was disturbed: {said}");
    // The first supervisor is still the one that is found.
    let rescaled = tidemill().command(&["rescale", "--out", &out, "--processes", "1", "--workers", "2"]);
    assert_eq!(rescaled.code, Some(0), "{}", rescaled.stderr);
    live.finish(running, "after two refused starts");
}

#[test]
fn a_run_that_nobody_supervises_is_found_alive_too_and_a_wrong_start_beside_it_is_told_what_is_wrong() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(200_000, 75, Rates::within_horizon());
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let out = folder.path().join("out");
    let job = tidemill().job(&input, &out).eager();
    let mut alive = job.start();
    assert!(alive.until(|_| files_under(&out.join("_tidemill/log")).len() >= 5), "it ended before the second start");
    // Even one that is stopped lives.
    alive.signal("STOP");
    assert_refused(&job.outcome(), alive.pid(), &out.display().to_string());
    assert_refused(&job.option(&["--supervise"]).outcome(), alive.pid(), &out.display().to_string());
    let wrong = job.option(&["--drop-state", "nobody"]).outcome();
    wrong.assert_refused(&[2, 3], &["--drop-state nobody"]);
    assert!(!wrong.stderr.contains("is alive"), "{}", wrong.stderr);
    alive.signal("CONT");
    let outcome = alive.wait();
    assert_eq!(outcome.code, Some(0), "it was fenced: {}", outcome.stderr);
    let (expected, _) = Oracle::of([bytes.as_slice()]).answer();
    expected.assert_equal(&tidemill().tables(&out), "after refused starts");
}

#[test]
fn a_run_that_took_over_is_found_alive_once_the_fenced_one_has_ended() {
    let live = Live::new();
    let fenced = live.started((1, 1));
    let mut later = live.take_over((1, 1));
    wait_until("the first run is fenced", || {
        later.assert_alive("it took over");
        live.append(100);
        ended(fenced.pid())
    });
    fenced.wait().assert_refused(&[4], &["not started again"]);
    let lock = live.out().join("_tidemill/running.lock");
    wait_until("the later run has the lock", || {
        fs::read_to_string(&lock).is_ok_and(|text| text.contains(&format!("\"pid\":{},", later.pid())))
    });
    assert_refused(&live.start((1, 1)).wait(), later.pid(), &live.out().display().to_string());
    live.finish(later, "after it took over");
}

/// What a start says that finds the trace of a run in a bucket.
const WATCHES: &str = "looking for 10s whether it is alive";

/// A run with its state in a bucket and its tables in a folder.
struct InBucket {
    folder: TempDir,
    log: EventLog,
    run: Run,
    state: String,
}

impl InBucket {
    fn new() -> InBucket {
        let services = Services::shared();
        let folder = TempDir::new().unwrap();
        let log = EventLog::new(folder.path().join("log"));
        let state = services.bucket(&unique("alive"));
        let to = folder.path().join("tables").display().to_string();
        let run = tidemill().with_environment(services.environment()).stream(&log.address(), &[to], &state);
        let run = run.option(&["--epoch-every", "200ms"]);
        let this = InBucket { folder, log, run, state };
        this.append("1");
        this
    }

    fn append(&self, seed: &str) {
        let options = ["--events", "2000", "--span", "10m", "--within-horizon", "--seed", seed];
        let made = tidemill().command(&[&["generate", "--to", &self.log.address()][..], &options].concat());
        assert_eq!(made.code, Some(0), "{}", made.stderr);
    }

    /// Starts the run and waits until it has read all that is stored.
    fn started(&self, options: &[&str], seed: &str) -> Running {
        let mut running = self.run.option(options).start();
        self.append(seed);
        let stored = self.log.records();
        wait_until(&format!("{stored} events are committed"), || {
            running.assert_alive("it reads a log that never ends");
            committed(&self.folder.path().join("tables")) == stored
        });
        running
    }
}

#[test]
fn a_run_in_a_bucket_is_found_alive_and_one_that_crashed_there_is_gone_on_with() {
    let bucket = InBucket::new();
    let first = bucket.started(&[], "2");
    assert!(!first.said().contains(WATCHES), "{}", first.said());
    for options in [&[][..], &["--supervise"]] {
        let refused = bucket.run.option(options).outcome();
        let process = format!("process {} on", first.pid());
        refused.assert_refused(&[3], &[WATCHES, &bucket.state, &process, "is alive there", "--take-over"]);
    }
    assert!(first.kill_after(Duration::ZERO).is_none(), "it ended before it was killed");

    let second = bucket.started(&["--supervise"], "3");
    assert!(second.said().contains(WATCHES), "{}", second.said());
    stop(second);

    let third = bucket.started(&[], "4");
    assert!(!third.said().contains(WATCHES), "the second one ended in order: {}", third.said());
    let mut fourth = bucket.run.option(&["--take-over"]).start();
    let mut seed = 4;
    wait_until("the third run is fenced", || {
        fourth.assert_alive("it took over");
        seed += 1;
        bucket.append(&seed.to_string());
        ended(third.pid())
    });
    third.wait().assert_refused(&[4], &["run"]);
    assert!(!fourth.said().contains(WATCHES), "{}", fourth.said());
    stop(fourth);
}
