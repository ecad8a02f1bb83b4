//! Rows of a table as keyed JSON messages.
//!
//! A message's key is the JSON array of the table's key columns; its value a JSON object of all columns and of `epoch`.
//! Times are RFC 3339 with milliseconds. A table that adds up is published as what the epoch added, so a reader *folds by
//! key*:
//!
//! | table | in the value | a reader |
//! |---|---|---|
//! | deltas | sums of the epoch | adds them up |
//! | | distinct values of the epoch, an array of 64-bit hashes in decimal text | counts their union |
//! | signed (sessions) | `sign`: 1 asserts the row, -1 takes it back | keeps rows whose signs add up to more than 0 |
//! | appended | the row | keeps it |
//!
//! A cell with very many hashes is spread over several messages of the same key, of which the first holds the sums. The
//! messages of an epoch are sorted, so they are the same however rows were dealt to workers (INV-2).

use std::io::Write;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int8Type, Int64Type, TimeUnit, TimestampMillisecondType, UInt64Type};
use serde_json::to_writer;
use tidemill_dataflow::sink::SinkError;
use tidemill_dataflow::time::Epoch;
use tidemill_tables::calendar::Instant;
use tidemill_tables::{Fold, Role, TableSpec};

/// The most hashes in one message: 450 kB of text.
const HASHES: usize = 20_000;

/// The messages of an epoch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Messages {
    bytes: Vec<u8>,
    /// For each message, where its key and its value end.
    ends: Vec<(usize, usize)>,
}

impl Messages {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Key and value of a message, counted from 0; the key is empty where there is none.
    #[must_use]
    pub fn get(&self, at: usize) -> Option<(&[u8], &[u8])> {
        let (key_end, value_end) = *self.ends.get(at)?;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before].1);
        Some((&self.bytes[start..key_end], &self.bytes[key_end..value_end]))
    }

    /// Adds a message.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.extend_from_slice(key);
        let key_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.ends.push((key_end, self.bytes.len()));
    }
}

/// Refuses a table with a column that cannot be published.
///
/// # Errors
/// A sentence that names the column.
pub fn check(spec: &TableSpec) -> Result<(), SinkError> {
    match spec.columns.iter().find(|column| !is_supported(&column.stored)) {
        Some(column) => {
            let (table, name, kind) = (&spec.name, &column.name, &column.stored);
            Err(format!("table {table}: column {name} of type {kind} cannot be published as messages").into())
        }
        None => Ok(()),
    }
}

fn is_supported(column: &DataType) -> bool {
    match column {
        DataType::Utf8 | DataType::Int8 | DataType::Int64 | DataType::Timestamp(TimeUnit::Millisecond, _) => true,
        DataType::List(item) => *item.data_type() == DataType::UInt64,
        _ => false,
    }
}

/// The messages of an epoch's rows, which are folded and sorted.
///
/// # Errors
/// If a column is of a type that [`check`] refuses.
pub fn encode(spec: &TableSpec, epoch: Epoch, rows: &RecordBatch) -> Result<Messages, SinkError> {
    let mut messages = Messages::default();
    let out = &mut messages.bytes;
    for row in 0..rows.num_rows() {
        for part in 0..parts(spec, rows, row) {
            out.push(b'[');
            for (nth, at) in spec.with_role(Role::Key).enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                value(out, rows.column(at), row, part)?;
            }
            out.push(b']');
            let key_end = out.len();
            out.push(b'{');
            for (at, column) in spec.columns.iter().enumerate() {
                to_writer(&mut *out, &column.name)?;
                out.push(b':');
                if column.role == Role::Sum && part > 0 {
                    out.push(b'0');
                } else {
                    value(out, rows.column(at), row, part)?;
                }
                out.push(b',');
            }
            write!(out, "\"epoch\":{epoch}}}")?;
            messages.ends.push((key_end, out.len()));
        }
    }
    Ok(messages)
}

/// How many messages a row takes.
fn parts(spec: &TableSpec, rows: &RecordBatch, row: usize) -> usize {
    if spec.fold != Fold::Deltas {
        return 1;
    }
    let lists = spec.with_role(Role::UnionCount).map(|at| rows.column(at).as_list::<i32>().value(row).len());
    lists.max().unwrap_or(0).div_ceil(HASHES).max(1)
}

/// Appends a cell as JSON; of a list the given part.
fn value(out: &mut Vec<u8>, column: &dyn Array, row: usize, part: usize) -> Result<(), SinkError> {
    if column.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    match column.data_type() {
        DataType::Utf8 => to_writer(&mut *out, column.as_string::<i32>().value(row))?,
        DataType::Int8 => write!(out, "{}", column.as_primitive::<Int8Type>().value(row))?,
        DataType::Int64 => write!(out, "{}", column.as_primitive::<Int64Type>().value(row))?,
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            write!(out, "\"{}\"", Instant(column.as_primitive::<TimestampMillisecondType>().value(row)))?;
        }
        DataType::List(_) => {
            let list = column.as_list::<i32>().value(row);
            let hashes = list.as_primitive::<UInt64Type>().values();
            out.push(b'[');
            for (nth, hash) in hashes.iter().skip(part * HASHES).take(HASHES).enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                write!(out, "\"{hash}\"")?;
            }
            out.push(b']');
        }
        other => return Err(format!("a column of type {other} cannot be published as messages").into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int8Array, Int64Array, StringArray, TimestampMillisecondArray};
    use tidemill_tables::{hash_lists, web_analytics};

    use super::*;

    fn text(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    fn times(values: &[i64]) -> ArrayRef {
        Arc::new(TimestampMillisecondArray::from(values.to_vec()).with_timezone("UTC"))
    }

    fn whole(values: &[i64]) -> ArrayRef {
        Arc::new(Int64Array::from(values.to_vec()))
    }

    fn shown(messages: &Messages) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (0..).map_while(|at| messages.get(at)).map(|(key, value)| (text(key), text(value))).collect()
    }

    #[test]
    fn a_row_of_deltas_is_keyed_and_says_what_the_epoch_added() {
        let spec = web_analytics::revenue_by_minute();
        let columns = vec![text(&["default"]), times(&[60_000]), text(&["E\"R"]), whole(&[2]), whole(&[-5])];
        let rows = RecordBatch::try_new(spec.stored_schema(), columns).unwrap();
        let expected_key = r#"["default","1970-01-01T00:01:00.000Z","E\"R"]"#;
        let expected = concat!(
            r#"{"tenant":"default","window_start":"1970-01-01T00:01:00.000Z","currency":"E\"R","#,
            r#""orders":2,"amount_cents":-5,"epoch":7}"#
        );
        assert_eq!(shown(&encode(&spec, 7, &rows).unwrap()), [(expected_key.into(), expected.into())]);
    }

    #[test]
    fn sessions_have_a_sign() {
        let spec = web_analytics::sessions();
        let sign: ArrayRef = Arc::new(Int8Array::from(vec![-1]));
        let columns = vec![text(&["t"]), text(&["u"]), times(&[0]), times(&[1]), whole(&[3]), sign];
        let rows = RecordBatch::try_new(spec.stored_schema(), columns).unwrap();
        let messages = shown(&encode(&spec, 1, &rows).unwrap());
        assert_eq!(messages[0].0, r#"["t","u"]"#);
        assert!(messages[0].1.ends_with(r#""event_count":3,"sign":-1,"epoch":1}"#), "{}", messages[0].1);
    }

    #[test]
    fn a_cell_with_very_many_users_takes_several_messages_that_add_up_to_it() {
        let spec = web_analytics::errors_by_version_by_minute();
        let hashes: Vec<u64> = (0..HASHES as u64 * 2 + 1).map(|n| u64::MAX - n).collect();
        let users: ArrayRef = Arc::new(hash_lists([hashes.len(), 0], hashes.clone()));
        let columns = vec![text(&["t", "t"]), times(&[0, 0]), text(&["1", "2"]), whole(&[9, 4]), users];
        let rows = RecordBatch::try_new(spec.stored_schema(), columns).unwrap();
        let messages = shown(&encode(&spec, 1, &rows).unwrap());
        assert_eq!(messages.len(), 4);
        let values: Vec<serde_json::Value> = messages.iter().map(|m| serde_json::from_str(&m.1).unwrap()).collect();
        let sums: Vec<i64> = values.iter().map(|value| value["errors"].as_i64().unwrap()).collect();
        assert_eq!(sums, [9, 0, 0, 4]);
        let published = values[..3].iter().flat_map(|value| value["users"].as_array().unwrap());
        let published: Vec<u64> = published.map(|hash| hash.as_str().unwrap().parse().unwrap()).collect();
        assert_eq!(published, hashes);
    }
}
