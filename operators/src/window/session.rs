//! Sessions: the events of a key of which each is at most a gap away from the next.
//!
//! The distance decides, on both sides and inclusively: exactly a gap apart is one session, a millisecond more is two.
//! An event may extend a session at either end or bridge two of them. Each epoch gives, once per key, signed rows that
//! retract what was shown and assert what is true now; folding all of them gives the sessions of all events, however
//! they were ordered and cut into epochs (INV-2). A session stays in state while an event that is not late could still
//! touch it; what was shown last remains.

use std::time::Duration;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Probe;
use serde::{Deserialize, Serialize};
use tidemill_dataflow::batch::Order;
use tidemill_dataflow::key::{KeyRef, OwnedKey};
use tidemill_dataflow::key_group::{group_of, owner};
use tidemill_dataflow::keyed::{Chunk, Emit, Keep, KeyedLogic};
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark, hours, millis};

use super::{WindowError, check};

/// Sessions that a gap ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    gap: i64,
    correctable: i64,
}

impl Session {
    /// Sessions that end when more than `gap` passes without an event; correctable for an hour.
    #[must_use]
    pub fn with_gap(gap: Duration) -> Self {
        Session { gap: millis(gap), correctable: millis(hours(1)) }
    }

    /// How far behind the watermark an event still corrects sessions exactly. After deduplication its horizon is the
    /// right span: what is older never gets here.
    #[must_use]
    pub fn correctable_for(self, span: Duration) -> Self {
        Session { correctable: millis(span), ..self }
    }

    /// Refuses durations of zero or of more than 10,000 years.
    ///
    /// # Errors
    /// If the gap or the correctable span is one of those.
    pub fn validate(&self) -> Result<(), WindowError> {
        check("the gap of a session", self.gap)?;
        check("the time for which a session is correctable", self.correctable)
    }

    /// The gap in milliseconds.
    #[must_use]
    pub fn gap(&self) -> i64 {
        self.gap
    }

    /// Whether a session that this time touches may have left state under `before`, the watermark `W(e-1)`.
    ///
    /// A late event that is added all the same makes a session of its own, or extends what is left in state.
    #[must_use]
    #[inline]
    pub fn is_late(&self, time: EventTime, before: Watermark) -> bool {
        before.is_some_and(|before| time.0 < before.0.saturating_sub(self.correctable))
    }

    /// From which watermark on no event that is not late can touch a session that ended at `last`.
    fn leaves_at(&self, last: EventTime) -> EventTime {
        EventTime(last.0.saturating_add(self.gap).saturating_add(self.correctable).saturating_add(1))
    }
}

/// Events of a key without a gap between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Interval {
    /// The time of the earliest event.
    pub first: EventTime,
    /// The time of the latest event.
    pub last: EventTime,
    /// How many events.
    pub count: i64,
}

impl Interval {
    /// One event.
    #[must_use]
    pub fn at(time: EventTime) -> Self {
        Interval { first: time, last: time, count: 1 }
    }

    /// Whether the two belong to one session.
    #[inline]
    fn joins(&self, other: &Interval, gap: i64) -> bool {
        self.first.0 <= other.last.0.saturating_add(gap) && other.first.0 <= self.last.0.saturating_add(gap)
    }

    #[inline]
    fn absorb(&mut self, other: &Interval) {
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.count += other.count;
    }
}

/// Adds an interval to sorted ones that are more than a gap apart from each other.
fn insert(intervals: &mut Vec<Interval>, mut new: Interval, gap: i64) {
    // The intervals that it joins are neighbours: it bridges all of them.
    let from = intervals.partition_point(|old| old.last.0.saturating_add(gap) < new.first.0);
    let joined = intervals[from..].iter().take_while(|old| old.joins(&new, gap)).count();
    intervals[from..from + joined].iter().for_each(|old| new.absorb(old));
    if joined > 0 {
        intervals[from] = new;
        intervals.drain(from + 1..from + joined);
    } else {
        // Most keys have one session or two: room for four at once would be most of what their state takes.
        if intervals.len() == intervals.capacity() && intervals.len() < 4 {
            intervals.reserve_exact(1);
        }
        intervals.insert(from, new);
    }
}

/// A key that has events in the epoch.
struct Visitor {
    key: OwnedKey,
    /// The only interval as long as `all` is empty, which spares most keys a list.
    only: Interval,
    all: Vec<Interval>,
}

/// Combines the events of one epoch into intervals, on the worker that read them.
pub struct SessionCombiner {
    gap: i64,
    /// Hash of the key -> index into `visitors`.
    index: HashTable<u32>,
    visitors: Vec<Visitor>,
}

impl SessionCombiner {
    /// A combiner for these sessions.
    ///
    /// # Panics
    /// If [`Session::validate`] refuses the sessions: a plan is checked before any worker starts.
    #[must_use]
    pub fn new(sessions: &Session) -> Self {
        sessions.validate().expect("a plan with such sessions was refused");
        SessionCombiner { gap: sessions.gap, index: HashTable::new(), visitors: Vec::new() }
    }

    /// Adds an event; its key is copied only if it is the key's first in this epoch.
    #[inline]
    pub fn add(&mut self, key: KeyRef<'_>, time: EventTime) {
        let (visitors, new) = (&self.visitors, Interval::at(time));
        let hash_of = |&at: &u32| visitors[at as usize].key.hash();
        let probe = self.index.entry(key.hash(), |&at| key.is(&visitors[at as usize].key), hash_of);
        match probe {
            Probe::Occupied(found) => {
                let visitor = &mut self.visitors[*found.get() as usize];
                if visitor.all.is_empty() {
                    if visitor.only.joins(&new, self.gap) {
                        visitor.only.absorb(&new);
                        return;
                    }
                    visitor.all.push(visitor.only);
                }
                insert(&mut visitor.all, new, self.gap);
            }
            Probe::Vacant(vacant) => {
                let at = u32::try_from(self.visitors.len()).expect("an epoch has fewer than 2^32 keys on a worker");
                vacant.insert(at);
                self.visitors.push(Visitor { key: key.to_owned(), only: new, all: Vec::new() });
            }
        }
    }

    /// How many keys have events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.visitors.len()
    }

    /// Whether no event was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.visitors.is_empty()
    }

    /// Takes the epoch's intervals out, parted by the worker that owns their keys; workers that get none get no chunk.
    pub fn drain(&mut self, from: u32, workers: u32) -> Vec<Chunk<(OwnedKey, Interval)>> {
        self.index.clear();
        let mut chunks: Vec<_> =
            (0..workers).map(|dest| Chunk { dest, from, order: Order::default(), rows: Vec::new() }).collect();
        for visitor in self.visitors.drain(..) {
            let rows = &mut chunks[owner(group_of(visitor.key.hash()), workers) as usize].rows;
            match visitor.all.split_last() {
                None => rows.push((visitor.key, visitor.only)),
                Some((last, others)) => {
                    rows.extend(others.iter().map(|&interval| (visitor.key.clone(), interval)));
                    rows.push((visitor.key, *last));
                }
            }
        }
        chunks.retain(|chunk| !chunk.rows.is_empty());
        chunks
    }
}

/// A session that is retracted (`sign` -1) or asserted (`sign` 1); a table sums the signs of equal rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionChange {
    /// The key.
    pub key: OwnedKey,
    /// The time of the earliest event.
    pub first: EventTime,
    /// The time of the latest event.
    pub last: EventTime,
    /// How many events.
    pub count: i64,
    /// 1 or -1.
    pub sign: i8,
}

/// Sessions per key; run it with `PerKey`. Its state is version 1.
#[derive(Clone, Copy, Debug)]
pub struct SessionLogic {
    sessions: Session,
}

impl SessionLogic {
    /// The logic of these sessions.
    #[must_use]
    pub fn new(sessions: Session) -> Self {
        SessionLogic { sessions }
    }
}

fn give(key: &OwnedKey, session: Interval, sign: i8, out: &mut Emit<SessionChange>) {
    let Interval { first, last, count } = session;
    out.give(SessionChange { key: key.clone(), first, last, count, sign });
}

/// Gives a row for each of `these` that is not among `those`; both are sorted.
fn give_missing(key: &OwnedKey, these: &[Interval], those: &[Interval], sign: i8, out: &mut Emit<SessionChange>) {
    let missing = these.iter().filter(|session| those.binary_search(session).is_err());
    missing.for_each(|&session| give(key, session, sign, out));
}

impl KeyedLogic for SessionLogic {
    type In = Interval;
    /// The sessions that an event may still change, as they were shown; sorted, more than a gap apart.
    type State = Vec<Interval>;
    type Out = SessionChange;
    const STATE_VERSION: u32 = 1;

    fn on_epoch(
        &self,
        key: &OwnedKey,
        state: &mut Vec<Interval>,
        records: &mut Vec<Interval>,
        time: EpochTime,
        out: &mut Emit<SessionChange>,
    ) -> Keep {
        if let ([session], [part]) = (&mut state[..], &records[..])
            && session.joins(part, self.sessions.gap)
        {
            // The common case, without a list: one session goes on.
            let shown = *session;
            session.absorb(part);
            give(key, shown, -1, out);
            give(key, *session, 1, out);
        } else if !records.is_empty() {
            let mut sessions = state.clone();
            records.iter().for_each(|&part| insert(&mut sessions, part, self.sessions.gap));
            give_missing(key, state, &sessions, -1, out);
            give_missing(key, &sessions, state, 1, out);
            *state = sessions;
        }
        state.retain(|session| Some(self.sessions.leaves_at(session.last)) > time.after);
        if state.is_empty() { Keep::Remove } else { Keep::Keep }
    }

    fn deadline(&self, state: &Vec<Interval>) -> Option<EventTime> {
        state.first().map(|oldest| self.sessions.leaves_at(oldest.last))
    }

    fn heap_bytes(&self, state: &Vec<Interval>) -> usize {
        state.capacity() * size_of::<Interval>()
    }
}

#[cfg(test)]
mod tests;
