//! A store that waits where the one behind it does not answer.
//!
//! Promise: a call fails only where repeating it cannot help; an outage of any length is waited out, said once when it
//! begins and once when it ends, however many threads wait. Memory stays bounded meanwhile, because whoever waits
//! holds what it was given and takes nothing more (INV-8).
//!
//! Every call of a [`Store`] may be repeated: whole objects are put, absent ones may be deleted. Only after a `create`
//! of unknown outcome that was repeated, [`Created::Exists`] may be the caller's own doing; as the log does, callers
//! who need to know whose object it is read it back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tracing::{info, warn};

use crate::error::with_causes;
use crate::retry::Pause;
use crate::store::{Created, Store, StoreError, StoreErrorKind};

/// A call that failed fewer times than this in a row is repeated without a word.
const WORTH_TELLING: u32 = 3;

/// The pause after the first failure; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause: how long after its end an outage may still be felt.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// A store whose outages are waited out.
pub struct PatientStore {
    store: Arc<dyn Store>,
    place: String,
    pause: Pause,
    /// Whether it has been said that the store is waited for.
    told: AtomicBool,
}

impl PatientStore {
    /// Waits for `store`, which people know as `place`.
    pub fn new(store: Arc<dyn Store>, place: impl Into<String>) -> Self {
        Self { store, place: place.into(), pause: Arc::new(sleep), told: AtomicBool::new(false) }
    }

    /// Calls `pause` between two attempts, with the number of those that failed, instead of sleeping.
    #[must_use]
    pub fn pausing(mut self, pause: Pause) -> Self {
        self.pause = pause;
        self
    }

    fn patiently<T>(&self, mut call: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut failures = 0_u32;
        loop {
            match call() {
                Err(error) if error.kind() != StoreErrorKind::Fatal => {
                    failures = failures.saturating_add(1);
                    if failures >= WORTH_TELLING && !self.told.swap(true, Ordering::Relaxed) {
                        warn!("waiting for {} to answer: {}", self.place, with_causes(&error));
                    }
                    (self.pause)(failures);
                }
                outcome => {
                    if failures > 0 && self.told.swap(false, Ordering::Relaxed) {
                        info!("{} answers again", self.place);
                    }
                    return outcome;
                }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a store that failed is given time; no result depends on how much")]
fn sleep(failures: u32) {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    std::thread::sleep(doubled.min(LONGEST_PAUSE));
}

impl fmt::Debug for PatientStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PatientStore").field("store", &self.store).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Store for PatientStore {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.patiently(|| self.store.create(path, bytes))
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.patiently(|| self.store.put(path, bytes))
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        self.patiently(|| self.store.get(path))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        self.patiently(|| self.store.list(folder))
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.patiently(|| self.store.delete(path))
    }

    fn exists(&self, path: &str) -> Result<bool, StoreError> {
        self.patiently(|| self.store.exists(path))
    }
}
