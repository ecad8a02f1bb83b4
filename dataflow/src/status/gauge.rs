//! The marks of one worker in one operator: relaxed atomics that nobody waits for.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use timely::progress::frontier::MutableAntichain;

use super::Moment;
use crate::keyed::StateSize;
use crate::time::Epoch;

/// Which part of an operator a gauge belongs to: an operator may be made of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Decodes blocks.
    Source,
    /// Turns batches into others as they come.
    Step,
    /// Combines records before the exchange.
    Combine,
    /// Closes epochs by key.
    Keyed,
    /// Takes records back that the keyed part judged.
    Except,
    /// Gathers what a region of differential dataflow gives.
    Leave,
    /// Encodes rows for a table.
    Encode,
    /// Gathers rows at their owner.
    Sink,
    /// Writes rows, on a thread of its own.
    Write,
}

impl Role {
    /// Whether the part closes epochs, so that its frontier says how far it is.
    pub(super) fn closes_epochs(self) -> bool {
        !matches!(self, Role::Step | Role::Encode | Role::Write)
    }
}

/// One worker's part in one operator.
#[derive(Debug)]
pub(crate) struct Gauge {
    pub(super) node: usize,
    pub(super) role: Role,
    pub(super) worker: u32,
    records_in: AtomicU64,
    records_out: AtomicU64,
    /// The last epoch that is closed; `u64::MAX` once there is nothing more.
    through: AtomicU64,
    /// The epoch being worked on, 0 for none, and since when.
    working: AtomicU64,
    since: AtomicI64,
    entries: AtomicU64,
    bytes: AtomicU64,
    opened: AtomicBool,
}

impl Gauge {
    pub(super) fn new(node: usize, role: Role, worker: u32, through: Epoch) -> Self {
        Gauge {
            node,
            role,
            worker,
            records_in: AtomicU64::new(0),
            records_out: AtomicU64::new(0),
            through: AtomicU64::new(through),
            working: AtomicU64::new(0),
            since: AtomicI64::new(Moment::now().0),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            opened: AtomicBool::new(false),
        }
    }

    /// So many records came in.
    pub(crate) fn took(&self, records: usize) {
        self.records_in.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// So many records went out.
    pub(crate) fn gave(&self, records: usize) {
        self.records_out.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Work on an epoch begins; it ends when the answer is dropped.
    pub(crate) fn working(&self, epoch: Epoch) -> AtWork<'_> {
        self.since.store(Moment::now().0, Ordering::Relaxed);
        self.working.store(epoch, Ordering::Release);
        AtWork(self)
    }

    /// All epochs before the frontiers are closed, but for those from `held` on, which the operator still works on.
    pub(crate) fn closed(&self, frontiers: &[&MutableAntichain<Epoch>], held: Option<Epoch>) {
        let open = frontiers.iter().filter_map(|frontier| frontier.frontier().first().copied());
        // Without any open epoch nothing follows.
        let first_open = open.chain(held).min();
        self.through.store(first_open.map_or(u64::MAX, |epoch| epoch.saturating_sub(1)), Ordering::Relaxed);
    }

    /// All epochs through this one are closed.
    pub(crate) fn closed_through(&self, epoch: Epoch) {
        self.through.store(epoch, Ordering::Relaxed);
    }

    /// How much state the worker holds.
    pub(crate) fn holds(&self, size: StateSize) {
        self.entries.store(size.entries, Ordering::Relaxed);
        self.bytes.store(size.bytes, Ordering::Relaxed);
    }

    /// The sink was opened: it found everything as it should be.
    pub(crate) fn opened(&self) {
        self.opened.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_open(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    /// Records in and out.
    pub(super) fn records(&self) -> (u64, u64) {
        (self.records_in.load(Ordering::Relaxed), self.records_out.load(Ordering::Relaxed))
    }

    pub(super) fn through(&self) -> Epoch {
        self.through.load(Ordering::Relaxed)
    }

    /// The epoch being worked on, and since when.
    pub(super) fn at_work(&self) -> Option<(Epoch, Moment)> {
        let epoch = self.working.load(Ordering::Acquire);
        (epoch > 0).then(|| (epoch, self.since()))
    }

    /// When the last work began; when the gauge was made, before any.
    pub(super) fn since(&self) -> Moment {
        Moment(self.since.load(Ordering::Relaxed))
    }

    pub(super) fn size(&self) -> StateSize {
        StateSize { entries: self.entries.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// Work on an epoch, until it is dropped.
#[must_use = "the work ends when this is dropped"]
pub(crate) struct AtWork<'a>(&'a Gauge);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.working.store(0, Ordering::Release);
    }
}
