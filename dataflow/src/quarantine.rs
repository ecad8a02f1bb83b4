//! Records that panic whoever handles them: found, and set aside, so that the rest flows (INV-6).
//!
//! A panic ends the run (fail-stop), and its epoch is noted; nothing is done per record before. The next start takes what it
//! reads of that epoch, and of those that may be under way with it, apart into blocks of one record. There a record that
//! panics is tried once more, noted and left out (`pass`), so that one start finds all that panic in an epoch; a keyed
//! operator, which has the rows of many records in hand, is tried on some of them (`probe`). When their epoch is closed, the
//! run ends. The rule (`decide`): a record that panicked twice is set aside. An epoch that was taken apart and panics at no
//! record (a timer of an earlier epoch, a view) would do so for ever: then the run is refused, until somebody has mended it.
//!
//! Promises:
//! - Nothing that was committed changes. The list of what is set aside is part of the run's `seal` (INV-1): whoever is fenced
//!   cannot add to it. A record that an earlier run committed is never put on it. And no sink writes anything of an epoch
//!   before every record of it has passed through every operator and encoder, and none was left out
//!   ([`sink`](crate::sink)), so no place holds an epoch of which a record is set aside later.
//! - Attempts are only evidence: objects named by position, put if absent. One that a fenced run wrote late says truly that
//!   the record panicked there, and decides nothing by itself.
//! - An epoch's watermark stays what it was: a record that is set aside counts for its partition's clock if it ever did, that
//!   is, if it can be decoded.
//! - Taking blocks apart changes nothing (INV-2): position in the input orders blocks and records alike.

mod attempts;
mod pass;
mod probe;
mod region;
#[cfg(test)]
mod tests;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};
pub use tidemill_log::Quarantined;
use tidemill_log::{LogState, Partitions, Store};

use crate::runtime::RunError;
use crate::source::Block;
use crate::time::Epoch;

pub(crate) use attempts::read as read_attempts;
pub(crate) use pass::{Origin, Passing, Phase, key_in_hand, pass, tried};
pub use pass::{Panic, is_looking};
pub(crate) use probe::blame;
pub use probe::{Probe, Sees};
pub(crate) use region::open_epoch;
pub use region::within_region;
pub use tidemill_log::panics::is_contained;
pub(crate) use witness::{Begins, Witness};

/// How many panics at a record set it aside.
const ENOUGH: usize = 2;

/// As many epochs may be under way beside the one that is committed next.
pub(crate) const EPOCHS_IN_FLIGHT: u64 = 3;

/// A panic while a record was handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// The run, counted from 1.
    pub(crate) run: u64,
    /// Where it was.
    pub(crate) origin: Origin,
    pub(crate) phase: Phase,
    pub(crate) operator: String,
    pub(crate) message: String,
    /// It was tried again at once, and panicked again.
    #[serde(default)]
    pub(crate) twice: bool,
}

/// A panic that was not found to be of one record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fruitless {
    pub(crate) run: u64,
    pub(crate) operator: String,
    /// The epoch, or one shortly before it.
    pub(crate) epoch: Epoch,
    pub(crate) message: String,
}

impl Attempt {
    fn panics(&self) -> usize {
        1 + usize::from(self.twice)
    }
}

/// What follows from the attempts so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// All that is set aside from now on.
    pub(crate) quarantined: Vec<Quarantined>,
    /// Those of them that were not before.
    pub(crate) new: Vec<Quarantined>,
    /// Records that panic, and are in committed results.
    pub(crate) refused: Vec<Quarantined>,
    /// See [`apart_through`].
    pub(crate) apart: Epoch,
}

/// Up to where each partition is committed, by name.
pub(crate) fn committed_ends(state: &LogState) -> BTreeMap<String, u64> {
    let committed: Partitions = state.committed_partitions();
    committed.into_values().map(|partition| (partition.name, partition.end)).collect()
}

/// Through which epoch the records of this run are looked at one by one, because a run before panicked there and nothing
/// was committed of that since, or it was the last one that did.
pub(crate) fn apart_through(store: &dyn Store, run: u64, committed: Epoch) -> Result<Epoch, RunError> {
    let panics = attempts::read_fruitless(store)?.into_iter();
    let matter = panics.filter(|panic| panic.run < run && (panic.epoch > committed || panic.run + 1 == run));
    Ok(matter.map(|panic| panic.epoch + EPOCHS_IN_FLIGHT).max().unwrap_or(0))
}

/// The rule: which records are set aside, given those that are, what panicked, and up to where each partition is committed.
pub(crate) fn decide(before: &[Quarantined], attempts: &[Attempt], committed: &BTreeMap<String, u64>) -> Decision {
    let mut attempts: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.origin.single).collect();
    attempts.sort_by_key(|attempt| (&attempt.origin, attempt.run, !attempt.twice));
    // What was noted twice in one run, because it was not known whether it was noted, happened once.
    attempts.dedup_by(|a, b| (a.run, &a.origin) == (b.run, &b.origin));
    let end = |partition: &str| committed.get(partition).copied().unwrap_or(0);

    let mut decision = Decision { quarantined: before.to_vec(), ..Decision::default() };
    for panics in
        attempts.chunk_by(|a, b| (&a.origin.partition, a.origin.start) == (&b.origin.partition, b.origin.start))
    {
        let (last, count) = (panics.last().expect("a chunk is not empty"), |phase: Option<Phase>| {
            let those = panics.iter().filter(|attempt| phase.is_none_or(|phase| attempt.phase == phase));
            those.map(|attempt| attempt.panics()).sum::<usize>()
        });
        let Origin { partition, start: offset, .. } = &last.origin;
        let unreadable = count(Some(Phase::Decode)) >= ENOUGH;
        let known = before
            .iter()
            .any(|known| known.partition == *partition && known.offset == *offset && (known.unreadable || !unreadable));
        if known || count(None) < ENOUGH {
            continue;
        }
        let reason = format!("it panicked in {} twice: {}", last.operator, last.message);
        let record = Quarantined { partition: partition.clone(), offset: *offset, unreadable, reason };
        if *offset < end(partition) {
            decision.refused.push(record);
        } else {
            decision.new.push(record.clone());
            decision.quarantined.push(record);
        }
    }
    decision
}

/// What a run looks out for in what it reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    quarantined: BTreeMap<String, BTreeSet<Quarantined>>,
    /// All blocks of the epochs through this one are taken apart.
    apart: Epoch,
}

impl Watch {
    pub(crate) fn new(decision: &Decision) -> Watch {
        let mut watch = Watch { apart: decision.apart, ..Watch::default() };
        for record in &decision.quarantined {
            watch.quarantined.entry(record.partition.clone()).or_default().insert(record.clone());
        }
        watch
    }

    /// How a block of the partition must be handled, if with care.
    fn care(&self, partition: &str, block: Range<u64>, epoch: Epoch) -> Option<Care> {
        let listed = self.quarantined.get(partition).into_iter().flatten();
        let within: Vec<Quarantined> = listed.filter(|record| block.contains(&record.offset)).cloned().collect();
        (epoch <= self.apart || !within.is_empty()).then_some(Care { quarantined: within })
    }
}

/// A block is taken apart, and these records of it are set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Care {
    quarantined: Vec<Quarantined>,
}

impl Care {
    /// The record at this offset, if it is set aside.
    pub(crate) fn at(&self, offset: u64) -> Option<&Quarantined> {
        let mut listed = self.quarantined.iter().filter(|record| record.offset == offset);
        // It may have been found out later that it cannot even be decoded.
        listed.next().map(|first| listed.find(|record| record.unreadable).unwrap_or(first))
    }
}

/// A block on its way from the reader to the worker that decodes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Parcel {
    pub(crate) block: Block,
    pub(crate) origin: Origin,
    pub(crate) care: Option<Care>,
}

impl Parcel {
    /// `block` of an epoch, of the partition of this name, which goes on at `end`.
    pub(crate) fn new(block: Block, epoch: Epoch, (partition, end): (&str, u64), watch: &Watch) -> Parcel {
        let (start, partition) = (block.offset, partition.to_owned());
        let care = watch.care(&partition, start..end, epoch);
        Parcel { block, origin: Origin { partition, start, end, single: false }, care }
    }
}
