//! The reading side of the log, for queries and inspection: one consistent commit, beside a living writer.
//!
//! It never writes, and needs no rights to. A writer that prunes meanwhile only makes it begin again.

use std::sync::Arc;

use crate::error::LogError;
use crate::load;
use crate::paths::Paths;
use crate::retry::Retrying;
use crate::state::LogState;
use crate::store::Store;

/// Attempts of a call on the store that fails for a moment.
const ATTEMPTS: u32 = 3;

/// The meaning of the log under `prefix` through its last entry.
///
/// # Errors
/// [`LogError::NotInitialized`] where no run has begun, otherwise what makes the log unreadable.
pub fn read(store: Arc<dyn Store>, prefix: &str) -> Result<LogState, LogError> {
    let (store, paths) = (retrying(store), Paths::new(prefix));
    load::check_format(&store, &paths)?;
    Ok(load::load(&store, &paths, || Ok(()))?.state)
}

/// Whether a run has ever begun under `prefix`.
///
/// # Errors
/// The store failed.
pub fn is_initialized(store: Arc<dyn Store>, prefix: &str) -> Result<bool, LogError> {
    Ok(retrying(store).exists(&Paths::new(prefix).format())?)
}

pub(crate) fn retrying(store: Arc<dyn Store>) -> Retrying {
    Retrying::new(store, ATTEMPTS, Arc::new(|_| {}))
}
