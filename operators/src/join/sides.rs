//! How two streams enter one keyed operator: each record tagged with its side, unless it comes too late to count.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::batch::{Batch, Order};
use tidemill_dataflow::driver::{Combined, Combiner, Sampler};
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::keyed::{Chunk, Exchanged, KeyedLogic, PerKey, keyed};
use tidemill_dataflow::status::Why;
use tidemill_dataflow::stream::{KeyFn, KeyedStream, Peers, TimedStream};
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark, millis};
use timely::dataflow::operators::Concat;

use super::Joined;
use crate::exchange::part;
use crate::window::tumbling::Late;
use crate::window::{WindowError, check};

/// A record of one side, with its event time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Side<L, R> {
    Left(EventTime, L),
    Right(EventTime, R),
}

/// Until when a record counts. What belongs to a window is complete when W is at its end; what stands alone when W is
/// past it, which is a window of one millisecond.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lateness {
    policy: Late,
    correctable: i64,
    width: i64,
}

impl Lateness {
    /// Of records in windows of so many milliseconds.
    pub(crate) fn of_windows(width: i64, policy: Late, correctable: Duration) -> Self {
        Lateness { policy, correctable: millis(correctable), width }
    }

    /// Of records that stand alone.
    pub(crate) fn of_records(policy: Late, correctable: Duration) -> Self {
        Self::of_windows(1, policy, correctable)
    }

    /// # Errors
    /// If the correctable span makes no sense.
    pub(crate) fn validate(&self) -> Result<(), WindowError> {
        check("the time for which a join is correctable", self.correctable)
    }

    /// The watermark under which what belongs to this time is complete.
    pub(crate) fn complete_at(&self, time: EventTime) -> EventTime {
        EventTime(time.window_start(self.width).0.saturating_add(self.width))
    }

    /// The watermark under which nothing counts any more that belongs to this time.
    pub(crate) fn leaves_at(&self, time: EventTime) -> EventTime {
        let grace = if self.policy == Late::Correct { self.correctable } else { 0 };
        EventTime(self.complete_at(time).0.saturating_add(grace))
    }
}

/// How a record becomes a row of the logic.
pub(crate) type Tag<D, R> = Box<dyn Fn(EventTime, &D) -> R>;

/// The event time of a record.
pub(crate) type TimeFn<D> = Rc<dyn Fn(&D) -> EventTime>;

/// The sending part of a join's side: judges lateness and addresses records to the owners of their keys.
pub(crate) struct Tagging<D: 'static, R> {
    key: KeyFn<D>,
    time: TimeFn<D>,
    tag: Tag<D, R>,
    lateness: Lateness,
    rows: Vec<(OwnedKey, R)>,
    late: u64,
    beyond: u64,
    samples: Option<Sampler<D>>,
}

impl<D: 'static, R> Tagging<D, R> {
    pub(crate) fn new((key, time): (KeyFn<D>, TimeFn<D>), lateness: Lateness, tag: Tag<D, R>) -> Self {
        Tagging { key, time, tag, lateness, rows: Vec::new(), late: 0, beyond: 0, samples: None }
    }

    /// Shows some of the late records to those who watch.
    pub(crate) fn sampled(self, samples: Sampler<D>) -> Self {
        Tagging { samples: Some(samples), ..self }
    }

    /// Whether the record at `row`, of this time, counts under `before`, the watermark `W(e-1)`.
    fn counts(&mut self, batch: &Batch<D>, row: u32, time: EventTime, before: Watermark) -> bool {
        if Some(self.lateness.complete_at(time)) > before {
            return true;
        }
        self.late += 1;
        if let Some(samples) = &mut self.samples {
            samples.see(batch, row);
        }
        let counts = Some(self.lateness.leaves_at(time)) > before;
        self.beyond += u64::from(!counts && self.lateness.policy == Late::Correct);
        counts
    }
}

impl<D: Send + Sync + 'static, R: Exchanged> Combiner<D> for Tagging<D, R> {
    type Row = (OwnedKey, R);

    fn add(&mut self, batch: &Batch<D>, clocks: EpochTime) -> Option<Batch<D>> {
        let mut aside = Vec::new();
        batch.for_each_row(|row, record| {
            let time = (self.time)(record);
            if self.counts(batch, row, time, clocks.before) {
                let tagged = (self.tag)(time, record);
                self.rows.push(((self.key)(record).to_owned(), tagged));
            } else if self.lateness.policy != Late::Drop {
                aside.push(row);
            }
        });
        (!aside.is_empty()).then(|| batch.only(aside.into()))
    }

    fn drain(&mut self, peers: Peers) -> (Vec<Chunk<Self::Row>>, BTreeMap<&'static str, u64>) {
        if let Some(samples) = &mut self.samples {
            samples.show();
        }
        let counts =
            [("late", std::mem::take(&mut self.late)), ("beyond_correction", std::mem::take(&mut self.beyond))];
        let chunks = part(std::mem::take(&mut self.rows), Order::default(), peers);
        (chunks, counts.into_iter().filter(|(_, n)| *n > 0).collect())
    }
}

/// A side of a join: its stream, and how a record becomes a row of the logic.
pub(crate) struct Input<'s, D: 'static, R> {
    stream: TimedStream<'s, D>,
    key: KeyFn<D>,
    tag: Tag<D, R>,
}

impl<'s, D: Send + Sync + 'static, R: Exchanged> Input<'s, D, R> {
    pub(crate) fn new(stream: KeyedStream<'s, D>, tag: impl Fn(EventTime, &D) -> R + 'static) -> Self {
        let (stream, key) = stream.into_parts();
        Input { stream, key, tag: Box::new(tag) }
    }

    /// Sends the records that count on their way to the owners of their keys.
    fn enter(self, (id, node): (&'static str, usize), lateness: Lateness) -> Combined<'s, (OwnedKey, R), D> {
        let samples = self.stream.sampler(id, Why::Late);
        let tagging = Tagging::new((self.key, self.stream.time()), lateness, self.tag).sampled(samples);
        self.stream.combine((id, node), tagging)
    }
}

/// What a join is in the plan.
pub(crate) struct Entry {
    pub(crate) id: &'static str,
    pub(crate) kind: String,
    /// What its state means, beside what records it is of.
    pub(crate) meaning: String,
    /// What is wrong with it, for the dry build to report.
    pub(crate) problems: Vec<WindowError>,
}

/// Runs the logic of a join over two inputs.
#[track_caller]
pub(crate) fn join<'s, L, R, J: KeyedLogic>(
    Entry { id, kind, meaning, problems }: Entry,
    (left, right): (Input<'s, L, J::In>, Input<'s, R, J::In>),
    lateness: Lateness,
    logic: J,
) -> Joined<'s, J::Out, L, R>
where
    L: Send + Sync + 'static,
    R: Send + Sync + 'static,
{
    let node = left.stream.record_with(&right.stream, id, kind);
    left.stream.state_means(node, meaning);
    problems.into_iter().for_each(|problem| left.stream.problem(format!("`{id}`: {problem}")));
    let flow = left.stream.flow().clone();
    let (lefts, rights) = (left.enter((id, node), lateness), right.enter((id, node), lateness));
    let rows = keyed(&flow, (id, node), lefts.chunks.concat(rights.chunks), PerKey::new(logic));
    Joined { rows, late_left: lefts.aside, late_right: rights.aside }
}

#[cfg(test)]
mod tests;
