//! Windows of event time, as pure rules: what an epoch adds to each window, and what of it is late.
//!
//! | module | what |
//! |---|---|
//! | [`assigner`] | how windows lie over event time, and when a record is late |
//! | [`tumbling`], [`hopping`] | windows of a fixed width, side by side or overlapping |
//! | [`cells`] | combining and merging values per (key, window) |
//! | [`windowed`] | windows as authors chain them: deltas |
//! | [`session`] | windows that a gap ends |
//! | [`top_k`] | the most frequent items of a window |

pub mod assigner;
pub mod cells;
#[cfg(test)]
mod flows;
pub mod hopping;
#[cfg(test)]
pub(crate) mod laws;
pub mod session;
pub mod top_k;
pub mod tumbling;
pub mod windowed;

use thiserror::Error;

/// A window whose durations make no sense; the pipeline does not start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} is {millis} ms; it must be from {least} ms to {most}: give it another duration")]
pub struct WindowError {
    /// Which duration.
    pub what: &'static str,
    /// What it is, in milliseconds.
    pub millis: i64,
    /// The least that it may be, in milliseconds.
    pub least: i64,
    /// The most that it may be, in words.
    pub most: &'static str,
}

/// Longer durations could overflow event times.
const LONGEST: i64 = 10_000 * 366 * 24 * 3_600_000;
const LONGEST_IN_WORDS: &str = "10,000 years";

pub(crate) fn check(what: &'static str, millis: i64) -> Result<(), WindowError> {
    check_from(1, what, millis)
}

/// The same for durations that may be short of a millisecond: `least` is 0 or 1.
pub(crate) fn check_from(least: i64, what: &'static str, millis: i64) -> Result<(), WindowError> {
    let fits = (least..=LONGEST).contains(&millis);
    if fits { Ok(()) } else { Err(WindowError { what, millis, least, most: LONGEST_IN_WORDS }) }
}
