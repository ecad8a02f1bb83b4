//! Sums beyond 64 bits in tables whose sums are `Int64` and add up: as many rows as the sum needs, full ones before the rest.
//!
//! What else a row brings (counts, lists of hashes) stands in its first row, and nothing of it in the others.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, new_empty_array};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Decimal128Type, Field, FieldRef, SchemaRef};

use super::{RowsError, lists};

/// The fields of a schema, those of sums wide enough for every sum.
pub(super) fn fields(schema: &SchemaRef, keys: usize) -> Vec<FieldRef> {
    let wide = |field: &FieldRef| Arc::new(Field::clone(field).with_data_type(DataType::Decimal128(38, 0)));
    let is_sum = |at: usize, field: &FieldRef| at >= keys && *field.data_type() == DataType::Int64;
    let fields = schema.fields().iter().enumerate();
    fields.map(|(at, field)| if is_sum(at, field) { wide(field) } else { Arc::clone(field) }).collect()
}

/// The rows of columns whose sums are wide, in the schema's own types.
pub(super) fn spread(columns: Vec<ArrayRef>, schema: &SchemaRef, keys: usize) -> Result<RecordBatch, RowsError> {
    let mut batches = Vec::new();
    let mut columns = columns;
    loop {
        let mut more = vec![false; columns.first().map_or(0, |column| column.len())];
        let (mut kept, mut rest) = (Vec::new(), Vec::new());
        for (at, (column, field)) in columns.into_iter().zip(schema.fields()).enumerate() {
            let (own, left) = if at < keys { (Arc::clone(&column), column) } else { part(column, field, &mut more)? };
            kept.push(own);
            rest.push(left);
        }
        batches.push(RecordBatch::try_new(Arc::clone(schema), kept)?);
        if !more.contains(&true) {
            return Ok(concat_batches(schema, &batches)?);
        }
        // Only the rows of which something is left go on.
        let of_the_rest: Vec<_> = schema
            .fields()
            .iter()
            .zip(&rest)
            .map(|(field, column)| Arc::new(Field::clone(field).with_data_type(column.data_type().clone())))
            .collect();
        let rest = RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(of_the_rest)), rest)?;
        columns = filter_record_batch(&rest, &BooleanArray::from(more))?.columns().to_vec();
    }
}

/// What of a column stands in these rows, and what is left for others; marks the rows of which something is.
fn part(column: ArrayRef, field: &FieldRef, more: &mut [bool]) -> Result<(ArrayRef, ArrayRef), RowsError> {
    if let (DataType::Int64, Some(sums)) = (field.data_type(), column.as_primitive_opt::<Decimal128Type>()) {
        let own = |sum: i128| i64::try_from(sum).unwrap_or(if sum < 0 { i64::MIN } else { i64::MAX });
        let kept = Int64Array::from_iter_values(sums.values().iter().map(|sum| own(*sum)));
        let left = sums.unary::<_, Decimal128Type>(|sum| sum - i128::from(own(sum)));
        more.iter_mut().zip(left.values()).for_each(|(more, left)| *more |= *left != 0);
        return Ok((Arc::new(kept), Arc::new(left.with_data_type(column.data_type().clone()))));
    }
    let nothing: ArrayRef = match column.data_type() {
        DataType::Int64 => Arc::new(Int64Array::from_value(0, column.len())),
        DataType::List(item) => lists(std::iter::repeat_n(0, column.len()), new_empty_array(item.data_type()), field)?,
        DataType::Decimal128(..) => Arc::new(
            column
                .as_primitive::<Decimal128Type>()
                .unary::<_, Decimal128Type>(|_| 0)
                .with_data_type(column.data_type().clone()),
        ),
        _ => Arc::clone(&column),
    };
    Ok((column, nothing))
}
