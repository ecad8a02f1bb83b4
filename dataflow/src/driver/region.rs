//! The edges of a region: the part of a pipeline that another library maintains incrementally, at timely's epochs.
//!
//! A region keeps no checkpoints. The keyed operator at its entrance keeps the collection that went in and gives it again,
//! at the epoch of the checkpoint, when a run is restored ([`ShardLogic::refeed`](crate::keyed::ShardLogic::refeed)). At
//! its exit everything up to that epoch is discarded, since an earlier run gave it; later epochs give what differs from
//! it, as if nothing had happened (INV-2, INV-5). So between the edges there must be no sink and no state.

use serde::{Deserialize, Serialize};
use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::Stream as TimelyStream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator as _;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::batch::{Batch, Order};
use crate::control::{Ack, Control};
use crate::flow::Flow;
use crate::pending::PendingByTime;
use crate::quarantine::{Passing, Phase, open_epoch};
use crate::status::gauge::Role;
use crate::stream::Stream;
use crate::time::{Epoch, Watermark};

/// A change of a collection: so many of equal rows more (or, below zero, fewer).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Change<R> {
    /// The row.
    pub row: R,
    /// How many more of it there are; never 0 in what an operator gives.
    pub diff: i64,
}

impl<R> Change<R> {
    /// One row more.
    pub fn insert(row: R) -> Self {
        Change { row, diff: 1 }
    }

    /// One row less.
    pub fn retract(row: R) -> Self {
        Change { row, diff: -1 }
    }

    /// `diff` rows more.
    pub fn by(diff: i64, row: R) -> Self {
        Change { row, diff }
    }

    /// Sorts changes by row; one stays for each row that has changed.
    pub fn consolidate(changes: &mut Vec<Self>)
    where
        R: Ord,
    {
        changes.sort_unstable_by(|a, b| a.row.cmp(&b.row));
        changes.dedup_by(|next, first| {
            let same = next.row == first.row;
            first.diff += if same { next.diff } else { 0 };
            same
        });
        changes.retain(|change| change.diff != 0);
    }
}

/// A change inside a region: the row, its epoch, and how many more of it there are.
pub type Update<R> = (R, Epoch, isize);

/// The changes as a region takes them. Nothing else may read `stream`: after a restore its first epoch is that of the
/// checkpoint.
pub fn enter_region<'s, R: Clone + Send + Sync + 'static>(
    stream: Stream<'s, Change<R>>,
) -> TimelyStream<'s, Epoch, Vec<Update<R>>> {
    let changes = stream.applied().batches;
    changes.unary::<CapacityContainerBuilder<Vec<Update<R>>>, _, _, _>(Pipeline, "enter", |_, _| {
        |input, output| {
            input.for_each(|capability, batch| {
                let Some(&epoch) = capability.least() else { return };
                let mut session = output.session(&capability);
                batch.for_each(|change| session.give((change.row.clone(), epoch, weight(change.diff))));
            });
        }
    })
}

fn weight(diff: i64) -> isize {
    isize::try_from(diff).expect("the engine runs on machines of 64 bits")
}

struct Gathered<R> {
    changes: Vec<Change<R>>,
    control: Option<Control>,
}

impl<R> Default for Gathered<R> {
    fn default() -> Self {
        Gathered { changes: Vec::new(), control: None }
    }
}

const RECORDS: usize = 0;
const FROZEN: usize = 1;
const ACKS: usize = 2;

/// What the region gives in each epoch, once the epoch is closed: consolidated, sorted, nothing of what an earlier run
/// gave. Changes of rows that are `frozen` under `W(e-1)` are counted, and given by the second stream instead.
///
/// All changes of a row must come to one worker; `id` and `node` are those of the operator at the entrance.
pub fn leave_region<'s, R: Ord + Send + Sync + 'static>(
    flow: &Flow<'s>,
    (id, node): (&'static str, usize),
    updates: TimelyStream<'s, Epoch, Vec<Update<R>>>,
    frozen: impl Fn(&R, Watermark) -> bool + 'static,
) -> (Stream<'s, Change<R>>, Stream<'s, Change<R>>) {
    let mut builder = OperatorBuilder::new(format!("{id}/leave"), flow.scope);
    let mut input = builder.new_input(updates, Pipeline);
    let mut controls = builder.new_input(flow.control(), Pipeline);
    let (records_out, records) = builder.new_output();
    let (frozen_out, late) = builder.new_output();
    let (acks_out, acks) = builder.new_output();
    let mut records_out = OutputBuilder::<_, NoopBuilder<Batch<Change<R>>>>::from(records_out);
    let mut frozen_out = OutputBuilder::<_, NoopBuilder<Batch<Change<R>>>>::from(frozen_out);
    let mut acks_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Ack>>>::from(acks_out);
    let gauge = flow.gauge(node, Role::Leave);
    let restored = flow.env.restored.epoch;
    let order = Order { partition: flow.worker(), offset: 0 };
    let open = open_epoch(id);

    builder.build(move |initial| {
        drop(initial);
        let mut pending: PendingByTime<Vec<Capability<Epoch>>, Gathered<R>> = PendingByTime::new();
        move |frontiers| {
            input.for_each(|capability, batch| {
                // A message may carry several epochs; its capability is that of the first.
                for (row, epoch, diff) in batch.drain(..).filter(|(_, epoch, _)| *epoch > restored) {
                    let ports = || (RECORDS..=ACKS).map(|port| capability.delayed(&epoch, port)).collect();
                    pending.at(epoch, ports).changes.push(Change { row, diff: diff as i64 });
                }
            });
            controls.for_each(|capability, batch| {
                let Some(&epoch) = capability.least() else { return };
                let ports = || (RECORDS..=ACKS).map(|port| capability.delayed(&epoch, port)).collect();
                pending.at(epoch, ports).control = batch.pop();
            });
            while let Some((epoch, ports, gathered)) = pending.take_closed(&[&frontiers[0], &frontiers[1]]) {
                let control = gathered.control.expect("the watermarks of an epoch come before it closes");
                let at_work = gauge.working(epoch);
                let mut changes = gathered.changes;
                let passing = Passing::new(None, Phase::Operate, (id, Some(epoch)));
                Change::consolidate(&mut changes);
                let left_out: Vec<_> = changes.extract_if(.., |change| frozen(&change.row, control.before)).collect();
                drop(passing);
                gauge.gave(changes.len());
                records_out
                    .activate()
                    .session_with_builder(&ports[RECORDS])
                    .give_container(&mut Batch::new(order, changes));
                if !left_out.is_empty() {
                    let counts = [("frozen".to_owned(), left_out.len() as u64)].into();
                    acks_out.activate().session(&ports[ACKS]).give(Ack::Counts { operator: id.into(), counts });
                    let mut left_out = Batch::new(order, left_out);
                    frozen_out.activate().session_with_builder(&ports[FROZEN]).give_container(&mut left_out);
                }
                drop(at_work);
            }
            gauge.closed(&[&frontiers[0], &frontiers[1]], None);
            open.set(frontiers[0].frontier().first().copied().unwrap_or(open.get()));
        }
    });
    flow.wiring.acks.borrow_mut().push(acks);
    let stream = |batches| Stream { flow: flow.clone(), batches, filter: None, node };
    (stream(records), stream(late))
}
