//! `kill -9` at random moments, another worker count at each start: nothing lost, nothing doubled.
//!
//! `SEED` and `KILLS` in the environment choose another schedule; `make chaos-files SEED= KILLS=` runs many.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::oracle::Oracle;

use crate::{assert_books_balance, counter, setting, tidemill};

const EVENTS: u64 = 200_000;

#[test]
fn killed_at_any_moment_the_visible_tables_are_a_prefix_and_the_final_ones_complete() {
    check("");
}

#[test]
fn killed_with_a_store_that_forgets_what_was_not_synced_the_same_holds() {
    check("forget_unsynced");
}

#[track_caller]
fn check(faults: &str) {
    let (seed, kills) = (setting("SEED", 1), setting("KILLS", 8));
    eprintln!("SEED={seed} KILLS={kills} TIDEMILL_FAULTS={faults}");
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let folder = TempDir::new().unwrap();
    let pieces = corpus::cut(&corpus::events(EVENTS, seed, Rates::any_order()), 2);
    let oracle = Oracle::of(pieces.iter().map(Vec::as_slice));
    let inputs = [
        corpus::file(folder.path(), "earlier.ndjson", &pieces[0]),
        corpus::file(folder.path(), "later.ndjson", &pieces[1]),
    ];
    let job = |out: &Path| tidemill().job(&inputs, out).eager().environment("TIDEMILL_FAULTS", faults);
    let (mut round, mut killed) = (0, 0);
    while killed < kills {
        round += 1;
        let out = folder.path().join(format!("round-{round}"));
        let mut seen = vec![0; inputs.len()];
        // Ten kills at most on the way to one end, so that ends are also seen often.
        let finished = (0..10).find_map(|_| {
            let job = job(&out).workers(dice.random_range(1..=3));
            if killed == kills {
                return Some(job.outcome());
            }
            let ended = job.start().kill_after(Duration::from_millis(dice.random_range(10..1_500)));
            if ended.is_none() {
                killed += 1;
                let context = format!("seed {seed}, kill {killed}");
                match tidemill().try_query(&out, "SELECT count(*) FROM progress") {
                    Ok(_) => {
                        let now = tidemill().check_visible_prefix(&out, &inputs, &oracle, &context);
                        assert!(
                            now.iter().zip(&seen).all(|(now, before)| now >= before),
                            "{context}: {now:?} {seen:?}"
                        );
                        seen = now;
                    }
                    Err(refused) => {
                        assert_eq!(seen, [0, 0], "{context}: what was visible is no more: {}", refused.stderr);
                    }
                }
            }
            ended
        });
        let outcome = finished.unwrap_or_else(|| job(&out).workers(2).outcome());
        assert_eq!(outcome.code, Some(0), "seed {seed}, kill {killed}: {}", outcome.stderr);
        let line = outcome.json();
        assert_eq!(line["status"], "finished", "{line}");
        assert_books_balance(&line);
        let (expected, books) = oracle.answer();
        assert_eq!(counter(&line, "accepted"), books.accepted, "{line}");
        assert_eq!(counter(&line, "events_read"), books.events_read, "{line}");
        let found = tidemill().tables(&out).without_server_times();
        expected.without_server_times().assert_equal(&found, &format!("seed {seed}, after {killed} kills"));
        fs::remove_dir_all(&out).unwrap();
    }
}
