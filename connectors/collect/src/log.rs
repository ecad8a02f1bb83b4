//! Where events are stored: the embedded log, behind a seam that tests put failures into.

use std::error::Error;

use tidemill_embedded_log::Record;

use crate::topic::Topic;

pub use topics::TopicLogs;

mod topics;

/// Why a log does not take events, in a sentence.
pub type LogFailure = Box<dyn Error + Send + Sync>;

/// An opened log. After any failure it is dropped and opened anew.
pub trait EventLog: Send {
    /// Appends lines to a partition of a topic; nobody sees them before [`sync`](EventLog::sync).
    ///
    /// # Errors
    /// The log is broken then.
    fn append(&mut self, topic: Topic, partition: u32, records: &[Record<'_>]) -> Result<(), LogFailure>;

    /// Puts everything that was appended on disk, then shows it to readers.
    ///
    /// # Errors
    /// The log is broken then.
    fn sync(&mut self) -> Result<(), LogFailure>;

    /// Deletes what is old enough and needed by nobody; `now_ms` is in milliseconds since 1970.
    ///
    /// # Errors
    /// The log is broken then.
    fn retain(&mut self, now_ms: i64) -> Result<(), LogFailure>;
}

/// Opens the log, at the start and after each failure.
pub trait OpenLog: Send {
    /// Opens it, repaired if need be.
    ///
    /// # Errors
    /// Why it cannot be opened now.
    fn open(&mut self) -> Result<Box<dyn EventLog>, LogFailure>;
}
