//! Repeats calls on the store that failed for a moment, a bounded number of times.
//!
//! What is repeated here may be done twice without harm. A put-if-absent is not among them: whether it was ours is
//! decided by reading the object back ([`Retrying::create_own`]).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::{Created, Store, StoreError, StoreErrorKind};

/// Called between attempts with the number of attempts that failed; it may wait.
pub type Pause = Arc<dyn Fn(u32) + Send + Sync>;

/// How a put-if-absent ended, its outcome known for certain.
pub(crate) enum Ownership {
    /// The object holds our bytes.
    Mine,
    /// The object holds other bytes.
    Theirs(Bytes),
}

/// A store whose passing failures are hidden.
#[derive(Clone)]
pub(crate) struct Retrying {
    store: Arc<dyn Store>,
    attempts: u32,
    pause: Pause,
}

impl fmt::Debug for Retrying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retrying").field("store", &self.store).field("attempts", &self.attempts).finish_non_exhaustive()
    }
}

impl Retrying {
    pub(crate) fn new(store: Arc<dyn Store>, attempts: u32, pause: Pause) -> Self {
        Self { store, attempts: attempts.max(1), pause }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        self.repeat(|| self.store.get(path))
    }

    pub(crate) fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.repeat(|| self.store.list(folder))
    }

    pub(crate) fn exists(&self, path: &str) -> Result<bool, StoreError> {
        self.repeat(|| self.store.exists(path))
    }

    pub(crate) fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.repeat(|| self.store.put(path, bytes))
    }

    pub(crate) fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.repeat(|| self.store.delete(path))
    }

    /// Put-if-absent where it does not matter who wrote: after an unknown outcome, `Exists` may be our own doing.
    pub(crate) fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.repeat(|| self.store.create(path, bytes))
    }

    /// Put-if-absent of bytes that nobody else can write; afterwards it is certain whose bytes are there.
    pub(crate) fn create_own(&self, path: &str, bytes: &[u8]) -> Result<Ownership, StoreError> {
        let mut failures = 0;
        loop {
            let outcome = match self.store.create(path, bytes) {
                Ok(Created::New) => return Ok(Ownership::Mine),
                Ok(Created::Exists) => None,
                Err(error) if error.kind().is_hopeless() => return Err(error),
                Err(error) => Some(error),
            };
            if outcome.as_ref().is_none_or(|error| error.kind() == StoreErrorKind::MaybeApplied) {
                match self.get(path)? {
                    Some(found) if found == bytes => return Ok(Ownership::Mine),
                    Some(found) => return Ok(Ownership::Theirs(found)),
                    // Not applied (yet), or deleted since: the same bytes are offered again.
                    None => {}
                }
            }
            failures += 1;
            if failures >= self.attempts {
                let vanished = || {
                    let cause = "an object of that name exists and cannot be read; it is being deleted by others";
                    StoreError::new(StoreErrorKind::Retryable, "create", path, cause)
                };
                return Err(outcome.unwrap_or_else(vanished));
            }
            (self.pause)(failures);
        }
    }

    fn repeat<T>(&self, call: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        repeat(self.attempts, &self.pause, call)
    }
}

/// Makes a call again while it fails for a moment, so many times in all.
pub(crate) fn repeat<T>(
    attempts: u32,
    pause: &Pause,
    mut call: impl FnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut failures = 0;
    loop {
        match call() {
            Err(error) if !error.kind().is_hopeless() && failures + 1 < attempts => {
                failures += 1;
                pause(failures);
            }
            outcome => return outcome,
        }
    }
}
