//! Views over changing collections, maintained by differential dataflow (McSherry, Murray, Isaacs, Isard: CIDR 2013).
//!
//! An epoch's records change a collection of rows; a closure says what the view is, as if the collection stood still;
//! the view's changes come out when the epoch closes, retractions included.
//!
//! - **What goes in.** Each record inserts or retracts rows, and only closed epochs get in. The collection is kept by key, in
//!   checkpoints, and bounded by [`Retain`]: a row leaves when the watermark is far enough past its event time. A row
//!   that came too late for that is counted as `expired` and changes nothing (INV-6).
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

use std::hash::Hash;
use std::time::Duration;

use differential_dataflow::{AsCollection, VecCollection};
use tidemill_dataflow::batch::Batch;
use tidemill_dataflow::driver::{enter_region, leave_region};
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::keyed::{PerKey, keyed};
use tidemill_dataflow::stream::{KeyedStream, Peers, Stream};
use tidemill_dataflow::time::{Epoch, EventTime, Watermark};

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
    ) -> View<'s, R>;
}

impl<'s, D: Send + Sync + 'static> IncrementalOps<'s, D> for KeyedStream<'s, D> {
    #[track_caller]
    fn incremental<V: Row, R: Row>(
        self,
        id: &'static str,
        mut retain: Retain,
        change: impl Fn(&D) -> Change<V> + 'static,
        view: impl FnOnce(Rows<'s, V>) -> Rows<'s, R>,
    ) -> View<'s, R> {
        let (timed, key) = self.into_parts();
        let node = timed.record(id, format!("incremental, {retain}"));
        if let Err(problem) = retain.validate() {
            timed.problem(format!("`{id}`: {problem}"));
            retain = Retain::forever();
        }
        let time = timed.time();
        let chunks = timed.route("changes", move |batch: &Batch<D>, peers: Peers| {
            let mut rows = Vec::with_capacity(batch.len());
            batch.for_each(|record| rows.push((key(record).to_owned(), (time(record), change(record)))));
            part(rows, batch.order, peers)
        });
        let kept = keyed(timed.flow(), (id, node), chunks, PerKey::new(Keeping::new(retain)));
        let rows = view(enter_region(kept).as_collection()).consolidate();
        View { flow: timed.flow().clone(), id, node, rows }
    }
}

/// A maintained view, about to leave the region.
#[must_use = "a view gives nothing until its changes are asked for"]
pub struct View<'s, R: Row> {
    flow: Flow<'s>,
    id: &'static str,
    node: usize,
    rows: Rows<'s, R>,
}

impl<'s, R: Row> View<'s, R> {
    /// The changes of each epoch: a row that changes is retracted as it was and inserted as it is.
    pub fn changes(self) -> Stream<'s, Change<R>> {
        leave_region(&self.flow, (self.id, self.node), self.rows.inner, |_, _| false)
    }

    /// The changes of each epoch, but none of a row once the watermark before the epoch is at or past its `time` plus
    /// `span`: such a row is final, whatever leaves the collection. What would have changed is counted as `frozen`.
    ///
    /// `time` must be the same for a row before and after a change. Results do not depend on how epochs are cut if every
    /// record that can change a row comes before it is frozen, and if what led to the row is kept until then:
    /// [`Retain::at_least`] with a span that reaches from the earliest of those events to `time + span`.
    pub fn frozen_after(self, time: impl Fn(&R) -> EventTime + 'static, span: Duration) -> Stream<'s, Change<R>> {
        let frozen = move |row: &R, before: Watermark| before.is_some_and(|before| time(row).plus(span) <= before);
        leave_region(&self.flow, (self.id, self.node), self.rows.inner, frozen)
    }
}

#[cfg(test)]
mod tests;
