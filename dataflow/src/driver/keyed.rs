//! The one driver of keyed, checkpointed logic: exchanges by key group, closes epochs in order, snapshots and restores.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;

use timely::container::{CapacityContainerBuilder, NoopBuilder};
use timely::dataflow::Stream as TimelyStream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::batch::{Batch, Order};
use crate::checkpoint::writer::{Codec, Request, Stored};
use crate::control::{Ack, Control};
use crate::flow::{Env, Flow};
use crate::key_group::groups_of;
use crate::keyed::{Chunk, Emit, ShardLogic, Traced};
use crate::pending::PendingByTime;
use crate::quarantine::{Origin, Panic, Passing, Phase, Probe, blame};
use crate::runtime::RunError;
use crate::status::gauge::Role;
use crate::stream::{Peers, Stream};
use crate::time::{Epoch, EpochTime};

const RECORDS: usize = 0;
const ACKS: usize = 1;
const PIECES: usize = 2;

/// An epoch's input.
struct Gathered<R> {
    chunks: Vec<Traced<R>>,
    control: Option<Control>,
}

impl<R> Default for Gathered<R> {
    fn default() -> Self {
        Gathered { chunks: Vec::new(), control: None }
    }
}

/// Runs `logic` over the chunks, each on the worker that it is addressed to; `node` is the operator's place in the plan.
pub fn keyed<'s, L: ShardLogic>(
    flow: &Flow<'s>,
    (id, node): (&'static str, usize),
    chunks: TimelyStream<'s, Epoch, Vec<Traced<L::In>>>,
    logic: L,
) -> Stream<'s, L::Out> {
    if L::STATEFUL {
        flow.wiring.plan.borrow_mut().set_state(node, L::STATE_VERSION, L::OLDEST_VERSION);
        flow.env.registry.lock().expect("no panic while it is held").codecs.insert(id.into(), Codec::of::<L>());
    }
    let mut builder = OperatorBuilder::new(id.into(), flow.scope);
    let mut input = builder.new_input(chunks, Exchange::new(|traced: &Traced<L::In>| u64::from(traced.chunk.dest)));
    let mut controls = builder.new_input(flow.control(), Pipeline);
    let (records_out, records) = builder.new_output();
    let (acks_out, acks) = builder.new_output();
    let (pieces_out, pieces) = builder.new_output();
    let mut records_out = OutputBuilder::<_, NoopBuilder<Batch<L::Out>>>::from(records_out);
    let mut acks_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Ack>>>::from(acks_out);
    let mut pieces_out = OutputBuilder::<_, CapacityContainerBuilder<Vec<Ack>>>::from(pieces_out);
    let address = builder.operator_info().address;
    let wake = flow.scope.worker().sync_activator_for(address.to_vec());
    let env = std::sync::Arc::clone(&flow.env);
    let peers = Peers { me: flow.worker(), workers: flow.workers() };
    let gauge = flow.gauge(node, Role::Keyed);

    builder.build(move |initial| {
        let mut logic = restored(&env, id, peers, logic);
        let mut refed = refed(&env, initial, Batch::new(order_of(peers), logic.refeed()));
        let mut pending: PendingByTime<Vec<Capability<Epoch>>, Gathered<L::In>> = PendingByTime::new();
        let mut storing: BTreeMap<Epoch, Capability<Epoch>> = BTreeMap::new();
        let (reply, replies) = channel::<Stored>();
        let snapshots = env.snapshots();
        move |frontiers| {
            // 0. The restored state, where a region wants it again; nothing else is ever sent at that epoch.
            if let Some((capability, mut batch)) = refed.take() {
                records_out.activate().session_with_builder(&capability).give_container(&mut batch);
            }
            // 1. Take in what arrived.
            input.for_each(|capability, batch| {
                let Some(&epoch) = capability.least() else { return };
                let ports = || (RECORDS..=PIECES).map(|port| capability.delayed(&epoch, port)).collect();
                pending.at(epoch, ports).chunks.append(batch);
            });
            controls.for_each(|capability, batch| {
                let Some(&epoch) = capability.least() else { return };
                let ports = || (RECORDS..=PIECES).map(|port| capability.delayed(&epoch, port)).collect();
                pending.at(epoch, ports).control = batch.pop();
            });
            // 2. Acknowledge what was stored meanwhile.
            while let Ok(Stored { epoch, piece }) = replies.try_recv() {
                let capability = storing.remove(&epoch).expect("a snapshot is stored once");
                let ack = Ack::Piece { operator: id.into(), piece };
                pieces_out.activate().session(&capability).give(ack);
            }
            // 3. Close epochs in order.
            while let Some((epoch, mut ports, gathered)) = pending.take_closed(&[&frontiers[0], &frontiers[1]]) {
                let control = gathered.control.expect("the watermarks of an epoch come before it closes");
                let at_work = gauge.working(epoch);
                gauge.took(gathered.chunks.iter().map(|traced| traced.chunk.rows.len()).sum());
                let mut emit = Emit::default();
                close(&mut logic, id, (control.time(), gathered.chunks), &mut emit);
                gauge.gave(emit.records.len());
                gauge.holds(logic.size());
                let mut batch = Batch::new(order_of(peers), emit.records);
                records_out.activate().session_with_builder(&ports[RECORDS]).give_container(&mut batch);
                if !emit.counts.is_empty() {
                    let counts = emit.counts.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
                    acks_out.activate().session(&ports[ACKS]).give(Ack::Counts { operator: id.into(), counts });
                }
                drop(at_work);
                // 4. State is now exactly that of the end of this epoch: move out what changed.
                if control.checkpoint
                    && let Some(snapshots) = &snapshots
                    && let Some(changes) = logic.changes()
                {
                    storing.insert(epoch, ports.swap_remove(PIECES));
                    let (reply, wake, worker) = (reply.clone(), wake.clone(), peers.me);
                    // A closed channel means that the run has failed already.
                    let version = L::STATE_VERSION;
                    let _ =
                        snapshots.send(Request::Write { operator: id, version, worker, epoch, changes, reply, wake });
                }
            }
            gauge.closed(&[&frontiers[0], &frontiers[1]], None);
        }
    });
    flow.wiring.acks.borrow_mut().push(acks);
    flow.wiring.pieces.borrow_mut().push(pieces);
    Stream { flow: flow.clone(), batches: records, filter: None, node }
}

/// Closes an epoch of a logic; whom a panic is to be blamed on is known.
fn close<L: ShardLogic>(
    logic: &mut L,
    id: &'static str,
    (time, mut chunks): (EpochTime, Vec<Traced<L::In>>),
    emit: &mut Emit<L::Out>,
) {
    chunks.sort_unstable_by_key(|traced| (traced.chunk.order, traced.chunk.from));
    let (input, made_of): (Vec<Chunk<L::In>>, Vec<Option<Origin>>) =
        chunks.into_iter().map(|traced| (traced.chunk, traced.made_of)).unzip();
    let _passing = Passing::new(None, Phase::Operate, (id, Some(time.epoch)));
    if made_of.iter().all(Option::is_none) {
        return logic.close_epoch(time, input, emit);
    }
    let mut of_chunk =
        |chunk: usize, panic: &Panic, each_time| blame(made_of[chunk].as_ref(), (id, time.epoch), panic, each_time);
    logic.close_probed(time, input, emit, &mut Probe::new(&mut of_chunk));
}

/// What a worker gives has no place in the input; the worker's number stands for it.
fn order_of(peers: Peers) -> Order {
    Order { partition: peers.me, offset: 0 }
}

/// A batch to be sent at the epoch of the checkpoint, and the right to do so; no right is kept for nothing.
fn refed<O>(env: &Env, initial: Vec<Capability<Epoch>>, batch: Batch<O>) -> Option<(Capability<Epoch>, Batch<O>)> {
    let records = initial.into_iter().nth(RECORDS).filter(|_| !batch.is_empty())?;
    Some((records.delayed(&env.restored.epoch), batch))
}

/// The logic with the sections of the groups that this worker owns.
fn restored<L: ShardLogic>(env: &Env, id: &str, peers: Peers, mut logic: L) -> L {
    let groups = groups_of(peers.me, peers.workers);
    let codec = Codec::of::<L>();
    for (version, piece) in env.restored.pieces(id) {
        for (group, section) in piece.sections().filter(|(group, _)| groups.contains(&u32::from(*group))) {
            let section = codec.current(version, group, section);
            if let Err(error) = section.and_then(|section| logic.restore(group, &section)) {
                env.shared.fail(RunError::State(format!(
                    "operator `{id}`, key group {group}: {error}; go on with the build that wrote it, raise the operator's \
                     state version with a migration from version {version}, or give its state up with --drop-state {id}"
                )));
                return logic;
            }
        }
    }
    logic.restored(env.restored.source.watermark());
    logic
}
