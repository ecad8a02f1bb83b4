//! From event times to watermarks: what one block says, what a partition has reached, and `W(e)`.
//!
//! Three pure steps. A worker sums a block up as [`BlockTimes`]; the binder folds the blocks of an epoch, in order,
//! into each partition's `PartitionClock`; [`merge`] takes the minimum over partitions. Nothing here depends on
//! which worker saw a block or when (INV-2). The out-of-orderness bound and the clamp on future times follow the
//! Dataflow Model (Akidau et al., 2015) and DESIGN 2.

mod block;
mod partition;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use block::{BlockClock, BlockTimes};
pub(crate) use partition::{Bounds, PartitionClock};

use crate::time::{Watermark, minutes};

/// A time that is so close to the one before needs no company: no clock that is a burst ahead is so little ahead.
const CLOSE: Duration = minutes(2);

/// How watermarks follow event times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// How far behind the largest event time the watermark stays.
    pub out_of_orderness: Duration,
    /// How far ahead of the server's clock an event time may lie and still count as that clock's time.
    pub max_future_skew: Duration,
    /// How long a live partition must be caught up, without data, before it holds the watermark back no longer.
    pub idle_after: Duration,
}

impl Watermarks {
    /// A watermark `bound` behind the largest event time; future times are clamped at one hour of skew, a live partition
    /// is idle after 30 seconds.
    #[must_use]
    pub fn out_of_order(bound: Duration) -> Self {
        let (max_future_skew, idle_after) = (Duration::from_secs(3_600), Duration::from_secs(30));
        Watermarks { out_of_orderness: bound, max_future_skew, idle_after }
    }

    /// Another time until a live partition counts as idle.
    #[must_use]
    pub fn idle_after(self, span: Duration) -> Self {
        Watermarks { idle_after: span, ..self }
    }

    /// Another bound on future times.
    #[must_use]
    pub fn max_future_skew(self, skew: Duration) -> Self {
        Watermarks { max_future_skew: skew, ..self }
    }

    /// How far apart neighbours may be in any stream.
    fn close(&self) -> Duration {
        self.out_of_orderness.max(CLOSE)
    }
}

/// `W(e)`: the minimum over the partitions that count, never behind `before`; `before` when none counts.
#[must_use]
pub fn merge(before: Watermark, partitions: impl IntoIterator<Item = Watermark>) -> Watermark {
    partitions.into_iter().min().map_or(before, |minimum| minimum.max(before))
}
