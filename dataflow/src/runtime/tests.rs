//! The whole engine in one process, on a scripted source and store: worker counts, crashes at every step, fencing at every
//! step, stops. The pipeline counts records by key, as signed rows, with state.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemill_log::testing::{Moment, Operation, OperationKind, Reaction, ScriptedStore};
use tidemill_log::{PartitionBinding, reader};

use super::*;
use crate::key::{OwnedKey, key};
use crate::key_group::{group_of, owner};
use crate::keyed::{Chunk, Emit, Keep, KeyedLogic, PerKey, keyed};
use crate::sink::TableSink;
use crate::source::{Block, BlockReader, PartitionInfo, Position, Source, SourceError};
use crate::testing::{self, LineDecoder, context, dying_at, memory, options, text};
use crate::time::{EpochTime, EventTime, minutes};
use crate::watermark::Watermarks;

mod cluster;
mod evolution;
mod live;
mod panics;
mod repeat;
mod split;
mod status;

/// A line `<time> <key>`.
type Record = (EventTime, String);
type Lines = testing::Lines<Record>;

fn of_partitions(partitions: Vec<Vec<u8>>) -> Lines {
    Lines::new(partitions, |line| {
        let (time, name) = line.split_once(' ')?;
        Some((EventTime(time.parse().ok()?), name.to_owned()))
    })
}

/// The number of records of a key so far: the old one retracted, the new one asserted.
struct Total;

impl KeyedLogic for Total {
    type In = i64;
    type State = i64;
    type Out = (String, i64, i64);
    const STATE_VERSION: u32 = 1;
    fn on_epoch(
        &self,
        key: &OwnedKey,
        state: &mut i64,
        records: &mut Vec<i64>,
        _: EpochTime,
        out: &mut Emit<Self::Out>,
    ) -> Keep {
        let name = key.texts().1.into_owned();
        if *state > 0 {
            out.give((name.clone(), *state, -1));
        }
        *state += records.iter().sum::<i64>();
        out.give((name, *state, 1));
        out.count("records", records.len() as u64);
        Keep::Keep
    }
    fn deadline(&self, _: &i64) -> Option<EventTime> {
        None
    }
    fn heap_bytes(&self, _: &i64) -> usize {
        0
    }
}

fn table(store: &Arc<dyn Store>) -> TableSink<(String, i64, i64)> {
    text("totals", store, |(key, total, sign): &(String, i64, i64)| format!("{key} {total} {sign}"))()
}

fn pipeline<S>(lines: &S, store: &Arc<dyn Store>) -> impl Build + use<S>
where
    S: Source<Decoder = LineDecoder<Record>> + Clone,
{
    let (lines, store) = (lines.clone(), Arc::clone(store));
    move |flow: &Flow<'_>| {
        let stream = flow.source("lines", lines.clone()).event_time(
            |r: &Record| r.0,
            |_| None,
            Watermarks::out_of_order(minutes(2)),
        );
        let node = stream.record("totals", "count by key".into());
        let chunks = stream.route("by_key", |batch, peers| {
            let mut chunks: Vec<_> = (0..peers.workers)
                .map(|dest| Chunk { dest, from: peers.me, order: batch.order, rows: Vec::new() })
                .collect();
            batch.for_each(|(_, name)| {
                let key = key("t", name.as_str()).to_owned();
                chunks[owner(group_of(key.hash()), peers.workers) as usize].rows.push((key, 1));
            });
            chunks
        });
        keyed(flow, ("totals", node), chunks, PerKey::new(Total)).sink("totals_table", table(&store));
    }
}

#[expect(clippy::needless_pass_by_value, reason = "each attempt has a store of its own")]
fn attempt(lines: &Lines, store: Arc<dyn Store>, workers: u32) -> Result<RunReport, RunError> {
    run(pipeline(lines, &store), &options(workers), context(&store), &StopHandle::default())
}

/// Lines of some epochs: about 400 KiB in three partitions.
fn sample() -> Lines {
    let partition = |p: i64| {
        let line = |n: i64| format!("{} key-{}-{:060}\n", n * 500 + p * 100_000, (n * n + p) % 97, 0);
        (0..1_600).map(line).collect::<String>().into_bytes()
    };
    of_partitions((0..3).map(partition).collect())
}

fn oracle(lines: &Lines) -> BTreeMap<String, i64> {
    let mut totals = BTreeMap::new();
    for partition in lines.partitions.iter() {
        for line in std::str::from_utf8(partition).unwrap().lines() {
            *totals.entry(line.split_once(' ').unwrap().1.to_owned()).or_default() += 1;
        }
    }
    totals
}

/// What readers of the last commit see, folded; panics if a key shows more than one total.
fn visible(store: &Arc<dyn Store>) -> BTreeMap<String, i64> {
    let state = reader::read(Arc::clone(store), "_tidemill").unwrap();
    let mut signs: BTreeMap<(String, i64), i64> = BTreeMap::new();
    for path in state.tables().get("totals").into_iter().flat_map(|files| files.keys()) {
        let text = store.get(path).unwrap().expect("a visible file is there");
        for line in std::str::from_utf8(&text).unwrap().lines() {
            let mut parts = line.split(' ');
            let mut next = || parts.next().unwrap();
            let (key, total, sign) = (next().to_owned(), next().parse().unwrap(), next().parse::<i64>().unwrap());
            *signs.entry((key, total)).or_default() += sign;
        }
    }
    let mut totals = BTreeMap::new();
    for ((key, total), sign) in signs {
        assert!(sign == 0 || sign == 1, "{key} {total} is shown {sign} times");
        if sign == 1 {
            assert_eq!(totals.insert(key.clone(), total), None, "{key} has two totals");
        }
    }
    totals
}

#[test]
fn any_number_of_workers_gives_the_same_table_and_cuts_the_same_epochs() {
    let lines = sample();
    let mut first = None;
    for workers in [1, 2, 4] {
        let store = memory();
        let report = attempt(&lines, Arc::clone(&store), workers).unwrap();
        assert!(report.finished && report.epochs > 3, "{report:?}");
        assert_eq!(visible(&store), oracle(&lines), "{workers} workers");
        let bindings: Vec<_> = report.state.bound_partitions().values().cloned().collect();
        let cut = (report.state.committed(), report.state.watermark(), bindings, report.state.counts().clone());
        assert_eq!(first.get_or_insert_with(|| cut.clone()), &cut, "{workers} workers");
    }
}

#[test]
fn nothing_new_gives_no_new_epoch_rows_and_counts_stay() {
    let (lines, store) = (sample(), memory());
    let first = attempt(&lines, Arc::clone(&store), 2).unwrap();
    let second = attempt(&lines, Arc::clone(&store), 3).unwrap();
    assert_eq!(second.resumed_from, first.state.committed());
    assert_eq!(second.state.counts(), first.state.counts());
    assert_eq!(visible(&store), oracle(&lines));
}

#[test]
fn a_crash_at_any_step_of_the_protocol_loses_and_doubles_nothing() {
    let lines = sample();
    let steps = {
        let store = Arc::new(ScriptedStore::new(memory(), |_, _| Reaction::Proceed));
        attempt(&lines, Arc::clone(&store) as Arc<dyn Store>, 1).unwrap();
        store.operations().len() as u64
    };
    for step in (1..=steps).step_by(3) {
        let store = memory();
        let crashed = attempt(&lines, dying_at(&store, step), 1 + (step % 3) as u32);
        if let Ok(report) = crashed {
            assert!(report.finished, "step {step}");
        }
        if reader::is_initialized(Arc::clone(&store), "_tidemill").unwrap() {
            let seen = visible(&store);
            let all = oracle(&lines);
            assert!(seen.iter().all(|(key, total)| all[key] >= *total), "step {step}: more than there is");
        }
        attempt(&lines, Arc::clone(&store), 1 + (step / 3 % 3) as u32).unwrap_or_else(|e| panic!("step {step}: {e}"));
        assert_eq!(visible(&store), oracle(&lines), "crash at step {step}");
    }
}

#[test]
fn a_run_resumed_after_a_later_one_began_is_fenced_whatever_it_was_doing() {
    let lines = sample();
    let steps = {
        let store = Arc::new(ScriptedStore::new(memory(), |_, _| Reaction::Proceed));
        attempt(&lines, Arc::clone(&store) as Arc<dyn Store>, 1).unwrap();
        store.operations().len() as u64
    };
    for (step, moment) in (1..=steps).step_by(5).flat_map(|s| [(s, Moment::Before), (s, Moment::After)]) {
        let store = memory();
        let (later, later_lines) = (Arc::clone(&store), lines.clone());
        let (done, finished) = std::sync::mpsc::channel::<()>();
        let act = move || {
            attempt(&later_lines, later, 2).expect("the later run is alone");
            drop(done);
        };
        let sleeper = Arc::new(ScriptedStore::acting_at(Arc::clone(&store), step, moment, act));
        let slept = attempt(&lines, Arc::clone(&sleeper) as Arc<dyn Store>, 1);
        // One thread of the sleeper slept; the others may have found out before the later run was done.
        if sleeper.operations().iter().any(|o| o.step >= step) {
            // It ends when the later run is done and lets go of its sender.
            let _ = finished.recv();
        }
        let numbered = |operation: &Operation| operation.path.starts_with("_tidemill/runs/");
        let began = sleeper.operations().iter().take_while(|o| o.step <= step).any(numbered);
        if slept.is_err() {
            let operations = sleeper.operations();
            let looked = |o: &Operation| o.step == step && o.kind == OperationKind::Exists && moment == Moment::After;
            // No store deletes on a condition: what falls asleep between the look and the deletion deletes that one
            // object. It was announced as garbage, and bears the run's own number.
            let first = step + 1 + u64::from(operations.iter().any(looked));
            let deleted: Vec<_> =
                operations.iter().filter(|o| o.step >= first && o.kind == OperationKind::Delete).collect();
            assert!(deleted.is_empty(), "step {step} {moment:?}: after it woke it deleted {deleted:?}");
        }
        match slept {
            Err(error) if began => assert_eq!(error.kind(), RunErrorKind::Fenced, "step {step} {moment:?}: {error}"),
            // It had read half of a first start when it fell asleep: it refuses that, and has written nothing.
            Err(error) => assert_eq!(error.kind(), RunErrorKind::Refused, "step {step} {moment:?}: {error}"),
            // It slept before it had taken its number, or after the last thing that it had to do.
            Ok(report) => assert!(report.finished, "step {step} {moment:?}"),
        }
        assert_eq!(visible(&store), oracle(&lines), "step {step} {moment:?}");
        attempt(&lines, Arc::clone(&store), 1).unwrap_or_else(|e| panic!("step {step} {moment:?}: {e}"));
        assert_eq!(visible(&store), oracle(&lines), "step {step} {moment:?}, started again");
    }
}

#[test]
fn a_drain_that_crashes_at_any_step_is_drained_in_the_end() {
    let lines = of_partitions(vec![sample().partitions[0][..40_000].to_vec()]);
    let drain = |store: Arc<dyn Store>| {
        let options = RunOptions { drain: true, ..options(2) };
        run(pipeline(&lines, &store), &options, context(&store), &StopHandle::default())
    };
    let steps = {
        let store = Arc::new(ScriptedStore::new(memory(), |_, _| Reaction::Proceed));
        assert!(drain(Arc::clone(&store) as Arc<dyn Store>).unwrap().state.drained());
        store.operations().len() as u64
    };
    for step in 1..=steps {
        let store = memory();
        let _ = drain(dying_at(&store, step));
        match drain(Arc::clone(&store)) {
            Ok(report) => assert!(report.finished && report.state.drained(), "step {step}"),
            // It was drained and committed already; only its last checkpoint is missing.
            Err(error) => assert!(error.to_string().contains("drained"), "step {step}: {error}"),
        }
        let state = reader::read(Arc::clone(&store), "_tidemill").unwrap();
        assert!(state.drained() && state.committed() == state.bound(), "step {step}");
    }
}

#[test]
fn a_stop_ends_after_an_epoch_and_the_next_start_goes_on() {
    let (lines, store) = (sample(), memory());
    let stop = StopHandle::default();
    stop.stop();
    let report = run(pipeline(&lines, &store), &options(2), context(&store), &stop).unwrap();
    assert!(!report.finished);
    assert_eq!(report.checkpoints, 1, "a stop checkpoints");
    let resumed = attempt(&lines, Arc::clone(&store), 1).unwrap();
    assert!(resumed.finished);
    assert_eq!(visible(&store), oracle(&lines));
}

#[test]
fn appended_lines_and_new_partitions_are_read_from_where_it_stopped() {
    let (all, store) = (sample(), memory());
    let half: Vec<u8> = all.partitions[0].split_inclusive(|b| *b == b'\n').take(700).flatten().copied().collect();
    attempt(&of_partitions(vec![half]), Arc::clone(&store), 2).unwrap();
    let report = attempt(&all, Arc::clone(&store), 2).unwrap();
    assert!(report.finished);
    assert_eq!(visible(&store), oracle(&all));
}

#[test]
fn malformed_lines_are_counted() {
    let store = memory();
    let report = attempt(&of_partitions(vec![b"1 a\nwhat\n2 a\n".to_vec()]), Arc::clone(&store), 1).unwrap();
    assert_eq!(report.state.counts()["lines/malformed"], 1);
    assert_eq!(report.state.counts()["lines/read"], 3);
    assert_eq!(visible(&store), BTreeMap::from([("a".into(), 2)]));
}

#[test]
fn a_wrong_option_gets_a_sentence_with_the_remedy() {
    let store = memory();
    let lines = sample();
    let attempt = |options: RunOptions| {
        let error = run(pipeline(&lines, &store), &options, context(&store), &StopHandle::default()).unwrap_err();
        assert_eq!(error.kind(), RunErrorKind::Usage);
        error.to_string()
    };
    assert!(attempt(RunOptions { workers: 0, ..options(1) }).contains("at least one"));
    assert!(attempt(RunOptions { memory_budget: 1, ..options(1) }).contains("give at least"));
    let unknown = BTreeSet::from(["nonsense".to_owned()]);
    assert!(attempt(RunOptions { disabled_sinks: unknown, ..options(1) }).contains("totals_table"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_chain_of_crashes_ends_with_the_exact_table(
        deaths in prop::collection::vec((1_u64..160, 1_u32..4), 1..5),
        last in 1_u32..4,
    ) {
        let (lines, store) = (sample(), memory());
        for (step, workers) in deaths {
            let _ = attempt(&lines, dying_at(&store, step), workers);
        }
        attempt(&lines, Arc::clone(&store), last).unwrap();
        prop_assert_eq!(visible(&store), oracle(&lines));
    }
}
