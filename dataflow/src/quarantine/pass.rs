//! What a thread was doing when it panicked: noted while it unwinds, so that it costs nothing while it does not.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use serde::{Deserialize, Serialize};

use super::witness;
use crate::time::Epoch;

/// Where the records of a batch came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The partition's name.
    pub(crate) partition: String,
    /// Offset of the first record.
    pub(crate) start: u64,
    /// Offset behind the last one.
    pub(crate) end: u64,
    /// It is one record.
    pub(crate) single: bool,
}

/// So many ranges are told apart; of more, each partition's are taken as one.
const RANGES: usize = 64;

impl Origin {
    /// Whether the position lies in it.
    pub(super) fn holds(&self, partition: &str, offset: u64) -> bool {
        self.partition == partition && (self.start..self.end).contains(&offset)
    }

    /// The same records in as few ranges as they fill, in order; in one a partition if they are scattered.
    pub(crate) fn joined<'a>(origins: impl Iterator<Item = &'a Origin>) -> Vec<Origin> {
        let mut sorted: Vec<&Origin> = origins.collect();
        sorted.sort_unstable();
        let join = |near: &dyn Fn(&Origin, &Origin) -> bool| {
            let mut joined: Vec<Origin> = Vec::new();
            for &next in &sorted {
                match joined.last_mut() {
                    Some(last) if last == next => {}
                    Some(last) if last.partition == next.partition && near(last, next) => {
                        (last.end, last.single) = (last.end.max(next.end), false);
                    }
                    _ => joined.push(next.clone()),
                }
            }
            joined
        };
        let ranges = join(&|last, next| next.start <= last.end);
        if ranges.len() > RANGES { join(&|_, _| true) } else { ranges }
    }
}

/// How far a record had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// It was decoded, or asked for its time: its epoch was not bound.
    Decode,
    /// An operator or a sink's encoder had it.
    Operate,
}

/// What was found when a thread panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    /// One of these records is to blame; there is at least one.
    pub(super) origins: Vec<Origin>,
    pub(super) phase: Phase,
    pub(super) operator: &'static str,
}

thread_local! {
    static NOTED: RefCell<Option<Noted>> = const { RefCell::new(None) };
    static IN_HAND: RefCell<Option<Vec<usize>>> = const { RefCell::new(None) };
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// The innermost guard is dropped first, and knows best.
fn note(origins: impl FnOnce() -> Vec<Origin>, phase: Phase, operator: &'static str) {
    NOTED.with_borrow_mut(|noted| {
        if noted.is_none() {
            let origins = origins();
            *noted = (!origins.is_empty()).then_some(Noted { origins, phase, operator });
        }
    });
}

/// Held while somebody else's code sees the records of a batch. If that panics, the batch is to blame.
pub(crate) struct Passing<'a> {
    /// `None`: the records are no source's (rows of a window), and nothing can be blamed.
    origin: Option<&'a Origin>,
    phase: Phase,
    operator: &'static str,
}

impl<'a> Passing<'a> {
    pub(crate) fn new(origin: Option<&'a Origin>, phase: Phase, operator: &'static str) -> Passing<'a> {
        Passing { origin, phase, operator }
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(origin) = self.origin
        {
            note(|| vec![origin.clone()], self.phase, self.operator);
        }
    }
}

/// Held while a keyed logic closes an epoch of chunks that were made of these records. If it panics, those of the chunks
/// in hand are to blame, of all chunks where the logic did not say which that are.
pub(crate) struct Closing<'a> {
    made_of: &'a [Vec<Origin>],
    operator: &'static str,
}

impl<'a> Closing<'a> {
    pub(crate) fn new(made_of: &'a [Vec<Origin>], operator: &'static str) -> Closing<'a> {
        // Nothing is left of a panic that was looked into.
        IN_HAND.set(None);
        Closing { made_of, operator }
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let in_hand = IN_HAND.take().unwrap_or_else(|| (0..self.made_of.len()).collect());
            let origins = in_hand.iter().filter_map(|&chunk| self.made_of.get(chunk)).flatten();
            note(|| Origin::joined(origins), Phase::Operate, self.operator);
        }
    }
}

/// A logic panicked with rows of these chunks (by number) in hand; with none, where no record of the epoch is to blame.
pub(crate) fn in_hand(chunks: Vec<usize>) {
    IN_HAND.set(Some(chunks));
}

/// What this thread panicked at.
pub(super) fn take() -> Option<Noted> {
    NOTED.take()
}

/// A panic that was caught.
pub type Panic = Box<dyn Any + Send>;

/// Whether this thread looks into a panic that was told already, so that a hook need not tell of it again.
#[must_use]
pub fn is_looking() -> bool {
    LOOKING.get()
}

/// Does `work`; a panic of it is caught, and told by the hook only if it is the `first`.
pub(crate) fn tried<R>(first: bool, work: impl FnOnce() -> R) -> Result<R, Panic> {
    let before = LOOKING.replace(!first);
    let done = catch_unwind(AssertUnwindSafe(work));
    LOOKING.set(before);
    done
}

/// Lets somebody else's code see the records of a batch, for which `work` stands.
///
/// `None` if it is one record of a block that is taken apart, and `work` panicked twice: that is noted, nothing of its epoch
/// is written or committed any more in this run, and only the others are gone on with, to find all that panic. What else
/// panics ends the run.
pub(crate) fn pass<R>(
    origin: Option<&Origin>,
    phase: Phase,
    (operator, epoch): (&'static str, Epoch),
    mut work: impl FnMut() -> R,
) -> Option<R> {
    let mut guarded = || {
        let _passing = Passing::new(origin, phase, operator);
        work()
    };
    let Some(single) = origin.filter(|origin| origin.single) else { return Some(guarded()) };
    let first = match tried(true, &mut guarded) {
        Ok(done) => return Some(done),
        Err(panic) => panic,
    };
    let again = tried(false, guarded).is_err();
    if again && witness::found(std::slice::from_ref(single), phase, (operator, epoch), &*first) {
        take();
        return None;
    }
    resume_unwind(first)
}
