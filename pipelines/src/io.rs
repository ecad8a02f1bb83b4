//! What the analytics pipelines read and write, by name: events in; tables, dead letters and progress out.
//!
//! A pipeline names its source and its tables; where they are (files, Kafka, a lake, ClickHouse) is decided here.

mod dead_letters;
mod lake;
mod source;
mod tee;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use serde::de::DeserializeOwned;
use tidemill_clickhouse::{ClickHouseTable, ProgressWriter, Target};
use tidemill_connectors::events::Event;
use tidemill_connectors::lake::RowOrder;
use tidemill_dataflow::batch::Batch;
use tidemill_dataflow::faults::{Faults, PanicOn, Stage};
use tidemill_dataflow::sink::{CommitObserver, Maintenance, SinkError, TableSink, TableWriter};
use tidemill_dataflow::stream::{Rejected, TimedStream};
use tidemill_kafka::{GroupOffsets, KafkaConfig, KafkaTable};
use tidemill_log::Store;
use tidemill_operators::incremental::Change;
use tidemill_operators::rows::{ChangeRows, Columns, RowsError, SessionRows, TupleRows, WindowRows};
use tidemill_operators::window::session::SessionChange;
use tidemill_operators::window::tumbling::WindowRow;
use tidemill_tables::{Fold, Retention, TableSpec};

use crate::archive;
use crate::pipeline::Pipeline;
pub use source::{EventDecoder, EventSource, RecordDecoder, RecordSource};

/// A place that tables are written to.
#[derive(Clone, Debug)]
pub enum SinkTarget {
    /// Parquet below the root of a store.
    Lake(Arc<dyn Store>),
    /// Tables of a ClickHouse database, made by `tidemill tables apply`.
    ClickHouse(Target),
    /// A set of tables beside the live ones, each named with a suffix; what a replay fills.
    Rebuilt(Target, String),
    /// Topics named by a prefix and the table, of the tables that the pipeline publishes.
    Kafka(KafkaConfig),
}

impl SinkTarget {
    /// Whether it holds the table of this pipeline at all.
    fn takes(&self, pipeline: &Pipeline, table: &str) -> bool {
        !matches!(self, SinkTarget::Kafka(_)) || pipeline.publishes(table)
    }

    fn writer(&self, pipeline: &'static str, spec: &TableSpec, order: RowOrder) -> Box<dyn TableWriter> {
        match self {
            SinkTarget::Lake(store) => Box::new(lake::writer(spec.clone(), Arc::clone(store), order)),
            SinkTarget::ClickHouse(target) => Box::new(ClickHouseTable::new(target.clone(), spec.clone(), pipeline)),
            SinkTarget::Rebuilt(target, suffix) => {
                Box::new(ClickHouseTable::new(target.clone(), spec.clone(), pipeline).rebuilt(suffix))
            }
            SinkTarget::Kafka(config) => Box::new(KafkaTable::new(config.clone(), pipeline, spec.clone())),
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

/// Sources and sinks of one pipeline, by name.
#[derive(Clone)]
pub struct AnalyticsIo {
    pipeline: Pipeline,
    source: EventSource,
    targets: Vec<SinkTarget>,
    dead_letters: DeadLetters,
    /// Events that panic, for tests of what follows from that.
    poison: Vec<PanicOn>,
}

impl AnalyticsIo {
    /// Reads `source`, writes every table to all `targets` that take it.
    #[must_use]
    pub fn new(pipeline: Pipeline, source: EventSource, targets: Vec<SinkTarget>, dead_letters: DeadLetters) -> Self {
        AnalyticsIo { pipeline, source, targets, dead_letters, poison: Vec::new() }
    }

    /// The same, with events that panic where `faults` says.
    #[must_use]
    pub fn with_faults(self, faults: &Faults) -> Self {
        let io = AnalyticsIo { poison: faults.panic_on.clone(), ..self };
        let source = io.source.clone().poisoned(io.poison(Stage::Decode));
        AnalyticsIo { source, ..io }
    }

    /// The same events, of which some panic if a fault asks for it.
    pub fn acted_out<'s>(&self, events: TimedStream<'s, Event>) -> TimedStream<'s, Event> {
        let poison = self.poison(Stage::Pass);
        if poison.is_empty() { events } else { events.inspect(move |event| source::act_out(&poison, event)) }
    }

    fn poison(&self, stage: Stage) -> Arc<[String]> {
        self.poison.iter().filter(|panic| panic.stage == stage).map(|panic| panic.id.clone()).collect()
    }

    /// Reads nothing and writes nowhere: for plans.
    #[must_use]
    pub fn nowhere(pipeline: Pipeline) -> Self {
        let store = Arc::new(tidemill_log::testing::MemoryStore::default());
        AnalyticsIo::new(pipeline, EventSource::files(Default::default()), Vec::new(), DeadLetters::Files(store))
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

    /// The same input, each line or message of JSON a `T` as its serde implementation reads it.
    #[must_use]
    pub fn records<T: DeserializeOwned + Send + Sync + 'static>(&self) -> RecordSource<T> {
        RecordSource::new(self.source.clone())
    }

    /// What cannot become an event, addresses masked.
    #[must_use]
    pub fn dead_letters(&self) -> TableSink<Rejected> {
        dead_letters::sink(self.dead_letters.clone(), self.pipeline.name())
    }

    /// A table of tumbling windows.
    ///
    /// # Panics
    /// If there is no such table: names are literals of the pipeline.
    #[must_use]
    pub fn windows<P: Columns + Clone + Send + Sync + 'static>(&self, name: &str) -> TableSink<WindowRow<P>> {
        match self.spec(name).fold {
            Fold::Deltas => self.encoded(name, WindowRows::encode_deltas),
            Fold::Append | Fold::Signed => self.encoded(name, WindowRows::encode),
        }
    }

    /// A table whose rows are tuples, as `map` makes them; each is written as it comes.
    ///
    /// # Panics
    /// If there is no such table: names are literals of the pipeline.
    #[must_use]
    pub fn rows<R: Columns + Clone + Send + Sync + 'static>(&self, name: &str) -> TableSink<R> {
        self.encoded(name, TupleRows::encode)
    }

    /// A table of signed rows: what a view changes, as it changes; the last column is the sign.
    ///
    /// # Panics
    /// If there is no such table: names are literals of the pipeline.
    #[must_use]
    pub fn changes<R: Columns + Clone + Send + Sync + 'static>(&self, name: &str) -> TableSink<Change<R>> {
        self.encoded(name, ChangeRows::encode)
    }

    /// A table of sessions.
    ///
    /// # Panics
    /// If there is no such table: names are literals of the pipeline.
    #[must_use]
    pub fn sessions(&self, name: &str) -> TableSink<SessionChange> {
        self.encoded(name, SessionRows::encode)
    }

    /// A table of whole events, in input order.
    ///
    /// # Panics
    /// If there is no such table: names are literals of the pipeline.
    #[must_use]
    pub fn archive(&self, name: &str) -> TableSink<Event> {
        let spec = self.spec(name);
        let schema = spec.stored_schema();
        let poison = self.poison(Stage::Encode);
        let encode = move |batch: &Batch<Event>| {
            if !poison.is_empty() {
                batch.for_each(|event| source::act_out(&poison, event));
            }
            Ok(archive::encode(batch, Arc::clone(&schema))?)
        };
        self.table(spec, RowOrder::AsGiven, encode)
    }

    /// Sinks of the pipeline that no target takes: they need not run.
    #[must_use]
    pub fn unwanted(&self) -> Vec<String> {
        let all = self.pipeline.specs().iter().map(|spec| spec.name.clone());
        all.filter(|table| !self.targets.iter().any(|target| target.takes(&self.pipeline, table))).collect()
    }

    /// Rolls small files of the lake into large ones and takes away what is older than is kept, where there is a lake.
    #[must_use]
    pub fn maintenance(&self, retention: Retention) -> Option<Box<dyn Maintenance>> {
        self.targets.iter().find_map(|target| match target {
            SinkTarget::Lake(store) => {
                let (store, specs) = (Arc::clone(store), self.pipeline.specs().to_vec());
                Some(Box::new(lake::Housekeeping { store, specs, retention }) as Box<dyn Maintenance>)
            }
            SinkTarget::ClickHouse(_) | SinkTarget::Rebuilt(..) | SinkTarget::Kafka(_) => None,
        })
    }

    /// Those who follow the commits of a run without the sinks `disabled`: progress in ClickHouse, offsets for Kafka's lag
    /// tools.
    ///
    /// # Errors
    /// If one cannot be set up.
    pub fn observers(&self, disabled: &BTreeSet<String>) -> Result<Vec<Box<dyn CommitObserver>>, SinkError> {
        let specs = self.pipeline.specs().iter().filter(|spec| !disabled.contains(&spec.name));
        let written: Vec<TableSpec> = specs.cloned().collect();
        let mut observers: Vec<Box<dyn CommitObserver>> = Vec::new();
        for target in &self.targets {
            if let SinkTarget::ClickHouse(target) = target {
                let progress = ProgressWriter::new(target.clone(), self.pipeline.name());
                observers.push(Box::new(progress.watching(&written)));
            }
        }
        if let Some(config) = self.source.kafka() {
            observers.push(Box::new(GroupOffsets::new(config)?));
        }
        Ok(observers)
    }

    fn spec(&self, name: &str) -> TableSpec {
        let found = self.pipeline.specs().iter().find(|spec| spec.name == name);
        let pipeline = self.pipeline.name();
        found.cloned().unwrap_or_else(|| panic!("pipeline {pipeline} writes table {name}, which it does not declare"))
    }

    /// A table whose rows are encoded as slices; a batch that counts only some of its rows is copied.
    fn encoded<D: Clone + 'static>(
        &self,
        name: &str,
        encode: fn(&[D], SchemaRef) -> Result<RecordBatch, RowsError>,
    ) -> TableSink<D> {
        let spec = self.spec(name);
        let schema = spec.stored_schema();
        let encode = move |batch: &Batch<D>| match batch.as_slice() {
            Some(rows) => Ok(encode(rows, Arc::clone(&schema))?),
            None => Ok(encode(&copied(batch), Arc::clone(&schema))?),
        };
        self.table(spec, RowOrder::ByKeys, encode)
    }

    fn table<D: 'static>(
        &self,
        spec: TableSpec,
        order: RowOrder,
        encode: impl Fn(&Batch<D>) -> Result<RecordBatch, SinkError> + Send + Sync + 'static,
    ) -> TableSink<D> {
        let pipeline = self.pipeline.name();
        let takes = |target: &&SinkTarget| target.takes(&self.pipeline, &spec.name);
        let targets: Vec<SinkTarget> = self.targets.iter().filter(takes).cloned().collect();
        let table = spec.name.clone();
        let writer = move || tee::tee(targets.iter().map(|target| target.writer(pipeline, &spec, order)).collect());
        TableSink { table, encode: Arc::new(encode), writer: Arc::new(writer) }
    }
}

fn copied<D: Clone>(batch: &Batch<D>) -> Vec<D> {
    let mut rows = Vec::with_capacity(batch.len());
    batch.for_each(|row| rows.push(row.clone()));
    rows
}
