//! Printing an answer: as a table for people, as CSV or as one JSON object a line.
//!
//! Rows keep the order of the answer. Times are RFC 3339 in UTC with milliseconds, numbers are plain digits that read
//! back as the same number, NULL is nothing in a table and in CSV and `null` in JSON. CSV and JSON are written row by
//! row; a table is measured first, because its columns are aligned.

mod cell;

use std::io::{self, Write};
use std::str::FromStr;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};

use crate::lake::Answer;
use cell::Kind;

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns with a heading.
    #[default]
    Table,
    /// A line of names, then a line a row, quoted as RFC 4180 says, lines ending in `\n`.
    Csv,
    /// A JSON object a line; every column is present in each.
    Ndjson,
}

/// A name that is no format.
#[derive(Debug, thiserror::Error)]
#[error("there is no format {0}; use table, csv or ndjson")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        match name {
            "table" => Ok(Self::Table),
            "csv" => Ok(Self::Csv),
            "ndjson" => Ok(Self::Ndjson),
            other => Err(UnknownFormat(other.to_owned())),
        }
    }
}

impl Format {
    /// Writes the whole answer to `out`, which is best buffered.
    ///
    /// # Errors
    /// When `out` fails, or a column has a type that has no text.
    pub fn write(self, answer: &Answer, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Table => table(&answer.schema, &answer.batches, out),
            Self::Csv => csv(&answer.schema, &answer.batches, out),
            Self::Ndjson => ndjson(&answer.schema, &answer.batches, out),
        }
    }
}

fn csv(schema: &SchemaRef, batches: &[RecordBatch], out: &mut impl Write) -> io::Result<()> {
    for (at, field) in schema.fields().iter().enumerate() {
        separate(at, out)?;
        quoted(field.name(), out)?;
    }
    out.write_all(b"\n")?;
    let mut text = String::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            for (at, column) in batch.columns().iter().enumerate() {
                separate(at, out)?;
                text.clear();
                match cell::write(column, row, &mut text)? {
                    // A row that is one empty text would be a blank line, which many readers skip.
                    Kind::Text if text.is_empty() => out.write_all(b"\"\"")?,
                    Kind::Null => {}
                    _ => quoted(&text, out)?,
                }
            }
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

fn separate(at: usize, out: &mut impl Write) -> io::Result<()> {
    if at == 0 { Ok(()) } else { out.write_all(b",") }
}

fn quoted(text: &str, out: &mut impl Write) -> io::Result<()> {
    if !text.bytes().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
        return out.write_all(text.as_bytes());
    }
    out.write_all(b"\"")?;
    for (at, part) in text.split('"').enumerate() {
        if at > 0 {
            out.write_all(b"\"\"")?;
        }
        out.write_all(part.as_bytes())?;
    }
    out.write_all(b"\"")
}

fn ndjson(schema: &SchemaRef, batches: &[RecordBatch], out: &mut impl Write) -> io::Result<()> {
    let names: Vec<String> =
        schema.fields().iter().map(|field| serde_json::to_string(field.name())).collect::<Result<_, _>>()?;
    let mut text = String::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            for (at, (name, column)) in names.iter().zip(batch.columns()).enumerate() {
                out.write_all(if at == 0 { b"{" } else { b"," })?;
                out.write_all(name.as_bytes())?;
                out.write_all(b":")?;
                text.clear();
                cell::write_json(column, row, &mut text)?;
                out.write_all(text.as_bytes())?;
            }
            out.write_all(if names.is_empty() { b"{}\n" } else { b"}\n" })?;
        }
    }
    out.flush()
}

/// Appends one value as JSON.
pub(crate) fn write_value_as_json(column: &dyn Array, row: usize, out: &mut String) -> io::Result<()> {
    cell::write_json(column, row, out).map(drop)
}

/// Appends the rows of an answer to `out` as a JSON list of lists.
pub(crate) fn write_rows_as_json(answer: &Answer, out: &mut String) -> io::Result<()> {
    let mut before = '[';
    for batch in &answer.batches {
        for row in 0..batch.num_rows() {
            out.push(before);
            before = ',';
            out.push('[');
            for (at, column) in batch.columns().iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                cell::write_json(column, row, out)?;
            }
            out.push(']');
        }
    }
    out.push_str(if before == '[' { "[]" } else { "]" });
    Ok(())
}

fn table(schema: &SchemaRef, batches: &[RecordBatch], out: &mut impl Write) -> io::Result<()> {
    let mut widths: Vec<usize> = schema.fields().iter().map(|field| field.name().chars().count()).collect();
    let mut text = String::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            for (width, column) in widths.iter_mut().zip(batch.columns()) {
                table_cell(column, row, &mut text)?;
                *width = (*width).max(text.chars().count());
            }
        }
    }
    let rule = widths.iter().map(|width| "-".repeat(width + 2)).collect::<Vec<_>>().join("+");
    for (at, (field, width)) in schema.fields().iter().zip(&widths).enumerate() {
        padded(at, field.name(), *width, false, out)?;
    }
    writeln!(out, "\n{rule}")?;
    let mut rows = 0;
    for batch in batches {
        for row in 0..batch.num_rows() {
            for (at, (column, width)) in batch.columns().iter().zip(&widths).enumerate() {
                table_cell(column, row, &mut text)?;
                padded(at, &text, *width, is_number(column.data_type()), out)?;
            }
            writeln!(out)?;
        }
        rows += batch.num_rows();
    }
    writeln!(out, "({rows} {})", if rows == 1 { "row" } else { "rows" })?;
    out.flush()
}

/// The text of a cell on one line.
fn table_cell(column: &dyn Array, row: usize, text: &mut String) -> io::Result<()> {
    text.clear();
    cell::write(column, row, text)?;
    if text.chars().any(char::is_control) {
        *text =
            text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect();
    }
    Ok(())
}

fn padded(at: usize, text: &str, width: usize, right: bool, out: &mut impl Write) -> io::Result<()> {
    out.write_all(if at == 0 { b" " } else { b"| " })?;
    if right { write!(out, "{text:>width$} ") } else { write!(out, "{text:<width$} ") }
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

#[cfg(test)]
mod tests;
