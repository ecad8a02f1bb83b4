//! A keyed logic over the key groups of several workers, as the tests of its laws run it: epochs, snapshots, restores.

use std::rc::Rc;

use tidemill_dataflow::batch::Order;
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::key_group::owner;
use tidemill_dataflow::keyed::{Chunk, Emit, KeyedLogic, PerKey, Section, ShardLogic};
use tidemill_dataflow::stream::Peers;
use tidemill_dataflow::time::{EpochTime, Watermark};

use crate::exchange::part;

/// One worker each over its part of the key groups.
pub(crate) struct Shards<L: KeyedLogic> {
    make: Rc<dyn Fn() -> L>,
    logic: Vec<PerKey<L>>,
    pieces: Vec<Section>,
    before: Watermark,
}

impl<L: KeyedLogic> Shards<L> {
    pub(crate) fn new(workers: u32, make: Rc<dyn Fn() -> L>) -> Self {
        let logic = (0..workers).map(|_| PerKey::new(make())).collect();
        Shards { make, logic, pieces: Vec::new(), before: None }
    }

    pub(crate) fn workers(&self) -> u32 {
        u32::try_from(self.logic.len()).unwrap()
    }

    /// The clocks of the next epoch, if the watermark moves to `after`.
    pub(crate) fn clocks(&self, after: Watermark) -> EpochTime {
        EpochTime { epoch: 1, before: self.before, after }
    }

    /// Closes an epoch; row `n` comes from worker `n % workers`.
    pub(crate) fn close(&mut self, rows: &[(OwnedKey, L::In)], after: Watermark) -> Emit<L::Out>
    where
        L::In: Clone,
    {
        let workers = self.workers();
        let from = |me: u32| rows.iter().skip(me as usize).step_by(workers as usize).cloned();
        let chunks = (0..workers).flat_map(|me| part(from(me), Order::default(), Peers { me, workers })).collect();
        self.close_chunks(chunks, after)
    }

    /// Closes an epoch of rows that are addressed already.
    pub(crate) fn close_chunks(&mut self, mut chunks: Vec<Chunk<(OwnedKey, L::In)>>, after: Watermark) -> Emit<L::Out> {
        let clocks = self.clocks(after);
        let mut all = Emit::default();
        for (dest, logic) in (0..).zip(&mut self.logic) {
            let input = chunks.extract_if(.., |chunk| chunk.dest == dest).collect();
            logic.close_epoch(clocks, input, &mut all);
        }
        self.before = after;
        all
    }

    /// The same state, stored and restored on other workers.
    pub(crate) fn moved(mut self, workers: u32) -> Self {
        let changes = self.logic.iter_mut().filter_map(PerKey::changes);
        self.pieces.extend(changes.flat_map(|changes| (changes.encode)()));
        let mut moved = Shards::new(workers, self.make);
        for section in &self.pieces {
            moved.logic[owner(section.group, workers) as usize].restore(section.group, &section.bytes).unwrap();
        }
        moved.logic.iter_mut().for_each(|logic| logic.restored(self.before));
        Shards { pieces: self.pieces, before: self.before, ..moved }
    }

    /// How many keys have state.
    pub(crate) fn entries(&self) -> u64 {
        self.logic.iter().map(|logic| logic.size().entries).sum()
    }
}
