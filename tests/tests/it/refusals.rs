//! Starts that must not happen: refused in words, before anything is changed or anybody is fenced.

use std::fs;

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::files_under;
use tidemill_tests::oracle::Oracle;
use tidemill_tests::services::{Services, unique};

use crate::tidemill;

#[test]
fn a_folder_that_was_written_with_exactly_once_off_is_no_place_for_a_run_with_it_on() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(5_000, 71, Rates::within_horizon());
    let first = corpus::file(folder.path(), "a.ndjson", &bytes);
    let out = folder.path().join("out");
    tidemill().job(std::slice::from_ref(&first), &out).option(&["--exactly-once", "off"]).finish();
    let before = tidemill().tables(&out);
    let second = corpus::file(folder.path(), "b.ndjson", &corpus::events(1_000, 72, Rates::within_horizon()));
    tidemill().job(&[first, second], &out).outcome().assert_refused(&[3], &["exactly-once off", "new folder"]);
    before.assert_equal(&tidemill().tables(&out), "a refused start changes nothing");
}

#[test]
fn tables_or_dead_letters_without_a_log_are_refused() {
    let folder = TempDir::new().unwrap();
    let input = [corpus::file(folder.path(), "a.ndjson", &corpus::events(1_000, 73, Rates::within_horizon()))];
    for left in ["tables/sessions/_recent/000000000001-000-000.parquet", "dead_letters/000000000001-000.ndjson"] {
        let out = folder.path().join(left.replace('/', "-"));
        fs::create_dir_all(out.join(left).parent().unwrap()).unwrap();
        fs::write(out.join(left), b"left by a run that did not finish").unwrap();
        let name = left.split('/').next().unwrap();
        tidemill().job(&input, &out).outcome().assert_refused(&[3], &[name, "no log", "new place"]);
        assert_eq!(files_under(&out).len(), 1, "{left}: a refused start writes nothing");
    }
}

#[test]
fn a_mistyped_or_changed_input_does_not_fence_the_run_that_is_alive() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(200_000, 74, Rates::within_horizon());
    let input = corpus::file(folder.path(), "events.ndjson", &bytes);
    let out = folder.path().join("out");
    let job = tidemill().job(std::slice::from_ref(&input), &out).eager();
    let mut alive = job.start();
    assert!(alive.until(|_| files_under(&out.join("_tidemill/log")).len() >= 5), "it ended before the second start");
    alive.signal("STOP");
    let missing = folder.path().join("evnets.ndjson");
    let mistyped = tidemill().job(&[input.clone(), missing], &out).outcome();
    mistyped.assert_refused(&[2, 3], &["evnets.ndjson"]);
    let elsewhere = corpus::file(folder.path(), "other.ndjson", &bytes);
    tidemill().job(&[elsewhere], &out).outcome().assert_refused(&[3], &["events.ndjson"]);
    alive.signal("CONT");
    let outcome = alive.wait();
    assert_eq!(outcome.code, Some(0), "it was fenced: {}", outcome.stderr);
    let (expected, _) = Oracle::of([bytes.as_slice()]).answer();
    expected.assert_equal(&tidemill().tables(&out), "after two refused starts");
}

#[test]
fn a_server_that_refuses_who_we_are_ends_a_run_with_its_word_and_5_also_a_supervised_one() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let (log, out) = (format!("log://{}/log", folder.path().display()), folder.path().join("out"));
    let (out, state) = (out.to_str().unwrap(), services.bucket(&unique("denied")));
    let mut environment = services.environment();
    environment.insert("AWS_SECRET_ACCESS_KEY".into(), "another".into());
    let tidemill = tidemill().with_environment(environment);
    for more in [&[][..], &["--supervise"]] {
        let run = ["run", "web_analytics", "--from", &log, "--to", out, "--state", &state];
        let outcome = tidemill.command(&[&run, more].concat());
        outcome.assert_refused(&[5], &["refuses us", "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"]);
    }
}
