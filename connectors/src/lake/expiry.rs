//! Which rolled files are older than the lake keeps: a pure decision from what is visible.
//!
//! Rows leave by the time they arrived, told by the watermark that the log had then: a backfill of last year lives as long as
//! today's rows, and no clock decides.

use tidemill_log::LogState;
use tidemill_tables::{Retention, TableSpec};

use super::names::rolled_epochs;

const DAY_MS: i64 = 86_400_000;

/// Files in one entry of the log at most.
const MOST_FILES: usize = 1_000;

/// The rolled files of a table that were committed more days before the watermark than the table is kept; at most 1,000,
/// asked again for more. Nothing once the end of time is declared.
#[must_use]
pub fn expired(spec: &TableSpec, log: &LogState, retention: Retention) -> Vec<String> {
    let (Some(days), Some(watermark), false) = (retention.days(spec.fold), log.watermark(), log.drained()) else {
        return Vec::new();
    };
    let oldest = watermark.div_euclid(DAY_MS).saturating_sub(i64::from(days));
    let (Some(first_kept), Some(files)) = (log.first_epoch_since(oldest), log.tables().get(&spec.name)) else {
        return Vec::new();
    };
    let old = files.iter().filter(|(path, file)| file.epoch < first_kept && rolled_epochs(path).is_some());
    old.take(MOST_FILES).map(|(path, _)| path.clone()).collect()
}

#[cfg(test)]
mod tests {
    use tidemill_log::testing::seal;
    use tidemill_log::{Binding, Commit, DataFile, Entry, TableChange};
    use tidemill_tables::web_analytics;

    use super::*;
    use crate::lake::names::{recent, rolled};

    /// A log of one epoch a day, each of which rolls an hour of long ago.
    fn log(spec: &TableSpec, days: u64, drained: bool) -> LogState {
        let mut log = LogState::default();
        let mut entries = vec![Entry::Seal(seal(1))];
        for epoch in 1..=days {
            let last = drained && epoch == days;
            let watermark = if last { i64::MAX } else { (20_000 + i64::try_from(epoch).unwrap()) * DAY_MS + 5 };
            let (watermark, partitions) = (Some(watermark), Vec::new());
            entries.push(Entry::Bind(Binding { epoch, watermark, partitions, last, checkpoint: false }));
            let file = |path| DataFile { path, rows: 1, bytes: 1 };
            let added = vec![file(rolled(&spec.name, 10, epoch, epoch)), file(recent(&spec.name, epoch, 0, 0))];
            let tables = vec![TableChange { table: spec.name.clone(), added, removed: Vec::new() }];
            entries.push(Entry::Commit(Commit { epoch, watermark, tables, drained: last, ..Commit::default() }));
        }
        (1..).zip(entries).for_each(|(number, entry)| log.apply(number, entry).unwrap());
        log
    }

    #[test]
    fn what_arrived_before_the_days_that_are_kept_expires_however_old_its_events_are() {
        let all = web_analytics::all();
        let spec = &all[0];
        let keeps = |days| Retention { raw_days: days, rollup_days: days };
        let expired_of = |log: &LogState, days| expired(spec, log, keeps(days));
        let files = |epochs: std::ops::RangeInclusive<u64>| -> Vec<String> {
            epochs.map(|epoch| rolled(&spec.name, 10, epoch, epoch)).collect()
        };
        let week = log(spec, 7, false);
        assert_eq!(expired_of(&week, 2), files(1..=4));
        assert!(expired_of(&week, 6).is_empty());
        assert!(expired_of(&week, u32::MAX).is_empty());
        assert!(expired(spec, &week, Retention::FOREVER).is_empty());
        assert!(expired_of(&log(spec, 7, true), 2).is_empty(), "the end of time is no age");
        assert!(expired_of(&LogState::default(), 2).is_empty());
        assert_eq!(expired_of(&log(spec, 1_500, false), 1).len(), MOST_FILES);
    }
}
