//! Whole records on their way to the worker that owns their key.

use tidemill_dataflow::batch::Order;
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::key_group::{group_of, owner};
use tidemill_dataflow::keyed::Chunk;
use tidemill_dataflow::stream::Peers;

/// Parts rows by the worker that owns their keys; workers that own none get no chunk.
pub(crate) fn part<R>(
    rows: impl IntoIterator<Item = (OwnedKey, R)>,
    order: Order,
    peers: Peers,
) -> Vec<Chunk<(OwnedKey, R)>> {
    let Peers { me: from, workers } = peers;
    let mut chunks: Vec<_> = (0..workers).map(|dest| Chunk { dest, from, order, rows: Vec::new() }).collect();
    for (key, row) in rows {
        chunks[owner(group_of(key.hash()), workers) as usize].rows.push((key, row));
    }
    chunks.retain(|chunk| !chunk.rows.is_empty());
    chunks
}
