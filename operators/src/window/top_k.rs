//! The most frequent items of each window, exactly: counts of all items in state, the ranking as signed changes.
//!
//! No bounded value of parts of the records decides an exact ranking, so this is no aggregate: the owner of a (key,
//! window) counts every item that it has, and each epoch gives what changed in the first `n` places: rows that are not
//! true any more retracted, the new ones asserted. Folding the signs of equal rows gives the ranking of all records,
//! however they were ordered and cut into epochs (INV-2). Of items with one count the one with the smaller bytes comes
//! first. State leaves when the window cannot change any more; what was shown last remains.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::keyed::{Emit, Keep, KeyedLogic};
use tidemill_dataflow::stream::{Stream, TimedStream};
use tidemill_dataflow::time::{EpochTime, EventTime};

use super::assigner::Assigner;
use super::cells::of_cell;
use super::windowed::Windowed;
use crate::aggregate::Aggregate;
use crate::emission::{Held, hold};

/// The bytes of an item.
type Item = Box<[u8]>;

/// How often each item came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemCounts(BTreeMap<Item, i64>);

/// Counts items on the sending worker: the aggregate behind a ranking, which holds every item and so has no bound.
#[derive(Clone, Copy, Debug)]
pub struct CountItems<F> {
    item: F,
    places: u32,
}

impl<F> CountItems<F> {
    /// Counts an item of each record, for a ranking of this many places.
    #[must_use]
    pub fn new(item: F, places: u32) -> Self {
        CountItems { item, places }
    }
}

impl<D, F> Aggregate<D> for CountItems<F>
where
    F: for<'a> Fn(&'a D) -> &'a [u8] + 'static,
{
    type Partial = ItemCounts;

    fn name(&self) -> String {
        "items".into()
    }

    fn add(&self, partial: &mut ItemCounts, record: &D) {
        let item = (self.item)(record);
        match partial.0.get_mut(item) {
            Some(count) => *count += 1,
            None => drop(partial.0.insert(item.into(), 1)),
        }
    }

    fn merge(&self, into: &mut ItemCounts, from: ItemCounts) {
        from.0.into_iter().for_each(|(item, count)| *into.0.entry(item).or_default() += count);
    }

    fn finish(&self, _partial: &mut ItemCounts) {}

    fn problems(&self, report: &mut dyn FnMut(String)) {
        if self.places == 0 {
            report("a ranking of 0 places shows nothing: ask for at least one".into());
        }
    }
}

/// A place of a ranking that is retracted (`sign` -1) or asserted (`sign` 1); a table sums the signs of equal rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RankChange {
    /// The key.
    pub key: OwnedKey,
    /// The start of the window.
    pub start: EventTime,
    /// The place, counted from 1.
    pub rank: u32,
    /// The bytes of the item.
    pub item: Vec<u8>,
    /// How often it came.
    pub count: i64,
    /// 1 or -1.
    pub sign: i8,
}

/// What is kept of a window that can change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranking {
    start: EventTime,
    counts: BTreeMap<Item, i64>,
    /// What was shown: the first places.
    shown: Vec<(Item, i64)>,
    /// Heap bytes of `counts`, about.
    counts_bytes: usize,
}

/// What an item takes in a map, beside its bytes.
const ENTRY: usize = 2 * size_of::<(Item, i64)>();

/// The ranking of each window; run it with `PerKey`. Its state is version 1.
#[derive(Clone, Debug)]
pub struct TopKLogic<W> {
    held: Held<W>,
    places: u32,
}

impl<W: Assigner> TopKLogic<W> {
    /// The first `places` of these windows.
    #[must_use]
    pub fn new(held: Held<W>, places: u32) -> Self {
        TopKLogic { held, places }
    }

    /// Adds the counts of an epoch; gives the new first places.
    fn count(&self, state: &mut Ranking, records: &mut Vec<ItemCounts>) -> Vec<(Item, i64)> {
        let mut touched = Vec::new();
        for (item, n) in records.drain(..).flat_map(|counts| counts.0) {
            if let Some(count) = state.counts.get_mut(&item) {
                *count += n;
            } else {
                state.counts_bytes += item.len() + ENTRY;
                state.counts.insert(item.clone(), n);
            }
            touched.push(item);
        }
        // Counts only grow: who was not among the first and has not grown is not among them now. But if fewer were shown
        // than there is room for, since an earlier build had fewer places, it may be any.
        let mut ranked: Vec<_> = if state.shown.len() < state.counts.len().min(self.places as usize) {
            state.counts.iter().map(|(item, count)| (item, *count)).collect()
        } else {
            let candidates = touched.iter().chain(state.shown.iter().map(|(item, _)| item));
            candidates.map(|item| (item, state.counts[item])).collect()
        };
        ranked.sort_unstable_by(|a, b| (b.1, a.0).cmp(&(a.1, b.0)));
        ranked.dedup();
        ranked.into_iter().take(self.places as usize).map(|(item, count)| (item.clone(), count)).collect()
    }
}

impl<W: Assigner> KeyedLogic for TopKLogic<W> {
    type In = ItemCounts;
    type State = Ranking;
    type Out = RankChange;
    const STATE_VERSION: u32 = 1;

    fn on_epoch(
        &self,
        cell: &OwnedKey,
        state: &mut Ranking,
        records: &mut Vec<ItemCounts>,
        time: EpochTime,
        out: &mut Emit<RankChange>,
    ) -> Keep {
        if !records.is_empty() {
            let (key, start) = of_cell(cell);
            state.start = start;
            let first = self.count(state, records);
            for (these, those, sign) in [(&state.shown, &first, -1), (&first, &state.shown, 1)] {
                for (rank, (at, place)) in (1..).zip(these.iter().enumerate()) {
                    if those.get(at) != Some(place) {
                        let (item, count) = (place.0.to_vec(), place.1);
                        out.give(RankChange { key: key.clone(), start, rank, item, count, sign });
                    }
                }
            }
            state.shown = first;
        }
        self.held.keep(state.start, time.after)
    }

    fn deadline(&self, state: &Ranking) -> Option<EventTime> {
        Some(self.held.leaves_at(state.start))
    }

    fn heap_bytes(&self, state: &Ranking) -> usize {
        let shown: usize = state.shown.iter().map(|(item, _)| item.len()).sum();
        state.counts_bytes + shown + state.shown.capacity() * size_of::<(Item, i64)>()
    }
}

impl<'s, D: Send + Sync + 'static, W: Assigner> Windowed<'s, D, W> {
    /// The `places` most frequent items of each window, current in each epoch, as signed changes. A window can change, and
    /// the counts of all its items are held in state, until the watermark is `correctable_for` past its end.
    ///
    /// ```
    /// use tidemill_dataflow::key::key;
    /// use tidemill_dataflow::stream::TimedStream;
    /// use tidemill_dataflow::time::{hours, minutes};
    /// use tidemill_operators::stream::KeyedStreamOps;
    /// use tidemill_operators::window::tumbling::{Late, Tumbling};
    ///
    /// struct View {
    ///     shop: String,
    ///     page: String,
    /// }
    ///
    /// /// The ten most viewed pages of each shop and hour.
    /// fn top_pages(views: TimedStream<'_, View>) {
    ///     views
    ///         .key_by(|v| key("default", v.shop.as_str()))
    ///         .window("top_pages", Tumbling::of(hours(1)).late(Late::Drop))
    ///         .top_k(10, |v| v.page.as_bytes(), minutes(10))
    ///         .inspect(|change| drop((change.start, change.rank, change.count, change.sign)));
    /// }
    /// ```
    pub fn top_k(
        self,
        places: u32,
        item: impl for<'a> Fn(&'a D) -> &'a [u8] + 'static,
        correctable_for: Duration,
    ) -> Stream<'s, RankChange> {
        self.top_k_and_late(places, item, correctable_for).0
    }

    /// The same, and the late records of [`Late::Side`](super::assigner::Late::Side).
    pub fn top_k_and_late(
        self,
        places: u32,
        item: impl for<'a> Fn(&'a D) -> &'a [u8] + 'static,
        correctable_for: Duration,
    ) -> (Stream<'s, RankChange>, TimedStream<'s, D>) {
        let parameters = format!(" {places}");
        let logic = |held| TopKLogic::new(held, places);
        hold(self, correctable_for, ("top", &parameters), Rc::new(CountItems::new(item, places)), logic)
    }
}

#[cfg(test)]
mod tests;
