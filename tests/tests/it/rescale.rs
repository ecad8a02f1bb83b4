//! Other numbers of workers and processes for a run that goes on, while events arrive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::{Outcome, Running};
use tidemill_tests::live::{committed, places, signal};
use tidemill_tests::oracle::Oracle;
use tidemill_tests::services::wait_until;

use crate::story::Story;
use crate::{assert_books_balance, counter, stop, tidemill};

fn rescaling(story: &Story, processes: u32, workers: u32) -> Running {
    let (processes, workers) = (processes.to_string(), workers.to_string());
    let out = story.out.to_str().unwrap();
    tidemill().start(&["rescale", "--out", out, "--processes", &processes, "--workers", &workers])
}

/// Rescales, and waits until the run has gone on in its new shape.
#[track_caller]
fn rescaled(story: &Story, running: &mut Running, done: &Outcome, processes: usize, workers: u32) {
    let context = format!("{processes} processes with {workers} workers");
    assert_eq!(done.code, Some(0), "{context}: {}", done.stderr);
    assert!(done.stderr.contains(&format!("{workers} workers in each of {processes} processes")), "{}", done.stderr);
    let before = committed(&story.out);
    wait_until(&format!("{context}: more is committed"), || {
        running.assert_alive(&context);
        committed(&story.out) > before && places(running.pid()).len() == processes
    });
}

#[test]
fn a_run_goes_on_with_other_numbers_while_events_arrive_also_when_a_process_dies_meanwhile() {
    let story = Story::new();
    let bytes = corpus::events(120_000, 81, Rates::within_horizon());
    let lines = corpus::lines(&bytes);
    let mut pieces = lines.chunks(lines.len().div_ceil(600));
    story.store(pieces.next().unwrap());
    let mut running = story.start(&[]);
    story.catch_up(&mut running);
    let enough = AtomicBool::new(false);
    let stored = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut stored = 1;
            for piece in pieces {
                story.store(piece);
                stored += 1;
                // All the rest is stored at once when nothing is left to disturb.
                if !enough.load(Ordering::Acquire) {
                    thread::park_timeout(std::time::Duration::from_millis(100));
                }
            }
            stored
        });
        rescaled(&story, &mut running, &rescaling(&story, 2, 2).wait(), 2, 2);
        // A process dies while the run is being rescaled.
        let rescale = rescaling(&story, 1, 2);
        signal(places(running.pid())[0].1, "KILL");
        rescaled(&story, &mut running, &rescale.wait(), 1, 2);
        let same = rescaling(&story, 1, 2).wait();
        assert_eq!(same.code, Some(0), "what it has already: {}", same.stderr);
        rescaled(&story, &mut running, &rescaling(&story, 2, 1).wait(), 2, 1);
        rescaled(&story, &mut running, &rescaling(&story, 1, 1).wait(), 1, 1);
        enough.store(true, Ordering::Release);
        writer.join().unwrap()
    });
    assert!(stored > 1, "nothing arrived");
    story.catch_up(&mut running);
    // One line, of the end and not of the stops between.
    let line = stop(running).json();
    assert_books_balance(&line);
    let tables = tidemill().tables(&story.out);
    let as_read = story.log.lines_as_read(&tables);
    let (expected, books) = Oracle::of([as_read.as_slice()]).answer();
    assert_eq!(counter(&line, "accepted"), books.accepted, "{line}");
    expected.assert_equal(&tables, "rescaled four times");
}

#[test]
fn only_a_supervised_run_is_rescaled_and_only_with_its_token() {
    let story = Story::new();
    story.store(&corpus::lines(&corpus::events(1_000, 82, Rates::within_horizon())));
    let nobody = rescaling(&story, 2, 2).wait();
    nobody.assert_refused(&[3], &["no supervisor", "--supervise", "Kubernetes"]);
    rescaling(&story, 2, 0).wait().assert_refused(&[2], &["--workers"]);

    let secret =
        |text: &str| tidemill().with_environment([("TIDEMILL_CLUSTER_TOKEN".to_owned(), text.to_owned())].into());
    let (from, out) = (story.log.address(), story.out.to_str().unwrap());
    let run = ["run", "web_analytics", "--from", &from, "--out", out, "--supervise", "--json"];
    let mut running = secret("a long secret").start(&run);
    story.catch_up(&mut running);
    let rescale = ["rescale", "--out", out, "--workers", "2"];
    tidemill().command(&rescale).assert_refused(&[3], &["TIDEMILL_CLUSTER_TOKEN"]);
    secret("another").command(&rescale).assert_refused(&[3], &["TIDEMILL_CLUSTER_TOKEN"]);
    let done = secret("a long secret").command(&rescale);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    stop(running);
}
