//! The lake side of a pipeline: a table's writer, and the rolling of what it wrote.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidemill_connectors::lake::{self, LakeTable, RowOrder, expired, plan_rolls, recent_epoch};
use tidemill_dataflow::sink::{
    DataFile, FINAL_AFTER, LogState, Maintenance, MaintenanceJob, SinkError, TableChange, TableWriter,
};
use tidemill_dataflow::time::Epoch;
use tidemill_log::Store;
use tidemill_tables::{Retention, TableSpec};

/// The writer of one table.
pub(super) fn writer(spec: TableSpec, store: Arc<dyn Store>, order: RowOrder) -> impl TableWriter {
    LakeWriter { table: LakeTable::new(spec, store), order }
}

struct LakeWriter {
    table: LakeTable,
    order: RowOrder,
}

impl TableWriter for LakeWriter {
    fn write_epoch(&mut self, epoch: Epoch, shard: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        Ok(self.table.write_epoch(epoch, shard, rows, self.order)?)
    }
}

/// Rolls small files into large ones and takes away what is older than is kept, table after table.
pub(super) struct Housekeeping {
    pub(super) store: Arc<dyn Store>,
    pub(super) specs: Vec<TableSpec>,
    pub(super) retention: Retention,
}

impl Maintenance for Housekeeping {
    fn leftovers(&mut self, state: &LogState) -> Result<Vec<String>, SinkError> {
        Ok(lake::leftovers(&*self.store, state)?)
    }

    fn unfinal(&self, state: &LogState) -> Option<Epoch> {
        let files = state.tables().values().flat_map(|files| files.keys());
        files.filter_map(|path| recent_epoch(path)).filter(|epoch| Some(epoch) > state.cuts().last()).min()
    }

    fn next(&mut self, state: &LogState) -> Option<MaintenanceJob> {
        let committed = state.committed()?;
        for spec in &self.specs {
            let Some(files) = state.tables().get(&spec.name) else { continue };
            let visible: Vec<DataFile> = files
                .iter()
                .map(|(path, file)| DataFile { path: path.clone(), rows: file.rows, bytes: file.bytes })
                .collect();
            if let Some(due) = plan_rolls(&visible, committed, FINAL_AFTER, state.cuts()).into_iter().next() {
                let store = Arc::clone(&self.store);
                let spec = spec.clone();
                return Some(Box::new(move || Ok(lake::roll(&spec, &*store, &due)?)));
            }
            let removed = expired(spec, state, self.retention);
            if !removed.is_empty() {
                let table = spec.name.clone();
                return Some(Box::new(move || Ok(TableChange { table, added: Vec::new(), removed })));
            }
        }
        None
    }
}
