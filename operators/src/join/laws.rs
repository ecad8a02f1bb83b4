//! What the tests of all joins need: shards of workers, scripts, and the laws of snapshot, workers and order.

use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use tidemill_dataflow::batch::{Batch, Order};
use tidemill_dataflow::driver::Combiner;
use tidemill_dataflow::hash::hash64;
use tidemill_dataflow::key::key;
use tidemill_dataflow::keyed::{Emit, KeyedLogic, PerKey};
use tidemill_dataflow::stream::{KeyFn, Peers};
use tidemill_dataflow::time::{EventTime, Watermark};

use super::sides::{Lateness, Tagging};
use crate::shards::Shards;
use crate::window::tumbling::Late;

/// A record of either side; `id` tells those of one key and time apart, and equal records are possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Rec {
    pub(super) key: u8,
    pub(super) time: i64,
    pub(super) id: u8,
}

/// An epoch: records of both sides, and by how much the watermark moves.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) left: Vec<Rec>,
    pub(super) right: Vec<Rec>,
    pub(super) after: i64,
}

/// Epochs whose records lie around the watermark before them: up to `behind` earlier, up to 60 later.
pub(super) fn script(behind: i64) -> impl Strategy<Value = Vec<Step>> {
    let recs = || prop::collection::vec((0u8..3, -behind..60, 0u8..3), 0..6);
    prop::collection::vec((recs(), recs(), 0i64..50), 1..14).prop_map(|steps| {
        let mut before = 1_000;
        let step = |(left, right, moves): (Vec<_>, Vec<_>, i64)| {
            let at = |side: Vec<(u8, i64, u8)>| {
                side.into_iter().map(|(key, offset, id)| Rec { key, time: before + offset, id }).collect()
            };
            let (left, right) = (at(left), at(right));
            before += moves;
            Step { left, right, after: before }
        };
        steps.into_iter().map(step).collect()
    })
}

/// Which policies the tests go through.
pub(super) fn policies() -> impl Strategy<Value = Late> {
    prop::sample::select(vec![Late::Correct, Late::Side, Late::Drop])
}

/// How the records of the two sides become rows of the logic.
pub(super) struct Tags<I> {
    pub(super) left: fn(EventTime, &Rec) -> I,
    pub(super) right: fn(EventTime, &Rec) -> I,
}

/// A join's two halves: what it does on the sending and on the owning side.
pub(super) struct Parts<J: KeyedLogic> {
    pub(super) lateness: Lateness,
    pub(super) tags: Tags<J::In>,
    pub(super) logic: Rc<dyn Fn() -> J>,
}

/// What an epoch gave: rows, late records of both sides, counters; all sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Given<O> {
    pub(super) rows: Vec<O>,
    pub(super) late: (Vec<Rec>, Vec<Rec>),
    pub(super) counts: BTreeMap<&'static str, u64>,
}

/// The join over the key groups of some workers, all of them also readers.
pub(super) struct Workers<J: KeyedLogic> {
    parts: Rc<Parts<J>>,
    shards: Shards<PerKey<J>>,
}

impl<J: KeyedLogic<Out: Ord>> Workers<J> {
    pub(super) fn new(count: u32, parts: &Rc<Parts<J>>) -> Self {
        Workers { parts: Rc::clone(parts), shards: Shards::new(count, || PerKey::new((parts.logic)())) }
    }

    /// One epoch; record `n` of a side is read by worker `n % workers`.
    pub(super) fn epoch(&mut self, left: &[Rec], right: &[Rec], after: Watermark) -> Given<J::Out> {
        let workers = self.shards.workers();
        let (mut chunks, mut counted) = (Vec::new(), BTreeMap::new());
        let mut count = |counts: BTreeMap<&'static str, u64>| {
            counts.into_iter().for_each(|(name, n)| *counted.entry(name).or_default() += n);
        };
        let mut late = (Vec::new(), Vec::new());
        let sides = [(left, self.parts.tags.left, &mut late.0), (right, self.parts.tags.right, &mut late.1)];
        for (recs, tag, aside) in sides {
            for me in 0..workers {
                let key: KeyFn<Rec> = Rc::new(|rec: &Rec| key("t", ["a", "b", "c"][usize::from(rec.key)]));
                let time = Rc::new(|rec: &Rec| EventTime(rec.time));
                let mut tagging = Tagging::new((key, time), self.parts.lateness, Box::new(tag));
                let rows = recs.iter().copied().skip(me as usize).step_by(workers as usize).collect();
                let refused = tagging.add(&Batch::new(Order::default(), rows), self.shards.clocks(after));
                refused.into_iter().for_each(|batch| batch.for_each(|rec| aside.push(*rec)));
                let (drained, counts) = tagging.drain(Peers { me, workers });
                chunks.extend(drained);
                count(counts);
            }
            aside.sort();
        }
        let Emit { records: mut rows, counts } = self.shards.close_chunks(chunks, after);
        count(counts);
        rows.sort();
        Given { rows, late, counts: counted }
    }

    /// The same state, stored, folded if `fold`, and restored on other workers.
    pub(super) fn moved(self, count: u32, fold: bool) -> Self {
        let Workers { parts, shards } = self;
        let shards = shards.moved(count, || PerKey::new((parts.logic)()), fold);
        Workers { parts, shards }
    }

    /// The watermark before the next epoch.
    pub(super) fn watermark(&self) -> Watermark {
        self.shards.clocks(None).before
    }

    /// How many keys have state.
    pub(super) fn entries(&self) -> u64 {
        self.shards.entries()
    }
}

/// The same records in another order.
fn shuffled(recs: &[Rec], seed: usize) -> Vec<Rec> {
    let mut recs = recs.to_vec();
    recs.sort_by_key(|rec| hash64(format!("{rec:?} {seed}").as_bytes()));
    recs
}

/// What each epoch of a script gives; whoever runs it gets the same: once more, other workers, state that was stored, folded
/// and restored after any epoch, other orders of arrival.
pub(super) fn given<J>(parts: &Rc<Parts<J>>, script: &[Step], workers: &[u32]) -> Vec<Given<J::Out>>
where
    J: KeyedLogic<Out: Ord + std::fmt::Debug>,
{
    let mut straight = Workers::new(1, parts);
    let mut again = Workers::new(1, parts);
    let mut moving = Workers::new(workers[0], parts);
    let mut given = Vec::new();
    for (at, step) in script.iter().enumerate() {
        let after = Some(EventTime(step.after));
        let expected = straight.epoch(&step.left, &step.right, after);
        assert_eq!(expected, again.epoch(&step.left, &step.right, after), "replay of epoch {at}");
        let other = moving.epoch(&shuffled(&step.left, at), &shuffled(&step.right, at), after);
        assert_eq!(expected, other, "epoch {at}");
        given.push(expected);
        // Not after every epoch: some changes go into a piece together.
        if workers[at % workers.len()].is_multiple_of(2) {
            moving = moving.moved(workers[(at + 1) % workers.len()], at % 3 == 0);
        }
    }
    given
}

/// The records of a script that count, with the epoch in which they come, and those that do not.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) left: Vec<(usize, Rec)>,
    pub(super) right: Vec<(usize, Rec)>,
    pub(super) refused: usize,
}

impl Counted {
    /// Judges a script record by record: one counts while W(e-1) is before `end` of it.
    pub(super) fn of(script: &[Step], end: impl Fn(i64) -> i64) -> Self {
        let mut counted = Counted::default();
        let mut before = None;
        for (at, step) in script.iter().enumerate() {
            for (recs, into) in [(&step.left, &mut counted.left), (&step.right, &mut counted.right)] {
                for rec in recs {
                    if before.is_none_or(|before| before < end(rec.time)) {
                        into.push((at, *rec));
                    } else {
                        counted.refused += 1;
                    }
                }
            }
            before = Some(step.after);
        }
        counted
    }

    /// Those that came through an epoch.
    pub(super) fn through(&self, epoch: usize) -> (Vec<Rec>, Vec<Rec>) {
        let came = |side: &[(usize, Rec)]| side.iter().filter(|(at, _)| *at <= epoch).map(|(_, rec)| *rec).collect();
        (came(&self.left), came(&self.right))
    }
}

/// Signed rows, summed.
pub(super) fn fold<O: Ord>(rows: impl IntoIterator<Item = (O, i8)>) -> BTreeMap<O, i64> {
    let mut folded = BTreeMap::new();
    for (row, sign) in rows {
        *folded.entry(row).or_default() += i64::from(sign);
    }
    folded.retain(|_, sign| *sign != 0);
    folded
}

/// The late records of a run are those that do not count, unless they are dropped, and every one is counted.
pub(super) fn check_late<O>(given: &[Given<O>], policy: Late, refused: usize) {
    let aside: usize = given.iter().map(|given| given.late.0.len() + given.late.1.len()).sum();
    assert_eq!(aside, if policy == Late::Drop { 0 } else { refused });
    let counter = |name| given.iter().filter_map(|given| given.counts.get(name)).sum::<u64>();
    if policy == Late::Correct {
        assert_eq!(counter("beyond_correction"), refused as u64);
        assert!(counter("late") >= refused as u64);
    } else {
        assert_eq!((counter("late"), counter("beyond_correction")), (refused as u64, 0));
    }
}
