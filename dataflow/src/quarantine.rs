//! Records that panic whoever handles them: found, and set aside, so that the rest flows (INV-6).
//!
//! A panic ends the run (fail-stop), and what it was doing is noted as an attempt: at first the block that was passed
//! over (`pass`; nothing is done per record), and, because the next start takes that block apart into blocks of one record,
//! the record itself. The rule (`decide`): a record that panicked in two runs, its block's panic being one, is set aside.
//!
//! Promises:
//! - Nothing that was committed changes. The list of what is set aside is part of the run's `seal` (INV-1): whoever is fenced
//!   cannot add to it. A record that an earlier run committed is never put on it. And no sink writes anything of an epoch
//!   before every record of it has passed through every operator and encoder ([`sink`](crate::sink)), so no place
//!   holds an epoch of which a record is set aside later.
//! - Attempts are only evidence: objects named by position, put if absent. One that a fenced run wrote late says truly that
//!   the record panicked there, and decides nothing by itself.
//! - An epoch's watermark stays what it was: a record that is set aside counts for its partition's clock if it ever did, that
//!   is, if it can be decoded.
//! - Taking blocks apart changes nothing (INV-2): position in the input orders blocks and records alike.

mod attempts;
mod pass;
#[cfg(test)]
mod tests;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};
pub use tidemill_log::Quarantined;
use tidemill_log::{LogState, Partitions};

use crate::source::Block;

pub(crate) use attempts::read as read_attempts;
pub(crate) use pass::{Origin, Passing, Phase};
pub use tidemill_log::panics::is_contained;
pub(crate) use witness::Witness;

/// How many panics at a record set it aside, that of its whole block included.
const ENOUGH: usize = 2;

/// A panic while the records of a range were handled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// The run, counted from 1.
    pub(crate) run: u64,
    /// Where it was.
    pub(crate) origin: Origin,
    pub(crate) phase: Phase,
    pub(crate) operator: String,
    pub(crate) message: String,
}

/// What follows from the attempts so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// All that is set aside from now on.
    pub(crate) quarantined: Vec<Quarantined>,
    /// Those of them that were not before.
    pub(crate) new: Vec<Quarantined>,
    /// Ranges in which some record panicked, to be looked at one by one.
    pub(crate) suspects: Vec<(String, Range<u64>)>,
    /// Records that panic, and are in committed results.
    pub(crate) refused: Vec<Quarantined>,
}

/// Up to where each partition is committed, by name.
pub(crate) fn committed_ends(state: &LogState) -> BTreeMap<String, u64> {
    let committed: Partitions = state.committed_partitions();
    committed.into_values().map(|partition| (partition.name, partition.end)).collect()
}

/// The rule: which records are set aside, given those that are, what panicked, and up to where each partition is committed.
pub(crate) fn decide(before: &[Quarantined], attempts: &[Attempt], committed: &BTreeMap<String, u64>) -> Decision {
    let mut attempts: Vec<&Attempt> = attempts.iter().collect();
    attempts.sort_by(|a, b| (a.run, &a.origin).cmp(&(b.run, &b.origin)));
    // What was noted twice in one run, because it was not known whether it was noted, happened once.
    attempts.dedup_by(|a, b| (a.run, &a.origin) == (b.run, &b.origin));
    let end = |partition: &str| committed.get(partition).copied().unwrap_or(0);

    let mut evidence: BTreeMap<(&str, u64), Vec<&Attempt>> = BTreeMap::new();
    for single in attempts.iter().filter(|attempt| attempt.origin.single) {
        evidence.entry((&single.origin.partition, single.origin.start)).or_default().push(single);
    }
    // The panic of a block is that of the first record of it that was found to panic, and of no other.
    for block in attempts.iter().filter(|attempt| !attempt.origin.single) {
        let found = attempts.iter().find(|later| {
            later.origin.single
                && later.run > block.run
                && block.origin.holds(&later.origin.partition, later.origin.start)
        });
        if let Some(found) = found {
            evidence.entry((&found.origin.partition, found.origin.start)).or_default().push(block);
        }
    }

    let mut decision = Decision { quarantined: before.to_vec(), ..Decision::default() };
    for ((partition, offset), panics) in evidence {
        let unreadable = panics.iter().filter(|attempt| attempt.phase == Phase::Decode).count() >= ENOUGH;
        let known = before
            .iter()
            .any(|known| known.partition == partition && known.offset == offset && (known.unreadable || !unreadable));
        if known || panics.len() < ENOUGH {
            continue;
        }
        let last = panics.iter().max_by_key(|attempt| attempt.run).expect("there are two");
        let reason = format!("it panicked in {} twice: {}", last.operator, last.message);
        let record = Quarantined { partition: partition.to_owned(), offset, unreadable, reason };
        if offset < end(partition) {
            decision.refused.push(record);
        } else {
            decision.new.push(record.clone());
            decision.quarantined.push(record);
        }
    }
    let uncommitted = attempts.iter().filter(|attempt| attempt.origin.end > end(&attempt.origin.partition));
    let suspects =
        uncommitted.map(|attempt| (attempt.origin.partition.clone(), attempt.origin.start..attempt.origin.end));
    decision.suspects = suspects.collect();
    decision
}

/// What a run looks out for in what it reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    quarantined: BTreeMap<String, BTreeSet<Quarantined>>,
    suspects: BTreeMap<String, Vec<Range<u64>>>,
}

impl Watch {
    pub(crate) fn new(decision: &Decision) -> Watch {
        let mut watch = Watch::default();
        for record in &decision.quarantined {
            watch.quarantined.entry(record.partition.clone()).or_default().insert(record.clone());
        }
        for (partition, range) in &decision.suspects {
            watch.suspects.entry(partition.clone()).or_default().push(range.clone());
        }
        watch
    }

    /// How a block of the partition must be handled, if with care.
    fn care(&self, partition: &str, block: Range<u64>) -> Option<Care> {
        let listed = self.quarantined.get(partition).into_iter().flatten();
        let within: Vec<Quarantined> = listed.filter(|record| block.contains(&record.offset)).cloned().collect();
        let overlaps = |suspect: &Range<u64>| suspect.start < block.end && block.start < suspect.end;
        let suspect = self.suspects.get(partition).is_some_and(|ranges| ranges.iter().any(overlaps));
        (suspect || !within.is_empty()).then_some(Care { quarantined: within })
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
    /// `block` of the partition of this name, which goes on at `end`.
    pub(crate) fn new(block: Block, partition: &str, end: u64, watch: &Watch) -> Parcel {
        let (start, partition) = (block.offset, partition.to_owned());
        let care = watch.care(&partition, start..end);
        Parcel { block, origin: Origin { partition, start, end, single: false }, care }
    }
}
