//! Real processes: one is stopped, another goes on in its place, and the first wakes up to find itself fenced.

use std::path::Path;

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::files_under;
use tidemill_tests::oracle::Oracle;

use crate::{setting, tidemill};

#[test]
fn a_run_that_slept_through_a_new_one_commits_nothing_and_says_so() {
    let seed = setting("SEED", 1);
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(200_000, seed, Rates::within_horizon());
    let oracle = Oracle::of([bytes.as_slice()]);
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let mut stopped_in_time = 0;
    // The sleeper is stopped when it has written so many files: at its first steps, and in full work.
    for (attempt, written) in [1, 4, 12, 40, 90].into_iter().enumerate() {
        let out = folder.path().join(format!("out-{attempt}"));
        let job = tidemill().job(&input, &out).eager();
        let mut sleeper = job.workers(1).start();
        if !sleeper.until(|_| files_under(&out).len() >= written) {
            continue;
        }
        sleeper.signal("STOP");
        job.option(&["--take-over"]).workers(2).finish();
        let (expected, _) = oracle.answer();
        expected.assert_equal(&tidemill().tables(&out), "while the sleeper sleeps");
        let before = files_under(&out);
        sleeper.signal("CONT");
        let outcome = sleeper.wait();
        if outcome.code == Some(0) {
            // It had done everything when it was stopped.
            continue;
        }
        stopped_in_time += 1;
        outcome.assert_refused(&[4], &["run"]);
        expected.assert_equal(&tidemill().tables(&out), "after the sleeper woke up");
        let after = files_under(&out);
        // The sleeper's own unfinished file, which no other run looks at, and its lock are its to take away.
        let is_own = |name: &str| name.starts_with(".tmp-") || name == "running.lock";
        let own = |file: &Path| file.file_name().is_some_and(|name| is_own(&name.to_string_lossy()));
        let gone: Vec<_> = before.iter().filter(|file| !after.contains(file) && !own(file)).collect();
        assert!(gone.is_empty(), "the fenced run deleted {gone:?}");
    }
    assert!(stopped_in_time >= 2, "only {stopped_in_time} sleepers were stopped before their end");
}
