//! Which recent files may be rolled: a pure decision from what is visible.

use std::collections::BTreeMap;

use tidemill_log::DataFile;

use super::names::recent_epoch;

/// A range of epochs to roll, and the files that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roll {
    /// The first epoch of the range: the one after a cut, or a multiple of the usual length.
    pub first_epoch: u64,
    /// The last epoch of the range.
    pub last_epoch: u64,
    /// The recent files of the range, by name.
    pub files: Vec<DataFile>,
}

/// The ranges that are committed as a whole and have recent files among the `visible` ones of a table; the oldest first. They
/// end at the `cuts` that the log records, in order. Up to the first of them, and where there is none, they are aligned to
/// `epochs`: logs that are older than cuts have no others.
///
/// A range that has been rolled has no recent files left, so it does not come back.
///
/// # Panics
/// If `epochs` is 0.
#[must_use]
pub fn plan_rolls(visible: &[DataFile], committed: u64, epochs: u64, cuts: &[u64]) -> Vec<Roll> {
    assert!(epochs > 0, "a range of epochs to roll holds at least one");
    let mut ranges: BTreeMap<(u64, u64), Vec<DataFile>> = BTreeMap::new();
    for file in visible {
        if let Some(range) = recent_epoch(&file.path).and_then(|epoch| range_of(epoch, epochs, cuts)) {
            ranges.entry(range).or_default().push(file.clone());
        }
    }
    let rolls = ranges.into_iter().map(|((first_epoch, last_epoch), mut files)| {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Roll { first_epoch, last_epoch, files }
    });
    rolls.take_while(|roll| roll.last_epoch <= committed).collect()
}

/// The first and the last epoch of the range that holds an epoch; none behind the last cut.
fn range_of(epoch: u64, epochs: u64, cuts: &[u64]) -> Option<(u64, u64)> {
    let (first, last) = (epoch / epochs * epochs, epoch / epochs * epochs + (epochs - 1));
    let at = cuts.partition_point(|cut| *cut < epoch);
    match (at.checked_sub(1).map(|before| cuts[before]), cuts.get(at)) {
        (None, None) => Some((first, last)),
        (None, Some(cut)) => Some((first, last.min(*cut))),
        (Some(before), Some(cut)) => Some((before + 1, *cut)),
        (Some(_), None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lake::names;

    fn file(epoch: u64, shard: u32) -> DataFile {
        DataFile { path: names::recent("t", epoch, shard, 0), rows: 1, bytes: 1 }
    }

    fn ranges(visible: &[DataFile], committed: u64) -> Vec<(u64, u64, usize)> {
        let rolls = plan_rolls(visible, committed, 60, &[]);
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
    fn ranges_end_at_recorded_cuts_and_what_is_behind_the_last_waits_for_one() {
        let visible: Vec<DataFile> = [3, 59, 60, 70, 71, 90, 91].map(|epoch| file(epoch, 0)).into();
        let rolls = plan_rolls(&visible, 200, 60, &[70, 90]);
        let ranges: Vec<_> = rolls.iter().map(|roll| (roll.first_epoch, roll.last_epoch, roll.files.len())).collect();
        assert_eq!(ranges, [(0, 59, 2), (60, 70, 2), (71, 90, 2)]);
    }

    #[test]
    fn rolled_files_are_not_rolled_again() {
        let rolled = DataFile { path: names::rolled("t", 5, 0, 59), rows: 1, bytes: 1 };
        assert_eq!(ranges(&[rolled, file(60, 0)], 1000), [(60, 119, 1)]);
    }

    #[test]
    fn files_come_in_the_order_of_their_epochs() {
        let rolls = plan_rolls(&[file(10, 0), file(9, 1), file(9, 0)], 59, 60, &[]);
        assert_eq!(rolls[0].files, [file(9, 0), file(9, 1), file(10, 0)]);
    }
}
