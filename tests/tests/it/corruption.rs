//! A flipped bit or a lost tail anywhere under `_tidemill/`: an older checkpoint, or a refusal, never a wrong answer.
//!
//! `CORRUPTIONS` in the environment sets how many files are damaged in each way (24), `SEED` which.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::{Run, copy_folder, files_under};
use tidemill_tests::oracle::Oracle;

use crate::{setting, tidemill};

/// How a file is damaged.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Bit,
    Tail,
}

#[test]
fn a_killed_run_with_a_damaged_file_falls_back_or_refuses() {
    check(|job| {
        let checkpoints = job.out().join("_tidemill/checkpoints");
        let mut running = job.start();
        assert!(running.until(|_| files_under(&checkpoints).len() >= 3), "the run ended before its third checkpoint");
        running.signal("KILL");
        assert_eq!(running.wait().code, None, "the run ended before it was killed");
    });
}

#[test]
fn a_finished_run_with_a_damaged_file_falls_back_or_refuses() {
    check(|job| {
        job.finish();
    });
}

/// Brings a run to some state, then damages a copy of it in one place after another and starts the same command.
#[track_caller]
fn check(bring_about: impl Fn(&Run)) {
    let mut dice = ChaCha8Rng::seed_from_u64(setting("SEED", 1));
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(60_000, 41, Rates::within_horizon());
    let oracle = Oracle::of([bytes.as_slice()]);
    let (expected, _) = oracle.answer();
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let out = folder.path().join("out");
    let job =
        tidemill().job(&input, &out).workers(2).option(&["--epoch-bytes", "1048576", "--checkpoint-every", "20ms"]);
    bring_about(&job);
    let saved = folder.path().join("saved");
    fs::rename(&out, &saved).unwrap();
    let wanted = usize::try_from(setting("CORRUPTIONS", 24)).unwrap();
    let (mut carried_on, mut refused) = (0, 0);
    for damage in [Damage::Bit, Damage::Tail] {
        for file in choose(&saved.join("_tidemill"), wanted, &mut dice) {
            copy_folder(&saved, &out);
            let what = injure(&out.join("_tidemill").join(&file), damage, &mut dice);
            let context = format!("{} {what}", file.display());
            // A reader before the start sees a true prefix or refuses.
            if tidemill().try_query(&out, "SELECT count(*) FROM progress").is_ok() {
                check_query(&out, &input, &oracle, &context);
            }
            let outcome = job.outcome();
            match outcome.code {
                Some(0) => {
                    carried_on += 1;
                    match tidemill().try_query(&out, "SELECT count(*) FROM page_views_by_minute") {
                        Ok(_) => expected.assert_equal(&tidemill().tables(&out), &context),
                        Err(failed) => failed.assert_refused(&[1, 3], &[]),
                    }
                }
                _ => {
                    refused += 1;
                    eprintln!("{context}: {}", outcome.stderr.lines().last().unwrap_or_default());
                    outcome.assert_refused(&[3], &[]);
                }
            }
            fs::remove_dir_all(&out).unwrap();
        }
    }
    eprintln!("{carried_on} damaged runs carried on, {refused} refused");
    assert!(carried_on > 0, "no damage at all was survived");
}

/// Tables of a damaged folder are those of the prefix it names, unless the query refuses.
#[track_caller]
fn check_query(out: &Path, input: &[PathBuf], oracle: &Oracle, context: &str) {
    let refused = tidemill_tests::rows::QUERIES
        .iter()
        .find_map(|(table, columns)| tidemill().try_query(out, &format!("SELECT {columns} FROM {table}")).err());
    match refused {
        Some(failed) => failed.assert_refused(&[1, 3], &[]),
        None => drop(tidemill().check_visible_prefix(out, input, oracle, context)),
    }
}

/// At most `wanted` files, with some of every folder.
fn choose(folder: &Path, wanted: usize, dice: &mut ChaCha8Rng) -> Vec<PathBuf> {
    let mut by_folder: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for file in files_under(folder) {
        if fs::metadata(folder.join(&file)).is_ok_and(|meta| meta.len() > 0) {
            by_folder.entry(file.parent().unwrap_or(Path::new("")).to_owned()).or_default().push(file);
        }
    }
    by_folder.values_mut().for_each(|files| files.shuffle(dice));
    let mut chosen = Vec::new();
    while chosen.len() < wanted && by_folder.values().any(|files| !files.is_empty()) {
        chosen.extend(by_folder.values_mut().filter_map(Vec::pop));
    }
    assert!(!chosen.is_empty(), "{} holds no file", folder.display());
    chosen.truncate(wanted);
    chosen
}

/// Damages a file and says how.
fn injure(path: &Path, damage: Damage, dice: &mut ChaCha8Rng) -> String {
    let mut bytes = fs::read(path).unwrap();
    let at = dice.random_range(0..bytes.len());
    let what = match damage {
        Damage::Bit => {
            let bit = dice.random_range(0..8);
            bytes[at] ^= 1 << bit;
            format!("with bit {bit} of byte {at} flipped")
        }
        Damage::Tail => {
            bytes.truncate(at);
            format!("cut to {at} bytes")
        }
    };
    fs::write(path, bytes).unwrap();
    what
}
