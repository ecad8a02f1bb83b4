//! The archive as a source: the rows of `raw_events`, read back as the events that they were (replay and batch).
//!
//! Promises:
//! - What is read is what the newest commit of the lake's log makes visible when the source is first opened (INV-1).
//!   Those files are recorded with every binding, so a restart reads the same ones (INV-5); a file that a living pipeline
//!   has deleted meanwhile is an error that names it, never a row less or twice.
//! - A row becomes the NDJSON line that it came from, as far as the archive keeps it: every column and every member of
//!   `extra` is there, the order and the spelling of members may differ. It is decoded by the decoder of the live source, which
//!   takes here whatever was taken once.
//! - Rows outside `since..until` are left out; files and row groups that hold none are not read.
//!
//! A partition is an hour of event time (its files in the order of their epochs), and one more for the files that are not
//! yet rolled. An offset counts the rows of a partition's files, whether they are left out or not.
//!
//! | module | what |
//! |---|---|
//! | `plan` | which files make which partition: pure |
//! | `rows` | the rows of one file, from a row on, without the groups that hold none |
//! | `line` | a row as an NDJSON line |
//! | `reader` | all partitions together: the source's [`BlockReader`] |

mod line;
mod plan;
mod reader;
mod rows;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::io;
use std::sync::Arc;

use tidemill_dataflow::source::{BlockReader, PartitionBinding, Source, SourceError};
use tidemill_dataflow::time::EventTime;
use tidemill_log::{FOLDER, Location, reader as log_reader, with_causes};

use crate::events::{Bounds, NdjsonDecoder};

/// What to read of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParquetSource {
    /// Where the lake is: tables and the log beside them.
    pub location: Location,
    /// A table of whole events: `raw_events` or `unverified_events`.
    pub table: String,
    /// The first event time that is read; from the beginning without.
    pub since: Option<EventTime>,
    /// The first event time that is no longer read; to the end without.
    pub until: Option<EventTime>,
}

impl Source for ParquetSource {
    type Decoder = NdjsonDecoder;

    fn decoder(&self) -> NdjsonDecoder {
        NdjsonDecoder::within(Bounds::of_archive())
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        let failed = |error: &(dyn Error + 'static)| self.failed(error);
        let place = self.location.open_for_reading().map_err(|error| failed(&error))?;
        let span = plan::Span::new(self.since, self.until)?;
        let partitions: Vec<plan::PinnedPartition> = if recorded.is_empty() {
            let log = log_reader::read(Arc::clone(&place.store), FOLDER).map_err(|error| failed(&error))?;
            let files = log.tables().get(&self.table).ok_or_else(|| {
                let tables: Vec<&str> = log.tables().keys().map(String::as_str).collect();
                let known = if tables.is_empty() { "it has none".to_owned() } else { tables.join(", ") };
                SourceError::Usage(format!("{} has no rows in a table {}; {known}", self.location, self.table))
            })?;
            plan::partitions(&self.table, files, span)
        } else {
            recorded.iter().map(|binding| plan::recorded(&self.table, binding, span)).collect::<Result<_, _>>()?
        };
        if let Some(endless) = partitions.iter().find(|partition| i64::try_from(partition.rows()).is_err()) {
            let problem = "it is said to have more rows than can be counted; restore the log from a copy".to_owned();
            return Err(SourceError::Changed { partition: endless.name.clone(), problem });
        }
        for (partition, binding) in partitions.iter().zip(recorded) {
            let (end, lines, rows) = (binding.end, binding.lines, partition.rows());
            if end > rows || lines > end {
                let problem = format!(
                    "{lines} lines of {end} rows of it were read before, and it holds {rows}; start with a new --state"
                );
                return Err(SourceError::Changed { partition: partition.name.clone(), problem });
            }
        }
        Ok(Box::new(reader::ArchiveReader::new(place.store, partitions, span, recorded)))
    }
}

impl ParquetSource {
    fn failed(&self, error: &(dyn Error + 'static)) -> SourceError {
        let text = with_causes(error);
        SourceError::Io { partition: format!("{} in {}", self.table, self.location), source: io::Error::other(text) }
    }
}
