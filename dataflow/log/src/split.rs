//! State in one place, tables in another, and beside the tables a copy of the log that readers of them need.
//!
//! Promises:
//! * The log that decides is the one in the `state` place, alone (INV-1). What a reader finds beside the tables is a
//!   prefix of it, without gaps, that ends at most at the entry that is being written: an entry is copied once it is
//!   durable, and confirmed once it is copied; what is pruned goes from the copy first.
//! * A crash between the two leaves the copy short. The first write of the next run brings it up to date before
//!   anything else is written ([`SplitStore::reconcile`]).
//! * Tables never get the log of another pipeline: a copy of another log, or one that knows more than the state does,
//!   is refused, because the state was lost or exchanged.
//!
//! Copied are entries, snapshots and the format. Runs and their fence, checkpoints and state pieces are not: whoever
//! reads tables needs none of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::error::LogError;
use crate::paths::{Paths, number_of};
use crate::reader;
use crate::state::LogState;
use crate::store::{Created, Store, StoreError, StoreErrorKind};

/// A store whose names under the log's folder live in one place and all others in another.
#[derive(Debug)]
pub struct SplitStore {
    state: Arc<dyn Store>,
    lake: Arc<dyn Store>,
    /// The log's folder.
    prefix: String,
    paths: Paths,
    /// Number of the last entry through which the copy is known to be complete; unknown before the first write.
    copied: Mutex<Option<u64>>,
}

impl SplitStore {
    /// Names under `prefix` (`_tidemill`) in `state`, all others in `lake`. Touches neither yet.
    pub fn new(state: Arc<dyn Store>, lake: Arc<dyn Store>, prefix: &str) -> Self {
        let prefix = prefix.trim_end_matches('/').to_owned();
        Self { state, lake, paths: Paths::new(&prefix), prefix, copied: Mutex::new(None) }
    }

    /// Whether the copy beside the tables can be one of this state's log. Reads only, for checks before a start.
    ///
    /// # Errors
    /// It is another log's, or knows more than the state; or a store failed.
    pub fn check(&self) -> Result<(), StoreError> {
        // The copy is read first: a living run may add to both meanwhile.
        let copy = self.read(&self.lake)?;
        let Some(copy) = copy.filter(|copy| copy.number() > 0) else { return Ok(()) };
        let Some(state) = self.read(&self.state)? else {
            return Err(self.refused("there is no state that they belong to"));
        };
        let instance = |log: &LogState| log.seal().map(|seal| seal.instance.clone());
        if copy.number() > state.number() {
            return Err(self.refused("their log goes on after the end of the one in the state"));
        }
        if instance(&copy) != instance(&state) {
            return Err(self.refused("their log is another one"));
        }
        Ok(())
    }

    /// Brings the copy of the log up to date, in an order in which readers never see a gap.
    ///
    /// Happens by itself before the first write of a run.
    ///
    /// # Errors
    /// Those of [`SplitStore::check`].
    pub fn reconcile(&self) -> Result<(), StoreError> {
        let mut copied = self.copied();
        *copied = Some(self.bring_up_to_date()?);
        Ok(())
    }

    /// Returns the number of the last entry.
    fn bring_up_to_date(&self) -> Result<u64, StoreError> {
        self.check()?;
        // What lies in the copy is listed first: whatever the state does not hold then was pruned, and is no entry that
        // a living run adds to both meanwhile.
        let present: BTreeSet<String> = self.copies(&self.lake)?.into_iter().collect();
        let wanted = self.copies(&self.state)?;
        for path in wanted.iter().filter(|path| !present.contains(*path)) {
            // An object that is gone by now was pruned.
            if let Some(bytes) = self.state.get(path)? {
                self.copy(path, &bytes)?;
            }
        }
        let wanted: BTreeSet<String> = wanted.into_iter().collect();
        for path in present.difference(&wanted) {
            self.lake.delete(path)?;
        }
        let entries = self.paths.entries();
        let of_entries = |path: &&String| path.starts_with(&entries);
        let last_entry = wanted.iter().filter(of_entries).filter_map(|path| number_of(path)).next_back();
        let last_snapshot = wanted.iter().filter(|path| !of_entries(path)).filter_map(|path| number_of(path)).max();
        Ok(last_entry.max(last_snapshot).unwrap_or(0))
    }

    /// The names that are copied, in the order in which copying them one by one shows a reader no gap: a snapshot
    /// stands for all entries before it, and each entry follows what is there already.
    fn copies(&self, store: &Arc<dyn Store>) -> Result<Vec<String>, StoreError> {
        let format = self.paths.format();
        let mut names = Vec::new();
        if store.exists(&format)? {
            names.push(format);
        }
        names.extend(store.list(&self.paths.snapshots())?.into_iter().filter(|path| number_of(path).is_some()));
        names.extend(store.list(&self.paths.entries())?.into_iter().filter(|path| number_of(path).is_some()));
        Ok(names)
    }

    fn read(&self, store: &Arc<dyn Store>) -> Result<Option<LogState>, StoreError> {
        match reader::read(Arc::clone(store), &self.prefix) {
            Ok(state) => Ok(Some(state)),
            Err(LogError::NotInitialized { .. }) => Ok(None),
            Err(LogError::Store(error)) => Err(error),
            Err(error) => Err(StoreError::new(StoreErrorKind::Fatal, "read the log in", self.prefix.as_str(), error)),
        }
    }

    /// Writes a copy of an object that is written once.
    fn copy(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        if self.lake.create(path, bytes)? == Created::New {
            return Ok(());
        }
        match self.lake.get(path)? {
            // Deleted since: by a later run, which pruned it.
            None => Ok(()),
            Some(found) if found == bytes => Ok(()),
            Some(_) => Err(self.refused("another pipeline writes its log there")),
        }
    }

    fn refused(&self, problem: &str) -> StoreError {
        let cause = format!(
            "the tables there are not those of this state: {problem}. Give the state that they were written with, or \
             another place for the tables"
        );
        StoreError::new(StoreErrorKind::Fatal, "keep a copy of the log in", self.prefix.as_str(), cause)
    }

    /// Copies an object of the log that is durable in the state.
    fn copy_in_order(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let mut copied = self.copied();
        let entry = number_of(path).filter(|_| self.is_in(path, &self.paths.entries()));
        let Some(number) = entry else { return self.copy(path, bytes) };
        // The entry before may be one that another run did not come to copy.
        if copied.is_none_or(|through| through + 1 < number) {
            *copied = Some(self.bring_up_to_date()?);
        }
        // A stray entry below a snapshot comes from a run that is fenced and about to learn it.
        if copied.is_some_and(|through| through < number) {
            self.copy(path, bytes)?;
            *copied = Some(number);
        }
        Ok(())
    }

    /// Before this run's first write.
    fn prepare(&self) -> Result<(), StoreError> {
        let mut copied = self.copied();
        if copied.is_none() {
            *copied = Some(self.bring_up_to_date()?);
        }
        Ok(())
    }

    fn copied(&self) -> MutexGuard<'_, Option<u64>> {
        self.copied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_in(&self, path: &str, folder: &str) -> bool {
        path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
    }

    fn of_state(&self, path: &str) -> bool {
        path == self.prefix || self.is_in(path, &self.prefix)
    }

    fn is_copied(&self, path: &str) -> bool {
        path == self.paths.format()
            || self.is_in(path, &self.paths.entries())
            || self.is_in(path, &self.paths.snapshots())
    }

    fn home(&self, path: &str) -> &dyn Store {
        if self.of_state(path) { &*self.state } else { &*self.lake }
    }
}

/// The state holds the object already, so whatever befell the copy, the whole was perhaps done.
fn perhaps(error: StoreError) -> StoreError {
    match error.kind() {
        kind if kind.is_hopeless() => error,
        _ => {
            let path = error.path().to_owned();
            StoreError::new(StoreErrorKind::MaybeApplied, "copy", path, error)
        }
    }
}

impl Store for SplitStore {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        if !self.of_state(path) {
            return self.lake.create(path, bytes);
        }
        self.prepare()?;
        let created = self.state.create(path, bytes)?;
        if self.is_copied(path) {
            match created {
                Created::New => self.copy_in_order(path, bytes).map_err(perhaps)?,
                // Perhaps written by us and not copied, perhaps another's: it is part of the log.
                Created::Exists => {
                    if let Some(found) = self.state.get(path).map_err(perhaps)? {
                        self.copy_in_order(path, &found).map_err(perhaps)?;
                    }
                }
            }
        }
        Ok(created)
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        if !self.of_state(path) {
            return self.lake.put(path, bytes);
        }
        self.prepare()?;
        self.state.put(path, bytes)?;
        if self.is_copied(path) { self.lake.put(path, bytes).map_err(perhaps) } else { Ok(()) }
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        self.home(path).get(path)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        if !folder.is_empty() {
            return self.home(folder).list(folder);
        }
        let mut names = self.lake.list(folder)?;
        names.retain(|path| !self.of_state(path));
        names.extend(self.state.list(folder)?.into_iter().filter(|path| self.of_state(path)));
        names.sort_unstable();
        Ok(names)
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        // From the copy first: what the state no longer lists, nobody would ever delete there.
        if self.is_copied(path) {
            self.lake.delete(path)?;
        }
        self.home(path).delete(path)
    }

    fn exists(&self, path: &str) -> Result<bool, StoreError> {
        self.home(path).exists(path)
    }
}
