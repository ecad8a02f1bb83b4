//! The one way to the server: blocking calls with a time limit on each, over HTTP.
//!
//! Sinks live on threads of their own and block; the asynchronous client runs on a small runtime that belongs to this
//! client alone. No call waits for ever: a server that hangs counts as one that does not answer.

use std::cell::OnceCell;
use std::time::Duration;

use clickhouse::error::Error;
use clickhouse::insert_formatted::CompressedData;
use clickhouse::{Client as Http, Compression};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::check::texts;
use crate::error::ClickHouseError;
use crate::target::Target;

/// How long a piece of an insert may take to leave, and an answer to come.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a statement may take that people wait for: digests read whole tables.
const LONG_PATIENCE: Duration = Duration::from_secs(600);
/// The pieces in which an insert's bytes are compressed and sent.
const PIECE: usize = 1 << 20;

/// What inserts say beside: one insert is one block that is recognised when it comes again, nothing is gathered with other
/// inserts, cut or left out, users' views learn the token too, and the answer comes after the last of them has written.
const INSERT_SETTINGS: [(&str, &str); 22] = [
    ("async_insert", "0"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    ("deduplicate_insert", "enable"),
    ("deduplicate_insert_select", "force_enable"),
    ("ignore_materialized_views_with_dropped_target_table", "0"),
    ("input_format_null_as_default", "0"),
    ("input_format_parallel_parsing", "0"),
    ("insert_deduplicate", "1"),
    ("insert_null_as_default", "0"),
    ("insert_select_deduplicate", "1"),
    ("materialized_views_ignore_errors", "0"),
    ("max_block_size", "1048449"),
    ("max_insert_block_size", "1048449"),
    ("max_insert_threads", "1"),
    ("max_partitions_per_insert_block", "100"),
    ("max_rows_to_group_by", "0"),
    ("min_insert_block_size_bytes", "1073741824"),
    ("min_insert_block_size_rows", "1048449"),
    ("optimize_on_insert", "1"),
    ("parallel_view_processing", "0"),
    ("throw_on_max_partitions_per_insert_block", "1"),
    ("use_async_executor_for_materialized_views", "0"),
];

/// Without it a repeated insert counts twice.
const TOKEN: &str = "insert_deduplication_token";

/// What each question and insert says about itself, whatever the user's profile says: a part of an answer is none, and
/// expressions mean what they mean by default.
const SETTINGS: [(&str, &str); 22] = [
    ("additional_result_filter", ""),
    ("additional_table_filters", "{}"),
    ("aggregate_functions_null_for_empty", "0"),
    ("final", "0"),
    ("force_index_by_date", "0"),
    ("force_primary_key", "0"),
    ("group_by_overflow_mode", "throw"),
    ("group_by_use_nulls", "0"),
    ("join_use_nulls", "0"),
    ("limit", "0"),
    ("max_bytes_to_read", "0"),
    ("max_result_bytes", "0"),
    ("max_result_rows", "0"),
    ("max_rows_to_read", "0"),
    ("max_table_size_to_drop", "0"),
    ("offset", "0"),
    ("prefer_column_name_to_alias", "0"),
    ("read_overflow_mode", "throw"),
    ("result_overflow_mode", "throw"),
    ("timeout_overflow_mode", "throw"),
    ("transform_null_in", "0"),
    ("use_query_cache", "0"),
];

/// A setting of inserts, as the server knows it.
struct Setting {
    name: &'static str,
    value: &'static str,
    /// The user's profile forbids to change it, and says something else.
    forbidden: bool,
}

/// A connection to one database.
pub(crate) struct Client {
    http: Http,
    settings: OnceCell<Vec<Setting>>,
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
        for (name, value) in SETTINGS {
            http = http.with_setting(name, value);
        }
        Ok(Self { http, settings: OnceCell::new(), runtime, target: target.clone(), patience: PATIENCE })
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

    /// The settings of inserts that this server knows, asked for once.
    fn insert_settings(&self) -> Result<&[Setting], Error> {
        if let Some(known) = self.settings.get() {
            return Ok(known);
        }
        let wanted = || INSERT_SETTINGS.into_iter().chain([(TOKEN, "")]);
        let names: Vec<String> = wanted().map(|(name, _)| quote(name)).collect();
        let sql = format!("SELECT name, value, readonly FROM system.settings WHERE name IN ({})", names.join(", "));
        let mut known = Vec::new();
        for row in self.rows(&sql)? {
            let [name, now, readonly] = texts(row)?;
            let Some((name, value)) = wanted().find(|(wanted, _)| *wanted == name) else { continue };
            let forbidden = readonly != "0" && (name == TOKEN || now != value);
            known.push(Setting { name, value, forbidden });
        }
        Ok(self.settings.get_or_init(|| known))
    }

    /// A setting of inserts that the user's profile does not let us change.
    pub(crate) fn forbidden_setting(&self) -> Result<Option<&'static str>, Error> {
        Ok(self.insert_settings()?.iter().find(|setting| setting.forbidden).map(|setting| setting.name))
    }

    /// Sends one insert and waits until the table, and every table behind a view, has it.
    ///
    /// Without a token the server does not recognise the insert when it comes again.
    pub(crate) fn insert(&self, statement: &str, token: Option<&str>, body: &[u8]) -> Result<(), Error> {
        let settings = self.insert_settings()?;
        self.runtime.block_on(self.send(statement, settings, token, body))
    }

    /// Sends the same rows by several statements, one after the other; gives the place of the first that failed, and why.
    pub(crate) fn insert_by_all(&self, statements: &[String], token: &str, body: &[u8]) -> Result<(), (usize, Error)> {
        for (at, statement) in statements.iter().enumerate() {
            self.insert(statement, Some(token), body).map_err(|error| (at, error))?;
        }
        Ok(())
    }

    async fn send(&self, statement: &str, settings: &[Setting], token: Option<&str>, body: &[u8]) -> Result<(), Error> {
        let mut insert = self.http.insert_formatted_with(statement).with_timeouts(Some(PATIENCE), Some(PATIENCE));
        for setting in settings.iter().filter(|setting| setting.name != TOKEN) {
            insert = insert.with_setting(setting.name, setting.value);
        }
        if let Some(token) = token {
            insert = insert.with_setting(TOKEN, token);
        }
        for piece in body.chunks(PIECE) {
            insert.send_compressed(CompressedData::new(piece, Compression::Lz4)?).await?;
        }
        insert.end().await
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
