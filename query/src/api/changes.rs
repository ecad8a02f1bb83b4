//! Who is told of new commits.
//!
//! Promises: a reader is told the newest commit first and then each one that follows, in order; whoever reads too slowly
//! to keep up with a few is let go (a browser comes back by itself, with `Last-Event-ID`), so no reader costs memory. No client
//! takes the places of all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidemill_http::{Share, Shares};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::snapshot::Change;

/// Commits that may wait for one reader.
const WAITING: usize = 16;

/// The readers that follow.
#[derive(Debug)]
pub(super) struct Changes {
    places: Arc<Shares>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    readers: Vec<(mpsc::Sender<Arc<Change>>, Share)>,
    newest: Option<Arc<Change>>,
    closed: bool,
}

impl Changes {
    /// Room for `most` readers.
    pub(super) fn new(most: usize) -> Self {
        Self { places: Shares::new(most), state: Mutex::default() }
    }

    /// Tells everybody of a commit; whoever has not taken in the last few is let go. Says how many were.
    pub(super) fn publish(&self, change: Change) -> u64 {
        let mut state = self.state();
        let (change, mut let_go) = (Arc::new(change), 0);
        state.readers.retain(|(reader, _)| match reader.try_send(Arc::clone(&change)) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                let_go += 1;
                false
            }
            // It left by itself.
            Err(TrySendError::Closed(_)) => false,
        });
        state.newest = Some(change);
        let_go
    }

    /// A new reader, who is told the newest commit at once unless it is the one it has `seen`. None where there is no
    /// room for this client, or everybody was let go.
    pub(super) fn follow(&self, seen: Option<&str>, whose: u128) -> Option<mpsc::Receiver<Arc<Change>>> {
        let mut state = self.state();
        state.readers.retain(|(reader, _)| !reader.is_closed());
        if state.closed {
            return None;
        }
        let place = self.places.take(whose)?;
        let (reader, changes) = mpsc::channel(WAITING);
        if let Some(newest) = state.newest.as_ref().filter(|newest| Some(newest.id.as_str()) != seen) {
            reader.try_send(Arc::clone(newest)).expect("a new channel has room");
        }
        state.readers.push((reader, place));
        Some(changes)
    }

    /// How many follow now.
    pub(super) fn readers(&self) -> usize {
        let mut state = self.state();
        state.readers.retain(|(reader, _)| !reader.is_closed());
        state.readers.len()
    }

    /// How many may follow.
    pub(super) fn most(&self) -> usize {
        self.places.most()
    }

    /// Lets everybody go, for good.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.readers.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(epoch: u64) -> Change {
        Change { id: epoch.to_string(), data: format!("{{\"epoch\":{epoch}}}") }
    }

    fn taken(changes: &mut mpsc::Receiver<Arc<Change>>) -> Vec<String> {
        std::iter::from_fn(|| changes.try_recv().ok()).map(|change| change.id.clone()).collect()
    }

    #[test]
    fn a_reader_is_told_the_newest_and_then_each_that_follows() {
        let changes = Changes::new(2);
        let mut early = changes.follow(None, 1).unwrap();
        changes.publish(change(1));
        changes.publish(change(2));
        let mut late = changes.follow(None, 2).unwrap();
        changes.publish(change(3));
        assert_eq!(taken(&mut early), ["1", "2", "3"]);
        assert_eq!(taken(&mut late), ["2", "3"]);
    }

    #[test]
    fn who_comes_back_is_told_only_what_is_new() {
        let changes = Changes::new(3);
        changes.publish(change(7));
        assert_eq!(taken(&mut changes.follow(Some("7"), 1).unwrap()), Vec::<String>::new());
        assert_eq!(taken(&mut changes.follow(Some("6"), 1).unwrap()), ["7"]);
        assert_eq!(taken(&mut changes.follow(Some("no number"), 1).unwrap()), ["7"]);
    }

    #[test]
    fn slow_readers_are_let_go_and_make_room() {
        let changes = Changes::new(1);
        let mut slow = changes.follow(None, 1).unwrap();
        assert!(changes.follow(None, 1).is_none());
        let mut let_go = 0;
        for epoch in 0..=WAITING as u64 {
            let_go += changes.publish(change(epoch));
        }
        assert_eq!(let_go, 1, "it is counted");
        assert_eq!(changes.readers(), 0);
        let kept = taken(&mut slow);
        assert_eq!(kept.len(), WAITING);
        assert!(matches!(slow.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
        drop(changes.follow(None, 1).unwrap());
        assert_eq!(changes.publish(change(99)), 0, "one that left was not let go");
        assert!(changes.follow(None, 1).is_some(), "a reader that left makes room");
        changes.close();
        assert!(changes.follow(None, 1).is_none());
    }
}
