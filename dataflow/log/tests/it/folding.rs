//! The fold: a snapshot at any point and the rest make the whole, and impossible entries change nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemill_log::{CheckpointEntry, Commit, DataFile, Entry, LogState, PartitionBinding, TableChange};

use crate::pipeline::{bind, commit, seal};

/// A correct history whose turns are chosen by the bytes.
fn history(choices: &[u8]) -> Vec<Entry> {
    let mut state = LogState::default();
    let mut entries = Vec::new();
    let mut files = 0;
    for (at, &choice) in choices.iter().enumerate() {
        let entry = if at == 0 { Entry::Seal(seal(1, None)) } else { next(&state, choice, &mut files) };
        state.apply(at as u64 + 1, entry.clone()).unwrap();
        entries.push(entry);
    }
    entries
}

fn next(state: &LogState, choice: u8, files: &mut u32) -> Entry {
    let mut fresh = || {
        *files += 1;
        DataFile { path: format!("file {files}"), rows: u64::from(choice), bytes: 9 }
    };
    let uncommitted = state.committed() < state.bound();
    let visible: Vec<String> = state.tables().values().flatten().map(|(path, _)| path.clone()).collect();
    match choice % 8 {
        0..=2 if uncommitted => {
            let epoch = state.committed().map_or(1, |committed| committed + 1);
            Entry::Commit(commit(
                epoch,
                vec![TableChange { table: "views".into(), added: vec![fresh()], removed: vec![] }],
            ))
        }
        3 if state.committed() > state.checkpoints().last().map(|checkpoint| checkpoint.epoch) => {
            let epoch = state.committed().unwrap();
            Entry::Checkpoint(CheckpointEntry { epoch, manifest: format!("manifest {epoch}"), checksum: "sum".into() })
        }
        4 if visible.len() > 2 => {
            let change = TableChange { table: "views".into(), added: vec![fresh()], removed: visible[..2].to_vec() };
            Entry::Commit(commit(state.committed().unwrap(), vec![change]))
        }
        5 if !state.removed().is_empty() => Entry::Gc { paths: state.removed().keys().take(2).cloned().collect() },
        6 if choice > 200 => {
            // Restores either of the checkpoints it may.
            let at = usize::from(choice) % 2;
            let restored = state.checkpoints().get(at).or(state.checkpoints().last());
            Entry::Seal(seal(state.run().unwrap() + 1, restored.map(|checkpoint| checkpoint.epoch)))
        }
        _ => {
            let mut binding = bind(state.bound().map_or(1, |bound| bound + 1));
            let second = PartitionBinding { partition: 1 + u32::from(choice % 3), ..binding.partitions[0].clone() };
            binding.partitions.push(second);
            Entry::Bind(binding)
        }
    }
}

fn fold(state: &mut LogState, entries: &[Entry]) {
    for entry in entries {
        state.apply(state.number() + 1, entry.clone()).unwrap();
    }
}

proptest! {
    #[test]
    fn a_snapshot_and_the_rest_make_the_whole(choices in prop::collection::vec(any::<u8>(), 1..120), cut in any::<prop::sample::Index>()) {
        let entries = history(&choices);
        let mut whole = LogState::default();
        fold(&mut whole, &entries);
        let (head, rest) = entries.split_at(cut.index(entries.len() + 1));
        let mut state = LogState::default();
        fold(&mut state, head);
        let stored = serde_json::to_vec(&state).unwrap();
        let mut restored: LogState = serde_json::from_slice(&stored).unwrap();
        fold(&mut restored, rest);
        prop_assert_eq!(restored, whole);
    }

    #[test]
    fn what_recovery_needs_is_retained(choices in prop::collection::vec(any::<u8>(), 1..120)) {
        let mut state = LogState::default();
        let mut partitions_at = BTreeMap::new();
        for (at, entry) in history(&choices).into_iter().enumerate() {
            state.apply(at as u64 + 1, entry).unwrap();
            if let Some(bound) = state.bound() {
                partitions_at.insert(bound, state.bound_partitions().clone());
            }
            for checkpoint in state.checkpoints() {
                let replayed: Vec<u64> = state.bindings_after(Some(checkpoint.epoch)).map(|binding| binding.epoch).collect();
                let expected: Vec<u64> = (checkpoint.epoch + 1..=state.bound().unwrap()).collect();
                prop_assert_eq!(replayed, expected);
                prop_assert_eq!(state.partitions_as_of(checkpoint.epoch), partitions_at.get(&checkpoint.epoch).cloned());
            }
            if let Some(committed) = state.committed() {
                prop_assert_eq!(&state.committed_partitions(), &partitions_at[&committed]);
            }
        }
    }

    #[test]
    fn an_entry_out_of_turn_changes_nothing(choices in prop::collection::vec(any::<u8>(), 1..60), other in prop::collection::vec(any::<u8>(), 1..60)) {
        let mut state = LogState::default();
        fold(&mut state, &history(&choices));
        for entry in history(&other) {
            let mut tried = state.clone();
            if tried.apply(state.number() + 1, entry).is_err() {
                prop_assert_eq!(&tried, &state);
            }
        }
    }
}

/// The reason for which the state refuses the entry.
fn refusal(state: &LogState, entry: &Entry) -> String {
    state.check(state.number() + 1, entry).unwrap_err().to_string()
}

#[test]
fn impossible_sequences_are_refused_with_a_sentence() {
    let mut state = LogState::default();
    assert!(refusal(&state, &Entry::Bind(bind(1))).contains("the log begins with a seal"));
    fold(&mut state, &[Entry::Seal(seal(3, None)), Entry::Bind(bind(1))]);
    assert!(state.check(9, &Entry::Bind(bind(2))).unwrap_err().to_string().contains("entry 3 is the next"));
    assert!(refusal(&state, &Entry::Seal(seal(3, None))).contains("run 3 seals after run 3"));
    assert!(refusal(&state, &Entry::Seal(seal(4, Some(1)))).contains("not one of the last two"));
    assert!(refusal(&state, &Entry::Bind(bind(3))).contains("epochs are dense"));
    assert!(refusal(&state, &Entry::Commit(commit(2, vec![]))).contains("is committed and not bound"));
    let checkpoint =
        |epoch| Entry::Checkpoint(CheckpointEntry { epoch, manifest: format!("m{epoch}"), checksum: String::new() });
    assert!(refusal(&state, &checkpoint(1)).contains("is checkpointed and not committed"));
    let mut back = bind(2);
    back.partitions[0].end = 50;
    assert!(refusal(&state, &Entry::Bind(back)).contains("goes back from offset 100 to 50"));

    let file = DataFile { path: "a".into(), rows: 1, bytes: 1 };
    let add = TableChange { table: "t".into(), added: vec![file.clone()], removed: vec![] };
    fold(&mut state, &[Entry::Commit(commit(1, vec![add.clone()])), checkpoint(1)]);
    assert!(refusal(&state, &Entry::Commit(commit(1, vec![add]))).contains("which was added before"));
    let remove = TableChange { table: "t".into(), added: vec![], removed: vec!["b".into()] };
    assert!(refusal(&state, &Entry::Commit(commit(1, vec![remove]))).contains("which table t does not hold"));
    let counted = commit(1, vec![]);
    let counted = Commit { counts: BTreeMap::new(), ..counted };
    assert!(refusal(&state, &Entry::Commit(counted)).contains("only exchanges files"));
    assert!(refusal(&state, &Entry::Gc { paths: vec!["a".into()] }).contains("readers see it"));
    assert!(refusal(&state, &Entry::Gc { paths: vec!["m1".into()] }).contains("recovery needs it"));

    let mut last = bind(2);
    last.last = true;
    fold(&mut state, &[Entry::Bind(last)]);
    assert!(state.ended());
    assert!(refusal(&state, &Entry::Bind(bind(3))).contains("the end of the input"));
    fold(&mut state, &[Entry::Seal(seal(4, Some(1))), Entry::Bind(bind(3))]);
    assert!(!state.ended(), "a later run found more of it");
}

#[test]
fn a_log_whose_end_of_time_was_declared_is_complete_through_the_end_of_its_data() {
    for (last_event, expected) in [(Some(61_000), 120_000), (None, 60_000)] {
        let mut state = LogState::default();
        fold(&mut state, &[Entry::Seal(seal(1, None)), Entry::Bind(bind(1)), Entry::Commit(commit(1, vec![]))]);
        assert_eq!((state.complete_through(), state.closed()), (Some(1_000), false));
        let end = tidemill_log::Binding { watermark: Some(i64::MAX), ..bind(2) };
        let drained = |last| Commit { watermark: Some(i64::MAX), drained: true, last_event: last, ..commit(2, vec![]) };
        // Files that are exchanged later change nothing; without a last event it is how far the partition had come.
        fold(&mut state, &[Entry::Bind(end), Entry::Commit(drained(last_event)), Entry::Commit(drained(None))]);
        assert_eq!((state.watermark(), state.closed()), (Some(i64::MAX), true));
        assert_eq!(state.complete_through(), Some(expected));
        let again: LogState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        assert_eq!(again, state);
    }
}

#[test]
fn the_tables_of_a_pipeline_are_those_that_its_seal_says_and_those_with_rows() {
    let mut state = LogState::default();
    assert_eq!(state.known_tables(), None);
    fold(&mut state, &[Entry::Seal(seal(1, None)), Entry::Bind(bind(1))]);
    assert_eq!(state.known_tables(), None, "an older run did not say");
    let file = DataFile { path: "a".into(), rows: 1, bytes: 1 };
    let add = TableChange { table: "gone".into(), added: vec![file], removed: vec![] };
    let says = tidemill_log::Seal { tables: Some(["empty".to_owned()].into()), ..seal(2, None) };
    fold(&mut state, &[Entry::Commit(commit(1, vec![add])), Entry::Seal(says)]);
    assert_eq!(state.known_tables(), Some(["empty".to_owned(), "gone".to_owned()].into()));
}

#[test]
fn a_seal_that_restores_the_older_checkpoint_forgets_the_newer() {
    let mut state = LogState::default();
    fold(&mut state, &[Entry::Seal(seal(1, None))]);
    for epoch in 1..=3 {
        let checkpoint = CheckpointEntry { epoch, manifest: format!("run 1, {epoch}"), checksum: String::new() };
        fold(
            &mut state,
            &[Entry::Bind(bind(epoch)), Entry::Commit(commit(epoch, vec![])), Entry::Checkpoint(checkpoint)],
        );
    }
    assert!(refusal(&state, &Entry::Seal(seal(2, None))).contains("can no longer be replayed"));
    fold(&mut state, &[Entry::Seal(seal(2, Some(2)))]);
    assert_eq!(state.checkpoints().len(), 1);
    assert_eq!(state.bindings_after(Some(2)).map(|binding| binding.epoch).collect::<Vec<_>>(), [3]);
    let again = CheckpointEntry { epoch: 3, manifest: "run 2, 3".into(), checksum: String::new() };
    fold(&mut state, &[Entry::Checkpoint(again)]);
    assert_eq!(state.checkpoints().iter().map(|kept| kept.epoch).collect::<Vec<_>>(), [2, 3]);
}
