//! Which connections wait for a request, in the order in which they began to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The connections of a server that are idle: nothing was asked of them yet, or all that was asked is answered.
#[derive(Debug, Default)]
pub(crate) struct IdleConnections(Mutex<Idle>);

#[derive(Debug, Default)]
struct Idle {
    /// By the number that each got when it became idle.
    waiting: BTreeMap<u64, Arc<Notify>>,
    next: u64,
}

impl IdleConnections {
    /// Tells the one that has been idle for longest to close; false if none is idle.
    pub(crate) fn close_longest(&self) -> bool {
        let longest = self.lock().waiting.pop_first();
        longest.is_some_and(|(_, close)| {
            close.notify_one();
            true
        })
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, idle or not.
#[derive(Debug)]
pub(crate) struct Presence {
    among: Arc<IdleConnections>,
    /// Notified when it has to make room for another.
    pub(crate) close: Arc<Notify>,
    idle: Mutex<Option<u64>>,
}

impl Presence {
    /// A new connection, on which nothing was asked yet.
    pub(crate) fn new(among: &Arc<IdleConnections>) -> Arc<Presence> {
        let presence = Presence { among: Arc::clone(among), close: Arc::default(), idle: Mutex::default() };
        presence.wait();
        Arc::new(presence)
    }

    /// A request came; it is answered when what this gives is dropped.
    pub(crate) fn busy(self: &Arc<Presence>) -> Busy {
        self.leave();
        Busy(Arc::clone(self))
    }

    fn wait(&self) {
        let mut idle = self.among.lock();
        let number = idle.next;
        idle.next += 1;
        idle.waiting.insert(number, Arc::clone(&self.close));
        *self.number() = Some(number);
    }

    fn leave(&self) {
        if let Some(number) = self.number().take() {
            self.among.lock().waiting.remove(&number);
        }
    }

    fn number(&self) -> MutexGuard<'_, Option<u64>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A request that is being answered: its connection is left alone.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Presence>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_connection_goes_first_and_a_busy_one_never() {
        let all = Arc::new(IdleConnections::default());
        let [first, second, third] = [(); 3].map(|()| Presence::new(&all));
        let answering = first.busy();
        drop(third);
        assert!(all.close_longest(), "the second");
        assert!(!all.close_longest(), "the first is busy, the third is gone");
        drop(answering);
        drop(second);
        assert!(all.close_longest() && !all.close_longest());
        drop(first.busy());
        assert!(all.close_longest(), "it is idle anew");
    }
}
