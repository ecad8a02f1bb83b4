//! Where the rows of an epoch are cut into inserts.
//!
//! Promise (INV-3): the cuts depend on the rows and the limits alone. No chunk touches more partitions than the server
//! takes at once, and what belongs together (a session's retraction and its assertion) is never cut apart.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::{partition, take_record_batch};
use arrow::datatypes::TimestampMillisecondType;
use arrow::error::ArrowError;
use tidemill_tables::{Fold, Role, TableSpec};

use crate::ddl::SIGNED_PARTITIONS;

const DAY_MS: i64 = 86_400_000;

/// The largest insert. Part of the format: other limits cut an epoch that is written again elsewhere, and its tokens no
/// longer say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkLimits {
    /// Rows.
    pub rows: usize,
    /// Bytes before compression, about; a single row may be larger.
    pub bytes: usize,
    /// Days of event time, each of which may be a partition; the server takes 100 by default.
    pub days: usize,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self { rows: 65_536, bytes: 32 << 20, days: 90 }
    }
}

/// One insert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) rows: Range<usize>,
    /// The most partitions that it touches.
    pub(crate) partitions: usize,
}

/// Puts the rows into the order in which they are cut: by day where they lie on more days than one insert may touch, so
/// that each day is in as few inserts as possible; as they are otherwise.
pub(crate) fn arrange(spec: &TableSpec, rows: RecordBatch, limits: ChunkLimits) -> Result<RecordBatch, ArrowError> {
    if spec.fold == Fold::Signed {
        return Ok(rows);
    }
    let days = days(spec, &rows);
    if days.iter().collect::<BTreeSet<_>>().len() <= limits.days {
        return Ok(rows);
    }
    let count = u32::try_from(rows.num_rows()).map_err(|_| ArrowError::OffsetOverflowError(rows.num_rows()))?;
    let mut order: Vec<u32> = (0..count).collect();
    order.sort_by_key(|&row| days[row as usize]);
    take_record_batch(&rows, &UInt32Array::from(order))
}

/// Cuts arranged rows; `row_bytes` is about how long a row is when it is sent.
pub(crate) fn cut(
    spec: &TableSpec,
    rows: &RecordBatch,
    limits: ChunkLimits,
    row_bytes: impl Fn(usize) -> usize,
) -> Result<Vec<Chunk>, ArrowError> {
    let signed = spec.fold == Fold::Signed;
    let days = if signed { Vec::new() } else { days(spec, rows) };
    // Rows that stay together: those of a key where rows are taken back, else each by itself.
    let groups: Vec<Range<usize>> = if signed {
        let keys: Vec<_> = spec.with_role(Role::Key).map(|at| Arc::clone(rows.column(at))).collect();
        partition(&keys)?.ranges()
    } else {
        (0..rows.num_rows()).map(|row| row..row + 1).collect()
    };
    let mut chunks = Vec::new();
    let (mut start, mut bytes, mut touched) = (0, 0, BTreeSet::new());
    for group in groups {
        let more: usize = group.clone().map(&row_bytes).sum();
        let day = days.get(group.start).copied();
        let new_day = day.is_some_and(|day| !touched.contains(&day));
        let full = group.end - start > limits.rows
            || bytes + more > limits.bytes
            || (new_day && touched.len() >= limits.days.max(1));
        if full && group.start > start {
            chunks.push(chunk(start..group.start, signed, &touched));
            (start, bytes) = (group.start, 0);
            touched.clear();
        }
        bytes += more;
        touched.extend(day);
    }
    if start < rows.num_rows() {
        chunks.push(chunk(start..rows.num_rows(), signed, &touched));
    }
    Ok(chunks)
}

fn chunk(rows: Range<usize>, signed: bool, touched: &BTreeSet<i64>) -> Chunk {
    let partitions = if signed { SIGNED_PARTITIONS.min(rows.len()) } else { touched.len() };
    Chunk { rows, partitions }
}

/// The day of each row's event time; where a table has months instead, days are at least as many.
fn days(spec: &TableSpec, rows: &RecordBatch) -> Vec<i64> {
    let times = rows.column(spec.time).as_primitive::<TimestampMillisecondType>();
    times.values().iter().map(|ms| ms.div_euclid(DAY_MS)).collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int8Array, Int64Array, StringArray, TimestampMillisecondArray};
    use proptest::prelude::*;
    use tidemill_tables::web_analytics;

    use super::*;

    fn revenue(rows: &[(String, i64)]) -> RecordBatch {
        let spec = web_analytics::revenue_by_minute();
        let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.1));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.0))),
            Arc::new(times.with_timezone("UTC")),
            Arc::new(StringArray::from(vec!["EUR"; rows.len()])),
            Arc::new(Int64Array::from(vec![1; rows.len()])),
            Arc::new(Int64Array::from(vec![1; rows.len()])),
        ];
        RecordBatch::try_new(spec.stored_schema(), columns).unwrap()
    }

    proptest! {
        #[test]
        fn chunks_hold_every_row_once_within_the_limits(
            rows in prop::collection::vec(("[ab]", (0_i64..40).prop_map(|day| day * DAY_MS + 5)), 1..200),
            limits in (1_usize..50, 1_usize..12).prop_map(|(rows, days)| ChunkLimits { rows, bytes: 400, days }),
        ) {
            let spec = web_analytics::revenue_by_minute();
            let arranged = arrange(&spec, revenue(&rows), limits).unwrap();
            let chunks = cut(&spec, &arranged, limits, |_| 20).unwrap();
            let mut next = 0;
            let days = days(&spec, &arranged);
            for chunk in &chunks {
                prop_assert_eq!(chunk.rows.start, next);
                prop_assert!(!chunk.rows.is_empty() && chunk.rows.len() <= limits.rows.min(20));
                let touched = days[chunk.rows.clone()].iter().collect::<BTreeSet<_>>().len();
                prop_assert_eq!(chunk.partitions, touched);
                prop_assert!(touched <= limits.days);
                next = chunk.rows.end;
            }
            prop_assert_eq!(next, rows.len());
        }
    }

    #[test]
    fn a_session_is_never_cut_from_its_retraction() {
        let spec = web_analytics::sessions();
        let users = ["a", "a", "b", "b", "b", "c"];
        let time =
            |ms: i64| -> ArrayRef { Arc::new(TimestampMillisecondArray::from(vec![ms; 6]).with_timezone("UTC")) };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec!["t"; 6])),
            Arc::new(StringArray::from(users.to_vec())),
            time(0),
            time(1),
            Arc::new(Int64Array::from(vec![1, 2, 1, 2, 3, 1])),
            Arc::new(Int8Array::from(vec![-1, 1, -1, -1, 1, 1])),
        ];
        let rows = RecordBatch::try_new(spec.stored_schema(), columns).unwrap();
        let limits = ChunkLimits { rows: 3, ..ChunkLimits::default() };
        let ranges: Vec<_> = cut(&spec, &rows, limits, |_| 1).unwrap().into_iter().map(|chunk| chunk.rows).collect();
        assert_eq!(ranges, [0..2, 2..5, 5..6]);
    }
}
