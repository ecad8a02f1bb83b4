//! The binder: gathers an epoch's reports on worker 0, tells everybody `W(e)`, and releases `bound(e)` once it is durable.
//!
//! Processing never waits for durability; sinks do, by the frontier of the `bound` stream (INV-1).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::mpsc::channel;

use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::Stream as TimelyStream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::vec::Broadcast;

use crate::batch::{Batch, Order};
use crate::bind::{Bound, Report};
use crate::control::{Ack, Control};
use crate::flow::{Env, Flow};
use crate::pending::PendingByTime;
use crate::runtime::RunError;
use crate::shared::Request;
use crate::stream::Rejected;
use crate::time::Epoch;
use crate::watermark::Watermarks;

const CONTROL: usize = 0;
const REJECTED: usize = 1;
const BOUND: usize = 2;
const ACKS: usize = 3;
const PIECES: usize = 4;

pub(crate) fn build<'s>(
    flow: &Flow<'s>,
    id: &'static str,
    reports: TimelyStream<'s, Epoch, Vec<Report>>,
    rule: Watermarks,
) -> TimelyStream<'s, Epoch, Batch<Rejected>> {
    let mut builder = OperatorBuilder::new("bind".into(), flow.scope);
    let mut input = builder.new_input(reports, Exchange::new(|_: &Report| 0));
    let (control_out, control) = builder.new_output();
    let (rejected_out, rejected) = builder.new_output();
    let (bound_out, bound) = builder.new_output::<Vec<Epoch>>();
    let (acks_out, acks) = builder.new_output();
    let (pieces_out, pieces) = builder.new_output();
    let mut control_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Control>>>::from(control_out);
    let mut rejected_out = OutputBuilder::<_, NoopBuilder<Batch<Rejected>>>::from(rejected_out);
    let mut acks_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Ack>>>::from(acks_out);
    let mut pieces_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Ack>>>::from(pieces_out);
    let address = builder.operator_info().address;
    let wake = flow.scope.worker().sync_activator_for(address.to_vec());
    let env = std::sync::Arc::clone(&flow.env);

    builder.build(move |initial| {
        drop(initial);
        let _keep = bound_out; // The stream carries no records, only its frontier.
        let mut pending: PendingByTime<Vec<Capability<Epoch>>, Vec<Report>> = PendingByTime::new();
        let mut state = env.restored.source.clone();
        let mut unbound: BTreeMap<Epoch, Capability<Epoch>> = BTreeMap::new();
        let (reply, replies) = channel::<Epoch>();
        let wake = Rc::new(wake);
        move |frontiers| {
            input.for_each(|capability, batch| {
                let Some(&epoch) = capability.least() else { return };
                let ports = || (CONTROL..=PIECES).map(|port| capability.delayed(&epoch, port)).collect();
                pending.at(epoch, ports).append(batch);
            });
            while let Ok(durable) = replies.try_recv() {
                unbound.remove(&durable);
            }
            while let Some((epoch, mut capabilities, reports)) = pending.take_closed(&[&frontiers[0]]) {
                let bound = state.bind(epoch, reports, &rule);
                env.shared.publish_positions(epoch, state.positions());
                let checkpoint = env.exactly_once && env.shared.begin_checkpoint(bound.last);
                env.shared.status.gathered(epoch, &bound, checkpoint);
                if checkpoint {
                    let encoded = serde_json::to_string(&state).expect("the source's state is plain data");
                    let ack = Ack::Source { state: encoded, watermark: bound.after };
                    pieces_out.activate().session(&capabilities[PIECES]).give(ack);
                }
                let control = Control { epoch, before: bound.before, after: bound.after, checkpoint };
                control_out.activate().session(&capabilities[CONTROL]).give(control);
                acks_out.activate().session(&capabilities[ACKS]).give(counts(id, &bound));
                let mut rejected = rejects(&bound);
                rejected_out.activate().session_with_builder(&capabilities[REJECTED]).give_container(&mut rejected);
                if let Some(before) = bound.repeats {
                    compare(&env, &bound, before.map(|watermark| watermark.0));
                }
                match recorded(&env, epoch) {
                    Some(before) => compare(&env, &bound, before),
                    None => {
                        unbound.insert(epoch, capabilities.swap_remove(BOUND));
                        let (drained, last_event, mut binding) = (bound.drained, bound.last_event, bound.binding);
                        binding.checkpoint = checkpoint;
                        let (reply, wake) = (reply.clone(), wake_of(&wake));
                        env.requests.send(Request::Bind { binding, drained, last_event, reply, wake });
                    }
                }
            }
        }
    });
    let control = control.broadcast();
    let bound = bound.broadcast();
    flow.wiring.control.replace(Some(control));
    flow.wiring.bound.replace(Some(bound));
    flow.wiring.acks.borrow_mut().push(acks);
    flow.wiring.pieces.borrow_mut().push(pieces);
    rejected
}

fn wake_of(wake: &Rc<timely::scheduling::SyncActivator>) -> timely::scheduling::SyncActivator {
    timely::scheduling::SyncActivator::clone(wake)
}

/// The watermark that an earlier run bound the epoch with, if one did.
fn recorded(env: &Env, epoch: Epoch) -> Option<Option<i64>> {
    env.bound.get(&epoch).copied()
}

/// INV-2: an epoch replayed in its recorded cut, of this run or of the one that is repeated, says the same about time.
fn compare(env: &Env, bound: &Bound, before: Option<i64>) {
    let again = bound.binding.watermark;
    if again != before {
        let epoch = bound.binding.epoch;
        env.shared.fail(RunError::State(format!(
            "epoch {epoch} was bound with watermark {before:?} and replays with {again:?}: {DIFFERS}"
        )));
    }
}

/// What there was to read is compared before: so it is what was made of it.
const DIFFERS: &str = "another build, whose rule of watermarks may be another, or a pipeline with other settings bound it; \
    run once with the build and the settings that bound it (it takes a checkpoint when it stops), or start a new folder";

fn counts(id: &'static str, bound: &Bound) -> Ack {
    let mut counts = BTreeMap::new();
    let (malformed, quarantined) = (bound.malformed.len() as u64, bound.quarantined.len() as u64);
    let all = [("read", bound.read), ("malformed", malformed), ("quarantined", quarantined), ("future", bound.future)];
    for (name, n) in all {
        if n > 0 {
            counts.insert(name.to_owned(), n);
        }
    }
    Ack::Counts { operator: id.into(), counts }
}

fn rejects(bound: &Bound) -> Batch<Rejected> {
    let reject =
        |(partition, letter): &(String, _)| Rejected { partition: partition.clone(), letter: Clone::clone(letter) };
    Batch::new(Order::default(), bound.malformed.iter().chain(&bound.quarantined).map(reject).collect())
}
