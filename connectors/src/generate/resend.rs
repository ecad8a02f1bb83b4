//! What will arrive later because of something that arrived before, in order of the time it is due.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::draft::{Draft, Tenant};

/// A line to be written later.
pub(super) enum Errand {
    /// The same event once more.
    Repeat { draft: Box<Draft> },
    /// Another event under an id that is taken.
    Contradict { id: Vec<u8>, tenant: Tenant },
    /// The same event of another tenant.
    OtherTenant { draft: Box<Draft> },
    /// A user back at the edge of a session.
    Return { edge: u64, timestamp: u64, tenant: Tenant },
}

struct Due {
    at: u64,
    number: u64,
    errand: Errand,
}

impl Due {
    /// The heap gives out its largest: the earliest, then the first scheduled.
    fn rank(&self) -> (std::cmp::Reverse<u64>, std::cmp::Reverse<u64>) {
        (std::cmp::Reverse(self.at), std::cmp::Reverse(self.number))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// The errands that are not yet due.
#[derive(Default)]
pub(super) struct Errands {
    heap: BinaryHeap<Due>,
    sent: u64,
}

impl Errands {
    /// Schedules `errand` for the arrival time `at`.
    pub(super) fn send(&mut self, at: u64, errand: Errand) {
        self.sent += 1;
        self.heap.push(Due { at, number: self.sent, errand });
    }

    /// Takes out the next errand that is due by `now`.
    pub(super) fn due(&mut self, now: u64) -> Option<Errand> {
        if self.heap.peek()?.at > now {
            return None;
        }
        self.heap.pop().map(|due| due.errand)
    }
}
