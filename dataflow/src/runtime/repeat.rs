//! Repeating a run: the same pipeline over the same input in the cuts that were recorded then, at full speed (INV-2).
//!
//! Where epochs end, watermarks and idleness are taken from the other run's bindings, so whatever depends on them (who is
//! late, what could not be verified) is decided as it was. What was read is compared with what was recorded, epoch by epoch.

use std::sync::Arc;

use tidemill_log::{Binding, FOLDER, History, LogError, LogState, reader};

use super::{Build, RunContext, RunError, RunOptions, RunReport, StopHandle, run_in};

/// Runs a pipeline over what another run has read, in the cuts of that run, through its last commit or until `stop` is
/// called. The same call goes on from there; a place that holds anything else is refused.
///
/// # Errors
/// See [`RunError`]; [`RunError::State`] where the other run's cuts are not recorded from its first epoch on, and where the
/// place of `context` holds another run.
pub fn repeat(
    build: impl Build,
    options: &RunOptions,
    context: RunContext,
    cuts: History,
    stop: &StopHandle,
) -> Result<RunReport, RunError> {
    let first = cuts.first();
    if first > 1 {
        return Err(RunError::State(format!(
            "the cuts of this run are recorded from epoch {first} on only: what it read before cannot be read in the same \
             cuts again. Replay with fresh cuts; a run keeps more with a larger --keep-bindings"
        )));
    }
    match reader::read(Arc::clone(&context.store), FOLDER) {
        Ok(state) => agree(&state, &cuts)?,
        Err(LogError::NotInitialized { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    run_in(build, options, context, Some(cuts), stop)
}

/// Whether what a place holds is the beginning of the run that is to be repeated.
fn agree(state: &LogState, cuts: &History) -> Result<(), RunError> {
    let other = |epoch: u64| {
        RunError::State(format!(
            "this place holds another run than the one that is to be repeated (they differ in epoch {epoch}): name a new one"
        ))
    };
    if let Some(bound) = state.bound().filter(|bound| *bound > cuts.through()) {
        return Err(other(bound));
    }
    let Some(first) = state.bindings().keys().next() else { return Ok(()) };
    for (own, theirs) in state.bindings().values().zip(cuts.clone().from(*first)) {
        if !same(own, &theirs?) {
            return Err(other(own.epoch));
        }
    }
    Ok(())
}

/// Whether two bindings say the same of an epoch, whatever connectors and readers noted beside it.
fn same(a: &Binding, b: &Binding) -> bool {
    let same_partitions = a.partitions.iter().zip(&b.partitions).all(|(a, b)| {
        (a.partition, &a.name, a.end, a.lines, &a.digest) == (b.partition, &b.name, b.end, b.lines, &b.digest)
            && (a.watermark, a.status) == (b.watermark, b.status)
    });
    (a.epoch, a.watermark, a.partitions.len()) == (b.epoch, b.watermark, b.partitions.len()) && same_partitions
}
