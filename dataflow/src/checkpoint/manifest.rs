//! The object that names everything a checkpoint consists of.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::pieces::PieceRef;
use crate::plan::{Operator, Plan};
use crate::time::Epoch;

/// The pieces of one operator at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorState {
    /// The operator's id.
    pub id: String,
    /// The version of its state codec, and of all pieces that say no other.
    pub version: u32,
    /// Oldest first; the state is all of them, restored in this order.
    pub pieces: Vec<PieceRef>,
}

/// A checkpoint: the state of the source and of every stateful operator as of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The epoch.
    pub epoch: Epoch,
    /// The run that wrote it.
    pub run: u64,
    /// The source's state, encoded as JSON.
    pub source: String,
    /// Stateful operators, by id.
    pub operators: Vec<OperatorState>,
    /// Everything with an id in the plan of the run that wrote it; empty in checkpoints that are older than the field.
    #[serde(default)]
    pub plan: Vec<Planned>,
    /// The operators whose state that run was told to drop: it is dropped, and not again.
    #[serde(default)]
    pub dropped: BTreeSet<String>,
}

/// An operator of the plan that a checkpoint was written by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Its id.
    pub id: String,
    /// What it did, with its parameters.
    pub kind: String,
    /// What its state meant, where that is more than the kind of operator says; unknown in older checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meaning: Option<String>,
}

impl Planned {
    /// What a plan has ids for.
    pub(crate) fn of(plan: &Plan) -> Vec<Planned> {
        let planned = |operator: &Operator| {
            let (kind, meaning) = (operator.kind.clone(), operator.meaning.clone());
            Some(Planned { id: operator.id?.to_owned(), kind, meaning })
        };
        plan.operators().iter().filter_map(planned).collect()
    }
}

impl Manifest {
    /// Where a checkpoint's manifest is stored.
    #[must_use]
    pub fn path(epoch: Epoch, run: u64) -> String {
        format!("_tidemill/checkpoints/{epoch:012}-{run:06}.json")
    }

    /// The bytes to store and their checksum, which the log entry carries.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, String) {
        let bytes = serde_json::to_vec_pretty(self).expect("a manifest is plain data");
        let checksum = checksum(&bytes);
        (bytes, checksum)
    }
}

/// The checksum of an encoded manifest, as the log entry has it.
pub(crate) fn checksum(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}
