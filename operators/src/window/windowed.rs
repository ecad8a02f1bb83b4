//! Windows of a fixed width as authors chain them.
//!
//! Only glue: it wires the rules beside it to the engine's drivers and records itself in the plan. Emission is by deltas;
//! [`crate::emission`] has the other ways, and [`super::top_k`] rankings.

use std::collections::BTreeMap;
use std::rc::Rc;

use tidemill_dataflow::batch::Batch;
use tidemill_dataflow::driver::{Combiner, Sampler};
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::keyed::{Chunk, keyed};
use tidemill_dataflow::status::Why;
use tidemill_dataflow::stream::{KeyFn, KeyedStream, Peers, Stream, TimedStream};
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark};

use super::assigner::{Assigner, Late};
use super::cells::{MergeLogic, WindowCombiner, WindowRow};
use super::hopping::Hopping;
use super::tumbling::Tumbling;
use crate::aggregate::Aggregate;
use crate::stream::Windows;

/// A keyed stream in windows of a fixed width.
#[must_use = "windows do nothing until they are aggregated"]
pub struct Windowed<'s, D: 'static, W> {
    pub(crate) id: &'static str,
    pub(crate) stream: KeyedStream<'s, D>,
    pub(crate) windows: W,
}

impl<'s, D: 'static> Windows<'s, D> for Tumbling {
    type Windowed = Windowed<'s, D, Tumbling>;

    fn cut(self, id: &'static str, stream: KeyedStream<'s, D>) -> Self::Windowed {
        Windowed { id, stream, windows: self }
    }
}

impl<'s, D: 'static> Windows<'s, D> for Hopping {
    type Windowed = Windowed<'s, D, Hopping>;

    fn cut(self, id: &'static str, stream: KeyedStream<'s, D>) -> Self::Windowed {
        Windowed { id, stream, windows: self }
    }
}

impl<'s, D: Send + Sync + 'static, W: Assigner> Windowed<'s, D, W> {
    /// What each epoch adds to each window; the table folds it. Under [`Late::Side`] late records are left out.
    ///
    /// ```
    /// use tidemill_dataflow::key::key;
    /// use tidemill_dataflow::stream::TimedStream;
    /// use tidemill_dataflow::time::minutes;
    /// use tidemill_operators::aggregate::{count, mean};
    /// use tidemill_operators::stream::KeyedStreamOps;
    /// use tidemill_operators::window::hopping::Hopping;
    ///
    /// struct Request {
    ///     route: String,
    ///     millis: i64,
    /// }
    ///
    /// /// How many requests each route had in the last ten minutes, and how long they took; anew every minute.
    /// fn load(requests: TimedStream<'_, Request>) {
    ///     requests
    ///         .key_by(|r| key("default", r.route.as_str()))
    ///         .window("load", Hopping::of(minutes(10)).every(minutes(1)))
    ///         .aggregate((count(), mean(|r: &Request| r.millis)))
    ///         .inspect(|row| drop((row.start, row.value.0, row.value.1.mean())));
    /// }
    /// ```
    pub fn aggregate<A: Aggregate<D>>(self, aggregate: A) -> Stream<'s, WindowRow<A::Partial>> {
        self.aggregate_and_late(aggregate).0
    }

    /// The same, and the late records of [`Late::Side`].
    pub fn aggregate_and_late<A: Aggregate<D>>(
        self,
        aggregate: A,
    ) -> (Stream<'s, WindowRow<A::Partial>>, TimedStream<'s, D>) {
        let Windowed { id, stream, mut windows } = self;
        let (timed, key) = stream.into_parts();
        let (policy, name) = (windows.late_policy(), aggregate.name());
        let node = timed.record(id, format!("window {windows}, late {policy:?}, aggregate {name}"));
        if let Err(problem) = windows.validate() {
            timed.problem(format!("`{id}`: {problem}"));
            windows = W::stand_in();
        }
        aggregate.problems(&mut |problem| timed.problem(format!("`{id}`: {problem}")));
        let aggregate = Rc::new(aggregate);
        let combiner = Deltas(
            Windower::new(&windows, 0, Rc::clone(&aggregate), key, timed.time()).sampled(timed.sampler(id, Why::Late)),
        );
        let combined = timed.combine((id, node), combiner);
        let merge = MergeLogic::new(&windows, aggregate);
        (keyed(timed.flow(), (id, node), combined.chunks, merge), combined.aside)
    }
}

/// Judges the records of an epoch and combines those that count.
pub(crate) struct Windower<D: 'static, A: Aggregate<D>, W> {
    windows: W,
    /// For how many milliseconds after its end a window still takes records.
    correctable: i64,
    key: KeyFn<D>,
    time: Rc<dyn Fn(&D) -> EventTime>,
    inner: WindowCombiner<D, A, W>,
    /// What the records of this epoch are judged against.
    shut: Watermark,
    late: u64,
    missed: u64,
    samples: Option<Sampler<D>>,
}

impl<D: Send + Sync + 'static, A: Aggregate<D>, W: Assigner> Windower<D, A, W> {
    pub(crate) fn new(
        windows: &W,
        correctable: i64,
        aggregate: Rc<A>,
        key: KeyFn<D>,
        time: Rc<dyn Fn(&D) -> EventTime>,
    ) -> Self {
        let inner = WindowCombiner::new(windows, aggregate);
        Windower {
            windows: windows.clone(),
            correctable,
            key,
            time,
            inner,
            shut: None,
            late: 0,
            missed: 0,
            samples: None,
        }
    }

    /// Shows some of the late records to those who watch.
    pub(crate) fn sampled(self, samples: Sampler<D>) -> Self {
        Windower { samples: Some(samples), ..self }
    }

    fn add(&mut self, batch: &Batch<D>, clocks: EpochTime) -> Option<Batch<D>> {
        let policy = self.windows.late_policy();
        let shut = clocks.before.map(|before| EventTime(before.0.saturating_sub(self.correctable)));
        self.shut = shut;
        let mut aside = Vec::new();
        batch.for_each_row(|row, record| {
            let time = (self.time)(record);
            if self.windows.is_late(time, shut) {
                self.late += 1;
                if let Some(samples) = &mut self.samples {
                    samples.see(batch, row);
                }
                match policy {
                    Late::Correct => {}
                    Late::Side => return aside.push(row),
                    Late::Drop => return,
                }
            } else if W::OVERLAPPING && policy != Late::Correct {
                self.missed += self.windows.missed(time, shut) as u64;
            }
            self.inner.add((self.key)(record), time, record);
        });
        (!aside.is_empty()).then(|| batch.only(aside.into()))
    }

    fn counts(&mut self) -> BTreeMap<&'static str, u64> {
        if let Some(samples) = &mut self.samples {
            samples.show();
        }
        let counts = [("late", std::mem::take(&mut self.late)), ("late_windows", std::mem::take(&mut self.missed))];
        counts.into_iter().filter(|(_, n)| *n > 0).collect()
    }
}

/// The sending side of windows that emit deltas.
pub(crate) struct Deltas<D: 'static, A: Aggregate<D>, W>(pub(crate) Windower<D, A, W>);

impl<D: Send + Sync + 'static, A: Aggregate<D>, W: Assigner> Combiner<D> for Deltas<D, A, W> {
    type Row = WindowRow<A::Partial>;

    fn add(&mut self, batch: &Batch<D>, clocks: EpochTime) -> Option<Batch<D>> {
        self.0.add(batch, clocks)
    }

    fn drain(&mut self, peers: Peers) -> (Vec<Chunk<Self::Row>>, BTreeMap<&'static str, u64>) {
        (self.0.inner.drain(peers.me, peers.workers), self.0.counts())
    }
}

/// The sending side of windows whose values are held in state, each in a place of its own.
pub(crate) struct Holding<D: 'static, A: Aggregate<D>, W>(pub(crate) Windower<D, A, W>);

impl<D: Send + Sync + 'static, A: Aggregate<D>, W: Assigner> Combiner<D> for Holding<D, A, W> {
    type Row = (OwnedKey, A::Partial);

    fn add(&mut self, batch: &Batch<D>, clocks: EpochTime) -> Option<Batch<D>> {
        self.0.add(batch, clocks)
    }

    fn drain(&mut self, peers: Peers) -> (Vec<Chunk<Self::Row>>, BTreeMap<&'static str, u64>) {
        (self.0.inner.drain_windows(peers.me, peers.workers, self.0.shut), self.0.counts())
    }
}
