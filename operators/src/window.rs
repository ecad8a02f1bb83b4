//! Windows of event time, as pure rules: what an epoch adds to each window, and what of it is late.

pub mod session;
pub mod tumbling;

use thiserror::Error;

/// A window whose durations make no sense; the pipeline does not start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} is {millis} ms; it must be from 1 ms to 10,000 years: give it another duration")]
pub struct WindowError {
    /// Which duration.
    pub what: &'static str,
    /// What it is, in milliseconds.
    pub millis: i64,
}

/// Longer durations could overflow event times.
const LONGEST: i64 = 10_000 * 366 * 24 * 3_600_000;

fn check(what: &'static str, millis: i64) -> Result<(), WindowError> {
    if (1..=LONGEST).contains(&millis) { Ok(()) } else { Err(WindowError { what, millis }) }
}
