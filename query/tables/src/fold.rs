//! Folding: many batches of one table become the smallest batch that means the same, sorted.
//!
//! Laws: `fold(fold(a), fold(b)) == fold(a ++ b)`, and the order of rows and batches does not matter (INV-2). So files
//! may be rolled in any grouping, and what a reader folds from small files equals what it folds from rolled ones.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, Int64Array, ListArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, Int8Type, UInt64Type};
use arrow::error::ArrowError;

use crate::sort::{Sorted, order_by, sort};
use crate::spec::{Fold, Role, TableSpec, hash_lists};

/// Why batches could not be folded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FoldError {
    /// A batch does not have the stored schema of the table.
    #[error("a batch for table {table} has {found}, the table stores {expected}; write it with the table's schema")]
    Schema {
        /// The table.
        table: String,
        /// What the batch has.
        found: String,
        /// What the table stores.
        expected: String,
    },
    /// Arrow could not do it: more than 2^31 bytes or hashes in one column, in practice.
    #[error("table {table} could not be folded; fold fewer rows at a time")]
    Arrow {
        /// The table.
        table: String,
        /// What Arrow says.
        #[source]
        source: ArrowError,
    },
}

/// Folds batches in the stored schema of `spec` into one sorted batch in the same schema.
///
/// [`Fold::Append`] keeps every row; [`Fold::Deltas`] has one row a key and drops only rows that add nothing;
/// [`Fold::Signed`] keeps the net sign of each row and drops those that cancel.
///
/// # Errors
/// When a batch has another schema, or a column outgrows Arrow's 32-bit offsets.
pub fn fold(spec: &TableSpec, batches: &[RecordBatch]) -> Result<RecordBatch, FoldError> {
    for batch in batches {
        check(spec, batch)?;
    }
    let arrow = |source| FoldError::Arrow { table: spec.name.clone(), source };
    let schema = spec.stored_schema();
    let all = match batches {
        [one] => RecordBatch::try_new(schema, one.columns().to_vec()).map_err(arrow)?,
        many => concat_batches(&schema, many).map_err(arrow)?,
    };
    match spec.fold {
        Fold::Append => sort(&all, &spec.sort_by),
        Fold::Deltas => fold_deltas(spec, &all),
        Fold::Signed => fold_signed(spec, &all),
    }
    .map_err(arrow)
}

/// Whether a batch has exactly the columns that the table stores.
///
/// # Errors
/// [`FoldError::Schema`] when it does not.
pub fn check(spec: &TableSpec, batch: &RecordBatch) -> Result<(), FoldError> {
    let stored = || spec.columns.iter().map(|column| (column.name.as_str(), &column.stored));
    let schema = batch.schema_ref();
    let found = || schema.fields().iter().map(|field| (field.name().as_str(), field.data_type()));
    if stored().eq(found()) {
        return Ok(());
    }
    Err(FoldError::Schema {
        table: spec.name.clone(),
        found: describe(&mut found()),
        expected: describe(&mut stored()),
    })
}

fn describe(columns: &mut dyn Iterator<Item = (&str, &DataType)>) -> String {
    let columns: Vec<String> = columns.map(|(name, data_type)| format!("{name} {data_type}")).collect();
    format!("({})", columns.join(", "))
}

fn fold_deltas(spec: &TableSpec, all: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let sorted = order_by(all, &spec.sort_by)?;
    let mut shown = vec![false; sorted.runs.len()];
    let mut folded: Vec<Option<ArrayRef>> = vec![None; spec.columns.len()];
    for at in spec.with_role(Role::Sum) {
        let sums = add_up(all.column(at).as_primitive(), &sorted);
        shown.iter_mut().zip(&sums).for_each(|(shown, &sum)| *shown |= sum != 0);
        folded[at] = Some(Arc::new(Int64Array::from(sums)));
    }
    for at in spec.with_role(Role::UnionCount) {
        let union = unite(all.column(at).as_list(), &sorted)?;
        shown.iter_mut().enumerate().for_each(|(row, shown)| *shown |= union.value_length(row) != 0);
        folded[at] = Some(Arc::new(union));
    }
    let firsts: UInt32Array = sorted.groups().map(|group| group[0]).collect();
    let columns = folded
        .into_iter()
        .enumerate()
        .map(|(at, column)| column.map_or_else(|| take(all.column(at), &firsts, None), Ok))
        .collect::<Result<Vec<_>, _>>()?;
    let rows = RecordBatch::try_new(all.schema(), columns)?;
    if shown.iter().all(|&shown| shown) {
        return Ok(rows);
    }
    arrow::compute::filter_record_batch(&rows, &shown.into())
}

fn add_up(values: &Int64Array, sorted: &Sorted) -> Vec<i64> {
    let values = values.values();
    let sum = |group: &[u32]| group.iter().fold(0_i64, |sum, &row| sum.wrapping_add(values[row as usize]));
    sorted.groups().map(sum).collect()
}

/// For each group the union of its lists, ascending.
fn unite(lists: &ListArray, sorted: &Sorted) -> Result<ListArray, ArrowError> {
    let hashes = lists.values().as_primitive::<UInt64Type>().values();
    let offsets = lists.value_offsets();
    let list = |row: u32| {
        let bound = |at: usize| usize::try_from(offsets[at]).expect("Arrow keeps list offsets at or above zero");
        &hashes[bound(row as usize)..bound(row as usize + 1)]
    };
    let mut united: Vec<u64> = Vec::with_capacity(hashes.len());
    let mut lengths: Vec<usize> = Vec::with_capacity(sorted.runs.len());
    let mut gathered: Vec<u64> = Vec::new();
    for group in sorted.groups() {
        let start = united.len();
        if let [row] = *group
            && list(row).is_sorted_by(|a, b| a < b)
        {
            united.extend_from_slice(list(row));
        } else {
            gathered.clear();
            group.iter().for_each(|&row| gathered.extend_from_slice(list(row)));
            gathered.sort_unstable();
            gathered.dedup();
            united.extend_from_slice(&gathered);
        }
        lengths.push(united.len() - start);
    }
    i32::try_from(united.len()).map_err(|_| ArrowError::OffsetOverflowError(united.len()))?;
    Ok(hash_lists(lengths, united))
}

/// A net sign beyond `i8` is spread over rows that are full but for the last, so that nothing is lost.
fn fold_signed(spec: &TableSpec, all: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let sorted = order_by(all, &spec.sort_by)?;
    let Some(sign_at) = spec.with_role(Role::Sign).next() else {
        return Err(ArrowError::SchemaError(format!("table {} folds by sign but has no such column", spec.name)));
    };
    let signs = all.column(sign_at).as_primitive::<Int8Type>().values();
    let mut rows: Vec<u32> = Vec::new();
    let mut nets: Vec<i8> = Vec::new();
    for group in sorted.groups() {
        let mut net: i64 = group.iter().map(|&row| i64::from(signs[row as usize])).sum();
        while net != 0 {
            let part = i8::try_from(net.clamp(-127, 127)).expect("a number clamped to 127 is an i8");
            rows.push(group[0]);
            nets.push(part);
            net -= i64::from(part);
        }
    }
    let rows = UInt32Array::from(rows);
    let nets: ArrayRef = Arc::new(Int8Array::from(nets));
    let columns = (0..spec.columns.len())
        .map(|at| if at == sign_at { Ok(Arc::clone(&nets)) } else { take(all.column(at), &rows, None) })
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(all.schema(), columns)
}

#[cfg(test)]
mod tests;
