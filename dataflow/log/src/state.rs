//! What the entries of the log mean so far: a pure fold, without a store or a clock.
//!
//! `check` refuses a sequence that no correct run writes (epochs are dense, nothing is committed that is not bound,
//! nothing is checkpointed that is not committed, INV-1 and INV-4), so that a mistake stops the pipeline before it is
//! recorded. A snapshot of the fold followed by the remaining entries is equal to folding all of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::entry::{Binding, CheckpointEntry, Commit, Entry, PartitionBinding, Seal};
use crate::error::LogError;

mod check;

/// Milliseconds in the minute by which the end of the data is told.
const MINUTE: i64 = 60_000;

/// So many cuts are kept, the newest: all whose files may not be final yet, and one before.
const CUTS: usize = 256;

/// A file that readers of the last commit see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VisibleFile {
    /// Rows in it.
    pub rows: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// The commit that added it.
    pub epoch: u64,
}

/// Where every partition of the source stands, by partition number.
pub type Partitions = BTreeMap<u32, PartitionBinding>;

/// The meaning of the log through one entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogState {
    number: u64,
    seal: Option<Seal>,
    /// Bound epochs after the older of the last two checkpoints.
    bindings: BTreeMap<u64, Binding>,
    /// The epoch before the first of `bindings`, once any has been dropped, and where the source stood at its end.
    dropped_through: Option<u64>,
    base: Partitions,
    base_watermark: Option<i64>,
    /// The last bound epoch, and where the source stands at its end.
    bound: Option<u64>,
    bound_partitions: Partitions,
    bound_watermark: Option<i64>,
    ended: bool,
    /// The run that bound the end of the input: only a later one can have found more of it.
    ended_by: Option<u64>,
    committed: Option<u64>,
    watermark: Option<i64>,
    counts: BTreeMap<String, u64>,
    drained: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_event: Option<i64>,
    /// The first epoch that was committed on each day since 1970.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    days: BTreeMap<i64, u64>,
    /// At most two, the newest last.
    checkpoints: Vec<CheckpointEntry>,
    tables: BTreeMap<String, BTreeMap<String, VisibleFile>>,
    removed: BTreeMap<String, u64>,
    deleting: Vec<String>,
    /// The last exchange of tables outside the store, and the epoch as of which they hold the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exchange: Option<(u64, serde_json::Value)>,
    /// The last epochs through which files were, or are to be, made final.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cuts: Vec<u64>,
}

impl LogState {
    /// Number of the last entry; 0 before the first.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The day of the last commit, counted from 1970; `None` in logs that are older than the field.
    #[must_use]
    pub fn last_day(&self) -> Option<i64> {
        self.days.last_key_value().map(|(day, _)| *day)
    }

    /// The first epoch that was committed on this day or later; `None` unless a commit of an earlier day is dated, since
    /// what stands before the first date may be of any day.
    #[must_use]
    pub fn first_epoch_since(&self, day: i64) -> Option<u64> {
        let _dated = self.days.range(..day).next()?;
        self.days.range(day..).next().map(|(_, epoch)| *epoch)
    }

    /// The run that wrote the last seal.
    pub fn run(&self) -> Option<u64> {
        self.seal.as_ref().map(|seal| seal.run)
    }

    /// The last seal.
    pub fn seal(&self) -> Option<&Seal> {
        self.seal.as_ref()
    }

    /// The last bound epoch.
    pub fn bound(&self) -> Option<u64> {
        self.bound
    }

    /// W at the last bound epoch, in milliseconds since 1970.
    pub fn bound_watermark(&self) -> Option<i64> {
        self.bound_watermark
    }

    /// Where the source stands at the end of the last bound epoch.
    pub fn bound_partitions(&self) -> &Partitions {
        &self.bound_partitions
    }

    /// Whether the last bound epoch ends a bounded input, as far as it was known to that run.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The last committed epoch.
    pub fn committed(&self) -> Option<u64> {
        self.committed
    }

    /// W at the last commit, in milliseconds since 1970; `i64::MAX` once the end of time was declared.
    pub fn watermark(&self) -> Option<i64> {
        self.watermark
    }

    /// What the tables are complete through, in milliseconds since 1970: W at the last commit, and once the end of time was
    /// declared, the end of the minute in which the data ends. Nothing follows then, whatever is asked for.
    pub fn complete_through(&self) -> Option<i64> {
        if !self.closed() {
            return self.watermark;
        }
        // Older logs tell no last event, but how far each partition had come, which is a little less.
        let reached = || self.committed_partitions().into_values().filter_map(|partition| partition.watermark).max();
        let last = self.last_event.or_else(reached)?;
        Some(last.div_euclid(MINUTE).saturating_add(1).saturating_mul(MINUTE))
    }

    /// Whether the end of time was declared, so that nothing follows.
    pub fn closed(&self) -> bool {
        self.watermark == Some(i64::MAX)
    }

    /// The tables that the pipeline has, with rows or without, and those that an earlier plan of it left rows in; `None` where
    /// no run has said.
    pub fn known_tables(&self) -> Option<BTreeSet<String>> {
        let declared = self.seal.as_ref()?.tables.as_ref()?;
        Some(declared.iter().chain(self.tables.keys()).cloned().collect())
    }

    /// Counters as of the last commit.
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// Whether the end of time was declared and committed.
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// The latest event time at the end of time, if it was declared and is known; see [`Commit::last_event`].
    pub fn last_event(&self) -> Option<i64> {
        self.last_event
    }

    /// Where the source stands at the end of the committed epoch: the prefix that the tables answer for.
    pub fn committed_partitions(&self) -> Partitions {
        match self.committed {
            Some(epoch) => self
                .partitions_as_of(epoch)
                .expect("bindings are retained from a checkpoint on, which a commit precedes"),
            None => Partitions::new(),
        }
    }

    /// Where the source stood at the end of an epoch; `None` for one that is not bound, or whose binding was dropped.
    pub fn partitions_as_of(&self, epoch: u64) -> Option<Partitions> {
        if self.dropped_through == Some(epoch) {
            return Some(self.base.clone());
        }
        self.bindings.contains_key(&epoch).then(|| {
            let mut partitions = self.base.clone();
            for binding in self.bindings.range(..=epoch).map(|(_, binding)| binding) {
                advance(&mut partitions, binding);
            }
            partitions
        })
    }

    /// W at the end of an epoch; `None` for one that is not bound, or whose binding was dropped.
    pub fn watermark_as_of(&self, epoch: u64) -> Option<Option<i64>> {
        if self.dropped_through == Some(epoch) {
            return Some(self.base_watermark);
        }
        self.bindings.get(&epoch).map(|binding| binding.watermark)
    }

    /// The retained bindings by epoch: all after the older of the last two checkpoints, or all there ever were.
    pub fn bindings(&self) -> &BTreeMap<u64, Binding> {
        &self.bindings
    }

    /// The bindings to replay after restoring the checkpoint of `epoch`, or all for a start without one.
    pub fn bindings_after(&self, epoch: Option<u64>) -> impl Iterator<Item = &Binding> {
        let after = epoch.map_or(0, |checkpoint| checkpoint + 1);
        self.bindings.range(after..).map(|(_, binding)| binding)
    }

    /// The bindings that the next checkpoint lets go of: all through the last one.
    pub(crate) fn leaving(&self) -> impl Iterator<Item = &Binding> {
        let through = self.checkpoints.last().map(|checkpoint| checkpoint.epoch);
        through.into_iter().flat_map(|through| self.bindings.range(..=through)).map(|(_, binding)| binding)
    }

    /// The last two checkpoints, the newest last.
    pub fn checkpoints(&self) -> &[CheckpointEntry] {
        &self.checkpoints
    }

    /// Whether a start without any checkpoint is possible: no binding has been dropped.
    pub fn replayable_from_start(&self) -> bool {
        self.dropped_through.is_none()
    }

    /// The visible files of every table, by name.
    pub fn tables(&self) -> &BTreeMap<String, BTreeMap<String, VisibleFile>> {
        &self.tables
    }

    /// Files that were visible once and are not deleted, with the epoch of the commit that removed them.
    pub fn removed(&self) -> &BTreeMap<String, u64> {
        &self.removed
    }

    /// What the last entries say is being deleted, and perhaps is not yet.
    pub fn deleting(&self) -> &[String] {
        &self.deleting
    }

    /// The last exchange of tables outside the store by its connector's plan, and the epoch that is its floor: what was
    /// exchanged in holds all through it.
    pub fn exchange(&self) -> Option<(u64, &serde_json::Value)> {
        self.exchange.as_ref().map(|(epoch, plan)| (*epoch, plan))
    }

    /// The last epochs through which files were made final, or are to be: each with all after the one before.
    #[must_use]
    pub fn cuts(&self) -> &[u64] {
        &self.cuts
    }

    /// Takes entry `number` into account; refuses, unchanged, one that cannot follow.
    ///
    /// # Errors
    /// [`LogError::Impossible`] with the reason.
    pub fn apply(&mut self, number: u64, entry: Entry) -> Result<(), LogError> {
        self.check(number, &entry)?;
        self.number = number;
        match entry {
            Entry::Seal(seal) => self.apply_seal(seal),
            Entry::Bind(binding) => self.apply_bind(binding),
            Entry::Commit(commit) => self.apply_commit(commit),
            Entry::Checkpoint(checkpoint) => self.apply_checkpoint(checkpoint),
            Entry::Gc { paths } => {
                for path in &paths {
                    self.removed.remove(path);
                }
                self.deleting = paths;
            }
        }
        Ok(())
    }

    /// Whether it can be the meaning of a log, and if not, why: of one that was stored.
    pub(crate) fn check_stored(&self) -> Result<(), String> {
        check::check_stored(self)
    }

    /// Whether the entry can follow, and if not, why.
    ///
    /// # Errors
    /// [`LogError::Impossible`] with the reason.
    pub fn check(&self, number: u64, entry: &Entry) -> Result<(), LogError> {
        check::check(self, number, entry).map_err(|reason| LogError::Impossible { number, reason })
    }

    fn apply_seal(&mut self, seal: Seal) {
        // Checkpoints newer than the one the run restores were found unusable, and their epochs will be checkpointed
        // again. Bindings stay: all after the one restored are still here.
        self.checkpoints.retain(|checkpoint| Some(checkpoint.epoch) <= seal.checkpoint);
        self.seal = Some(seal);
    }

    fn apply_bind(&mut self, binding: Binding) {
        // A run appends nothing while it deletes, so whatever follows a gc, except a seal, says that it was finished.
        self.deleting.clear();
        advance(&mut self.bound_partitions, &binding);
        self.bound = Some(binding.epoch);
        self.bound_watermark = binding.watermark;
        self.ended = binding.last;
        self.ended_by = if binding.last { self.run() } else { None };
        self.bindings.insert(binding.epoch, binding);
    }

    fn apply_commit(&mut self, commit: Commit) {
        self.deleting.clear();
        let epoch = commit.epoch;
        for change in commit.tables {
            let files = self.tables.entry(change.table).or_default();
            for path in change.removed {
                files.remove(&path);
                self.removed.insert(path, epoch);
            }
            for file in change.added {
                files.insert(file.path, VisibleFile { rows: file.rows, bytes: file.bytes, epoch });
            }
        }
        self.committed = Some(epoch);
        self.watermark = commit.watermark;
        self.counts = commit.counts;
        self.drained = commit.drained;
        self.last_event = commit.last_event.or(self.last_event);
        if let Some(day) = commit.day.filter(|day| Some(*day) > self.last_day()) {
            self.days.insert(day, epoch);
        }
        if let Some(plan) = commit.exchange {
            self.exchange = Some((epoch, plan));
        }
        if commit.cut && self.cuts.last() != Some(&epoch) {
            self.cuts.push(epoch);
            self.cuts.drain(..self.cuts.len().saturating_sub(CUTS));
        }
    }

    fn apply_checkpoint(&mut self, checkpoint: CheckpointEntry) {
        self.deleting.clear();
        self.checkpoints.push(checkpoint);
        if let [.., older, _newest] = &self.checkpoints[..] {
            let older = older.epoch;
            self.checkpoints.retain(|kept| kept.epoch >= older);
            self.drop_bindings_through(older);
        }
    }

    fn drop_bindings_through(&mut self, epoch: u64) {
        let kept = self.bindings.split_off(&(epoch + 1));
        for binding in std::mem::replace(&mut self.bindings, kept).values() {
            advance(&mut self.base, binding);
            self.base_watermark = binding.watermark;
            self.dropped_through = Some(binding.epoch);
        }
    }
}

fn advance(partitions: &mut Partitions, binding: &Binding) {
    for partition in &binding.partitions {
        partitions.insert(partition.partition, partition.clone());
    }
}
