//! Records that are gone before they were read: what of it somebody may accept, so that a run goes on behind them (INV-5).
//!
//! Only what is really missing is accepted, and only where no bound epoch waits to be replayed that holds records of the
//! partition: what such an epoch led to may stand in a sink, and cannot be repeated without what it was made of.

use std::sync::Arc;

use tidemill_log::{FOLDER, LogError, LogState, Loss, Seal, Store, reader};

use super::{RunError, RunOptions};
use crate::flow::Registry;
use crate::source::{SourceError, as_the_connector_left_it, behind_losses};

/// Everything that was accepted so far, and is now.
pub(super) fn accepted(before: Option<&Seal>, options: &RunOptions) -> Vec<Loss> {
    let mut all = before.map(|seal| seal.accepted_loss.clone()).unwrap_or_default();
    all.extend(options.accepted_loss.iter().filter(|loss| !all.contains(loss)).cloned().collect::<Vec<_>>());
    all
}

/// Refuses to accept what is not missing, before anybody is fenced; writes nothing.
///
/// # Errors
/// [`RunError::State`] with what is there instead, and what the source says.
pub(super) fn check(registry: &Registry, options: &RunOptions, store: &Arc<dyn Store>) -> Result<(), RunError> {
    if options.accepted_loss.is_empty() {
        return Ok(());
    }
    let state = match reader::read(Arc::clone(store), FOLDER) {
        Ok(state) => state,
        Err(LogError::NotInitialized { .. }) => LogState::default(),
        Err(error) => return Err(error.into()),
    };
    let mut known = state.seal().map(|seal| seal.accepted_loss.clone()).unwrap_or_default();
    let mut wanted: Vec<&Loss> = options.accepted_loss.iter().filter(|loss| !known.contains(loss)).collect();
    for loss in &wanted {
        acceptable(&state, loss).map_err(|problem| RunError::State(format!("--accept-loss {loss}: {problem}")))?;
    }
    let Some(open) = &registry.open else { return Ok(()) };
    while !wanted.is_empty() {
        let recorded = state.bound_partitions().values().cloned().collect();
        let recorded: Vec<_> = behind_losses(recorded, &known).into_iter().map(as_the_connector_left_it).collect();
        match open(&recorded, &recorded) {
            Err(SourceError::Missing { loss, .. }) if wanted.contains(&&loss) => {
                wanted.retain(|accepted| **accepted != loss);
                known.push(loss);
            }
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let listed = wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(RunError::State(format!("--accept-loss {listed}: nothing is missing there; leave it out")));
            }
        }
    }
    Ok(())
}

/// Whether a loss is one by what the log says.
fn acceptable(state: &LogState, loss: &Loss) -> Result<(), String> {
    let Some(bound) = state.bound_partitions().values().find(|binding| binding.name == loss.partition) else {
        return Err("no run over this state has read such a partition".into());
    };
    if bound.end != loss.from {
        return Err(format!("the partition was read up to offset {}, and what is gone begins there", bound.end));
    }
    let checkpoint = state.checkpoints().last().map(|checkpoint| checkpoint.epoch);
    let holds = |binding: &&tidemill_log::Binding| {
        let before = binding.epoch.checked_sub(1).and_then(|epoch| state.partitions_as_of(epoch)).unwrap_or_default();
        let lines = before.get(&bound.partition).map_or(0, |then| then.lines);
        binding.partitions.iter().any(|moved| moved.partition == bound.partition && moved.lines > lines)
    };
    match state.bindings_after(checkpoint).find(holds) {
        None => Ok(()),
        Some(first) => Err(format!(
            "epoch {} and those behind it hold records of the partition and are not checkpointed: what they led to may stand \
             in tables and cannot be repeated without these records. Restore the records, or start over with a new state and \
             new tables (\"Starting over\" in docs/operations.md)",
            first.epoch
        )),
    }
}

#[cfg(test)]
mod tests {
    use tidemill_log::testing::seal;
    use tidemill_log::{Binding, CheckpointEntry, Commit, Entry, PartitionBinding, PartitionStatus};

    use super::*;

    fn partition(end: u64) -> PartitionBinding {
        PartitionBinding {
            partition: 0,
            name: "a/0".into(),
            end,
            lines: end,
            digest: String::new(),
            watermark: None,
            status: PartitionStatus::Active,
            detail: serde_json::Value::Null,
        }
    }

    /// Epochs that end at these offsets; one of them is the last with a checkpoint.
    fn state(ends: &[u64], checkpoint: u64) -> LogState {
        let mut entries = vec![Entry::Seal(seal(1))];
        for (epoch, end) in (1..).zip(ends) {
            let partitions = vec![partition(*end)];
            entries.push(Entry::Bind(Binding { epoch, watermark: None, partitions, last: false, checkpoint: false }));
            entries.push(Entry::Commit(Commit { epoch, ..Commit::default() }));
            if epoch == checkpoint {
                let (manifest, checksum) = ("m".into(), "c".into());
                entries.push(Entry::Checkpoint(CheckpointEntry { epoch, manifest, checksum }));
            }
        }
        let mut state = LogState::default();
        for (number, entry) in (1..).zip(entries) {
            state.apply(number, entry).unwrap();
        }
        state
    }

    fn loss(text: &str) -> Loss {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_gone_behind_a_checkpoint_may_be_accepted_also_where_empty_epochs_follow_it() {
        assert_eq!(acceptable(&state(&[10, 20], 2), &loss("a/0:20-29")), Ok(()));
        assert_eq!(acceptable(&state(&[10, 20, 20, 20], 2), &loss("a/0:20-29")), Ok(()));
    }

    #[test]
    fn what_bound_epochs_need_and_what_is_not_gone_may_not() {
        let refused = |state: &LogState, text: &str| acceptable(state, &loss(text)).unwrap_err();
        assert!(refused(&state(&[10, 20], 1), "a/0:20-29").contains("epoch 2 and those behind it"));
        assert!(refused(&state(&[10, 20], 2), "a/0:10-29").contains("read up to offset 20"));
        assert!(refused(&state(&[10, 20], 2), "b/0:20-29").contains("no run"));
    }

    #[test]
    fn reading_goes_on_behind_what_was_accepted_one_after_the_other() {
        let accepted = ["a/0:20-29", "a/0:30-34", "b/0:35-99"].map(loss);
        let ends = |end| behind_losses(vec![partition(end)], &accepted)[0].end;
        assert_eq!([ends(19), ends(20), ends(25), ends(35)], [19, 35, 35, 35]);
        for wrong in ["a/0", "a/0:5", "a/0:9-5", ":1-2", "a/0:x-2"] {
            assert!(wrong.parse::<Loss>().is_err(), "{wrong}");
        }
    }
}
