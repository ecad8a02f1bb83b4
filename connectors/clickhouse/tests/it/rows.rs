//! Batches in the stored schemas of the tables.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use tidemill_tables::{hash_lists, web_analytics};

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const DAY: i64 = 86_400_000;
/// 2024-01-01T00:00:00Z.
pub(crate) const NEW_YEAR: i64 = 1_704_067_200_000;

/// Tenant, minute, page, views, users.
pub(crate) type View<'a> = (&'a str, i64, &'a str, i64, Vec<u64>);

pub(crate) fn page_views(rows: &[View<'_>]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        texts(rows.iter().map(|row| row.0)),
        times(rows.iter().map(|row| row.1)),
        texts(rows.iter().map(|row| row.2)),
        numbers(rows.iter().map(|row| row.3)),
        Arc::new(hash_lists(rows.iter().map(|row| row.4.len()), rows.iter().flat_map(|row| row.4.clone()).collect())),
    ];
    RecordBatch::try_new(web_analytics::page_views_by_minute().stored_schema(), columns).unwrap()
}

/// User, first event, last event, events, sign.
pub(crate) type Session<'a> = (&'a str, i64, i64, i64, i8);

pub(crate) fn sessions(rows: &[Session<'_>]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        texts(rows.iter().map(|_| "default")),
        texts(rows.iter().map(|row| row.0)),
        times(rows.iter().map(|row| row.1)),
        times(rows.iter().map(|row| row.2)),
        numbers(rows.iter().map(|row| row.3)),
        Arc::new(Int8Array::from_iter_values(rows.iter().map(|row| row.4))),
    ];
    RecordBatch::try_new(web_analytics::sessions().stored_schema(), columns).unwrap()
}

/// Events with ids and times of their own, all else alike: half of what may be NULL is.
pub(crate) fn events(rows: &[(String, i64)]) -> RecordBatch {
    let same = |text: &'static str| texts(rows.iter().map(|_| text));
    let none = || -> ArrayRef { Arc::new(StringArray::from(vec![None::<&str>; rows.len()])) };
    let server = TimestampMillisecondArray::from(vec![None; rows.len()]).with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        same("default"),
        texts(rows.iter().map(|row| row.0.as_str())),
        same("page_view"),
        same("u1"),
        none(),
        times(rows.iter().map(|row| row.1)),
        Arc::new(server),
        none(),
        same("Linux"),
        none(),
        none(),
        none(),
        none(),
        same("/a\tb'\\"),
        same("{\"page\":\"/\"}"),
        none(),
    ];
    RecordBatch::try_new(web_analytics::raw_events().stored_schema(), columns).unwrap()
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn numbers(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}
