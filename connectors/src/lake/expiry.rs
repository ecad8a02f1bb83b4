//! Which rolled files are older than the lake keeps: a pure decision from what the log says.
//!
//! Rows leave by the day on which they were committed, as the log has it: a backfill of last year lives as long as today's rows.

use tidemill_log::LogState;
use tidemill_tables::{Retention, TableSpec};

use super::names::rolled_epochs;

/// Files in one entry of the log at most.
const MOST_FILES: usize = 1_000;

/// The rolled files of a table that were committed more days before the last commit than the table is kept; at most 1,000,
/// asked again for more.
#[must_use]
pub fn expired(spec: &TableSpec, log: &LogState, retention: Retention) -> Vec<String> {
    let (Some(days), Some(today)) = (retention.days(spec.fold), log.last_day()) else { return Vec::new() };
    let first_kept = log.first_epoch_since(today.saturating_sub(i64::from(days)));
    let (Some(first_kept), Some(files)) = (first_kept, log.tables().get(&spec.name)) else { return Vec::new() };
    let old = files.iter().filter(|(path, file)| file.epoch < first_kept && rolled_epochs(path).is_some());
    old.take(MOST_FILES).map(|(path, _)| path.clone()).collect()
}

#[cfg(test)]
mod tests {
    use tidemill_log::testing::seal;
    use tidemill_log::{Binding, Commit, DataFile, Entry, TableChange};
    use tidemill_tables::{Fold, web_analytics};

    use super::*;
    use crate::lake::names::{recent, rolled};

    /// A log of one epoch a day, each of which rolls an hour of long ago; dated from the epoch `from` on.
    fn log(spec: &TableSpec, days: u64, from: u64) -> LogState {
        let mut log = LogState::default();
        let mut entries = vec![Entry::Seal(seal(1))];
        for epoch in 1..=days {
            let (watermark, partitions) = (Some(5), Vec::new());
            entries.push(Entry::Bind(Binding { epoch, watermark, partitions, last: false, checkpoint: false }));
            let file = |path| DataFile { path, rows: 1, bytes: 1 };
            let added = vec![file(rolled(&spec.name, 10, epoch, epoch)), file(recent(&spec.name, epoch, 0, 0))];
            let tables = vec![TableChange { table: spec.name.clone(), added, removed: Vec::new() }];
            let day = (epoch >= from).then(|| 20_000 + i64::try_from(epoch).unwrap());
            entries.push(Entry::Commit(Commit { epoch, watermark, tables, day, ..Commit::default() }));
        }
        (1..).zip(entries).for_each(|(number, entry)| log.apply(number, entry).unwrap());
        log
    }

    #[test]
    fn what_was_committed_before_the_days_that_are_kept_expires_however_old_its_events_are() {
        let all = web_analytics::all();
        let spec = all.iter().find(|spec| spec.fold == Fold::Append).unwrap();
        let keeps = |days| Retention { raw_days: days, rollup_days: days };
        let expired_of = |log: &LogState, days| expired(spec, log, keeps(days));
        let files = |epochs: std::ops::RangeInclusive<u64>| -> Vec<String> {
            epochs.map(|epoch| rolled(&spec.name, 10, epoch, epoch)).collect()
        };
        let week = log(spec, 7, 1);
        assert_eq!(expired_of(&week, 2), files(1..=4));
        assert!(expired_of(&week, 6).is_empty());
        assert!(expired_of(&week, u32::MAX).is_empty());
        assert!(expired(spec, &week, Retention::FOREVER).is_empty());
        assert!(expired_of(&LogState::default(), 2).is_empty());
        assert_eq!(expired_of(&log(spec, 1_500, 1), 1).len(), MOST_FILES);
    }

    #[test]
    fn a_log_of_an_older_build_expires_nothing_before_it_has_been_dated_for_long_enough() {
        let all = web_analytics::all();
        let spec = all.iter().find(|spec| spec.fold == Fold::Append).unwrap();
        let keeps = Retention { raw_days: 2, rollup_days: 2 };
        for dated in 7..=9 {
            assert!(
                expired(spec, &log(spec, dated, 7), keeps).is_empty(),
                "its first date is of day 7, and today is {dated}"
            );
        }
        assert_eq!(expired(spec, &log(spec, 10, 7), keeps).len(), 7);
        assert!(expired(spec, &log(spec, 10, 99), keeps).is_empty(), "nothing is dated");
    }

    #[test]
    fn rows_that_a_later_one_may_take_back_never_expire() {
        let all = web_analytics::all();
        let spec = all.iter().find(|spec| spec.fold == Fold::Signed).unwrap();
        let keeps = Retention { raw_days: 1, rollup_days: 1 };
        assert!(expired(spec, &log(spec, 9, 1), keeps).is_empty());
    }
}
