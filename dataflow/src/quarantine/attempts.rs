//! Where attempts are kept: objects named by position, put if absent, a few of each.

use tidemill_log::{Created, FOLDER, Store, StoreError};

use super::Attempt;
use crate::hash::hash64;
use crate::runtime::RunError;

/// As many panics at one position tell all that can be told.
const KEPT: u32 = 4;

fn folder() -> String {
    format!("{FOLDER}/quarantine")
}

/// Notes an attempt, unless enough of its position are known.
pub(super) fn write(store: &dyn Store, attempt: &Attempt) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(attempt).expect("an attempt is plain data");
    let origin = &attempt.origin;
    let (partition, folder) = (hash64(origin.partition.as_bytes()), folder());
    let kind = if origin.single { "record" } else { "block" };
    for number in 0..KEPT {
        let path = format!("{folder}/{partition:016x}/{:020}-{:020}-{kind}-{number}", origin.start, origin.end);
        if store.create(&path, &bytes)? == Created::New {
            break;
        }
    }
    Ok(())
}

/// All attempts that are known.
pub(crate) fn read(store: &dyn Store) -> Result<Vec<Attempt>, RunError> {
    let mut attempts = Vec::new();
    for path in store.list(&folder())? {
        let Some(bytes) = store.get(&path)? else { continue };
        let attempt = serde_json::from_slice(&bytes).map_err(|error| {
            let sentence = "it only says which record panicked, so it may be removed";
            RunError::State(format!("{path} is damaged ({error}); {sentence}"))
        })?;
        attempts.push(attempt);
    }
    Ok(attempts)
}
