//! Values per (key, window): combined per epoch where the records were read, merged by the owner of the key.
//!
//! Nothing here is kept from one epoch to the next. An epoch's records are combined per key and slice
//! ([`WindowCombiner`]), merged by the owner of the key ([`MergeLogic`]), and given as what the epoch *added* to each
//! window; the table folds it. So a window is visible while it fills, a late event under [`Late::Correct`] is one more
//! addition, and a crash or another number of workers changes nothing (INV-2, INV-7).

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::rc::Rc;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Found;
use serde::{Deserialize, Serialize};
use tidemill_dataflow::batch::Order;
use tidemill_dataflow::hash::mix;
use tidemill_dataflow::key::{KeyPart, KeyRef, OwnedKey, key};
use tidemill_dataflow::key_group::{KeyGroup, group_of, owner};
use tidemill_dataflow::keyed::{Changes, Chunk, DecodeError, Emit, Probe, Sees, ShardLogic, StateSize};
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark};

use super::assigner::{Assigner, Late};
use super::tumbling::Tumbling;
use crate::aggregate::Aggregate;

/// A value of one window of one key: what an epoch added to it, or, where windows are held until they close, all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowRow<P> {
    /// The key.
    pub key: OwnedKey,
    /// The start of the window.
    pub start: EventTime,
    /// The value over the epoch's records.
    pub value: P,
}

impl<P> WindowRow<P> {
    /// The same row with another value, such as what an author reads from a partial one.
    #[must_use]
    pub fn with<Q>(&self, value: impl FnOnce(&P) -> Q) -> WindowRow<Q> {
        WindowRow { key: self.key.clone(), start: self.start, value: value(&self.value) }
    }
}

/// A slice that has records in the epoch.
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
pub struct WindowCombiner<D, A: Aggregate<D>, W = Tumbling> {
    aggregate: Rc<A>,
    windows: W,
    /// The slice of the last record, and its length; the next record is mostly in it too, which saves a division.
    current: EventTime,
    length: i64,
    /// Hash of key and slice -> index into `cells`.
    index: HashTable<u32>,
    cells: Vec<Cell<A::Partial>>,
    records: PhantomData<fn(&D)>,
}

impl<D, A: Aggregate<D>, W: Assigner> WindowCombiner<D, A, W> {
    /// A combiner for these windows.
    ///
    /// # Panics
    /// If [`Assigner::validate`] refuses the windows: a plan is checked before any worker starts.
    #[must_use]
    pub fn new(windows: &W, aggregate: Rc<A>) -> Self {
        windows.validate().expect("a plan with such windows was refused");
        let (current, length) = windows.slice(EventTime(0));
        let (index, cells) = (HashTable::new(), Vec::new());
        WindowCombiner { aggregate, windows: windows.clone(), current, length, index, cells, records: PhantomData }
    }

    /// Adds a record; its key is copied only if it is the first of its slice in this epoch.
    #[inline]
    pub fn add(&mut self, key: KeyRef<'_>, time: EventTime, record: &D) {
        if !(0..self.length).contains(&time.0.wrapping_sub(self.current.0)) {
            (self.current, self.length) = self.windows.slice(time);
        }
        let (start, cells) = (self.current, &self.cells);
        let hash = cell_hash(key.hash(), start);
        let is_cell = |cell: &Cell<_>| cell.hash == hash && cell.row.start == start && key.is(&cell.row.key);
        let probe = self.index.entry(hash, |&at| is_cell(&cells[at as usize]), |&at| cells[at as usize].hash);
        let at = match probe {
            Found::Occupied(found) => *found.get() as usize,
            Found::Vacant(vacant) => {
                let at = self.cells.len();
                vacant.insert(index32(at));
                let row = WindowRow { key: key.to_owned(), start, value: A::Partial::default() };
                self.cells.push(Cell { hash, row });
                at
            }
        };
        self.aggregate.add(&mut self.cells[at].row.value, record);
    }

    /// How many slices have records; of a tumbling window, how many windows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether no record was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    /// Takes the epoch's slices out, parted by the worker that owns their keys; workers that get none get no chunk.
    pub fn drain(&mut self, from: u32, workers: u32) -> Vec<Chunk<WindowRow<A::Partial>>> {
        self.index.clear();
        let mut chunks = chunks(from, workers);
        for mut cell in self.cells.drain(..) {
            self.aggregate.finish(&mut cell.row.value);
            chunks[owner(group_of(cell.row.key.hash()), workers) as usize].rows.push(cell.row);
        }
        chunks.retain(|chunk| !chunk.rows.is_empty());
        chunks
    }

    /// Takes the epoch's values out per window that is not complete under `shut`, for windows whose values are held: each
    /// is addressed to a place in state of its own, a key whose name ends in the start of the window.
    pub fn drain_windows(&mut self, from: u32, workers: u32, shut: Watermark) -> Vec<Chunk<(OwnedKey, A::Partial)>> {
        self.index.clear();
        let mut rows = self.cells.drain(..).map(|cell| cell.row).collect();
        if W::OVERLAPPING {
            rows = spread(&self.windows, &*self.aggregate, rows, shut);
        }
        let mut chunks = chunks(from, workers);
        for mut row in rows {
            self.aggregate.finish(&mut row.value);
            let cell = cell_key(&row.key, row.start);
            chunks[owner(group_of(cell.hash()), workers) as usize].rows.push((cell, row.value));
        }
        chunks.retain(|chunk| !chunk.rows.is_empty());
        chunks
    }
}

/// An empty chunk for each worker.
fn chunks<R>(from: u32, workers: u32) -> Vec<Chunk<R>> {
    (0..workers).map(|dest| Chunk { dest, from, order: Order::default(), rows: Vec::new() }).collect()
}

/// A name with more bytes behind it.
struct Bytes<'a>(&'a [u8]);

impl<'a> KeyPart<'a> for Bytes<'a> {
    fn bytes(&self) -> &'a [u8] {
        self.0
    }
}

const START: usize = size_of::<i64>();

/// The place in state of one window of a key: a key whose name ends in the start of the window. Its hash is one of its
/// own, so the windows of a hot key are spread over the workers.
pub(crate) fn cell_key(of: &OwnedKey, start: EventTime) -> OwnedKey {
    let (tenant, name) = of.parts();
    let mut cell = Vec::with_capacity(name.len() + START);
    cell.extend_from_slice(name);
    cell.extend_from_slice(&start.0.to_be_bytes());
    key(Bytes(tenant), Bytes(&cell)).to_owned()
}

/// Key and window of a place in state.
pub(crate) fn of_cell(cell: &OwnedKey) -> (OwnedKey, EventTime) {
    let (tenant, name) = cell.parts();
    let (name, start) = name.split_last_chunk::<START>().expect("the key of a cell ends in the start of its window");
    (key(Bytes(tenant), Bytes(name)).to_owned(), EventTime(i64::from_be_bytes(*start)))
}

/// The rows, and each of `others` merged into the row of its key and start. Rows are of different cells.
fn merged<D, A: Aggregate<D>>(
    aggregate: &A,
    mut rows: Vec<WindowRow<A::Partial>>,
    others: impl Iterator<Item = WindowRow<A::Partial>>,
) -> Vec<WindowRow<A::Partial>> {
    let hash = |row: &WindowRow<_>| cell_hash(row.key.hash(), row.start);
    let mut index = HashTable::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        index.insert_unique(hash(row), index32(at), |&at: &u32| hash(&rows[at as usize]));
    }
    for row in others {
        let same = |&at: &u32| rows[at as usize].start == row.start && rows[at as usize].key == row.key;
        match index.entry(hash(&row), same, |&at| hash(&rows[at as usize])) {
            Found::Occupied(found) => aggregate.merge(&mut rows[*found.get() as usize].value, row.value),
            Found::Vacant(vacant) => {
                vacant.insert(index32(rows.len()));
                rows.push(row);
            }
        }
    }
    rows
}

/// The windows of some slices, without those that were complete under `shut`.
fn spread<D, A: Aggregate<D>, W: Assigner>(
    windows: &W,
    aggregate: &A,
    slices: Vec<WindowRow<A::Partial>>,
    shut: Watermark,
) -> Vec<WindowRow<A::Partial>> {
    let of_slice = |slice: WindowRow<A::Partial>| {
        let open = windows.windows(slice.start).take_while(move |&start| !windows.is_complete(start, shut));
        open.map(move |start| WindowRow { start, ..slice.clone() })
    };
    merged(aggregate, Vec::new(), slices.into_iter().flat_map(of_slice))
}

/// Merges what the workers combined; gives each (key, window) of an epoch once, ordered by window, then key.
pub struct MergeLogic<D, A, W = Tumbling> {
    aggregate: Rc<A>,
    windows: W,
    records: PhantomData<fn(&D)>,
}

impl<D, A: Aggregate<D>, W: Assigner> MergeLogic<D, A, W> {
    /// Merges values of this aggregate in these windows.
    #[must_use]
    pub fn new(windows: &W, aggregate: Rc<A>) -> Self {
        MergeLogic { aggregate, windows: windows.clone(), records: PhantomData }
    }

    /// The rows of windows, each in its final form, of rows of different cells.
    fn finished(&self, mut rows: Vec<WindowRow<A::Partial>>, time: EpochTime) -> Vec<WindowRow<A::Partial>> {
        if W::OVERLAPPING {
            let shut = if self.windows.late_policy() == Late::Correct { None } else { time.before };
            rows = spread(&self.windows, &*self.aggregate, rows, shut);
        }
        rows.iter_mut().for_each(|row| self.aggregate.finish(&mut row.value));
        rows
    }
}

fn give<P>(mut rows: Vec<WindowRow<P>>, out: &mut Emit<WindowRow<P>>) {
    rows.sort_unstable_by(|a, b| (a.start, &a.key).cmp(&(b.start, &b.key)));
    out.records.append(&mut rows);
}

impl<D: 'static, A: Aggregate<D>, W: Assigner> ShardLogic for MergeLogic<D, A, W> {
    type In = WindowRow<A::Partial>;
    type Out = WindowRow<A::Partial>;
    const STATE_VERSION: u32 = 1;
    const STATEFUL: bool = false;

    fn close_epoch(&mut self, time: EpochTime, mut input: Vec<Chunk<Self::In>>, out: &mut Emit<Self::Out>) {
        // The rows of one combiner are of different cells; only those of several have to be found in each other.
        let mut rows = input.pop().map(|chunk| chunk.rows).unwrap_or_default();
        if !input.is_empty() {
            rows = merged(&*self.aggregate, rows, input.into_iter().flat_map(|chunk| chunk.rows));
        }
        give(self.finished(rows, time), out);
    }

    fn close_probed(
        &mut self,
        time: EpochTime,
        input: Vec<Chunk<Self::In>>,
        out: &mut Emit<Self::Out>,
        probe: &mut Probe<'_>,
    ) {
        let mut by_key = BTreeMap::<OwnedKey, Vec<(usize, WindowRow<_>)>>::new();
        for (number, chunk) in input.into_iter().enumerate() {
            chunk.rows.into_iter().for_each(|row| by_key.entry(row.key.clone()).or_default().push((number, row)));
        }
        let whole = |rows: &[(usize, WindowRow<A::Partial>)]| {
            let rows = rows.iter().map(|(_, row)| row.clone());
            self.finished(merged(&*self.aggregate, Vec::new(), rows), time)
        };
        let kept = by_key
            .into_values()
            .filter_map(|mut rows| probe.without_panics(&mut rows, (Sees::Together, false), &whole));
        give(kept.flatten().collect(), out);
    }

    fn changes(&mut self) -> Option<Changes> {
        None
    }

    fn restore(&mut self, _group: KeyGroup, _section: &[u8]) -> Result<(), DecodeError> {
        Err(DecodeError("a window that emits deltas has no state, yet a section was stored for it".into()))
    }

    fn restored(&mut self, _watermark: Watermark) {}

    fn fold(_sections: &[&[u8]], _low: Watermark, _oldest: bool) -> Result<Vec<u8>, DecodeError> {
        Err(DecodeError("a window that emits deltas has no state, yet sections were stored for it".into()))
    }

    fn size(&self) -> StateSize {
        StateSize::default()
    }
}
