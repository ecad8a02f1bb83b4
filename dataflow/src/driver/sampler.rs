//! The last records that an operator set aside in an epoch, shown to people at its end.
//!
//! A record is turned into text at most ten times an epoch and operator, and only if the author said how; until then
//! its batch is held, which counts as in flight anyway (INV-8).

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::batch::Batch;
use crate::status::{Moment, SAMPLES, SetAside, Status, Why};
use crate::stream::TimedStream;
use crate::time::EventTime;

/// Turns a record into text for people.
pub(crate) type Show<D> = Rc<dyn Fn(&D) -> String>;

/// Collects what is set aside for one reason, by one worker of an operator.
pub struct Sampler<D: 'static> {
    why: Why,
    operator: &'static str,
    time: Rc<dyn Fn(&D) -> EventTime>,
    /// `None`: nobody said what may be shown, so that nothing is.
    show: Option<Show<D>>,
    status: Arc<Status>,
    kept: VecDeque<(Batch<D>, u32)>,
}

impl<D: Send + Sync + 'static> TimedStream<'_, D> {
    /// Operator authors: collects records of this stream that the operator `id` sets aside.
    #[must_use]
    pub fn sampler(&self, id: &'static str, why: Why) -> Sampler<D> {
        let status = Arc::clone(&self.stream.flow.env.shared.status);
        Sampler { why, operator: id, time: self.time(), show: self.show.clone(), status, kept: VecDeque::new() }
    }
}

impl<D: 'static> Sampler<D> {
    /// The record at `row` of the batch's block was set aside.
    pub fn see(&mut self, batch: &Batch<D>, row: u32) {
        if self.show.is_none() {
            return;
        }
        if self.kept.len() == SAMPLES {
            self.kept.pop_front();
        }
        self.kept.push_back((batch.clone(), row));
    }

    /// The epoch ended: what was collected is shown, and its batches are let go.
    pub fn show(&mut self) {
        let Some(show) = self.show.as_ref().filter(|_| !self.kept.is_empty()) else { return };
        let shown = self.kept.drain(..).map(|(batch, row)| {
            let _passing = batch.passing(self.operator);
            let record = batch.row(row);
            let event_time = Moment((self.time)(record).0);
            (batch.order.partition, SetAside::new(self.operator, event_time, &show(record)))
        });
        self.status.set_aside(self.why, shown.collect());
    }
}
