//! The container of unkeyed streams: the records of one block, shared, with a selection.
//!
//! A batch is cloned for every consumer by one reference count; dropping records from it (dedup, late policies)
//! changes the selection and moves nothing. Its [`Order`] says where the records stood in the input, which is what
//! makes "the earlier one wins" the same at any worker count (INV-2).

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use timely::Accountable;

use crate::quarantine::{Origin, Passing, Phase, pass};
use crate::time::Epoch;

/// Where a block of records stood: partition in the order of the source, then offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Order {
    /// The partition's number.
    pub partition: u32,
    /// Offset of the block's first byte (or record) in the partition.
    pub offset: u64,
}

/// Which records of a batch count.
#[derive(Clone, Debug, Default)]
enum Selection {
    #[default]
    All,
    /// All but these row numbers, ascending.
    Except(Arc<[u32]>),
    /// Only these row numbers, ascending.
    Only(Arc<[u32]>),
}

/// The records of one block, in input order.
#[derive(Debug)]
pub struct Batch<D> {
    /// Where the block stood in the input.
    pub order: Order,
    rows: Arc<Vec<D>>,
    selection: Selection,
    /// Which records of the source these are, or were made of.
    origin: Option<Arc<Origin>>,
}

impl<D> Clone for Batch<D> {
    fn clone(&self) -> Self {
        let (rows, selection) = (Arc::clone(&self.rows), self.selection.clone());
        Batch { order: self.order, rows, selection, origin: self.origin.clone() }
    }
}

impl<D> Default for Batch<D> {
    fn default() -> Self {
        Batch::new(Order::default(), Vec::new())
    }
}

impl<D> Batch<D> {
    /// All of `rows`.
    #[must_use]
    pub fn new(order: Order, rows: Vec<D>) -> Self {
        Batch { order, rows: Arc::new(rows), selection: Selection::All, origin: None }
    }

    /// All of `rows`, which a source read there.
    pub(crate) fn read(order: Order, rows: Vec<D>, origin: Arc<Origin>) -> Self {
        Batch { origin: Some(origin), ..Batch::new(order, rows) }
    }

    /// `rows` that were made of the records of this batch.
    pub(crate) fn derive<E>(&self, rows: Vec<E>) -> Batch<E> {
        Batch { origin: self.origin.clone(), ..Batch::new(self.order, rows) }
    }

    /// Where the records came from, if from a source.
    fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// Which record it is, if it is one of a block that was taken apart.
    pub(crate) fn record(&self) -> Option<&Origin> {
        self.origin().filter(|origin| origin.single)
    }

    /// Lets an operator's closures see the records of an epoch, for which `work` stands; see [`pass`].
    pub(crate) fn pass<R>(&self, at: (&'static str, Epoch), work: impl FnMut() -> R) -> Option<R> {
        pass(self.origin(), Phase::Operate, at, work)
    }

    /// To be held while an operator's closures see the records: if one panics, that is noted of them.
    pub(crate) fn passing(&self, operator: &'static str) -> Passing<'_> {
        Passing::new(self.origin(), Phase::Operate, (operator, None))
    }

    /// How many records count.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.selection {
            Selection::All => self.rows.len(),
            Selection::Except(rows) => self.rows.len() - rows.len(),
            Selection::Only(rows) => rows.len(),
        }
    }

    /// Whether no record counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// This batch without the rows in `dropped` (ascending row numbers of the block).
    #[must_use]
    pub fn except(&self, dropped: &[u32]) -> Self {
        let selection = if dropped.is_empty() {
            self.selection.clone()
        } else {
            match &self.selection {
                Selection::All => Selection::Except(Arc::from(dropped)),
                _ => Selection::Only(self.counted().filter(|row| dropped.binary_search(row).is_err()).collect()),
            }
        };
        Batch { selection, ..self.clone() }
    }

    /// The batch of only these rows (ascending row numbers of the block).
    #[must_use]
    pub fn only(&self, rows: Arc<[u32]>) -> Self {
        Batch { selection: Selection::Only(rows), ..self.clone() }
    }

    /// The batch of the records that count and that `keep` says yes to.
    #[must_use]
    pub fn keep(&self, keep: impl Fn(&D) -> bool) -> Self {
        self.only(self.counted().filter(|row| keep(&self.rows[*row as usize])).collect())
    }

    /// The row numbers that count, ascending.
    fn counted(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        let all = 0..u32::try_from(self.rows.len()).expect("a block holds fewer than 2^32 records");
        match &self.selection {
            Selection::All => Box::new(all),
            Selection::Only(rows) => Box::new(rows.iter().copied()),
            Selection::Except(dropped) => Box::new(all.filter(|row| dropped.binary_search(row).is_err())),
        }
    }

    /// Calls `f` with every record that counts, in input order.
    #[inline]
    pub fn for_each(&self, mut f: impl FnMut(&D)) {
        match &self.selection {
            Selection::All => self.rows.iter().for_each(f),
            Selection::Except(dropped) => {
                let mut from = 0;
                for &row in dropped.iter() {
                    self.rows[from..row as usize].iter().for_each(&mut f);
                    from = row as usize + 1;
                }
                self.rows[from..].iter().for_each(f);
            }
            Selection::Only(rows) => rows.iter().for_each(|&row| f(&self.rows[row as usize])),
        }
    }

    /// The record at a row number of the block, whether it counts or not.
    ///
    /// # Panics
    /// If the block has no such row: row numbers come from [`for_each_row`](Batch::for_each_row).
    #[must_use]
    pub fn row(&self, row: u32) -> &D {
        &self.rows[row as usize]
    }

    /// All records of the block if all of them count: then they can be looked at as a slice.
    #[must_use]
    pub fn as_slice(&self) -> Option<&[D]> {
        matches!(self.selection, Selection::All).then_some(self.rows.as_slice())
    }

    /// Calls `f` with row number and record, for every record that counts.
    pub fn for_each_row(&self, mut f: impl FnMut(u32, &D)) {
        if matches!(self.selection, Selection::All) {
            // The usual case, without a call per row number.
            for (row, record) in (0_u32..).zip(self.rows.iter()) {
                f(row, record);
            }
        } else {
            self.counted().for_each(|row| f(row, &self.rows[row as usize]));
        }
    }
}

impl<D: 'static> Accountable for Batch<D> {
    fn record_count(&self) -> i64 {
        // One message is one unit of progress; an empty batch is no message.
        i64::from(!self.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_batch_gives_each_record_to_one_side_in_order() {
        let batch = Batch::new(Order::default(), vec![10, 11, 12, 13, 14]);
        let dropped: Arc<[u32]> = Arc::from([0, 3, 4]);
        let (mut kept, mut rest) = (vec![], vec![]);
        batch.except(&dropped).for_each(|r| kept.push(*r));
        batch.only(dropped).for_each(|r| rest.push(*r));
        assert_eq!((kept, rest), (vec![11, 12], vec![10, 13, 14]));
    }
}
