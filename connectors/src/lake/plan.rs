//! Which recent files may be rolled: a pure decision from what is visible.

use std::collections::BTreeMap;

use tidemill_log::DataFile;

use super::names::recent_epoch;

/// A range of epochs to roll, and the files that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roll {
    /// The first epoch of the range, a multiple of its length.
    pub first_epoch: u64,
    /// The last epoch of the range.
    pub last_epoch: u64,
    /// The recent files of the range, by name.
    pub files: Vec<DataFile>,
}

/// The ranges of `epochs` epochs, aligned to that number, that are committed as a whole and have recent files among
/// the `visible` ones of a table; the oldest first.
///
/// A range that has been rolled has no recent files left, so it does not come back.
///
/// # Panics
/// If `epochs` is 0.
#[must_use]
pub fn plan_rolls(visible: &[DataFile], committed: u64, epochs: u64) -> Vec<Roll> {
    assert!(epochs > 0, "a range of epochs to roll holds at least one");
    let mut ranges: BTreeMap<u64, Vec<DataFile>> = BTreeMap::new();
    for file in visible {
        if let Some(epoch) = recent_epoch(&file.path) {
            ranges.entry(epoch / epochs).or_default().push(file.clone());
        }
    }
    let rolls = ranges.into_iter().map(|(range, mut files)| {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Roll { first_epoch: range * epochs, last_epoch: range * epochs + (epochs - 1), files }
    });
    rolls.take_while(|roll| roll.last_epoch <= committed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::names;

    fn file(epoch: u64, shard: u32) -> DataFile {
        DataFile { path: names::recent("t", epoch, shard, 0), rows: 1, bytes: 1 }
    }

    fn ranges(visible: &[DataFile], committed: u64) -> Vec<(u64, u64, usize)> {
        let rolls = plan_rolls(visible, committed, 60);
        rolls.iter().map(|roll| (roll.first_epoch, roll.last_epoch, roll.files.len())).collect()
    }

    #[test]
    fn only_ranges_that_are_committed_as_a_whole_are_rolled() {
        let visible = [file(120, 0), file(59, 1), file(59, 0), file(61, 0), file(0, 0)];
        assert_eq!(ranges(&visible, 58), []);
        assert_eq!(ranges(&visible, 59), [(0, 59, 3)]);
        assert_eq!(ranges(&visible, 178), [(0, 59, 3), (60, 119, 1)]);
        assert_eq!(ranges(&visible, 179), [(0, 59, 3), (60, 119, 1), (120, 179, 1)]);
    }

    #[test]
    fn rolled_files_are_not_rolled_again() {
        let rolled = DataFile { path: names::rolled("t", 5, 0, 59), rows: 1, bytes: 1 };
        assert_eq!(ranges(&[rolled, file(60, 0)], 1000), [(60, 119, 1)]);
    }

    #[test]
    fn files_come_in_the_order_of_their_epochs() {
        let rolls = plan_rolls(&[file(10, 0), file(9, 1), file(9, 0)], 59, 60);
        assert_eq!(rolls[0].files, [file(9, 0), file(9, 1), file(10, 0)]);
    }
}
