//! Rows that a table did not take: kept beside it, with the reason (INV-6).
//!
//! A row that breaks a constraint would stop the pipeline for ever: every restart meets it again. It is found on a copy of
//! the table ([`crate::dry`]), put into `rejected_rows` as JSON, and the rest is written under the chunk's own token. A chunk
//! that was written before keeps the rows that it had then.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int8Type, Int64Type, TimestampMillisecondType, UInt64Type};
use serde_json::{Map, Value};
use tidemill_tables::TableSpec;
use tidemill_tables::calendar::Instant;

use crate::row_binary::{header, write_text};

/// A row that was refused.
pub(crate) struct Refused {
    pub(crate) row: usize,
    pub(crate) reason: String,
}

/// The columns of an insert into `rejected_rows`.
pub(crate) fn columns() -> Vec<(String, String)> {
    [("tenant", "Nullable(String)"), ("table", "String"), ("epoch", "UInt64"), ("row", "String"), ("reason", "String")]
        .map(|(name, data_type)| (name.to_owned(), data_type.to_owned()))
        .to_vec()
}

/// A row as JSON.
pub(crate) fn shown(spec: &TableSpec, rows: &RecordBatch, row: usize) -> String {
    Value::Object(as_object(spec, rows, row)).to_string()
}

/// Refused rows as an insert's body.
pub(crate) fn body(spec: &TableSpec, epoch: u64, rows: &RecordBatch, refused: &[Refused]) -> Vec<u8> {
    let mut out = header(&columns());
    for Refused { row, reason } in refused {
        let values = as_object(spec, rows, *row);
        match values.get("tenant").and_then(Value::as_str) {
            Some(tenant) => {
                out.push(0);
                write_text(tenant, &mut out);
            }
            None => out.push(1),
        }
        write_text(&spec.name, &mut out);
        out.extend_from_slice(&epoch.to_le_bytes());
        write_text(&Value::Object(values).to_string(), &mut out);
        write_text(reason, &mut out);
    }
    out
}

/// A row by column name; times as RFC 3339.
fn as_object(spec: &TableSpec, rows: &RecordBatch, row: usize) -> Map<String, Value> {
    let cell = |(declared, array): (&tidemill_tables::ColumnSpec, &arrow::array::ArrayRef)| {
        let value = if array.is_null(row) {
            Value::Null
        } else {
            match declared.stored {
                DataType::Utf8 => array.as_string::<i32>().value(row).into(),
                DataType::Int64 => array.as_primitive::<Int64Type>().value(row).into(),
                DataType::Int8 => array.as_primitive::<Int8Type>().value(row).into(),
                DataType::List(_) => {
                    let hashes = array.as_list::<i32>().value(row);
                    hashes.as_primitive::<UInt64Type>().values().iter().copied().collect()
                }
                _ => Instant(array.as_primitive::<TimestampMillisecondType>().value(row)).to_string().into(),
            }
        };
        (declared.name.clone(), value)
    };
    spec.columns.iter().zip(rows.columns()).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMillisecondArray};
    use tidemill_tables::{hash_lists, web_analytics};

    use super::*;

    #[test]
    fn a_refused_row_is_readable() {
        let spec = web_analytics::page_views_by_minute();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["acme"])),
            Arc::new(TimestampMillisecondArray::from(vec![60_000]).with_timezone("UTC")),
            Arc::new(StringArray::from(vec!["/\"x\""])),
            Arc::new(Int64Array::from(vec![3])),
            Arc::new(hash_lists([2], vec![1, u64::MAX])),
        ];
        let rows = RecordBatch::try_new(spec.stored_schema(), columns).unwrap();
        let text = Value::Object(as_object(&spec, &rows, 0)).to_string();
        let expected = r#"{"page":"/\"x\"","tenant":"acme","users":[1,18446744073709551615],"views":3,"window_start":"1970-01-01T00:01:00.000Z"}"#;
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), serde_json::from_str::<Value>(expected).unwrap());
        let body = body(&spec, 7, &rows, &[Refused { row: 0, reason: "no".to_owned() }]);
        assert!(body.ends_with(b"\x02no"));
    }
}
