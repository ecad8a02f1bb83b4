//! For tests: a store in memory, one that stops, acts or fails at a chosen step, and what every store must keep.

pub mod conformance;
mod memory;
mod scripted;

use std::collections::BTreeSet;

use crate::entry::{FORMAT, Seal};
pub use memory::MemoryStore;

/// The seal of a run that says nothing but its number.
#[must_use]
pub fn seal(run: u64) -> Seal {
    let (plan, build, instance) = (String::new(), String::new(), String::new());
    Seal {
        run,
        format: FORMAT,
        plan,
        build,
        workers: 1,
        processes: 1,
        instance,
        checkpoint: None,
        since: None,
        dropped: BTreeSet::new(),
        quarantined: Vec::new(),
        tables: None,
        accepted_loss: Vec::new(),
    }
}

pub use scripted::{Moment, Operation, OperationKind, Reaction, ScriptedStore};
