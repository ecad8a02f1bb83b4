//! The tables of the `web_analytics` pipeline. `tenant` is the first column of each.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::spec::{ColumnSpec, Fold, TableSpec, time_type};

const UNVERIFIED: &str = "unverified_events";

/// Every table that is stored. [`progress_schema`] is beside them: it is read from the log.
#[must_use]
pub fn all() -> Vec<TableSpec> {
    vec![
        page_views_by_minute(),
        errors_by_version_by_minute(),
        revenue_by_minute(),
        sessions(),
        raw_events(),
        unverified_events(),
    ]
}

/// Views and distinct users of a page in a minute.
#[must_use]
pub fn page_views_by_minute() -> TableSpec {
    TableSpec::windowed(
        "page_views_by_minute",
        vec![ColumnSpec::key("page", DataType::Utf8), ColumnSpec::sum("views"), ColumnSpec::union_count("users")],
    )
}

/// Errors and distinct users who met one, of an app version in a minute.
#[must_use]
pub fn errors_by_version_by_minute() -> TableSpec {
    TableSpec::windowed(
        "errors_by_version_by_minute",
        vec![
            ColumnSpec::key("app_version", DataType::Utf8),
            ColumnSpec::sum("errors"),
            ColumnSpec::union_count("users"),
        ],
    )
}

/// Orders and their sum in cents, of a currency in a minute.
#[must_use]
pub fn revenue_by_minute() -> TableSpec {
    TableSpec::windowed(
        "revenue_by_minute",
        vec![ColumnSpec::key("currency", DataType::Utf8), ColumnSpec::sum("orders"), ColumnSpec::sum("amount_cents")],
    )
}

/// One row a session; a session that grew is taken back and asserted anew.
#[must_use]
pub fn sessions() -> TableSpec {
    TableSpec::new(
        "sessions",
        Fold::Signed,
        "first_event",
        vec![
            ColumnSpec::key("tenant", DataType::Utf8),
            ColumnSpec::key("user_id", DataType::Utf8),
            ColumnSpec::value("first_event", time_type()),
            ColumnSpec::value("last_event", time_type()),
            ColumnSpec::value("event_count", DataType::Int64),
            ColumnSpec::sign("sign"),
        ],
    )
}

/// Every accepted event, deduplicated.
#[must_use]
pub fn raw_events() -> TableSpec {
    events("raw_events")
}

/// Events too old to be judged duplicate or not.
#[must_use]
pub fn unverified_events() -> TableSpec {
    events(UNVERIFIED)
}

/// The same of another pipeline over these events: `<pipeline>_unverified_events`.
#[must_use]
pub fn unverified_events_of(pipeline: &str) -> TableSpec {
    events(&format!("{pipeline}_{UNVERIFIED}"))
}

/// Whether a table is one of events that could not be judged: an archive of accepted ones does not have what is in it.
#[must_use]
pub fn is_of_unverified(table: &str) -> bool {
    table.ends_with(UNVERIFIED)
}

/// The columns of `progress`: one row for each input file, at the commit that the query reads.
///
/// `tenant` is NULL; `epoch` is the committed epoch; `complete_through` is the watermark of that commit, NULL while
/// there is none; `lines` is how many lines of `file` the commit contains.
#[must_use]
pub fn progress_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("tenant", DataType::Utf8, true),
        Field::new("epoch", DataType::Int64, false),
        Field::new("complete_through", time_type(), true),
        Field::new("file", DataType::Utf8, false),
        Field::new("lines", DataType::Int64, false),
    ]))
}

fn events(name: &str) -> TableSpec {
    let text = |column: &str| ColumnSpec::value(column, DataType::Utf8);
    TableSpec::new(
        name,
        Fold::Append,
        "timestamp",
        vec![
            ColumnSpec::key("tenant", DataType::Utf8),
            ColumnSpec::key("event_id", DataType::Utf8),
            text("event_type"),
            text("user_id"),
            text("session_id").nullable(),
            ColumnSpec::key("timestamp", time_type()),
            ColumnSpec::value("server_time", time_type()).nullable(),
            text("app_version").nullable(),
            text("os").nullable(),
            text("screen_resolution").nullable(),
            text("locale").nullable(),
            text("country").nullable(),
            text("city").nullable(),
            text("page").nullable(),
            text("properties").nullable(),
            text("extra").nullable(),
        ],
    )
    .sorted_by(&["tenant", "timestamp", "event_id"])
}
