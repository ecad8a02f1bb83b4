//! What the analytics pipelines read and write: files of events in, lake tables and dead letters out.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use tidemill_connectors::dead_letters;
use tidemill_connectors::events::Event;
use tidemill_connectors::files::{FileSource, FilesConfig};
use tidemill_connectors::lake::{self, LakeTable, RowOrder, plan_rolls};
use tidemill_dataflow::batch::Batch;
use tidemill_dataflow::sink::{DataFile, LogState, Maintenance, MaintenanceJob, SinkError, TableSink, TableWriter};
use tidemill_dataflow::stream::Rejected;
use tidemill_dataflow::time::Epoch;
use tidemill_log::Store;
use tidemill_operators::rows::{Columns, SessionRows, WindowRows};
use tidemill_operators::window::session::SessionChange;
use tidemill_operators::window::tumbling::WindowRow;
use tidemill_tables::{TableSpec, web_analytics};

use crate::archive;

/// How many epochs are rolled into final files at once.
const ROLLED_EPOCHS: u64 = 60;

/// Sources and sinks of the analytics pipelines, by name.
#[derive(Clone)]
pub struct AnalyticsIo {
    source: FileSource,
    store: Arc<dyn Store>,
}

impl AnalyticsIo {
    /// Reads these files and writes below the root of `store`.
    #[must_use]
    pub fn new(files: FilesConfig, store: Arc<dyn Store>) -> Self {
        AnalyticsIo { source: FileSource::new(files), store }
    }

    /// The events.
    #[must_use]
    pub fn events(&self) -> FileSource {
        self.source.clone()
    }

    /// What cannot become an event: NDJSON in `dead_letters/`, addresses masked.
    #[must_use]
    pub fn dead_letters(&self) -> TableSink<Rejected> {
        let store = Arc::clone(&self.store);
        TableSink {
            table: "dead_letters".into(),
            encode: Arc::new(encode_dead_letters),
            writer: Arc::new(move || Box::new(DeadLetterFiles { store: Arc::clone(&store) })),
        }
    }

    /// A table of tumbling windows.
    ///
    /// # Panics
    /// If there is no such table: names are literals of the pipeline.
    #[must_use]
    pub fn windows<P: Columns + Clone + Send + Sync + 'static>(&self, name: &str) -> TableSink<WindowRow<P>> {
        let spec = spec(name);
        let schema = spec.stored_schema();
        let encode = move |batch: &Batch<WindowRow<P>>| match batch.as_slice() {
            Some(rows) => Ok(WindowRows::encode(rows, Arc::clone(&schema))?),
            None => Ok(WindowRows::encode(&copied(batch), Arc::clone(&schema))?),
        };
        self.lake(spec, RowOrder::ByKeys, encode)
    }

    /// A table of sessions.
    ///
    /// # Panics
    /// If there is no such table: names are literals of the pipeline.
    #[must_use]
    pub fn sessions(&self, name: &str) -> TableSink<SessionChange> {
        let spec = spec(name);
        let schema = spec.stored_schema();
        let encode = move |batch: &Batch<SessionChange>| match batch.as_slice() {
            Some(rows) => Ok(SessionRows::encode(rows, Arc::clone(&schema))?),
            None => Ok(SessionRows::encode(&copied(batch), Arc::clone(&schema))?),
        };
        self.lake(spec, RowOrder::ByKeys, encode)
    }

    /// A table of whole events, in input order.
    ///
    /// # Panics
    /// If there is no such table: names are literals of the pipeline.
    #[must_use]
    pub fn archive(&self, name: &str) -> TableSink<Event> {
        let spec = spec(name);
        let schema = spec.stored_schema();
        let encode = move |batch: &Batch<Event>| Ok(archive::encode(batch, Arc::clone(&schema))?);
        self.lake(spec, RowOrder::AsGiven, encode)
    }

    /// Rolls small files into large ones.
    #[must_use]
    pub fn maintenance(&self) -> Box<dyn Maintenance> {
        Box::new(Rolling { store: Arc::clone(&self.store) })
    }

    fn lake<D: 'static>(
        &self,
        spec: TableSpec,
        order: RowOrder,
        encode: impl Fn(&Batch<D>) -> Result<RecordBatch, SinkError> + Send + Sync + 'static,
    ) -> TableSink<D> {
        let store = Arc::clone(&self.store);
        let table = spec.name.clone();
        let writer = move || -> Box<dyn TableWriter> {
            Box::new(LakeWriter { table: LakeTable::new(spec.clone(), Arc::clone(&store)), order })
        };
        TableSink { table, encode: Arc::new(encode), writer: Arc::new(writer) }
    }
}

fn copied<D: Clone>(batch: &Batch<D>) -> Vec<D> {
    let mut rows = Vec::with_capacity(batch.len());
    batch.for_each(|row| rows.push(row.clone()));
    rows
}

fn spec(name: &str) -> TableSpec {
    let found = web_analytics::all().into_iter().find(|spec| spec.name == name);
    found.expect("the pipeline names a table of its schema")
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

/// Dead letters travel as one column of NDJSON lines.
fn encode_dead_letters(batch: &Batch<Rejected>) -> Result<RecordBatch, SinkError> {
    let mut lines = Vec::with_capacity(batch.len());
    batch.for_each(|rejected| {
        let mut line = Vec::new();
        dead_letters::encode(&rejected.letter, &rejected.partition, &mut line);
        lines.push(String::from_utf8_lossy(&line).into_owned());
    });
    let schema = Schema::new(vec![Field::new("line", DataType::Utf8, false)]);
    Ok(RecordBatch::try_new(Arc::new(schema), vec![Arc::new(StringArray::from(lines))])?)
}

struct DeadLetterFiles {
    store: Arc<dyn Store>,
}

impl TableWriter for DeadLetterFiles {
    fn write_epoch(&mut self, epoch: Epoch, shard: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        let mut text = String::new();
        for batch in &rows {
            let lines = batch.column(0).as_any().downcast_ref::<StringArray>();
            for line in lines.into_iter().flatten().flatten() {
                text.push_str(line.trim_end_matches('\n'));
                text.push('\n');
            }
        }
        if !text.is_empty() {
            self.store.put(&format!("dead_letters/{epoch:012}-{shard:03}.ndjson"), text.as_bytes())?;
        }
        // They are no table: the folder is complete when the run is finished, and the log does not name its files.
        Ok(Vec::new())
    }
}

struct Rolling {
    store: Arc<dyn Store>,
}

impl Maintenance for Rolling {
    fn next(&mut self, state: &LogState) -> Option<MaintenanceJob> {
        let committed = state.committed()?;
        for spec in web_analytics::all() {
            let Some(files) = state.tables().get(&spec.name) else { continue };
            let visible: Vec<DataFile> = files
                .iter()
                .map(|(path, file)| DataFile { path: path.clone(), rows: file.rows, bytes: file.bytes })
                .collect();
            if let Some(due) = plan_rolls(&visible, committed, ROLLED_EPOCHS).into_iter().next() {
                let store = Arc::clone(&self.store);
                return Some(Box::new(move || Ok(lake::roll(&spec, &*store, &due)?)));
            }
        }
        None
    }
}
