//! The window join: all pairs of a key within a tumbling window.
//!
//! Within a (key, window) every left record meets every right one, so whether a record is without a partner depends on
//! whether the other side is empty, and on nothing else.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::keyed::{Emit, Exchanged, Keep, KeyedLogic};
use tidemill_dataflow::stream::KeyedStream;
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark};

use super::Joined;
use super::sides::{Entry, Input, Lateness, Side, join};
use crate::incremental::Change;
use crate::window::tumbling::Tumbling;

/// Two keyed streams in tumbling windows, on their way into a join.
#[must_use = "a join does nothing until it says which rows it gives"]
pub struct WindowJoin<'s, L: 'static, R: 'static> {
    pub(super) id: &'static str,
    pub(super) left: KeyedStream<'s, L>,
    pub(super) right: KeyedStream<'s, R>,
    pub(super) windows: Tumbling,
    pub(super) correctable: Duration,
}

impl<'s, L: Exchanged + Sync + Clone, R: Exchanged + Sync + Clone> WindowJoin<'s, L, R> {
    /// For how long after its end a window still takes in late records under `Late::Correct`; an hour if not said.
    pub fn correctable_for(self, span: Duration) -> Self {
        WindowJoin { correctable: span, ..self }
    }

    /// Gives each pair once, in the epoch in which the second of the two comes.
    #[track_caller]
    pub fn inner<O: Send + Sync + 'static>(self, give: impl Fn(&L, &R) -> O + 'static) -> Joined<'s, O, L, R> {
        self.build("inner", Unmatched::Neither, move |left, right, _| {
            let (left, right) = left.zip(right).expect("an inner join gives nothing but pairs");
            give(left, right)
        })
    }

    /// The same, and once a window is complete, its left records if there is no right one. When a late record on the
    /// right corrects that, they are retracted and the pairs asserted.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tidemill_dataflow::key::key;
    /// # use tidemill_dataflow::stream::{Stream, TimedStream};
    /// # use tidemill_dataflow::time::minutes;
    /// # use tidemill_operators::incremental::Change;
    /// # use tidemill_operators::join::JoinOps;
    /// # use tidemill_operators::window::tumbling::Tumbling;
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Order { id: i64 }
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Payment { order: i64 }
    /// /// The orders of each ten minutes, and whether they were paid for within them.
    /// fn paid<'s>(
    ///     orders: TimedStream<'s, Order>,
    ///     payments: TimedStream<'s, Payment>,
    /// ) -> Stream<'s, Change<(i64, bool)>> {
    ///     let payments = payments.key_by(|payment| key("shop", payment.order));
    ///     orders
    ///         .key_by(|order| key("shop", order.id))
    ///         .join_window("paid", payments, Tumbling::of(minutes(10)))
    ///         .left_outer(|order, payment| (order.id, payment.is_some()))
    ///         .rows
    /// }
    /// ```
    #[track_caller]
    pub fn left_outer<O: Send + Sync + 'static>(
        self,
        give: impl Fn(&L, Option<&R>) -> O + 'static,
    ) -> Joined<'s, Change<O>, L, R> {
        self.build("left outer", Unmatched::Left, move |left, right, sign| {
            let left = left.expect("a left outer join gives nothing without a left record");
            Change::by(i64::from(sign), give(left, right))
        })
    }

    /// The same for both sides: at least one of the two is there.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tidemill_dataflow::key::key;
    /// # use tidemill_dataflow::stream::{Stream, TimedStream};
    /// # use tidemill_dataflow::time::hours;
    /// # use tidemill_operators::incremental::Change;
    /// # use tidemill_operators::join::JoinOps;
    /// # use tidemill_operators::window::tumbling::{Late, Tumbling};
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Booking { account: String, cents: i64 }
    /// /// What two books say of an account in the same hour; a booking that one of them lacks stands alone, and a late one
    /// /// goes aside instead of correcting that.
    /// fn compared<'s>(
    ///     ours: TimedStream<'s, Booking>,
    ///     theirs: TimedStream<'s, Booking>,
    /// ) -> (Stream<'s, Change<(Option<i64>, Option<i64>)>>, TimedStream<'s, Booking>) {
    ///     let theirs = theirs.key_by(|booking| key("bank", booking.account.as_str()));
    ///     let compared = ours
    ///         .key_by(|booking| key("bank", booking.account.as_str()))
    ///         .join_window("compared", theirs, Tumbling::of(hours(1)).late(Late::Side))
    ///         .full_outer(|ours, theirs| (ours.map(|b| b.cents), theirs.map(|b| b.cents)));
    ///     (compared.rows, compared.late_left.union(compared.late_right))
    /// }
    /// ```
    #[track_caller]
    pub fn full_outer<O: Send + Sync + 'static>(
        self,
        give: impl Fn(Option<&L>, Option<&R>) -> O + 'static,
    ) -> Joined<'s, Change<O>, L, R> {
        let give = move |left: Option<&L>, right: Option<&R>, sign| Change::by(i64::from(sign), give(left, right));
        self.build("full outer", Unmatched::Both, give)
    }

    #[track_caller]
    fn build<O, G>(self, which: &str, unmatched: Unmatched, give: G) -> Joined<'s, O, L, R>
    where
        O: Send + Sync + 'static,
        G: Fn(Option<&L>, Option<&R>, i8) -> O + 'static,
    {
        let WindowJoin { id, left, right, windows, correctable } = self;
        let left = Input::new(left, |time, record: &L| Side::Left(time, record.clone()));
        let right = Input::new(right, |time, record: &R| Side::Right(time, record.clone()));
        let (width, policy) = (windows.width(), windows.late_policy());
        let lateness = Lateness::of_windows(width, policy, correctable);
        let problems: Vec<_> = [windows.validate(), lateness.validate()].into_iter().filter_map(Result::err).collect();
        let span = correctable.as_millis();
        let meaning = format!("join {which}, windows tumbling {width} ms");
        let kind = format!("{meaning}, late {policy:?}, correctable {span} ms");
        let logic = WindowLogic::new(width, lateness, unmatched, give);
        join(Entry { id, kind, meaning, problems }, (left, right), lateness, logic)
    }
}

/// Which records a join gives without a partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmatched {
    Neither,
    Left,
    Both,
}

/// The records of a key in one window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pane<L, R> {
    left: Vec<L>,
    right: Vec<R>,
    /// Whether the window was complete when it was last looked at: then what is without a partner was given.
    complete: bool,
}

impl<L, R> Default for Pane<L, R> {
    fn default() -> Self {
        Pane { left: Vec::new(), right: Vec::new(), complete: false }
    }
}

impl<L, R> Pane<L, R> {
    /// How many records on the left and on the right are shown as having no partner.
    fn alone(&self) -> (usize, usize) {
        match (self.complete, self.left.len(), self.right.len()) {
            (true, left, 0) => (left, 0),
            (true, 0, right) => (0, right),
            _ => (0, 0),
        }
    }
}

/// The window join of one key. Its state is version 1.
pub(crate) struct WindowLogic<L, R, G> {
    width: i64,
    lateness: Lateness,
    unmatched: Unmatched,
    give: G,
    types: PhantomData<fn(L, R)>,
}

impl<L, R, G> WindowLogic<L, R, G> {
    pub(crate) fn new(width: i64, lateness: Lateness, unmatched: Unmatched, give: G) -> Self {
        WindowLogic { width, lateness, unmatched, give, types: PhantomData }
    }

    /// Gives the pairs that an epoch's records of a window make, and what is now known to have no partner.
    fn close<O>(&self, start: EventTime, pane: &mut Pane<L, R>, new: Pane<L, R>, after: Watermark, out: &mut Emit<O>)
    where
        G: Fn(Option<&L>, Option<&R>, i8) -> O,
    {
        let (left_shown, right_shown) = pane.alone();
        let mut pairs = |lefts: &[L], rights: &[R]| {
            for left in lefts {
                rights.iter().for_each(|right| out.give((self.give)(Some(left), Some(right), 1)));
            }
        };
        pairs(&new.left, &pane.right);
        pairs(&new.left, &new.right);
        pairs(&pane.left, &new.right);
        pane.left.extend(new.left);
        pane.right.extend(new.right);
        pane.complete = Some(self.lateness.complete_at(start)) <= after;
        let (left_now, right_now) = pane.alone();
        if self.unmatched != Unmatched::Neither {
            // New records come after the old ones, so those that are shown are the first ones.
            changed(left_shown, left_now, |at, sign| out.give((self.give)(Some(&pane.left[at]), None, sign)));
        }
        if self.unmatched == Unmatched::Both {
            changed(right_shown, right_now, |at, sign| out.give((self.give)(None, Some(&pane.right[at]), sign)));
        }
    }
}

/// Goes from the first `shown` rows to the first `now` ones: asserts what is missing or retracts what is too much.
fn changed(shown: usize, now: usize, mut give: impl FnMut(usize, i8)) {
    (shown..now).for_each(|at| give(at, 1));
    (now..shown).for_each(|at| give(at, -1));
}

impl<L, R, G, O> KeyedLogic for WindowLogic<L, R, G>
where
    L: Exchanged + Clone,
    R: Exchanged + Clone,
    G: Fn(Option<&L>, Option<&R>, i8) -> O + 'static,
    O: Send + Sync + 'static,
{
    type In = Side<L, R>;
    /// The windows that a record may still come to, by start.
    type State = BTreeMap<EventTime, Pane<L, R>>;
    type Out = O;
    const STATE_VERSION: u32 = 1;

    fn on_epoch(
        &self,
        _: &OwnedKey,
        panes: &mut Self::State,
        records: &mut Vec<Side<L, R>>,
        clocks: EpochTime,
        out: &mut Emit<O>,
    ) -> Keep {
        let mut came = Self::State::new();
        for record in records.drain(..) {
            match record {
                Side::Left(time, record) => came.entry(time.window_start(self.width)).or_default().left.push(record),
                Side::Right(time, record) => came.entry(time.window_start(self.width)).or_default().right.push(record),
            }
        }
        for (start, new) in came {
            self.close(start, panes.entry(start).or_default(), new, clocks.after, out);
        }
        for (&start, pane) in panes.iter_mut() {
            if !pane.complete && Some(self.lateness.complete_at(start)) <= clocks.after {
                self.close(start, pane, Pane::default(), clocks.after, out);
            }
        }
        panes.retain(|&start, _| Some(self.lateness.leaves_at(start)) > clocks.after);
        if panes.is_empty() { Keep::Remove } else { Keep::Keep }
    }

    fn deadline(&self, panes: &Self::State) -> Option<EventTime> {
        let leaves = panes.first_key_value().map(|(&start, _)| self.lateness.leaves_at(start));
        if self.unmatched == Unmatched::Neither {
            return leaves;
        }
        let open = panes.iter().find(|(_, pane)| !pane.complete).map(|(&start, _)| self.lateness.complete_at(start));
        leaves.into_iter().chain(open).min()
    }

    fn heap_bytes(&self, panes: &Self::State) -> usize {
        let records = |pane: &Pane<L, R>| {
            pane.left.capacity() * size_of::<L>() + pane.right.capacity() * size_of::<R>() + size_of::<Pane<L, R>>()
        };
        panes.values().map(records).sum()
    }
}

#[cfg(test)]
mod tests;
