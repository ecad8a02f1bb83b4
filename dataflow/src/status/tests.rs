//! The judgement and the book, told the time: no clock, no threads.

use super::snapshot::{Epochs, Totals};
use super::*;

const NOW: Moment = Moment(1_000_000_000);

fn ago(seconds: i64) -> Moment {
    Moment(NOW.0 - seconds * 1_000)
}

fn partition(name: &str, watermark: Option<i64>, advanced: i64) -> Partition {
    Partition {
        name: name.into(),
        offset: 10,
        records: 10,
        watermark: watermark.map(Moment),
        idle: false,
        finished: false,
        lag_records: None,
        advanced: ago(advanced),
        turned: ago(advanced),
    }
}

fn worker(worker: u32, closed: u64) -> Worker {
    Worker { worker, closed: Some(closed), working: None }
}

/// Source -> window -> sink, two workers, epoch 7 in flight for ten seconds, closed by all but the sink.
fn in_flight() -> Snapshot {
    let operator = |id: &str, inputs: &[usize], closed: u64| Operator {
        id: id.into(),
        inputs: inputs.to_vec(),
        at: vec![worker(0, closed), worker(1, closed)],
        ..Operator::default()
    };
    let mut sink = Operator { at: vec![worker(1, 6)], ..operator("table", &[1], 6) };
    sink.sink = Some(Sink { opened: true, writing: None, since: ago(20) });
    Snapshot {
        state: State::Running,
        epoch: Epochs {
            read: 9,
            bound: 9,
            committed: 6,
            committed_at: Some(ago(11)),
            oldest_in_flight: Some(Working { epoch: 7, since: ago(10) }),
        },
        operators: vec![operator("events", &[], 9), operator("views", &[0], 9), sink],
        partitions: vec![partition("p0", Some(5_000), 1)],
        memory_budget: 256 << 20,
        ..Snapshot::default()
    }
}

fn quiet() -> Snapshot {
    let mut snapshot = in_flight();
    snapshot.epoch.oldest_in_flight = None;
    snapshot
}

/// Kind, name, since, and a piece of the sentence of every reason that is expected.
type Expected<'a> = &'a [(Cause, &'a str, Moment, &'a str)];

fn check(case: &str, snapshot: &Snapshot, expected: Expected<'_>) {
    let found = why_open(snapshot, NOW);
    let told: Vec<_> = found.iter().map(|r| (r.cause, r.name.as_str(), r.since)).collect();
    let wanted: Vec<_> = expected.iter().map(|(cause, name, since, _)| (*cause, *name, *since)).collect();
    assert_eq!(told, wanted, "{case}: {found:#?}");
    for (reason, (_, _, _, piece)) in found.iter().zip(expected) {
        assert!(reason.sentence.contains(piece), "{case}: {:?} lacks {piece:?}", reason.sentence);
    }
}

#[test]
fn a_partition_that_stands_still_is_named_and_the_idle_ones_are_told_to_be_left_out() {
    let mut snapshot = quiet();
    snapshot.partitions = vec![partition("p0", Some(90_000), 1), partition("p1", Some(5_000), 40)];
    check("behind", &snapshot, &[(Cause::Partition, "p1", ago(40), "has not moved for 40 s")]);

    snapshot.partitions[1].lag_records = Some(0);
    check("at its end", &snapshot, &[(Cause::Partition, "p1", ago(40), "will count as idle")]);

    snapshot.partitions[1].idle = true;
    check("idle", &snapshot, &[(Cause::Partition, "p1", ago(40), "the watermark does not wait for it")]);
    assert!(!why_open(&snapshot, NOW)[0].holds);

    snapshot.partitions[1] = partition("p1", None, 300);
    check("never read", &snapshot, &[(Cause::Partition, "p1", ago(300), "has told no time")]);

    snapshot.partitions = vec![partition("p0", Some(5_000_000), 1), partition("p1", Some(5_000), 1)];
    check("far behind", &snapshot, &[(Cause::Partition, "p1", ago(1), "83 min behind the next one")]);
}

#[test]
fn nothing_is_told_while_everything_moves() {
    check("quiet", &quiet(), &[]);
    let mut fresh = in_flight();
    fresh.epoch.oldest_in_flight = Some(Working { epoch: 7, since: ago(2) });
    fresh.operators[2].sink.as_mut().unwrap().writing = Some(Working { epoch: 7, since: ago(2) });
    fresh.waiting = Some(Waiting { epoch: 10, since: ago(1) });
    check("an epoch two seconds old", &fresh, &[]);
}

#[test]
fn a_sink_that_hangs_is_named_and_the_source_waits_because_of_it() {
    let mut snapshot = in_flight();
    snapshot.operators[2].sink.as_mut().unwrap().writing = Some(Working { epoch: 7, since: ago(9) });
    check("hangs", &snapshot, &[(Cause::Sink, "table", ago(9), "writing epoch 7 for 9 s")]);

    snapshot.waiting = Some(Waiting { epoch: 10, since: ago(8) });
    check(
        "and the source waits",
        &snapshot,
        &[(Cause::Sink, "table", ago(9), "writing epoch 7"), (Cause::Source, "events", ago(8), "because of table")],
    );
    snapshot.partitions[0].advanced = ago(9);
    assert_eq!(why_open(&snapshot, NOW).len(), 2, "a partition that waits with the source is no reason of its own");
}

#[test]
fn a_sink_that_does_not_open_is_named() {
    let mut snapshot = quiet();
    snapshot.state = State::Starting;
    snapshot.operators[2].sink.as_mut().unwrap().opened = false;
    check("unopened", &snapshot, &[(Cause::Sink, "table", ago(20), "is not open after 20 s")]);
    assert!(snapshot.ready(NOW).unwrap_err().contains("table"));
}

#[test]
fn an_operator_at_work_for_long_is_named_with_its_worker() {
    let mut snapshot = in_flight();
    snapshot.operators[1].at[1] =
        Worker { worker: 1, closed: Some(6), working: Some(Working { epoch: 7, since: ago(130) }) };
    check(
        "at work",
        &snapshot,
        &[(Cause::Operator, "views", ago(130), "on worker 1 has been working on epoch 7 for 2 min")],
    );
}

#[test]
fn a_stopped_worker_is_seen_by_the_first_operator_that_it_holds_up() {
    let mut snapshot = in_flight();
    snapshot.operators[0].at[1].closed = Some(6);
    snapshot.operators[1].at = vec![worker(0, 6), worker(1, 6)];
    check(
        "behind",
        &snapshot,
        &[(Cause::Operator, "events", ago(10), "`events` on worker 1 has not finished epoch 7")],
    );
}

#[test]
fn a_stopped_process_is_told_by_the_others() {
    let mut snapshot = quiet();
    snapshot.peers = vec![
        Process { process: 1, heard: ago(1), heartbeat_age_seconds: 1.0 },
        Process { process: 2, heard: ago(9), heartbeat_age_seconds: 9.0 },
    ];
    check("silent", &snapshot, &[(Cause::Process, "process 2", ago(9), "has not answered for 9 s")]);
}

#[test]
fn the_store_of_the_log_is_named_when_nobody_else_holds_an_epoch_up() {
    let mut snapshot = in_flight();
    snapshot.operators[2].at = vec![worker(1, 9)];
    check("not committed", &snapshot, &[(Cause::Log, "log", ago(10), "not recorded as committed")]);
    snapshot.epoch.bound = 6;
    snapshot.operators[2].at = vec![worker(1, 6)];
    check("not bound", &snapshot, &[(Cause::Log, "log", ago(10), "not recorded as bound")]);
}

#[test]
fn a_finished_input_leaves_its_last_windows_open_until_it_is_drained() {
    let mut snapshot = quiet();
    snapshot.partitions[0].finished = true;
    check("finished", &snapshot, &[(Cause::Source, "all partitions", ago(1), "--drain")]);
    snapshot.closed = true;
    check("drained", &snapshot, &[]);
}

#[test]
fn a_run_is_ready_while_it_commits_and_says_why_when_it_does_not() {
    assert_eq!(quiet().ready(NOW), Ok(()));
    assert_eq!(in_flight().ready(NOW), Ok(()));
    let mut stuck = in_flight();
    stuck.epoch.oldest_in_flight = Some(Working { epoch: 7, since: ago(90) });
    stuck.epoch.committed_at = Some(ago(80));
    assert!(stuck.ready(NOW).unwrap_err().contains("epoch 7 has been in flight"));
    stuck.epoch.committed_at = Some(ago(30));
    assert_eq!(stuck.ready(NOW), Ok(()), "it is slow, and it moves");
    assert!(Snapshot::default().ready(NOW).is_err());
    let begun = Snapshot { unrecorded: true, ..quiet() };
    assert!(begun.ready(NOW).unwrap_err().contains("not recorded yet"), "a kill would forget where it began");
    assert!(Snapshot { state: State::Stopping, ..quiet() }.ready(NOW).is_err());
}

#[test]
fn the_book_counts_latency_rates_and_bytes_in_flight() {
    let mut book = Book::default();
    let state = LogState::default();
    let start =
        Start { run: 3, workers: 1, processes: 1, memory_budget: 1 << 20, plan: &Plan::default(), state: &state };
    book.started(&start, Moment(0));
    let at = |ms: i64| Moment(ms);
    book.cut(1, 1_000, at(1_000));
    book.cut(2, 500, at(2_000));
    let counts = |read: u64| BTreeMap::from([("events/read".to_owned(), read), ("dedup/duplicates".to_owned(), 2)]);
    book.committed(1, (Some(7_000), false), &counts(100), at(3_000));
    let snapshot = book.snapshot("p", &[], (40, false), at(4_000));
    assert_eq!((snapshot.epoch.read, snapshot.epoch.committed), (2, 1));
    assert_eq!(snapshot.epoch.oldest_in_flight, Some(Working { epoch: 2, since: at(2_000) }));
    assert_eq!(snapshot.in_flight_bytes, (500 + 40) * crate::reader::MEMORY_PER_BYTE);
    assert_eq!(snapshot.epoch_latency_ms, EpochLatency { p50: Some(2_000), p99: Some(2_000) });
    assert_eq!((snapshot.counts.events, snapshot.counts.duplicate), (100, 2));
    assert_eq!(snapshot.rates, Rates { events_per_second: 25.0, bytes_per_second: 250.0 });
    assert_eq!(snapshot.lag_seconds, Some(-3.0));
    assert_eq!(snapshot.committed, Totals { epochs: 1, bytes: 1_000 });
    assert_eq!((book.histogram().count, book.histogram().buckets[7]), (1, 1));
}

#[test]
fn moments_print_as_rfc_3339_and_the_end_of_time_stays_in_the_calendar() {
    assert_eq!(Moment(1_431_857_103_000).to_string(), "2015-05-17T10:05:03.000Z");
    assert_eq!(serde_json::to_string(&Moment(i64::MAX)).unwrap(), "\"9999-12-31T23:59:59.999Z\"");
    assert_eq!(Moment(i64::MIN).to_string(), "0000-01-01T00:00:00.000Z");
}
