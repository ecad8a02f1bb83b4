//! A sink that hangs stops the sources: memory stays bounded (INV-8) and nothing is lost.

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::resident_bytes;
use tidemill_tests::oracle::Oracle;
use tidemill_tests::rows::Tables;

use crate::tidemill;

/// `--memory-budget`: what may be read and not yet committed.
const BUDGET: u64 = 64 << 20;
/// Beside the budget: code, threads' stacks, dedup ids and sessions of a million events, buffers of sinks.
const CONSTANT: u64 = 320 << 20;

#[test]
fn a_hanging_sink_stops_the_sources_and_loses_nothing() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(1_000_000, 31, Rates::within_horizon());
    let oracle = Oracle::of([bytes.as_slice()]);
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    drop(bytes);
    let out = folder.path().join("out");
    let job = tidemill()
        .job(&input, &out)
        .workers(2)
        .option(&["--memory-budget", &BUDGET.to_string(), "--epoch-bytes", "8388608", "--disable-sink", "raw_events"])
        .environment("TIDEMILL_FAULTS", "hang_sink:page_views_by_minute@3=30s");
    let mut running = job.start();
    let mut highest = 0;
    assert!(!running.until(|pid| {
        highest = highest.max(resident_bytes(pid));
        false
    }));
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let line = outcome.json();
    let seconds = line["seconds"].as_f64().expect("seconds of the run");
    assert!(seconds >= 30.0, "the fault did not strike: {line}");
    let peak = line["peak_memory_bytes"].as_u64().expect("peak memory").max(highest);
    assert!(peak <= BUDGET + CONSTANT, "{peak} bytes resident, {} allowed: {line}", BUDGET + CONSTANT);
    let (expected, books) = oracle.answer();
    assert_eq!(line["accepted"].as_u64(), Some(books.accepted), "{line}");
    let found = Tables::read(|sql| match sql.ends_with("raw_events") {
        true => Vec::new(),
        false => tidemill().query(&out, sql),
    });
    expected.without_raw_events().assert_equal(&found, "after the sink hung");
}
