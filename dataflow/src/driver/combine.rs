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
use crate::keyed::{Chunk, Exchanged, Traced};
use crate::pending::PendingByTime;
use crate::quarantine::{Origin, Passing, Phase, tried};
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
    pub chunks: TimelyStream<'s, Epoch, Vec<Traced<R>>>,
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
        let mut chunks_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Traced<C::Row>>>>::from(chunks_out);
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
                    gathered.batches.iter().for_each(|batch| gauge.took(batch.len()));
                    let Closed { chunks, aside, counts } =
                        close(&mut combiner, id, &gathered.batches, (control.time(), peers));
                    for mut late in aside {
                        aside_out.activate().session_with_builder(&ports[ASIDE]).give_container(&mut late);
                    }
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

/// What a combiner makes of an epoch.
struct Closed<R, D> {
    chunks: Vec<Traced<R>>,
    aside: Vec<Batch<D>>,
    counts: BTreeMap<&'static str, u64>,
}

impl<R, D> Closed<R, D> {
    /// Takes in chunks that were made of many records, or of this one, and counters.
    fn absorb(&mut self, chunks: Vec<Chunk<R>>, made_of: Option<&Origin>, counts: BTreeMap<&'static str, u64>) {
        self.chunks.extend(chunks.into_iter().map(|chunk| Traced { chunk, made_of: made_of.cloned() }));
        counts.into_iter().for_each(|(name, n)| *self.counts.entry(name).or_default() += n);
    }
}

/// Runs the combiner over an epoch. Records of blocks that are taken apart are sent on one by one, so that it stays known
/// what is made of which; the owner of the key merges them as it merges what several workers send.
fn close<D: Send + Sync + 'static, C: Combiner<D>>(
    combiner: &mut C,
    id: &'static str,
    batches: &[Batch<D>],
    (time, peers): (EpochTime, Peers),
) -> Closed<C::Row, D> {
    let mut closed = Closed { chunks: Vec::new(), aside: Vec::new(), counts: BTreeMap::new() };
    let (singles, blocks): (Vec<_>, Vec<_>) = batches.iter().partition(|batch| batch.record().is_some());
    for batch in &blocks {
        closed.aside.extend(batch.pass((id, time.epoch), || combiner.add(batch, time)).flatten());
    }
    let passing = Passing::new(None, Phase::Operate, (id, Some(time.epoch)));
    let (chunks, counts) = combiner.drain(peers);
    drop(passing);
    closed.absorb(chunks, None, counts);
    for batch in singles {
        let mut tries = 0;
        let passed = batch.pass((id, time.epoch), || {
            if tries > 0 {
                discard(combiner, peers);
            }
            tries += 1;
            let late = combiner.add(batch, time);
            (late, combiner.drain(peers))
        });
        let Some((late, (mut rows, counts))) = passed else {
            // Half of the record may be in it.
            discard(combiner, peers);
            continue;
        };
        closed.aside.extend(late);
        rows.iter_mut().for_each(|chunk| chunk.order = batch.order);
        closed.absorb(rows, batch.record(), counts);
    }
    closed
}

fn discard<D, C: Combiner<D>>(combiner: &mut C, peers: Peers) {
    drop(tried(false, || combiner.drain(peers)));
}
