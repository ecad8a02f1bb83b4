//! What the threads of one process share: the board that gates the source, the failure flag, the request channel.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::Thread;
use std::time::Duration;

use tidemill_log::{Binding, DataFile, TableChange};
use timely::scheduling::SyncActivator;

use crate::checkpoint::PieceRef;
use crate::runtime::RunError;
use crate::status::Status;
use crate::time::{Epoch, Watermark};

/// What the thread that writes the log is asked to do.
pub(crate) enum Request {
    /// Make `bind(e)` durable, then answer.
    Bind { binding: Binding, drained: bool, last_event: Watermark, reply: Sender<Epoch>, wake: SyncActivator },
    /// Every sink has `e`.
    Commit { epoch: Epoch, files: Vec<(String, Vec<DataFile>)>, counts: Vec<(String, BTreeMap<String, u64>)> },
    /// Every stateful operator's changes through `c` are stored.
    Checkpoint { epoch: Epoch, pieces: Vec<(String, PieceRef)>, source: String, watermark: Watermark },
    /// A fold was stored.
    Folded { operator: String, piece: Option<PieceRef> },
    /// Files were rolled.
    Rolled { change: TableChange },
    /// All workers are done: write what is left and stop.
    Finish,
}

/// What the source's reader waits for.
#[derive(Debug, Default)]
struct Board {
    /// The last epoch that went all the way through, in this run or, before the checkpoint, in earlier ones.
    committed: Epoch,
    positions: BTreeMap<Epoch, Vec<Watermark>>,
}

/// State shared by the threads of one process.
pub(crate) struct Shared {
    board: Mutex<Board>,
    moved: Condvar,
    failure: Mutex<Option<RunError>>,
    /// What the run says when it has ended in order.
    ending: Mutex<Option<RunError>>,
    failed: AtomicBool,
    stop: AtomicBool,
    checkpoint_due: AtomicBool,
    /// A checkpoint was begun and is not recorded yet.
    checkpointing: AtomicBool,
    workers: Mutex<Vec<Thread>>,
    /// Shown to people; never read by the engine.
    pub(crate) status: Arc<Status>,
}

fn held<'a, T>(lock: &'a Mutex<T>) -> MutexGuard<'a, T> {
    lock.lock().expect("no panic while a shared lock is held")
}

impl Shared {
    pub(crate) fn new(committed: Epoch, status: Arc<Status>) -> Self {
        Shared {
            board: Mutex::new(Board { committed, positions: BTreeMap::new() }),
            moved: Condvar::new(),
            failure: Mutex::new(None),
            ending: Mutex::new(None),
            failed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            checkpoint_due: AtomicBool::new(false),
            checkpointing: AtomicBool::new(false),
            workers: Mutex::new(Vec::new()),
            status,
        }
    }

    /// The first failure wins; everybody wakes and leaves.
    pub(crate) fn fail(&self, error: RunError) {
        held(&self.failure).get_or_insert(error);
        self.failed.store(true, Ordering::Release);
        self.wake_all();
    }

    /// The run ends in order, and then with this: what it read so far is committed and checkpointed first.
    pub(crate) fn ends_with(&self, error: RunError) {
        held(&self.ending).get_or_insert(error);
    }

    pub(crate) fn take_ending(&self) -> Option<RunError> {
        held(&self.ending).take()
    }

    pub(crate) fn failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(crate) fn take_failure(&self) -> Option<RunError> {
        held(&self.failure).take()
    }

    /// Ends the run after the epoch that is being read.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.status.stopping();
        self.wake_all();
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn checkpoint_due(&self) {
        self.checkpoint_due.store(true, Ordering::Release);
    }

    /// Whether to begin a checkpoint now: it is due (or `anyway`), and no other is under way, so that what waits to be
    /// stored is the changes of one (INV-8).
    pub(crate) fn begin_checkpoint(&self, anyway: bool) -> bool {
        let under_way = self.checkpointing.load(Ordering::Acquire);
        let begin = anyway || (!under_way && self.checkpoint_due.swap(false, Ordering::AcqRel));
        if begin {
            self.checkpointing.store(true, Ordering::Release);
        }
        begin
    }

    pub(crate) fn checkpointed(&self) {
        self.checkpointing.store(false, Ordering::Release);
    }

    pub(crate) fn register_worker(&self, thread: Thread) {
        held(&self.workers).push(thread);
    }

    fn wake_all(&self) {
        let _board = held(&self.board);
        self.moved.notify_all();
        held(&self.workers).iter().for_each(Thread::unpark);
    }

    pub(crate) fn committed(&self, epoch: Epoch) {
        self.status.passed(epoch);
        held(&self.board).committed = epoch;
        self.moved.notify_all();
    }

    pub(crate) fn publish_positions(&self, epoch: Epoch, positions: Vec<Watermark>) {
        let mut board = held(&self.board);
        board.positions.insert(epoch, positions);
        while board.positions.len() > 8 {
            board.positions.pop_first();
        }
        self.moved.notify_all();
    }

    /// The partitions' positions as of the last epoch bound so far.
    pub(crate) fn latest_positions(&self) -> Vec<Watermark> {
        held(&self.board).positions.last_key_value().map(|(_, positions)| positions.clone()).unwrap_or_default()
    }

    /// Waits, at most this long, until `ready` says yes to the committed epoch; gives what it said last. It may also have
    /// ended because the run failed.
    pub(crate) fn wait_committed(&self, at_most: Duration, mut ready: impl FnMut(Epoch) -> bool) -> bool {
        let mut said = false;
        let unready = |board: &mut Board| {
            said = ready(board.committed);
            !said && !self.failed()
        };
        let waited = self.moved.wait_timeout_while(held(&self.board), at_most, unready);
        drop(waited.expect("no panic while the board is held"));
        said
    }

    /// The partitions' positions as bound at the end of `epoch`; `None` when the run failed.
    pub(crate) fn wait_positions(&self, epoch: Epoch) -> Option<Vec<Watermark>> {
        let mut board = held(&self.board);
        loop {
            if self.failed() {
                return None;
            }
            if let Some(positions) = board.positions.get(&epoch) {
                return Some(positions.clone());
            }
            board = self.moved.wait(board).expect("no panic while the board is held");
        }
    }
}

/// A way to ask the log's thread for something, and to end the run with an error.
#[derive(Clone)]
pub(crate) struct Requests {
    sender: Sender<Request>,
    shared: Arc<Shared>,
}

impl Requests {
    pub(crate) fn new(shared: Arc<Shared>) -> (Requests, Receiver<Request>) {
        let (sender, receiver) = channel();
        (Requests { sender, shared }, receiver)
    }

    pub(crate) fn send(&self, request: Request) {
        // The receiver is gone only after a failure, and then nobody waits for an answer.
        let _ = self.sender.send(request);
    }

    pub(crate) fn folded(&self, operator: String, piece: Option<PieceRef>) {
        self.send(Request::Folded { operator, piece });
    }

    pub(crate) fn fail(&self, error: RunError) {
        self.shared.fail(error);
    }
}
