//! A sink in memory: what a pipeline wrote, for tests of pipelines, and the shortest sink that keeps the contract.
//!
//! Rows are kept by (epoch, shard), so an epoch that is written again takes the place of itself (INV-3), and a writer of
//! an earlier run is refused by the fence.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use tidemill_dataflow::sink::{DataFile, SinkError, SinkStart, TableWriter};
use tidemill_dataflow::time::Epoch;

type Rows = BTreeMap<(Epoch, u32), Vec<RecordBatch>>;

/// Everything that writers of one table have written; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Capture(Arc<Mutex<Rows>>);

impl Capture {
    /// A writer into this memory.
    #[must_use]
    pub fn writer(&self) -> CaptureWriter {
        CaptureWriter { capture: self.clone(), start: None }
    }

    /// All rows, by epoch, then shard, then as they were given.
    #[must_use]
    pub fn rows(&self) -> Vec<RecordBatch> {
        // A writer that panicked has put an epoch whole or not at all.
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.values().flatten().cloned().collect()
    }
}

/// Writes into a [`Capture`].
pub struct CaptureWriter {
    capture: Capture,
    start: Option<SinkStart>,
}

impl TableWriter for CaptureWriter {
    fn open(&mut self, start: &SinkStart) -> Result<(), SinkError> {
        (start.fence)()?;
        self.start = Some(start.clone());
        Ok(())
    }

    fn write_epoch(&mut self, epoch: Epoch, shard: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        let start = self.start.as_ref().ok_or("a writer is opened before it writes")?;
        (start.fence)()?;
        self.capture.0.lock().unwrap_or_else(PoisonError::into_inner).insert((epoch, shard), rows);
        Ok(Vec::new())
    }
}
