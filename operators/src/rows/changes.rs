//! Rows of windows that tell more than what an epoch added: versions, and places of rankings.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int8Array, Int64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef};

use super::{Columns, RowsError, texts, times, wrong_type};
use crate::emission::WindowVersion;
use crate::window::top_k::RankChange;

/// Encodes what windows that emit upserts give.
#[derive(Clone, Copy, Debug)]
pub struct VersionRows;

impl VersionRows {
    /// Columns before the values.
    const KEY_WIDTH: usize = 4;

    /// The rows as `tenant Utf8, window_start Timestamp(ms, UTC), <name> Utf8, version UInt64, <columns of the value>...`.
    ///
    /// # Errors
    /// If the schema does not have these columns, or a value does not fit.
    pub fn encode<P: Columns>(rows: &[WindowVersion<P>], schema: SchemaRef) -> Result<RecordBatch, RowsError> {
        let width = Self::KEY_WIDTH + P::WIDTH;
        if schema.fields().len() != width {
            return Err(RowsError::Width { rows: width, schema: schema.fields().len() });
        }
        let (tenants, names) = texts(rows.iter().map(|of| &of.row.key));
        let versions = Arc::new(UInt64Array::from_iter_values(rows.iter().map(|of| of.version)));
        let mut columns = vec![tenants, times(rows.iter().map(|of| of.row.start)), names, versions];
        P::append(rows.iter().map(|of| &of.row.value), &schema.fields()[Self::KEY_WIDTH..], &mut columns)?;
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}

/// Encodes what rankings give.
#[derive(Clone, Copy, Debug)]
pub struct RankRows;

impl RankRows {
    /// The rows as `tenant Utf8, window_start Timestamp(ms, UTC), <name> Utf8, rank UInt32, <item>, count Int64, sign Int8`;
    /// the item is `Utf8` or `Binary`, whichever is declared.
    ///
    /// # Errors
    /// If the schema does not have these columns, or an item that is declared as text is none.
    pub fn encode(rows: &[RankChange], schema: SchemaRef) -> Result<RecordBatch, RowsError> {
        const ITEM: usize = 4;
        const WIDTH: usize = 7;
        if schema.fields().len() != WIDTH {
            return Err(RowsError::Width { rows: WIDTH, schema: schema.fields().len() });
        }
        let (tenants, names) = texts(rows.iter().map(|row| &row.key));
        let items = BinaryArray::from_iter_values(rows.iter().map(|row| &row.item));
        let items: ArrayRef = match schema.field(ITEM).data_type() {
            DataType::Binary => Arc::new(items),
            DataType::Utf8 => Arc::new(StringArray::try_from_binary(items)?),
            _ => return Err(wrong_type(schema.field(ITEM), "items")),
        };
        let columns = vec![
            tenants,
            times(rows.iter().map(|row| row.start)),
            names,
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.rank))),
            items,
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.count))),
            Arc::new(Int8Array::from_iter_values(rows.iter().map(|row| row.sign))),
        ];
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}
