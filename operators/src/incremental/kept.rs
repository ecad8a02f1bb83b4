//! What a view is computed from, by key: the rows that are in the collection, and those that are not yet.
//!
//! A retraction takes back an insertion, so no row is ever there less than zero times: see [`Retain`] for which. That is
//! settled once an epoch over all its records as a multiset, so it depends neither on their order nor on who sent them
//! (INV-2), and what is left of it is counts of rows, which are state (INV-7).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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
/// wait: those of its own event time, and where there are fewer, the oldest of those that are kept. They must have come in
/// an earlier epoch or in the same one. What meets none is counted as `unmatched` and changes nothing, later either: so a
/// row is never there less than zero times. A retraction that has the event time of its insertion takes back exactly that
/// one, or expires with it.
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
pub struct Kept<V: Ord> {
    /// How many of each row; never 0, and below it only in what earlier builds stored.
    rows: BTreeMap<EventTime, BTreeMap<V, i64>>,
    /// How many different ones.
    len: u64,
    /// Rows up to this time are in the collection, later ones wait.
    entered: Watermark,
}

impl<V: Ord> Default for Kept<V> {
    fn default() -> Self {
        Kept { rows: BTreeMap::new(), len: 0, entered: None }
    }
}

impl<V: Row> Kept<V> {
    /// Adds a change; notes in `below` where there are less than none of a row then.
    fn add(&mut self, time: EventTime, Change { row, diff }: Change<V>, below: &mut Vec<(EventTime, V)>) {
        let rows = self.rows.entry(time).or_default();
        match rows.entry(row) {
            Entry::Vacant(new) if diff != 0 => {
                if diff < 0 {
                    below.push((time, new.key().clone()));
                }
                new.insert(diff);
                self.len += 1;
            }
            Entry::Occupied(mut old) => {
                *old.get_mut() += diff;
                match *old.get() {
                    0 => {
                        old.remove();
                        self.len -= 1;
                    }
                    1.. => {}
                    _ => below.push((time, old.key().clone())),
                }
            }
            Entry::Vacant(_) => {}
        }
        if rows.is_empty() {
            self.rows.remove(&time);
        }
    }

    /// Takes out what there is less than none of; gives how many of each row are still to be taken back.
    fn take_owed(&mut self, below: Vec<(EventTime, V)>, changes: &mut Vec<Change<V>>) -> BTreeMap<V, i64> {
        let mut owed = BTreeMap::new();
        for (time, row) in below {
            // Insertions that came after it may have met it; and a row may be noted twice.
            let n = self.rows.get(&time).and_then(|rows| rows.get(&row)).copied().unwrap_or(0);
            if n < 0 {
                if Some(time) <= self.entered {
                    changes.push(Change::by(-n, row.clone()));
                }
                self.add(time, Change::by(-n, row.clone()), &mut Vec::new());
                *owed.entry(row).or_default() -= n;
            }
        }
        owed
    }

    /// Takes rows back that are owed, the oldest first, from `oldest` on; gives how many there were not.
    fn settle(&mut self, mut owed: BTreeMap<V, i64>, oldest: Bound<EventTime>, changes: &mut Vec<Change<V>>) -> u64 {
        let Kept { rows: times, len, entered } = self;
        for (time, rows) in times.range_mut((oldest, Bound::Unbounded)) {
            if owed.is_empty() {
                break;
            }
            rows.retain(|row, n| {
                let Some(owes) = owed.get_mut(row).filter(|_| *n > 0) else { return true };
                let taken = (*n).min(*owes);
                (*n, *owes) = (*n - taken, *owes - taken);
                if *owes == 0 {
                    owed.remove(row);
                }
                if Some(*time) <= *entered {
                    changes.push(Change::by(-taken, row.clone()));
                }
                *len -= u64::from(*n == 0);
                *n != 0
            });
        }
        times.retain(|_, rows| !rows.is_empty());
        owed.into_values().map(i64::unsigned_abs).sum()
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
        let (mut changes, mut below) = (Vec::with_capacity(records.len()), Vec::new());
        // 1. What the records change, of rows that are in the collection or wait for it.
        for (at, change) in records.drain(..) {
            let at = self.retain.filed(at);
            if Some(at) <= kept.entered {
                changes.push(change.clone());
            }
            kept.add(at, change, &mut below);
        }
        // What met nothing of its own time meets what is older or newer, but nothing that leaves in this epoch anyway.
        let owed = kept.take_owed(below, &mut changes);
        if !owed.is_empty() {
            let over = kept.rows.keys().take_while(|at| self.retain.is_over(**at, time.before)).last();
            let oldest = over.map_or(Bound::Unbounded, |over| Bound::Excluded(*over));
            out.count("unmatched", kept.settle(owed, oldest, &mut changes));
        }
        // 2. Rows whose time has come.
        if enters > kept.entered {
            let after = kept.entered.map_or(Bound::Unbounded, Bound::Excluded);
            let until = enters.map_or(Bound::Unbounded, Bound::Included);
            let entering = kept.rows.range((after, until)).flat_map(|(_, rows)| rows);
            changes.extend(entering.map(|(row, diff)| Change::by(*diff, row.clone())));
            kept.entered = enters;
        }
        // 3. Rows whose time is over; all of them had come in.
        while let Some(first) = kept.rows.first_entry()
            && Some(self.retain.leaves(*first.key())) <= leaves
        {
            let gone = first.remove();
            kept.len -= gone.len() as u64;
            changes.extend(gone.into_iter().map(|(row, diff)| Change::by(-diff, row)));
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
        let rows = kept.rows.range(..=entered).flat_map(|(_, rows)| rows);
        out.extend(rows.map(|(row, diff)| Change::by(*diff, row.clone())));
    }
}

#[cfg(test)]
mod tests;
