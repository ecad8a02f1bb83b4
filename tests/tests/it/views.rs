//! `top_pages` and `funnel` against an independent computation: over the real access log, and after `kill -9` and rescale.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::Run;

use crate::{USER_KEY, assert_agrees, assert_books_balance, counter, oracle_python, root, setting, tidemill};

/// Runs both views to the end of the input by `run`; gives their folders.
fn both(inputs: &[PathBuf], folder: &Path, mut run: impl FnMut(Run)) -> [PathBuf; 2] {
    ["top_pages", "funnel"].map(|view| {
        let out = folder.join(view);
        run(tidemill().job(inputs, &out).pipeline(view).environment(USER_KEY.0, USER_KEY.1));
        out
    })
}

#[track_caller]
fn assert_engine_agrees(inputs: &[PathBuf], [top_pages, funnel]: &[PathBuf; 2], format: &str) {
    let mut command = Command::new(oracle_python());
    command.arg(root().join("tests/oracle/compare_views.py")).args(inputs).args(["--format", format]);
    command.arg("--top-pages").arg(top_pages).arg("--funnel").arg(funnel);
    assert_agrees(command.arg("--tidemill").arg(tidemill().binary()).env(USER_KEY.0, USER_KEY.1));
}

#[test]
fn events_that_views_cannot_verify_are_in_a_table_of_each() {
    let folder = TempDir::new().expect("a folder");
    let bytes = corpus::events(20_000, 91, Rates { very_late: 2_000, ..Rates::default() });
    let inputs = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let mut unverified = Vec::new();
    let views = both(&inputs, folder.path(), |run| {
        let line = run.eager().workers(2).finish();
        assert_books_balance(&line);
        unverified.push(counter(&line, "unverified"));
    });
    assert!(unverified.iter().all(|n| *n > 0), "{unverified:?}");
    for (view, number) in views.iter().zip(unverified) {
        let table = view.file_name().expect("it is a folder").to_str().expect("it is named after the view");
        let sql = format!("SELECT count(*) AS n FROM {table}_unverified_events");
        let row: Value = serde_json::from_slice(&tidemill().query(view, &sql)).expect("a line of JSON");
        assert_eq!(row["n"], number, "{table}");
    }
}

#[test]
fn views_of_the_real_access_log_equal_an_independent_computation() {
    let folder = TempDir::new().expect("a folder");
    let inputs = [root().join("../shared/data/access-2015.log.gz")];
    let views = both(&inputs, folder.path(), |run| {
        let line = run.workers(2).option(&["--epoch-bytes", "131072"]).finish();
        assert_books_balance(&line);
        assert_eq!(counter(&line, "unverified"), 0, "{line}");
    });
    assert_engine_agrees(&inputs, &views, "combined");
}

#[test]
fn views_equal_an_independent_computation_after_kills_and_rescales() {
    let (seed, kills) = (setting("SEED", 1), setting("KILLS", 4));
    eprintln!("SEED={seed} KILLS={kills}");
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let folder = TempDir::new().expect("a folder");
    let bytes = corpus::events(60_000, seed, Rates::within_horizon());
    let inputs = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let views = both(&inputs, folder.path(), |run| {
        for _ in 0..kills {
            // A run that is not killed in time was finished, which is as good a start as any.
            let _finished = run
                .eager()
                .workers(dice.random_range(1..=3))
                .start()
                .kill_after(Duration::from_millis(dice.random_range(100..900)));
        }
        let line = run.eager().workers(dice.random_range(1..=3)).finish();
        assert_books_balance(&line);
        assert_eq!(counter(&line, "unverified"), 0, "{line}");
    });
    assert_engine_agrees(&inputs, &views, "ndjson");
}
