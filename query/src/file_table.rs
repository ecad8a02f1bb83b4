//! A DataFusion table over an exact list of Parquet files.
//!
//! No folder is listed: a file is read because a commit names it, wherever it lies (`_recent/` included), and no other
//! file is. Row counts come from the log, so counting an append-only table reads no file. A rolled file lies in the
//! folder of its hour, so one whose hour a query does not ask for is not even opened.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::config::TableParquetOptions;
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Operator, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::scalar::ScalarValue;
use tidemill_log::DataFile;
use tidemill_tables::{Fold, TableSpec};

use crate::segments::{Segment, SegmentCache};

/// The files of one table at one commit.
#[derive(Debug)]
pub(crate) struct FileTable {
    spec: TableSpec,
    schema: SchemaRef,
    store: ObjectStoreUrl,
    reader: Arc<dyn ParquetFileReaderFactory>,
    segments: Vec<Segment>,
    cache: Option<Arc<SegmentCache>>,
}

impl FileTable {
    /// The rows of `files`, paths from the root of `store`, in the stored schema of their table.
    ///
    /// With a `cache` the rows of a table that folds come from memory where they have room, and are folded by the hour
    /// already: the same rows to whoever folds them further.
    pub(crate) fn new(
        spec: &TableSpec,
        files: &[DataFile],
        store: ObjectStoreUrl,
        reader: Arc<dyn ParquetFileReaderFactory>,
        cache: Option<Arc<SegmentCache>>,
    ) -> Self {
        let cache = cache.filter(|_| spec.fold != Fold::Append);
        Self { spec: spec.clone(), schema: spec.stored_schema(), store, reader, segments: Segment::of(files), cache }
    }

    fn statistics_of<'a>(&self, files: impl Iterator<Item = &'a DataFile>) -> Statistics {
        let (rows, bytes) = files.fold((0, 0), |sum, file| (sum.0 + file.rows, sum.1 + file.bytes));
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = Precision::Exact(count(rows));
        statistics.total_byte_size = Precision::Inexact(count(bytes));
        statistics
    }

    fn scan_files(
        &self,
        state: &dyn Session,
        segments: &[&Segment],
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let visible = || segments.iter().flat_map(|segment| segment.files());
        let file = |file: &DataFile| {
            PartitionedFile::new(&file.path, file.bytes)
                .with_statistics(Arc::new(self.statistics_of(std::iter::once(file))))
        };
        let files: FileGroup = visible().map(file).collect::<Vec<_>>().into();
        let options = state.config_options().execution.parquet.clone();
        let source = ParquetSource::new(Arc::clone(&self.schema))
            .with_parquet_file_reader_factory(Arc::clone(&self.reader))
            .with_table_parquet_options(TableParquetOptions { global: options, ..Default::default() });
        let scan = FileScanConfigBuilder::new(self.store.clone(), Arc::new(source))
            .with_file_groups(files.split_files(state.config().target_partitions()))
            .with_statistics(self.statistics_of(visible()))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }

    /// Rows in memory, cut as files are read and dealt out evenly.
    fn scan_memory(
        &self,
        state: &dyn Session,
        rows: &[RecordBatch],
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let size = state.config().batch_size().max(1);
        let pieces = rows.iter().flat_map(|batch| {
            (0..batch.num_rows()).step_by(size).map(move |at| batch.slice(at, size.min(batch.num_rows() - at)))
        });
        let total: usize = rows.iter().map(RecordBatch::num_rows).sum();
        // A few thousand rows are answered sooner by one thread than by several that have to meet.
        let partitions = state.config().target_partitions().min(total.div_ceil(size)).max(1);
        let mut dealt: Vec<Vec<RecordBatch>> = vec![Vec::new(); partitions];
        for piece in pieces {
            let least = dealt.iter_mut().min_by_key(|batches| batches.iter().map(RecordBatch::num_rows).sum::<usize>());
            least.expect("there is at least one partition").push(piece);
        }
        let source = MemorySourceConfig::try_new(&dealt, Arc::clone(&self.schema), projection.cloned())?;
        Ok(DataSourceExec::from_data_source(source.with_limit(limit).with_show_sizes(false)))
    }
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // The filter above the scan stays, and reaches the files' statistics through the physical plan.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    fn statistics(&self) -> Option<Statistics> {
        let files = self.segments.iter().flat_map(|segment| segment.files());
        let statistics = self.statistics_of(files);
        // Folding by the hour leaves fewer rows than the files have.
        Some(if self.cache.is_some() { statistics.to_inexact() } else { statistics })
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut span = (i64::MIN, i64::MAX);
        filters.iter().for_each(|filter| narrow(&mut span, filter, &self.spec.columns[self.spec.time].name));
        let segments: Vec<&Segment> = self.segments.iter().filter(|segment| segment.may_hold(span.0, span.1)).collect();
        if segments.is_empty() {
            let schema = match projection {
                Some(columns) => Arc::new(self.schema.project(columns)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let rows = match &self.cache {
            Some(cache) if cache.has_room_for(&segments) => cache.rows(&self.spec, &segments).await?,
            _ => None,
        };
        match rows {
            Some(rows) => self.scan_memory(state, &rows, projection, limit),
            None => self.scan_files(state, &segments, projection, limit),
        }
    }
}

/// Narrows `span` (first and last event time, milliseconds since 1970) to what `filter` lets through, where it can tell.
fn narrow(span: &mut (i64, i64), filter: &Expr, time: &str) {
    let is_time = |expr: &Expr| matches!(expr, Expr::Column(column) if column.name == time);
    let mut between = |first: i64, last: i64| *span = (span.0.max(first), span.1.min(last));
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            narrow(span, left, time);
            narrow(span, right, time);
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (op, at) = if is_time(left) {
                (Some(*op), milliseconds(right))
            } else if is_time(right) {
                (op.swap(), milliseconds(left))
            } else {
                return;
            };
            match (op, at) {
                (Some(Operator::Eq), Some(at)) => between(at, at),
                // One millisecond more than needed is as right, and has no overflow to think of.
                (Some(Operator::Gt | Operator::GtEq), Some(at)) => between(at, i64::MAX),
                (Some(Operator::Lt | Operator::LtEq), Some(at)) => between(i64::MIN, at),
                _ => {}
            }
        }
        Expr::Between(Between { expr, negated: false, low, high }) if is_time(expr) => {
            between(milliseconds(low).unwrap_or(i64::MIN), milliseconds(high).unwrap_or(i64::MAX));
        }
        _ => {}
    }
}

fn milliseconds(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::TimestampMillisecond(at, _), _) => *at,
        _ => None,
    }
}
