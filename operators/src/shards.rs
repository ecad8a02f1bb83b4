//! A logic over the key groups of several workers, as the tests of its laws run it: epochs, snapshots, folds, restores.

use std::collections::BTreeMap;

use tidemill_dataflow::batch::Order;
use tidemill_dataflow::key::OwnedKey;
use tidemill_dataflow::key_group::{KeyGroup, owner};
use tidemill_dataflow::keyed::{Chunk, Emit, KeyedLogic, PerKey, Section, ShardLogic};
use tidemill_dataflow::stream::Peers;
use tidemill_dataflow::time::{Epoch, EpochTime, Watermark};

use crate::exchange::part;

/// One worker each over its part of the key groups.
pub(crate) struct Shards<L> {
    logic: Vec<L>,
    pieces: Vec<Section>,
    before: Watermark,
    epoch: Epoch,
}

impl<L: ShardLogic> Shards<L> {
    pub(crate) fn new(workers: u32, make: impl Fn() -> L) -> Self {
        Shards { logic: (0..workers).map(|_| make()).collect(), pieces: Vec::new(), before: None, epoch: 0 }
    }

    pub(crate) fn workers(&self) -> u32 {
        u32::try_from(self.logic.len()).unwrap()
    }

    /// The clocks of the next epoch, if the watermark moves to `after`.
    pub(crate) fn clocks(&self, after: Watermark) -> EpochTime {
        EpochTime { epoch: self.epoch + 1, before: self.before, after }
    }

    /// Closes an epoch of rows that are addressed already.
    pub(crate) fn close_chunks(&mut self, mut chunks: Vec<Chunk<L::In>>, after: Watermark) -> Emit<L::Out> {
        let clocks = self.clocks(after);
        let mut all = Emit::default();
        for (dest, logic) in (0..).zip(&mut self.logic) {
            let input = chunks.extract_if(.., |chunk| chunk.dest == dest).collect();
            logic.close_epoch(clocks, input, &mut all);
        }
        (self.before, self.epoch) = (after, clocks.epoch);
        all
    }

    /// Stores what has changed since the last time.
    pub(crate) fn snapshot(&mut self) {
        let changes = self.logic.iter_mut().filter_map(L::changes);
        self.pieces.extend(changes.flat_map(|changes| (changes.encode)()));
    }

    /// The same state, stored, folded by group if `fold`, and restored on other workers.
    pub(crate) fn moved(mut self, workers: u32, make: impl Fn() -> L, fold: bool) -> Self {
        self.snapshot();
        if fold {
            let mut groups: BTreeMap<KeyGroup, Vec<&[u8]>> = BTreeMap::new();
            self.pieces.iter().for_each(|piece| groups.entry(piece.group).or_default().push(&piece.bytes));
            let folded = |sections: &[&[u8]]| L::fold(sections, self.before, true).unwrap();
            self.pieces = groups.iter().map(|(&group, s)| Section { group, bytes: folded(s) }).collect();
        }
        let mut moved = Shards::new(workers, make);
        for section in &self.pieces {
            moved.logic[owner(section.group, workers) as usize].restore(section.group, &section.bytes).unwrap();
        }
        moved.logic.iter_mut().for_each(|logic| logic.restored(self.before));
        Shards { logic: moved.logic, ..self }
    }

    /// What is given once more after a restore.
    pub(crate) fn refeed(&mut self) -> Vec<L::Out> {
        self.logic.iter_mut().flat_map(L::refeed).collect()
    }

    /// How many entries have state.
    pub(crate) fn entries(&self) -> u64 {
        self.logic.iter().map(|logic| logic.size().entries).sum()
    }
}

impl<L: KeyedLogic> Shards<PerKey<L>> {
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
}
