//! Views over changing collections, maintained by differential dataflow (McSherry, Murray, Isaacs, Isard: CIDR 2013).
//!
//! An epoch's records change a collection of rows; a closure says what the view is, as if the collection stood still;
//! the view's changes come out when the epoch closes, retractions included.
//!
//! - **What goes in.** Each record inserts or retracts rows, and only closed epochs get in. The collection is kept by key, in
//!   checkpoints, and bounded by [`Retain`]: a row leaves when the watermark is far enough past its event time. A record
//!   that came too late for that is counted as `expired`, shown among the late ones, given by [`View::expired`], and changes
//!   nothing (INV-6). A retraction whose time ended without an insertion is counted as `unmatched`.
//! - **What comes out** of an epoch is the difference between the view over the collection at its end and at the end of the
//!   epoch before, each changed row once, the same for any number of workers (INV-2). The closure must be a function of the
//!   collection: no clock, no random numbers, no floats summed in any order.
//! - **After a crash** the kept collection is fed again and the view computed from it, in silence: what comes out next
//!   differs from what readers have by the new epochs alone. So no row is retracted and asserted again (no flicker).
//! - **Late records** correct the view, as long as the rows they meet are kept. Where rows leave although what they led to
//!   must stay (a count of an hour long ago), [`View::frozen_after`] ends the changes first.
//!
//! Changing the closure of a view that has a checkpoint asks for another id: readers have what the old one gave.
//!
//! The ten most viewed pages of each site in the last hour, always current:
//!
//! ```
//! # use tidemill_dataflow::{flow::Flow, key::key, testing::{Lines, attempt, by_epoch, memory, text}};
//! # use tidemill_dataflow::{time::{EventTime, hours, minutes}, watermark::Watermarks};
//! # use tidemill_operators::aggregate::count;
//! # use tidemill_operators::stream::KeyedStreamOps;
//! # use tidemill_operators::window::tumbling::Tumbling;
//! use tidemill_operators::incremental::{Change, IncrementalOps, KeyedRows, Ranked, Retain};
//!
//! # #[derive(Debug)]
//! # struct View { time: EventTime, site: String, page: String }
//! # let parse = |line: &str| {
//! #     let mut parts = line.split(' ').map(str::to_owned);
//! #     let time = EventTime(60_000 * parts.next()?.parse::<i64>().ok()?);
//! #     Some(View { time, site: parts.next()?, page: parts.next()? })
//! # };
//! # let lines = Lines::new(["0 shop /a\n0 shop /a\n1 shop /b\n59 shop /b\n60 shop /c\n"], parse);
//! # let store = memory();
//! # let top_pages = text("top_pages", &store, |change: &Change<(String, Ranked<String>)>| {
//! #     let Change { row: (site, Ranked { rank, item, score }), diff } = change;
//! #     format!("{diff:+} {site} {rank}: {item} ({score})")
//! # });
//! # let pipeline = move |flow: &Flow<'_>| {
//! # let views = flow.source("views", lines.clone()).event_time(
//! #     |v: &View| v.time, |_| None, Watermarks::out_of_order(minutes(0)));
//! views
//!     .key_by(|view| key(view.site.as_str(), view.page.as_str()))
//!     .window("views_per_minute", Tumbling::of(minutes(1)))
//!     .aggregate(count())
//!     .with_event_time(|minute| minute.start)
//!     .key_by(|minute| minute.key.as_ref())
//!     .incremental(
//!         "ranked_pages",
//!         Retain::last(hours(1)),
//!         |minute| {
//!             let (site, page) = minute.key.texts();
//!             Change::by(minute.value, (site.into_owned(), page.into_owned()))
//!         },
//!         |pages| pages.top_k(10),
//!     )
//!     .changes()
//!     .sink("top_pages", top_pages());
//! # };
//! # attempt(&pipeline, &store, 2).unwrap();
//! # // The watermark stands at minute 60: minute 0 has left, so /a is gone.
//! # assert_eq!(by_epoch(&store, "top_pages")[&1], ["+1 shop 1: /b (2)", "+1 shop 2: /c (1)"]);
//! ```

mod kept;
mod rows;
mod steps;

use std::collections::BTreeMap;
use std::hash::Hash;
use std::rc::Rc;
use std::time::Duration;

use differential_dataflow::{AsCollection, VecCollection};
use tidemill_dataflow::batch::{Batch, Order};
use tidemill_dataflow::driver::{Combiner, Sampler, enter_region, leave_region, within_region};
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::keyed::{Chunk, PerKey, keyed};
use tidemill_dataflow::status::Why;
use tidemill_dataflow::stream::{KeyFn, KeyedStream, Peers, Stream, TimedStream};
use tidemill_dataflow::time::{Epoch, EpochTime, EventTime, Watermark};

use crate::exchange::part;

pub use kept::{Keeping, Kept, Retain};
pub use rows::{KeyedRows, Ranked};
pub use steps::StepRows;
pub use tidemill_dataflow::driver::Change;

/// A collection inside a view: differential dataflow's own, with all its operators.
pub type Rows<'s, R> = VecCollection<'s, Epoch, R, isize>;

/// What can be a row of a collection: plain data that travels, compares and hashes.
pub trait Row: differential_dataflow::ExchangeData + Hash + Sync {}
impl<R: differential_dataflow::ExchangeData + Hash + Sync> Row for R {}

/// Views over keyed streams.
pub trait IncrementalOps<'s, D: 'static> {
    /// Keeps the rows that the records insert and retract, as long as `retain` says, and maintains `view` over them.
    ///
    /// `change` says which row a record inserts or retracts, and how often; its event time is the record's. The key
    /// parts the kept rows among workers and checkpoints, a state per key: many keys of few rows are good. The view does
    /// not see it.
    fn incremental<V: Row, R: Row>(
        self,
        id: &'static str,
        retain: Retain,
        change: impl Fn(&D) -> Change<V> + 'static,
        view: impl FnOnce(Rows<'s, V>) -> Rows<'s, R>,
    ) -> View<'s, D, R>;
}

impl<'s, D: Send + Sync + 'static> IncrementalOps<'s, D> for KeyedStream<'s, D> {
    #[track_caller]
    fn incremental<V: Row, R: Row>(
        self,
        id: &'static str,
        mut retain: Retain,
        change: impl Fn(&D) -> Change<V> + 'static,
        view: impl FnOnce(Rows<'s, V>) -> Rows<'s, R>,
    ) -> View<'s, D, R> {
        let (timed, key) = self.into_parts();
        let node = timed.record(id, format!("incremental, {retain}"));
        timed.state_means(node, retain.meaning().into());
        if let Err(problem) = retain.validate() {
            timed.problem(format!("`{id}`: {problem}"));
            retain = Retain::forever();
        }
        let (time, samples) = (timed.time(), timed.sampler(id, Why::Late));
        let taking = Taking { retain, key, time, change, rows: Vec::new(), expired: 0, samples };
        let taken = timed.combine((id, node), taking);
        let kept = keyed(timed.flow(), (id, node), taken.chunks, PerKey::new(Keeping::new(retain)));
        let build = || view(enter_region(kept).as_collection()).consolidate();
        let rows = within_region(timed.flow(), id, build);
        View { flow: timed.flow().clone(), id, node, rows, expired: taken.aside }
    }
}

/// The sending side of a view: what records change, unless their time is over.
struct Taking<D: 'static, V, F> {
    retain: Retain,
    key: KeyFn<D>,
    time: Rc<dyn Fn(&D) -> EventTime>,
    change: F,
    rows: Vec<(OwnedKey, (EventTime, Change<V>))>,
    expired: u64,
    samples: Sampler<D>,
}

impl<D: Send + Sync + 'static, V: Row, F: Fn(&D) -> Change<V> + 'static> Combiner<D> for Taking<D, V, F> {
    type Row = (OwnedKey, (EventTime, Change<V>));

    fn add(&mut self, batch: &Batch<D>, clocks: EpochTime) -> Option<Batch<D>> {
        let mut aside = Vec::new();
        batch.for_each_row(|row, record| {
            let time = (self.time)(record);
            if self.retain.is_over(time, clocks.before) {
                self.expired += 1;
                self.samples.see(batch, row);
                return aside.push(row);
            }
            self.rows.push(((self.key)(record).to_owned(), (time, (self.change)(record))));
        });
        (!aside.is_empty()).then(|| batch.only(aside.into()))
    }

    fn drain(&mut self, peers: Peers) -> (Vec<Chunk<Self::Row>>, BTreeMap<&'static str, u64>) {
        self.samples.show();
        let expired = std::mem::take(&mut self.expired);
        let counts = (expired > 0).then_some(("expired", expired));
        (part(std::mem::take(&mut self.rows), Order::default(), peers), counts.into_iter().collect())
    }
}

/// A maintained view, about to leave the region.
#[must_use = "a view gives nothing until its changes are asked for"]
pub struct View<'s, D: 'static, R: Row> {
    flow: Flow<'s>,
    id: &'static str,
    node: usize,
    rows: Rows<'s, R>,
    expired: TimedStream<'s, D>,
}

impl<'s, D: 'static, R: Row> View<'s, D, R> {
    /// The records that came too late to change anything (INV-6), for a table of their own. Some of them are shown to
    /// operators of the system as late, if the stream says [what may be shown](TimedStream::shown).
    pub fn expired(&self) -> TimedStream<'s, D> {
        self.expired.clone()
    }

    /// The changes of each epoch: a row that changes is retracted as it was and inserted as it is.
    pub fn changes(self) -> Stream<'s, Change<R>> {
        leave_region(&self.flow, (self.id, self.node), self.rows.inner, |_, _| false).0
    }

    /// The changes of each epoch, but none of a row once the watermark before the epoch is at or past its `time` plus
    /// `span`: such a row is final, whatever leaves the collection. What would have changed is counted as `frozen`.
    ///
    /// `time` must be the same for a row before and after a change. Results do not depend on how epochs are cut if every
    /// record that can change a row comes before it is frozen, and if what led to the row is kept until then:
    /// [`Retain::at_least`] with a span that reaches from the earliest of those events to `time + span`.
    pub fn frozen_after(self, time: impl Fn(&R) -> EventTime + 'static, span: Duration) -> Stream<'s, Change<R>> {
        self.frozen_after_and_late(time, span).0
    }

    /// The same, and what would have changed of final rows.
    pub fn frozen_after_and_late(
        self,
        time: impl Fn(&R) -> EventTime + 'static,
        span: Duration,
    ) -> (Stream<'s, Change<R>>, Stream<'s, Change<R>>) {
        let frozen = move |row: &R, before: Watermark| before.is_some_and(|before| time(row).plus(span) <= before);
        leave_region(&self.flow, (self.id, self.node), self.rows.inner, frozen)
    }
}

#[cfg(test)]
mod tests;
