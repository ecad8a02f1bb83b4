//! Where panics are kept: those at a record by position, put if absent, a few of each; the last other one of each operator.

use serde::Serialize;
use serde::de::DeserializeOwned;
use tidemill_log::{Created, FOLDER, Store, StoreError};

use super::{Attempt, Fruitless};
use crate::hash::hash64;
use crate::runtime::RunError;

/// As many panics at one position tell all that can be told.
const KEPT: u32 = 4;

const ATTEMPTS: &str = "quarantine";
const FRUITLESS: &str = "panics";

/// Notes a panic at a record, unless enough of its position are known.
pub(super) fn write(store: &dyn Store, attempt: &Attempt) -> Result<(), StoreError> {
    let origin = &attempt.origin;
    let partition = hash64(origin.partition.as_bytes());
    for number in 0..KEPT {
        let position = format!("{:020}-{:020}-record-{number}", origin.start, origin.end);
        let path = format!("{FOLDER}/{ATTEMPTS}/{partition:016x}/{position}");
        if store.create(&path, &encoded(attempt))? == Created::New {
            break;
        }
    }
    Ok(())
}

/// Notes a panic at no single record, in place of the operator's last one.
pub(super) fn write_fruitless(store: &dyn Store, panic: &Fruitless) -> Result<(), StoreError> {
    let operator = hash64(panic.operator.as_bytes());
    store.put(&format!("{FOLDER}/{FRUITLESS}/{operator:016x}"), &encoded(panic))
}

fn encoded(plain: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(plain).expect("what is noted is plain data")
}

/// All panics at records that are known.
pub(crate) fn read(store: &dyn Store) -> Result<Vec<Attempt>, RunError> {
    read_all(store, ATTEMPTS)
}

/// The others.
pub(super) fn read_fruitless(store: &dyn Store) -> Result<Vec<Fruitless>, RunError> {
    read_all(store, FRUITLESS)
}

fn read_all<T: DeserializeOwned>(store: &dyn Store, folder: &str) -> Result<Vec<T>, RunError> {
    let mut all = Vec::new();
    for path in store.list(&format!("{FOLDER}/{folder}"))? {
        let Some(bytes) = store.get(&path)? else { continue };
        let one = serde_json::from_slice(&bytes).map_err(|error| {
            let sentence = "it only says what panicked, so it may be removed";
            RunError::State(format!("{path} is damaged ({error}); {sentence}"))
        })?;
        all.push(one);
    }
    Ok(all)
}
