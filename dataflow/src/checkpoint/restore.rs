//! Choosing the newest intact checkpoint, and handing its sections to the operators that own them (INV-5, INV-7).

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use thiserror::Error;
use tidemill_log::{CheckpointEntry, LogError, LogState, Store, StoreError};

use super::compare::Changes;
use super::manifest::{Manifest, checksum};
use super::piece::Piece;
use super::pieces::PieceRef;
use super::writer::read_piece;
use crate::bind::BindState;
use crate::runtime::{RunError, log_options};
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

/// Why a checkpoint, or a part of it, was not read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The store failed, also when it was asked again: what it holds may be intact.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is stored is not what was written; the sentence names the object.
    #[error("{0}")]
    Damaged(String),
}

impl From<LoadError> for RunError {
    fn from(error: LoadError) -> RunError {
        match error {
            LoadError::Store(error) => RunError::Log(LogError::Store(error)),
            LoadError::Damaged(problem) => RunError::State(problem),
        }
    }
}

/// Reads an object; a store that fails for a moment is asked again.
pub(super) fn read(store: &dyn Store, path: &str) -> Result<Option<Bytes>, StoreError> {
    log_options().retrying(|| store.get(path))
}

/// What a start continues from.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// The epoch of the checkpoint, 0 without one.
    pub(crate) epoch: Epoch,
    pub(crate) source: BindState,
    pub(crate) manifest: Option<Manifest>,
    /// Pieces by operator, oldest first, each with the version of its codec; an operator takes its own when it is built,
    /// on every worker.
    pieces: Mutex<BTreeMap<String, Vec<(u32, Piece)>>>,
}

impl Restored {
    /// The pieces of an operator (shared bytes: a clone is cheap).
    pub(crate) fn pieces(&self, operator: &str) -> Vec<(u32, Piece)> {
        self.pieces.lock().expect("no panic while it is held").get(operator).cloned().unwrap_or_default()
    }

    /// Hands the state to the operators of the plan: renamed ones find it under their id, what is dropped is left out.
    pub(crate) fn adopt(&mut self, changes: &Changes) {
        let Some(manifest) = &mut self.manifest else { return };
        let pieces = self.pieces.get_mut().expect("no panic while it is held");
        let (mut operators, mut before) = (Vec::new(), std::mem::take(pieces));
        for mut operator in std::mem::take(&mut manifest.operators) {
            let Some(heir) = changes.heir(&operator.id) else { continue };
            pieces.extend(before.remove(&operator.id).map(|read| (heir.to_owned(), read)));
            // From here on the operator's version is the plan's, and each piece says its own.
            operator.pieces.iter_mut().for_each(|piece| piece.version = piece.version.or(Some(operator.version)));
            operator.id = heir.to_owned();
            operators.push(operator);
        }
        manifest.operators = operators;
    }

    /// Lets go of the pieces once every worker has taken its part.
    pub(crate) fn release(&self) {
        self.pieces.lock().expect("no panic while it is held").clear();
    }
}

/// Reads and verifies the manifest of a checkpoint.
///
/// # Errors
/// [`LoadError`]: the store failed, or what it holds is not what was written.
pub fn load_manifest(store: &dyn Store, entry: &CheckpointEntry) -> Result<Manifest, LoadError> {
    let path = &entry.manifest;
    let bytes = read(store, path)?.ok_or_else(|| LoadError::Damaged(format!("{path} is gone")))?;
    if checksum(&bytes) != entry.checksum {
        return Err(LoadError::Damaged(format!("{path}: its checksum does not match")));
    }
    serde_json::from_slice(&bytes).map_err(|e| LoadError::Damaged(format!("{path}: {e}")))
}

/// Reads a checkpoint with all its pieces.
///
/// # Errors
/// Those of [`load_manifest`].
pub(crate) fn load(store: &dyn Store, entry: &CheckpointEntry) -> Result<Restored, LoadError> {
    let manifest = load_manifest(store, entry)?;
    let unread = |error| LoadError::Damaged(format!("{}: {error}", entry.manifest));
    let source = serde_json::from_str(&manifest.source).map_err(unread)?;
    let mut pieces = BTreeMap::new();
    for operator in &manifest.operators {
        let versioned = |piece: &PieceRef| Ok((piece.version.unwrap_or(operator.version), read_piece(store, piece)?));
        let read = operator.pieces.iter().map(versioned).collect::<Result<Vec<_>, LoadError>>();
        pieces.insert(operator.id.clone(), read?);
    }
    Ok(Restored { epoch: manifest.epoch, source, manifest: Some(manifest), pieces: Mutex::new(pieces) })
}

/// The newest intact checkpoint that the log names; sentences about those that are not go to `warnings`.
///
/// # Errors
/// [`RestoreError::NothingIntact`] if none is intact and the recorded epochs do not reach back to the first; the store
/// failed, which says nothing of what it holds: no older checkpoint is taken for that.
pub(crate) fn choose(store: &dyn Store, state: &LogState, warnings: &mut Vec<String>) -> Result<Restored, RunError> {
    let mut problems = Vec::new();
    for entry in state.checkpoints().iter().rev() {
        match load(store, entry) {
            Ok(restored) => {
                for problem in &problems {
                    warnings.push(format!("{problem}; going on from checkpoint {} instead", restored.epoch));
                }
                return Ok(restored);
            }
            Err(LoadError::Damaged(problem)) => {
                problems.push(format!("checkpoint {} cannot be used: {problem}", entry.epoch));
            }
            Err(failed @ LoadError::Store(_)) => return Err(failed.into()),
        }
    }
    if !state.replayable_from_start() {
        return Err(RestoreError::NothingIntact(problems.join("; ")).into());
    }
    warnings.extend(problems.into_iter().map(|problem| format!("{problem}; replaying from the first epoch instead")));
    Ok(Restored::default())
}

/// The manifest of the newest checkpoint that has one, without its pieces.
///
/// # Errors
/// The store failed.
pub(crate) fn newest_manifest(store: &dyn Store, state: &LogState) -> Result<Option<Manifest>, LoadError> {
    for entry in state.checkpoints().iter().rev() {
        match load_manifest(store, entry) {
            Ok(manifest) => return Ok(Some(manifest)),
            Err(LoadError::Damaged(_)) => {}
            Err(failed @ LoadError::Store(_)) => return Err(failed),
        }
    }
    Ok(None)
}
