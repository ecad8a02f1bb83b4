//! The interval join: all pairs of a key whose times are within a distance of each other.

use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::keyed::{Emit, Exchanged, Keep, KeyedLogic};
use tidemill_dataflow::stream::KeyedStream;
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark, millis};

use super::Joined;
use super::sides::{Entry, Input, Lateness, Side, join};
use super::window::Unmatched;
use crate::window::tumbling::Late;
use crate::window::{WindowError, check};

/// How far from a left record its partners on the right may be: from `lower` to `upper` after it, both inclusive;
/// negative is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within {
    lower: i64,
    upper: i64,
}

impl Within {
    /// From this many milliseconds after the left record to that many; negative is before it.
    #[must_use]
    pub fn millis(lower: i64, upper: i64) -> Self {
        Within { lower, upper }
    }

    /// At the time of the left record or up to `span` after it.
    #[must_use]
    pub fn after(span: Duration) -> Self {
        Within { lower: 0, upper: millis(span) }
    }

    /// At the time of the left record or up to `span` before it.
    #[must_use]
    pub fn before(span: Duration) -> Self {
        Within { lower: -millis(span), upper: 0 }
    }

    /// Up to `span` before or after the left record.
    #[must_use]
    pub fn around(span: Duration) -> Self {
        Within { lower: -millis(span), upper: millis(span) }
    }

    /// Refuses an empty interval, and bounds of more than 10,000 years.
    ///
    /// # Errors
    /// If it is one of those.
    pub fn validate(&self) -> Result<(), WindowError> {
        check("the distance in time of a join", self.lower.saturating_abs().max(1))?;
        check("the distance in time of a join", self.upper.saturating_abs().max(1))?;
        check("the length of a join's interval", self.upper.saturating_sub(self.lower).saturating_add(1))
    }

    /// The times at which partners of a left record of this time are.
    fn of_left(self, time: EventTime) -> (EventTime, EventTime) {
        (EventTime(time.0.saturating_add(self.lower)), EventTime(time.0.saturating_add(self.upper)))
    }

    /// The times at which partners of a right record of this time are.
    fn of_right(self, time: EventTime) -> (EventTime, EventTime) {
        (EventTime(time.0.saturating_sub(self.upper)), EventTime(time.0.saturating_sub(self.lower)))
    }
}

/// Two keyed streams on their way into an interval join.
#[must_use = "a join does nothing until it says which rows it gives"]
pub struct IntervalJoin<'s, L: 'static, R: 'static> {
    pub(super) id: &'static str,
    pub(super) left: KeyedStream<'s, L>,
    pub(super) right: KeyedStream<'s, R>,
    pub(super) within: Within,
    pub(super) late: Late,
    pub(super) correctable: Duration,
}

impl<'s, L: Exchanged + Sync + Clone, R: Exchanged + Sync + Clone> IntervalJoin<'s, L, R> {
    /// What happens to records earlier than `W(e-1)`; they count if not said.
    pub fn late(self, late: Late) -> Self {
        IntervalJoin { late, ..self }
    }

    /// How far behind the watermark a record still counts under `Late::Correct`; an hour if not said.
    pub fn correctable_for(self, span: Duration) -> Self {
        IntervalJoin { correctable: span, ..self }
    }

    /// Gives each pair once, in the epoch in which the second of the two comes.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tidemill_dataflow::key::key;
    /// # use tidemill_dataflow::stream::{Stream, TimedStream};
    /// # use tidemill_dataflow::time::seconds;
    /// # use tidemill_operators::join::{JoinOps, Within};
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Alarm { host: String, what: String }
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Deployment { host: String, build: u64 }
    /// /// Alarms with the deployments on their host in the half minute before them.
    /// fn suspects<'s>(
    ///     alarms: TimedStream<'s, Alarm>,
    ///     deployments: TimedStream<'s, Deployment>,
    /// ) -> Stream<'s, (String, u64)> {
    ///     let deployments = deployments.key_by(|deployment| key("ops", deployment.host.as_str()));
    ///     alarms
    ///         .key_by(|alarm| key("ops", alarm.host.as_str()))
    ///         .join_interval("suspects", deployments, Within::before(seconds(30)))
    ///         .inner(|alarm, deployment| (alarm.what.clone(), deployment.build))
    ///         .rows
    /// }
    /// ```
    #[track_caller]
    pub fn inner<O: Send + Sync + 'static>(self, give: impl Fn(&L, &R) -> O + 'static) -> Joined<'s, O, L, R> {
        self.build("inner", Unmatched::Neither, move |left, right| {
            let (left, right) = left.zip(right).expect("an inner join gives nothing but pairs");
            give(left, right)
        })
    }

    /// The same, and each left record without a partner once none that counts can come any more: that is final.
    #[track_caller]
    pub fn left_outer<O: Send + Sync + 'static>(
        self,
        give: impl Fn(&L, Option<&R>) -> O + 'static,
    ) -> Joined<'s, O, L, R> {
        self.build("left outer", Unmatched::Left, move |left, right| {
            give(left.expect("a left outer join gives nothing without a left record"), right)
        })
    }

    /// The same for both sides: at least one of the two is there.
    #[track_caller]
    pub fn full_outer<O: Send + Sync + 'static>(
        self,
        give: impl Fn(Option<&L>, Option<&R>) -> O + 'static,
    ) -> Joined<'s, O, L, R> {
        self.build("full outer", Unmatched::Both, give)
    }

    #[track_caller]
    fn build<O, G>(self, which: &str, unmatched: Unmatched, give: G) -> Joined<'s, O, L, R>
    where
        O: Send + Sync + 'static,
        G: Fn(Option<&L>, Option<&R>) -> O + 'static,
    {
        let IntervalJoin { id, left, right, within, late, correctable } = self;
        let left = Input::new(left, |time, record: &L| Side::Left(time, record.clone()));
        let right = Input::new(right, |time, record: &R| Side::Right(time, record.clone()));
        let lateness = Lateness::of_records(late, correctable);
        let problems = [within.validate(), lateness.validate()].into_iter().filter_map(Result::err).collect();
        let Within { lower, upper } = within;
        let span = correctable.as_millis();
        let meaning = format!("join {which}, interval");
        let kind = format!("{meaning} {lower} to {upper} ms, late {late:?}, correctable {span} ms");
        let logic = IntervalLogic::new(within, lateness, unmatched, give);
        join(Entry { id, kind, meaning, problems }, (left, right), lateness, logic)
    }
}

/// A record that partners may still come for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Waiting<T> {
    time: EventTime,
    matched: bool,
    record: T,
}

/// The records of a key that partners may still come for, each side sorted by time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Buffers<L, R> {
    left: Vec<Waiting<L>>,
    right: Vec<Waiting<R>>,
}

impl<L, R> Default for Buffers<L, R> {
    fn default() -> Self {
        Buffers { left: Vec::new(), right: Vec::new() }
    }
}

/// Where the records from one time to another are, both inclusive.
fn range<T>(waiting: &[Waiting<T>], (from, to): (EventTime, EventTime)) -> Range<usize> {
    let start = waiting.partition_point(|row| row.time < from);
    start..start + waiting[start..].partition_point(|row| row.time <= to)
}

/// Adds records to sorted ones.
fn add<T>(waiting: &mut Vec<Waiting<T>>, new: Vec<Waiting<T>>) {
    waiting.extend(new);
    // A stable sort goes once over what is sorted already.
    waiting.sort_by_key(|row| row.time);
}

/// Takes out the first records, those that `gone` says yes to.
fn leave<T>(waiting: &mut Vec<Waiting<T>>, gone: impl Fn(EventTime) -> bool, mut alone: impl FnMut(&T)) {
    let first = waiting.partition_point(|row| gone(row.time));
    waiting.drain(..first).filter(|row| !row.matched).for_each(|row| alone(&row.record));
}

/// The interval join of one key. Its state is version 1.
pub(crate) struct IntervalLogic<L, R, G> {
    within: Within,
    lateness: Lateness,
    unmatched: Unmatched,
    give: G,
    types: PhantomData<fn(L, R)>,
}

impl<L, R, G> IntervalLogic<L, R, G> {
    pub(crate) fn new(within: Within, lateness: Lateness, unmatched: Unmatched, give: G) -> Self {
        IntervalLogic { within, lateness, unmatched, give, types: PhantomData }
    }

    /// From which watermark on no partner of a left record can come that counts.
    fn left_leaves_at(&self, time: EventTime) -> EventTime {
        self.lateness.leaves_at(self.within.of_left(time).1)
    }

    /// From which watermark on no partner of a right record can come that counts.
    fn right_leaves_at(&self, time: EventTime) -> EventTime {
        self.lateness.leaves_at(self.within.of_right(time).1)
    }

    /// Gives the pairs that the epoch's records make, and takes the records in.
    fn meet<O>(&self, state: &mut Buffers<L, R>, records: &mut Vec<Side<L, R>>, out: &mut Emit<O>)
    where
        G: Fn(Option<&L>, Option<&R>) -> O,
    {
        let mut new = Buffers::default();
        for record in records.drain(..) {
            match record {
                Side::Left(time, record) => new.left.push(Waiting { time, matched: false, record }),
                Side::Right(time, record) => new.right.push(Waiting { time, matched: false, record }),
            }
        }
        for left in &mut new.left {
            let partners = range(&state.right, self.within.of_left(left.time));
            left.matched = !partners.is_empty();
            for right in &mut state.right[partners] {
                right.matched = true;
                out.give((self.give)(Some(&left.record), Some(&right.record)));
            }
        }
        add(&mut state.left, new.left);
        for right in &mut new.right {
            let partners = range(&state.left, self.within.of_right(right.time));
            right.matched = !partners.is_empty();
            for left in &mut state.left[partners] {
                left.matched = true;
                out.give((self.give)(Some(&left.record), Some(&right.record)));
            }
        }
        add(&mut state.right, new.right);
    }

    fn forget<O>(&self, state: &mut Buffers<L, R>, after: Watermark, out: &mut Emit<O>)
    where
        G: Fn(Option<&L>, Option<&R>) -> O,
    {
        let left_gone = |time| Some(self.left_leaves_at(time)) <= after;
        leave(&mut state.left, left_gone, |left| {
            if self.unmatched != Unmatched::Neither {
                out.give((self.give)(Some(left), None));
            }
        });
        let right_gone = |time| Some(self.right_leaves_at(time)) <= after;
        leave(&mut state.right, right_gone, |right| {
            if self.unmatched == Unmatched::Both {
                out.give((self.give)(None, Some(right)));
            }
        });
    }
}

impl<L, R, G, O> KeyedLogic for IntervalLogic<L, R, G>
where
    L: Exchanged + Clone,
    R: Exchanged + Clone,
    G: Fn(Option<&L>, Option<&R>) -> O + 'static,
    O: Send + Sync + 'static,
{
    type In = Side<L, R>;
    type State = Buffers<L, R>;
    type Out = O;
    const STATE_VERSION: u32 = 1;

    fn on_epoch(
        &self,
        _: &OwnedKey,
        state: &mut Buffers<L, R>,
        records: &mut Vec<Side<L, R>>,
        clocks: EpochTime,
        out: &mut Emit<O>,
    ) -> Keep {
        self.meet(state, records, out);
        self.forget(state, clocks.after, out);
        if state.left.is_empty() && state.right.is_empty() { Keep::Remove } else { Keep::Keep }
    }

    fn deadline(&self, state: &Buffers<L, R>) -> Option<EventTime> {
        let left = state.left.first().map(|row| self.left_leaves_at(row.time));
        let right = state.right.first().map(|row| self.right_leaves_at(row.time));
        left.into_iter().chain(right).min()
    }

    fn heap_bytes(&self, state: &Buffers<L, R>) -> usize {
        state.left.capacity() * size_of::<Waiting<L>>() + state.right.capacity() * size_of::<Waiting<R>>()
    }
}

#[cfg(test)]
mod tests;
