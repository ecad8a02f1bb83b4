//! Files that runs left behind which were killed or fenced in the middle: which of them nobody will ever name.
//!
//! Most leftovers need no cleaning. The epoch that was in flight when a run was killed is written again under the same
//! names, a roll that was not committed is made up for under the same names, and files that a commit removed stay in
//! the log until they are deleted. What remains comes from a run that slept, and wrote once more what later runs had
//! committed, rolled and deleted.
//!
//! Promise: only names that no run writes or reads any more are found, so that deleting them, announced in the log like
//! any other deletion, cannot meet a file in use: an epoch at or below the last commit is never written again, nor is
//! the roll of a range without recent files.

use std::collections::BTreeSet;

use tidemill_log::{LogState, Store};

use super::error::LakeError;
use super::names::{recent_epoch, rolled_epochs};

/// The folder of all tables.
const TABLES: &str = "tables";

/// The names of lake files that are no part of any table and never will be, as of the state `log` of the log.
///
/// # Errors
/// The store failed.
pub fn leftovers(store: &dyn Store, log: &LogState) -> Result<Vec<String>, LakeError> {
    let Some(committed) = log.committed() else { return Ok(Vec::new()) };
    let deleting: BTreeSet<&String> = log.deleting().iter().collect();
    let mut found = Vec::new();
    for path in store.list(TABLES)? {
        let known = log.removed().contains_key(&path) || deleting.contains(&path);
        let table = path.split('/').nth(1).unwrap_or_default();
        let visible = log.tables().get(table);
        if known || visible.is_some_and(|files| files.contains_key(&path)) {
            continue;
        }
        let past = match (recent_epoch(&path), rolled_epochs(&path)) {
            (Some(epoch), _) => epoch <= committed,
            (None, Some(range)) => {
                let mut recent =
                    visible.into_iter().flat_map(|files| files.keys()).filter_map(|named| recent_epoch(named));
                *range.end() <= committed && !recent.any(|epoch| range.contains(&epoch))
            }
            (None, None) => false,
        };
        if past {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use tidemill_log::testing::{MemoryStore, seal};
    use tidemill_log::{Binding, Commit, DataFile, Entry, TableChange};

    use super::*;
    use crate::lake::names;

    /// A log of epochs 1 to 130, whose first two ranges of sixty are rolled.
    fn log() -> LogState {
        let mut state = LogState::default();
        let mut entries = vec![Entry::Seal(seal(1))];
        let file = |path: String| DataFile { path, rows: 1, bytes: 1 };
        for epoch in 1..=130 {
            entries.push(Entry::Bind(Binding {
                epoch,
                watermark: None,
                partitions: Vec::new(),
                last: false,
                checkpoint: false,
            }));
            let added = vec![file(names::recent("t", epoch, 0, 0))];
            let tables = vec![TableChange { table: "t".into(), added, removed: Vec::new() }];
            entries.push(Entry::Commit(Commit { epoch, tables, ..Commit::default() }));
        }
        for (first, last) in [(0, 59), (60, 119)] {
            let added = vec![file(names::rolled("t", 10, first, last))];
            let removed: Vec<_> = (first.max(1)..=last).map(|epoch| names::recent("t", epoch, 0, 0)).collect();
            let tables = vec![TableChange { table: "t".into(), added, removed }];
            entries.push(Entry::Commit(Commit { epoch: 130, tables, ..Commit::default() }));
        }
        // The removed files of the first range are deleted.
        entries.push(Entry::Gc { paths: (1..=59).map(|epoch| names::recent("t", epoch, 0, 0)).collect() });
        for (number, entry) in (1..).zip(entries) {
            state.apply(number, entry).unwrap();
        }
        // Whatever follows a gc says that it was finished.
        let number = state.number() + 1;
        let binding = Binding { epoch: 131, watermark: None, partitions: Vec::new(), last: false, checkpoint: false };
        state.apply(number, Entry::Bind(binding)).unwrap();
        state
    }

    #[test]
    fn only_files_that_nobody_will_ever_name_are_left_over() {
        let late_again = names::recent("t", 7, 0, 0);
        let other_chunk = names::recent("t", 125, 0, 1);
        let other_hour = names::rolled("t", 9, 60, 119);
        let store = MemoryStore::default();
        let kept = [
            names::rolled("t", 10, 0, 59),
            names::rolled("t", 10, 60, 119),
            names::recent("t", 70, 0, 0),
            names::recent("t", 125, 0, 0),
            names::recent("t", 131, 0, 0),
            names::rolled("t", 10, 120, 179),
            "tables/t/notes.txt".to_owned(),
            "dead_letters/000000000001-000.ndjson".to_owned(),
        ];
        for path in kept.iter().chain([&late_again, &other_chunk, &other_hour]) {
            store.put(path, b"").unwrap();
        }
        let mut expected = vec![late_again, other_chunk, other_hour];
        expected.sort();
        assert_eq!(leftovers(&store, &log()).unwrap(), expected);
        assert!(leftovers(&store, &LogState::default()).unwrap().is_empty(), "before the first commit nothing is");
    }
}
