//! Which files make which partition: a pure function of what is visible and of the span that is asked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::source::{PartitionBinding, SourceError};
use tidemill_dataflow::time::EventTime;
use tidemill_log::VisibleFile;
use tidemill_tables::calendar::{HOUR_MS, hour_folder};
use xxhash_rust::xxh3::Xxh3;

use crate::lake::rolled_hour_folder;

/// The partition of the files that are not rolled.
const RECENT: &str = "_recent";

/// A span of event time, in milliseconds since 1970; the end is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Span {
    since: Option<i64>,
    until: Option<i64>,
}

impl Span {
    pub(super) fn new(since: Option<EventTime>, until: Option<EventTime>) -> Result<Span, SourceError> {
        let span = Span { since: since.map(|time| time.0), until: until.map(|time| time.0) };
        match (span.since, span.until) {
            (Some(from), Some(to)) if from >= to => Err(SourceError::Usage(format!(
                "no time is at or after {from} and before {to}; give --since before --until"
            ))),
            _ => Ok(span),
        }
    }

    pub(super) fn contains(self, time: i64) -> bool {
        self.overlaps(time, time)
    }

    /// Whether any time of `first..=last` is in the span.
    pub(super) fn overlaps(self, first: i64, last: i64) -> bool {
        self.since.is_none_or(|since| last >= since) && self.until.is_none_or(|until| first < until)
    }
}

/// A file as the commit had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PinnedFile {
    pub(super) path: String,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// The files of one partition, in the order in which they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PinnedPartition {
    pub(super) name: String,
    /// No row is earlier, as far as the name tells.
    pub(super) from: Option<EventTime>,
    pub(super) files: Vec<PinnedFile>,
}

/// What is recorded with each binding of a partition.
#[derive(Serialize, Deserialize)]
struct Detail {
    span: Span,
    files: Vec<PinnedFile>,
}

impl PinnedPartition {
    pub(super) fn rows(&self) -> u64 {
        self.files.iter().fold(0, |rows, file| rows.saturating_add(file.rows))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |bytes, file| bytes.saturating_add(file.bytes))
    }

    /// Files never change, so their names and sizes tell what is read of them.
    pub(super) fn digest(&self) -> String {
        let mut hash = Xxh3::new();
        for file in &self.files {
            hash.update(file.path.as_bytes());
            hash.update(&file.rows.to_le_bytes());
            hash.update(&file.bytes.to_le_bytes());
        }
        format!("{:016x}", hash.digest())
    }

    pub(super) fn detail(&self, span: Span) -> serde_json::Value {
        serde_json::to_value(Detail { span, files: self.files.clone() }).expect("names and numbers are JSON")
    }
}

/// The partitions of a table's visible files, hours first and in order, without hours outside the span.
pub(super) fn partitions(table: &str, visible: &BTreeMap<String, VisibleFile>, span: Span) -> Vec<PinnedPartition> {
    let mut hours: BTreeMap<(i64, String), Vec<PinnedFile>> = BTreeMap::new();
    let mut recent = Vec::new();
    for (path, file) in visible {
        let pinned = PinnedFile { path: path.clone(), rows: file.rows, bytes: file.bytes };
        match path.rsplit_once('/').and_then(|(folder, _)| hour_of_folder(folder)) {
            Some((hour, folder)) if span.overlaps(hour * HOUR_MS, hour * HOUR_MS + (HOUR_MS - 1)) => {
                hours.entry((hour, folder.to_owned())).or_default().push(pinned);
            }
            Some(_) => {}
            // Names of recent files sort by epoch, shard and chunk.
            None => recent.push(pinned),
        }
    }
    let hours = hours.into_iter().map(|((hour, folder), files)| PinnedPartition {
        name: format!("{table}/{folder}"),
        from: Some(EventTime(hour * HOUR_MS)),
        files,
    });
    let recent = PinnedPartition { name: format!("{table}/{RECENT}"), from: None, files: recent };
    hours.chain((!recent.files.is_empty()).then_some(recent)).collect()
}

/// A partition as it was first opened.
pub(super) fn recorded(table: &str, binding: &PartitionBinding, span: Span) -> Result<PinnedPartition, SourceError> {
    let changed = |problem: &str| SourceError::Changed { partition: binding.name.clone(), problem: problem.to_owned() };
    if !binding.name.starts_with(&format!("{table}/")) {
        return Err(changed(&format!("it was read before, and is no part of {table}; give the same table")));
    }
    let detail: Detail = serde_json::from_value(binding.detail.clone())
        .map_err(|_| changed("what was recorded of it is not what an archive's partition records"))?;
    if detail.span != span {
        return Err(changed("it was begun with another --since or --until; give the same, or a new --state"));
    }
    let from = hour_of_folder(&binding.name).map(|(hour, _)| EventTime(hour * HOUR_MS));
    Ok(PinnedPartition { name: binding.name.clone(), from, files: detail.files })
}

/// The hour, counted from 1970, whose folder a path ends in, and the folder.
fn hour_of_folder(path: &str) -> Option<(i64, &str)> {
    let folder = rolled_hour_folder(path)?;
    let (date, hour) = folder.strip_prefix("dt=")?.split_once("/hour=")?;
    let mut parts = date.split('-');
    // The calendar of events ends with the year 9999.
    let mut next = || parts.next()?.parse::<u16>().ok().map(i64::from).filter(|part| *part <= 9_999);
    let (year, month, day) = (next()?, next()?, next()?);
    // Whole hours before the first of March of year 0, in a calendar whose years begin there, give the days.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + (day - 1)
        - 719_468;
    let found = days.checked_mul(24)?.checked_add(hour.parse::<i64>().ok()?)?;
    (hour_folder(found) == folder).then_some((found, folder))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tidemill_tables::calendar::hour_of;

    use super::*;

    fn visible(paths: &[&str]) -> BTreeMap<String, VisibleFile> {
        paths.iter().map(|path| ((*path).to_owned(), VisibleFile { rows: 2, bytes: 10, epoch: 1 })).collect()
    }

    const FILES: [&str; 5] = [
        "tables/raw_events/_recent/000000000121-000-000.parquet",
        "tables/raw_events/_recent/000000000120-000-000.parquet",
        "tables/raw_events/dt=2015-05-17/hour=10/000000000060-000000000119.parquet",
        "tables/raw_events/dt=2015-05-17/hour=10/000000000000-000000000059.parquet",
        "tables/raw_events/dt=2015-05-17/hour=09/000000000000-000000000059.parquet",
    ];
    /// 2015-05-17T10:00:00Z.
    const TEN: i64 = 1_431_856_800_000;

    fn names(since: Option<i64>, until: Option<i64>) -> Vec<(String, usize)> {
        let span = Span::new(since.map(EventTime), until.map(EventTime)).unwrap();
        let found = partitions("raw_events", &visible(&FILES), span);
        found.into_iter().map(|partition| (partition.name, partition.files.len())).collect()
    }

    #[test]
    fn an_hour_is_a_partition_and_what_is_not_rolled_another() {
        let all = [
            ("raw_events/dt=2015-05-17/hour=09".to_owned(), 1),
            ("raw_events/dt=2015-05-17/hour=10".to_owned(), 2),
            ("raw_events/_recent".to_owned(), 2),
        ];
        assert_eq!(names(None, None), all);
        assert_eq!(names(Some(TEN), None), all[1..]);
        assert_eq!(names(Some(TEN - 1), Some(TEN + 1)), all);
        assert_eq!(names(None, Some(TEN)), [all[0].clone(), all[2].clone()]);
        assert!(Span::new(Some(EventTime(5)), Some(EventTime(5))).is_err());
    }

    #[test]
    fn a_restart_reads_the_recorded_files_and_refuses_another_span() {
        let span = Span::new(None, Some(EventTime(TEN))).unwrap();
        let first = partitions("raw_events", &visible(&FILES), span).remove(0);
        let binding = |detail| PartitionBinding {
            partition: 0,
            name: first.name.clone(),
            end: 1,
            lines: 1,
            digest: first.digest(),
            watermark: None,
            status: tidemill_log::PartitionStatus::Active,
            detail,
        };
        assert_eq!(recorded("raw_events", &binding(first.detail(span)), span).unwrap(), first);
        let all = Span::new(None, None).unwrap();
        let error = recorded("raw_events", &binding(first.detail(span)), all).unwrap_err().to_string();
        assert!(error.contains("begun with another --since or --until"), "{error}");
        assert!(recorded("raw_events", &binding(serde_json::Value::Null), span).is_err());
        assert!(recorded("unverified_events", &binding(first.detail(span)), span).is_err());
    }

    proptest! {
        #[test]
        fn the_folder_of_an_hour_tells_it(hour in 0..70_389_528_i64) {
            let folder = format!("tables/t/{}", hour_folder(hour));
            prop_assert_eq!(hour_of_folder(&folder).map(|found| found.0), Some(hour));
            prop_assert_eq!(hour_of(hour * HOUR_MS), hour);
        }
    }

    #[test]
    fn folders_that_are_no_hour_are_none() {
        for folder in [
            "dt=2015-02-30/hour=01",
            "dt=9223372036854775807-01-01/hour=00",
            "dt=10000-01-01/hour=00",
            "dt=2015-05-17/hour=24",
            "dt=x/hour=01",
            "_recent",
            "",
        ] {
            assert_eq!(hour_of_folder(&format!("tables/t/{folder}")), None, "{folder}");
        }
    }
}
