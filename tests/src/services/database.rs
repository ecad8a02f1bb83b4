//! A ClickHouse database over HTTP, read by the tests themselves.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::rows::Tables;

/// A database of one test.
#[derive(Clone)]
pub struct Database {
    place: String,
    name: String,
    agent: Agent,
}

impl Database {
    /// The database `name` of the server at `HOST:PORT`.
    #[must_use]
    pub fn new(place: &str, name: &str) -> Database {
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(120)));
        Database { place: place.to_owned(), name: name.to_owned(), agent: config.build().into() }
    }

    /// How a command line names it.
    #[must_use]
    pub fn address(&self) -> String {
        self.address_by(&self.place)
    }

    /// How a command line names it behind a proxy at `HOST:PORT`.
    #[must_use]
    pub fn address_by(&self, place: &str) -> String {
        format!("clickhouse://{place}/{}", self.name)
    }

    /// The answer to a query as lines of JSON, times in RFC 3339.
    ///
    /// # Errors
    /// What the server, or the way to it, says.
    pub fn try_query(&self, sql: &str) -> Result<Vec<u8>, String> {
        let settings = "date_time_output_format=iso&output_format_json_quote_64bit_integers=0";
        let url = format!(
            "http://{}/?database={}&default_format=JSONEachRow&wait_end_of_query=1&{settings}",
            self.place, self.name
        );
        let mut response = self.agent.post(url).send(sql).map_err(|error| error.to_string())?;
        let body =
            response.body_mut().with_config().limit(u64::MAX).read_to_vec().map_err(|error| error.to_string())?;
        if response.status().is_success() { Ok(body) } else { Err(String::from_utf8_lossy(&body).into_owned()) }
    }

    /// The answer to a query as lines of JSON, times in RFC 3339.
    ///
    /// # Panics
    /// When the server refuses it.
    #[must_use]
    #[track_caller]
    pub fn query(&self, sql: &str) -> Vec<u8> {
        self.try_query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a statement.
    ///
    /// # Panics
    /// When the server refuses it.
    #[track_caller]
    pub fn run(&self, sql: &str) {
        drop(self.query(sql));
    }

    /// The only row of an answer, as numbers.
    ///
    /// # Errors
    /// What the server says, or that the answer is another one.
    pub fn try_numbers(&self, sql: &str) -> Result<Vec<u64>, String> {
        let answer = self.try_query(&format!("{sql} FORMAT JSONCompactEachRow"))?;
        let row: Vec<Value> = serde_json::from_slice(&answer).map_err(|error| format!("{sql}: {error}"))?;
        row.iter().map(|value| value.as_u64().ok_or_else(|| format!("{sql}: {value} is no count"))).collect()
    }

    /// All tables.
    ///
    /// # Panics
    /// When one cannot be read.
    #[must_use]
    #[track_caller]
    pub fn tables(&self) -> Tables {
        Tables::read(|sql| self.query(sql))
    }

    /// Removes the database, so that many runs leave nothing behind.
    pub fn drop_all(&self) {
        // A server that is gone keeps nothing either.
        self.try_query(&format!("DROP DATABASE IF EXISTS {}", self.name)).ok();
    }
}
