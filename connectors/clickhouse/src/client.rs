//! The one way to the server: blocking calls with a time limit on each, over HTTP.
//!
//! Sinks live on threads of their own and block; the asynchronous client runs on a small runtime that belongs to this
//! client alone. No call waits for ever: a server that hangs counts as one that does not answer.

use std::time::Duration;

use clickhouse::error::Error;
use clickhouse::insert_formatted::CompressedData;
use clickhouse::{Client as Http, Compression};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::error::ClickHouseError;
use crate::target::Target;

/// How long a piece of an insert may take to leave, and an answer to come.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a statement may take that people wait for: digests read whole tables.
const LONG_PATIENCE: Duration = Duration::from_secs(600);
/// The pieces in which an insert's bytes are compressed and sent.
const PIECE: usize = 1 << 20;

/// What each insert says about itself, so that one insert is one block that is recognised when it comes again:
/// nothing is gathered with other inserts, nothing is cut, views learn the token too, and the answer comes after the
/// last of them has written.
const INSERT_SETTINGS: [(&str, &str); 9] = [
    ("async_insert", "0"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    ("input_format_parallel_parsing", "0"),
    ("insert_deduplicate", "1"),
    ("materialized_views_ignore_errors", "0"),
    ("max_insert_block_size", "1048449"),
    ("max_insert_threads", "1"),
    ("max_partitions_per_insert_block", "100"),
    ("parallel_view_processing", "0"),
];

/// A connection to one database.
pub(crate) struct Client {
    http: Http,
    runtime: Runtime,
    target: Target,
    /// The limit of each statement other than an insert.
    patience: Duration,
}

impl Client {
    /// Prepares a client for commands, whose statements may take their time.
    pub(crate) fn patient(target: &Target) -> Result<Self, ClickHouseError> {
        Ok(Self { patience: LONG_PATIENCE, ..Self::new(target)? })
    }

    /// Prepares a client; nothing is sent yet.
    pub(crate) fn new(target: &Target) -> Result<Self, ClickHouseError> {
        let mut http = Http::default()
            .with_url(target.url())
            .with_database(target.database())
            .with_compression(Compression::Lz4)
            .with_setting("wait_end_of_query", "1");
        if let Some(user) = target.user() {
            http = http.with_user(user);
        }
        if let Some(password) = target.password() {
            http = http.with_password(password);
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(ClickHouseError::Local)?;
        Ok(Self { http, runtime, target: target.clone(), patience: PATIENCE })
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Runs a statement without an answer.
    pub(crate) fn execute(&self, sql: &str) -> Result<(), Error> {
        self.within(self.patience, self.http.query_raw(sql).execute())
    }

    /// Creates the target's database if there is none; the only statement outside of it.
    pub(crate) fn create_database(&self) -> Result<(), Error> {
        let outside = self.http.clone().with_database("system");
        let sql = format!("CREATE DATABASE IF NOT EXISTS {}", self.target.database());
        self.within(self.patience, outside.query_raw(&sql).execute())
    }

    /// Whether the target's database exists.
    pub(crate) fn database_exists(&self) -> Result<bool, Error> {
        let outside = self.http.clone().with_database("system");
        let sql = format!("SELECT name FROM system.databases WHERE name = {}", quote(self.target.database()));
        Ok(!self.read(&outside, &sql)?.is_empty())
    }

    /// The answer's lines of JSON, one array of values a row.
    pub(crate) fn rows(&self, sql: &str) -> Result<Vec<Vec<Value>>, Error> {
        let parse = |line: &str| serde_json::from_str(line).map_err(|error| Error::Custom(error.to_string()));
        self.read(&self.http, &format!("{sql} FORMAT JSONCompactEachRow"))?.lines().map(parse).collect()
    }

    /// The answer as the server writes it.
    pub(crate) fn text(&self, sql: &str) -> Result<String, Error> {
        self.read(&self.http, sql)
    }

    fn read(&self, http: &Http, sql: &str) -> Result<String, Error> {
        let query = http
            .query_raw(sql)
            .with_setting("output_format_json_quote_64bit_integers", "0")
            .with_setting("output_format_json_quote_denormals", "1");
        let bytes = self.within(self.patience, async { query.fetch_bytes("TabSeparated")?.collect().await })?;
        String::from_utf8(bytes.into()).map_err(|error| Error::Custom(error.to_string()))
    }

    /// Sends one insert and waits until the table, and every table behind a view, has it.
    ///
    /// Without a token the server does not recognise the insert when it comes again.
    pub(crate) fn insert(&self, statement: &str, token: Option<&str>, body: &[u8]) -> Result<(), Error> {
        self.runtime.block_on(async {
            let mut insert = self.http.insert_formatted_with(statement).with_timeouts(Some(PATIENCE), Some(PATIENCE));
            for (name, value) in INSERT_SETTINGS {
                insert = insert.with_setting(name, value);
            }
            if let Some(token) = token {
                insert = insert.with_setting("insert_deduplication_token", token);
            }
            for piece in body.chunks(PIECE) {
                insert.send_compressed(CompressedData::new(piece, Compression::Lz4)?).await?;
            }
            insert.end().await
        })
    }

    /// Waits between two attempts.
    pub(crate) fn wait(&self, pause: Duration) {
        // The timer belongs to the runtime, so it is made inside of it.
        self.runtime.block_on(async { tokio::time::sleep(pause).await });
    }

    /// What the server refused, with its place.
    pub(crate) fn failed(&self, what: &str, source: Error) -> ClickHouseError {
        ClickHouseError::Server { at: self.target.at(), what: what.to_owned(), source }
    }

    /// An answer that was not understood, with its place.
    pub(crate) fn not_understood(&self, what: &str) -> ClickHouseError {
        ClickHouseError::Answer { at: self.target.at(), what: what.to_owned() }
    }

    fn within<T>(&self, limit: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.runtime.block_on(async { tokio::time::timeout(limit, call).await.unwrap_or(Err(Error::TimedOut)) })
    }
}

/// A text as a literal of ClickHouse's SQL.
pub(crate) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
