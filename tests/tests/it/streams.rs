//! Topics in; ClickHouse, S3 and topics out, all at once: every place equals the oracle, exactly.
//!
//! `EVENTS` in the environment sets how many events the large test takes; `make kafka-million` takes a million.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::generate::{GenerateConfig, Rates, generate};
use tidemill_tests::corpus;
use tidemill_tests::harness::{Run, Running};
use tidemill_tests::oracle::Books;
use tidemill_tests::services::{Producer, Services, committed_offsets};
use tidemill_tests::stream::Stream;
use tidemill_tests::topics::{self, Topics};

use crate::{assert_agrees, assert_books_balance, counter, oracle_python, root, setting, stop, tidemill};

/// Starts a run to where the topics end, and gives its `--json` object.
#[track_caller]
fn finish(run: &Run, workers: usize) -> Value {
    run.option(&["--until-end", "--epoch-bytes", "4194304"]).workers(workers).finish()
}

#[track_caller]
fn assert_books(line: &Value, books: &Books) {
    assert_books_balance(line);
    let found = ["events_read", "accepted", "malformed", "duplicates", "conflicting_duplicates"];
    let found = found.map(|name| counter(line, name));
    let Books { events_read, accepted, malformed, duplicates, conflicting_duplicates } = *books;
    assert_eq!(found, [events_read, accepted, malformed, duplicates, conflicting_duplicates], "{line}");
    assert_eq!(counter(line, "unverified"), 0, "{line}");
}

/// Sends these lines and waits until the broker has them.
fn send(topics: &Topics<'_>, brokers: &str, from: usize, until: usize) {
    let producer = Producer::new(brokers);
    topics.send(&producer, from, until);
    producer.flush();
}

/// Compares every place with what the ClickHouse engine computes from what the partitions hold.
#[track_caller]
fn assert_engine_agrees(stream: &Stream, topics: &Topics<'_>, line: &Value, folder: &Path) {
    let (whole, some) = stream.dump(&folder.join("rows"));
    let mut command = Command::new(oracle_python());
    command.arg(root().join("tests/oracle/compare_rows.py")).args(topics.files(&folder.join("partitions")));
    whole.iter().for_each(|place| {
        command.arg("--rows").arg(place);
    });
    command.arg("--some").arg(some).arg("--books").arg(line.to_string());
    assert_agrees(&mut command);
}

#[track_caller]
fn check_seed(seed: u64) {
    let services = Services::shared();
    let events = setting("EVENTS", 60_000);
    let folder = TempDir::new().unwrap();
    let stream = Stream::new(&tidemill(), services, "streams");
    let bytes = corpus::events(events, seed, Rates::within_horizon());
    let topics = Topics::deal(vec![(stream.topic("page"), 5), (stream.topic("rest"), 3)], &bytes);
    topics.create(services.brokers());
    send(&topics, services.brokers(), 0, topics.len());
    stream.apply();
    let state = folder.path().join("state");
    let run = stream.run(&state.to_string_lossy());

    let line = finish(&run, 2);
    let oracle = topics.oracle();
    let sent = topics.counts(topics.len());
    assert_books(&line, &oracle.answer_of_prefix(&sent).1);
    assert_engine_agrees(&stream, &topics, &line, folder.path());
    stream.check_dead_letters(&topics, &oracle, &sent, &format!("seed {seed}"));
    stream.database().drop_all();
}

#[test]
fn every_place_equals_the_oracle_for_seed_1() {
    check_seed(1);
}

#[test]
fn every_place_equals_the_oracle_for_seed_2() {
    check_seed(2);
}

#[test]
fn the_same_command_goes_on_where_the_topics_ended_and_changes_nothing_without_need() {
    let services = Services::shared();
    let stream = Stream::new(&tidemill(), services, "again");
    let bytes = corpus::events(20_000, 3, Rates::within_horizon());
    let topics = Topics::deal(vec![(stream.topic("all"), 4)], &bytes);
    topics.create(services.brokers());
    let half = topics.len() / 2;
    send(&topics, services.brokers(), 0, half);
    stream.apply();
    let run = stream.run(&stream.remote_state());
    let oracle = topics.oracle();

    let first = finish(&run, 1);
    assert_books(&first, &oracle.answer_of_prefix(&topics.counts(half)).1);
    stream.check(&topics, &oracle, &topics.counts(half), "the first half");
    let before = stream.everything();

    let second = finish(&run, 3);
    for name in ["events_read", "accepted", "malformed", "duplicates", "late", "unverified"] {
        assert_eq!(counter(&second, name), counter(&first, name), "{name}: counters are cumulative over the state");
    }
    assert!(stream.everything() == before, "a run without news changed a table");

    send(&topics, services.brokers(), half, topics.len());
    let third = finish(&run, 2);
    assert_books(&third, &oracle.answer_of_prefix(&topics.counts(topics.len())).1);
    stream.check(&topics, &oracle, &topics.counts(topics.len()), "both halves");
    stream.database().drop_all();
}

#[test]
fn a_live_run_keeps_up_is_stopped_goes_on_and_takes_up_new_topics() {
    let services = Services::shared();
    let brokers = services.brokers();
    let folder = TempDir::new().unwrap();
    let stream = Stream::new(&tidemill(), services, "live");
    // Short in event time, so that a topic that is found late is not beyond the dedup horizon.
    let config = GenerateConfig {
        rates: Rates::within_horizon(),
        span: std::time::Duration::from_secs(900),
        ..GenerateConfig::new(20_000, 9)
    };
    let mut bytes = Vec::new();
    generate(&config, &mut bytes).unwrap();
    let (early, late) = (stream.topic("early"), stream.topic("late"));
    let topics = Topics::deal(vec![(early.clone(), 3), (late.clone(), 2)], &bytes);
    let oracle = topics.oracle();
    stream.apply();
    let state = folder.path().join("state");
    let run = stream.run(&state.to_string_lossy()).option(&["--epoch-every", "200ms", "--checkpoint-every", "500ms"]);
    let visible = |count, running: &mut Running| stream.until_visible(count, || running.assert_alive("the live run"));
    // Lines of the topic that is not there yet wait for it.
    let of = |topic: &str| topics.partitions().iter().map(|(name, _)| name == topic).collect::<Vec<_>>();
    let part = |sent: usize, topics_there: &[bool]| {
        let counts = topics.counts(sent).into_iter().zip(topics_there);
        counts.map(|(count, there)| if *there { count } else { 0 }).collect::<Vec<u64>>()
    };
    let accepted = |lines: &[u64]| oracle.answer_of_prefix(lines).1.accepted;
    let producer = Producer::new(brokers);
    let (third, two_thirds) = (topics.len() / 3, 2 * topics.len() / 3);

    topics::create(brokers, &early, 3);
    let mut running = run.workers(1).start();
    topics.send_some(&producer, 0, third, &of(&early));
    producer.flush();
    visible(accepted(&part(third, &of(&early))), &mut running);
    stop(running);

    topics.send_some(&producer, third, two_thirds, &of(&early));
    let mut again = run.workers(3).start();
    topics::create(brokers, &late, 2);
    topics.send_some(&producer, 0, two_thirds, &of(&late));
    producer.flush();
    visible(accepted(&topics.counts(two_thirds)), &mut again);
    topics.send(&producer, two_thirds, topics.len());
    producer.flush();
    visible(accepted(&topics.counts(topics.len())), &mut again);
    let line = stop(again).json();

    let sent = topics.counts(topics.len());
    assert_books(&line, &oracle.answer_of_prefix(&sent).1);
    stream.check(&topics, &oracle, &sent, "after a live run");
    let mirrored = committed_offsets(brokers, stream.group(), topics.names());
    let expected = topics.partitions().iter().cloned().zip(sent.iter().map(|count| i64::try_from(*count).unwrap()));
    assert_eq!(mirrored, expected.collect(), "offsets of the group");
    stream.database().drop_all();
}
