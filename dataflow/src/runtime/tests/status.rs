//! What the board says of real runs: the same as the report at the end, and who holds results back in between.

use std::sync::Condvar;
use std::thread;

use tidemill_log::testing::Moment as StoreMoment;

use super::live::Growing;
use super::*;
use crate::status::{Cause, Moment, Reason, State, Status, why_open};

/// A door that is shut until it is opened.
#[derive(Clone, Default)]
struct Door(Arc<(Mutex<bool>, Condvar)>);

impl Door {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }
    fn pass(&self) {
        let mut open = self.0.0.lock().unwrap();
        while !*open {
            open = self.0.1.wait(open).unwrap();
        }
    }
}

/// A run on a thread of its own, watched by the test.
struct Watched {
    status: Arc<Status>,
    stop: StopHandle,
    thread: thread::JoinHandle<Result<RunReport, RunError>>,
}

impl Watched {
    fn start(build: impl Build, store: &Arc<dyn Store>, workers: u32) -> Watched {
        let (status, stop) = (Arc::new(Status::new("totals")), StopHandle::default());
        let context = RunContext { status: Arc::clone(&status), ..context(store) };
        let (handle, every) = (stop.clone(), Duration::ZERO);
        let options = RunOptions { epoch_every: every, ..options(workers) };
        let thread = thread::spawn(move || run(build, &options, context, &handle));
        Watched { status, stop, thread }
    }

    /// Waits until whoever looks ten minutes later is told exactly these names; gives the reasons. What is told before, while
    /// the run begins (a sink that is not open yet), is passed over.
    fn until(&self, names: &[(Cause, &str)]) -> Vec<Reason> {
        for _ in 0..24_000 {
            let snapshot = self.status.snapshot();
            let later = Moment(Moment::now().0 + 600_000);
            let reasons: Vec<_> = why_open(&snapshot, later).into_iter().filter(|reason| reason.holds).collect();
            let told = reasons.iter().map(|reason| (reason.cause, reason.name.as_str()));
            if snapshot.state == State::Running && told.eq(names.iter().copied()) {
                return reasons;
            }
            assert!(!self.thread.is_finished(), "it ended before: {snapshot:#?}");
            thread::park_timeout(Duration::from_millis(5));
        }
        panic!("nothing of the kind was told: {:#?}", self.status.snapshot())
    }

    fn end(self) -> RunReport {
        self.thread.join().unwrap().unwrap()
    }
}

#[test]
fn the_status_of_a_finished_run_says_what_its_report_says() {
    for workers in [1, 3] {
        let (lines, store) = (sample(), memory());
        let status = Arc::new(Status::new("totals"));
        let context = RunContext { status: Arc::clone(&status), ..context(&store) };
        let report = run(pipeline(&lines, &store), &options(workers), context, &StopHandle::default()).unwrap();
        let snapshot = status.snapshot();
        assert_eq!(&snapshot.counts.all, report.state.counts());
        assert_eq!(Some(snapshot.epoch.committed), report.state.committed());
        assert_eq!((snapshot.epoch.read, snapshot.epoch.bound), (snapshot.epoch.committed, snapshot.epoch.committed));
        assert_eq!(snapshot.watermark.map(|w| w.0), report.state.watermark());
        assert_eq!((snapshot.committed.epochs, snapshot.checkpoint.taken), (report.epochs, report.checkpoints));
        assert_eq!(snapshot.checkpoint.epoch, report.state.checkpoints().last().map(|c| c.epoch));
        assert_eq!((snapshot.state, snapshot.in_flight_bytes, snapshot.waiting), (State::Stopping, 0, None));
        let size: usize = lines.partitions.iter().map(Vec::len).sum();
        assert_eq!(snapshot.committed.bytes, size as u64);
        assert_eq!(status.latencies().count, report.epochs);

        let of_log: Vec<_> =
            report.state.bound_partitions().values().map(|p| (p.name.clone(), p.end, p.lines)).collect();
        let shown: Vec<_> = snapshot.partitions.iter().map(|p| (p.name.clone(), p.offset, p.records)).collect();
        assert_eq!(shown, of_log);
        assert!(snapshot.partitions.iter().all(|p| p.finished && p.lag_records == Some(0)));

        let records = report.state.counts()["lines/read"];
        let [source, totals, sink] = &snapshot.operators[..] else { panic!("{:#?}", snapshot.operators) };
        assert_eq!((source.records_in, source.records_out), (records, records));
        assert_eq!((totals.records_in, totals.records_out), (records, sink.records_in));
        assert_eq!(sink.records_in, sink.records_out, "every row that was encoded was written");
        assert_eq!(totals.state_entries, oracle(&lines).len() as u64);
        assert!(totals.state_bytes > 0 && totals.stored_bytes > 0 && snapshot.checkpoint.bytes > 0);
    }
}

#[test]
fn a_sink_that_hangs_is_named_until_it_goes_on() {
    let (lines, store, door) = (sample(), memory(), Door::default());
    let shut = door.clone();
    let put = move |operation: &Operation, moment| {
        if moment == StoreMoment::Before && operation.path.starts_with("tables/") {
            shut.pass();
        }
        Reaction::Proceed
    };
    let store_of_sink: Arc<dyn Store> = Arc::new(ScriptedStore::new(Arc::clone(&store), put));
    let watched = Watched::start(pipeline(&lines, &store_of_sink), &store, 2);
    let told = watched.until(&[(Cause::Sink, "totals_table"), (Cause::Source, "lines")]);
    assert!(told[0].sentence.contains("writing epoch 1 "), "{}", told[0].sentence);
    assert!(told[1].sentence.contains("because of totals_table"), "{}", told[1].sentence);
    door.open();
    let status = Arc::clone(&watched.status);
    assert!(watched.end().finished);
    assert!(status.snapshot().why_open.iter().all(|reason| !reason.holds));
    assert_eq!(visible(&store), oracle(&lines));
}

#[test]
fn an_operator_that_does_not_come_back_is_named_with_its_worker() {
    let (lines, store, door) = (sample(), memory(), Door::default());
    let (shut, of_sink, source) = (door.clone(), Arc::clone(&store), lines.clone());
    let build = move |flow: &Flow<'_>| {
        let rule = Watermarks::out_of_order(minutes(2));
        let shut = shut.clone();
        flow.source("lines", source.clone())
            .event_time(|r: &(EventTime, String)| r.0, |_| None, rule)
            .map(move |(time, key)| {
                shut.pass();
                (format!("{key}-{}", time.0), 1, 1)
            })
            .sink("totals_table", table(&of_sink));
    };
    let watched = Watched::start(build, &store, 1);
    // Before, the source is at work on its blocks.
    let told = watched.until(&[(Cause::Operator, "map_1")]);
    assert!(told[0].sentence.contains("on worker 0 has been working on epoch 1 "), "{}", told[0].sentence);
    door.open();
    assert!(watched.end().finished);
}

#[test]
fn a_silent_partition_is_named_as_the_one_that_holds_the_watermark() {
    let (mut partitions, store) = (sample().partitions.to_vec(), memory());
    partitions[1].clear();
    let lines = of_partitions(partitions);
    let source = Growing { lines: lines.clone(), seed: 7, stop: StopHandle::default() };
    let watched = Watched::start(pipeline(&source, &store), &store, 2);
    let told = watched.until(&[(Cause::Partition, "p1")]);
    assert!(told[0].sentence.contains("will count as idle"), "{}", told[0].sentence);
    watched.stop.stop();
    let status = Arc::clone(&watched.status);
    watched.end();
    assert_eq!(status.snapshot().watermark, None, "p1 has told no time");
}
