//! The one writer of the log: runs and fencing, appending, snapshots, deletions.
//!
//! Promises: an entry that [`Log::append`] confirmed is durable and part of the log for ever (INV-1). Of several runs
//! of a pipeline the latest alone gets anything confirmed, and an earlier one that wakes up after any sleep deletes
//! nothing that the latest needs:
//!
//! * A start takes the next number `runs/<r>` by put-if-absent. Those objects are never deleted, so the numbers are
//!   dense, and run r is superseded exactly if `runs/<r+1>` exists.
//! * Entries are put-if-absent under the next number. A start reads the log, then seals at the next number. At most
//!   one entry of the run before can get in between, one that was on its way when `runs/<r>` appeared; it is read
//!   and taken into account before the seal is offered again.
//! * A sleeper whose number is taken reads the entry there, sees that it is another's, and stops.
//! * A number that was pruned could be taken again by a sleeper. Therefore every put is followed by a look at
//!   `runs/<r+1>`, and nothing is confirmed before that look. The stray entry itself lies below a snapshot, where
//!   nobody reads; and since each entry names the checksum of the one before, it could not be mistaken if somebody did.
//! * Every deletion is preceded by the same look. A sleeper may still wake between the look and the deletion: what it
//!   deletes then was announced in the log (`gc`) or covered by two snapshots, and names of deleted objects are not
//!   used again.

use std::fmt;
use std::sync::Arc;

use crate::FOLDER;
use crate::entry::{Entry, FORMAT, Seal};
use crate::error::LogError;
use crate::frame::{self, Claim, Envelope, Format, Snapshot};
use crate::history::Archive;
use crate::load;
use crate::paths::Paths;
pub use crate::retry::Pause;
use crate::retry::{Ownership, Retrying, repeat};
use crate::state::LogState;
use crate::store::{Created, Store, StoreError};

/// How a log is kept.
#[derive(Clone)]
pub struct LogOptions {
    /// The log's folder in the store.
    pub prefix: String,
    /// Entries between two snapshots.
    pub snapshot_every: u64,
    /// Epochs whose bindings are kept for repeating the run, beyond what recovery needs; 0 keeps none.
    pub keep_bindings: u64,
    /// Attempts of a call on the store that fails for a moment, at least 1.
    pub attempts: u32,
    /// Called between two attempts with the number of failures; whoever starts the log decides whether it waits.
    pub pause: Pause,
}

/// Of how many epochs the bindings are kept unless told otherwise: a month of epochs of one second.
pub const KEPT_BINDINGS: u64 = 30 * 24 * 60 * 60;

impl Default for LogOptions {
    fn default() -> Self {
        let (snapshot_every, keep_bindings, pause) = (64, KEPT_BINDINGS, Arc::new(|_| {}));
        Self { prefix: FOLDER.to_owned(), snapshot_every, keep_bindings, attempts: 5, pause }
    }
}

impl LogOptions {
    /// Makes a call on the store that may be repeated without harm, and repeats it like those of the log itself.
    ///
    /// # Errors
    /// The last failure.
    pub fn retrying<T>(&self, call: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        repeat(self.attempts, &self.pause, call)
    }
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOptions")
            .field("prefix", &self.prefix)
            .field("snapshot_every", &self.snapshot_every)
            .field("keep_bindings", &self.keep_bindings)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// A run that has taken its number and read the log, and is about to seal.
#[derive(Debug)]
pub struct Started {
    /// The log, to which the seal is appended first. Its [`Log::state`] is what to start from once it is sealed.
    pub log: Log,
    /// What was found damaged and could be done without, in sentences.
    pub warnings: Vec<String>,
}

/// Tells, from any thread, whether a run has been superseded.
#[derive(Clone, Debug)]
pub struct Fence {
    store: Retrying,
    /// `runs/<r+1>`.
    successor: String,
    run: u64,
}

impl Fence {
    /// The fence of a run that another process began, in the log under `prefix`.
    pub fn of(store: Arc<dyn Store>, prefix: &str, run: u64, options: &LogOptions) -> Fence {
        let store = Retrying::new(store, options.attempts, Arc::clone(&options.pause));
        Fence { store, successor: Paths::new(prefix).run(run + 1), run }
    }

    /// Passes unless a later run has begun.
    ///
    /// # Errors
    /// [`LogError::Fenced`], or the store failed.
    pub fn check(&self) -> Result<(), LogError> {
        if self.store.exists(&self.successor)? {
            let evidence = format!("{} exists", self.successor);
            return Err(LogError::Fenced { run: self.run, by_run: self.run + 1, evidence });
        }
        Ok(())
    }
}

/// The log of a pipeline, held by process 0 of one run.
#[derive(Debug)]
pub struct Log {
    store: Retrying,
    paths: Paths,
    fence: Fence,
    snapshot_every: u64,
    run: u64,
    sealed: bool,
    /// Entries that this run has offered.
    sequence: u64,
    state: LogState,
    /// Checksum of the last entry.
    previous: u64,
    /// Snapshots known to be intact, oldest first, at most two: those that a start can fall back on.
    snapshots: Vec<u64>,
    archive: Archive,
    /// Number of the entry that the last snapshot covers, or at which this run began without one.
    covered: u64,
    /// Set once the end of the log is no longer ours or no longer known.
    stopped: Option<Stop>,
}

#[derive(Clone, Debug)]
enum Stop {
    Fenced { by_run: u64, evidence: String },
    Failed(String),
}

/// How an offered entry ended.
enum Offer {
    Taken,
    /// The number held this entry of another run.
    Lost(Box<Envelope>, u64),
}

impl Log {
    /// Begins a run: checks the format, takes the next run number and reads the log.
    ///
    /// # Errors
    /// The folder holds another format, the log is damaged or incomplete, a later run has begun, or the store failed.
    pub fn start(store: Arc<dyn Store>, options: LogOptions) -> Result<Started, LogError> {
        let store = Retrying::new(store, options.attempts, options.pause);
        let paths = Paths::new(&options.prefix);
        ensure_format(&store, &paths)?;
        let run = take_run(&store, &paths)?;
        let fence = Fence { store: store.clone(), successor: paths.run(run + 1), run };
        let loaded = load::load(&store, &paths, || fence.check());
        // What we read may have been written, or pruned under us, by the run that fenced us: that is the first reason.
        fence.check()?;
        let loaded = loaded?;
        let log = Self {
            snapshot_every: options.snapshot_every.max(1),
            run,
            sealed: false,
            sequence: 0,
            covered: loaded.snapshot.unwrap_or(0),
            snapshots: loaded.snapshot.into_iter().collect(),
            archive: Archive::new(options.keep_bindings),
            state: loaded.state,
            previous: loaded.previous,
            stopped: None,
            store,
            paths,
            fence,
        };
        Ok(Started { log, warnings: loaded.warnings })
    }

    /// The run's number, to be named in its seal.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// What the log means through its last entry.
    pub fn state(&self) -> &LogState {
        &self.state
    }

    /// The run's fence, for whoever else writes or deletes on its behalf.
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Appends an entry; when it returns, the entry is durable, the run was not superseded before it was, and
    /// [`Log::state`] includes it. Returns the entry's number.
    ///
    /// # Errors
    /// [`LogError::Impossible`] if the entry cannot follow: nothing was written and the log can be used on.
    /// After any other error nothing more can be written, and each further call says why.
    pub fn append(&mut self, entry: Entry) -> Result<u64, LogError> {
        match entry {
            Entry::Seal(seal) => self.seal(|_| Ok(seal.clone())),
            entry => {
                self.ensure_usable()?;
                if !self.sealed {
                    return Err(self.impossible("a run's first entry is its seal"));
                }
                let outcome = self.append_sealed(entry);
                self.remember_stop(outcome)
            }
        }
    }

    /// Appends the run's seal, the first of its entries. `decide` says what to seal, and is asked again when an entry
    /// of the run before was found in its place. Then finishes the deletions that the run before had announced.
    ///
    /// # Errors
    /// Those of `decide` and of [`Log::append`].
    pub fn seal<E: From<LogError>>(&mut self, mut decide: impl FnMut(&LogState) -> Result<Seal, E>) -> Result<u64, E> {
        self.ensure_usable()?;
        if self.sealed {
            return Err(self.impossible("a run seals once").into());
        }
        loop {
            let seal = decide(&self.state)?;
            if seal.run != self.run {
                return Err(self
                    .impossible(&format!("this is run {}, and the seal names {}", self.run, seal.run))
                    .into());
            }
            let outcome = self.offer_seal(seal);
            if self.remember_stop(outcome)? {
                break;
            }
        }
        self.sealed = true;
        let number = self.state.number();
        let finished = self.delete_all(self.state.deleting());
        self.remember_stop(finished)?;
        Ok(number)
    }

    /// Writes a snapshot if enough entries have been appended since the last one, and prunes what two cover.
    ///
    /// # Errors
    /// Those of [`Log::snapshot`].
    pub fn maybe_snapshot(&mut self) -> Result<bool, LogError> {
        let due = self.state.number() >= self.covered + self.snapshot_every;
        if due {
            self.snapshot()?;
        }
        Ok(due)
    }

    /// Writes a snapshot of the log through its last entry, keeps it and the one before, and deletes the entries that
    /// both cover.
    ///
    /// # Errors
    /// A later run has begun, or the store failed; then the log is as complete as before and can be used on.
    pub fn snapshot(&mut self) -> Result<(), LogError> {
        self.ensure_usable()?;
        if !self.sealed {
            return Err(self.impossible("a run's first entry is its seal"));
        }
        let outcome = self.write_snapshot().and_then(|()| self.prune());
        self.remember_fence(outcome)
    }

    /// Announces in the log that the objects are deleted, and deletes them. Absent ones are fine.
    ///
    /// The caller names only what neither the last two checkpoints nor the longest query can reach, and never uses a
    /// deleted name again: a run that sleeps in the middle of this may delete it once more (names of state objects
    /// therefore contain the run that wrote them).
    ///
    /// # Errors
    /// Those of [`Log::append`], in which case nothing was deleted; or a deletion failed, in which case the log can be
    /// used on and the caller may name what is left again.
    pub fn collect(&mut self, paths: &[String]) -> Result<(), LogError> {
        if paths.is_empty() {
            return Ok(());
        }
        self.append(Entry::Gc { paths: paths.to_vec() })?;
        let outcome = self.delete_all(paths);
        self.remember_fence(outcome)
    }

    fn append_sealed(&mut self, entry: Entry) -> Result<u64, LogError> {
        let number = self.state.number() + 1;
        self.state.check(number, &entry)?;
        if matches!(entry, Entry::Checkpoint(_)) {
            self.archive_bindings()?;
        }
        match self.offer(number, entry)? {
            Offer::Taken => Ok(number),
            Offer::Lost(envelope, _) => Err(self.lost_to(&envelope)),
        }
    }

    /// Keeps what a checkpoint is about to let go of.
    fn archive_bindings(&mut self) -> Result<(), LogError> {
        let (store, fence) = (&self.store, &self.fence);
        let delete = |path: &str| delete(store, fence, path);
        self.archive.add((store, &self.paths), self.state.leaving(), delete)
    }

    /// Whether the seal was taken; if not, the entry in its place is now part of the state.
    fn offer_seal(&mut self, seal: Seal) -> Result<bool, LogError> {
        let number = self.state.number() + 1;
        let entry = Entry::Seal(seal);
        self.state.check(number, &entry)?;
        match self.offer(number, entry)? {
            Offer::Taken => Ok(true),
            Offer::Lost(envelope, checksum) if envelope.run < self.run => {
                self.state.apply(number, envelope.entry)?;
                self.previous = checksum;
                Ok(false)
            }
            Offer::Lost(envelope, _) => Err(self.lost_to(&envelope)),
        }
    }

    /// Puts the entry under its number, and looks whether that still counted.
    fn offer(&mut self, number: u64, entry: Entry) -> Result<Offer, LogError> {
        self.sequence += 1;
        let envelope = Envelope { number, previous: self.previous, run: self.run, sequence: self.sequence, entry };
        let bytes = frame::encode(&envelope);
        let object = self.paths.entry(number);
        let ownership = match self.store.create_own(&object, &bytes) {
            Ok(ownership) => ownership,
            Err(error) => {
                // An entry that exists and cannot be read is being pruned: by whoever fenced us.
                self.fence.check()?;
                return Err(error.into());
            }
        };
        match ownership {
            Ownership::Mine => {
                self.fence.check()?;
                self.state.apply(number, envelope.entry)?;
                self.previous = frame::checksum(&bytes);
                Ok(Offer::Taken)
            }
            Ownership::Theirs(found) => {
                let other = load::read_entry(&object, number, self.previous, &found).or_else(|error| {
                    self.fence.check()?;
                    Err(error)
                })?;
                Ok(Offer::Lost(Box::new(other), frame::checksum(&found)))
            }
        }
    }

    /// The error of a run whose number was taken by the entry of another.
    fn lost_to(&self, other: &Envelope) -> LogError {
        let object = self.paths.entry(other.number);
        if other.run > self.run {
            let evidence = format!("{object} was written by run {}", other.run);
            return LogError::Fenced { run: self.run, by_run: other.run, evidence };
        }
        let reason = format!("{object} was written by run {} after run {} had sealed the log", other.run, self.run);
        LogError::Impossible { number: other.number, reason }
    }

    fn write_snapshot(&mut self) -> Result<(), LogError> {
        let number = self.state.number();
        if self.snapshots.last() == Some(&number) {
            return Ok(());
        }
        let snapshot = Snapshot { previous: self.previous, state: self.state.clone() };
        self.store.put(&self.paths.snapshot(number), &frame::encode(&snapshot))?;
        self.fence.check()?;
        self.snapshots.push(number);
        if self.snapshots.len() > 2 {
            self.snapshots.remove(0);
        }
        self.covered = number;
        Ok(())
    }

    /// Deletes the snapshots that are not kept and the entries that both kept ones cover, oldest first, so that what
    /// is left is without gaps wherever this stops.
    fn prune(&self) -> Result<(), LogError> {
        let [older, newer] = self.snapshots[..] else { return Ok(()) };
        let kept = |number: &u64| *number == older || *number == newer;
        for number in load::numbers(&self.store, &self.paths.snapshots())?.into_iter().filter(|number| !kept(number)) {
            self.delete(&self.paths.snapshot(number))?;
        }
        for number in load::numbers(&self.store, &self.paths.entries())?.into_iter().filter(|&number| number <= older) {
            self.delete(&self.paths.entry(number))?;
        }
        Ok(())
    }

    fn delete_all(&self, paths: &[String]) -> Result<(), LogError> {
        paths.iter().try_for_each(|path| self.delete(path))
    }

    fn delete(&self, path: &str) -> Result<(), LogError> {
        delete(&self.store, &self.fence, path)
    }

    fn impossible(&self, reason: &str) -> LogError {
        LogError::Impossible { number: self.state.number() + 1, reason: reason.to_owned() }
    }

    fn ensure_usable(&self) -> Result<(), LogError> {
        let run = self.run;
        match self.stopped.clone() {
            None => Ok(()),
            Some(Stop::Fenced { by_run, evidence }) => Err(LogError::Fenced { run, by_run, evidence }),
            Some(Stop::Failed(reason)) => Err(LogError::Stopped { run, reason }),
        }
    }

    /// After this, a failed append has stopped the log; one that was refused before it was offered has not.
    fn remember_stop<T>(&mut self, outcome: Result<T, LogError>) -> Result<T, LogError> {
        let outcome = self.remember_fence(outcome);
        if let Err(error) = &outcome
            && !matches!(error, LogError::Impossible { .. })
            && self.stopped.is_none()
        {
            self.stopped = Some(Stop::Failed(error.to_string()));
        }
        outcome
    }

    fn remember_fence<T>(&mut self, outcome: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(LogError::Fenced { by_run, evidence, .. }) = &outcome {
            self.stopped = Some(Stop::Fenced { by_run: *by_run, evidence: evidence.clone() });
        }
        outcome
    }
}

/// Deletes an object of the log, unless a later run has begun.
fn delete(store: &Retrying, fence: &Fence, path: &str) -> Result<(), LogError> {
    fence.check()?;
    Ok(store.delete(path)?)
}

/// Creates the object `format` on the very first start, and checks it on every other.
fn ensure_format(store: &Retrying, paths: &Paths) -> Result<(), LogError> {
    let object = paths.format();
    if !store.exists(&object)? {
        if let Some(stray) = store.list(&paths.entries())?.first() {
            let problem = format!("it does not exist, although {stray} does");
            return Err(LogError::Corrupt { object, problem });
        }
        // If two first starts race, both offer the same bytes.
        store.create(&object, &frame::encode(&Format { format: FORMAT }))?;
    }
    load::check_format(store, paths)
}

/// Takes the next run number. One whose put had an unknown outcome may be skipped, but always exists: the numbers in
/// use have no gap, which the fence relies on.
fn take_run(store: &Retrying, paths: &Paths) -> Result<u64, LogError> {
    let mut run = load::numbers(store, &paths.runs())?.last().copied().unwrap_or(0) + 1;
    while store.create(&paths.run(run), &frame::encode(&Claim { run }))? == Created::Exists {
        run += 1;
    }
    Ok(run)
}
