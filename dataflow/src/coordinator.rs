//! The thread that writes the log: bindings, commits, checkpoints, and what follows from them.
//!
//! One put at a time, in the order of the requests. `commit(e)` is written when the committer saw every sink acknowledge
//! e; `checkpoint(c)` when every operator's changes are stored and `commit(c)` stands (INV-1, INV-4). Then come
//! folding, rolling and the deletion of what neither the last two checkpoints nor a query can reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use tidemill_log::{CheckpointEntry, Commit, DataFile, Entry, LogState, Loss, Store, TableChange};

use crate::checkpoint::manifest::{Manifest, OperatorState, Planned};
use crate::checkpoint::pieces::{PieceRef, Pieces};
use crate::checkpoint::writer::{Codec, Request as SnapshotRequest};
use crate::journal::Journal;
use crate::runtime::RunError;
use crate::shared::{Request, Requests, Shared};
use crate::sink::{Committed, FINAL_AFTER, Maintenance};
use crate::status::Moment;
use crate::time::{Epoch, EventTime, Watermark};

/// How long a removed data file stays for queries that began before it was removed.
const QUERY_GRACE: Duration = Duration::from_secs(60);

/// After so long what was committed is made final, however few commits that are.
const FINAL_WITHIN: Duration = Duration::from_secs(60);
/// How long a next commit is waited for before something is recorded in an entry of its own.
const LINGER: Duration = Duration::from_secs(2);
/// More cuts than this do not pile up where files cannot be made final in time.
const MOST_CUTS: u32 = 100;
/// How long a run that was asked to stop may take to make its last files final; else the next start does.
const STOPS_WITHIN: Duration = Duration::from_secs(6);

/// What the coordinator works with.
pub(crate) struct Coordinator {
    pub(crate) journal: Journal,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) requests: Requests,
    pub(crate) snapshots: Option<Sender<SnapshotRequest>>,
    pub(crate) maintenance: Option<Box<dyn Maintenance>>,
    /// Those who follow the commits.
    pub(crate) observers: Option<Sender<Committed>>,
    /// How to read and fold the state of every stateful operator.
    pub(crate) operators: BTreeMap<String, Codec>,
    /// What checkpoints say of the plan, and of what the run was told to drop.
    pub(crate) plan: Vec<Planned>,
    pub(crate) dropped: BTreeSet<String>,
    pub(crate) book: Book,
    /// By how many days the clock that dates commits is ahead: a fault.
    pub(crate) days_ahead: i64,
}

/// What the coordinator keeps between requests.
#[derive(Default)]
pub(crate) struct Book {
    pub(crate) pieces: BTreeMap<String, Pieces>,
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) checkpoints: u64,
    /// Objects that each of the last two checkpoints needs, newest last.
    pub(crate) reachable: Vec<BTreeSet<String>>,
    /// State objects found or written, reachable or not.
    pub(crate) known: BTreeSet<String>,
    /// W, drain flag and last event of epochs bound and not committed yet. The last event is not in a binding: where the end of
    /// time was bound by an earlier run, readers tell the end of the data by how far the partitions had come.
    watermarks: BTreeMap<Epoch, (Watermark, bool, Watermark)>,
    /// W at the last checkpoint: what expired by then, no later epoch needs.
    watermark: Watermark,
    rolled: Vec<TableChange>,
    maintaining: bool,
    /// The first epoch behind the last cut with files, and since when they are there.
    unfinal: Option<(Epoch, Instant)>,
    /// Cuts since all was final.
    cuts: u32,
    /// When something was last recorded of commits.
    recorded: Option<Instant>,
    removed_at: BTreeMap<String, Instant>,
}

impl Book {
    /// The book of a start from a checkpoint.
    pub(crate) fn new(state: &LogState, manifest: Option<&Manifest>, reachable: Vec<BTreeSet<String>>) -> Book {
        let restored = manifest.map(|m| m.operators.as_slice()).unwrap_or_default();
        let pieces = restored.iter().map(|o| (o.id.clone(), Pieces::restored(o.pieces.clone()))).collect();
        let bindings = state.bindings().values();
        let watermarks = bindings.map(|b| (b.epoch, (b.watermark.map(EventTime), b.watermark == Some(i64::MAX), None)));
        let now = now();
        let removed_at = state.removed().keys().map(|path| (path.clone(), now)).collect();
        let mut counts = state.counts().clone();
        let lost = state.seal().map_or(0, |seal| seal.accepted_loss.iter().map(Loss::records).sum());
        if lost > 0 {
            counts.insert("source/lost".to_owned(), lost);
        }
        Book { pieces, counts, reachable, watermarks: watermarks.collect(), removed_at, ..Book::default() }
    }
}

impl Coordinator {
    /// Serves requests until [`Request::Finish`] or a failure; gives the journal back.
    pub(crate) fn run(mut self, receiver: &Receiver<Request>) -> Result<(Journal, u64), RunError> {
        if let Some(maintenance) = self.maintenance.as_mut().filter(|_| self.journal.durable()) {
            let left = maintenance.leftovers(self.journal.state());
            let left = left.map_err(|error| RunError::Sink { table: "maintenance".into(), error })?;
            self.book.known.extend(left);
            self.book.unfinal = maintenance.unfinal(self.journal.state()).map(|first| (first, now()));
        }
        self.maintain()?;
        loop {
            let request = match receiver.recv_timeout(LINGER) {
                Ok(Request::Finish) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
            };
            if self.shared.failed() {
                continue;
            }
            request.map_or(Ok(()), |request| self.serve(request))?;
            self.keep_final()?;
        }
        if !self.shared.failed() {
            self.wind_up(receiver)?;
        }
        Ok((self.journal, self.book.checkpoints))
    }

    fn serve(&mut self, request: Request) -> Result<(), RunError> {
        match request {
            Request::Bind { binding, drained, last_event, reply, wake } => {
                let epoch = binding.epoch;
                self.book.watermarks.insert(epoch, (binding.watermark.map(EventTime), drained, last_event));
                self.journal.append(Entry::Bind(binding))?;
                self.shared.status.bound(epoch);
                // Both fail only when the worker is gone, and then the run is over anyway.
                let _ = reply.send(epoch);
                let _ = wake.activate();
            }
            Request::Commit { epoch, files, counts } => self.commit(epoch, files, counts)?,
            Request::Checkpoint { epoch, pieces, source, watermark } => {
                self.book.watermark = watermark;
                self.checkpoint(epoch, pieces, source)?;
                self.shared.checkpointed();
            }
            Request::Folded { operator, piece } => {
                if let Some(piece) = &piece {
                    self.book.known.insert(piece.path.clone());
                }
                self.book.pieces.entry(operator.clone()).or_default().folded(piece);
                self.fold(&operator);
            }
            Request::Rolled { change } => {
                self.book.maintaining = false;
                self.book.rolled.push(change);
            }
            Request::Finish => unreachable!("handled by the caller"),
        }
        Ok(())
    }

    fn commit(
        &mut self,
        epoch: Epoch,
        files: Vec<(String, Vec<DataFile>)>,
        counts: Vec<(String, BTreeMap<String, u64>)>,
    ) -> Result<(), RunError> {
        self.shared.status.processed(epoch);
        for (operator, added) in counts {
            for (name, n) in added {
                *self.book.counts.entry(format!("{operator}/{name}")).or_default() += n;
            }
        }
        let (watermark, drained, last_event) =
            self.book.watermarks.remove(&epoch).expect("an epoch is bound before it is committed");
        let mut tables: Vec<TableChange> = files
            .into_iter()
            .filter(|(_, added)| !added.is_empty())
            .map(|(table, added)| TableChange { table, added, removed: Vec::new() })
            .collect();
        let cut = self.cuts_at(epoch, !tables.is_empty());
        self.add_rolled(&mut tables);
        let totals = self.book.counts.clone();
        let today = Moment::now().day().saturating_add(self.days_ahead);
        let day = Some(today).filter(|_| self.journal.state().last_day() < Some(today));
        self.journal.append(Entry::Commit(Commit {
            epoch,
            watermark: watermark.map(|w| w.0),
            tables,
            counts: totals,
            drained,
            last_event: last_event.map(|time| time.0),
            day,
            exchange: None,
            cut,
        }))?;
        self.book.recorded = Some(now());
        self.journal.maybe_snapshot()?;
        let state = self.journal.state();
        self.shared.status.committed(epoch, (state.complete_through(), state.closed()), &self.book.counts);
        self.shared.committed(epoch);
        if let Some(observers) = &self.observers {
            // The receiver is gone only after a failure.
            let _ = observers.send(Committed::of(self.journal.state()));
        }
        self.maintain()
    }

    fn add_rolled(&mut self, tables: &mut Vec<TableChange>) {
        let now = now();
        for change in self.book.rolled.drain(..) {
            self.book.removed_at.extend(change.removed.iter().map(|path| (path.clone(), now)));
            match tables.iter_mut().find(|table| table.table == change.table) {
                Some(table) => {
                    table.added.extend(change.added);
                    table.removed.extend(change.removed);
                }
                None => tables.push(change),
            }
        }
    }

    /// Starts the next job of housekeeping, if none is under way.
    fn maintain(&mut self) -> Result<(), RunError> {
        if self.book.maintaining || !self.book.rolled.is_empty() {
            return Ok(());
        }
        let Some(maintenance) = &mut self.maintenance else { return Ok(()) };
        let Some(job) = maintenance.next(self.journal.state()) else {
            self.book.cuts = 0;
            return Ok(());
        };
        self.book.maintaining = true;
        let requests = self.requests.clone();
        let work = move || match job() {
            Ok(change) => requests.send(Request::Rolled { change }),
            Err(error) => requests.fail(RunError::Sink { table: "maintenance".into(), error }),
        };
        let started = thread::Builder::new().name("maintenance".into()).spawn(work);
        started.map(drop).map_err(|error| RunError::Io("cannot start the maintenance thread".into(), error))
    }

    fn checkpoint(&mut self, epoch: Epoch, pieces: Vec<(String, PieceRef)>, source: String) -> Result<(), RunError> {
        if !self.journal.durable() {
            return Ok(());
        }
        let added = pieces.iter().map(|(_, piece)| piece.bytes).sum();
        for (operator, piece) in pieces {
            self.book.known.insert(piece.path.clone());
            self.book.pieces.entry(operator).or_default().add(piece);
        }
        let mut operators = Vec::new();
        for (id, Codec { version, .. }) in &self.operators {
            let held = self.book.pieces.entry(id.clone()).or_default();
            held.expire(self.book.watermark);
            operators.push(OperatorState { id: id.clone(), version: *version, pieces: held.list().to_vec() });
        }
        let run = self.journal.run();
        let (plan, dropped) = (self.plan.clone(), self.dropped.clone());
        let manifest = Manifest { epoch, run, source, operators, plan, dropped };
        let path = Manifest::path(epoch, run);
        let (bytes, checksum) = manifest.encode();
        self.store.put(&path, &bytes)?;
        self.journal.append(Entry::Checkpoint(CheckpointEntry { epoch, manifest: path.clone(), checksum }))?;
        self.book.checkpoints += 1;
        let stored = |o: &OperatorState| (o.id.clone(), o.pieces.iter().map(|piece| piece.bytes).sum());
        self.shared.status.checkpointed(epoch, added, manifest.operators.iter().map(stored).collect());
        self.book.known.insert(path.clone());
        self.book.reachable.push(reachable(&manifest, path));
        if self.book.reachable.len() > 2 {
            self.book.reachable.remove(0);
        }
        self.collect()?;
        let ids: Vec<String> = self.operators.keys().cloned().collect();
        ids.iter().for_each(|id| self.fold(id));
        Ok(())
    }

    fn fold(&mut self, operator: &str) {
        let watermark = self.book.watermark;
        let (Some(snapshots), Some(&codec)) = (&self.snapshots, self.operators.get(operator)) else { return };
        let plan = self.book.pieces.get_mut(operator).and_then(|pieces| pieces.plan_fold(codec.version));
        let Some(plan) = plan else { return };
        let request = SnapshotRequest::Fold { operator: operator.to_owned(), plan, codec, watermark };
        // A closed channel means that the run has failed already.
        let _ = snapshots.send(request);
    }

    /// Deletes what neither the last two checkpoints nor a query can reach (`gc` is written first).
    fn collect(&mut self) -> Result<(), RunError> {
        let listed: BTreeSet<&str> =
            self.book.pieces.values().flat_map(Pieces::list).map(|piece| piece.path.as_str()).collect();
        let needed = |path: &String| {
            listed.contains(path.as_str()) || self.book.reachable.iter().any(|objects| objects.contains(path))
        };
        let mut garbage: Vec<String> = self.book.known.iter().filter(|path| !needed(path)).cloned().collect();
        let state = self.journal.state();
        let oldest = state.checkpoints().first().map_or(0, |checkpoint| checkpoint.epoch);
        for (path, epoch) in state.removed() {
            let rested = self.book.removed_at.get(path).is_none_or(|at| at.elapsed() >= QUERY_GRACE);
            if *epoch <= oldest && rested {
                garbage.push(path.clone());
            }
        }
        if garbage.is_empty() {
            return Ok(());
        }
        self.journal.collect(&garbage)?;
        for path in &garbage {
            self.book.known.remove(path);
            self.book.removed_at.remove(path);
        }
        Ok(())
    }

    /// Whether files through the commit of `epoch`, with or without files of its own, are made final together.
    fn cuts_at(&mut self, epoch: Epoch, files: bool) -> bool {
        if self.maintenance.is_none() {
            return false;
        }
        if files && self.book.unfinal.is_none() {
            self.book.unfinal = Some((epoch, now()));
        }
        let Some((first, since)) = self.book.unfinal else { return false };
        // Where there are no cuts yet, files are made final in the ranges of logs that are older than those.
        let aligned = self.journal.state().cuts().is_empty() && (epoch + 1).is_multiple_of(FINAL_AFTER);
        let due = aligned || epoch - first + 1 >= FINAL_AFTER || since.elapsed() >= FINAL_WITHIN;
        let cut = due && self.book.cuts < MOST_CUTS;
        if cut {
            self.book.unfinal = None;
            self.book.cuts += 1;
        }
        cut
    }

    /// Records, where no commit came that could say it, what became final and what is to.
    fn keep_final(&mut self) -> Result<(), RunError> {
        let old = self.book.unfinal.is_some_and(|(_, since)| since.elapsed() >= FINAL_WITHIN + LINGER);
        let quiet = self.book.recorded.is_none_or(|at| at.elapsed() >= LINGER);
        if self.book.cuts < MOST_CUTS && old || quiet && !self.book.rolled.is_empty() {
            self.record(old)?;
            self.maintain()?;
        }
        Ok(())
    }

    /// Commits the last epoch again: its files are others now, or, with `cut`, are to be.
    fn record(&mut self, cut: bool) -> Result<(), RunError> {
        let state = self.journal.state();
        let Some(epoch) = state.committed() else { return Ok(()) };
        let (watermark, drained, counts) = (state.watermark(), state.drained(), state.counts().clone());
        let mut tables = Vec::new();
        self.add_rolled(&mut tables);
        let exchanged = Commit { epoch, watermark, tables, counts, drained, cut, ..Commit::default() };
        self.journal.append(Entry::Commit(exchanged))?;
        self.book.recorded = Some(now());
        if cut {
            self.book.unfinal = None;
            self.book.cuts += 1;
        }
        Ok(())
    }

    /// The workers are done: what they wrote is made final, and recorded.
    fn wind_up(&mut self, receiver: &Receiver<Request>) -> Result<(), RunError> {
        let begun = now();
        let mut cut = self.book.unfinal.is_some();
        loop {
            if cut || !self.book.rolled.is_empty() {
                self.record(cut)?;
                cut = false;
            }
            self.maintain()?;
            while self.book.maintaining {
                if self.shared.failed() || self.shared.stopping() && begun.elapsed() >= STOPS_WITHIN {
                    return Ok(());
                }
                match receiver.recv_timeout(Duration::from_millis(100)) {
                    Ok(request @ Request::Rolled { .. }) => self.serve(request)?,
                    Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
            if self.book.rolled.is_empty() {
                return Ok(());
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "when a file is made final or may be deleted reaches no result")]
fn now() -> Instant {
    Instant::now()
}

/// The objects that a checkpoint needs.
pub(crate) fn reachable(manifest: &Manifest, path: String) -> BTreeSet<String> {
    let pieces = manifest.operators.iter().flat_map(|o| &o.pieces).map(|piece| piece.path.clone());
    pieces.chain([path]).collect()
}
