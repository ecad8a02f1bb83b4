//! What a view is computed from, by key: the rows that are in the collection, and those that are not yet.

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
    /// How many of each row; never 0.
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

impl<V: Ord> Kept<V> {
    fn add(&mut self, time: EventTime, Change { row, diff }: Change<V>) {
        let rows = self.rows.entry(time).or_default();
        match rows.entry(row) {
            Entry::Vacant(new) if diff != 0 => {
                new.insert(diff);
                self.len += 1;
            }
            Entry::Occupied(mut old) => {
                *old.get_mut() += diff;
                if *old.get() == 0 {
                    old.remove();
                    self.len -= 1;
                }
            }
            Entry::Vacant(_) => {}
        }
        if rows.is_empty() {
            self.rows.remove(&time);
        }
    }
}

/// The rule that keeps the rows of a key and says what changes in the collection; run it with `PerKey`. Its state is
/// version 1.
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
        let mut expired = 0;
        for (at, change) in records.drain(..) {
            if Some(self.retain.leaves(at)) <= time.before {
                expired += 1;
                continue;
            }
            if Some(at) <= kept.entered {
                changes.push(change.clone());
            }
            kept.add(at, change);
        }
        out.count("expired", expired);
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
