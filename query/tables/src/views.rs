//! The tables of the pipelines `top_pages` and `funnel`: signed rows, shown while the sum of their signs is positive.

use arrow::datatypes::DataType;

use crate::spec::{ColumnSpec, Fold, TableSpec, time_type};

/// The most viewed pages of a tenant in the last hour; `last_view` is the latest minute in which one was viewed.
#[must_use]
pub fn top_pages() -> TableSpec {
    TableSpec::new(
        "top_pages",
        Fold::Signed,
        "last_view",
        vec![
            ColumnSpec::key("tenant", DataType::Utf8),
            ColumnSpec::value("page", DataType::Utf8),
            ColumnSpec::value("rank", DataType::Int64),
            ColumnSpec::value("views", DataType::Int64),
            ColumnSpec::value("last_view", time_type()),
            ColumnSpec::sign("sign"),
        ],
    )
}

/// Users of a tenant who came to a step (`page_view`, `click`, `purchase`) from a view in an hour.
#[must_use]
pub fn funnel() -> TableSpec {
    TableSpec::new(
        "funnel",
        Fold::Signed,
        "hour",
        vec![
            ColumnSpec::key("tenant", DataType::Utf8),
            ColumnSpec::value("hour", time_type()),
            ColumnSpec::value("step", DataType::Utf8),
            ColumnSpec::value("users", DataType::Int64),
            ColumnSpec::sign("sign"),
        ],
    )
}
