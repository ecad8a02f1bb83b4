//! Rows of Arrow batches as ClickHouse's `RowBinaryWithNamesAndTypes`.
//!
//! Names and types go before the rows, so that a column that was altered meanwhile is refused by the server instead of
//! being misread. Everything is appended to one buffer that is used again; no row is allocated.

use std::ops::Range;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Int8Type, Int64Type, TimestampMillisecondType, UInt64Type};
use tidemill_tables::TableSpec;

use crate::ddl;
use crate::error::ClickHouseError;

/// The columns of one batch, ready to be written row by row.
pub(crate) struct Encoder {
    header: Vec<u8>,
    columns: Vec<Column>,
}

struct Column {
    cells: Cells,
    /// Whether a byte before each value says if it is NULL.
    nullable: bool,
    nulls: Option<NullBuffer>,
}

enum Cells {
    Text(StringArray),
    Number(ScalarBuffer<i64>),
    Sign(ScalarBuffer<i8>),
    Hashes(ScalarBuffer<i32>, ScalarBuffer<u64>),
}

impl Encoder {
    /// Prepares a batch in the stored schema of `spec`.
    pub(crate) fn new(spec: &TableSpec, batch: &RecordBatch) -> Result<Self, ClickHouseError> {
        let header = header(&ddl::sent_columns(spec)?);
        let columns = spec.columns.iter().zip(batch.columns()).map(|(declared, array)| {
            let cells = match declared.stored {
                DataType::Utf8 => Cells::Text(array.as_string().clone()),
                DataType::Int64 => Cells::Number(array.as_primitive::<Int64Type>().values().clone()),
                DataType::Int8 => Cells::Sign(array.as_primitive::<Int8Type>().values().clone()),
                DataType::List(_) => {
                    let lists = array.as_list::<i32>();
                    let hashes = lists.values().as_primitive::<UInt64Type>().values().clone();
                    Cells::Hashes(lists.offsets().inner().clone(), hashes)
                }
                _ => Cells::Number(array.as_primitive::<TimestampMillisecondType>().values().clone()),
            };
            Column { cells, nullable: declared.nullable, nulls: array.nulls().cloned() }
        });
        Ok(Self { header, columns: columns.collect() })
    }

    /// About how many bytes a row takes.
    pub(crate) fn row_bytes(&self, row: usize) -> usize {
        let cell = |column: &Column| match &column.cells {
            Cells::Text(texts) => 2 + text_bytes(texts, row),
            Cells::Number(_) | Cells::Sign(_) => 8,
            Cells::Hashes(offsets, _) => 2 + 8 * list(offsets, row).len(),
        };
        self.columns.iter().map(cell).sum()
    }

    /// Replaces the buffer's content with these rows, header first.
    pub(crate) fn write(&self, rows: impl IntoIterator<Item = usize>, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.header);
        for row in rows {
            for column in &self.columns {
                column.write(row, out);
            }
        }
    }
}

impl Column {
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        if self.nullable {
            let null = self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            out.push(u8::from(null));
            if null {
                return;
            }
        }
        match &self.cells {
            Cells::Text(texts) => write_text(texts.value(row), out),
            Cells::Number(numbers) => out.extend_from_slice(&numbers[row].to_le_bytes()),
            Cells::Sign(signs) => out.extend_from_slice(&i64::from(signs[row]).to_le_bytes()),
            Cells::Hashes(offsets, hashes) => {
                let list = &hashes[list(offsets, row)];
                write_length(list.len(), out);
                list.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
            }
        }
    }
}

fn text_bytes(texts: &StringArray, row: usize) -> usize {
    list(texts.offsets(), row).len()
}

fn list(offsets: &[i32], row: usize) -> Range<usize> {
    let bound = |at: usize| usize::try_from(offsets[at]).expect("Arrow keeps offsets at or above zero");
    bound(row)..bound(row + 1)
}

/// Number, names and types of the columns.
pub(crate) fn header(columns: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    write_length(columns.len(), &mut out);
    columns.iter().for_each(|(name, _)| write_text(name, &mut out));
    columns.iter().for_each(|(_, data_type)| write_text(data_type, &mut out));
    out
}

/// A text with its length in bytes before it.
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    write_length(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// A number in groups of seven bits, the lowest first.
fn write_length(mut length: usize, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = length.to_le_bytes();
        length >>= 7;
        if length == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// The statement that goes before encoded rows.
pub(crate) fn insert_statement(table: &str, columns: &[(String, String)]) -> String {
    let names: Vec<String> = columns.iter().map(|(name, _)| format!("`{name}`")).collect();
    format!("INSERT INTO {table} ({}) FORMAT RowBinaryWithNamesAndTypes", names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int8Array, TimestampMillisecondArray};
    use tidemill_tables::{ColumnSpec, Fold, hash_list_type, hash_lists, time_type};

    use super::*;

    #[test]
    fn rows_are_these_bytes() {
        let spec = TableSpec::new(
            "t",
            Fold::Append,
            "at",
            vec![
                ColumnSpec::key("at", time_type()),
                ColumnSpec::value("who", DataType::Utf8).nullable(),
                ColumnSpec::new("users", hash_list_type(), tidemill_tables::Role::Value),
                ColumnSpec::value("sign", DataType::Int8),
            ],
        );
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMillisecondArray::from(vec![258, -1]).with_timezone("UTC")),
            Arc::new(StringArray::from(vec![Some("ab"), None])),
            Arc::new(hash_lists([1, 0], vec![7])),
            Arc::new(Int8Array::from(vec![1, -1])),
        ];
        let batch = RecordBatch::try_new(spec.stored_schema(), columns).unwrap();
        let encoder = Encoder::new(&spec, &batch).unwrap();
        let mut out = vec![9; 3];
        encoder.write(0..2, &mut out);
        let mut expected = Vec::new();
        expected.extend_from_slice(b"\x04\x02at\x03who\x05users\x04sign");
        expected.extend_from_slice(b"\x14DateTime64(3, 'UTC')");
        expected.extend_from_slice(b"\x10Nullable(String)\x0dArray(UInt64)\x05Int64");
        expected.extend_from_slice(&[2, 1, 0, 0, 0, 0, 0, 0, 0, 2, b'a', b'b', 1, 7, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[255; 8]);
        expected.extend_from_slice(&[1, 0]);
        expected.extend_from_slice(&[255; 8]);
        assert_eq!(out, expected);
        // The same rows out of a slice.
        let mut sliced = Vec::new();
        Encoder::new(&spec, &batch.slice(1, 1)).unwrap().write(0..1, &mut sliced);
        let mut second = Vec::new();
        encoder.write(1..2, &mut second);
        assert_eq!(sliced, second);
    }

    #[test]
    fn lengths_take_seven_bits_a_byte() {
        for (length, bytes) in [(0, vec![0]), (127, vec![127]), (128, vec![128, 1]), (300, vec![172, 2])] {
            let mut out = Vec::new();
            write_length(length, &mut out);
            assert_eq!(out, bytes);
        }
    }
}
