//! What a thread was doing when it panicked: noted while it unwinds, so that it costs nothing while it does not.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use serde::{Deserialize, Serialize};

use super::witness;
use crate::key::OwnedKey;
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

/// How far a record had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// It was decoded, or asked for its time: its epoch was not bound.
    Decode,
    /// An operator or a sink's encoder had it.
    Operate,
}

/// Where somebody else's code is called: the operator, and the epoch if it is known.
pub(crate) type At = (&'static str, Option<Epoch>);

/// What was found when a thread panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    /// The records that were handled, if they are a source's.
    pub(super) origin: Option<Origin>,
    pub(super) phase: Phase,
    pub(super) operator: &'static str,
    pub(super) epoch: Option<Epoch>,
    /// The key that was handled.
    pub(super) key: Option<String>,
}

thread_local! {
    static NOTED: RefCell<Option<Noted>> = const { RefCell::new(None) };
    static IN_HAND: RefCell<(Option<Origin>, Option<String>)> = const { RefCell::new((None, None)) };
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// Held while somebody else's code sees records. If that panics, they are noted. The innermost one is dropped first, and
/// knows best.
pub(crate) struct Passing<'a> {
    /// `None`: the records are of many batches, or no source's (rows of a window).
    origin: Option<&'a Origin>,
    phase: Phase,
    at: At,
}

impl<'a> Passing<'a> {
    pub(crate) fn new(origin: Option<&'a Origin>, phase: Phase, at: At) -> Passing<'a> {
        Passing { origin, phase, at }
    }
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (operator, epoch) = self.at;
            NOTED.with_borrow_mut(|noted| match noted {
                Some(known) => known.epoch = known.epoch.or(epoch),
                None => {
                    let (in_hand, key) = IN_HAND.take();
                    let origin = self.origin.cloned().or(in_hand);
                    *noted = Some(Noted { origin, phase: self.phase, operator, epoch, key });
                }
            });
        }
    }
}

/// A keyed logic is about to unwind that had this record in hand.
pub(super) fn in_hand(origin: &Origin) {
    IN_HAND.with_borrow_mut(|in_hand| in_hand.0 = Some(origin.clone()));
}

/// A keyed logic is about to unwind that had this key in hand.
pub(crate) fn key_in_hand(key: &OwnedKey) {
    let (tenant, name) = key.texts();
    IN_HAND.with_borrow_mut(|in_hand| in_hand.1 = Some(format!("{tenant}/{name}")));
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

/// Does `work`; a panic of it is caught. One that is not the `first` is neither told by the hook nor noted.
pub(crate) fn tried<R>(first: bool, work: impl FnOnce() -> R) -> Result<R, Panic> {
    let (looking, noted) = (LOOKING.replace(!first), take());
    let done = catch_unwind(AssertUnwindSafe(work));
    LOOKING.set(looking);
    if !first {
        NOTED.set(noted);
    }
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
        let _passing = Passing::new(origin, phase, (operator, Some(epoch)));
        work()
    };
    let Some(single) = origin.filter(|origin| origin.single) else { return Some(guarded()) };
    let first = match tried(true, &mut guarded) {
        Ok(done) => return Some(done),
        Err(panic) => panic,
    };
    let again = tried(false, guarded).is_err();
    if again && witness::found(single, phase, (operator, epoch), &*first) {
        take();
        return None;
    }
    resume_unwind(first)
}
