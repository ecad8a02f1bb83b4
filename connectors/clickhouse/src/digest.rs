//! Whether two tables say the same, and where they first differ: live against rebuilt.
//!
//! A digest depends on the rows as a multiset, not on their order or on how parts were merged: it is the wrapping sum of a
//! hash of each row, beside the number of rows.

use serde_json::Value;

use crate::check::texts;
use crate::client::{Client, quote};
use crate::error::ClickHouseError;
use crate::target::{Target, is_name};

/// One partition of a view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartitionDigest {
    /// The value of the expression that divides the view, as text.
    pub partition: String,
    /// Rows in it.
    pub rows: u64,
    /// The digest of these rows, 16 hex digits; equal multisets of rows have equal ones.
    pub digest: String,
}

/// A row that one view has more often than the other.
#[derive(Clone, Debug, PartialEq)]
pub struct DifferingRow {
    /// The row, by column name.
    pub row: Value,
    /// How often it is in the first view.
    pub in_first: u64,
    /// How often it is in the second view.
    pub in_second: u64,
}

/// Which rows of a view are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// The expression that divides the views, in ClickHouse's SQL.
    pub by: String,
    /// Its value as text.
    pub value: String,
}

/// The digests of a view's partitions, ascending; `by` divides it, such as `toDate(window_start)`.
///
/// # Errors
/// When the view does not exist, the expression is none, or the server fails.
pub fn digest(target: &Target, view: &str, by: &str) -> Result<Vec<PartitionDigest>, ClickHouseError> {
    let client = Client::patient(target)?;
    let what = format!("digest {view}");
    let hashed: Vec<String> = columns(&client, view)?.iter().map(|column| column.hashed()).collect();
    let sql = format!(
        "SELECT toString({by}) AS p, count(), lower(hex(sum(sipHash64({})))) FROM {view} GROUP BY p ORDER BY p",
        hashed.join(", ")
    );
    let rows = client.rows(&sql).map_err(|source| client.failed(&what, source))?;
    let digests = rows.into_iter().map(|row| {
        let [partition, count, digest] = texts(row).map_err(|_| client.not_understood(&what))?;
        Ok(PartitionDigest { partition, rows: count.parse().map_err(|_| client.not_understood(&what))?, digest })
    });
    digests.collect()
}

/// The first row, in column order, that two views with the same columns do not have equally often; `None` when they agree.
///
/// Only rows in `within` are compared if it is given: comparing takes memory for all of them.
///
/// # Errors
/// When a view does not exist, their columns differ, or the server fails.
pub fn first_difference(
    target: &Target,
    first: &str,
    second: &str,
    within: Option<&Partition>,
) -> Result<Option<DifferingRow>, ClickHouseError> {
    let client = Client::patient(target)?;
    let what = format!("compare {first} and {second}");
    let names: Vec<String> = columns(&client, first)?.into_iter().map(|column| format!("`{}`", column.name)).collect();
    let names = names.join(", ");
    let filter =
        within.map_or(String::new(), |Partition { by, value }| format!(" WHERE toString({by}) = {}", quote(value)));
    let sql = format!(
        "SELECT {names}, countIf(side = 1) AS in_first, countIf(side = 2) AS in_second FROM \
         (SELECT {names}, 1 AS side FROM {first}{filter} UNION ALL SELECT {names}, 2 AS side FROM {second}{filter}) \
         GROUP BY {names} HAVING in_first != in_second ORDER BY {names} LIMIT 1 FORMAT JSONEachRow"
    );
    columns(&client, second)?;
    let text = client.text(&sql).map_err(|source| client.failed(&what, source))?;
    let Some(line) = text.lines().next() else { return Ok(None) };
    let misread = || client.not_understood(&what);
    let mut row: Value = serde_json::from_str(line).map_err(|_| misread())?;
    let mut counted = |name: &str| row.as_object_mut()?.remove(name)?.as_u64();
    let (in_first, in_second) = (counted("in_first").ok_or_else(misread)?, counted("in_second").ok_or_else(misread)?);
    Ok(Some(DifferingRow { row, in_first, in_second }))
}

struct Column {
    name: String,
    nullable: bool,
}

impl Column {
    /// The arguments of a hash; a hash of NULL would be NULL, and hide the row.
    fn hashed(&self) -> String {
        let name = &self.name;
        if self.nullable { format!("isNull(`{name}`), ifNull(toString(`{name}`), '')") } else { format!("`{name}`") }
    }
}

fn columns(client: &Client, view: &str) -> Result<Vec<Column>, ClickHouseError> {
    let what = format!("describe {view}");
    if !is_name(view) {
        let reason = clickhouse::error::Error::Custom(format!("{view:?} is no name of a view"));
        return Err(client.failed(&what, reason));
    }
    let sql = format!(
        "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = {} ORDER BY position",
        quote(view)
    );
    let rows = client.rows(&sql).map_err(|source| client.failed(&what, source))?;
    if rows.is_empty() {
        let reason = clickhouse::error::Error::Custom(format!("there is no view {view}"));
        return Err(client.failed(&what, reason));
    }
    let column = |row| {
        let [name, data_type]: [String; 2] = texts(row).map_err(|_| client.not_understood(&what))?;
        Ok(Column { name, nullable: data_type.starts_with("Nullable(") })
    };
    rows.into_iter().map(column).collect()
}
