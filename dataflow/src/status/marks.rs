//! How each epoch and checkpoint went, told to whoever watches (traces): once an epoch, and never waited for.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::snapshot::{Checkpoint, Moment};
use crate::time::Epoch;

/// When an epoch came through its stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochTimes {
    /// Its number.
    pub epoch: Epoch,
    /// Bytes of input.
    pub bytes: u64,
    /// The reader cut it.
    pub cut: Moment,
    /// What it contains was durable.
    pub bound: Option<Moment>,
    /// Every worker was through with it.
    pub processed: Option<Moment>,
    /// It was in every table.
    pub committed: Moment,
}

/// Something that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// An epoch was committed.
    Epoch(EpochTimes),
    /// A checkpoint was stored.
    Checkpoint(Checkpoint),
}

/// Whoever watches; nobody, unless asked for.
#[derive(Debug, Default)]
pub(super) struct Watcher(Option<SyncSender<Mark>>);

impl Watcher {
    pub(super) fn begin(&mut self, most: usize) -> Receiver<Mark> {
        let (marks, told) = sync_channel(most);
        self.0 = Some(marks);
        told
    }

    pub(super) fn tell(&self, mark: impl FnOnce() -> Mark) {
        if let Some(marks) = &self.0 {
            // Full or gone: the run does not wait for those who watch it.
            let _ = marks.try_send(mark());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(epoch: Epoch) -> Mark {
        let at = Moment(1_000);
        Mark::Epoch(EpochTimes { epoch, bytes: 7, cut: at, bound: Some(at), processed: Some(at), committed: at })
    }

    #[test]
    fn whoever_watches_slowly_misses_marks_and_holds_nothing_up() {
        let mut watcher = Watcher::default();
        watcher.tell(|| unreachable!("nobody watches"));
        let told = watcher.begin(2);
        (1..=5).for_each(|epoch| watcher.tell(|| mark(epoch)));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [mark(1), mark(2)]);
        drop(told);
        watcher.tell(|| mark(6));
    }
}
