//! A store that waits where the one behind it does not answer, or has no room.
//!
//! Promise: a call fails only where repeating it cannot help; an outage of any length, or a full disk, is waited out, said
//! once when it begins and once when it ends, however many threads wait. Memory stays bounded meanwhile, because whoever
//! waits holds what it was given and takes nothing more (INV-8).
//!
//! Every call of a [`Store`] may be repeated: whole objects are put, absent ones may be deleted. Only after a `create`
//! of unknown outcome that was repeated, [`Created::Exists`] may be the caller's own doing; as the log does, callers
//! who need to know whose object it is read it back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
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
    /// Whether a call that failed like this is repeated.
    waits: fn(StoreErrorKind) -> bool,
    /// Calls that wait long enough to be told of.
    waiting: AtomicU32,
}

impl PatientStore {
    /// Waits for `store`, which people know as `place`.
    pub fn new(store: Arc<dyn Store>, place: impl Into<String>) -> Self {
        let waits = |kind: StoreErrorKind| !kind.is_hopeless();
        Self { store, place: place.into(), pause: Arc::new(sleep), waits, waiting: AtomicU32::new(0) }
    }

    /// Waits for room in `store`, which people know as `place`, and for nothing else: a local folder whose calls fail
    /// otherwise has a fault that does not pass.
    pub fn for_room(store: Arc<dyn Store>, place: impl Into<String>) -> Self {
        Self { waits: |kind| kind == StoreErrorKind::Full, ..Self::new(store, place) }
    }

    /// Calls `pause` between two attempts, with the number of those that failed, instead of sleeping.
    #[must_use]
    pub fn pausing(mut self, pause: Pause) -> Self {
        self.pause = pause;
        self
    }

    fn patiently<T>(&self, mut call: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let (mut failures, mut full) = (0_u32, false);
        loop {
            match call() {
                Err(error) if (self.waits)(error.kind()) => {
                    failures = failures.saturating_add(1);
                    full |= error.kind() == StoreErrorKind::Full;
                    if failures == WORTH_TELLING && self.waiting.fetch_add(1, Ordering::Relaxed) == 0 {
                        let (place, causes) = (&self.place, with_causes(&error));
                        if lacks_descriptors(&error) {
                            warn!(
                                "no file can be opened for {place}: this process or machine has no descriptors left; raise \
                                 `ulimit -n`, or close what holds them, and this goes on by itself; nothing is lost ({causes})"
                            );
                        } else if full {
                            warn!(
                                "there is no room in {place}: make some, and this goes on by itself; nothing is lost \
                                 ({causes})"
                            );
                        } else {
                            warn!("waiting for {place} to answer: {causes}");
                        }
                    }
                    (self.pause)(failures);
                }
                outcome => {
                    // Others may find room for less, and wait no longer: the last one that waited tells.
                    if failures >= WORTH_TELLING && self.waiting.fetch_sub(1, Ordering::Relaxed) == 1 {
                        let again = if full { "has room again" } else { "answers again" };
                        info!("{} {again}", self.place);
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

/// EMFILE or ENFILE.
fn lacks_descriptors(error: &StoreError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(found) = cause {
        if found.downcast_ref::<std::io::Error>().is_some_and(|system| matches!(system.raw_os_error(), Some(23 | 24))) {
            return true;
        }
        cause = found.source();
    }
    false
}
