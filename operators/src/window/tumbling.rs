//! Tumbling windows over mergeable aggregates: fixed widths, aligned to 1970, each event in exactly one.
//!
//! They have no state. An epoch's records are combined per (key, window) where they were read ([`WindowCombiner`]),
//! merged by the owner of the key ([`MergeLogic`]), and given as what the epoch *added*; the table folds it. So a window
//! is visible while it fills, a late event under [`Late::Correct`] is one more addition, and a crash or another number
//! of workers changes nothing (INV-2, INV-7).

use std::marker::PhantomData;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Probe;
use serde::{Deserialize, Serialize};
use tidemill_dataflow::batch::Order;
use tidemill_dataflow::hash::mix;
use tidemill_dataflow::key::{KeyRef, OwnedKey};
use tidemill_dataflow::key_group::{KeyGroup, group_of, owner};
use tidemill_dataflow::keyed::{Changes, Chunk, DecodeError, Emit, ShardLogic, StateSize};
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark, millis};

use super::{WindowError, check};
use crate::aggregate::Aggregate;

/// What happens to a record whose window was complete before its epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It is added: results are exact however late it comes.
    Correct,
    /// It goes to a stream of its own.
    Side,
    /// It is counted and left out.
    Drop,
}

/// Tumbling windows of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tumbling {
    width: i64,
    late: Late,
}

impl Tumbling {
    /// Windows of this width, in whole milliseconds; late records correct them.
    #[must_use]
    pub fn of(width: Duration) -> Self {
        Tumbling { width: millis(width), late: Late::Correct }
    }

    /// Says what happens to late records.
    #[must_use]
    pub fn late(self, late: Late) -> Self {
        Tumbling { late, ..self }
    }

    /// Refuses a width of zero or of more than 10,000 years.
    ///
    /// # Errors
    /// If the width is one of those.
    pub fn validate(&self) -> Result<(), WindowError> {
        check("the width of a tumbling window", self.width)
    }

    /// The width in milliseconds.
    #[must_use]
    pub fn width(&self) -> i64 {
        self.width
    }

    /// What happens to late records.
    #[must_use]
    pub fn late_policy(&self) -> Late {
        self.late
    }

    /// Whether the window of this time was complete under `before`, the watermark `W(e-1)`.
    #[must_use]
    #[inline]
    pub fn is_late(&self, time: EventTime, before: Watermark) -> bool {
        before.is_some_and(|before| time.window_start(self.width).0.saturating_add(self.width) <= before.0)
    }
}

/// What an epoch added to one window of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRow<P> {
    /// The key.
    pub key: OwnedKey,
    /// The start of the window.
    pub start: EventTime,
    /// The value over the epoch's records.
    pub value: P,
}

/// A window that has records in the epoch.
struct Cell<P> {
    hash: u64,
    row: WindowRow<P>,
}

fn cell_hash(key: u64, start: EventTime) -> u64 {
    mix(key, start.0.cast_unsigned())
}

fn index32(index: usize) -> u32 {
    u32::try_from(index).expect("an epoch has fewer than 2^32 windows on a worker")
}

/// Combines the records of one epoch on the worker that read them.
pub struct WindowCombiner<D, A: Aggregate<D>> {
    aggregate: Rc<A>,
    width: i64,
    /// The window of the last record; the next one is mostly in it too, which saves a division.
    current: EventTime,
    /// Hash of key and window -> index into `cells`.
    index: HashTable<u32>,
    cells: Vec<Cell<A::Partial>>,
    records: PhantomData<fn(&D)>,
}

impl<D, A: Aggregate<D>> WindowCombiner<D, A> {
    /// A combiner for these windows.
    ///
    /// # Panics
    /// If [`Tumbling::validate`] refuses the windows: a plan is checked before any worker starts.
    #[must_use]
    pub fn new(windows: &Tumbling, aggregate: Rc<A>) -> Self {
        windows.validate().expect("a plan with such windows was refused");
        let current = EventTime(0);
        let (index, cells) = (HashTable::new(), Vec::new());
        WindowCombiner { aggregate, width: windows.width, current, index, cells, records: PhantomData }
    }

    /// Adds a record; its key is copied only if it is the first of its window in this epoch.
    #[inline]
    pub fn add(&mut self, key: KeyRef<'_>, time: EventTime, record: &D) {
        if !(0..self.width).contains(&time.0.wrapping_sub(self.current.0)) {
            self.current = time.window_start(self.width);
        }
        let (start, cells) = (self.current, &self.cells);
        let hash = cell_hash(key.hash(), start);
        let is_cell = |cell: &Cell<_>| cell.hash == hash && cell.row.start == start && key.is(&cell.row.key);
        let probe = self.index.entry(hash, |&at| is_cell(&cells[at as usize]), |&at| cells[at as usize].hash);
        let at = match probe {
            Probe::Occupied(found) => *found.get() as usize,
            Probe::Vacant(vacant) => {
                let at = self.cells.len();
                vacant.insert(index32(at));
                let row = WindowRow { key: key.to_owned(), start, value: A::Partial::default() };
                self.cells.push(Cell { hash, row });
                at
            }
        };
        self.aggregate.add(&mut self.cells[at].row.value, record);
    }

    /// How many windows have records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether no record was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Takes the epoch's rows out, parted by the worker that owns their keys; workers that get none get no chunk.
    pub fn drain(&mut self, from: u32, workers: u32) -> Vec<Chunk<WindowRow<A::Partial>>> {
        self.index.clear();
        let mut chunks: Vec<_> =
            (0..workers).map(|dest| Chunk { dest, from, order: Order::default(), rows: Vec::new() }).collect();
        for mut cell in self.cells.drain(..) {
            self.aggregate.finish(&mut cell.row.value);
            chunks[owner(group_of(cell.row.key.hash()), workers) as usize].rows.push(cell.row);
        }
        chunks.retain(|chunk| !chunk.rows.is_empty());
        chunks
    }
}

/// Merges what the workers combined; gives each (key, window) of an epoch once, ordered by window, then key.
pub struct MergeLogic<D, A> {
    aggregate: Rc<A>,
    records: PhantomData<fn(&D)>,
}

impl<D, A: Aggregate<D>> MergeLogic<D, A> {
    /// Merges values of this aggregate.
    #[must_use]
    pub fn new(aggregate: Rc<A>) -> Self {
        MergeLogic { aggregate, records: PhantomData }
    }
}

impl<D: 'static, A: Aggregate<D>> ShardLogic for MergeLogic<D, A> {
    type In = WindowRow<A::Partial>;
    type Out = WindowRow<A::Partial>;
    const STATE_VERSION: u32 = 1;
    const STATEFUL: bool = false;

    fn close_epoch(&mut self, _time: EpochTime, mut input: Vec<Chunk<Self::In>>, out: &mut Emit<Self::Out>) {
        // The rows of one combiner are of different cells; only those of several have to be found in each other.
        let mut rows = input.pop().map(|chunk| chunk.rows).unwrap_or_default();
        if !input.is_empty() {
            let hash = |row: &Self::In| cell_hash(row.key.hash(), row.start);
            let mut index = HashTable::with_capacity(rows.len());
            for (at, row) in rows.iter().enumerate() {
                index.insert_unique(hash(row), index32(at), |&at: &u32| hash(&rows[at as usize]));
            }
            for row in input.into_iter().flat_map(|chunk| chunk.rows) {
                let same = |&at: &u32| rows[at as usize].start == row.start && rows[at as usize].key == row.key;
                match index.entry(hash(&row), same, |&at| hash(&rows[at as usize])) {
                    Probe::Occupied(found) => {
                        self.aggregate.merge(&mut rows[*found.get() as usize].value, row.value);
                    }
                    Probe::Vacant(vacant) => {
                        vacant.insert(index32(rows.len()));
                        rows.push(row);
                    }
                }
            }
        }
        rows.iter_mut().for_each(|row| self.aggregate.finish(&mut row.value));
        rows.sort_unstable_by(|a, b| (a.start, &a.key).cmp(&(b.start, &b.key)));
        out.records.append(&mut rows);
    }

    fn changes(&mut self) -> Option<Changes> {
        None
    }

    fn restore(&mut self, _group: KeyGroup, _section: &[u8]) -> Result<(), DecodeError> {
        Err(DecodeError("a tumbling window has no state, yet a section was stored for it".into()))
    }

    fn restored(&mut self, _watermark: Watermark) {}

    fn fold(_sections: &[&[u8]], _low: Watermark, _oldest: bool) -> Result<Vec<u8>, DecodeError> {
        Err(DecodeError("a tumbling window has no state, yet sections were stored for it".into()))
    }

    fn size(&self) -> StateSize {
        StateSize::default()
    }
}

#[cfg(test)]
mod tests;
