//! The committer: on worker 0, sees by frontiers when every sink holds an epoch and every operator has stored a snapshot.

use std::collections::BTreeMap;

use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::checkpoint::PieceRef;
use crate::control::Ack;
use crate::driver::sink;
use crate::flow::Flow;
use crate::shared::Request;
use crate::time::Epoch;

/// Ends the pipeline on this worker: builds the writers of its sinks, and wires all acknowledgements to the thread that
/// writes the log.
pub(crate) fn build(flow: &Flow<'_>) {
    sink::build_writers(flow);
    let acks = flow.scope.concatenate(flow.wiring.acks.take());
    let pieces = flow.scope.concatenate(flow.wiring.pieces.take());
    let mut builder = OperatorBuilder::new("commit".into(), flow.scope);
    let mut acks = builder.new_input(acks, Exchange::new(|_: &Ack| 0));
    let mut pieces = builder.new_input(pieces, Exchange::new(|_: &Ack| 0));
    let env = std::sync::Arc::clone(&flow.env);
    builder.build(move |_| {
        let mut commits: BTreeMap<Epoch, Vec<Ack>> = BTreeMap::new();
        let mut checkpoints: BTreeMap<Epoch, Vec<Ack>> = BTreeMap::new();
        move |frontiers| {
            acks.for_each(|capability, batch| {
                let Some(&epoch) = capability.least() else { return };
                commits.entry(epoch).or_default().append(batch);
            });
            pieces.for_each(|capability, batch| {
                let Some(&epoch) = capability.least() else { return };
                checkpoints.entry(epoch).or_default().append(batch);
            });
            while let Some(entry) = commits.first_entry() {
                if frontiers[0].less_equal(entry.key()) {
                    break;
                }
                let (epoch, acks) = entry.remove_entry();
                if epoch > env.committed {
                    env.requests.send(commit(epoch, acks));
                } else {
                    // An earlier run committed it; that it went through again makes room for the next (INV-8).
                    env.shared.committed(epoch);
                }
            }
            while let Some(entry) = checkpoints.first_entry() {
                // Both: a checkpoint comes after the commit of its epoch (INV-4).
                if frontiers.iter().any(|frontier| frontier.less_equal(entry.key())) {
                    break;
                }
                let (epoch, acks) = entry.remove_entry();
                env.requests.send(checkpoint(epoch, acks));
            }
        }
    });
}

fn commit(epoch: Epoch, acks: Vec<Ack>) -> Request {
    let (mut files, mut counts) = (Vec::new(), Vec::new());
    for ack in acks {
        match ack {
            Ack::Counts { operator, counts: more } => counts.push((operator, more)),
            Ack::Files { table, files: more } => files.push((table, more)),
            Ack::Piece { .. } | Ack::Source { .. } => unreachable!("pieces have a stream of their own"),
        }
    }
    files.sort_by(|a, b| a.0.cmp(&b.0));
    Request::Commit { epoch, files, counts }
}

fn checkpoint(epoch: Epoch, acks: Vec<Ack>) -> Request {
    let mut pieces: Vec<(String, PieceRef)> = Vec::new();
    let mut source = String::new();
    let mut watermark = None;
    for ack in acks {
        match ack {
            Ack::Piece { operator, piece } => pieces.push((operator, piece)),
            Ack::Source { state, watermark: reached } => (source, watermark) = (state, reached),
            Ack::Counts { .. } | Ack::Files { .. } => unreachable!("commits have a stream of their own"),
        }
    }
    pieces.sort_by(|a, b| (&a.0, &a.1.path).cmp(&(&b.0, &b.1.path)));
    Request::Checkpoint { epoch, pieces, source, watermark }
}
