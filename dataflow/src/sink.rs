//! What the engine asks of a sink: encode on the worker, write named and repeatable, on a thread of its own (INV-3).
//!
//! ```text
//! epoch e:  rows encoded on any worker -> gathered at the shard's owner -> [e closed and bind(e) durable]
//!           -> write_epoch(e, shard, all rows of it) -> files acknowledged -> commit(e) makes them visible
//! ```
//!
//! ```text
//!            open(start) ------------------> ready --- write_epoch(e) ---> writing --- Ok(files) ---> held
//!   (fences earlier runs, learns what the       ^                             |                         |
//!    sink holds; nothing is written)            |                             | Err: the run ends       | commit(e) in the log:
//!                                               |                             v                         v readers may count on it
//!                                               '-- next run: open(start) <- in flight: written      committed: never
//!                                                                             again, same name        written again
//! ```
//! - Before `bind(e)` is durable nothing of e is written (INV-1).
//! - `write_epoch` gets all rows of (epoch, shard) at once. What it writes is named by (sink, epoch, shard, chunk) and has
//!   the same content each time, so a repeated write has the effect of one.
//! - After a restart nothing at or below the last `commit` is written again; an epoch that was in flight may be.
//! - A slow or hanging write stops the source when the memory budget is used up (INV-8); nothing is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
pub use tidemill_log::{DataFile, LogState, Partitions, TableChange};
use tidemill_log::{FOLDER, Store};

use crate::batch::{Batch, Order};
use crate::octets;
use crate::time::{Epoch, EventTime, Watermark};

/// Whatever a connector's failure is.
pub type SinkError = Box<dyn Error + Send + Sync>;

/// Rows of one epoch on their way to a sink's shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rows {
    /// The worker that owns the shard.
    pub(crate) dest: u32,
    /// Where the rows stood in the input; rows of an epoch are handed to the writer in this order.
    pub(crate) order: Order,
    /// The rows.
    pub(crate) batch: Columns,
}

/// A record batch that travels between processes as Arrow IPC.
#[derive(Clone, Debug)]
pub struct Columns(pub RecordBatch);

impl Serialize for Columns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let encode = || -> Result<Vec<u8>, arrow::error::ArrowError> {
            let mut writer = StreamWriter::try_new(Vec::new(), &self.0.schema())?;
            writer.write(&self.0)?;
            writer.into_inner()
        };
        serializer.serialize_bytes(&encode().map_err(serde::ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = octets::deserialize(deserializer)?;
        let decode = || -> Result<RecordBatch, arrow::error::ArrowError> {
            let mut reader = StreamReader::try_new(bytes.as_slice(), None)?;
            reader.next().unwrap_or_else(|| Ok(RecordBatch::new_empty(Arc::new(Schema::empty()))))
        };
        decode().map(Columns).map_err(serde::de::Error::custom)
    }
}

/// Fails once a later run has begun.
pub type Fence = Arc<dyn Fn() -> Result<(), SinkError> + Send + Sync>;

/// What a sink is told before it writes.
#[derive(Clone)]
pub struct SinkStart {
    /// Identifies the pipeline's log for as long as it lives: names of writes and transactions begin with it, so that two
    /// pipelines, or one begun anew, never take each other's writes for their own.
    pub instance: String,
    /// The run, counted from 1: later runs fence earlier ones.
    pub run: u64,
    /// Every sink holds all epochs through this one, by the log; 0 before the first.
    pub committed: Epoch,
    /// The last epoch that an earlier run bound: those after `committed` through this one may be there in part.
    pub bound: Epoch,
    /// Fails once a later run has begun; asked before every write that the other side could not refuse by itself.
    pub fence: Fence,
    /// Where the sink keeps what it must know of its place again.
    pub notes: SinkNotes,
}

/// What sinks note beside the log: which topic a name meant, for one. Nothing is kept where the log is not.
#[derive(Clone, Debug, Default)]
pub struct SinkNotes {
    store: Option<Arc<dyn Store>>,
    accepted: BTreeSet<String>,
}

impl SinkNotes {
    /// Notes in this store; of these places it is accepted that they do not hold what was written to them.
    #[must_use]
    pub fn new(store: Option<Arc<dyn Store>>, accepted: BTreeSet<String>) -> Self {
        SinkNotes { store, accepted }
    }

    /// Whether somebody accepts that a place does not hold what was written to it.
    #[must_use]
    pub fn accepted(&self, place: &str) -> bool {
        self.accepted.contains(place)
    }

    /// What was noted last under a name.
    ///
    /// # Errors
    /// The store failed.
    pub fn get(&self, name: &str) -> Result<Option<String>, SinkError> {
        let Some(store) = &self.store else { return Ok(None) };
        Ok(store.get(&noted_at(name))?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Notes something in the place of what was noted under the name.
    ///
    /// # Errors
    /// The store failed.
    pub fn put(&self, name: &str, text: &str) -> Result<(), SinkError> {
        let Some(store) = &self.store else { return Ok(()) };
        Ok(store.put(&noted_at(name), text.as_bytes())?)
    }
}

fn noted_at(name: &str) -> String {
    format!("{FOLDER}/sinks/{name}")
}

/// Writes the rows of a sink; lives on the sink's own thread.
pub trait TableWriter: Send {
    /// Connects, fences earlier runs where the sink knows fencing, checks that what it finds fits. Called once, first.
    ///
    /// # Errors
    /// What the operator must mend, in one sentence that says how; it ends the run.
    fn open(&mut self, start: &SinkStart) -> Result<(), SinkError> {
        let _ = start;
        Ok(())
    }

    /// Writes all rows of (epoch, shard), given in input order, durably, under names derived from epoch, shard and chunk.
    ///
    /// # Errors
    /// Only what retrying inside could not mend; it ends the run, and the next one writes the epoch again.
    fn write_epoch(&mut self, epoch: Epoch, shard: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError>;
}

/// Encodes the records of a batch as rows of the table; runs on the workers.
pub type EncodeFn<D> = Arc<dyn Fn(&Batch<D>) -> Result<RecordBatch, SinkError> + Send + Sync>;

/// A table that records of type `D` can be written to.
pub struct TableSink<D> {
    /// The table's name, as `commit` entries have it.
    pub table: String,
    /// How records become rows.
    pub encode: EncodeFn<D>,
    /// Makes the writer, on the process that owns the shard.
    pub writer: Arc<dyn Fn() -> Box<dyn TableWriter> + Send + Sync>,
}

/// What stands in the log after a commit, for those who follow it: a progress table, offsets mirrored for lag tools.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// The epoch.
    pub epoch: Epoch,
    /// Windows that end by then are complete but for records still late or pending: W(e), and the end of the data once the
    /// end of time was declared.
    pub complete_through: Watermark,
    /// Where the source's partitions stood at the end of the epoch, by number.
    pub partitions: Partitions,
    /// Counters from the pipeline's beginning.
    pub counts: BTreeMap<String, u64>,
}

impl Committed {
    pub(crate) fn of(state: &LogState) -> Self {
        Committed {
            epoch: state.committed().unwrap_or(0),
            complete_through: state.complete_through().map(EventTime),
            partitions: state.committed_partitions(),
            counts: state.counts().clone(),
        }
    }
}

/// Is told of commits, after the fact, on a thread of its own; may miss some when it is slow, never the last one.
pub trait CommitObserver: Send {
    /// Called once, first, with what the log said when the run began, then after commits. Calls may repeat an epoch
    /// after a restart.
    ///
    /// # Errors
    /// Only what retrying inside could not mend; it ends the run.
    fn committed(&mut self, commit: &Committed) -> Result<(), SinkError>;
}

/// Work to be done beside the run, away from the workers.
pub type MaintenanceJob = Box<dyn FnOnce() -> Result<TableChange, SinkError> + Send>;

/// Files of so many epochs are made final together, unless time or the end of the run says so before.
pub const FINAL_AFTER: u64 = 60;

/// Housekeeping of what sinks wrote (rolling small files into large ones), decided after commits.
pub trait Maintenance: Send {
    /// Objects that no entry of the log names and none ever will: a run that slept put them there after it was fenced.
    /// Asked once, at the start; they are announced and deleted with the first garbage.
    ///
    /// # Errors
    /// The store failed.
    fn leftovers(&mut self, state: &LogState) -> Result<Vec<String>, SinkError> {
        let _ = state;
        Ok(Vec::new())
    }

    /// The first committed epoch behind the last [cut](LogState::cuts) with files that are not final; asked once, at the start.
    fn unfinal(&self, state: &LogState) -> Option<Epoch> {
        let _ = state;
        None
    }

    /// The next job, if there is one; asked again when that is done. The change goes into a `commit` entry.
    fn next(&mut self, state: &LogState) -> Option<MaintenanceJob>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array};

    #[test]
    fn rows_survive_the_way_between_processes() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let rows = Rows { dest: 1, order: Order::default(), batch: Columns(batch.clone()) };
        let bytes = postcard::to_allocvec(&rows).unwrap();
        let back: Rows = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(back.batch.0, batch);
    }
}
