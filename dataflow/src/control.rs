//! What travels beside the data: the watermarks of an epoch on the way in, acknowledgements on the way out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_log::DataFile;

use crate::checkpoint::PieceRef;
use crate::time::{Epoch, EpochTime, Watermark};

/// Broadcast once an epoch, in-band, when the binder has gathered what the epoch contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Control {
    /// The epoch.
    pub(crate) epoch: Epoch,
    /// `W(e-1)`.
    pub(crate) before: Watermark,
    /// `W(e)`.
    pub(crate) after: Watermark,
    /// Stateful operators snapshot when they have closed this epoch.
    pub(crate) checkpoint: bool,
}

impl Control {
    /// The clocks of the epoch.
    #[must_use]
    pub(crate) fn time(&self) -> EpochTime {
        EpochTime { epoch: self.epoch, before: self.before, after: self.after }
    }
}

/// Sent to the committer at the epoch that it acknowledges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Ack {
    /// Counters of one operator in one epoch.
    Counts { operator: String, counts: BTreeMap<String, u64> },
    /// A sink holds the epoch in these files.
    Files { table: String, files: Vec<DataFile> },
    /// A worker's changes of one operator are stored.
    Piece { operator: String, piece: PieceRef },
    /// The source's state as of a checkpoint, as JSON.
    Source { state: String, watermark: Watermark },
}
