//! What a view is computed from, by key: the rows that are in the collection, and those that are not yet.
//!
//! A retraction takes back an insertion, so no row is ever there less than zero times: see [`Retain`] for which. One that
//! came before its insertion waits for it. That is settled once an epoch over all its records as a multiset, so it depends
//! neither on their order nor on who sent them (INV-2), and what is left of it is counts of rows, which are state (INV-7).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Bound;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::driver::Change;
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::keyed::{Emit, Keep, KeyedLogic};
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark, millis};

use super::Row;
use crate::window::{WindowError, check};

/// How long a row is in the collection.
///
/// A row that a record inserts is there until it is retracted or its time is over; of equal rows each insertion has its own
/// time. What a record whose own time is over would change is counted as `expired`, whether it inserts or retracts.
///
/// **A retraction** of a row takes back as many insertions of an equal row under the same key, at once, also while they
/// wait: those of its own event time, and where there are fewer, the oldest of those that are kept. What finds none yet
/// waits for an insertion that comes later, and shows nowhere meanwhile, so a row is never there less than zero times; it is
/// counted as `unmatched` when its own time is over. So a retraction that has the event time of its insertion takes back
/// exactly that one, whichever of the two is read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retain(Span);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Span {
    Last(i64),
    AtLeast(i64),
    Forever,
}

impl Retain {
    /// While the row's event time is within the last `span` as of the watermark: from when `W(e)` reaches its time until
    /// `W(e)` reaches its time plus `span`. Rows ahead of the watermark wait. So the collection is a function of what was
    /// read and of `W(e)`.
    #[must_use]
    pub fn last(span: Duration) -> Self {
        Retain(Span::Last(millis(span)))
    }

    /// From the epoch in which it comes until `W(e-1)` reaches its event time plus `span`: for views whose changes are
    /// [frozen](super::View::frozen_after), which is also judged by `W(e-1)`. The span bounds the state.
    #[must_use]
    pub fn at_least(span: Duration) -> Self {
        Retain(Span::AtLeast(millis(span)))
    }

    /// Until it is retracted: for collections that bound themselves, such as a table of customers.
    #[must_use]
    pub fn forever() -> Self {
        Retain(Span::Forever)
    }

    /// Refuses a span of zero or of more than 10,000 years.
    ///
    /// # Errors
    /// If the span is one of those.
    pub fn validate(&self) -> Result<(), WindowError> {
        match self.0 {
            Span::Last(span) | Span::AtLeast(span) => check("the time that a view keeps rows", span),
            Span::Forever => Ok(()),
        }
    }

    /// What the rows that are kept mean: what became of them so far, for the next build.
    pub(super) fn meaning(self) -> &'static str {
        match self.0 {
            Span::Last(_) => "rows of the last span",
            Span::AtLeast(_) => "rows kept for a span",
            Span::Forever => "rows kept until retracted",
        }
    }

    /// Whether the time of a row is over under `before`, the watermark `W(e-1)`.
    pub(super) fn is_over(self, time: EventTime, before: Watermark) -> bool {
        Some(self.leaves(time)) <= before
    }

    /// The time under which a row is kept: one for all where none of them matters, so that a retraction finds its row.
    fn filed(self, time: EventTime) -> EventTime {
        if self.0 == Span::Forever { EventTime(0) } else { time }
    }

    /// Rows up to the first time have come in when the epoch is closed; those whose time plus span is at or before the
    /// second have left.
    fn bounds(self, time: EpochTime) -> (Watermark, Watermark) {
        match self.0 {
            Span::Last(_) => (time.after, time.after),
            Span::AtLeast(_) => (Some(EventTime::MAX), time.before),
            Span::Forever => (Some(EventTime::MAX), None),
        }
    }

    /// When a row of this time leaves.
    fn leaves(self, time: EventTime) -> EventTime {
        match self.0 {
            Span::Last(span) | Span::AtLeast(span) => EventTime(time.0.saturating_add(span)),
            Span::Forever => EventTime::MAX,
        }
    }
}

impl fmt::Display for Retain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Span::Last(span) => write!(f, "rows of the last {span} ms"),
            Span::AtLeast(span) => write!(f, "rows kept for {span} ms"),
            Span::Forever => write!(f, "rows kept until retracted"),
        }
    }
}

/// The rows of a key, by event time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Stored<V>")]
pub struct Kept<V: Ord + Clone> {
    /// How many of each row; never 0. Below it: retractions that wait for their insertions, which the collection does not
    /// show.
    rows: BTreeMap<EventTime, BTreeMap<V, i64>>,
    /// How many different ones.
    len: u64,
    /// Rows up to this time are in the collection, later ones wait.
    entered: Watermark,
    /// The rows of which retractions wait, and from when these are: told from `rows`, so not stored.
    #[serde(skip_serializing)]
    owed: BTreeMap<V, BTreeSet<EventTime>>,
}

/// What is stored of [`Kept`].
#[derive(Deserialize)]
struct Stored<V: Ord> {
    rows: BTreeMap<EventTime, BTreeMap<V, i64>>,
    len: u64,
    entered: Watermark,
}

impl<V: Ord + Clone> From<Stored<V>> for Kept<V> {
    fn from(Stored { rows, len, entered }: Stored<V>) -> Self {
        let mut owed = BTreeMap::<V, BTreeSet<EventTime>>::new();
        for (time, of) in &rows {
            for (row, _) in of.iter().filter(|(_, n)| **n < 0) {
                owed.entry(row.clone()).or_default().insert(*time);
            }
        }
        Kept { rows, len, entered, owed }
    }
}

impl<V: Ord + Clone> Default for Kept<V> {
    fn default() -> Self {
        Kept { rows: BTreeMap::new(), len: 0, entered: None, owed: BTreeMap::new() }
    }
}

impl<V: Row> Kept<V> {
    /// Adds a change, and to `changes` what the collection shows of it.
    fn add(&mut self, time: EventTime, Change { row, diff }: Change<V>, changes: &mut Vec<Change<V>>) {
        let rows = self.rows.entry(time).or_default();
        let entry = rows.entry(row);
        let was = if let Entry::Occupied(old) = &entry { *old.get() } else { 0 };
        let is = was + diff;
        self.len = self.len - u64::from(was != 0) + u64::from(is != 0);
        let shown = is.max(0) - was.max(0);
        if shown != 0 && Some(time) <= self.entered {
            changes.push(Change::by(shown, entry.key().clone()));
        }
        if was >= 0 && is < 0 {
            self.owed.entry(entry.key().clone()).or_default().insert(time);
        } else if was < 0 && is >= 0 {
            no_longer_owed(&mut self.owed, entry.key(), time);
        }
        match entry {
            Entry::Occupied(old) if is == 0 => _ = old.remove(),
            Entry::Vacant(_) if is == 0 => {}
            entry => *entry.or_default() = is,
        }
        if rows.is_empty() {
            self.rows.remove(&time);
        }
    }

    /// What the collection shows of rows of these times once they have come in.
    fn insertions(&self, times: (Bound<EventTime>, Bound<EventTime>)) -> impl Iterator<Item = Change<V>> {
        let rows = self.rows.range(times).flat_map(|(_, rows)| rows);
        rows.filter(|(_, n)| **n > 0).map(|(row, n)| Change::by(*n, row.clone()))
    }

    /// Has the retractions of these rows that wait meet the insertions from `oldest` on, the oldest of both first.
    fn settle(&mut self, touched: BTreeSet<V>, oldest: Bound<EventTime>, changes: &mut Vec<Change<V>>) {
        for row in touched {
            let Some(owed) = self.owed.get(&row) else { continue };
            let owed: Vec<_> = owed.range((oldest, Bound::Unbounded)).copied().collect();
            let counts = self.rows.range((oldest, Bound::Unbounded)).filter_map(|(at, of)| Some((*at, *of.get(&row)?)));
            let mut there: VecDeque<_> = counts.filter(|(_, n)| *n > 0).collect();
            for owed_at in owed {
                let mut owes = self.rows[&owed_at][&row];
                while owes < 0
                    && let Some((at, n)) = there.front_mut()
                {
                    let (at, taken) = (*at, (*n).min(-owes));
                    (*n, owes) = (*n - taken, owes + taken);
                    if *n == 0 {
                        there.pop_front();
                    }
                    self.add(at, Change::by(-taken, row.clone()), changes);
                    self.add(owed_at, Change::by(taken, row.clone()), changes);
                }
            }
        }
    }
}

/// Nothing of `row` waits at `time` any more.
fn no_longer_owed<V: Ord>(owed: &mut BTreeMap<V, BTreeSet<EventTime>>, row: &V, time: EventTime) {
    let times = owed.get_mut(row).expect("a retraction that waits is noted");
    times.remove(&time);
    if times.is_empty() {
        owed.remove(row);
    }
}

/// The rule that keeps the rows of a key and says what changes in the collection; run it with `PerKey`. Its state is
/// version 1. Whoever sends it rows leaves out those whose time is over.
#[derive(Clone, Copy, Debug)]
pub struct Keeping<V> {
    retain: Retain,
    rows: PhantomData<fn() -> V>,
}

impl<V> Keeping<V> {
    /// Keeps rows as long as `retain` says.
    #[must_use]
    pub fn new(retain: Retain) -> Self {
        Keeping { retain, rows: PhantomData }
    }
}

impl<V: Row> KeyedLogic for Keeping<V> {
    type In = (EventTime, Change<V>);
    type State = Kept<V>;
    type Out = Change<V>;
    const STATE_VERSION: u32 = 1;

    fn on_epoch(
        &self,
        _key: &OwnedKey,
        kept: &mut Kept<V>,
        records: &mut Vec<Self::In>,
        time: EpochTime,
        out: &mut Emit<Change<V>>,
    ) -> Keep {
        let (enters, leaves) = self.retain.bounds(time);
        let mut changes = Vec::with_capacity(records.len());
        // 1. What the records change, of rows that are in the collection or wait for it.
        let owes = self.retain != Retain::forever()
            && (!kept.owed.is_empty() || records.iter().any(|(_, change)| change.diff < 0));
        let touched: BTreeSet<V> = records.iter().filter(|_| owes).map(|(_, change)| change.row.clone()).collect();
        for (at, change) in records.drain(..) {
            kept.add(self.retain.filed(at), change, &mut changes);
        }
        // What met nothing of its own time meets what is older or newer, but nothing that leaves in this epoch anyway.
        if owes {
            let over = kept.rows.keys().take_while(|at| self.retain.is_over(**at, time.before)).last();
            let oldest = over.map_or(Bound::Unbounded, |over| Bound::Excluded(*over));
            kept.settle(touched, oldest, &mut changes);
        }
        // 2. Rows whose time has come.
        if enters > kept.entered {
            let after = kept.entered.map_or(Bound::Unbounded, Bound::Excluded);
            let until = enters.map_or(Bound::Unbounded, Bound::Included);
            changes.extend(kept.insertions((after, until)));
            kept.entered = enters;
        }
        // 3. Rows whose time is over; all of them had come in.
        while let Some(first) = kept.rows.first_entry()
            && Some(self.retain.leaves(*first.key())) <= leaves
        {
            let (at, gone) = first.remove_entry();
            kept.len -= gone.len() as u64;
            let mut unmatched = 0;
            for (row, n) in gone.iter().filter(|(_, n)| **n < 0) {
                no_longer_owed(&mut kept.owed, row, at);
                unmatched += n.unsigned_abs();
            }
            if unmatched > 0 {
                out.count("unmatched", unmatched);
            }
            changes.extend(gone.into_iter().filter(|(_, n)| *n > 0).map(|(row, n)| Change::by(-n, row)));
        }
        Change::consolidate(&mut changes);
        out.records.append(&mut changes);
        if kept.rows.is_empty() { Keep::Remove } else { Keep::Keep }
    }

    fn deadline(&self, kept: &Kept<V>) -> Option<EventTime> {
        if self.retain == Retain::forever() {
            return None;
        }
        let after = kept.entered.map_or(Bound::Unbounded, Bound::Excluded);
        let enters = kept.rows.range((after, Bound::Unbounded)).next().map(|(time, _)| *time);
        let leaves = kept.rows.first_key_value().map(|(time, _)| self.retain.leaves(*time));
        enters.into_iter().chain(leaves).min()
    }

    /// What rows hold on the heap themselves is not seen.
    fn heap_bytes(&self, kept: &Kept<V>) -> usize {
        let (row, time) = (size_of::<(V, i64)>(), size_of::<(EventTime, BTreeMap<V, i64>)>());
        usize::try_from(kept.len).unwrap_or(usize::MAX).saturating_mul(row) + kept.rows.len() * time
    }

    fn refeed(&self, _key: &OwnedKey, kept: &Kept<V>, out: &mut Vec<Change<V>>) {
        let Some(entered) = kept.entered else { return };
        out.extend(kept.insertions((Bound::Unbounded, Bound::Included(entered))));
    }
}

#[cfg(test)]
mod tests;
