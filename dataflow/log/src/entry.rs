//! What an entry of the log says. These types, as JSON, are the stored format; [`FORMAT`] counts its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The version of everything stored under the log's folder. Another version is refused at start.
pub const FORMAT: u32 = 1;

/// One decision of the pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A run began; every earlier one is fenced.
    Seal(Seal),
    /// What an epoch contains.
    Bind(Binding),
    /// Every sink holds an epoch, or files of committed epochs were exchanged for others.
    Commit(Commit),
    /// Recovery may start here.
    Checkpoint(CheckpointEntry),
    /// These objects may be deleted, and are about to be.
    Gc {
        /// Names of data and state objects.
        paths: Vec<String>,
    },
}

/// The first entry of a run. All processes of the run start from what it names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The run's number, counted from 1 and never used twice.
    pub run: u64,
    /// The stored format that the run writes, [`FORMAT`].
    pub format: u32,
    /// Digest of the plan.
    pub plan: String,
    /// Digest of the program.
    pub build: String,
    /// Workers in each process.
    pub workers: u32,
    /// Processes of the run.
    pub processes: u32,
    /// A random name given by the first seal and repeated by every later one: it tells this log from one begun anew in
    /// the same place. Empty in logs that are older than the field.
    #[serde(default)]
    pub instance: String,
    /// The epoch of the checkpoint that the run restores; `None` starts with empty state and replays from the first epoch.
    pub checkpoint: Option<u64>,
    /// The checkpoint (0: none) after which every epoch was processed by this plan and this program, starting from the
    /// state of it that is left without `dropped`. `None` in logs that are older than the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The operators whose state at `since` was given up.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub dropped: BTreeSet<String>,
    /// Records that no operator sees any more, in this run and every later one. The list only grows, and only by records
    /// beyond what is committed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<Quarantined>,
    /// The tables that the run's plan writes, with rows or without. `None` in logs that are older than the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<BTreeSet<String>>,
    /// Records that were never read and are gone, as somebody accepted. The list only grows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accepted_loss: Vec<Loss>,
}

impl Seal {
    /// The checkpoint (0: none) after which nothing is known to have been processed in another way.
    #[must_use]
    pub fn unchanged_since(&self) -> u64 {
        self.since.or(self.checkpoint).unwrap_or(0)
    }

    /// The operators whose state was given up at a checkpoint, so that going on from it means to give it up again.
    #[must_use]
    pub fn dropped_at(&self, checkpoint: u64) -> BTreeSet<String> {
        if self.since == Some(checkpoint) { self.dropped.clone() } else { BTreeSet::new() }
    }
}

/// Records of a partition that are gone before they were read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Loss {
    /// The partition's name.
    pub partition: String,
    /// The first offset.
    pub from: u64,
    /// The last offset.
    pub to: u64,
}

impl Loss {
    /// How many offsets that are.
    #[must_use]
    pub fn records(&self) -> u64 {
        (self.to - self.from).saturating_add(1)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}-{}", self.partition, self.from, self.to)
    }
}

impl FromStr for Loss {
    type Err = String;

    fn from_str(text: &str) -> Result<Loss, String> {
        let parts = || {
            let (partition, range) = text.rsplit_once(':')?;
            let (from, to) = range.split_once('-')?;
            let (from, to) = (from.parse().ok()?, to.parse().ok()?);
            (!partition.is_empty() && from <= to).then(|| Loss { partition: partition.to_owned(), from, to })
        };
        parts()
            .ok_or_else(|| format!("`{text}` is no range of a partition; write PARTITION:FROM-TO as the refusal does"))
    }
}

/// A record whose processing panicked again and again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Quarantined {
    /// The name of its partition.
    pub partition: String,
    /// Where it begins in it (bytes of a file, records of a topic).
    pub offset: u64,
    /// It cannot even be decoded: nothing is known of its event time.
    pub unreadable: bool,
    /// What it did, as a sentence fragment for its dead letter.
    pub reason: String,
}

/// What epoch `epoch` contains; decided once, replayed ever after.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Binding {
    /// The epoch; one more than the one bound before.
    pub epoch: u64,
    /// The watermark W(e) in milliseconds since 1970; `None` before any event.
    pub watermark: Option<i64>,
    /// The partitions that changed in this epoch, in partition order.
    pub partitions: Vec<PartitionBinding>,
    /// The bounded input ended with this epoch. More epochs follow only in a later run.
    pub last: bool,
    /// A checkpoint is taken at the end of this epoch.
    pub checkpoint: bool,
}

/// Where a partition stands at the end of an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartitionBinding {
    /// The partition's number within the source.
    pub partition: u32,
    /// The partition's name, as people know it.
    pub name: String,
    /// The first offset that is not part of the epoch (bytes of a file, records of a topic).
    pub end: u64,
    /// Lines or records from the partition's beginning to `end`.
    pub lines: u64,
    /// Digest of what was read up to `end`, by which a changed input is recognised.
    pub digest: String,
    /// The partition's watermark in milliseconds since 1970; `None` before any event.
    pub watermark: Option<i64>,
    /// Whether the partition takes part in W(e).
    pub status: PartitionStatus,
    /// The connector's own facts, such as a canonical path.
    pub detail: serde_json::Value,
}

/// Whether a partition holds the watermark back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionStatus {
    /// It does.
    Active,
    /// Proven to be at its end for a while; it does not.
    Idle,
    /// It ended; it does not.
    Finished,
}

/// Every sink holds the epoch; for lake tables this is visibility, across all tables at once.
///
/// A commit of the epoch that was committed last exchanges files and carries no new data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The epoch; one more than the one committed before, or the same for an exchange of files.
    pub epoch: u64,
    /// W(e) in milliseconds since 1970.
    pub watermark: Option<i64>,
    /// Files added and removed, by table.
    pub tables: Vec<TableChange>,
    /// Counters from the pipeline's beginning to the end of this epoch.
    pub counts: BTreeMap<String, u64>,
    /// The end of time was declared: all windows are closed and nothing can be added.
    pub drained: bool,
    /// With the end of time: the latest event time that is more than a few stray clocks say, in milliseconds since 1970. It
    /// holds for every later commit of the epoch. `None` where there was no event, and in logs that are older than the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event: Option<i64>,
    /// The day of the commit by the clock, counted from 1970, where it is a later one than that of all commits before. Retention
    /// goes by it; nothing else does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<i64>,
    /// Tables outside the store change places with rebuilt ones as of this epoch, by this plan of their connector. It is
    /// recorded before it is carried out and does nothing the second time; later epochs are written to what was rebuilt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<serde_json::Value>,
    /// What was committed after the cut before, through this epoch, is made final together. Recorded before it is done, so that
    /// whoever does it, after whatever crash, makes the same files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// The files that a commit adds to and removes from a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableChange {
    /// The table's name.
    pub table: String,
    /// Files that become visible.
    pub added: Vec<DataFile>,
    /// Names of files that stop being visible.
    pub removed: Vec<String>,
}

/// A file of a lake table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Its name in the store.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// State as of an epoch is stored, with all that it builds upon (INV-4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointEntry {
    /// The epoch whose end the state describes.
    pub epoch: u64,
    /// The manifest's name in the store.
    pub manifest: String,
    /// The manifest's checksum.
    pub checksum: String,
}
