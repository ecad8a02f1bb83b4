//! Epochs, event times and watermarks: the three clocks of a pipeline, kept apart by type.
//!
//! Timely's timestamp is the [`Epoch`]; event time is data and never becomes a timely timestamp (DESIGN 1, INV-2).

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A dense number of an input cut; epoch 1 is the first one, 0 means "before anything was read".
pub type Epoch = u64;

/// When something happened, in milliseconds since 1970-01-01T00:00:00Z, as the event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
pub struct EventTime(pub i64);

impl EventTime {
    /// The end of time: the watermark after `--drain`.
    pub const MAX: EventTime = EventTime(i64::MAX);

    /// This time moved back by `span`, saturating.
    #[must_use]
    pub fn minus(self, span: Duration) -> EventTime {
        EventTime(self.0.saturating_sub(millis(span)))
    }

    /// This time moved forward by `span`, saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> EventTime {
        EventTime(self.0.saturating_add(millis(span)))
    }

    /// The start of the window of `width` milliseconds (aligned to 1970) that holds this time.
    #[must_use]
    pub fn window_start(self, width: i64) -> EventTime {
        EventTime(self.0.saturating_sub(self.0.rem_euclid(width)))
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// "No event earlier than this is expected"; `None` while nothing is known.
///
/// `None` orders before every time, so the minimum over partitions is `Ord::min`.
pub type Watermark = Option<EventTime>;

/// The clocks that a keyed operator sees when it closes an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochTime {
    /// The epoch being closed.
    pub epoch: Epoch,
    /// `W(e-1)`: what records of this epoch are judged against.
    pub before: Watermark,
    /// `W(e)`: what fires when this epoch closes.
    pub after: Watermark,
}

/// A span in whole milliseconds, saturating at `i64::MAX`.
#[must_use]
pub fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// `n` seconds.
#[must_use]
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `n` minutes.
#[must_use]
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// `n` hours.
#[must_use]
pub const fn hours(n: u64) -> Duration {
    Duration::from_secs(3_600 * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_start_is_at_or_before_the_time_also_before_1970() {
        for (time, start) in [(0, 0), (59_999, 0), (60_000, 60_000), (-1, -60_000), (-60_000, -60_000)] {
            assert_eq!(EventTime(time).window_start(60_000), EventTime(start), "{time}");
        }
    }

    #[test]
    fn an_unknown_watermark_holds_back_every_known_one() {
        assert_eq!(None.min(Some(EventTime(5))), None);
    }
}
