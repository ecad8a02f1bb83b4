//! Which entry can follow a state. Every refusal is a sentence.

use std::collections::BTreeSet;

use super::LogState;
use crate::entry::{Binding, CheckpointEntry, Commit, Entry, FORMAT, Seal};

pub(super) fn check(state: &LogState, number: u64, entry: &Entry) -> Result<(), String> {
    let next = state.number.saturating_add(1);
    ensure(number == next && next > state.number, || format!("entry {next} is the next"))?;
    if !matches!(entry, Entry::Seal(_)) {
        ensure(state.seal.is_some(), || "the log begins with a seal".to_owned())?;
    }
    match entry {
        Entry::Seal(seal) => check_seal(state, seal),
        Entry::Bind(binding) => check_bind(state, binding),
        Entry::Commit(commit) => check_commit(state, commit),
        Entry::Checkpoint(checkpoint) => check_checkpoint(state, checkpoint),
        Entry::Gc { paths } => check_gc(state, paths),
    }
}

/// Whether entries can have led to a state that was stored: what it promises of itself holds.
pub(super) fn check_stored(state: &LogState) -> Result<(), String> {
    ensure(state.number < u64::MAX, || "no entry could follow".to_owned())?;
    let bound = state.bindings.keys().next_back().copied().max(state.dropped_through);
    ensure(state.bound == bound && bound < Some(u64::MAX), || {
        "its last bound epoch is not the last of its bindings".to_owned()
    })?;
    ensure(state.bindings.iter().all(|(epoch, binding)| *epoch == binding.epoch), || {
        "a binding is not of the epoch under which it stands".to_owned()
    })?;
    let known = |epoch: u64| state.dropped_through == Some(epoch) || state.bindings.contains_key(&epoch);
    ensure(state.committed.is_none_or(known), || "its committed epoch is not bound".to_owned())
}

fn check_seal(state: &LogState, seal: &Seal) -> Result<(), String> {
    ensure(seal.format == FORMAT, || format!("it seals format {}, and this program writes {FORMAT}", seal.format))?;
    ensure(Some(seal.run) > state.run(), || {
        format!("run {} seals after run {}, which is not older", seal.run, state.run().unwrap_or_default())
    })?;
    match seal.checkpoint {
        Some(epoch) => ensure(state.checkpoints.iter().any(|kept| kept.epoch == epoch), || {
            format!("it restores checkpoint {epoch}, which is not one of the last two")
        }),
        None => ensure(state.replayable_from_start(), || {
            "it restores no checkpoint, and the first epochs can no longer be replayed".to_owned()
        }),
    }
}

fn check_bind(state: &LogState, binding: &Binding) -> Result<(), String> {
    let epoch = binding.epoch;
    ensure(epoch < u64::MAX, || format!("epoch {epoch} is bound, and none could follow it"))?;
    if let Some(bound) = state.bound {
        ensure(epoch == bound + 1, || format!("epoch {epoch} is bound after epoch {bound}; epochs are dense"))?;
    }
    ensure(!state.drained, || format!("epoch {epoch} is bound after the end of time was declared"))?;
    ensure(!state.ended || state.run() > state.ended_by, || {
        format!("epoch {epoch} is bound after the same run bound the end of the input")
    })?;
    ensure(binding.watermark >= state.bound_watermark, || format!("the watermark of epoch {epoch} goes back"))?;
    ensure(binding.partitions.is_sorted_by(|a, b| a.partition < b.partition), || {
        format!("the partitions of epoch {epoch} are not in partition order")
    })?;
    for partition in &binding.partitions {
        if let Some(before) = state.bound_partitions.get(&partition.partition) {
            ensure(partition.end >= before.end && partition.lines >= before.lines, || {
                format!(
                    "partition {} ({}) goes back from offset {} to {}",
                    partition.partition, partition.name, before.end, partition.end
                )
            })?;
        }
    }
    Ok(())
}

fn check_commit(state: &LogState, commit: &Commit) -> Result<(), String> {
    let epoch = commit.epoch;
    let next = match state.committed {
        Some(committed) => Some(committed + 1),
        None => state.bindings.keys().next().copied(),
    };
    ensure(Some(epoch) <= state.bound, || format!("epoch {epoch} is committed and not bound"))?;
    if state.committed == Some(epoch) {
        ensure(
            commit.watermark == state.watermark && commit.counts == state.counts && commit.drained == state.drained,
            || format!("a second commit of epoch {epoch} only exchanges files; its watermark or counters differ"),
        )?;
    } else {
        ensure(Some(epoch) == next, || {
            format!("epoch {epoch} is committed and epoch {} is the next", next.unwrap_or_default())
        })?;
        ensure(commit.watermark >= state.watermark, || format!("the watermark at commit {epoch} goes back"))?;
        for (name, count) in &state.counts {
            ensure(commit.counts.get(name) >= Some(count), || {
                format!("the counter {name} goes back at commit {epoch}")
            })?;
        }
    }
    let mut added = BTreeSet::new();
    let mut removed = BTreeSet::new();
    for change in &commit.tables {
        let files = state.tables.get(&change.table);
        for path in &change.removed {
            ensure(files.is_some_and(|files| files.contains_key(path)) && removed.insert(path), || {
                format!("commit {epoch} removes {path}, which table {} does not hold", change.table)
            })?;
        }
        for file in &change.added {
            let path = &file.path;
            let known =
                state.removed.contains_key(path) || state.tables.values().any(|visible| visible.contains_key(path));
            ensure(!known && added.insert(path), || format!("commit {epoch} adds {path}, which was added before"))?;
        }
    }
    Ok(())
}

fn check_checkpoint(state: &LogState, checkpoint: &CheckpointEntry) -> Result<(), String> {
    let epoch = checkpoint.epoch;
    ensure(Some(epoch) <= state.committed, || format!("epoch {epoch} is checkpointed and not committed"))?;
    ensure(state.bindings.contains_key(&epoch), || format!("epoch {epoch} is checkpointed too late"))?;
    ensure(state.checkpoints.iter().all(|kept| kept.epoch < epoch), || {
        format!("checkpoint {epoch} does not follow the checkpoints before it")
    })
}

fn check_gc(state: &LogState, paths: &[String]) -> Result<(), String> {
    for path in paths {
        ensure(state.tables.values().all(|files| !files.contains_key(path)), || {
            format!("{path} would be deleted, and readers see it")
        })?;
        ensure(state.checkpoints.iter().all(|kept| kept.manifest != *path), || {
            format!("{path} would be deleted, and recovery needs it")
        })?;
    }
    Ok(())
}

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::seal;

    fn binding(epoch: u64) -> Binding {
        Binding { epoch, watermark: None, partitions: Vec::new(), last: false, checkpoint: false }
    }

    #[test]
    fn a_stored_state_that_contradicts_itself_is_told() {
        let mut state = LogState::default();
        state.apply(1, Entry::Seal(seal(1))).unwrap();
        state.apply(2, Entry::Bind(binding(7))).unwrap();
        state.apply(3, Entry::Commit(Commit { epoch: 7, ..Commit::default() })).unwrap();
        assert_eq!(check_stored(&state), Ok(()));
        let unbound = LogState { bindings: [].into(), ..state.clone() };
        let elsewhere = LogState { bindings: [(7, binding(8))].into(), ..state.clone() };
        let ahead = LogState { committed: Some(8), ..state.clone() };
        let endless = LogState { number: u64::MAX, ..state };
        for contradiction in [unbound, elsewhere, ahead, endless] {
            assert!(check_stored(&contradiction).is_err(), "{contradiction:?}");
        }
    }

    #[test]
    fn no_number_is_used_after_which_there_is_none() {
        let mut state = LogState::default();
        state.apply(1, Entry::Seal(seal(1))).unwrap();
        assert!(state.apply(2, Entry::Bind(binding(u64::MAX))).is_err());
        let last = LogState { number: u64::MAX, ..state };
        assert!(
            last.check(0, &Entry::Bind(binding(1))).is_err() && last.check(u64::MAX, &Entry::Bind(binding(1))).is_err()
        );
    }
}
