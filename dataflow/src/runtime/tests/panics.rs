//! Records that panic: found out in two runs, set aside in the third, whatever the numbers of workers and processes.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use tidemill_log::DataFile;

use super::*;
use crate::batch::Batch;
use crate::driver::Combiner;
use crate::quarantine::Quarantined;
use crate::sink::{SinkError, TableWriter};
use crate::stream::Rejected;

mod closing;

/// Where records panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Time,
    Filter,
    Map,
    Encode,
}

/// Counts keys, keeps the records as they are, and the dead letters; panics at some keys.
fn poisoned(lines: &Lines, store: &Arc<dyn Store>, poison: &[(At, String)]) -> impl Build + use<> {
    let (lines, store, poison) = (lines.clone(), Arc::clone(store), poison.to_vec());
    move |flow: &Flow<'_>| {
        let panics = |at: At| {
            let keys: BTreeSet<String> =
                poison.iter().filter(|(when, _)| *when == at).map(|(_, key)| key.clone()).collect();
            move |record: &Record| assert!(!keys.contains(&record.1), "poison at {at:?}")
        };
        let (time, filter, map, encode) = (panics(At::Time), panics(At::Filter), panics(At::Map), panics(At::Encode));
        let stream = flow
            .source("lines", lines.clone())
            .malformed_to("dead_letters", letters(&store))
            .event_time(
                move |record: &Record| {
                    time(record);
                    record.0
                },
                |_| None,
                Watermarks::out_of_order(minutes(2)),
            )
            .filter(move |record| {
                filter(record);
                true
            });
        let counted = stream.clone().map(move |record| {
            map(record);
            record.clone()
        });
        let counted = counted.with_event_time(|record| record.0);
        let node = counted.record("totals", "count by key".into());
        let chunks = counted.route("by_key", by_key);
        keyed(flow, ("totals", node), chunks, PerKey::new(Total)).sink("totals_table", table(&store));
        stream.sink("raw_table", raw(&store, encode));
    }
}

fn by_key(batch: &Batch<Record>, peers: crate::stream::Peers) -> Vec<Chunk<(OwnedKey, i64)>> {
    let chunk = |dest| Chunk { dest, from: peers.me, order: batch.order, rows: Vec::new() };
    let mut chunks: Vec<_> = (0..peers.workers).map(chunk).collect();
    batch.for_each(|(_, name)| {
        let key = key("t", name.as_str()).to_owned();
        chunks[owner(group_of(key.hash()), peers.workers) as usize].rows.push((key, 1));
    });
    chunks
}

fn column(lines: Vec<String>) -> Result<RecordBatch, SinkError> {
    let schema = Schema::new(vec![Field::new("line", DataType::Utf8, false)]);
    Ok(RecordBatch::try_new(Arc::new(schema), vec![Arc::new(StringArray::from(lines))])?)
}

/// Writes the rows of an epoch once: another content under the same name is an error.
struct OnceFiles(Arc<dyn Store>, &'static str);

impl TableWriter for OnceFiles {
    fn write_epoch(&mut self, epoch: Epoch, _: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        let mut text = String::new();
        for batch in &rows {
            let column = batch.column(0).as_any().downcast_ref::<StringArray>().unwrap();
            (0..column.len()).for_each(|row| text.push_str(&format!("{}\n", column.value(row))));
        }
        let path = format!("{}/{epoch:06}", self.1);
        if self.0.get(&path)?.is_some_and(|before| before != text.as_bytes()) {
            return Err(format!("{path} is written again with another content").into());
        }
        self.0.put(&path, text.as_bytes())?;
        Ok(Vec::new())
    }
}

fn writer(store: &Arc<dyn Store>, folder: &'static str) -> Arc<dyn Fn() -> Box<dyn TableWriter> + Send + Sync> {
    let store = Arc::clone(store);
    Arc::new(move || Box::new(OnceFiles(Arc::clone(&store), folder)))
}

fn raw(store: &Arc<dyn Store>, encode: impl Fn(&Record) + Send + Sync + 'static) -> TableSink<Record> {
    let encode = move |batch: &Batch<Record>| {
        let mut lines = Vec::new();
        batch.for_each(|record| {
            encode(record);
            lines.push(record.1.clone());
        });
        column(lines)
    };
    TableSink { table: "raw".into(), encode: Arc::new(encode), writer: writer(store, "raw") }
}

fn letters(store: &Arc<dyn Store>) -> TableSink<Rejected> {
    let encode = move |batch: &Batch<Rejected>| {
        let mut lines = Vec::new();
        batch.for_each(|rejected| {
            let payload = String::from_utf8_lossy(&rejected.letter.payload);
            lines.push(format!("{} {} {payload}", rejected.partition, rejected.letter.line));
        });
        column(lines)
    };
    TableSink { table: "letters".into(), encode: Arc::new(encode), writer: writer(store, "letters") }
}

fn lines_of(store: &Arc<dyn Store>, folder: &str) -> Vec<String> {
    let text = |path: &String| String::from_utf8(store.get(path).unwrap().unwrap().to_vec()).unwrap();
    store
        .list(folder)
        .unwrap()
        .iter()
        .flat_map(|path| text(path).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// Lines with keys of their own, about 400 KiB in three partitions.
fn distinct() -> Lines {
    let partition = |p: i64| {
        let line = |n: i64| format!("{} p{p}-{n}-{:060}\n", n * 500 + p * 100_000, 0);
        (0..1_600).map(line).collect::<String>().into_bytes()
    };
    of_partitions((0..3).map(partition).collect())
}

fn key_of(partition: i64, line: i64) -> String {
    format!("p{partition}-{line}-{:060}", 0)
}

/// Runs until all is read; how often it panicked.
fn until_finished(
    lines: &Lines,
    store: &Arc<dyn Store>,
    poison: &[(At, String)],
    mut options: impl FnMut(u32) -> RunOptions,
) -> (u32, RunReport) {
    for panics in 0..20 {
        let options = options(panics);
        match run(poisoned(lines, store, poison), &options, context(store), &StopHandle::default()) {
            Ok(report) => return (panics, report),
            Err(RunError::WorkerPanicked(sentence)) => {
                assert!(sentence.contains("poison at"), "{sentence}");
                assert!(sentence.contains("the next start"), "{sentence}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it panics again and again");
}

fn without(lines: &Lines, poison: &[(At, String)]) -> BTreeMap<String, i64> {
    let mut totals = oracle(lines);
    poison.iter().for_each(|(_, key)| assert!(totals.remove(key).is_some()));
    totals
}

/// That all is there once, but for what panics, which is a dead letter.
fn check(lines: &Lines, store: &Arc<dyn Store>, poison: &[(At, String)], report: &RunReport, context: &str) {
    let expected = without(lines, poison);
    assert_eq!(visible(store), expected, "{context}");
    let mut rows = lines_of(store, "raw");
    rows.sort();
    assert_eq!(rows, expected.into_keys().collect::<Vec<_>>(), "{context}");
    let mut found = lines_of(store, "letters");
    found.sort();
    let mut letters: Vec<String> = poison.iter().map(|(_, key)| letter_of(key)).collect();
    letters.sort();
    assert_eq!(found, letters, "{context}");
    let counts = report.state.counts();
    assert_eq!(counts.get("lines/quarantined").copied().unwrap_or(0), poison.len() as u64, "{context}");
    assert_eq!(counts["lines/read"], 4_800, "{context}");
}

/// The dead letter of a key: partition, line from 1, and the line.
fn letter_of(key: &str) -> String {
    let (partition, rest) = key.split_once('-').unwrap();
    let (p, n): (i64, i64) = (partition[1..].parse().unwrap(), rest.split('-').next().unwrap().parse().unwrap());
    format!("{partition} {} {} {key}", n + 1, n * 500 + p * 100_000)
}

#[test]
fn a_record_that_panics_anywhere_is_set_aside_after_two_panics_and_the_rest_is_exact() {
    let lines = distinct();
    for (at, workers) in [(At::Time, 1), (At::Filter, 2), (At::Map, 3), (At::Encode, 2)] {
        let (store, poison) = (memory(), [(at, key_of(1, 700))]);
        let (panics, report) = until_finished(&lines, &store, &poison, |panics| options(1 + (workers + panics) % 3));
        assert_eq!(panics, 2, "{at:?}");
        check(&lines, &store, &poison, &report, &format!("{at:?}"));
        let again = run(poisoned(&lines, &store, &poison), &options(2), context(&store), &StopHandle::default());
        assert_eq!(again.unwrap().state.counts(), report.state.counts());
    }
}

#[test]
fn several_records_that_panic_in_one_epoch_are_found_together_wherever_they_do() {
    let lines = distinct();
    let poison = [(At::Filter, 3), (At::Time, 5), (At::Encode, 6), (At::Map, 200)].map(|(at, n)| (at, key_of(0, n)));
    let store = memory();
    let (panics, report) = until_finished(&lines, &store, &poison, |_| options(2));
    assert_eq!(panics, 2);
    check(&lines, &store, &poison, &report, "four records");
}

#[test]
fn a_crash_at_any_step_between_the_panics_loses_and_doubles_nothing() {
    let (lines, poison) = (distinct(), [(At::Encode, key_of(2, 1_400))]);
    for step in (20..160).step_by(7) {
        let store = memory();
        for attempt in 0..3 {
            let dying = dying_at(&store, step + attempt);
            let build = poisoned(&lines, &dying, &poison);
            // However it ends: by the panic, by the crash, or well.
            let _ = run(build, &options(1 + (step % 3) as u32), context(&dying), &StopHandle::default());
        }
        let (_, report) = until_finished(&lines, &store, &poison, |_| options(2));
        check(&lines, &store, &poison, &report, &format!("crash at step {step}"));
    }
}

#[test]
fn what_was_committed_is_not_set_aside_though_it_panics_when_it_is_replayed() {
    let (lines, store) = (distinct(), memory());
    // Nothing is checkpointed: the next start replays all.
    let late = RunOptions { checkpoint_every: Duration::from_secs(3_600), ..options(1) };
    let stop = StopHandle::default();
    let half = dying_at(&store, 60);
    run(poisoned(&lines, &half, &[]), &late, context(&half), &stop).unwrap_err();
    let committed = reader::read(Arc::clone(&store), "_tidemill").unwrap().committed().unwrap();
    assert!(committed > 1);
    let poison = [(At::Filter, key_of(0, 1))];
    for _ in 0..4 {
        let error = run(poisoned(&lines, &store, &poison), &late, context(&store), &StopHandle::default()).unwrap_err();
        assert!(error.to_string().contains("has committed what it led to, so it is not set aside"), "{error}");
    }
    let report = run(poisoned(&lines, &store, &[]), &late, context(&store), &StopHandle::default()).unwrap();
    check(&lines, &store, &[], &report, "with the pipeline mended");
}

#[test]
fn a_panic_that_no_record_is_to_blame_for_sets_none_aside() {
    let (lines, store) = (distinct(), memory());
    let build = || {
        let (lines, store) = (lines.clone(), Arc::clone(&store));
        move |flow: &Flow<'_>| {
            let stream = flow.source("lines", lines.clone()).event_time(
                |record: &Record| record.0,
                |_| None,
                Watermarks::out_of_order(minutes(2)),
            );
            let node = stream.record("totals", "count by key".into());
            let totals = keyed(flow, ("totals", node), stream.route("by_key", by_key), PerKey::new(Total));
            totals.filter(|_| panic!("a row of a window")).sink("totals_table", table(&store));
        }
    };
    for start in 1..=3 {
        let error = run(build(), &options(2), context(&store), &StopHandle::default()).unwrap_err();
        let sentence = error.to_string();
        assert!(sentence.contains("filter panicked in epoch "), "{sentence}");
        // It would be started again and again; now somebody must see to it.
        let (kind, says) = match start {
            1 => (RunErrorKind::Failed, "the next start looks at the records of that epoch one by one"),
            _ => (RunErrorKind::Refused, "none of them does by itself"),
        };
        assert!(error.kind() == kind && sentence.contains(says), "{sentence}");
    }
    assert_eq!(store.list("_tidemill/quarantine").unwrap(), [""; 0]);
}

#[test]
fn a_run_leaves_out_what_the_run_that_it_replays_has_set_aside() {
    let (lines, poison) = (distinct(), [(At::Map, key_of(1, 9))]);
    let (live, replay) = (memory(), memory());
    let (_, report) = until_finished(&lines, &live, &poison, |_| options(1));
    let quarantined: Vec<Quarantined> = report.state.seal().unwrap().quarantined.clone();
    assert_eq!(quarantined.len(), 1);
    let (panics, replayed) =
        until_finished(&lines, &replay, &poison, |_| RunOptions { quarantined: quarantined.clone(), ..options(3) });
    assert_eq!(panics, 0);
    check(&lines, &replay, &poison, &replayed, "replayed");
}

/// Sums up nothing; a poisoned record panics when its epoch is closed, after it has looked for what sinks wrote.
struct Looking {
    store: Arc<dyn Store>,
    poison: String,
    early: Arc<AtomicBool>,
}

impl Combiner<Record> for Looking {
    type Row = (OwnedKey, i64);

    fn add(&mut self, batch: &Batch<Record>, time: EpochTime) -> Option<Batch<Record>> {
        batch.for_each(|record| {
            for _ in (0..60).take_while(|_| record.1 == self.poison) {
                let written = |sink: &&str| self.store.exists(&format!("{sink}/{:06}", time.epoch)).unwrap();
                self.early.fetch_or(SINKS.iter().any(written), Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(5));
            }
            assert!(record.1 != self.poison, "poison at the end of an epoch");
        });
        None
    }

    fn drain(&mut self, _: crate::stream::Peers) -> (Vec<Chunk<Self::Row>>, BTreeMap<&'static str, u64>) {
        Default::default()
    }
}

/// On two workers, some of them belong to each.
const SINKS: [&str; 4] = ["raw_a", "raw_b", "raw_c", "raw_d"];

#[test]
fn no_sink_writes_an_epoch_of_which_a_record_may_still_panic() {
    let (lines, store) = (distinct(), memory());
    let early = Arc::new(AtomicBool::new(false));
    let build = || {
        let (lines, store, early) = (lines.clone(), Arc::clone(&store), Arc::clone(&early));
        move |flow: &Flow<'_>| {
            let stream = flow.source("lines", lines.clone()).event_time(
                |record: &Record| record.0,
                |_| None,
                Watermarks::out_of_order(minutes(2)),
            );
            for sink in SINKS {
                let raw = TableSink { writer: writer(&store, sink), ..raw(&store, |_| {}) };
                stream.clone().sink(sink, TableSink { table: sink.into(), ..raw });
            }
            let looking = Looking { store: Arc::clone(&store), poison: key_of(1, 30), early: Arc::clone(&early) };
            let node = stream.record("totals", "count by key".into());
            let combined = stream.combine(("totals", node), looking);
            keyed(flow, ("totals", node), combined.chunks, PerKey::new(Total)).sink("totals_table", table(&store));
        }
    };
    for sentence in ["one by one", "sets it aside"] {
        let error = run(build(), &options(2), context(&store), &StopHandle::default()).unwrap_err().to_string();
        assert!(error.contains(sentence), "{error}");
    }
    let report = run(build(), &options(2), context(&store), &StopHandle::default()).unwrap();
    assert_eq!(report.state.counts()["lines/quarantined"], 1);
    assert!(!early.load(Ordering::Relaxed), "an epoch was written before all of it had passed");
}
