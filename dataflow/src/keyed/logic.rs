//! What a keyed operator is to the engine: pure logic over the keys that one worker owns.
//!
//! A logic sees records, its state and two watermarks. It never sees a capability, a thread, a clock or storage; the
//! driver beside it stashes by epoch, exchanges by key group, snapshots and restores. What a logic gives for an epoch
//! must depend, as a multiset over all workers, only on (state, the epoch's records, watermarks): INV-2.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::batch::Order;
use crate::key_group::KeyGroup;
use crate::quarantine::{Origin, Probe};
use crate::time::{EpochTime, EventTime, Watermark};

/// What may travel between workers.
pub trait Exchanged: Serialize + DeserializeOwned + Send + 'static {}
impl<T: Serialize + DeserializeOwned + Send + 'static> Exchanged for T {}

/// Rows that one worker sends to another: whole, partitioned once, moved by pointer inside a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk<R> {
    /// The worker it goes to.
    pub dest: u32,
    /// The worker it comes from.
    pub from: u32,
    /// The block it was made of, or `Order::default()` where rows of several blocks were combined.
    pub order: Order,
    /// The rows.
    pub rows: Vec<R>,
}

/// A chunk on its way, and which record it was made of, if records that panic are looked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Traced<R> {
    pub(crate) chunk: Chunk<R>,
    pub(crate) made_of: Option<Origin>,
}

/// What a logic gives while it closes an epoch: records and counters.
#[derive(Debug)]
pub struct Emit<O> {
    /// Records for the stream after the operator.
    pub records: Vec<O>,
    /// Counters of this epoch, by name.
    pub counts: BTreeMap<&'static str, u64>,
}

impl<O> Default for Emit<O> {
    fn default() -> Self {
        Emit { records: Vec::new(), counts: BTreeMap::new() }
    }
}

impl<O> Emit<O> {
    /// Gives a record.
    pub fn give(&mut self, record: O) {
        self.records.push(record);
    }

    /// Gives and counts what another one did.
    pub fn absorb(&mut self, mut other: Emit<O>) {
        self.records.append(&mut other.records);
        other.counts.into_iter().for_each(|(name, n)| self.count(name, n));
    }

    /// Adds `n` to a counter of the operator.
    pub fn count(&mut self, name: &'static str, n: u64) {
        if n > 0 {
            *self.counts.entry(name).or_default() += n;
        }
    }
}

/// The part of a snapshot that belongs to one key group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The group.
    pub group: KeyGroup,
    /// What the logic's codec wrote; the engine adds checksums.
    pub bytes: Vec<u8>,
}

/// What changed since the last snapshot, moved out of the logic; encoding runs on a background thread.
pub struct Changes {
    /// Writes the sections, at most one a group, ascending.
    pub encode: Box<dyn FnOnce() -> Vec<Section> + Send>,
    /// Once the watermark is at or past this time nothing in the sections matters any more: the piece is dropped
    /// whole. `None`: it matters until folded away.
    pub expires: Option<EventTime>,
}

/// How much state a logic holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSize {
    /// Keys, ids or sessions.
    pub entries: u64,
    /// Heap bytes, as exactly as the logic knows.
    pub bytes: u64,
}

/// A stored section that this build cannot read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("state section cannot be decoded: {0}")]
pub struct DecodeError(pub String);

/// The answer of a logic that has no migration.
pub(crate) fn no_migration(from: u32, to: u32) -> DecodeError {
    DecodeError(format!("it is of version {from}, and there is no migration from that to version {to}"))
}

/// Pure logic of a keyed operator over the key groups of one worker.
pub trait ShardLogic: 'static {
    /// What other workers send.
    type In: Exchanged;
    /// What it gives.
    type Out: Send + Sync + 'static;
    /// The version of its sections; raise it when their meaning changes and say so in the CHANGELOG.
    const STATE_VERSION: u32;
    /// The oldest version whose sections [`migrate`](Self::migrate) turns into today's. Older ones are refused before
    /// anything runs.
    const OLDEST_VERSION: u32 = Self::STATE_VERSION;
    /// Whether there is anything to snapshot.
    const STATEFUL: bool;

    /// Handles all chunks of one epoch (sorted by [`Order`], then by sending worker), then what `time.after` fires.
    /// Called for every epoch in order, also those without input.
    fn close_epoch(&mut self, time: EpochTime, input: Vec<Chunk<Self::In>>, out: &mut Emit<Self::Out>);

    /// Does the same where a record that panics is looked for: some chunks are of one record each. A logic that calls
    /// somebody else's code asks the probe which chunks it panics at, and goes on with the others; nothing that it gives or
    /// keeps of such an epoch is used. By default a panic is of no single record.
    fn close_probed(
        &mut self,
        time: EpochTime,
        input: Vec<Chunk<Self::In>>,
        out: &mut Emit<Self::Out>,
        probe: &mut Probe<'_>,
    ) {
        let _ = probe;
        self.close_epoch(time, input, out);
    }

    /// Moves out what changed since the last call; `None` if nothing did.
    fn changes(&mut self) -> Option<Changes>;

    /// Takes in a section; sections of a group come in the order in which they were written.
    ///
    /// # Errors
    /// If the section is not one that this version wrote.
    fn restore(&mut self, group: KeyGroup, section: &[u8]) -> Result<(), DecodeError>;

    /// Writes a section of an older `version` (at least `OLDEST_VERSION`) as this version would have written it. What is
    /// restored goes through it, and the next fold stores what it gives; until then sections of several versions live side
    /// by side.
    ///
    /// # Errors
    /// If the section is not one that `version` wrote, or there is no migration from it.
    fn migrate(version: u32, group: KeyGroup, section: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let _ = (group, section);
        Err(no_migration(version, Self::STATE_VERSION))
    }

    /// Called once after the last section, with the watermark of the checkpoint.
    fn restored(&mut self, watermark: Watermark);

    /// What is given once more after a restore, at the epoch of the checkpoint and before any later one. Logic that feeds
    /// a region without checkpoints of its own gives all that it gave so far, folded; other logic gives nothing.
    fn refeed(&mut self) -> Vec<Self::Out> {
        Vec::new()
    }

    /// Folds successive sections of one group (oldest first) into one that restores to the same state given the
    /// watermark `low`; entries that expired before it may be left out. `oldest`: nothing older exists, so
    /// tombstones can go.
    ///
    /// # Errors
    /// If a section is not one that this version wrote.
    fn fold(sections: &[&[u8]], low: Watermark, oldest: bool) -> Result<Vec<u8>, DecodeError>;

    /// How much it holds now.
    fn size(&self) -> StateSize;
}
