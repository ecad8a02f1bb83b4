//! Choosing the newest intact checkpoint, and handing its sections to the operators that own them (INV-5, INV-7).

use std::collections::BTreeMap;
use std::sync::Mutex;

use thiserror::Error;
use tidemill_log::{CheckpointEntry, LogState, Store};

use super::manifest::{Manifest, checksum};
use super::piece::Piece;
use super::writer::read_piece;
use crate::bind::BindState;
use crate::plan::Plan;
use crate::time::Epoch;

/// Why no state can be started from.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// No checkpoint is intact and the epochs since the start are not all recorded any more.
    #[error("no checkpoint can be used ({0}); restore the folder from a copy, or start a new one")]
    NothingIntact(String),
    /// The plan and the checkpoint do not fit.
    #[error("{0}")]
    Incompatible(String),
}

/// What a start continues from.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// The epoch of the checkpoint, 0 without one.
    pub(crate) epoch: Epoch,
    pub(crate) source: BindState,
    pub(crate) manifest: Option<Manifest>,
    /// Pieces by operator, oldest first; an operator takes its own when it is built, on every worker.
    pieces: Mutex<BTreeMap<String, Vec<Piece>>>,
}

impl Restored {
    /// The pieces of an operator (shared bytes: a clone is cheap).
    pub(crate) fn pieces(&self, operator: &str) -> Vec<Piece> {
        self.pieces.lock().expect("no panic while it is held").get(operator).cloned().unwrap_or_default()
    }

    /// Lets go of the pieces once every worker has taken its part.
    pub(crate) fn release(&self) {
        self.pieces.lock().expect("no panic while it is held").clear();
    }
}

/// Reads and verifies the manifest of a checkpoint.
///
/// # Errors
/// A sentence that names the object and what is wrong with it.
pub fn load_manifest(store: &dyn Store, entry: &CheckpointEntry) -> Result<Manifest, String> {
    let path = &entry.manifest;
    let bytes = store.get(path).map_err(|e| format!("{path}: {e}"))?.ok_or_else(|| format!("{path} is gone"))?;
    if checksum(&bytes) != entry.checksum {
        return Err(format!("{path}: its checksum does not match"));
    }
    serde_json::from_slice(&bytes).map_err(|e| format!("{path}: {e}"))
}

/// Reads a checkpoint with all its pieces.
///
/// # Errors
/// A sentence that names the object and what is wrong with it.
pub(crate) fn load(store: &dyn Store, entry: &CheckpointEntry) -> Result<Restored, String> {
    let manifest = load_manifest(store, entry)?;
    let source = serde_json::from_str(&manifest.source).map_err(|e| format!("{}: {e}", entry.manifest))?;
    let mut pieces = BTreeMap::new();
    for operator in &manifest.operators {
        let read = operator.pieces.iter().map(|piece| read_piece(store, piece)).collect::<Result<Vec<_>, _>>();
        pieces.insert(operator.id.clone(), read.map_err(|e| e.to_string())?);
    }
    Ok(Restored { epoch: manifest.epoch, source, manifest: Some(manifest), pieces: Mutex::new(pieces) })
}

/// The newest intact checkpoint that the log names; sentences about those that are not go to `warnings`.
///
/// # Errors
/// [`RestoreError::NothingIntact`] if none is intact and the recorded epochs do not reach back to the first.
pub(crate) fn choose(
    store: &dyn Store,
    state: &LogState,
    warnings: &mut Vec<String>,
) -> Result<Restored, RestoreError> {
    let mut problems = Vec::new();
    for entry in state.checkpoints().iter().rev() {
        match load(store, entry) {
            Ok(restored) => {
                for problem in &problems {
                    warnings.push(format!("{problem}; going on from checkpoint {} instead", restored.epoch));
                }
                return Ok(restored);
            }
            Err(problem) => problems.push(format!("checkpoint {} cannot be used: {problem}", entry.epoch)),
        }
    }
    if !state.replayable_from_start() {
        return Err(RestoreError::NothingIntact(problems.join("; ")));
    }
    warnings.extend(problems.into_iter().map(|problem| format!("{problem}; replaying from the first epoch instead")));
    Ok(Restored::default())
}

/// Compares what a checkpoint holds with what the plan asks for.
///
/// # Errors
/// [`RestoreError::Incompatible`] names every operator that is gone or has another state version.
pub(crate) fn check_plan(manifest: &Manifest, plan: &Plan) -> Result<(), RestoreError> {
    let mut problems = Vec::new();
    for stored in &manifest.operators {
        match plan.state_version(&stored.id) {
            None => problems.push(format!("`{}` has state in the checkpoint but is not in the plan", stored.id)),
            Some(version) if version != stored.version => problems.push(format!(
                "`{}` has state version {} in the checkpoint, this build has {version}",
                stored.id, stored.version
            )),
            Some(_) => {}
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    let remedy = "finish with the build that wrote it, or start a new folder";
    Err(RestoreError::Incompatible(format!("{}; {remedy}", problems.join("; "))))
}
