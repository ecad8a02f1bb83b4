//! What a sink and a reader of the same table have to agree on, and nothing else.
//!
//! A [`TableSpec`] says which columns a table has in its files and in queries, and how the rows of many files become
//! the rows that a query shows: its [`Fold`]. [`fold()`] is that rule over Arrow batches, used when small files are
//! rolled into larger ones (the query engine states the same rule as SQL), and [`sort`] gives the row order that makes
//! the content of a written file a function of its rows alone (INV-2, INV-3).
//!
//! This package knows no engine, no storage and no query planner, so that both ends can depend on it.

pub mod calendar;
mod fold;
mod retention;
pub mod sort;
mod spec;
pub mod views;
pub mod web_analytics;

pub use fold::{FoldError, check, fold};
pub use retention::Retention;
pub use spec::{ColumnSpec, Fold, Role, TableSpec, hash_list_type, hash_lists, time_type};
