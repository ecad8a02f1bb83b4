//! One DataFusion session over what one commit makes visible, and the statements it accepts.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, new_null_array};
use arrow::datatypes::DataType;
use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{MemorySchemaProvider, SchemaProvider};
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, lit};
use datafusion::prelude::{DataFrame, SQLOptions, SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::Statement as Sql;
use object_store::ObjectStore;
use tidemill_tables::{Fold, Role, TableSpec, web_analytics};

use crate::checked_sum::{checked_sum, narrowed, wide_sum};
use crate::clock::Clock;
use crate::date_trunc::date_trunc;
use crate::error::QueryError;
use crate::file_table::FileTable;
use crate::segments::SegmentCache;
use crate::sql;
use crate::union_count::union_count;
use crate::visible::Visible;

const CATALOG: &str = "tidemill";
/// The schema of the folded tables.
const FOLDED: &str = "lake";
/// The schema of the rows as they are stored.
const STORED: &str = "stored";

/// What the sessions of one place share: where the files are, what the tables are, and what is known of files that never
/// change.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    store: Arc<dyn ObjectStore>,
    specs: Arc<[TableSpec]>,
    runtime: Arc<RuntimeEnv>,
    cache: Option<Arc<SegmentCache>>,
    clock: Clock,
}

impl Tables {
    /// What tells these tables from those of a log that was begun anew, whose files may have the same names.
    pub(crate) fn identity(&self) -> &Arc<[TableSpec]> {
        &self.specs
    }

    /// Tables whose rows are read from their files by every query; the files' footers are kept.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, specs: Vec<TableSpec>) -> Self {
        let (runtime, clock) = (Arc::default(), Clock::of_the_machine());
        Self { store, specs: specs.into(), runtime, cache: None, clock }
    }

    /// Tables for many queries: at most `kept` bytes of rows of the folded tables stay in memory between them, and at most
    /// `running` bytes are what all of them together may use before they spill.
    pub(crate) fn cached(
        store: Arc<dyn ObjectStore>,
        specs: Vec<TableSpec>,
        kept: usize,
        running: usize,
    ) -> Result<Self> {
        let spilled = u64::try_from(running).unwrap_or(u64::MAX).saturating_mul(8);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(running)))
            .with_max_temp_directory_size(spilled);
        let cache = Arc::new(SegmentCache::new(Arc::clone(&store), kept));
        let clock = Clock::of_the_machine();
        Ok(Self { store, specs: specs.into(), runtime: runtime.build_arc()?, cache: Some(cache), clock })
    }

    /// Tables for sorting them as a whole: at most `running` bytes are used before temporary files are.
    pub(crate) fn spilling(store: Arc<dyn ObjectStore>, specs: Vec<TableSpec>, running: usize) -> Result<Self> {
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(FairSpillPool::new(running)))
            .with_max_temp_directory_size(u64::MAX);
        let clock = Clock::of_the_machine();
        Ok(Self { store, specs: specs.into(), runtime: runtime.build_arc()?, cache: None, clock })
    }

    /// The same, of whoever has another clock than the machine's.
    pub(crate) fn by(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// How far an answer given now is complete.
    pub(crate) fn complete_through(&self, visible: &Visible) -> Option<i64> {
        self.clock.complete_through(visible.complete_through)
    }

    /// The clock of whoever answers.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Where the files are.
    pub(crate) fn store(&self) -> &dyn ObjectStore {
        &*self.store
    }

    /// Bytes of rows that are held in memory.
    pub(crate) fn cached_bytes(&self) -> usize {
        self.cache.as_ref().map_or(0, |cache| cache.bytes())
    }
}

/// A session that sees the pipeline's tables as `visible` has them, and nothing else.
pub(crate) fn session(tables: &Tables, visible: &Visible) -> Result<SessionContext> {
    over(tables, tables.specs.iter().filter(|spec| visible.shows(&spec.name)), visible)
}

/// A session with the tables of `web_analytics`: `shown`, if it has them all, or else one where those that the pipeline does
/// not have, or has another table by the name of, are empty.
pub(crate) fn of_metrics(tables: &Tables, visible: &Visible, shown: &SessionContext) -> Result<SessionContext> {
    let specs = web_analytics::all();
    let has = |spec: &TableSpec| visible.shows(&spec.name) && tables.specs.contains(spec);
    if specs.iter().all(has) {
        return Ok(shown.clone());
    }
    let mut own = visible.clone();
    own.tables.retain(|name, _| specs.iter().any(|spec| spec.name == *name && has(spec)));
    over(tables, specs.iter(), &own)
}

/// A session over these tables alone.
fn over<'a>(tables: &Tables, specs: impl Iterator<Item = &'a TableSpec>, visible: &Visible) -> Result<SessionContext> {
    let mut config = SessionConfig::new().with_information_schema(true);
    config = config.with_default_catalog_and_schema(CATALOG, FOLDED);
    config.options_mut().execution.time_zone = Some("UTC".to_owned());
    let context = SessionContext::new_with_config_rt(config, Arc::clone(&tables.runtime));
    let url = ObjectStoreUrl::parse("tidemill://lake")?;
    context.register_object_store(url.as_ref(), Arc::clone(&tables.store));
    let footers = tables.runtime.cache_manager.get_file_metadata_cache();
    let reader: Arc<dyn ParquetFileReaderFactory> =
        Arc::new(CachedParquetFileReaderFactory::new(Arc::clone(&tables.store), footers));
    context.register_udaf(union_count());
    context.register_udf(date_trunc());
    context.register_udaf(checked_sum());
    let stored = Arc::new(MemorySchemaProvider::new());
    for spec in specs {
        let files = visible.tables.get(&spec.name).map_or(&[] as &[_], Vec::as_slice);
        let table = Arc::new(FileTable::new(spec, files, url.clone(), Arc::clone(&reader), tables.cache.clone()));
        stored.register_table(spec.name.clone(), Arc::<FileTable>::clone(&table))?;
        if spec.fold == Fold::Append {
            context.register_table(&spec.name, table)?;
        } else {
            let plan = folded(spec, LogicalPlanBuilder::scan(&spec.name, provider_as_source(table), None)?)?;
            context.register_table(&spec.name, Arc::new(ViewTable::new(plan, None)))?;
        }
    }
    let progress = progress(visible, tables.complete_through(visible))?;
    context.register_table("progress", Arc::new(MemTable::try_new(progress.schema(), vec![vec![progress]])?))?;
    if let Some(catalog) = context.catalog(CATALOG) {
        catalog.register_schema(STORED, stored)?;
    }
    Ok(context)
}

/// The table's fold, said to the query planner: what [`tidemill_tables::fold()`] does to batches.
fn folded(spec: &TableSpec, stored: LogicalPlanBuilder) -> Result<LogicalPlan> {
    let column = |at: usize| col(format!("{}.\"{}\"", spec.name, spec.columns[at].name));
    let mut keys = Vec::new();
    let mut aggregates = Vec::new();
    let mut shown: Option<Expr> = None;
    let mut columns = Vec::new();
    for (at, declared) in spec.columns.iter().enumerate() {
        let (aggregate, shows) = match declared.role {
            Role::Key | Role::Value => {
                keys.push(column(at));
                columns.push(column(at));
                continue;
            }
            Role::Sum => (wide_sum(column(at)), Expr::not_eq as fn(Expr, Expr) -> Expr),
            Role::UnionCount => (union_count().call(vec![column(at)]), Expr::not_eq as fn(Expr, Expr) -> Expr),
            Role::Sign => (wide_sum(column(at)), Expr::gt as fn(Expr, Expr) -> Expr),
        };
        let name = format!("folded {}", declared.name);
        let value = col(datafusion::common::Column::new_unqualified(&name));
        aggregates.push(aggregate.alias(&name));
        let one = shows(value.clone(), lit(0_i64));
        shown = Some(shown.map_or(one.clone(), |others| others.or(one)));
        match declared.role {
            Role::Sign => {}
            // Narrowed last, so that a sum beyond 64 bits is no matter of a query that does not ask for it.
            Role::Sum => columns.push(narrowed(&name, value).alias(&declared.name)),
            _ => columns.push(value.alias(&declared.name)),
        }
    }
    let mut plan = stored.aggregate(keys, aggregates)?;
    if let Some(shown) = shown {
        plan = plan.filter(shown)?;
    }
    plan.project(columns)?.build()
}

/// One row for each input file.
fn progress(visible: &Visible, through: Option<i64>) -> Result<RecordBatch> {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let files = if visible.epoch.is_some() { visible.files.as_slice() } else { &[] };
    let rows = files.len();
    let through = TimestampMillisecondArray::from(vec![through; rows]).with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        new_null_array(&DataType::Utf8, rows),
        Arc::new(Int64Array::from(vec![visible.epoch.map_or(0, number); rows])),
        Arc::new(through),
        Arc::new(StringArray::from_iter_values(files.iter().map(|file| &file.0))),
        Arc::new(Int64Array::from_iter_values(files.iter().map(|file| number(file.1)))),
    ];
    Ok(RecordBatch::try_new(web_analytics::progress_schema(), columns)?)
}

/// Plans one statement that only reads.
///
/// # Errors
/// When it is not understood, names a table that does not exist, or would change something.
pub(crate) async fn plan(context: &SessionContext, statement: &str) -> Result<DataFrame, QueryError> {
    sql::check(statement)?;
    let not_understood = |error: DataFusionError| match error {
        // DataFusion says what the parser said twice, once as Rust has it.
        DataFusionError::SQL(parser, _) => {
            let said = parser.to_string();
            let reason = said.strip_prefix("sql parser error: ").unwrap_or(&said).to_owned();
            QueryError::Unreadable { reason }
        }
        error => QueryError::Sql(Box::new(error)),
    };
    let state = context.state();
    let dialect = state.config_options().sql_parser.dialect;
    let parsed = state.sql_to_statement(statement, &dialect).map_err(not_understood)?;
    only_reads(&parsed)?;
    for reference in state.resolve_table_references(&parsed).map_err(not_understood)? {
        if !context.table_exist(reference.clone()).unwrap_or(false) {
            return Err(QueryError::UnknownTable { name: reference.to_string(), known: known_tables(context) });
        }
    }
    let plan = state.statement_to_plan(parsed).await.map_err(not_understood)?;
    let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    options.verify_plan(&plan).map_err(|_| refused(statement))?;
    context.execute_logical_plan(plan).await.map_err(not_understood)
}

fn known_tables(context: &SessionContext) -> Vec<String> {
    let schema = context.catalog(CATALOG).and_then(|catalog| catalog.schema(FOLDED));
    let mut names = schema.map(|schema| schema.table_names()).unwrap_or_default();
    names.sort();
    names
}

fn only_reads(statement: &Statement) -> Result<(), QueryError> {
    match statement {
        Statement::Explain(explain) => only_reads(&explain.statement),
        Statement::Statement(sql) => match sql.as_ref() {
            Sql::Query(_)
            | Sql::Explain { .. }
            | Sql::ExplainTable { .. }
            | Sql::ShowTables { .. }
            | Sql::ShowColumns { .. }
            | Sql::ShowVariable { .. }
            | Sql::ShowFunctions { .. } => Ok(()),
            other => Err(refused(&other.to_string())),
        },
        other => Err(refused(&other.to_string())),
    }
}

/// Names the statement by its first words.
fn refused(statement: &str) -> QueryError {
    let words: Vec<&str> = statement.split_whitespace().take(2).collect();
    QueryError::NotReadOnly { statement: words.join(" ") }
}
