//! Joins of two streams by key: within windows, within a distance in time, and with a table as it was then.
//!
//! Both sides come from the flow's one source, split by the author. Every record travels to the owner of its key and
//! waits there for partners, as long as a partner that still counts could come; so state is bounded by the span of event
//! time that a join looks at, plus the time for which it is correctable. What a join gives for an epoch is a function of
//! its state, the epoch's records as a multiset and the watermarks (INV-2). Equal records are different ones: two equal
//! records on one side and three on the other make six pairs.
//!
//! | join | pairs | when given |
//! |---|---|---|
//! | [`JoinOps::join_window`] | same key, same tumbling window | once, in the epoch of the second of the pair |
//! | [`JoinOps::join_interval`] | same key, right within a span around left | once, in the epoch of the second of the pair |
//! | [`JoinOps::lookup`] | each fact with the version valid at its time | at once with corrections, or once W has passed it |
//!
//! **Late records** (see [`Late`]): under `Late::Correct` they count like others until W is the correctable span past
//! what they belong to; under `Late::Side` and `Late::Drop` they do not count. What does not count is counted and, but for
//! `Late::Drop`, goes to the late streams of [`Joined`] (INV-6).

use std::time::Duration;

use tidemill_dataflow::keyed::Exchanged;
use tidemill_dataflow::stream::{KeyedStream, Stream, TimedStream};

use crate::window::tumbling::{Late, Tumbling};

mod interval;
mod sides;
mod temporal;
mod window;

pub use interval::{IntervalJoin, Within};
pub use temporal::Lookup;
pub use window::WindowJoin;

/// What comes out of a join. Rows that may be taken back are changes of a collection: of one row more, or one less.
pub struct Joined<'s, O: 'static, L: 'static, R: 'static> {
    /// Its rows.
    pub rows: Stream<'s, O>,
    /// Late records of the left side that did not count.
    pub late_left: TimedStream<'s, L>,
    /// Late records of the right side that did not count.
    pub late_right: TimedStream<'s, R>,
}

/// Joins of keyed streams; of both streams the keys decide, tenant included.
pub trait JoinOps<'s, L: 'static>: Sized {
    /// Pairs the records of one key that are in the same window.
    ///
    /// State: the records of each (key, window) until W passes the window's end, and under [`Late::Correct`] the
    /// correctable span more.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tidemill_dataflow::key::key;
    /// # use tidemill_dataflow::stream::{Stream, TimedStream};
    /// # use tidemill_dataflow::time::{hours, minutes};
    /// # use tidemill_operators::join::JoinOps;
    /// # use tidemill_operators::window::tumbling::{Late, Tumbling};
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Bid { item: String, price: u64 }
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Auction { item: String, reserve: u64 }
    /// /// The bids that reach the reserve of an auction opened in the same ten minutes.
    /// fn early_hits<'s>(bids: TimedStream<'s, Bid>, auctions: TimedStream<'s, Auction>) -> Stream<'s, (String, bool)> {
    ///     let auctions = auctions.key_by(|auction| key("shop", auction.item.as_str()));
    ///     bids.key_by(|bid| key("shop", bid.item.as_str()))
    ///         .join_window("early_hits", auctions, Tumbling::of(minutes(10)).late(Late::Correct))
    ///         .correctable_for(hours(2))
    ///         .inner(|bid, auction| (bid.item.clone(), bid.price >= auction.reserve))
    ///         .rows
    /// }
    /// ```
    #[track_caller]
    fn join_window<R: 'static>(
        self,
        id: &'static str,
        right: KeyedStream<'s, R>,
        windows: Tumbling,
    ) -> WindowJoin<'s, L, R>;

    /// Pairs the records of one key whose times are within a distance of each other.
    ///
    /// State: each record until no partner that counts can come any more.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tidemill_dataflow::key::key;
    /// # use tidemill_dataflow::stream::{Stream, TimedStream};
    /// # use tidemill_dataflow::time::minutes;
    /// # use tidemill_operators::join::{JoinOps, Within};
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Click { user: String, ad: u64 }
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Purchase { user: String, cents: i64 }
    /// /// What was bought within a quarter of an hour after a click; clicks that led to nothing too, with zero.
    /// fn value_of_clicks<'s>(
    ///     clicks: TimedStream<'s, Click>,
    ///     purchases: TimedStream<'s, Purchase>,
    /// ) -> Stream<'s, (u64, i64)> {
    ///     let purchases = purchases.key_by(|purchase| key("shop", purchase.user.as_str()));
    ///     clicks
    ///         .key_by(|click| key("shop", click.user.as_str()))
    ///         .join_interval("value_of_clicks", purchases, Within::after(minutes(15)))
    ///         .left_outer(|click, purchase| (click.ad, purchase.map_or(0, |purchase| purchase.cents)))
    ///         .rows
    /// }
    /// ```
    #[track_caller]
    fn join_interval<R: 'static>(
        self,
        id: &'static str,
        right: KeyedStream<'s, R>,
        within: Within,
    ) -> IntervalJoin<'s, L, R>;

    /// Looks each record up in a changing table, as it was at the record's event time.
    ///
    /// `versions` says what a key became and when; `value` takes out what is to be looked up, `None` where the key was
    /// deleted. Valid at a time is the version with the largest time at or before it; of several with that time, the one
    /// whose encoded value is largest. Only the value travels and is kept.
    ///
    /// State: of each key that is not deleted its latest version, beside what can still be corrected or waits.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use tidemill_dataflow::key::key;
    /// # use tidemill_dataflow::stream::{Stream, TimedStream};
    /// # use tidemill_operators::incremental::Change;
    /// # use tidemill_operators::join::JoinOps;
    /// # #[derive(Clone, Serialize, Deserialize)]
    /// # struct Order { id: u64, currency: String, amount: i64 }
    /// # struct Rate { currency: String, in_euro_cents: Option<i64> }
    /// /// Orders in euro, at the rate of their time; corrected when a rate comes late.
    /// fn in_euro<'s>(orders: TimedStream<'s, Order>, rates: TimedStream<'s, Rate>) -> Stream<'s, Change<(u64, i64)>> {
    ///     let rates = rates.key_by(|rate| key("bank", rate.currency.as_str()));
    ///     orders
    ///         .key_by(|order| key("bank", order.currency.as_str()))
    ///         .lookup("in_euro", rates, |rate| rate.in_euro_cents)
    ///         .corrected(|order, cents| (order.id, order.amount * cents.copied().unwrap_or(0)))
    ///         .rows
    /// }
    /// ```
    #[track_caller]
    fn lookup<V: 'static, T: Exchanged + Clone>(
        self,
        id: &'static str,
        versions: KeyedStream<'s, V>,
        value: impl Fn(&V) -> Option<T> + 'static,
    ) -> Lookup<'s, L, V, T>;
}

/// For how long joins are correctable unless they say otherwise: as long as sessions are.
const CORRECTABLE: Duration = Duration::from_secs(3_600);

impl<'s, L: 'static> JoinOps<'s, L> for KeyedStream<'s, L> {
    #[track_caller]
    fn join_window<R: 'static>(
        self,
        id: &'static str,
        right: KeyedStream<'s, R>,
        windows: Tumbling,
    ) -> WindowJoin<'s, L, R> {
        self.declare(id);
        WindowJoin { id, left: self, right, windows, correctable: CORRECTABLE }
    }

    #[track_caller]
    fn join_interval<R: 'static>(
        self,
        id: &'static str,
        right: KeyedStream<'s, R>,
        within: Within,
    ) -> IntervalJoin<'s, L, R> {
        self.declare(id);
        IntervalJoin { id, left: self, right, within, late: Late::Correct, correctable: CORRECTABLE }
    }

    #[track_caller]
    fn lookup<V: 'static, T: Exchanged + Clone>(
        self,
        id: &'static str,
        versions: KeyedStream<'s, V>,
        value: impl Fn(&V) -> Option<T> + 'static,
    ) -> Lookup<'s, L, V, T> {
        self.declare(id);
        let (late, correctable) = (Late::Correct, CORRECTABLE);
        Lookup { id, facts: self, versions, value: Box::new(value), late, correctable }
    }
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod runs;
