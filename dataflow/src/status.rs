//! What a run is doing right now, for people: the board behind `/api/status`, `/metrics` and "why is this window open".
//!
//! Every thread of a run leaves its marks here, per batch or per epoch and never per record: workers on `gauge`s of
//! their own, without a lock; the reader, the binder and the log's thread in a `book` behind one lock, a few times an
//! epoch. Nothing is ever read back by the engine, so clocks and order reach no result (INV-2).

mod book;
pub(crate) mod gauge;
mod marks;
mod reasons;
mod snapshot;
mod why_open;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard};

use tidemill_log::LogState;

use crate::bind::Bound;
use crate::plan::Plan;
use crate::time::Epoch;
use book::Book;
pub(crate) use book::SAMPLES;
pub use book::{LATENCY_BUCKETS, LatencyHistogram};
use gauge::{Gauge, Role};
pub use marks::{EpochTimes, Mark};
pub use reasons::{MalformedPlace, MalformedReason};
pub use snapshot::{
    Checkpoint, Checkpoints, Counts, EpochLatency, Epochs, LeftOut, Moment, Operator, Partition, Process, Progress,
    Rates, Samples, SetAside, Sink, Snapshot, State, Totals, Waiting, Why, Worker, Working,
};
pub use why_open::{Cause, PATIENCE, Reason, why_open};

/// Facts of a start.
pub(crate) struct Start<'a> {
    pub(crate) run: u64,
    /// Worker threads of this process.
    pub(crate) workers: u32,
    pub(crate) processes: u32,
    /// Bytes that may be read and not yet committed.
    pub(crate) memory_budget: u64,
    pub(crate) plan: &'a Plan,
    /// What the log said when the run began.
    pub(crate) state: &'a LogState,
}

/// The board of one process. Shared by its threads; [`snapshot`](Status::snapshot) may be called from any thread at any
/// time, before, during and after the run.
pub struct Status {
    pipeline: String,
    book: Mutex<Book>,
    gauges: Mutex<Vec<Arc<Gauge>>>,
    /// Bytes of the epoch that is being read.
    reading: AtomicU64,
    /// Bytes read by this run, and those to read as far as known.
    read: AtomicU64,
    found: AtomicU64,
    stopping: AtomicBool,
}

impl Default for Status {
    fn default() -> Self {
        Status::new("")
    }
}

impl Status {
    /// An empty board for the pipeline of this name.
    #[must_use]
    pub fn new(pipeline: &str) -> Self {
        Status {
            pipeline: pipeline.to_owned(),
            book: Mutex::default(),
            gauges: Mutex::default(),
            reading: AtomicU64::new(0),
            read: AtomicU64::new(0),
            found: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        }
    }

    /// What the board says now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot_at(Moment::now())
    }

    fn snapshot_at(&self, now: Moment) -> Snapshot {
        let gauges = self.gauges.lock().expect("no panic while the gauges are held").clone();
        let reading = self.reading.load(Ordering::Relaxed);
        let stopping = self.stopping.load(Ordering::Relaxed);
        let mut snapshot = self.book().snapshot(&self.pipeline, &gauges, (reading, stopping), now);
        snapshot.why_open = why_open(&snapshot, now);
        snapshot
    }

    /// How far the run has come; costs less than a snapshot.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let load = |bytes: &AtomicU64| bytes.load(Ordering::Relaxed);
        Progress { bytes_read: load(&self.read), bytes_total: load(&self.found), ..self.book().progress() }
    }

    /// Why lines that this run read could not become records, the most frequent kind first; only the process that leads a
    /// run knows.
    #[must_use]
    pub fn malformed_reasons(&self) -> Vec<MalformedReason> {
        self.book().malformed_reasons()
    }

    /// Partitions of which no line was ever a record: how many lines this run read of each, and the first of them.
    #[must_use]
    pub fn without_records(&self) -> Vec<MalformedReason> {
        self.book().without_records()
    }

    /// Another process of the run was last heard at this time.
    pub(crate) fn heard_from(&self, process: u32, at: Moment) {
        self.book().heard_from(process, at);
    }

    /// How long epochs of this run took from their cut to their commit.
    #[must_use]
    pub fn latencies(&self) -> LatencyHistogram {
        self.book().histogram().clone()
    }

    /// From now on tells how each epoch and checkpoint went, once it is over. As many as `most` wait for the receiver;
    /// further ones are left out. Only the process that leads a run tells anything.
    #[must_use]
    pub fn watch(&self, most: usize) -> Receiver<Mark> {
        self.book().watch(most)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().expect("no panic while the book is held")
    }

    pub(crate) fn started(&self, start: &Start<'_>) {
        self.book().started(start, Moment::now());
    }

    pub(crate) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// A gauge for the part that `worker` plays in the operator at `node` of the plan, which has closed `through`.
    pub(crate) fn gauge(&self, node: usize, role: Role, worker: u32, through: Epoch) -> Arc<Gauge> {
        let gauge = Arc::new(Gauge::new(node, role, worker, through));
        self.gauges.lock().expect("no panic while the gauges are held").push(Arc::clone(&gauge));
        gauge
    }

    /// The reader took in another piece of the epoch that it reads.
    pub(crate) fn read_bytes(&self, bytes: u64) {
        self.reading.fetch_add(bytes, Ordering::Relaxed);
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The reader took in a partition with so much to read.
    pub(crate) fn found_bytes(&self, bytes: u64) {
        self.found.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The reader cut the epoch that it was reading.
    pub(crate) fn cut(&self, epoch: Epoch) {
        self.book().cut(epoch, self.reading.swap(0, Ordering::Relaxed), Moment::now());
    }

    /// What is known to wait in a partition, in records.
    pub(crate) fn lag(&self, partition: u32, records: Option<u64>) {
        self.book().lag(partition, records);
    }

    /// The reader waits before `epoch` for others to be committed; `None`: it goes on.
    pub(crate) fn waits(&self, epoch: Option<Epoch>) {
        self.book().waits(epoch, Moment::now());
    }

    /// The binder knows what an epoch contains; `checkpoint`: state is stored at its end.
    pub(crate) fn gathered(&self, epoch: Epoch, bound: &Bound, checkpoint: bool) {
        self.book().gathered(epoch, bound, checkpoint, Moment::now());
    }

    /// An operator set these records aside in an epoch, each with its partition.
    pub(crate) fn set_aside(&self, why: Why, records: Vec<(u32, SetAside)>) {
        self.book().set_aside(why, records);
    }

    /// No log says where the source begins, until an epoch is bound.
    pub(crate) fn unrecorded(&self) {
        self.book().unrecorded();
    }

    /// `bind(epoch)` is durable.
    pub(crate) fn bound(&self, epoch: Epoch) {
        self.book().bound(epoch, Moment::now());
    }

    /// Every worker is through with an epoch, and it is about to be committed.
    pub(crate) fn processed(&self, epoch: Epoch) {
        self.book().processed(epoch, Moment::now());
    }

    /// An epoch went all the way through; nothing of it is in flight any more.
    pub(crate) fn passed(&self, epoch: Epoch) {
        self.book().passed(epoch);
    }

    /// `commit(epoch)` is durable: what the tables are complete through, whether nothing follows, and the counters so far.
    pub(crate) fn committed(&self, epoch: Epoch, through: (Option<i64>, bool), counts: &BTreeMap<String, u64>) {
        self.book().committed(epoch, through, counts, Moment::now());
    }

    /// `checkpoint(epoch)` is durable: `added` bytes are new, `stored` is what each operator needs in all.
    pub(crate) fn checkpointed(&self, epoch: Epoch, added: u64, stored: BTreeMap<String, u64>) {
        self.book().checkpointed(epoch, added, stored, Moment::now());
    }
}

#[cfg(test)]
mod tests;
