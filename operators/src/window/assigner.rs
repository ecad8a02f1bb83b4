//! Which windows hold an event time, and when an event is late for them.
//!
//! Event time is cut into slices of which all times are in the same windows (Li et al. 2005, "No pane, no gain"; Traub
//! et al. 2018, "Scotty"): records are combined per slice, once each, and slices are merged into windows where the
//! epoch closes. A tumbling window is one slice.

use std::fmt::{Debug, Display};
use std::time::Duration;

use tidemill_dataflow::time::{EventTime, Watermark};

use super::WindowError;

/// A valid stand-in for windows that the plan refuses: the dry build goes on to find what else is wrong.
pub(crate) const STAND_IN: Duration = Duration::from_secs(60);

/// What happens to a record whose window was complete before its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It is added: results are exact however late it comes.
    Correct,
    /// It goes to a stream of its own.
    Side,
    /// It is counted and left out.
    Drop,
}

/// How windows of one width lie over event time. Its `Display` is what the plan says of it.
pub trait Assigner: Clone + Debug + Display + 'static {
    /// Whether a time can be in several windows.
    const OVERLAPPING: bool;

    /// Windows of this kind that are valid.
    fn stand_in() -> Self;

    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// With the duration that is wrong.
    fn validate(&self) -> Result<(), WindowError>;

    /// The width of a window, in milliseconds.
    fn width(&self) -> i64;

    /// What happens to late records.
    fn late_policy(&self) -> Late;

    /// The slice that holds a time: its start, and its length in milliseconds.
    fn slice(&self, time: EventTime) -> (EventTime, i64);

    /// The starts of the windows that hold a slice (or any of its times), the latest first.
    fn windows(&self, slice: EventTime) -> impl Iterator<Item = EventTime>;

    /// Whether every window of this time was complete under `before`, the watermark `W(e-1)`: then the record is late.
    fn is_late(&self, time: EventTime, before: Watermark) -> bool;

    /// The end of a window, exclusive.
    fn end(&self, start: EventTime) -> EventTime {
        EventTime(start.0.saturating_add(self.width()))
    }

    /// Whether a window was complete under `before`.
    fn is_complete(&self, start: EventTime, before: Watermark) -> bool {
        before.is_some_and(|before| self.end(start) <= before)
    }

    /// How many windows of this time were complete under `before`.
    fn missed(&self, time: EventTime, before: Watermark) -> usize {
        self.windows(time).filter(|&start| self.is_complete(start, before)).count()
    }
}
