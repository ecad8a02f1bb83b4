//! The temporal lookup: each fact with the version of its key that was valid at the fact's time.
//!
//! A version that counts can come no earlier than the correctable span behind W, and neither can a fact. So of the
//! versions before that point only the last is kept, and a fact only while such a version may be at or before it.

use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::keyed::{Emit, Exchanged, Keep, KeyedLogic, encoded, in_order};
use tidemill_dataflow::stream::KeyedStream;
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark};

use super::Joined;
use super::sides::{Entry, Input, Lateness, Side, join};
use crate::incremental::Change;
use crate::window::tumbling::Late;

/// The value that a version gives its key; `None` deletes it.
pub(super) type ValueFn<V, T> = Box<dyn Fn(&V) -> Option<T>>;

/// Facts and the versions of a table on their way into a lookup.
#[must_use = "a lookup does nothing until it says when it answers"]
pub struct Lookup<'s, F: 'static, V: 'static, T: 'static> {
    pub(super) id: &'static str,
    pub(super) facts: KeyedStream<'s, F>,
    pub(super) versions: KeyedStream<'s, V>,
    pub(super) value: ValueFn<V, T>,
    pub(super) late: Late,
    pub(super) correctable: Duration,
}

impl<'s, F, V, T> Lookup<'s, F, V, T>
where
    F: Exchanged + Sync + Clone,
    V: Send + Sync + 'static,
    T: Exchanged + Clone,
{
    /// What happens to facts and versions earlier than `W(e-1)`; they count if not said.
    pub fn late(self, late: Late) -> Self {
        Lookup { late, ..self }
    }

    /// How far behind the watermark facts and versions still count under `Late::Correct`; an hour if not said.
    pub fn correctable_for(self, span: Duration) -> Self {
        Lookup { correctable: span, ..self }
    }

    /// Answers each fact in its epoch; `None`: the key has no version at its time, or was deleted.
    ///
    /// When a version comes after a fact for which it is the right one, the answer is retracted and the right one
    /// asserted. So the rows, folded, are those of all facts and versions that count, in whatever order they came.
    #[track_caller]
    pub fn corrected<O: Send + Sync + 'static>(
        self,
        give: impl Fn(&F, Option<&T>) -> O + 'static,
    ) -> Joined<'s, Change<O>, F, V> {
        self.build(Answers::Corrected, move |fact, value, sign| Change::by(i64::from(sign), give(fact, value)))
    }

    /// Answers each fact once, in the epoch in which W passes its time: all versions that are not late have come then.
    ///
    /// Late facts are answered in their epoch. Late versions count for what is answered after them, and change no answer
    /// that was given.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tidemill_dataflow::key::key;
    /// # use tidemill_dataflow::stream::{Stream, TimedStream};
    /// # use tidemill_operators::join::JoinOps;
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Trip { car: String, km: i64 }
    /// # struct Rented { car: String, to: Option<String> }
    /// /// Who drove how far: each trip with the customer who had the car then, told once.
    /// fn drivers<'s>(
    ///     trips: TimedStream<'s, Trip>,
    ///     rentals: TimedStream<'s, Rented>,
    /// ) -> Stream<'s, (Option<String>, i64)> {
    ///     // A car that is returned has no customer: `None` deletes what was known of it.
    ///     let rentals = rentals.key_by(|rented| key("fleet", rented.car.as_str()));
    ///     trips
    ///         .key_by(|trip| key("fleet", trip.car.as_str()))
    ///         .lookup("drivers", rentals, |rented| rented.to.clone())
    ///         .once_closed(|trip, customer| (customer.cloned(), trip.km))
    ///         .rows
    /// }
    /// ```
    #[track_caller]
    pub fn once_closed<O: Send + Sync + 'static>(
        self,
        give: impl Fn(&F, Option<&T>) -> O + 'static,
    ) -> Joined<'s, O, F, V> {
        self.build(Answers::OnceClosed, move |fact, value, _| give(fact, value))
    }

    #[track_caller]
    fn build<O, G>(self, answers: Answers, give: G) -> Joined<'s, O, F, V>
    where
        O: Send + Sync + 'static,
        G: Fn(&F, Option<&T>, i8) -> O + 'static,
    {
        let Lookup { id, facts, versions, value, late, correctable } = self;
        let facts = Input::new(facts, |time, fact: &F| Side::Left(time, fact.clone()));
        let versions = Input::new(versions, move |time, version: &V| Side::Right(time, value(version)));
        let lateness = Lateness::of_records(late, correctable);
        let problems = lateness.validate().err().into_iter().collect();
        let mode = match answers {
            Answers::Corrected => "corrected",
            Answers::OnceClosed => "once closed",
        };
        let meaning = format!("lookup, {mode}");
        let kind = format!("{meaning}, late {late:?}, correctable {} ms", correctable.as_millis());
        join(
            Entry { id, kind, meaning, problems },
            (facts, versions),
            lateness,
            LookupLogic::new(lateness, answers, give),
        )
    }
}

/// When a lookup answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Corrected,
    OnceClosed,
}

/// A value of the table and since when it is valid; `None`: the key was deleted then.
type Version<T> = (EventTime, Option<T>);

/// What is known of a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct History<F, T> {
    /// By time, one a time.
    versions: Vec<Version<T>>,
    /// Facts whose answer may change or is still to be given, by time.
    facts: Vec<(EventTime, F)>,
}

impl<F, T> Default for History<F, T> {
    fn default() -> Self {
        History { versions: Vec::new(), facts: Vec::new() }
    }
}

/// The version of sorted ones that is valid at a time.
fn as_of<T>(versions: &[Version<T>], time: EventTime) -> Option<&Version<T>> {
    versions[..versions.partition_point(|(since, _)| *since <= time)].last()
}

fn value_of<T>(version: Option<&Version<T>>) -> Option<&T> {
    version?.1.as_ref()
}

impl<F, T: Exchanged> History<F, T> {
    /// Leaves of an epoch's versions, sorted, one a time: those that change the table.
    fn effective(&self, mut new: Vec<Version<T>>) -> Vec<Version<T>> {
        in_order(&mut new);
        // Of one time the last counts, which after the sort is the one with the largest bytes.
        new.reverse();
        new.dedup_by_key(|(since, _)| *since);
        new.reverse();
        let wins = |(since, value): &Version<T>| match self.versions.binary_search_by_key(since, |(since, _)| *since) {
            Ok(at) => encoded(value) > encoded(&self.versions[at].1),
            Err(_) => true,
        };
        new.retain(wins);
        new
    }

    fn insert(&mut self, new: Vec<Version<T>>) {
        for version in new {
            match self.versions.binary_search_by_key(&version.0, |(since, _)| *since) {
                Ok(at) => self.versions[at] = version,
                Err(at) => self.versions.insert(at, version),
            }
        }
    }
}

/// The lookup of one key. Its state is version 1.
pub(crate) struct LookupLogic<F, T, G> {
    lateness: Lateness,
    answers: Answers,
    give: G,
    types: PhantomData<fn(F, T)>,
}

impl<F, T: Exchanged, G> LookupLogic<F, T, G> {
    pub(crate) fn new(lateness: Lateness, answers: Answers, give: G) -> Self {
        LookupLogic { lateness, answers, give, types: PhantomData }
    }

    /// Retracts the answers that new versions make wrong and asserts the right ones.
    fn correct<O>(&self, history: &History<F, T>, new: &[Version<T>], out: &mut Emit<O>)
    where
        G: Fn(&F, Option<&T>, i8) -> O,
    {
        let Some((first, _)) = new.first() else { return };
        let touched = history.facts.partition_point(|(time, _)| time < first);
        for (time, fact) in &history.facts[touched..] {
            let (old, new) = (as_of(&history.versions, *time), as_of(new, *time));
            if new.map(|(since, _)| since) < old.map(|(since, _)| since) {
                continue;
            }
            let (old, new) = (value_of(old), value_of(new));
            if encoded(&old) != encoded(&new) {
                out.give((self.give)(fact, old, -1));
                out.give((self.give)(fact, new, 1));
                out.count("corrected", 1);
            }
        }
    }

    /// From which watermark on a fact is not needed any more.
    fn fact_leaves_at(&self, time: EventTime) -> EventTime {
        match self.answers {
            Answers::Corrected => self.lateness.leaves_at(time),
            Answers::OnceClosed => self.lateness.complete_at(time),
        }
    }

    /// From which watermark on the oldest version is not needed any more: the next one is valid for all that can still
    /// come, or it says no more than that there is nothing.
    fn version_leaves_at(&self, versions: &[Version<T>]) -> Option<EventTime> {
        match versions {
            [] | [(_, Some(_))] => None,
            [(deleted, None)] => Some(self.lateness.leaves_at(*deleted)),
            [_, (next, _), ..] => Some(self.lateness.leaves_at(EventTime(next.0.saturating_sub(1)))),
        }
    }

    fn forget<O>(&self, history: &mut History<F, T>, after: Watermark, out: &mut Emit<O>)
    where
        G: Fn(&F, Option<&T>, i8) -> O,
    {
        let leaving = history.facts.partition_point(|(time, _)| Some(self.fact_leaves_at(*time)) <= after);
        for (time, fact) in history.facts.drain(..leaving) {
            if self.answers == Answers::OnceClosed {
                let value = value_of(as_of(&history.versions, time));
                out.give((self.give)(&fact, value, 1));
            }
        }
        let mut first = 0;
        while let Some(at) = self.version_leaves_at(&history.versions[first..])
            && Some(at) <= after
        {
            first += 1;
        }
        history.versions.drain(..first);
    }
}

impl<F, T, G, O> KeyedLogic for LookupLogic<F, T, G>
where
    F: Exchanged + Clone,
    T: Exchanged + Clone,
    G: Fn(&F, Option<&T>, i8) -> O + 'static,
    O: Send + Sync + 'static,
{
    type In = Side<F, Option<T>>;
    type State = History<F, T>;
    type Out = O;
    const STATE_VERSION: u32 = 1;

    fn on_epoch(
        &self,
        _: &OwnedKey,
        history: &mut History<F, T>,
        records: &mut Vec<Self::In>,
        clocks: EpochTime,
        out: &mut Emit<O>,
    ) -> Keep {
        let (mut facts, mut versions) = (Vec::new(), Vec::new());
        for record in records.drain(..) {
            match record {
                Side::Left(time, fact) => facts.push((time, fact)),
                Side::Right(time, value) => versions.push((time, value)),
            }
        }
        let versions = history.effective(versions);
        if self.answers == Answers::Corrected {
            self.correct(history, &versions, out);
        }
        history.insert(versions);
        if self.answers == Answers::Corrected {
            for (time, fact) in &facts {
                let value = value_of(as_of(&history.versions, *time));
                out.give((self.give)(fact, value, 1));
            }
        }
        history.facts.extend(facts);
        history.facts.sort_by_key(|(time, _)| *time);
        self.forget(history, clocks.after, out);
        if history.versions.is_empty() && history.facts.is_empty() { Keep::Remove } else { Keep::Keep }
    }

    fn deadline(&self, history: &History<F, T>) -> Option<EventTime> {
        let fact = history.facts.first().map(|(time, _)| self.fact_leaves_at(*time));
        fact.into_iter().chain(self.version_leaves_at(&history.versions)).min()
    }

    fn heap_bytes(&self, history: &History<F, T>) -> usize {
        history.versions.capacity() * size_of::<Version<T>>() + history.facts.capacity() * size_of::<(EventTime, F)>()
    }
}

#[cfg(test)]
mod tests;
