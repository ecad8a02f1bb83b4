//! Hopping windows: of one width, one beginning every step, so that each event is in several.
//!
//! Windows are aligned to 1970: they begin at the multiples of the step. If the step divides the width every event is
//! in exactly width / step windows, otherwise in one more or less, whichever begin at most a width before it. A record is
//! combined once per slice of event time, however many windows it is in; the windows of an epoch are put together by
//! the owner of the key. They have no state, and emit what each epoch added, as tumbling windows do (INV-2, INV-7).
//!
//! A record is added to those of its windows that are open, and is *late* once all of them are complete: under
//! [`Late::Correct`] it is added all the same, to each of them; under [`Late::Side`] and [`Late::Drop`] it is routed, and
//! what other records missed of windows that were complete already is counted as `late_windows` (INV-6).

use std::fmt;
use std::time::Duration;

use tidemill_dataflow::time::{EventTime, Watermark, millis};

use super::assigner::{Assigner, Late, STAND_IN};
use super::{WindowError, check};

/// An event is in at most so many windows: each of them is a row of its key and slice in the epoch that holds the event.
const MOST_WINDOWS: i64 = 10_000;

/// Hopping windows of one width and step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hopping {
    width: i64,
    step: i64,
    late: Late,
}

impl Hopping {
    /// Windows of this width, in whole milliseconds, side by side until a step is given; late records correct them.
    ///
    /// ```
    /// use tidemill_dataflow::time::{EventTime, minutes};
    /// use tidemill_operators::window::assigner::Assigner;
    /// use tidemill_operators::window::hopping::Hopping;
    ///
    /// // "The last ten minutes", anew every five: an event at 00:12 is in the windows from 00:10 and from 00:05.
    /// let windows = Hopping::of(minutes(10)).every(minutes(5));
    /// let starts: Vec<_> = windows.windows(EventTime(12 * 60_000)).map(|start| start.0 / 60_000).collect();
    /// assert_eq!(starts, [10, 5]);
    ///
    /// // A step that is longer than the width would leave events without a window.
    /// assert!(Hopping::of(minutes(5)).every(minutes(10)).validate().is_err());
    /// ```
    #[must_use]
    pub fn of(width: Duration) -> Self {
        Hopping { width: millis(width), step: millis(width), late: Late::Correct }
    }

    /// One window begins every `step`, in whole milliseconds. Each epoch gives a row for every window that its records
    /// are in, so a row of a tumbling window becomes width / step of them: 10,000 at most, or the plan is refused.
    #[must_use]
    pub fn every(self, step: Duration) -> Self {
        Hopping { step: millis(step), ..self }
    }

    /// Says what happens to late records.
    #[must_use]
    pub fn late(self, late: Late) -> Self {
        Hopping { late, ..self }
    }

    /// The step in milliseconds.
    #[must_use]
    pub fn step(&self) -> i64 {
        self.step
    }

    /// How far a time is past the start of its latest window, and that start.
    #[inline]
    fn latest(&self, time: EventTime) -> (i64, EventTime) {
        let past = time.0.rem_euclid(self.step);
        (past, EventTime(time.0.saturating_sub(past)))
    }
}

impl fmt::Display for Hopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hopping {} ms every {} ms", self.width, self.step)
    }
}

impl Assigner for Hopping {
    const OVERLAPPING: bool = true;

    fn stand_in() -> Self {
        Hopping::of(STAND_IN)
    }

    fn validate(&self) -> Result<(), WindowError> {
        check("the width of a hopping window", self.width)?;
        let least = (self.width - 1) / MOST_WINDOWS + 1;
        if (least..=self.width).contains(&self.step) {
            return Ok(());
        }
        let (what, most) = ("the step of a hopping window", "its width (an event is in at most 10,000 windows)");
        Err(WindowError { what, millis: self.step, least, most })
    }

    fn width(&self) -> i64 {
        self.width
    }

    fn late_policy(&self) -> Late {
        self.late
    }

    fn slice(&self, time: EventTime) -> (EventTime, i64) {
        // Windows begin at multiples of the step and end a rest after multiples of it: between those nothing changes.
        let (past, latest) = self.latest(time);
        let rest = self.width % self.step;
        if past < rest { (latest, rest) } else { (EventTime(latest.0.saturating_add(rest)), self.step - rest) }
    }

    fn windows(&self, slice: EventTime) -> impl Iterator<Item = EventTime> {
        let (past, latest) = self.latest(slice);
        let (step, count) = (self.step, (self.width - past + self.step - 1) / self.step);
        // Windows that would begin before the first time that there is do not exist.
        (0..count).map_while(move |back| latest.0.checked_sub(back * step)).map(EventTime)
    }

    #[inline]
    fn is_late(&self, time: EventTime, before: Watermark) -> bool {
        before.is_some_and(|before| self.end(self.latest(time).1) <= before)
    }

    fn missed(&self, time: EventTime, before: Watermark) -> usize {
        // Every window that holds a time at or past the watermark is open: almost all records are such.
        if before.is_none_or(|before| before <= time) {
            return 0;
        }
        self.windows(time).filter(|&start| self.is_complete(start, before)).count()
    }
}

#[cfg(test)]
mod tests;
