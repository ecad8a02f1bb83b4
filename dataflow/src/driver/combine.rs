//! Combining on the sending worker, once an epoch, before the exchange: what makes hot keys harmless.

use std::collections::BTreeMap;

use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::Stream as TimelyStream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::batch::Batch;
use crate::control::{Ack, Control};
use crate::keyed::{Chunk, Exchanged};
use crate::pending::PendingByTime;
use crate::status::gauge::Role;
use crate::stream::{Peers, Stream, TimedStream};
use crate::time::{Epoch, EpochTime};

/// Pure logic of the sending side of a keyed operator.
pub trait Combiner<D>: 'static {
    /// What it sends.
    type Row: Exchanged;

    /// Takes in one batch of the epoch; gives the records that go aside instead (a late policy), if any.
    fn add(&mut self, batch: &Batch<D>, time: EpochTime) -> Option<Batch<D>>;

    /// Ends the epoch: rows by worker, and counters. Combiners keep nothing from one epoch to the next.
    fn drain(&mut self, peers: Peers) -> (Vec<Chunk<Self::Row>>, BTreeMap<&'static str, u64>);
}

/// What comes out of a combiner.
pub struct Combined<'s, R: 'static, D: 'static> {
    /// Rows addressed to workers.
    pub chunks: TimelyStream<'s, Epoch, Vec<Chunk<R>>>,
    /// Records that went aside.
    pub aside: TimedStream<'s, D>,
}

struct Gathered<D> {
    batches: Vec<Batch<D>>,
    control: Option<Control>,
}

impl<D> Default for Gathered<D> {
    fn default() -> Self {
        Gathered { batches: Vec::new(), control: None }
    }
}

const CHUNKS: usize = 0;
const ASIDE: usize = 1;
const ACKS: usize = 2;

impl<'s, D: Send + Sync + 'static> TimedStream<'s, D> {
    /// Operator authors: runs `combiner` over each epoch when `W(e-1)` is known and the epoch is closed.
    pub fn combine<C: Combiner<D>>(&self, (id, node): (&'static str, usize), combiner: C) -> Combined<'s, C::Row, D> {
        let flow = &self.stream.flow;
        let batches = self.stream.clone().applied().batches;
        let mut builder = OperatorBuilder::new(format!("{id}/combine"), flow.scope);
        let mut input = builder.new_input(batches, Pipeline);
        let mut controls = builder.new_input(flow.control(), Pipeline);
        let (chunks_out, chunks) = builder.new_output();
        let (aside_out, aside) = builder.new_output();
        let (acks_out, acks) = builder.new_output();
        let mut chunks_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Chunk<C::Row>>>>::from(chunks_out);
        let mut aside_out = OutputBuilder::<_, NoopBuilder<Batch<D>>>::from(aside_out);
        let mut acks_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Ack>>>::from(acks_out);
        let peers = Peers { me: flow.worker(), workers: flow.workers() };
        let gauge = flow.gauge(node, Role::Combine);

        builder.build(move |initial| {
            drop(initial);
            let mut combiner = combiner;
            let mut pending: PendingByTime<Vec<Capability<Epoch>>, Gathered<D>> = PendingByTime::new();
            move |frontiers| {
                input.for_each(|capability, batch| {
                    let Some(&epoch) = capability.least() else { return };
                    let ports = || (CHUNKS..=ACKS).map(|port| capability.delayed(&epoch, port)).collect();
                    pending.at(epoch, ports).batches.push(std::mem::take(batch));
                });
                controls.for_each(|capability, batch| {
                    let Some(&epoch) = capability.least() else { return };
                    let ports = || (CHUNKS..=ACKS).map(|port| capability.delayed(&epoch, port)).collect();
                    pending.at(epoch, ports).control = batch.pop();
                });
                while let Some((epoch, ports, gathered)) = pending.take_closed(&[&frontiers[0], &frontiers[1]]) {
                    let control = gathered.control.expect("the watermarks of an epoch come before it closes");
                    let _at_work = gauge.working(epoch);
                    for batch in &gathered.batches {
                        gauge.took(batch.len());
                        let passing = batch.passing(id);
                        let late = combiner.add(batch, control.time());
                        drop(passing);
                        if let Some(mut late) = late {
                            aside_out.activate().session_with_builder(&ports[ASIDE]).give_container(&mut late);
                        }
                    }
                    let (chunks, counts) = combiner.drain(peers);
                    chunks_out.activate().session(&ports[CHUNKS]).give_iterator(chunks.into_iter());
                    if !counts.is_empty() {
                        let counts = counts.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
                        acks_out.activate().session(&ports[ACKS]).give(Ack::Counts { operator: id.into(), counts });
                    }
                }
                gauge.closed(&[&frontiers[0], &frontiers[1]], None);
            }
        });
        flow.wiring.acks.borrow_mut().push(acks);
        let stream = Stream { flow: flow.clone(), batches: aside, filter: None, node };
        Combined { chunks, aside: TimedStream { stream, time: self.time(), show: self.show.clone() } }
    }
}
