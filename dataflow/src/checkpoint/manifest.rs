//! The object that names everything a checkpoint consists of.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::pieces::PieceRef;
use crate::time::Epoch;

/// The pieces of one operator at a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorState {
    /// The operator's id.
    pub id: String,
    /// The version of its state codec.
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
