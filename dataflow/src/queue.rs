//! Blocks on their way from the reader to the workers: one queue, so that every worker stays busy on one file.
//!
//! First in, first out: once a worker has taken something of epoch e, nothing older can follow; that is how workers know
//! when to give up an epoch.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex};

use timely::scheduling::SyncActivator;

use crate::bind::EpochCut;
use crate::quarantine::Parcel;
use crate::time::Epoch;

/// How many bytes may wait for a worker.
const WAITING: usize = 8 << 20;

pub(crate) enum Item {
    Block(Epoch, Parcel),
    Cut(EpochCut),
}

pub(crate) enum Popped {
    Item(Item),
    /// The run failed: no epoch may be taken for complete any more.
    Halted,
    /// Nothing waits; everything through this epoch was taken. The flag says that nothing will follow.
    Empty {
        taken_through: Epoch,
        ended: bool,
    },
}

#[derive(Default)]
struct Inner {
    items: VecDeque<Item>,
    bytes: usize,
    closed_through: Epoch,
    ended: bool,
    abandoned: bool,
    workers: Vec<SyncActivator>,
}

pub(crate) struct BlockQueue {
    inner: Mutex<Inner>,
    room: Condvar,
}

impl BlockQueue {
    pub(crate) fn new(resume: Epoch) -> Self {
        BlockQueue { inner: Mutex::new(Inner { closed_through: resume, ..Inner::default() }), room: Condvar::new() }
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while the queue is held")
    }

    /// Has `worker` woken whenever something changes.
    pub(crate) fn register(&self, worker: SyncActivator) {
        self.held().workers.push(worker);
    }

    /// Adds a block, waiting for room; `false` when the run failed.
    pub(crate) fn push_block(&self, epoch: Epoch, parcel: Parcel) -> bool {
        let mut inner = self.held();
        while inner.bytes > WAITING && !inner.abandoned {
            inner = self.room.wait(inner).expect("no panic while the queue is held");
        }
        if inner.abandoned {
            return false;
        }
        inner.bytes += parcel.block.bytes.len();
        inner.items.push_back(Item::Block(epoch, parcel));
        wake(&inner);
        true
    }

    /// Ends an epoch.
    pub(crate) fn push_cut(&self, cut: EpochCut) {
        let mut inner = self.held();
        inner.closed_through = cut.epoch;
        inner.items.push_back(Item::Cut(cut));
        wake(&inner);
    }

    /// Nothing follows.
    pub(crate) fn end(&self) {
        let mut inner = self.held();
        inner.ended = true;
        wake(&inner);
    }

    /// The run failed: nobody waits any more.
    pub(crate) fn abandon(&self) {
        let mut inner = self.held();
        inner.abandoned = true;
        inner.items.clear();
        self.room.notify_all();
    }

    /// Abandons the queue if `failed`: the reader may be waiting for room that no worker will make.
    pub(crate) fn abandon_if(&self, failed: bool) {
        if failed {
            self.abandon();
        }
    }

    pub(crate) fn pop(&self) -> Popped {
        let mut inner = self.held();
        if inner.abandoned {
            return Popped::Halted;
        }
        match inner.items.pop_front() {
            Some(item) => {
                if let Item::Block(_, parcel) = &item {
                    inner.bytes -= parcel.block.bytes.len();
                    if inner.bytes <= WAITING {
                        self.room.notify_one();
                    }
                }
                Popped::Item(item)
            }
            None => Popped::Empty { taken_through: inner.closed_through, ended: inner.ended },
        }
    }
}

fn wake(inner: &Inner) {
    for worker in &inner.workers {
        // A worker that is gone needs no waking.
        let _ = worker.activate();
    }
}
