//! The text of one value, for every type that a query can answer with.

use std::fmt::Write;
use std::io;

use arrow::array::{Array, AsArray, ListArray, StructArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Float32Type, Float64Type, Int64Type, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tidemill_tables::calendar::{Date, Instant, TimeOfDay};

/// What a text stands for, which decides how JSON writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No value; the text is empty.
    Null,
    /// A number or a truth value: JSON writes it as it is.
    Plain,
    /// A number that JSON does not know: infinite, or none.
    NotFinite,
    /// Text: JSON quotes it.
    Text,
    /// A list or a record, in JSON already.
    Json,
}

/// Appends the text of the value in `row`.
pub(super) fn write(column: &dyn Array, row: usize, out: &mut String) -> io::Result<Kind> {
    if column.is_null(row) || *column.data_type() == DataType::Null {
        return Ok(Kind::Null);
    }
    let kind = match column.data_type() {
        DataType::Utf8 => text(column.as_string::<i32>().value(row), out),
        DataType::LargeUtf8 => text(column.as_string::<i64>().value(row), out),
        DataType::Utf8View => text(column.as_string_view().value(row), out),
        DataType::Int64 => plain(column.as_primitive::<Int64Type>().value(row), out),
        DataType::Boolean => plain(column.as_boolean().value(row), out),
        DataType::Timestamp(unit, _) => plain_text(Instant(milliseconds(column, row, *unit)), out),
        DataType::Date32 => plain_text(Date(value::<Date32Type>(column, row).into()), out),
        DataType::Date64 => plain_text(Date(value::<Date64Type>(column, row).div_euclid(86_400_000)), out),
        DataType::Time32(_) | DataType::Time64(_) => plain_text(TimeOfDay(nanoseconds(column, row)), out),
        DataType::Float64 => float(value::<Float64Type>(column, row), |number| serde_json::to_string(&number), out)?,
        DataType::Float32 => {
            let number = value::<Float32Type>(column, row);
            float(number.into(), |_| serde_json::to_string(&number), out)?
        }
        DataType::List(_) => list(column.as_list(), row, out)?,
        DataType::Struct(_) => record(column.as_struct(), row, out)?,
        DataType::Dictionary(_, _) => {
            let dictionary = column.as_any_dictionary();
            return write(dictionary.values().as_ref(), dictionary.normalized_keys()[row], out);
        }
        other => {
            let options = FormatOptions::default();
            let formatter = ArrayFormatter::try_new(column, &options).map_err(io::Error::other)?;
            formatter.value(row).write(out).map_err(io::Error::other)?;
            if other.is_numeric() { Kind::Plain } else { Kind::Text }
        }
    };
    Ok(kind)
}

/// Appends the value in `row` as JSON.
pub(super) fn write_json(column: &dyn Array, row: usize, out: &mut String) -> io::Result<()> {
    let start = out.len();
    match write(column, row, out)? {
        Kind::Plain | Kind::Json => {}
        Kind::Null | Kind::NotFinite => {
            out.truncate(start);
            out.push_str("null");
        }
        Kind::Text => {
            let quoted = serde_json::to_string(&out[start..])?;
            out.truncate(start);
            out.push_str(&quoted);
        }
    }
    Ok(())
}

fn text(value: &str, out: &mut String) -> Kind {
    out.push_str(value);
    Kind::Text
}

fn plain(value: impl std::fmt::Display, out: &mut String) -> Kind {
    write!(out, "{value}").expect("writing to a String does not fail");
    Kind::Plain
}

fn plain_text(value: impl std::fmt::Display, out: &mut String) -> Kind {
    plain(value, out);
    Kind::Text
}

/// The shortest digits that read back as the same number.
fn float(number: f64, digits: impl Fn(f64) -> Result<String, serde_json::Error>, out: &mut String) -> io::Result<Kind> {
    if number.is_finite() {
        out.push_str(&digits(number)?);
        return Ok(Kind::Plain);
    }
    plain(number, out);
    Ok(Kind::NotFinite)
}

fn list(lists: &ListArray, row: usize, out: &mut String) -> io::Result<Kind> {
    let items = lists.value(row);
    out.push('[');
    for at in 0..items.len() {
        if at > 0 {
            out.push(',');
        }
        write_json(&items, at, out)?;
    }
    out.push(']');
    Ok(Kind::Json)
}

fn record(records: &StructArray, row: usize, out: &mut String) -> io::Result<Kind> {
    out.push('{');
    for (at, (field, column)) in records.fields().iter().zip(records.columns()).enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(&serde_json::to_string(field.name())?);
        out.push(':');
        write_json(column, row, out)?;
    }
    out.push('}');
    Ok(Kind::Json)
}

fn value<T: ArrowPrimitiveType>(column: &dyn Array, row: usize) -> T::Native {
    column.as_primitive::<T>().value(row)
}

/// Milliseconds since 1970, what is finer cut off downwards.
fn milliseconds(column: &dyn Array, row: usize, unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => value::<TimestampSecondType>(column, row).saturating_mul(1000),
        TimeUnit::Millisecond => value::<TimestampMillisecondType>(column, row),
        TimeUnit::Microsecond => value::<TimestampMicrosecondType>(column, row).div_euclid(1000),
        TimeUnit::Nanosecond => value::<TimestampNanosecondType>(column, row).div_euclid(1_000_000),
    }
}

/// Nanoseconds since midnight.
fn nanoseconds(column: &dyn Array, row: usize) -> u64 {
    match column.data_type() {
        DataType::Time32(TimeUnit::Second) => {
            u64::from(value::<Time32SecondType>(column, row).unsigned_abs()) * 1_000_000_000
        }
        DataType::Time32(_) => u64::from(value::<Time32MillisecondType>(column, row).unsigned_abs()) * 1_000_000,
        DataType::Time64(TimeUnit::Microsecond) => {
            value::<Time64MicrosecondType>(column, row).unsigned_abs().saturating_mul(1000)
        }
        _ => value::<Time64NanosecondType>(column, row).unsigned_abs(),
    }
}
