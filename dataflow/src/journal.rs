//! Where entries go: the log, or, with exactly-once off, memory until the run has finished.

use std::sync::Arc;

use tidemill_log::{Binding, Commit, DataFile, Entry, Log, LogError, LogOptions, LogState, Seal, Store, TableChange};

use crate::sink::{Fence, SinkError};

/// The log's fence as sinks ask it.
pub(crate) fn for_sinks(fence: tidemill_log::Fence) -> Fence {
    Arc::new(move || fence.check().map_err(SinkError::from))
}

/// The log as the coordinator uses it.
pub(crate) enum Journal {
    /// Every entry is durable before it counts.
    Durable(Box<Log>),
    /// Entries are folded in memory; nothing is there for a restart. For measuring what the log costs.
    Memory { state: Box<LogState>, seal: Box<Seal> },
}

impl Journal {
    /// A journal in memory.
    pub(crate) fn memory(seal: Seal) -> Result<Journal, LogError> {
        let mut state = LogState::default();
        state.apply(1, Entry::Seal(seal.clone()))?;
        Ok(Journal::Memory { state: Box::new(state), seal: Box::new(seal) })
    }

    pub(crate) fn durable(&self) -> bool {
        matches!(self, Journal::Durable(_))
    }

    /// Fails once a later run has begun.
    pub(crate) fn fence(&self) -> Fence {
        match self {
            Journal::Durable(log) => for_sinks(log.fence()),
            Journal::Memory { .. } => Arc::new(|| Ok(())),
        }
    }

    pub(crate) fn run(&self) -> u64 {
        match self {
            Journal::Durable(log) => log.run(),
            Journal::Memory { seal, .. } => seal.run,
        }
    }

    pub(crate) fn state(&self) -> &LogState {
        match self {
            Journal::Durable(log) => log.state(),
            Journal::Memory { state, .. } => state,
        }
    }

    pub(crate) fn append(&mut self, entry: Entry) -> Result<(), LogError> {
        match self {
            Journal::Durable(log) => log.append(entry).map(drop),
            Journal::Memory { state, .. } => state.apply(state.number() + 1, entry),
        }
    }

    pub(crate) fn maybe_snapshot(&mut self) -> Result<(), LogError> {
        match self {
            Journal::Durable(log) => log.maybe_snapshot().map(drop),
            Journal::Memory { .. } => Ok(()),
        }
    }

    pub(crate) fn collect(&mut self, paths: &[String]) -> Result<(), LogError> {
        match self {
            Journal::Durable(log) => log.collect(paths),
            Journal::Memory { .. } => Ok(()),
        }
    }

    /// Makes what a run in memory ended with readable: one bound and committed epoch that holds everything.
    pub(crate) fn publish(&self, store: Arc<dyn Store>, options: LogOptions) -> Result<(), LogError> {
        let Journal::Memory { state, seal } = self else { return Ok(()) };
        let mut log = Log::start(store, options)?.log;
        let run = log.run();
        log.seal(|_| Ok::<_, LogError>(Seal { run, ..Seal::clone(seal) }))?;
        let partitions = state.committed_partitions().into_values().collect();
        let watermark = state.watermark();
        log.append(Entry::Bind(Binding { epoch: 1, watermark, partitions, last: state.ended(), checkpoint: false }))?;
        let tables = state.tables().iter().map(|(table, files)| TableChange {
            table: table.clone(),
            added: files
                .iter()
                .map(|(path, f)| DataFile { path: path.clone(), rows: f.rows, bytes: f.bytes })
                .collect(),
            removed: Vec::new(),
        });
        let (tables, counts, drained) = (tables.collect(), state.counts().clone(), state.drained());
        let last_event = state.last_event();
        let all = Commit { epoch: 1, watermark, tables, counts, drained, last_event, ..Commit::default() };
        log.append(Entry::Commit(all))?;
        log.snapshot()
    }
}
