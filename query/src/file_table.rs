//! A DataFusion table over an exact list of Parquet files.
//!
//! No folder is listed: a file is read because a commit names it, wherever it lies (`_recent/` included), and no other
//! file is. Row counts come from the log, so counting an append-only table reads no file.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;

use tidemill_log::DataFile;

/// The files of one table at one commit.
#[derive(Debug)]
pub(crate) struct FileTable {
    schema: SchemaRef,
    store: ObjectStoreUrl,
    files: Vec<DataFile>,
}

impl FileTable {
    /// The rows of `files`, paths from the root of `store`, in the stored schema of their table.
    pub(crate) fn new(schema: SchemaRef, store: ObjectStoreUrl, files: Vec<DataFile>) -> Self {
        Self { schema, store, files }
    }

    fn statistics_of<'a>(&self, files: impl Iterator<Item = &'a DataFile>) -> Statistics {
        let (rows, bytes) = files.fold((0, 0), |sum, file| (sum.0 + file.rows, sum.1 + file.bytes));
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = Precision::Exact(count(rows));
        statistics.total_byte_size = Precision::Inexact(count(bytes));
        statistics
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
        Some(self.statistics_of(self.files.iter()))
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if self.files.is_empty() {
            let schema = match projection {
                Some(columns) => Arc::new(self.schema.project(columns)?),
                None => Arc::clone(&self.schema),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let file = |file: &DataFile| {
            PartitionedFile::new(&file.path, file.bytes)
                .with_statistics(Arc::new(self.statistics_of(std::iter::once(file))))
        };
        let files: FileGroup = self.files.iter().map(file).collect::<Vec<_>>().into();
        let options = state.config_options().execution.parquet.clone();
        let source = ParquetSource::new(Arc::clone(&self.schema)).with_table_parquet_options(
            datafusion::config::TableParquetOptions { global: options, ..Default::default() },
        );
        let scan = FileScanConfigBuilder::new(self.store.clone(), Arc::new(source))
            .with_file_groups(files.split_files(state.config().target_partitions()))
            .with_statistics(self.statistics_of(self.files.iter()))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(scan))
    }
}
