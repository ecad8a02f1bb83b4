//! Taking from the queue of blocks: a worker's right to send at an epoch lasts until nothing of it can be taken any more.

use std::sync::Arc;

use timely::dataflow::operators::Capability;

use crate::queue::{BlockQueue, Item, Popped};
use crate::status::gauge::Gauge;
use crate::time::Epoch;

/// The right to send at the current epoch and later, on both outputs of an operator that takes blocks.
pub(super) struct Held {
    /// For records, or blocks on their way.
    pub(super) data: Capability<Epoch>,
    /// For what blocks and cuts say about time.
    pub(super) reports: Capability<Epoch>,
}

impl Held {
    fn downgrade(&mut self, epoch: Epoch) {
        // Another worker may have taken a later block before this one saw the queue empty; never go back.
        if *self.data.time() < epoch {
            self.data.downgrade(&epoch);
            self.reports.downgrade(&epoch);
        }
    }
}

/// A worker's end of the queue.
pub(super) struct Feed {
    queue: Arc<BlockQueue>,
    held: Option<Held>,
    gauge: Arc<Gauge>,
}

impl Feed {
    /// `capabilities` are those of two outputs, data before reports; nothing before epoch `first` is sent.
    pub(super) fn new(
        queue: Arc<BlockQueue>,
        mut capabilities: Vec<Capability<Epoch>>,
        first: Epoch,
        gauge: Arc<Gauge>,
    ) -> Feed {
        let reports = capabilities.pop().expect("one capability an output");
        let data = capabilities.pop().expect("one capability an output");
        let mut held = Held { data, reports };
        held.downgrade(first);
        Feed { queue, held: Some(held), gauge }
    }

    /// Hands over what is next; whether more may be there at once.
    pub(super) fn take(&mut self, give: impl FnOnce(&Held, Item)) -> bool {
        let Some(held) = self.held.as_mut() else { return false };
        match self.queue.pop() {
            Popped::Item(item) => {
                let (epoch, ends) = match &item {
                    Item::Block(epoch, _) => (*epoch, false),
                    Item::Cut(cut) => (cut.epoch, true),
                };
                held.downgrade(epoch);
                give(held, item);
                if ends {
                    held.downgrade(epoch + 1);
                    self.gauge.closed_through(epoch);
                }
                true
            }
            // The capability stays: what was read in part must not look complete to anyone.
            Popped::Halted => false,
            Popped::Empty { ended: true, .. } => {
                self.held = None;
                self.gauge.closed(&[], None);
                false
            }
            Popped::Empty { taken_through, .. } => {
                held.downgrade(taken_through + 1);
                self.gauge.closed_through(taken_through);
                false
            }
        }
    }
}
