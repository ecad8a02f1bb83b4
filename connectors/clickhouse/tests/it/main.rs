//! The sink against a real server: the one that `CLICKHOUSE_URL` names, each test in a database of its own.

#![expect(clippy::unwrap_used, reason = "a failed step ends the test, with its place")]

mod database;
mod exactly_once;
mod failures;
mod operation;
mod rebuild;
mod refusals;
mod rows;
mod tables;
