//! The one owner of the names of lake files. Numbers are padded, so that names sort as epochs do.

use std::ops::RangeInclusive;

use tidemill_tables::calendar::hour_folder;

/// The name of one chunk of an epoch's rows in a shard.
pub(super) fn recent(table: &str, epoch: u64, shard: u32, chunk: usize) -> String {
    format!("tables/{table}/_recent/{epoch:012}-{shard:03}-{chunk:03}.parquet")
}

/// The name of the rows that a range of epochs added to an hour of event time.
pub(super) fn rolled(table: &str, hour: i64, first_epoch: u64, last_epoch: u64) -> String {
    format!("tables/{table}/{}/{first_epoch:012}-{last_epoch:012}.parquet", hour_folder(hour))
}

/// The epoch of a recent file; none for the name of any other file.
#[must_use]
pub fn recent_epoch(path: &str) -> Option<u64> {
    let (folder, file) = path.rsplit_once('/')?;
    if !folder.ends_with("/_recent") {
        return None;
    }
    file.strip_suffix(".parquet")?.split('-').next()?.parse().ok()
}

/// The epochs that a rolled file holds rows of; none for the name of any other file.
#[must_use]
pub fn rolled_epochs(path: &str) -> Option<RangeInclusive<u64>> {
    let (folder, file) = path.rsplit_once('/')?;
    rolled_hour_folder(folder)?;
    let (first, last) = file.strip_suffix(".parquet")?.split_once('-')?;
    Some(first.parse().ok()?..=last.parse().ok()?)
}

/// The last two folders of a path, if they are those of an hour: `dt=2015-05-17/hour=10`.
pub(crate) fn rolled_hour_folder(folder: &str) -> Option<&str> {
    let (above, hour) = folder.rsplit_once('/')?;
    let day = above.rsplit_once('/').map_or(above, |(_, day)| day);
    (day.starts_with("dt=") && hour.starts_with("hour=")).then(|| &folder[folder.len() - day.len() - 1 - hour.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_names_sort_by_epoch_and_tell_it() {
        let name = recent("sessions", 9, 1, 0);
        assert_eq!(name, "tables/sessions/_recent/000000000009-001-000.parquet");
        assert!(name < recent("sessions", 10, 0, 0));
        assert_eq!(recent_epoch(&name), Some(9));
        assert_eq!(recent_epoch("tables/sessions/dt=2015-05-17/hour=10/000000000000-000000000059.parquet"), None);
        assert_eq!(recent_epoch("tables/sessions/_recent/notes.txt"), None);
    }

    #[test]
    fn rolled_names_tell_their_epochs_and_their_hour() {
        let name = rolled("sessions", 397_738, 60, 119);
        assert_eq!(name, "tables/sessions/dt=2015-05-17/hour=10/000000000060-000000000119.parquet");
        assert_eq!(rolled_epochs(&name), Some(60..=119));
        assert_eq!(rolled_hour_folder("tables/sessions/dt=2015-05-17/hour=10"), Some("dt=2015-05-17/hour=10"));
        assert_eq!(rolled_epochs(&recent("sessions", 9, 1, 0)), None);
        assert_eq!(rolled_epochs("tables/sessions/dt=2015-05-17/hour=10/part-0.parquet"), None);
    }
}
