//! What the analytics pipelines read and write, by name: events in; tables, dead letters and progress out.
//!
//! A pipeline names its source and its tables; where they are (files, Kafka, a lake, ClickHouse) is decided here.

mod dead_letters;
mod lake;
mod source;
mod tee;

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidemill_clickhouse::{ClickHouseTable, ProgressWriter, Target, suffixed};
use tidemill_connectors::events::Event;
use tidemill_connectors::lake::RowOrder;
use tidemill_dataflow::batch::Batch;
use tidemill_dataflow::sink::{CommitObserver, Maintenance, SinkError, TableSink, TableWriter};
use tidemill_dataflow::stream::Rejected;
use tidemill_kafka::{GroupOffsets, KafkaConfig, KafkaTable};
use tidemill_log::Store;
use tidemill_operators::rows::{Columns, SessionRows, WindowRows};
use tidemill_operators::window::session::SessionChange;
use tidemill_operators::window::tumbling::WindowRow;
use tidemill_tables::{TableSpec, web_analytics};

use crate::archive;
pub use source::{EventDecoder, EventSource};

/// The pipeline's name in tokens, transactions and consumer groups.
const PIPELINE: &str = "web_analytics";

/// The tables that are published as topics: what other services act on.
const PUBLISHED: [&str; 3] = ["sessions", "errors_by_version_by_minute", "revenue_by_minute"];

/// A place that tables are written to.
#[derive(Clone, Debug)]
pub enum SinkTarget {
    /// Parquet below the root of a store.
    Lake(Arc<dyn Store>),
    /// Tables of a ClickHouse database, made by `tidemill tables apply`.
    ClickHouse(Target),
    /// A set of tables beside the live ones, each named with a suffix; what a replay fills.
    Rebuilt(Target, String),
    /// Topics named by a prefix and the table: sessions, errors and revenue.
    Kafka(KafkaConfig),
}

impl SinkTarget {
    /// Whether it holds the table at all.
    #[must_use]
    pub fn takes(&self, table: &str) -> bool {
        !matches!(self, SinkTarget::Kafka(_)) || PUBLISHED.contains(&table)
    }

    fn writer(&self, spec: &TableSpec, order: RowOrder) -> Box<dyn TableWriter> {
        match self {
            SinkTarget::Lake(store) => Box::new(lake::writer(spec.clone(), Arc::clone(store), order)),
            SinkTarget::ClickHouse(target) => Box::new(ClickHouseTable::new(target.clone(), spec.clone(), PIPELINE)),
            SinkTarget::Rebuilt(target, suffix) => {
                Box::new(ClickHouseTable::new(target.clone(), suffixed(spec, suffix), PIPELINE))
            }
            SinkTarget::Kafka(config) => Box::new(KafkaTable::new(config.clone(), PIPELINE, spec.clone())),
        }
    }
}

/// Where dead letters go.
#[derive(Clone, Debug)]
pub enum DeadLetters {
    /// NDJSON files in `dead_letters/` of a store.
    Files(Arc<dyn Store>),
    /// The topic `dead_letters` behind a prefix.
    Topic(KafkaConfig),
}

/// Sources and sinks of the analytics pipelines, by name.
#[derive(Clone)]
pub struct AnalyticsIo {
    source: EventSource,
    targets: Vec<SinkTarget>,
    dead_letters: DeadLetters,
}

impl AnalyticsIo {
    /// Reads `source`, writes every table to all `targets` that take it.
    #[must_use]
    pub fn new(source: EventSource, targets: Vec<SinkTarget>, dead_letters: DeadLetters) -> Self {
        AnalyticsIo { source, targets, dead_letters }
    }

    /// Reads nothing and writes nowhere: for plans.
    #[must_use]
    pub fn nowhere() -> Self {
        let store = Arc::new(tidemill_log::testing::MemoryStore::default());
        AnalyticsIo::new(EventSource::files(Default::default()), Vec::new(), DeadLetters::Files(store))
    }

    /// The places that tables are written to.
    #[must_use]
    pub fn targets(&self) -> &[SinkTarget] {
        &self.targets
    }

    /// The events.
    #[must_use]
    pub fn events(&self) -> EventSource {
        self.source.clone()
    }

    /// What cannot become an event, addresses masked.
    #[must_use]
    pub fn dead_letters(&self) -> TableSink<Rejected> {
        dead_letters::sink(self.dead_letters.clone(), PIPELINE)
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
        self.table(spec, RowOrder::ByKeys, encode)
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
        self.table(spec, RowOrder::ByKeys, encode)
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
        self.table(spec, RowOrder::AsGiven, encode)
    }

    /// Sinks of the pipeline that no target takes: they need not run.
    #[must_use]
    pub fn unwanted(&self) -> Vec<String> {
        let all = web_analytics::all().into_iter().map(|spec| spec.name);
        all.filter(|table| !self.targets.iter().any(|target| target.takes(table))).collect()
    }

    /// Rolls small files of the lake into large ones, where there is a lake.
    #[must_use]
    pub fn maintenance(&self) -> Option<Box<dyn Maintenance>> {
        self.targets.iter().find_map(|target| match target {
            SinkTarget::Lake(store) => Some(Box::new(lake::Rolling::new(Arc::clone(store))) as Box<dyn Maintenance>),
            SinkTarget::ClickHouse(_) | SinkTarget::Rebuilt(..) | SinkTarget::Kafka(_) => None,
        })
    }

    /// Those who follow the commits: progress in ClickHouse, offsets for Kafka's lag tools.
    ///
    /// # Errors
    /// If one cannot be set up.
    pub fn observers(&self) -> Result<Vec<Box<dyn CommitObserver>>, SinkError> {
        let mut observers: Vec<Box<dyn CommitObserver>> = Vec::new();
        for target in &self.targets {
            if let SinkTarget::ClickHouse(target) = target {
                observers.push(Box::new(ProgressWriter::new(target.clone(), PIPELINE)));
            }
        }
        if let Some(config) = self.source.kafka() {
            observers.push(Box::new(GroupOffsets::new(config)?));
        }
        Ok(observers)
    }

    fn table<D: 'static>(
        &self,
        spec: TableSpec,
        order: RowOrder,
        encode: impl Fn(&Batch<D>) -> Result<RecordBatch, SinkError> + Send + Sync + 'static,
    ) -> TableSink<D> {
        let targets: Vec<SinkTarget> = self.targets.iter().filter(|target| target.takes(&spec.name)).cloned().collect();
        let table = spec.name.clone();
        let writer = move || tee::tee(targets.iter().map(|target| target.writer(&spec, order)).collect());
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
