//! The source operator: takes blocks from the queue, decodes them, reports what they said about time.

use std::rc::Rc;

use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::Stream as TimelyStream;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::binder;
use crate::batch::{Batch, Order};
use crate::bind::{BlockReport, Report};
use crate::flow::Flow;
use crate::queue::{Item, Popped};
use crate::source::{Block, Decode, Decoded, Source};
use crate::stream::{RecordOf, Rejected};
use crate::time::{Epoch, EventTime, Watermark};
use crate::watermark::{BlockClock, Watermarks};

type Batches<'s, D> = TimelyStream<'s, Epoch, Batch<D>>;

/// Builds the source and its binder; gives the records and what could not become one.
pub(crate) fn build<'s, S: Source>(
    flow: &Flow<'s>,
    id: &'static str,
    source: S,
    times: impl Fn(&RecordOf<S>) -> (EventTime, Watermark) + 'static,
    rule: Watermarks,
) -> (Batches<'s, RecordOf<S>>, Batches<'s, Rejected>) {
    let decoder = source.decoder();
    register(flow, source, rule);

    let mut builder = OperatorBuilder::new(id.into(), flow.scope);
    let (records_out, records) = builder.new_output();
    let (reports_out, reports) = builder.new_output();
    let mut records_out = OutputBuilder::<_, NoopBuilder<Batch<RecordOf<S>>>>::from(records_out);
    let mut reports_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Report>>>::from(reports_out);
    let address = builder.operator_info().address;
    let again = flow.scope.activator_for(Rc::clone(&address));
    let queue = std::sync::Arc::clone(&flow.env.queue);
    queue.register(flow.scope.worker().sync_activator_for(address.to_vec()));
    let first = flow.env.restored.epoch + 1;

    builder.build(move |capabilities| {
        let mut held = Some(Held::at(capabilities, first));
        let mut worker = BlockDecoder { decoder, times, rule };
        move |_frontiers| {
            let Some(capabilities) = held.as_mut() else { return };
            match queue.pop() {
                Popped::Item(Item::Block(epoch, block)) => {
                    capabilities.downgrade(epoch);
                    let (mut batch, report) = worker.decode(block);
                    records_out.activate().session_with_builder(&capabilities.records).give_container(&mut batch);
                    reports_out.activate().session(&capabilities.reports).give(report);
                    again.activate();
                }
                Popped::Item(Item::Cut(cut)) => {
                    let epoch = cut.epoch;
                    capabilities.downgrade(epoch);
                    reports_out.activate().session(&capabilities.reports).give(Report::Cut(cut));
                    capabilities.downgrade(epoch + 1);
                    again.activate();
                }
                // The capability stays: what was read in part must not look complete to anyone.
                Popped::Halted => {}
                Popped::Empty { ended: true, .. } => held = None,
                Popped::Empty { taken_through, .. } => capabilities.downgrade(taken_through + 1),
            }
        }
    });
    (records, binder::build(flow, id, reports, rule))
}

fn register<S: Source>(flow: &Flow<'_>, source: S, rule: Watermarks) {
    let mut registry = flow.env.registry.lock().expect("no panic while it is held");
    if registry.rule.is_some() && flow.wiring.control.borrow().is_some() {
        flow.wiring.plan.borrow_mut().problem("a pipeline has one source; give it several partitions".into());
    }
    registry.rule = Some(rule);
    registry.open = Some(Box::new(move |recorded| source.open(recorded)));
}

/// The right to send at the current epoch and later.
struct Held {
    records: Capability<Epoch>,
    reports: Capability<Epoch>,
}

impl Held {
    fn at(mut capabilities: Vec<Capability<Epoch>>, first: Epoch) -> Self {
        let reports = capabilities.pop().expect("one capability an output");
        let records = capabilities.pop().expect("one capability an output");
        let mut held = Held { records, reports };
        held.downgrade(first);
        held
    }

    fn downgrade(&mut self, epoch: Epoch) {
        // Another worker may have taken a later block before this one saw the queue empty; never go back.
        if *self.records.time() < epoch {
            self.records.downgrade(&epoch);
            self.reports.downgrade(&epoch);
        }
    }
}

struct BlockDecoder<C, F> {
    decoder: C,
    times: F,
    rule: Watermarks,
}

impl<C: Decode, F: Fn(&C::Record) -> (EventTime, Watermark)> BlockDecoder<C, F> {
    fn decode(&mut self, block: Block) -> (Batch<C::Record>, Report) {
        let order = Order { partition: block.partition, offset: block.offset };
        let mut decoded = Decoded::default();
        self.decoder.decode(block, &mut decoded);
        let mut clock = BlockClock::new(&self.rule);
        for record in &decoded.records {
            let (time, server_time) = (self.times)(record);
            clock.see(time, server_time);
        }
        let records = decoded.records.len() as u64;
        let report = BlockReport { order, times: clock.finish(), records, malformed: decoded.malformed };
        (Batch::new(order, decoded.records), Report::Block(report))
    }
}
