//! Taking back single records: verdicts made elsewhere, applied where the records stayed.
//!
//! Records never cross the exchange of a dedup: only ids do, and the few verdicts that are not "keep" come back.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::container::NoopBuilder;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator as _;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::batch::{Batch, Order};
use crate::control::Ack;
use crate::pending::PendingByTime;
use crate::status::Why;
use crate::status::gauge::Role;
use crate::stream::{Stream, TimedStream};
use crate::time::Epoch;

/// Rows of one block that do not go on; ascending row numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exceptions {
    /// The worker where the block stayed.
    pub dest: u32,
    /// The block.
    pub order: Order,
    /// Rows that do not go on.
    pub dropped: Vec<u32>,
    /// Those of them that go aside.
    pub aside: Vec<u32>,
    /// Those of them that contradict a record that was kept: shown to people, and not gone on with.
    pub conflicting: Vec<u32>,
}

struct Gathered<D> {
    batches: Vec<Batch<D>>,
    exceptions: Vec<Exceptions>,
}

impl<D> Default for Gathered<D> {
    fn default() -> Self {
        Gathered { batches: Vec::new(), exceptions: Vec::new() }
    }
}

const KEPT: usize = 0;
const ASIDE: usize = 1;
const ACKS: usize = 2;

impl<'s, D: Send + Sync + 'static> TimedStream<'s, D> {
    /// Operator authors: this stream without the excepted rows, and the rows that go aside. Blocks are told apart by
    /// their place in the input, so the stream must come from a source without a union in between. What goes on is counted
    /// as `accepted`.
    pub fn except(
        self,
        (id, node): (&'static str, usize),
        exceptions: Stream<'s, Exceptions>,
    ) -> (TimedStream<'s, D>, TimedStream<'s, D>) {
        let flow = self.stream.flow.clone();
        let (time, show) = (self.time(), self.show.clone());
        let (mut unverified, mut conflicting) = (self.sampler(id, Why::Unverified), self.sampler(id, Why::Conflicting));
        flow.mark_used(exceptions.node);
        let rows = exceptions.batches.unary::<CapacityContainerBuilder<Vec<Exceptions>>, _, _, _>(
            Pipeline,
            "verdicts",
            |_, _| {
                |input, output| {
                    input.for_each(|capability, batch| {
                        let mut session = output.session(&capability);
                        batch.for_each(|exceptions| session.give(exceptions.clone()));
                    });
                }
            },
        );
        let mut builder = OperatorBuilder::new(format!("{id}/apply"), flow.scope);
        let mut input = builder.new_input(self.stream.applied().batches, Pipeline);
        let mut verdicts = builder.new_input(rows, Exchange::new(|e: &Exceptions| u64::from(e.dest)));
        let (kept_out, kept) = builder.new_output();
        let (aside_out, aside) = builder.new_output();
        let (acks_out, acks) = builder.new_output();
        let mut kept_out = OutputBuilder::<_, NoopBuilder<Batch<D>>>::from(kept_out);
        let mut aside_out = OutputBuilder::<_, NoopBuilder<Batch<D>>>::from(aside_out);
        let mut acks_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Ack>>>::from(acks_out);
        let gauge = flow.gauge(node, Role::Except);
        builder.build(move |initial| {
            drop(initial);
            let mut pending: PendingByTime<Vec<Capability<Epoch>>, Gathered<D>> = PendingByTime::new();
            move |frontiers| {
                input.for_each(|capability, batch| {
                    let Some(&epoch) = capability.least() else { return };
                    let ports = || (KEPT..=ACKS).map(|port| capability.delayed(&epoch, port)).collect();
                    pending.at(epoch, ports).batches.push(std::mem::take(batch));
                });
                verdicts.for_each(|capability, batch| {
                    let Some(&epoch) = capability.least() else { return };
                    let ports = || (KEPT..=ACKS).map(|port| capability.delayed(&epoch, port)).collect();
                    pending.at(epoch, ports).exceptions.append(batch);
                });
                while let Some((epoch, ports, gathered)) = pending.take_closed(&[&frontiers[0], &frontiers[1]]) {
                    let _at_work = gauge.working(epoch);
                    let by_block = merged(gathered.exceptions);
                    let mut accepted = 0;
                    for batch in gathered.batches {
                        gauge.took(batch.len());
                        let (mut kept, late) = match by_block.binary_search_by_key(&batch.order, |e| e.order) {
                            Err(_) => (batch, None),
                            Ok(found) => {
                                let exceptions = &by_block[found];
                                exceptions.aside.iter().for_each(|row| unverified.see(&batch, *row));
                                exceptions.conflicting.iter().for_each(|row| conflicting.see(&batch, *row));
                                apply(&batch, exceptions)
                            }
                        };
                        accepted += kept.len() as u64;
                        gauge.gave(kept.len() + late.as_ref().map_or(0, Batch::len));
                        kept_out.activate().session_with_builder(&ports[KEPT]).give_container(&mut kept);
                        if let Some(mut late) = late {
                            aside_out.activate().session_with_builder(&ports[ASIDE]).give_container(&mut late);
                        }
                    }
                    if accepted > 0 {
                        let counts = BTreeMap::from([("accepted".to_owned(), accepted)]);
                        acks_out.activate().session(&ports[ACKS]).give(Ack::Counts { operator: id.into(), counts });
                    }
                    unverified.show();
                    conflicting.show();
                }
                gauge.closed(&[&frontiers[0], &frontiers[1]], None);
            }
        });
        flow.wiring.acks.borrow_mut().push(acks);
        let stream = |batches| Stream { flow: flow.clone(), batches, filter: None, node };
        let timed = |batches| TimedStream { stream: stream(batches), time: Rc::clone(&time), show: show.clone() };
        (timed(kept), timed(aside))
    }
}

fn apply<D>(batch: &Batch<D>, exceptions: &Exceptions) -> (Batch<D>, Option<Batch<D>>) {
    let aside = (!exceptions.aside.is_empty()).then(|| batch.only(exceptions.aside.as_slice().into()));
    (batch.except(&exceptions.dropped), aside)
}

/// One entry a block, in block order: several workers judge the ids of one block.
fn merged(mut exceptions: Vec<Exceptions>) -> Vec<Exceptions> {
    exceptions.sort_by_key(|e| e.order);
    let mut merged: Vec<Exceptions> = Vec::with_capacity(exceptions.len());
    for next in exceptions {
        match merged.last_mut() {
            Some(last) if last.order == next.order => {
                last.dropped.extend(next.dropped);
                last.aside.extend(next.aside);
                last.conflicting.extend(next.conflicting);
            }
            _ => merged.push(next),
        }
    }
    for block in &mut merged {
        block.dropped.sort_unstable();
        block.aside.sort_unstable();
        block.conflicting.sort_unstable();
    }
    merged
}
