//! Tumbling windows: fixed widths, aligned to 1970, side by side, so that each event is in exactly one.
//!
//! Over mergeable aggregates they have no state: see [`super::cells`].

use std::fmt;
use std::time::Duration;

use tidemill_dataflow::time::{EventTime, Watermark, millis};

pub use super::assigner::Late;
use super::assigner::{Assigner, STAND_IN};
pub use super::cells::{MergeLogic, WindowCombiner, WindowRow};
use super::{WindowError, check};

/// Tumbling windows of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tumbling {
    width: i64,
    late: Late,
}

impl Tumbling {
    /// Windows of this width, in whole milliseconds; late records correct them.
    ///
    /// ```
    /// use tidemill_dataflow::time::{EventTime, minutes};
    /// use tidemill_operators::window::assigner::Assigner;
    /// use tidemill_operators::window::tumbling::Tumbling;
    ///
    /// // Windows begin at whole minutes, and are complete once the watermark is at their end.
    /// let windows = Tumbling::of(minutes(1));
    /// let starts: Vec<_> = windows.windows(EventTime(119_999)).collect();
    /// assert_eq!(starts, [EventTime(60_000)]);
    /// assert!(!windows.is_late(EventTime(119_999), Some(EventTime(119_999))));
    /// assert!(windows.is_late(EventTime(119_999), Some(EventTime(120_000))));
    /// ```
    #[must_use]
    pub fn of(width: Duration) -> Self {
        Tumbling { width: millis(width), late: Late::Correct }
    }

    /// Says what happens to late records.
    #[must_use]
    pub fn late(self, late: Late) -> Self {
        Tumbling { late, ..self }
    }

    /// Refuses a width of zero or of more than 10,000 years.
    ///
    /// # Errors
    /// If the width is one of those.
    pub fn validate(&self) -> Result<(), WindowError> {
        check("the width of a tumbling window", self.width)
    }

    /// The width in milliseconds.
    #[must_use]
    pub fn width(&self) -> i64 {
        self.width
    }

    /// What happens to late records.
    #[must_use]
    pub fn late_policy(&self) -> Late {
        self.late
    }

    /// Whether the window of this time was complete under `before`, the watermark `W(e-1)`.
    #[must_use]
    #[inline]
    pub fn is_late(&self, time: EventTime, before: Watermark) -> bool {
        before.is_some_and(|before| time.window_start(self.width).0.saturating_add(self.width) <= before.0)
    }
}

impl fmt::Display for Tumbling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tumbling {} ms", self.width)
    }
}

impl Assigner for Tumbling {
    const OVERLAPPING: bool = false;

    fn stand_in() -> Self {
        Tumbling::of(STAND_IN)
    }

    fn validate(&self) -> Result<(), WindowError> {
        self.validate()
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn late_policy(&self) -> Late {
        self.late
    }

    #[inline]
    fn slice(&self, time: EventTime) -> (EventTime, i64) {
        (time.window_start(self.width), self.width)
    }

    fn windows(&self, slice: EventTime) -> impl Iterator<Item = EventTime> {
        std::iter::once(slice.window_start(self.width))
    }

    #[inline]
    fn is_late(&self, time: EventTime, before: Watermark) -> bool {
        self.is_late(time, before)
    }
}

#[cfg(test)]
mod tests;
