//! [`SourceStream`], [`Stream`], [`TimedStream`], [`KeyedStream`]: what authors chain.
//!
//! Every call builds its timely operators at once and records itself in the plan. `filter`, `key_by` and event times are
//! lazy: they become part of the next operator, so a record is looked at once and copied never.

use std::panic::Location;
use std::rc::Rc;

use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::Stream as TimelyStream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Concat;
use timely::dataflow::operators::generic::Operator as _;

use crate::batch::Batch;
use crate::driver::sampler::Show;
use crate::driver::{sink, source};
use crate::flow::Flow;
use crate::key::KeyRef;
use crate::keyed::{Chunk, Traced};
use crate::plan::Place;
use crate::sink::TableSink;
use crate::source::{DeadLetter, Source};
use crate::status::gauge::Role;
use crate::time::{Epoch, EventTime, Watermark};
use crate::watermark::Watermarks;

/// A line that could not become a record, with the name of its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The partition's name (a file's name).
    pub partition: String,
    /// The line and what is wrong with it.
    pub letter: DeadLetter,
}

/// A source that has no event time yet.
#[must_use = "a source reads only once it has event times"]
pub struct SourceStream<'s, S: Source> {
    flow: Flow<'s>,
    id: &'static str,
    source: S,
    malformed: Option<(&'static str, Place, TableSink<Rejected>)>,
}

/// The record type of a source.
pub type RecordOf<S> = <<S as Source>::Decoder as crate::source::Decode>::Record;

impl<'s, S: Source> SourceStream<'s, S> {
    pub(crate) fn new(flow: Flow<'s>, id: &'static str, source: S) -> Self {
        SourceStream { flow, id, source, malformed: None }
    }

    /// Writes what cannot become a record to `sink` (INV-6). Without it, malformed input is only counted.
    #[track_caller]
    pub fn malformed_to(mut self, id: &'static str, sink: TableSink<Rejected>) -> Self {
        self.malformed = Some((id, Location::caller(), sink));
        self
    }

    /// Gives the records event times: `time` of a record, and `server_time`, the clock that vouches for it, if any.
    pub fn event_time(
        self,
        time: impl Fn(&RecordOf<S>) -> EventTime + 'static,
        server_time: impl Fn(&RecordOf<S>) -> Watermark + 'static,
        rule: Watermarks,
    ) -> TimedStream<'s, RecordOf<S>> {
        let SourceStream { flow, id, source: connector, malformed } = self;
        let bound = rule.out_of_orderness.as_secs();
        let setting = connector.setting().map_or_else(String::new, |setting| format!(", {setting}"));
        let node = flow.record(Some(id), format!("source, watermark {bound} s behind{setting}"), &[], None);
        let time_of = Rc::new(time);
        let timestamp = Rc::clone(&time_of);
        let (records, rejected) =
            source::build(&flow, (id, node), connector, move |r| (timestamp(r), server_time(r)), rule);
        if let Some((sink_id, at, table)) = malformed {
            flow.wiring.plan.borrow_mut().declare(sink_id, at);
            Stream { flow: flow.clone(), batches: rejected, filter: None, node }.sink(sink_id, table);
        }
        TimedStream { stream: Stream { flow, batches: records, filter: None, node }, time: time_of, show: None }
    }
}

/// Looks at a record and says yes or no.
type Predicate<D> = Rc<dyn Fn(&D) -> bool>;

/// A stream of records.
#[must_use = "a stream that goes nowhere does nothing"]
pub struct Stream<'s, D: 'static> {
    pub(crate) flow: Flow<'s>,
    pub(crate) batches: TimelyStream<'s, Epoch, Batch<D>>,
    pub(crate) filter: Option<Predicate<D>>,
    pub(crate) node: usize,
}

impl<D: 'static> Clone for Stream<'_, D> {
    fn clone(&self) -> Self {
        let filter = self.filter.clone();
        Stream { flow: self.flow.clone(), batches: self.batches.clone(), filter, node: self.node }
    }
}

impl<'s, D: Send + Sync + 'static> Stream<'s, D> {
    /// Keeps the records that `keep` says yes to.
    ///
    /// ```
    /// # use tidemill_dataflow::stream::Stream;
    /// fn failures(statuses: Stream<'_, u16>) -> Stream<'_, u16> {
    ///     statuses.filter(|status| *status >= 500)
    /// }
    /// ```
    pub fn filter(mut self, keep: impl Fn(&D) -> bool + 'static) -> Self {
        self.filter = Some(match self.filter.take() {
            Some(before) => Rc::new(move |record| before(record) && keep(record)),
            None => Rc::new(keep),
        });
        self
    }

    /// Parts the stream in two: the records that `first` says yes to, and the others. Both read the same blocks, nothing is
    /// copied; each asks for itself, so the answer must depend on the record alone.
    ///
    /// ```
    /// # use tidemill_dataflow::stream::Stream;
    /// enum Event {
    ///     View { page: String },
    ///     Purchase { cents: i64 },
    /// }
    ///
    /// fn by_kind(events: Stream<'_, Event>) {
    ///     let (views, purchases) = events.split(|event| matches!(event, Event::View { .. }));
    ///     # drop((views, purchases));
    /// }
    /// ```
    pub fn split(self, first: impl Fn(&D) -> bool + 'static) -> (Self, Self) {
        let first = Rc::new(first);
        let others = Rc::clone(&first);
        (self.clone().filter(move |record| first(record)), self.filter(move |record| !others(record)))
    }

    /// Parts the stream in `N`, by the number that `of` gives each record: 0 for the first; numbers beyond the last go to the
    /// last. Like [`split`](Self::split) otherwise.
    ///
    /// ```
    /// # use tidemill_dataflow::stream::Stream;
    /// fn by_status(statuses: Stream<'_, u16>) {
    ///     let [fine, theirs, ours] = statuses.branch(|status| match status {
    ///         ..400 => 0,
    ///         400..500 => 1,
    ///         500.. => 2,
    ///     });
    ///     # drop((fine, theirs, ours));
    /// }
    /// ```
    pub fn branch<const N: usize>(self, of: impl Fn(&D) -> usize + 'static) -> [Self; N] {
        let of = Rc::new(of);
        std::array::from_fn(|branch| {
            let of = Rc::clone(&of);
            self.clone().filter(move |record| of(record).min(N - 1) == branch)
        })
    }

    /// Turns each record into another one.
    ///
    /// ```
    /// # use tidemill_dataflow::stream::{Stream, TimedStream};
    /// # use tidemill_dataflow::time::EventTime;
    /// struct Reading {
    ///     at: EventTime,
    ///     fahrenheit: f64,
    /// }
    ///
    /// /// What is made anew has no event time until it is given one.
    /// fn celsius(readings: Stream<'_, Reading>) -> TimedStream<'_, (EventTime, f64)> {
    ///     readings.map(|r| (r.at, (r.fahrenheit - 32.0) / 1.8)).with_event_time(|(at, _)| *at)
    /// }
    /// ```
    #[track_caller]
    pub fn map<E: Send + Sync + 'static>(self, f: impl Fn(&D) -> E + 'static) -> Stream<'s, E> {
        self.transform("map", move |record, out| out.push(f(record)))
    }

    /// Turns each record into another one, or drops it.
    ///
    /// ```
    /// # use tidemill_dataflow::stream::Stream;
    /// fn numbers(texts: Stream<'_, String>) -> Stream<'_, i64> {
    ///     texts.filter_map(|text| text.trim().parse().ok())
    /// }
    /// ```
    #[track_caller]
    pub fn filter_map<E: Send + Sync + 'static>(self, f: impl Fn(&D) -> Option<E> + 'static) -> Stream<'s, E> {
        self.transform("filter_map", move |record, out| out.extend(f(record)))
    }

    /// Turns each record into any number of others.
    ///
    /// ```
    /// # use tidemill_dataflow::stream::Stream;
    /// struct Order {
    ///     id: u64,
    ///     articles: Vec<u64>,
    /// }
    ///
    /// fn lines(orders: Stream<'_, Order>) -> Stream<'_, (u64, u64)> {
    ///     orders.flat_map(|order| order.articles.iter().map(|article| (order.id, *article)).collect::<Vec<_>>())
    /// }
    /// ```
    #[track_caller]
    pub fn flat_map<E: Send + Sync + 'static, I: IntoIterator<Item = E>>(
        self,
        f: impl Fn(&D) -> I + 'static,
    ) -> Stream<'s, E> {
        self.transform("flat_map", move |record, out| out.extend(f(record)))
    }

    /// Looks at every record, on the worker where it is.
    pub fn inspect(self, f: impl Fn(&D) + 'static) -> Self {
        // Who looks uses the stream, whether it goes on or not.
        self.flow.mark_used(self.node);
        let filter = self.filter.clone();
        let batches = self.batches.unary::<NoopBuilder<Batch<D>>, _, _, _>(Pipeline, "inspect", move |_, _| {
            move |input, output| {
                input.for_each(|capability, batch| {
                    let Some(&epoch) = capability.least() else { return };
                    let look = || {
                        batch.for_each(|record| {
                            if filter.as_ref().is_none_or(|keep| keep(record)) {
                                f(record);
                            }
                        });
                    };
                    if batch.pass(("inspect", epoch), look).is_some() {
                        output.session_with_builder(&capability).give_container(batch);
                    }
                });
            }
        });
        Stream { batches, ..self }
    }

    /// Both streams as one. Their records keep their order in the input, not between the streams.
    ///
    /// ```
    /// # use tidemill_dataflow::stream::Stream;
    /// fn set_aside<'s>(late: Stream<'s, String>, unverified: Stream<'s, String>) -> Stream<'s, String> {
    ///     late.union(unverified)
    /// }
    /// ```
    #[track_caller]
    pub fn union(self, other: Stream<'s, D>) -> Stream<'s, D> {
        let (left, right) = (self.applied(), other.applied());
        let node = left.flow.record(None, "union", &[left.node, right.node], None);
        Stream { batches: left.batches.concat(right.batches), filter: None, node, flow: left.flow }
    }

    /// Gives the records event times (after a step that made new records).
    pub fn with_event_time(self, time: impl Fn(&D) -> EventTime + 'static) -> TimedStream<'s, D> {
        TimedStream { stream: self, time: Rc::new(time), show: None }
    }

    /// The operator that gives this stream had another id in earlier checkpoints: it goes on with the state, or the
    /// offsets, that they hold under `old`. To be said right after the operator; harmless once a checkpoint has the new id.
    #[track_caller]
    pub fn renamed_from(self, old: &'static str) -> Self {
        self.flow.wiring.plan.borrow_mut().rename(self.node, old, Location::caller());
        self
    }

    /// Writes the records to a table; `id` names the sink. A sink named in `--disable-sink` is left out.
    #[track_caller]
    pub fn sink(self, id: &'static str, table: TableSink<D>) {
        let node = self.flow.record(Some(id), format!("sink {}", table.table), &[self.node], None);
        if !self.flow.env.disabled_sinks.contains(id) {
            sink::build(&self, (id, node), table);
        }
    }

    #[track_caller]
    fn transform<E: Send + Sync + 'static>(
        self,
        name: &'static str,
        f: impl Fn(&D, &mut Vec<E>) + 'static,
    ) -> Stream<'s, E> {
        let node = self.flow.record(None, name, &[self.node], None);
        let (filter, gauge) = (self.filter, self.flow.gauge(node, Role::Step));
        let batches = self.batches.unary::<NoopBuilder<Batch<E>>, _, _, _>(Pipeline, name, move |_, _| {
            move |input, output| {
                input.for_each(|capability, batch| {
                    let Some(&epoch) = capability.least() else { return };
                    let at_work = gauge.working(epoch);
                    let make = || {
                        let mut rows = Vec::new();
                        batch.for_each(|record| {
                            if filter.as_ref().is_none_or(|keep| keep(record)) {
                                f(record, &mut rows);
                            }
                        });
                        rows
                    };
                    let made = batch.pass((name, epoch), make);
                    drop(at_work);
                    gauge.took(batch.len());
                    let Some(rows) = made else { return };
                    gauge.gave(rows.len());
                    let mut derived = batch.derive(rows);
                    output.session_with_builder(&capability).give_container(&mut derived);
                });
            }
        });
        Stream { flow: self.flow, batches, filter: None, node }
    }

    /// Makes a lazy filter real: batches whose selection holds only what passes.
    pub(crate) fn applied(mut self) -> Self {
        let Some(filter) = self.filter.take() else { return self };
        self.batches = self.batches.unary::<NoopBuilder<Batch<D>>, _, _, _>(Pipeline, "filter", move |_, _| {
            move |input, output| {
                input.for_each(|capability, batch| {
                    let Some(&epoch) = capability.least() else { return };
                    let Some(mut kept) = batch.pass(("filter", epoch), || batch.keep(&*filter)) else { return };
                    output.session_with_builder(&capability).give_container(&mut kept);
                });
            }
        });
        self
    }
}

/// A stream whose records have event times: what windows, sessions and dedup need.
#[must_use = "a stream that goes nowhere does nothing"]
pub struct TimedStream<'s, D: 'static> {
    pub(crate) stream: Stream<'s, D>,
    pub(crate) time: Rc<dyn Fn(&D) -> EventTime>,
    pub(crate) show: Option<Show<D>>,
}

impl<D: 'static> Clone for TimedStream<'_, D> {
    fn clone(&self) -> Self {
        TimedStream { stream: self.stream.clone(), time: Rc::clone(&self.time), show: self.show.clone() }
    }
}

impl<'s, D: Send + Sync + 'static> TimedStream<'s, D> {
    /// Keeps the records that `keep` says yes to.
    pub fn filter(self, keep: impl Fn(&D) -> bool + 'static) -> Self {
        TimedStream { stream: self.stream.filter(keep), ..self }
    }

    /// Parts the stream in two; see [`Stream::split`].
    pub fn split(self, first: impl Fn(&D) -> bool + 'static) -> (Self, Self) {
        let TimedStream { stream, time, show } = self;
        let (first, others) = stream.split(first);
        (
            TimedStream { stream: first, time: Rc::clone(&time), show: show.clone() },
            TimedStream { stream: others, time, show },
        )
    }

    /// Parts the stream in `N`; see [`Stream::branch`].
    pub fn branch<const N: usize>(self, of: impl Fn(&D) -> usize + 'static) -> [Self; N] {
        let TimedStream { stream, time, show } = self;
        stream.branch(of).map(|stream| TimedStream { stream, time: Rc::clone(&time), show: show.clone() })
    }

    /// Looks at every record, on the worker where it is.
    pub fn inspect(self, f: impl Fn(&D) + 'static) -> Self {
        TimedStream { stream: self.stream.inspect(f), ..self }
    }

    /// Says what operators may see of a record that is set aside: late, unverified, or in conflict with one that was kept.
    /// `show` is asked for few records, and leaves out or masks what nobody may see; 300 characters of it are shown.
    /// Without it such records are only counted, and found where they are routed to.
    pub fn shown(self, show: impl Fn(&D) -> String + 'static) -> Self {
        TimedStream { show: Some(Rc::new(show)), ..self }
    }

    /// Both streams as one; event times as in this one.
    #[track_caller]
    pub fn union(self, other: TimedStream<'s, D>) -> Self {
        TimedStream { stream: self.stream.union(other.stream), ..self }
    }

    /// Forgets that the records have event times: for steps that make other records.
    pub fn untimed(self) -> Stream<'s, D> {
        self.stream
    }

    /// Turns each record into another one.
    #[track_caller]
    pub fn map<E: Send + Sync + 'static>(self, f: impl Fn(&D) -> E + 'static) -> Stream<'s, E> {
        self.stream.map(f)
    }

    /// Groups by key; the exchange is part of the next keyed operator.
    pub fn key_by(self, key: impl for<'a> Fn(&'a D) -> KeyRef<'a> + 'static) -> KeyedStream<'s, D> {
        KeyedStream { timed: self, key: Rc::new(key) }
    }

    /// The operator that gives this stream had another id in earlier checkpoints; see [`Stream::renamed_from`].
    #[track_caller]
    pub fn renamed_from(self, old: &'static str) -> Self {
        TimedStream { stream: self.stream.renamed_from(old), ..self }
    }

    /// Writes the records to a table; `id` names the sink.
    #[track_caller]
    pub fn sink(self, id: &'static str, table: TableSink<D>) {
        self.stream.sink(id, table);
    }

    /// Operator authors: the flow that the stream belongs to.
    #[must_use]
    pub fn flow(&self) -> &Flow<'s> {
        &self.stream.flow
    }

    /// Operator authors: notes that `id` is given on this line of the pipeline, for an operator that a later call
    /// records. Public calls that take an id are `#[track_caller]`, so that problems name the author's line.
    #[track_caller]
    pub fn declare(&self, id: &'static str) {
        self.stream.flow.declare(id);
    }

    /// Operator authors: records an operator that reads this stream; gives its place in the plan.
    #[track_caller]
    pub fn record(&self, id: &'static str, kind: String) -> usize {
        self.stream.flow.record(Some(id), kind, &[self.stream.node], None)
    }

    /// Operator authors: records an operator that reads this stream and another one; gives its place in the plan.
    #[track_caller]
    pub fn record_with<E>(&self, other: &TimedStream<'s, E>, id: &'static str, kind: String) -> usize {
        self.stream.flow.record(Some(id), kind, &[self.stream.node, other.stream.node], None)
    }

    /// Operator authors: says what the state of the operator at `node` means, with all that a new build may change of the
    /// pipeline so that the stored bytes would still be read, but for something else: a width that state is kept by, which
    /// aggregate a value is of. A checkpoint whose state means something else is refused, so the words stay from build to
    /// build. What they leave out may change, and the state is kept as it is.
    pub fn state_means(&self, node: usize, meaning: String) {
        self.stream.flow.wiring.plan.borrow_mut().set_meaning(node, meaning);
    }

    /// Operator authors: notes what is wrong with the operator that was recorded last, for the dry build to report.
    pub fn problem(&self, problem: String) {
        self.stream.flow.wiring.plan.borrow_mut().problem_of_last(problem);
    }

    /// Operator authors: whether snapshots will be taken.
    #[must_use]
    pub fn exactly_once(&self) -> bool {
        self.stream.flow.env.exactly_once
    }

    /// The event time of a record.
    #[must_use]
    pub fn time(&self) -> Rc<dyn Fn(&D) -> EventTime> {
        Rc::clone(&self.time)
    }

    /// Operator authors: makes rows of each batch as it comes, addressed to workers.
    pub fn route<R: crate::keyed::Exchanged>(
        &self,
        name: &'static str,
        mut rows: impl FnMut(&Batch<D>, Peers) -> Vec<Chunk<R>> + 'static,
    ) -> TimelyStream<'s, Epoch, Vec<Traced<R>>> {
        let stream = self.stream.clone().applied();
        let peers = Peers { me: stream.flow.worker(), workers: stream.flow.workers() };
        stream.batches.unary::<CapacityContainerBuilder<Vec<Traced<R>>>, _, _, _>(Pipeline, name, move |_, _| {
            move |input, output| {
                input.for_each(|capability, batch| {
                    let Some(&epoch) = capability.least() else { return };
                    let Some(routed) = batch.pass((name, epoch), || rows(batch, peers)) else { return };
                    let mut session = output.session(&capability);
                    let traced = |chunk| Traced { chunk, made_of: batch.record().cloned() };
                    routed.into_iter().map(traced).for_each(|chunk| session.give(chunk));
                });
            }
        })
    }
}

/// Which worker this is, of how many.
#[derive(Clone, Copy, Debug)]
pub struct Peers {
    /// This worker's index.
    pub me: u32,
    /// How many there are.
    pub workers: u32,
}

/// The key of a record.
pub type KeyFn<D> = Rc<dyn for<'a> Fn(&'a D) -> KeyRef<'a>>;

/// A stream grouped by key.
#[must_use = "a keyed stream does nothing until it is windowed or processed"]
pub struct KeyedStream<'s, D: 'static> {
    pub(crate) timed: TimedStream<'s, D>,
    pub(crate) key: KeyFn<D>,
}

impl<'s, D: 'static> KeyedStream<'s, D> {
    /// Operator authors: notes that `id` is given on this line; see [`TimedStream::declare`].
    #[track_caller]
    pub fn declare(&self, id: &'static str) {
        self.timed.stream.flow.declare(id);
    }

    /// Operator authors: the stream and the key of its records.
    pub fn into_parts(self) -> (TimedStream<'s, D>, KeyFn<D>) {
        (self.timed, self.key)
    }
}
