//! Which connections wait for a request, which are busy with one, and who makes room for the next.
//!
//! A connection is idle until a head is there, and again once it is answered. Promises: room is made by the client that has
//! most connections, of these by the one that has been idle for longest, and by none that is busy; and nobody is busy on
//! more connections than it leaves for others ([`Shares`]), so that there is always room to be made.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::shares::{Share, Shares};

/// The open connections of a server.
#[derive(Debug)]
pub(crate) struct Connections {
    busy: Arc<Shares>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// By client, as [`sharer`](crate::sharer) tells them apart.
    of: HashMap<u128, Own>,
    next: u64,
}

#[derive(Debug, Default)]
struct Own {
    open: usize,
    /// By the number that each got when it became idle.
    idle: BTreeMap<u64, Arc<Notify>>,
}

impl Connections {
    /// None yet, of so many.
    pub(crate) fn new(most: usize) -> Arc<Connections> {
        Arc::new(Connections { busy: Shares::new(most), open: Mutex::default() })
    }

    /// Tells an idle one to close; false if none is idle.
    pub(crate) fn close_longest(&self) -> bool {
        let mut open = self.open();
        let idle = open.of.values_mut().filter(|own| !own.idle.is_empty());
        // Of two clients that have as many, the one that has been idle for longer.
        let largest = idle.min_by_key(|own| (usize::MAX - own.open, own.idle.keys().next().copied()));
        let longest = largest.and_then(|own| own.idle.pop_first());
        longest.is_some_and(|(_, close)| {
            close.notify_one();
            true
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, idle or not.
#[derive(Debug)]
pub(crate) struct Presence {
    among: Arc<Connections>,
    whose: u128,
    /// Notified when it has to make room for another.
    pub(crate) close: Arc<Notify>,
    idle: Mutex<Option<u64>>,
    /// Requests that are answered: one may be read while the answer to the one before is still being sent.
    answered: AtomicUsize,
}

impl Presence {
    /// A new connection of a client, on which nothing was asked yet.
    pub(crate) fn new(among: &Arc<Connections>, whose: u128) -> Arc<Presence> {
        among.open().of.entry(whose).or_default().open += 1;
        let presence = Presence {
            among: Arc::clone(among),
            whose,
            close: Arc::default(),
            idle: Mutex::default(),
            answered: AtomicUsize::new(0),
        };
        presence.wait();
        Arc::new(presence)
    }

    /// A request came; it is answered when what this gives is dropped. None if its client is busy on as many connections
    /// as it may be.
    pub(crate) fn busy(self: &Arc<Presence>) -> Option<Busy> {
        let share = self.among.busy.take(self.whose)?;
        self.answered.fetch_add(1, Ordering::AcqRel);
        self.leave();
        Some(Busy { presence: Arc::clone(self), _share: share })
    }

    fn wait(&self) {
        let mut open = self.among.open();
        let number = open.next;
        open.next += 1;
        open.of.entry(self.whose).or_default().idle.insert(number, Arc::clone(&self.close));
        *self.number() = Some(number);
    }

    fn leave(&self) {
        let number = self.number().take();
        if let (Some(number), Some(own)) = (number, self.among.open().of.get_mut(&self.whose)) {
            own.idle.remove(&number);
        }
    }

    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.leave();
        let mut open = self.among.open();
        if let Some(own) = open.of.get_mut(&self.whose) {
            own.open -= 1;
            if own.open == 0 {
                open.of.remove(&self.whose);
            }
        }
    }
}

/// A request that is being answered: its connection is left alone.
#[derive(Debug)]
pub(crate) struct Busy {
    presence: Arc<Presence>,
    _share: Share,
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.presence.answered.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.presence.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_connection_goes_first_and_a_busy_one_never() {
        let all = Connections::new(64);
        let [first, second, third] = [(); 3].map(|()| Presence::new(&all, 1));
        let answering = first.busy();
        drop(third);
        assert!(all.close_longest(), "the second");
        assert!(!all.close_longest(), "the first is busy, the third is gone");
        drop(answering);
        drop(second);
        assert!(all.close_longest() && !all.close_longest());
        drop(first.busy());
        assert!(all.close_longest(), "it is idle anew");
        drop(first);
        assert!(all.open().of.is_empty(), "who has no connection is not remembered");
    }

    #[test]
    fn room_is_made_by_the_client_that_has_most_connections() {
        let all = Connections::new(64);
        let honest = Presence::new(&all, 1);
        let many: Vec<_> = (0..5).map(|_| Presence::new(&all, 2)).collect();
        let busy: Vec<_> = many.iter().skip(1).map(|one| one.busy()).collect();
        assert!(all.close_longest(), "the only idle one of the five, though the honest one has been idle for longer");
        assert!(all.close_longest() && !all.close_longest(), "then the honest one");
        drop((honest, busy));
    }

    #[test]
    fn a_client_is_busy_on_half_of_the_connections_at_most() {
        let all = Connections::new(8);
        let many: Vec<_> = (0..8).map(|_| Presence::new(&all, 1)).collect();
        let busy: Vec<_> = many.iter().filter_map(Presence::busy).collect();
        assert_eq!(busy.len(), 4);
        assert!(all.close_longest(), "the others are idle, so that there is room");
        let newcomer = Presence::new(&all, 2);
        assert!(newcomer.busy().is_some());
        drop(busy);
        assert!(many[7].busy().is_some());
    }
}
