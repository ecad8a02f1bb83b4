//! What a thread was doing when it panicked: noted while it unwinds, so that it costs nothing while it does not.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

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

impl Origin {
    /// Whether the position lies in it.
    pub(super) fn holds(&self, partition: &str, offset: u64) -> bool {
        self.partition == partition && (self.start..self.end).contains(&offset)
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
    pub(super) origin: Origin,
    pub(super) phase: Phase,
    pub(super) operator: &'static str,
}

thread_local! {
    static NOTED: RefCell<Option<Noted>> = const { RefCell::new(None) };
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
            let (phase, operator) = (self.phase, self.operator);
            // The innermost one is dropped first.
            NOTED.with_borrow_mut(|noted| {
                noted.get_or_insert_with(|| Noted { origin: origin.clone(), phase, operator });
            });
        }
    }
}

/// What this thread panicked at.
pub(super) fn take() -> Option<Noted> {
    NOTED.take()
}
