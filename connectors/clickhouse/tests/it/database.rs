//! A database of its own for each test, gone when the test ends.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use arrow::array::RecordBatch;
use clickhouse::error::Error;
use tidemill_clickhouse::{ChunkLimits, ClickHouseTable, Retention, Target, apply};
use tidemill_dataflow::sink::{SinkError, SinkNotes, SinkStart, TableWriter};
use tidemill_tables::TableSpec;
use tokio::runtime::{Builder, Runtime};

pub(crate) struct Database {
    pub(crate) target: Target,
    http: clickhouse::Client,
    runtime: Runtime,
}

impl Database {
    /// A name that no database has yet.
    pub(crate) fn unused() -> Self {
        let url = std::env::var("CLICKHOUSE_URL").expect(
            "CLICKHOUSE_URL names no server: run `make services` and `. .cache/services/run/env`, or name one of your own",
        );
        let name = format!("tidemill_test_{:016x}", RandomState::new().hash_one(std::process::id()));
        let place = url.trim_start_matches("http://").trim_end_matches('/');
        let (user, password) = (std::env::var("CLICKHOUSE_USER").ok(), std::env::var("CLICKHOUSE_PASSWORD").ok());
        let mut http = clickhouse::Client::default().with_url(&url);
        if let Some(user) = &user {
            http = http.with_user(user);
        }
        if let Some(password) = &password {
            http = http.with_password(password);
        }
        let target = Target::parse(&format!("clickhouse://{place}/{name}"), user, password).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { target, http: http.with_database(name), runtime }
    }

    /// A database with the tables of the analytics pipelines.
    pub(crate) fn with_tables() -> Self {
        let database = Self::unused();
        apply(&database.target, Retention::default()).unwrap();
        database
    }

    pub(crate) fn run(&self, sql: &str) {
        self.runtime.block_on(self.http.query_raw(sql).execute()).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The answer's lines, columns divided by tabs.
    pub(crate) fn ask(&self, sql: &str) -> Vec<String> {
        let answer: Result<_, Error> =
            self.runtime.block_on(async { self.http.query_raw(sql).fetch_bytes("TabSeparated")?.collect().await });
        let answer = answer.unwrap_or_else(|error| panic!("{sql}: {error}"));
        std::str::from_utf8(&answer).unwrap().lines().map(str::to_owned).collect()
    }

    pub(crate) fn one(&self, sql: &str) -> String {
        let lines = self.ask(sql);
        assert_eq!(lines.len(), 1, "{sql}: {lines:?}");
        lines[0].clone()
    }

    /// A writer that is open.
    pub(crate) fn writer(&self, spec: &TableSpec, start: &SinkStart) -> ClickHouseTable {
        self.limited(spec, start, ChunkLimits::default())
    }

    /// An open writer of the table that is rebuilt beside the one of `spec`.
    pub(crate) fn rebuilding(&self, spec: &TableSpec, suffix: &str, start: &SinkStart) -> ClickHouseTable {
        let mut table = ClickHouseTable::new(self.target.clone(), spec.clone(), "web").rebuilt(suffix);
        table.open(start).unwrap();
        table
    }

    pub(crate) fn limited(&self, spec: &TableSpec, start: &SinkStart, limits: ChunkLimits) -> ClickHouseTable {
        let mut table = ClickHouseTable::new(self.target.clone(), spec.clone(), "web").limits(limits);
        table.open(start).unwrap();
        table
    }

    /// Why a writer does not open.
    pub(crate) fn refusal(&self, spec: &TableSpec, start: &SinkStart) -> String {
        let error = ClickHouseTable::new(self.target.clone(), spec.clone(), "web").open(start).unwrap_err();
        error.to_string()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let outside = self.http.clone().with_database("system");
        let sql = format!("DROP DATABASE IF EXISTS {} SYNC", self.target.database());
        self.runtime.block_on(outside.query_raw(&sql).execute()).ok();
    }
}

/// The first run of an instance.
pub(crate) fn first_run(instance: &str) -> SinkStart {
    later_run(instance, 1, 0, 0)
}

pub(crate) fn later_run(instance: &str, run: u64, committed: u64, bound: u64) -> SinkStart {
    SinkStart {
        instance: instance.to_owned(),
        run,
        committed,
        bound,
        fence: Arc::new(|| Ok(())),
        notes: SinkNotes::default(),
    }
}

/// Writes an epoch of one shard.
pub(crate) fn write(table: &mut ClickHouseTable, epoch: u64, rows: Vec<RecordBatch>) {
    try_write(table, epoch, rows).unwrap();
}

pub(crate) fn try_write(table: &mut ClickHouseTable, epoch: u64, rows: Vec<RecordBatch>) -> Result<(), SinkError> {
    assert!(table.write_epoch(epoch, 0, rows)?.is_empty());
    Ok(())
}
