//! A pipeline in miniature: it uses the log in the order in which the engine does, with one row an epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_log::{
    Binding, CheckpointEntry, Commit, DataFile, Entry, FORMAT, Log, LogError, LogOptions, LogState, PartitionBinding,
    PartitionStatus, Seal, Store, TableChange, VisibleFile, reader,
};

pub(crate) const PREFIX: &str = "_tidemill";

pub(crate) fn options(snapshot_every: u64) -> LogOptions {
    LogOptions { snapshot_every, ..LogOptions::default() }
}

pub(crate) fn seal(run: u64, checkpoint: Option<u64>) -> Seal {
    Seal {
        run,
        format: FORMAT,
        plan: "plan".into(),
        build: "build".into(),
        workers: 2,
        processes: 1,
        instance: "tests".into(),
        checkpoint,
        since: None,
        dropped: BTreeSet::new(),
        quarantined: Vec::new(),
        tables: None,
        accepted_loss: Vec::new(),
    }
}

pub(crate) fn bind(epoch: u64) -> Binding {
    let partition = PartitionBinding {
        partition: 0,
        name: "events.ndjson".into(),
        end: epoch * 100,
        lines: epoch,
        digest: format!("digest {epoch}"),
        watermark: Some(epoch as i64 * 1000),
        status: PartitionStatus::Active,
        detail: serde_json::json!({ "path": "/data/events.ndjson" }),
    };
    Binding { epoch, watermark: Some(epoch as i64 * 1000), partitions: vec![partition], last: false, checkpoint: false }
}

pub(crate) fn commit(epoch: u64, changes: Vec<TableChange>) -> Commit {
    let counts = BTreeMap::from([("accepted".to_owned(), epoch)]);
    Commit { epoch, watermark: Some(epoch as i64 * 1000), tables: changes, counts, ..Commit::default() }
}

fn change(added: &[(&str, u64)], removed: &[String]) -> Vec<TableChange> {
    let added = added.iter().map(|&(path, rows)| DataFile { path: path.to_owned(), rows, bytes: 4 }).collect();
    vec![TableChange { table: "views".into(), added, removed: removed.to_vec() }]
}

/// A run of the pipeline.
#[derive(Debug)]
pub(crate) struct Pipeline {
    store: Arc<dyn Store>,
    pub(crate) log: Log,
}

impl Pipeline {
    /// Starts, seals, and commits what the run before had bound.
    pub(crate) fn start(store: Arc<dyn Store>, snapshot_every: u64) -> Result<Self, LogError> {
        let mut log = Log::start(Arc::clone(&store), options(snapshot_every))?.log;
        let run = log.run();
        log.seal(|state| Ok::<_, LogError>(seal(run, state.checkpoints().last().map(|checkpoint| checkpoint.epoch))))?;
        let mut pipeline = Self { store, log };
        while pipeline.log.state().committed() < pipeline.log.state().bound() {
            pipeline.finish_epoch()?;
        }
        Ok(pipeline)
    }

    /// Binds and commits epochs until that one is committed.
    pub(crate) fn run_through(&mut self, epoch: u64) -> Result<(), LogError> {
        while self.log.state().committed() < Some(epoch) {
            self.log.append(Entry::Bind(bind(self.log.state().bound().unwrap_or(0) + 1)))?;
            self.finish_epoch()?;
        }
        Ok(())
    }

    fn finish_epoch(&mut self) -> Result<(), LogError> {
        let epoch = self.log.state().committed().unwrap_or(0) + 1;
        let recent = format!("views/_recent/{epoch:03}");
        self.store.put(&recent, b"rows")?;
        self.log.append(Entry::Commit(commit(epoch, change(&[(&recent, 1)], &[]))))?;
        if epoch.is_multiple_of(3) {
            self.roll(epoch)?;
        }
        if epoch.is_multiple_of(2) {
            self.checkpoint(epoch)?;
        }
        self.log.maybe_snapshot().map(|_| ())
    }

    /// Exchanges the small files for one large one.
    fn roll(&mut self, epoch: u64) -> Result<(), LogError> {
        let small: Vec<(String, VisibleFile)> = self.log.state().tables()["views"]
            .iter()
            .filter(|(path, _)| path.starts_with("views/_recent/"))
            .map(|(path, file)| (path.clone(), *file))
            .collect();
        let rolled = format!("views/rolled-{epoch:03}");
        self.store.put(&rolled, b"rows")?;
        let removed: Vec<String> = small.iter().map(|(path, _)| path.clone()).collect();
        let rows = small.iter().map(|(_, file)| file.rows).sum();
        self.log.append(Entry::Commit(commit(epoch, change(&[(&rolled, rows)], &removed)))).map(|_| ())
    }

    /// Stores state, says so, and deletes what is out of reach since.
    fn checkpoint(&mut self, epoch: u64) -> Result<(), LogError> {
        if self.log.state().checkpoints().last().is_some_and(|newest| newest.epoch >= epoch) {
            return Ok(());
        }
        let before: Vec<String> = self.log.state().checkpoints().iter().map(|kept| kept.manifest.clone()).collect();
        let manifest = format!("{PREFIX}/state/{}-{epoch}", self.log.run());
        self.store.put(&manifest, b"state")?;
        self.log.append(Entry::Checkpoint(CheckpointEntry { epoch, manifest, checksum: "sum".into() }))?;
        let state = self.log.state();
        let older = state.checkpoints()[0].epoch;
        let is_kept = |path: &String| state.checkpoints().iter().any(|kept| kept.manifest == *path);
        let mut dead: Vec<String> = before.into_iter().filter(|path| !is_kept(path)).collect();
        dead.extend(state.removed().iter().filter(|(_, removed)| **removed <= older).map(|(path, _)| path.clone()));
        self.log.collect(&dead)
    }
}

pub(crate) fn read(store: &Arc<dyn Store>) -> LogState {
    reader::read(Arc::clone(store), PREFIX).unwrap()
}

/// What a pipeline has come to, whichever runs did it.
#[derive(Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) committed: Option<u64>,
    pub(crate) watermark: Option<i64>,
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) rows: u64,
    pub(crate) files: Vec<String>,
    pub(crate) end: Option<u64>,
}

/// Reads the log, and checks that it is right: every row once, and all that it names is stored.
pub(crate) fn outcome(store: &Arc<dyn Store>) -> Outcome {
    let state = read(store);
    let files: BTreeMap<String, VisibleFile> =
        state.tables().values().flatten().map(|(p, f)| (p.clone(), *f)).collect();
    for path in files.keys().chain(state.checkpoints().iter().map(|checkpoint| &checkpoint.manifest)) {
        assert!(store.exists(path).unwrap(), "{path} is named by the log and stored");
    }
    let rows = files.values().map(|file| file.rows).sum();
    assert_eq!(rows, state.committed().unwrap_or(0), "each epoch's row is visible once");
    Outcome {
        committed: state.committed(),
        watermark: state.watermark(),
        counts: state.counts().clone(),
        rows,
        files: files.into_keys().collect(),
        end: state.committed_partitions().get(&0).map(|partition| partition.end),
    }
}
