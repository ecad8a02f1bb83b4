//! The columns of aggregates that are read only when they are whole: tables keep what they fold exactly.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, UInt32Array};
use arrow::datatypes::FieldRef;

use super::{Columns, RowsError, lists};
use crate::aggregate::{ExactSum, HyperLogLog, QuantileSketch, SumAndCount};

/// Two columns, each of which a table sums: the sum as `Decimal128`, and the count as `Int64`.
impl Columns for SumAndCount {
    const WIDTH: usize = 2;

    fn append<'a>(
        values: impl Iterator<Item = &'a Self> + Clone,
        fields: &[FieldRef],
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), RowsError> {
        i128::append(values.clone().map(|value| &value.sum), &fields[..1], columns)?;
        i64::append(values.map(|value| &value.count), &fields[1..], columns)
    }
}

/// `List` of `UInt32` items that are not null, of which a table takes the union; see [`HyperLogLog::entries`].
impl Columns for HyperLogLog {
    const WIDTH: usize = 1;

    fn append<'a>(
        values: impl Iterator<Item = &'a Self> + Clone,
        fields: &[FieldRef],
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), RowsError> {
        let entries = UInt32Array::from_iter_values(values.clone().flat_map(HyperLogLog::entries));
        columns.push(lists(values.map(|value| value.entries().count()), Arc::new(entries), &fields[0])?);
        Ok(())
    }
}

/// Two columns of equally long lists, `List` of `Int32` and `List` of `Int64`, items not null: buckets and counts, of which
/// a table adds up those of one bucket; see [`QuantileSketch::buckets`].
impl Columns for QuantileSketch {
    const WIDTH: usize = 2;

    fn append<'a>(
        values: impl Iterator<Item = &'a Self> + Clone,
        fields: &[FieldRef],
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), RowsError> {
        append_maps(values.map(QuantileSketch::buckets), fields, columns)
    }
}

/// Two columns of equally long lists, `List` of `Int32` and `List` of `Int64`, items not null: places and digits, of which
/// a table adds up those of one place; see [`ExactSum::digits`].
impl Columns for ExactSum {
    const WIDTH: usize = 2;

    fn append<'a>(
        values: impl Iterator<Item = &'a Self> + Clone,
        fields: &[FieldRef],
        columns: &mut Vec<ArrayRef>,
    ) -> Result<(), RowsError> {
        append_maps(values.map(ExactSum::digits), fields, columns)
    }
}

/// Appends maps from numbers to counts as two columns of lists.
fn append_maps<M: Iterator<Item = (i32, i64)>>(
    maps: impl Iterator<Item = M> + Clone,
    fields: &[FieldRef],
    columns: &mut Vec<ArrayRef>,
) -> Result<(), RowsError> {
    let lengths = maps.clone().map(Iterator::count);
    let (keys, counts): (Vec<_>, Vec<_>) = maps.flatten().unzip();
    columns.push(lists(lengths.clone(), Arc::new(Int32Array::from(keys)), &fields[0])?);
    columns.push(lists(lengths, Arc::new(Int64Array::from(counts)), &fields[1])?);
    Ok(())
}
