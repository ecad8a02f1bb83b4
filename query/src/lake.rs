//! The lake in a folder or a bucket: asks the log what is visible, runs a query on exactly that.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use object_store::ObjectStore;
use tidemill_log::panics::{contain_thread, contained};
use tidemill_log::{FOLDER, Location, with_causes};
use tidemill_tables::TableSpec;

use crate::error::QueryError;
use crate::session::{self, Tables};
use crate::visible::{LogSource, Visible, VisibleSource};

/// How often a query is tried when files are replaced under it.
const ATTEMPTS: usize = 5;

/// The tables of one place.
#[derive(Debug)]
pub struct Lake {
    place: String,
    tables: Tables,
    source: Arc<dyn VisibleSource>,
}

/// What a query answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The columns.
    pub schema: SchemaRef,
    /// The rows, in the order that the query gives.
    pub batches: Vec<RecordBatch>,
    /// The committed epoch that was read; none before the first commit.
    pub epoch: Option<u64>,
    /// The watermark at that commit in milliseconds since 1970 (the end of the data once the end of time was declared), or now
    /// if that is earlier: what ends before is changed only by late events.
    pub complete_through: Option<i64>,
}

impl Answer {
    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

impl Lake {
    /// `tables` in a folder or a bucket, as the log beside them has them; one that has no files is empty.
    ///
    /// Reads no log yet; a place without one is reported by the first query.
    ///
    /// # Errors
    /// When the place does not exist or does not answer.
    pub fn open(at: impl Into<Location>, tables: Vec<TableSpec>) -> Result<Self, QueryError> {
        let location = at.into();
        let place = location.to_string();
        let open = |error| QueryError::Open { place: place.clone(), reason: with_causes(&error) };
        let reading = location.open_for_reading().map_err(open)?;
        let source = LogSource::new(reading.store, FOLDER);
        Ok(Self { place, tables: Tables::new(reading.objects, tables), source: Arc::new(source) })
    }

    /// The tables `specs` whose files lie in `store`, visible as `source` says; `place` names them in errors.
    #[must_use]
    pub fn over(
        place: &str,
        store: Arc<dyn ObjectStore>,
        specs: Vec<TableSpec>,
        source: Arc<dyn VisibleSource>,
    ) -> Self {
        Self { place: place.to_owned(), tables: Tables::new(store, specs), source }
    }

    /// Answers one SQL statement that only reads, at the newest commit. Starts its own threads; from async code use
    /// [`Lake::query`].
    ///
    /// # Errors
    /// When the log cannot be read, the statement is refused or not understood, or running it fails.
    pub fn sql(&self, sql: &str) -> Result<Answer, QueryError> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.enable_all().on_thread_start(contain_thread).build().map_err(QueryError::Runtime)?;
        // At some damage to a file its decoder panics, which is an error like any other.
        contained(|| runtime.block_on(self.query(sql))).unwrap_or_else(|said| {
            let damaged = format!("a file is damaged, or this is a bug: {said}");
            Err(QueryError::Run(Box::new(DataFusionError::Execution(damaged))))
        })
    }

    /// Answers one SQL statement that only reads, at the newest commit.
    ///
    /// A file that is gone because it was rolled into another after the commit was read is answered by trying again on
    /// the newest commit, a few times at most.
    ///
    /// # Errors
    /// When the log cannot be read, the statement is refused or not understood, or running it fails.
    pub async fn query(&self, sql: &str) -> Result<Answer, QueryError> {
        let mut visible = self.visible().await?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let source = match self.answer(sql, &visible).await {
                Err(QueryError::Run(source)) => source,
                done => return done,
            };
            if !visible.lacks_file(self.tables.store(), &source).await {
                return Err(QueryError::Run(source));
            }
            let newer = self.visible().await?;
            if newer == visible {
                return Err(QueryError::MissingFile(source));
            }
            if attempts == ATTEMPTS {
                return Err(QueryError::Overtaken { attempts, source });
            }
            visible = newer;
        }
    }

    /// Plans a statement down to what would run, and runs nothing: for tests that ask anything.
    ///
    /// # Errors
    /// Those of [`Lake::query`] that come before it runs.
    #[doc(hidden)]
    pub async fn plan(&self, sql: &str) -> Result<(), QueryError> {
        let run = |error| QueryError::Run(Box::new(error));
        let context = session::session(&self.tables, &self.visible().await?).map_err(run)?;
        let plan = session::plan(&context, sql).await?;
        plan.create_physical_plan().await.map(drop).map_err(run)
    }

    async fn answer(&self, sql: &str, visible: &Visible) -> Result<Answer, QueryError> {
        let run = |error| QueryError::Run(Box::new(error));
        let context = session::session(&self.tables, visible).map_err(run)?;
        let plan = session::plan(&context, sql).await?;
        let schema = Arc::clone(plan.schema().inner());
        let batches = plan.collect().await.map_err(run)?;
        Ok(Answer { schema, batches, epoch: visible.epoch, complete_through: self.tables.complete_through(visible) })
    }

    /// Reading the log blocks, so it does not happen on a thread that runs queries.
    async fn visible(&self) -> Result<Visible, QueryError> {
        let source = Arc::clone(&self.source);
        let read = tokio::task::spawn_blocking(move || source.latest()).await;
        let failed = |reason| QueryError::Open { place: self.place.clone(), reason };
        read.map_err(|error| failed(error.to_string()))?.map_err(failed)
    }
}

#[cfg(test)]
mod tests;
