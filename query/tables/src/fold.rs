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
    let mut sums: Vec<Option<Vec<i128>>> = vec![None; spec.columns.len()];
    let mut folded: Vec<Option<ArrayRef>> = vec![None; spec.columns.len()];
    for at in spec.with_role(Role::Sum) {
        let added = add_up(all.column(at).as_primitive(), &sorted);
        shown.iter_mut().zip(&added).for_each(|(shown, &sum)| *shown |= sum != 0);
        sums[at] = Some(added);
    }
    for at in spec.with_role(Role::UnionCount) {
        let union = unite(all.column(at).as_list(), &sorted)?;
        shown.iter_mut().enumerate().for_each(|(row, shown)| *shown |= union.value_length(row) != 0);
        folded[at] = Some(Arc::new(union));
    }
    let firsts: UInt32Array = sorted.groups().map(|group| group[0]).collect();
    let rows = Spread::of(&shown, &sums);
    let columns = folded
        .into_iter()
        .zip(sums)
        .enumerate()
        .map(|(at, column)| match column {
            (_, Some(added)) => Ok(rows.sums(&added)),
            (Some(lists), None) => rows.once(&lists),
            (None, None) => rows.each(&take(all.column(at), &firsts, None)?),
        })
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(all.schema(), columns)
}

fn add_up(values: &Int64Array, sorted: &Sorted) -> Vec<i128> {
    let values = values.values();
    let sum = |group: &[u32]| group.iter().map(|&row| i128::from(values[row as usize])).sum();
    sorted.groups().map(sum).collect()
}

/// Which rows show the groups: one each, but for sums beyond 64 bits, which are spread over rows that are full but for the
/// last; none for a group that adds nothing.
struct Spread {
    /// For each row its group, counted from 0.
    groups: Vec<u32>,
    groups_in_all: usize,
}

impl Spread {
    fn of(shown: &[bool], sums: &[Option<Vec<i128>>]) -> Spread {
        let group = |at: usize| u32::try_from(at).expect("groups are rows of a batch, which 32 bits number");
        let mut groups = Vec::with_capacity(shown.len());
        for at in (0..shown.len()).filter(|&at| shown[at]) {
            let rows = sums.iter().flatten().map(|column| rows_of(column[at])).max().unwrap_or(1);
            groups.extend((0..rows).map(|_| group(at)));
        }
        Spread { groups, groups_in_all: shown.len() }
    }

    /// A part of each group's sum in each of its rows.
    fn sums(&self, sums: &[i128]) -> ArrayRef {
        let mut left = sums.to_vec();
        let part = |&group: &u32| {
            let left = &mut left[group as usize];
            let part = i64::try_from(*left).unwrap_or(if *left < 0 { i64::MIN } else { i64::MAX });
            *left -= i128::from(part);
            part
        };
        Arc::new(self.groups.iter().map(part).collect::<Int64Array>())
    }

    /// A value for each group in each of its rows.
    fn each(&self, values: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        if self.is_one_each() {
            Ok(Arc::clone(values))
        } else {
            take(values, &UInt32Array::from(self.groups.clone()), None)
        }
    }

    /// A list for each group in the first of its rows, empty lists in the others.
    fn once(&self, lists: &ArrayRef) -> Result<ArrayRef, ArrowError> {
        let lists = self.each(lists)?;
        let again = |row: usize| row > 0 && self.groups[row] == self.groups[row - 1];
        if !(0..self.groups.len()).any(again) {
            return Ok(lists);
        }
        let lists = lists.as_list::<i32>();
        let hashes = lists.values().as_primitive::<UInt64Type>().values();
        let mut once: Vec<u64> = Vec::with_capacity(hashes.len());
        let mut lengths = Vec::with_capacity(self.groups.len());
        for row in 0..self.groups.len() {
            let list = lists.value(row);
            let list = if again(row) { &[] } else { &list.as_primitive::<UInt64Type>().values()[..] };
            once.extend_from_slice(list);
            lengths.push(list.len());
        }
        Ok(Arc::new(hash_lists(lengths, once)))
    }

    fn is_one_each(&self) -> bool {
        self.groups.len() == self.groups_in_all && self.groups.windows(2).all(|pair| pair[0] != pair[1])
    }
}

/// How many rows of 64 bits a sum takes.
fn rows_of(sum: i128) -> usize {
    let full = if sum < 0 { i128::from(i64::MIN) } else { i128::from(i64::MAX) };
    usize::try_from((sum / full + i128::from(sum % full != 0)).max(1)).unwrap_or(usize::MAX)
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
