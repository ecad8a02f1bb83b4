//! The one order of a table's rows: by its sort columns, ties by the whole row.
//!
//! Promise (INV-2, INV-3): two batches with the same multiset of rows come out byte for byte the same, however their
//! rows were ordered before.
//!
//! Rows are encoded into Arrow's comparable row format once. What all rows share at the front (the tenant, the upper
//! bytes of the minute) is skipped, the next sixteen bytes travel with the row number as one integer, and only rows
//! that agree on those compare their encodings.

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

/// The rows of a batch in order, and where equal ones meet.
#[derive(Debug)]
pub struct Sorted {
    /// Row numbers of the batch, in order.
    pub order: Vec<u32>,
    /// Positions in `order` where a run of rows with equal sort columns starts.
    pub runs: Vec<u32>,
}

impl Sorted {
    /// The runs as slices of row numbers of the batch, in order.
    pub fn groups(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.runs.len()).map(|run| {
            let end = self.runs.get(run + 1).map_or(self.order.len(), |&next| next as usize);
            &self.order[self.runs[run] as usize..end]
        })
    }

    /// Whether no two rows are equal in the sort columns.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        self.runs.len() == self.order.len()
    }

    /// Whether the batch was in this order already.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.order.is_sorted()
    }
}

/// Orders the rows of `batch` by the columns at `by`; rows equal in all of them keep no particular order.
///
/// # Errors
/// When a column's type has no order.
pub fn order_by(batch: &RecordBatch, by: &[usize]) -> Result<Sorted, ArrowError> {
    let rows = encode(batch, by)?;
    let mut order: Vec<u32> = Vec::with_capacity(rows.num_rows());
    let mut runs: Vec<u32> = Vec::with_capacity(rows.num_rows());
    for key in sorted_keys(&rows) {
        let starts = order.last().is_none_or(|&last| row(&rows, last) != row(&rows, key.row));
        if starts {
            runs.push(u32::try_from(order.len()).expect("a row number fits, so its position does"));
        }
        order.push(key.row);
    }
    Ok(Sorted { order, runs })
}

/// The rows of `batch` in the table's order: by the columns at `by`, ties by the whole row.
///
/// # Errors
/// When a column's type has no order.
pub fn sort(batch: &RecordBatch, by: &[usize]) -> Result<RecordBatch, ArrowError> {
    let mut sorted = order_by(batch, by)?;
    if !sorted.is_unique() {
        break_ties(batch, &mut sorted)?;
    }
    if sorted.is_identity() {
        return Ok(batch.clone());
    }
    take_record_batch(batch, &UInt32Array::from(sorted.order))
}

/// Orders the rows of every run by all columns.
fn break_ties(batch: &RecordBatch, sorted: &mut Sorted) -> Result<(), ArrowError> {
    let tied: Vec<u32> = sorted.groups().filter(|group| group.len() > 1).flatten().copied().collect();
    let part = take_record_batch(batch, &UInt32Array::from(tied.clone()))?;
    let rows = encode(&part, &(0..part.num_columns()).collect::<Vec<_>>())?;
    // Equal sort columns make a run, and runs follow each other, so each is sorted where it stands.
    let mut taken = 0;
    for run in 0..sorted.runs.len() {
        let start = sorted.runs[run] as usize;
        let end = sorted.runs.get(run + 1).map_or(sorted.order.len(), |&next| next as usize);
        if end - start > 1 {
            let mut members: Vec<usize> = (taken..taken + end - start).collect();
            members.sort_unstable_by(|&a, &b| rows.row(a).cmp(&rows.row(b)));
            for (to, member) in (start..end).zip(members) {
                sorted.order[to] = tied[member];
            }
            taken += end - start;
        }
    }
    Ok(())
}

fn encode(batch: &RecordBatch, by: &[usize]) -> Result<Rows, ArrowError> {
    let columns: Vec<_> = by.iter().map(|&at| std::sync::Arc::clone(batch.column(at))).collect();
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    RowConverter::new(fields)?.convert_columns(&columns)
}

/// Sixteen bytes of a row's encoding, the most significant first, and the row's number.
struct Key {
    front: u128,
    row: u32,
}

fn sorted_keys(rows: &Rows) -> Vec<Key> {
    let count = u32::try_from(rows.num_rows()).expect("a batch of a table holds fewer than 2^32 rows");
    let shared = shared_prefix(rows);
    let mut keys: Vec<Key> =
        (0..count).map(|number| Key { front: front(&row(rows, number)[shared..]), row: number }).collect();
    keys.sort_unstable_by(|a, b| a.front.cmp(&b.front).then_with(|| row(rows, a.row).cmp(row(rows, b.row))));
    keys
}

fn row(rows: &Rows, number: u32) -> &[u8] {
    rows.row(number as usize).data()
}

/// The number of bytes at the front that all rows have in common.
fn shared_prefix(rows: &Rows) -> usize {
    if rows.num_rows() == 0 {
        return 0;
    }
    let first = row(rows, 0);
    rows.iter().fold(first.len(), |shared, other| {
        let other = other.data();
        let shared = shared.min(other.len());
        if first[..shared] == other[..shared] {
            return shared;
        }
        first.iter().zip(other).take_while(|(a, b)| a == b).count()
    })
}

/// The first sixteen bytes as an integer that orders as they do; a shorter row is filled with zeros.
fn front(bytes: &[u8]) -> u128 {
    if let Some(whole) = bytes.first_chunk::<16>() {
        return u128::from_be_bytes(*whole);
    }
    let mut filled = [0; 16];
    filled[..bytes.len()].copy_from_slice(bytes);
    u128::from_be_bytes(filled)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch, StringArray};
    use arrow::compute::{concat_batches, take_record_batch};
    use proptest::prelude::*;

    use super::*;

    fn batch(rows: &[(String, i64)]) -> RecordBatch {
        RecordBatch::try_from_iter([
            ("name", Arc::new(rows.iter().map(|row| Some(row.0.clone())).collect::<StringArray>()) as Arc<dyn Array>),
            ("value", Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int64Array>())),
        ])
        .unwrap()
    }

    proptest! {
        #[test]
        fn order_depends_on_the_rows_alone(
            rows in prop::collection::vec(("[ab\u{0}]{0,24}", -2..3_i64), 0..60),
            seed in any::<u64>(),
        ) {
            let mut expected = rows.clone();
            expected.sort();
            let mut shuffled: Vec<u32> = (0..rows.len()).map(|n| u32::try_from(n).unwrap()).collect();
            shuffled.sort_by_key(|n| (u64::from(*n) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let given = take_record_batch(&batch(&rows), &UInt32Array::from(shuffled)).unwrap();
            prop_assert_eq!(sort(&given, &[0]).unwrap(), batch(&expected));
        }
    }

    #[test]
    fn groups_hold_exactly_the_rows_with_equal_keys() {
        let rows = batch(&[("b".into(), 1), ("a".into(), 2), ("b".into(), 3)]);
        let sorted = order_by(&rows, &[0]).unwrap();
        let mut groups: Vec<Vec<u32>> = sorted.groups().map(<[u32]>::to_vec).collect();
        groups.iter_mut().for_each(|group| group.sort_unstable());
        assert_eq!(groups, [vec![1], vec![0, 2]]);
        assert!(!sorted.is_unique());
    }

    #[test]
    fn a_batch_without_rows_stays_one() {
        let none = batch(&[]);
        assert_eq!(sort(&none, &[0]).unwrap().num_rows(), 0);
        assert_eq!(concat_batches(&none.schema(), [&none]).unwrap(), none);
    }
}
