//! Records at which a keyed operator panics the process: all of an epoch are set aside in three starts, and the rest is exact.
//! Where none is to blame a supervised run ends.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_tests::corpus;
use tidemill_tests::harness::Tidemill;

use crate::counter;
use crate::dead_letters::letters;
use crate::processes::shaped;
use crate::quarantine::third_time_lucky;

const POSTINGS: i64 = 4_000;

fn program() -> Tidemill {
    Tidemill::new(env!("CARGO_BIN_EXE_panics-under-test"))
}

/// Account, time and cents; times go back and forth by a minute.
fn posting(number: i64, bad: &BTreeSet<i64>) -> (String, i64, i64) {
    let cents = if bad.contains(&number) { 0 } else { number % 97 + 1 };
    (format!("account-{}", number % 11), 1_767_225_600_000 + number * 1_000 + (number * number % 61) * 1_000, cents)
}

fn line((account, at, cents): (String, i64, i64)) -> String {
    format!("{{\"account\":\"{account}\",\"at\":{at},\"cents\":{cents}}}\n")
}

/// The last number and balance of each account, and how many rows it has.
fn expected(bad: &BTreeSet<i64>) -> BTreeMap<String, (i64, i64, i64)> {
    let mut accounts = BTreeMap::new();
    for number in (0..POSTINGS).filter(|number| !bad.contains(number)) {
        let (account, _, cents) = posting(number, bad);
        let (rows, last, balance): &mut (i64, i64, i64) = accounts.entry(account).or_default();
        (*rows, *last, *balance) = (*rows + 1, *last + 1, *balance + cents);
    }
    accounts
}

fn found(out: &Path) -> BTreeMap<String, (i64, i64, i64)> {
    // What is added is positive, so the last balance is the largest.
    let sql =
        "SELECT account, count(*) AS n, max(number) AS last, max(balance) AS balance FROM balances GROUP BY account";
    let lines = program().query(out, sql);
    let rows = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let row = |line: &[u8]| {
        let row: Value = serde_json::from_slice(line).unwrap();
        let number = |column: &str| row[column].as_i64().unwrap();
        (row["account"].as_str().unwrap().to_owned(), (number("n"), number("last"), number("balance")))
    };
    rows.map(row).collect()
}

#[test]
fn a_panic_in_process_sets_its_record_aside_and_so_it_does_all_of_an_epoch_in_three_starts() {
    let folder = TempDir::new().unwrap();
    for (shape, bad) in [((1, 2), vec![1_234]), ((2, 1), vec![700]), ((1, 1), (500..1_000).step_by(7).collect())] {
        let (context, bad) = (format!("{shape:?}, {} bad", bad.len()), bad.into_iter().collect::<BTreeSet<i64>>());
        let lines: String = (0..POSTINGS).map(|number| line(posting(number, &bad))).collect();
        let input = [corpus::file(folder.path(), &format!("{}-{}.ndjson", shape.0, shape.1), lines.as_bytes())];
        let out = folder.path().join(format!("out-{}-{}", shape.0, shape.1));
        let run = shaped(&program().job(&input, &out).pipeline("balances").eager(), shape);
        let said = third_time_lucky(&run.outcome(), &context);
        assert_eq!(counter(&said, "quarantined"), bad.len() as u64, "{context}: {said}");
        assert_eq!(found(&out), expected(&bad), "{context}");
        let letters = letters(&out);
        let numbers: BTreeSet<i64> = letters.iter().map(|letter| letter["line"].as_i64().unwrap() - 1).collect();
        assert_eq!((numbers, letters.len()), (bad.clone(), bad.len()), "{context}");
        for letter in &letters {
            let reason = letter["reason"].as_str().unwrap();
            assert_eq!(reason, "it panicked in running_balances twice: a posting moves nothing", "{context}");
        }
        // What is set aside stays it.
        assert_eq!(run.finish()["quarantined"], bad.len(), "{context}");
    }
}

#[test]
fn a_panic_in_a_timer_ends_a_supervised_run_until_the_pipeline_is_mended() {
    let folder = TempDir::new().unwrap();
    let (large, none) = (111, BTreeSet::new());
    let (account, at, cents) = posting(large, &none);
    let mut lines: Vec<String> = (0..POSTINGS).map(|number| line(posting(number, &none))).collect();
    lines[111] = line((account.clone(), at, 1_000));
    let input = [corpus::file(folder.path(), "postings.ndjson", lines.concat().as_bytes())];
    let mut rest = expected(&none);
    rest.get_mut(&account).unwrap().2 += 1_000 - cents;
    for shape in [(1, 2), (2, 1)] {
        let out = folder.path().join(format!("out-{}", shape.0));
        let run = program().job(&input, &out).pipeline("balances").option(&["--epoch-bytes", "65536"]);
        let outcome = shaped(&run, shape).outcome();
        let key = format!("running_balances panicked at key default/{account} in epoch ");
        let says = ["attempt 2 begins", &key, "nobody has looked at a large posting", "so the run ends for good"];
        outcome.assert_refused(&[3], &says);
        assert!(!outcome.stderr.contains("attempt 3 begins"), "{}", outcome.stderr);
        shaped(&run.environment("MENDED", "yes"), shape).finish();
        assert_eq!(found(&out), rest, "{shape:?}");
    }
}
