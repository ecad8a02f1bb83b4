//! What the tests of windows of a fixed width need: scripts, a combiner and a logic on some workers, and the laws of
//! snapshot, workers and order, which every script is put through.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::rc::Rc;

use proptest::prelude::*;
use tidemill_dataflow::batch::{Batch, Order};
use tidemill_dataflow::driver::Combiner;
use tidemill_dataflow::hash::hash64;
use tidemill_dataflow::key::key;
use tidemill_dataflow::keyed::{Emit, ShardLogic};
use tidemill_dataflow::stream::{KeyFn, Peers};
use tidemill_dataflow::time::{EventTime, Watermark};

use super::assigner::{Assigner, Late};
use super::cells::MergeLogic;
use super::windowed::{Deltas, Windower};
use crate::aggregate::{Aggregate, Hashes, count, distinct, sum};
use crate::shards::Shards;

/// A page view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct View {
    pub(crate) page: u8,
    pub(crate) user: u8,
    pub(crate) time: i64,
}

const USERS: [&str; 10] = ["u0", "u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9"];

/// The name of a view's user.
pub(crate) fn user(view: &View) -> &'static str {
    USERS[usize::from(view.user)]
}

/// An epoch: its views, and the watermark after it.
pub(crate) type Step = (Vec<View>, i64);

/// Epochs whose views lie around the watermark before them: up to `behind` earlier, up to 60 later.
pub(crate) fn script(behind: i64) -> impl Strategy<Value = Vec<Step>> {
    let epoch = prop::collection::vec((0u8..3, 0u8..6, -behind..60), 0..12);
    prop::collection::vec((epoch, 0i64..50), 1..16).prop_map(|steps| {
        let mut before = 1_000;
        let step = |(views, moves): (Vec<(u8, u8, i64)>, i64)| {
            let view = |(page, user, offset)| View { page, user, time: before + offset };
            let views = views.into_iter().map(view).collect();
            before += moves;
            (views, before)
        };
        steps.into_iter().map(step).collect()
    })
}

/// Judges and combines views by page.
pub(crate) fn windower<A: Aggregate<View>, W: Assigner>(
    windows: &W,
    correctable: i64,
    aggregate: &Rc<A>,
) -> Windower<View, A, W> {
    let page: KeyFn<View> = Rc::new(|view| key("t", ["/a", "/b", "/c"][usize::from(view.page)]));
    Windower::new(windows, correctable, Rc::clone(aggregate), page, Rc::new(|view: &View| EventTime(view.time)))
}

/// What an epoch gave: rows, views that went aside, counters; all sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given<O> {
    pub(crate) rows: Vec<O>,
    pub(crate) aside: Vec<View>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// An operator over the key groups of some workers, all of them also readers.
struct Workers<'a, C, L> {
    make: &'a dyn Fn() -> (C, L),
    combiners: Vec<C>,
    shards: Shards<L>,
}

impl<'a, C: Combiner<View>, L: ShardLogic<In = C::Row>> Workers<'a, C, L> {
    fn new(count: u32, make: &'a dyn Fn() -> (C, L)) -> Self {
        let combiners = (0..count).map(|_| make().0).collect();
        Workers { make, combiners, shards: Shards::new(count, || make().1) }
    }

    /// One epoch; view `n` is read by worker `n % workers`, in two blocks.
    fn epoch(
        &mut self,
        views: &[View],
        after: Watermark,
        order: impl Fn(&L::Out, &L::Out) -> std::cmp::Ordering,
    ) -> Given<L::Out> {
        let (clocks, workers) = (self.shards.clocks(after), self.shards.workers());
        let (mut aside, mut counts, mut chunks) = (Vec::new(), BTreeMap::new(), Vec::new());
        for (me, combiner) in (0..workers).zip(&mut self.combiners) {
            let read: Vec<_> = views.iter().copied().skip(me as usize).step_by(workers as usize).collect();
            let (first, second) = read.split_at(read.len() / 2);
            for block in [first, second] {
                let late = combiner.add(&Batch::new(Order::default(), block.to_vec()), clocks);
                late.into_iter().for_each(|batch| batch.for_each(|view| aside.push(*view)));
            }
            let (rows, counted) = combiner.drain(Peers { me, workers });
            chunks.extend(rows);
            counted.into_iter().for_each(|(name, n)| *counts.entry(name).or_default() += n);
        }
        let Emit { records: mut rows, counts: of_owners } = self.shards.close_chunks(chunks, after);
        assert!(of_owners.is_empty());
        rows.sort_by(order);
        aside.sort();
        Given { rows, aside, counts }
    }

    /// The same state, stored, folded by group if `fold`, and restored on other workers.
    fn moved(self, count: u32, fold: bool) -> Self {
        let make = self.make;
        let shards = self.shards.moved(count, || make().1, fold);
        Workers { shards, ..Workers::new(count, make) }
    }
}

/// What each epoch of a script gives. Whoever runs it gets the same: one worker twice, other workers, state that was
/// stored and restored between epochs, other orders of arrival. In the end nothing is left in state.
pub(crate) fn given<C, L>(make: &dyn Fn() -> (C, L), script: &[Step], workers: &[u32]) -> Vec<Given<L::Out>>
where
    C: Combiner<View>,
    L: ShardLogic<In = C::Row, Out: PartialEq + Debug>,
{
    // Rows have no order of their own where values have none: their text has one.
    let order = |a: &L::Out, b: &L::Out| format!("{a:?}").cmp(&format!("{b:?}"));
    let mut straight = Workers::new(1, make);
    let mut again = Workers::new(1, make);
    let mut moving = Workers::new(workers[0], make);
    let mut given = Vec::new();
    for (at, (views, after)) in script.iter().enumerate() {
        let after = Some(EventTime(*after));
        let mut shuffled = views.clone();
        shuffled.sort_by_key(|view| hash64(format!("{view:?} {at}").as_bytes()));
        let expected = straight.epoch(views, after, order);
        assert_eq!(expected, again.epoch(views, after, order), "replay of epoch {at}");
        assert_eq!(expected, moving.epoch(&shuffled, after, order), "epoch {at} on other workers");
        given.push(expected);
        // Not after every epoch: some changes go into a piece together.
        let next = workers[at % workers.len()];
        if next.is_multiple_of(2) {
            moving = moving.moved(next, at % 3 == 0);
        }
        assert_eq!(straight.shards.entries(), moving.shards.entries());
    }
    let last = straight.epoch(&[], Some(EventTime::MAX), order);
    assert_eq!(last, moving.moved(3, false).epoch(&[], Some(EventTime::MAX), order));
    assert_eq!(straight.shards.entries(), 0);
    given.push(last);
    given
}

/// The windows of a time, by trying every multiple of the step around it.
pub(crate) fn naive_windows(time: i64, width: i64, step: i64) -> Vec<i64> {
    let around = (time - width).div_euclid(step)..=(time + width).div_euclid(step);
    around.map(|n| n * step).filter(|start| (*start..start + width).contains(&time)).collect()
}

/// Which views of a script count for which (page, window), by the epoch in which they come; which of them are late, and
/// how many windows the others missed.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) cells: BTreeMap<(u8, i64), Vec<(usize, View)>>,
    pub(crate) late: Vec<(usize, View)>,
    pub(crate) missed: u64,
}

impl Judged {
    /// Judges view by view and window by window; `correctable` is counted from the end of a window.
    pub(crate) fn of(script: &[Step], (width, step): (i64, i64), correctable: i64, policy: Late) -> Self {
        let mut judged = Judged::default();
        let mut before = None;
        for (at, (views, after)) in script.iter().enumerate() {
            for view in views {
                let windows = naive_windows(view.time, width, step);
                let open = |start: &&i64| before.is_none_or(|before| before < **start + width + correctable);
                let opens: Vec<_> = windows.iter().filter(open).collect();
                if opens.is_empty() {
                    judged.late.push((at, *view));
                } else if policy != Late::Correct {
                    judged.missed += (windows.len() - opens.len()) as u64;
                }
                let counting = if policy == Late::Correct { windows.iter().collect() } else { opens };
                for start in counting {
                    judged.cells.entry((view.page, *start)).or_default().push((at, *view));
                }
            }
            before = Some(*after);
        }
        judged
    }

    /// Late views go where the policy says, and are counted.
    pub(crate) fn check_late<O>(&self, given: &[Given<O>], policy: Late) {
        let aside: Vec<_> = given.iter().flat_map(|given| given.aside.clone()).collect();
        if policy == Late::Side {
            let mut late: Vec<_> = self.late.clone();
            late.sort();
            assert_eq!(aside, late.into_iter().map(|(_, view)| view).collect::<Vec<_>>());
        } else {
            assert_eq!(aside, []);
        }
        let counter = |name| given.iter().filter_map(|given| given.counts.get(name)).sum::<u64>();
        assert_eq!((counter("late"), counter("late_windows")), (self.late.len() as u64, self.missed));
    }
}

/// Deltas of windows of this width and step: each epoch gives each window what came for it, and nothing else.
pub(crate) fn check_deltas<W: Assigner>(windows: &W, (width, step): (i64, i64), script: &[Step], workers: &[u32]) {
    let aggregate = Rc::new((count(), sum(|v: &View| i64::from(v.user)), distinct(|v: &View| u64::from(v.user))));
    let make = || (Deltas(windower(windows, 0, &aggregate)), MergeLogic::new(windows, Rc::clone(&aggregate)));
    let given = given(&make, script, workers);
    let judged = Judged::of(script, (width, step), 0, windows.late_policy());
    judged.check_late(&given, windows.late_policy());
    for (at, epoch) in given.iter().enumerate() {
        let mut expected = Vec::new();
        for ((page, start), views) in &judged.cells {
            let users: Vec<_> = views.iter().filter(|(came, _)| *came == at).map(|(_, v)| u64::from(v.user)).collect();
            if !users.is_empty() {
                let mut hashes = users.clone();
                hashes.sort_unstable();
                hashes.dedup();
                let sums = (users.len() as i64, i128::from(users.iter().sum::<u64>()), Hashes(hashes));
                expected.push((["/a", "/b", "/c"][usize::from(*page)].to_owned(), *start, sums));
            }
        }
        let mut rows: Vec<_> =
            epoch.rows.iter().map(|row| (row.key.texts().1.into_owned(), row.start.0, row.value.clone())).collect();
        rows.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        assert_eq!(rows, expected, "epoch {at}");
    }
}
