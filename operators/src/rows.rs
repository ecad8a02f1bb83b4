//! Results as Arrow record batches, column by column, in the order and with the nullability of a table's schema.
//!
//! A windowed table is `tenant, window_start, <name of the key>, <values>...`, a session table `tenant, <name of the
//! key>, first_event, last_event, event_count, sign`. Column names are the schema's own; types must be the ones stated
//! at each encoder, and a row that does not fit is an error, never a changed value.

mod aggregates;
mod changes;
mod tuples;
mod views;
mod wide;

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Decimal128Array, Float64Array, Int8Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use arrow::error::ArrowError;
pub use changes::{RankRows, VersionRows};
use thiserror::Error;
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::time::EventTime;
pub use tuples::TupleRows;
pub use views::ChangeRows;

use crate::aggregate::{Hashes, Stamped};
use crate::window::session::SessionChange;
use crate::window::tumbling::WindowRow;

/// Rows that a table's schema cannot take.
#[derive(Debug, Error)]
pub enum RowsError {
    /// The schema is of another operator.
    #[error("the rows have {rows} columns but the table's schema has {schema}: declare the table for this operator")]
    Width {
        /// Columns of the rows.
        rows: usize,
        /// Columns of the schema.
        schema: usize,
    },
    /// A column has another type than the values.
    #[error("column {column} is {declared}, which cannot hold {values}: change the type in the table's schema")]
    Type {
        /// The column.
        column: String,
        /// The schema's type.
        declared: DataType,
        /// What the values are.
        values: &'static str,
    },
    /// A sum is beyond 64 bits.
    #[error("column {column} is Int64, which cannot hold the sum {sum}: declare it as Decimal128(38, 0)")]
    Sum {
        /// The column.
        column: String,
        /// The sum.
        sum: i128,
    },
    /// A list column would need offsets beyond 32 bits.
    #[error("column {column} has {items} list items in one batch, more than 2^31: encode fewer rows at a time")]
    Long {
        /// The column.
        column: String,
        /// Items of all rows.
        items: usize,
    },
    /// A value does not fit its column, or a column without nulls has one.
    #[error("the rows do not fit the table's schema")]
    Arrow(#[from] ArrowError),
}

/// Values that are one or more columns of a table.
pub trait Columns: Sized {
    /// How many columns.
    const WIDTH: usize;

    /// Appends the columns of all `values` to `columns`; `fields` are the schema's for exactly these columns.
    ///
    /// # Errors
    /// If a value does not fit its field.
    fn append<'a>(
        values: impl Iterator<Item = &'a Self> + Clone,
        fields: &[FieldRef],
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), RowsError>
    where
        Self: 'a;
}

/// One column, made of all values at once.
macro_rules! column {
    ($(#[$doc:meta])* $value:ty, $values:ident => $array:expr) => {
        $(#[$doc])*
        impl Columns for $value {
            const WIDTH: usize = 1;

            fn append<'a>(
                $values: impl Iterator<Item = &'a Self> + Clone,
                _fields: &[FieldRef],
                columns: &mut Vec<ArrayRef>,
            ) -> Result<(), RowsError> {
                columns.push(Arc::new($array));
                Ok(())
            }
        }
    };
}

column!(
    /// `Utf8`.
    String,
    values => StringArray::from_iter_values(values)
);
column!(
    /// A millisecond timestamp of UTC.
    EventTime,
    values => times(values.copied())
);
column!(
    /// `Int64`.
    i64,
    values => Int64Array::from_iter_values(values.copied())
);
column!(
    /// `Int64`, null where there is no value.
    Option<i64>,
    values => values.copied().collect::<Int64Array>()
);
column!(
    /// `Float64`.
    f64,
    values => Float64Array::from_iter_values(values.copied())
);
column!(
    /// `Float64`, null where there is no value.
    Option<f64>,
    values => values.copied().collect::<Float64Array>()
);

/// `Decimal128` of the precision and scale that the field declares, or `Int64`.
impl Columns for i128 {
    const WIDTH: usize = 1;

    fn append<'a>(
        values: impl Iterator<Item = &'a Self> + Clone,
        fields: &[FieldRef],
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), RowsError> {
        let (precision, scale) = match *fields[0].data_type() {
            DataType::Decimal128(precision, scale) => (precision, scale),
            DataType::Int64 => {
                let narrow = |value: &i128| i64::try_from(*value).map_err(|_| too_wide(&fields[0], *value));
                let sums = values.map(narrow).collect::<Result<Vec<i64>, _>>()?;
                columns.push(Arc::new(Int64Array::from(sums)));
                return Ok(());
            }
            _ => return Err(wrong_type(&fields[0], "sums")),
        };
        let units = Decimal128Array::from_iter_values(values.copied()).with_precision_and_scale(precision, scale)?;
        units.validate_decimal_precision(precision)?;
        columns.push(Arc::new(units));
        Ok(())
    }
}

/// `List` of `UInt64` items that are not null.
impl Columns for Hashes {
    const WIDTH: usize = 1;

    fn append<'a>(
        values: impl Iterator<Item = &'a Self> + Clone,
        fields: &[FieldRef],
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), RowsError> {
        let lengths = values.clone().map(|hashes| hashes.0.len());
        let mut hashes = Vec::with_capacity(lengths.clone().sum());
        values.for_each(|value| hashes.extend_from_slice(&value.0));
        columns.push(lists(lengths, Arc::new(UInt64Array::from(hashes)), &fields[0])?);
        Ok(())
    }
}

/// Two columns: the time as a millisecond timestamp of UTC, and the bytes as `Utf8` or `Binary`, whichever is declared.
impl Columns for Option<Stamped> {
    const WIDTH: usize = 2;

    fn append<'a>(
        values: impl Iterator<Item = &'a Self> + Clone,
        fields: &[FieldRef],
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), RowsError> {
        let times = values.clone().map(|value| value.as_ref().map(|stamped| stamped.time.0));
        columns.push(Arc::new(times.collect::<TimestampMillisecondArray>().with_timezone("UTC")));
        let bytes = values.map(|value| value.as_ref().map(|stamped| stamped.bytes.as_slice()));
        match fields[1].data_type() {
            DataType::Binary => columns.push(Arc::new(bytes.collect::<BinaryArray>())),
            DataType::Utf8 => {
                let binary = bytes.collect::<BinaryArray>();
                columns.push(Arc::new(StringArray::try_from_binary(binary)?));
            }
            _ => return Err(wrong_type(&fields[1], "encoded values")),
        }
        Ok(())
    }
}

macro_rules! tuple {
    ($($name:ident $at:tt),+) => {
        /// The columns of each part, one after the other.
        impl<$($name: Columns),+> Columns for ($($name,)+) {
            const WIDTH: usize = 0 $(+ $name::WIDTH)+;

            fn append<'a>(
                values: impl Iterator<Item = &'a Self> + Clone,
                fields: &[FieldRef],
                columns: &mut Vec<ArrayRef>,
            ) -> Result<(), RowsError>
            where
                Self: 'a,
            {
                let rest = fields;
                $(
                    let (own, rest) = rest.split_at($name::WIDTH);
                    $name::append(values.clone().map(|value| &value.$at), own, columns)?;
                )+
                debug_assert!(rest.is_empty(), "the fields are those of these columns");
                Ok(())
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

#[cold]
fn too_wide(field: &Field, sum: i128) -> RowsError {
    RowsError::Sum { column: field.name().clone(), sum }
}

fn wrong_type(field: &Field, values: &'static str) -> RowsError {
    RowsError::Type { column: field.name().clone(), declared: field.data_type().clone(), values }
}

/// Lists of these lengths, one after the other, whose items are not null.
fn lists(lengths: impl Iterator<Item = usize>, items: ArrayRef, field: &Field) -> Result<ArrayRef, RowsError> {
    if i32::try_from(items.len()).is_err() {
        return Err(RowsError::Long { column: field.name().clone(), items: items.len() });
    }
    let item = Arc::new(Field::new("item", items.data_type().clone(), false));
    Ok(Arc::new(ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), items, None)?))
}

fn times(values: impl Iterator<Item = EventTime>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(values.map(|time| time.0)).with_timezone("UTC"))
}

/// Tenant and name of each key; bytes that are no UTF-8 become replacement characters.
fn texts<'a>(keys: impl Iterator<Item = &'a OwnedKey> + Clone) -> (ArrayRef, ArrayRef) {
    let tenants = StringArray::from_iter_values(keys.clone().map(|key| key.texts().0));
    let names = StringArray::from_iter_values(keys.map(|key| key.texts().1));
    (Arc::new(tenants), Arc::new(names))
}

/// Encodes what a tumbling window gives.
#[derive(Clone, Copy, Debug)]
pub struct WindowRows;

impl WindowRows {
    /// Columns before the values.
    const KEY_WIDTH: usize = 3;

    /// The rows as `tenant Utf8, window_start Timestamp(ms, UTC), <name> Utf8, <columns of the value>...`.
    ///
    /// # Errors
    /// If the schema does not have these columns, or a value does not fit.
    pub fn encode<P: Columns>(rows: &[WindowRow<P>], schema: SchemaRef) -> Result<RecordBatch, RowsError> {
        let width = Self::KEY_WIDTH + P::WIDTH;
        if schema.fields().len() != width {
            return Err(RowsError::Width { rows: width, schema: schema.fields().len() });
        }
        let columns = Self::columns(rows, schema.fields())?;
        Ok(RecordBatch::try_new(schema, columns)?)
    }

    /// The same for a table that adds up the rows of one key: a sum that its `Int64` column cannot hold is written as
    /// several rows, which add up to it.
    ///
    /// # Errors
    /// If the schema does not have these columns, or a value does not fit.
    pub fn encode_deltas<P: Columns>(rows: &[WindowRow<P>], schema: SchemaRef) -> Result<RecordBatch, RowsError> {
        let stored = Arc::clone(&schema);
        match Self::encode(rows, schema) {
            Err(RowsError::Sum { .. }) => {
                let columns = Self::columns(rows, &wide::fields(&stored, Self::KEY_WIDTH))?;
                wide::spread(columns, &stored, Self::KEY_WIDTH)
            }
            done => done,
        }
    }

    fn columns<P: Columns>(rows: &[WindowRow<P>], fields: &[FieldRef]) -> Result<Vec<ArrayRef>, RowsError> {
        let (tenants, names) = texts(rows.iter().map(|row| &row.key));
        let mut columns = vec![tenants, times(rows.iter().map(|row| row.start)), names];
        P::append(rows.iter().map(|row| &row.value), &fields[Self::KEY_WIDTH..], &mut columns)?;
        Ok(columns)
    }
}

/// Encodes what sessions give.
#[derive(Clone, Copy, Debug)]
pub struct SessionRows;

impl SessionRows {
    /// The rows as `tenant Utf8, <name> Utf8, first_event, last_event Timestamp(ms, UTC), event_count Int64, sign Int8`.
    ///
    /// # Errors
    /// If the schema does not have these columns.
    pub fn encode(rows: &[SessionChange], schema: SchemaRef) -> Result<RecordBatch, RowsError> {
        let (tenants, names) = texts(rows.iter().map(|row| &row.key));
        let columns = vec![
            tenants,
            names,
            times(rows.iter().map(|row| row.first)),
            times(rows.iter().map(|row| row.last)),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.count))) as ArrayRef,
            Arc::new(Int8Array::from_iter_values(rows.iter().map(|row| row.sign))),
        ];
        if schema.fields().len() != columns.len() {
            return Err(RowsError::Width { rows: columns.len(), schema: schema.fields().len() });
        }
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}

#[cfg(test)]
mod tests;
