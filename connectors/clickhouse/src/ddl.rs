//! The tables as ClickHouse has them, generated from the same descriptions as every other sink's.
//!
//! The names that users read are views, folded and exact at any moment, also before the server merges. Beneath them:
//!
//! ```text
//! Deltas   NAME_data         sums; exact distinct as a state built in the server
//!          NAME_by_day_data  the same by day, with an approximate state beside it
//! Signed   NAME_data (SummingMergeTree over the sign): equal rows add up, what adds up to nothing goes away
//! Append   NAME_data (MergeTree)
//! ```
//! - Every table keeps a window of tokens: plain MergeTree ignores them otherwise. No view stands between a writer and a
//!   table: one that is dropped or detached for a moment would swallow rows, and nothing would tell.
//! - Hash lists are sent as arrays and become states in the statement that inserts them; a client that wrote states would have
//!   to know their bytes.
//! - A session's retraction and assertion meet in one partition, chosen by user and never by start, so one part holds both.
//! - Event times partition by day (events) or month (minutes, days) from 2000 to 2099; what lies outside shares one partition at
//!   either end, so that stray clocks cannot make a hundred thousand parts.
//! - Rows leave by the time they *arrived* (`inserted_at`), not by event time: a backfill of last year lives as long as today's
//!   rows. It is no result: no view shows it, and writes are recognised by token, not by content.

use arrow::datatypes::{DataType, TimeUnit};
use tidemill_tables::{ColumnSpec, Fold, Retention, Role, TableSpec, hash_list_type, web_analytics};

use crate::error::ClickHouseError;

mod objects;
mod statements;

pub(crate) use objects::{Kind, Object, comment};
pub(crate) use statements::retention_clause;

/// The statement that gives a column of a table the type it has to have, where the server can convert what is there.
pub(crate) fn widening(table: &str, column: &str, found: &str, expected: &str) -> Option<String> {
    let widens = found == statements::SUM_OF_VERSION_1 && expected == statements::SUM;
    widens.then(|| format!("ALTER TABLE {table} MODIFY COLUMN `{column}` {expected}"))
}

/// The version of the objects here; views of another one are replaced by `tidemill tables apply`.
pub(crate) const DDL_VERSION: u32 = 3;
/// Tokens that a table remembers, one for each partition of an insert.
pub const DEDUP_WINDOW: u64 = 10_000;
/// Into how many partitions signed rows are dealt.
pub(crate) const SIGNED_PARTITIONS: usize = 16;
/// Who writes what: one row for each table and instance.
pub(crate) const WRITERS: &str = "tidemill_writers";
/// Which storage holds what an instance wrote: one row for each table beneath and instance.
pub(crate) const STORAGES: &str = "tidemill_storages";
/// Rows that a table did not take.
pub(crate) const REJECTED: &str = "rejected_rows";
/// How far the inputs are contained.
pub(crate) const PROGRESS: &str = "progress";

/// The table `spec` beside the live one, under its name with `suffix` behind it.
#[must_use]
pub fn suffixed(spec: &TableSpec, suffix: &str) -> TableSpec {
    TableSpec { name: format!("{}{suffix}", spec.name), ..spec.clone() }
}

/// The tables that are created unless others are named.
#[must_use]
pub fn default_tables() -> Vec<TableSpec> {
    web_analytics::all()
}

/// What ClickHouse calls a column's type as it is sent.
pub(crate) fn sent_type(table: &str, column: &ColumnSpec) -> Result<String, ClickHouseError> {
    let plain = match &column.stored {
        DataType::Utf8 => "String",
        // A sign is summed up over many rows, beyond what eight bits hold.
        DataType::Int64 | DataType::Int8 => "Int64",
        DataType::Timestamp(TimeUnit::Millisecond, Some(zone)) if &**zone == "UTC" => "DateTime64(3, 'UTC')",
        list if *list == hash_list_type() => "Array(UInt64)",
        other => {
            return Err(ClickHouseError::Unsupported {
                table: table.to_owned(),
                column: column.name.clone(),
                data_type: other.to_string(),
            });
        }
    };
    Ok(if column.nullable { format!("Nullable({plain})") } else { plain.to_owned() })
}

/// The columns of an insert: names and types.
pub(crate) fn sent_columns(spec: &TableSpec) -> Result<Vec<(String, String)>, ClickHouseError> {
    spec.columns.iter().map(|column| Ok((column.name.clone(), sent_type(&spec.name, column)?))).collect()
}

/// What writes sent rows to one of the tables that keep them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Insert {
    pub(crate) table: String,
    /// Names of the columns that are written.
    columns: String,
    /// What computes them from the sent rows; empty where rows are stored as they are sent.
    select: String,
}

impl Insert {
    /// The statement that goes before encoded rows.
    pub(crate) fn statement(&self) -> String {
        self.into(&self.table)
    }

    /// The same, into a table of the same columns.
    pub(crate) fn into(&self, table: &str) -> String {
        let Self { columns, select, .. } = self;
        format!("INSERT INTO {table} ({columns}) {select} FORMAT RowBinaryWithNamesAndTypes")
    }
}

/// What writes rows to each of the tables that keep them, in the order of [`storages`].
pub(crate) fn inserts(spec: &TableSpec) -> Result<Vec<Insert>, ClickHouseError> {
    if spec.fold == Fold::Deltas {
        return statements::delta_inserts(spec);
    }
    let columns: Vec<String> = spec.columns.iter().map(|column| format!("`{}`", column.name)).collect();
    Ok(vec![Insert { table: storage(spec), columns: columns.join(", "), select: String::new() }])
}

/// What version 2 wrote deltas through, in the order in which it can be dropped: two views, and the table that they read.
pub(crate) fn obsolete(spec: &TableSpec) -> Vec<String> {
    match spec.fold {
        Fold::Deltas => vec![format!("{}_mv", spec.name), format!("{}_mv", by_day(spec)), format!("{}_in", spec.name)],
        Fold::Append | Fold::Signed => Vec::new(),
    }
}

/// The table that holds the rows.
pub(crate) fn storage(spec: &TableSpec) -> String {
    format!("{}_data", spec.name)
}

/// Every table that keeps rows of `spec`.
#[must_use]
pub fn storages(spec: &TableSpec) -> Vec<String> {
    match spec.fold {
        Fold::Deltas => vec![storage(spec), format!("{}_data", by_day(spec))],
        Fold::Append | Fold::Signed => vec![storage(spec)],
    }
}

/// `page_views_by_minute` has its days in `page_views_by_day`.
pub(crate) fn by_day(spec: &TableSpec) -> String {
    if spec.name.contains("_by_minute") {
        spec.name.replacen("_by_minute", "_by_day", 1)
    } else {
        format!("{}_by_day", spec.name)
    }
}

/// Everything that one table consists of, in the order in which it is created.
pub(crate) fn table(spec: &TableSpec, retention: Retention) -> Result<Vec<Object>, ClickHouseError> {
    match spec.fold {
        Fold::Append => statements::append(spec, retention.raw_days),
        Fold::Signed => statements::signed(spec),
        Fold::Deltas => statements::deltas(spec, retention.rollup_days),
    }
}

/// What is there once for a database: writers, storages, rejected rows, progress.
pub(crate) fn shared(retention: Retention) -> Vec<Object> {
    statements::shared(retention.raw_days)
}

/// Columns with a role, in order.
fn named(spec: &TableSpec, role: Role) -> impl Iterator<Item = &ColumnSpec> {
    spec.with_role(role).map(|at| &spec.columns[at])
}

#[cfg(test)]
mod tests;
