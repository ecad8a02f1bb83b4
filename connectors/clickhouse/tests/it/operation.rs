//! The progress table.

use tidemill_clickhouse::ProgressWriter;
use tidemill_dataflow::sink::{CommitObserver, Committed};
use tidemill_dataflow::time::EventTime;
use tidemill_log::{PartitionBinding, PartitionStatus};
use tidemill_tables::web_analytics;

use crate::database::{Database, first_run};

/// A commit of two partitions, of which the first holds `lines`.
pub(crate) fn commit(epoch: u64, lines: u64) -> Committed {
    let mut commit = Committed {
        epoch,
        complete_through: Some(EventTime(1_704_067_200_000)),
        partitions: Default::default(),
        counts: Default::default(),
    };
    for (partition, name, held) in [(0, "events.web/0", lines), (1, "events.web/1", 3)] {
        let binding = PartitionBinding {
            partition,
            name: name.to_owned(),
            end: held,
            lines: held,
            digest: String::new(),
            watermark: None,
            status: PartitionStatus::Active,
            detail: serde_json::Value::Null,
        };
        commit.partitions.insert(partition, binding);
    }
    commit
}

#[test]
fn progress_shows_each_partition_at_the_newest_commit() {
    let database = Database::with_tables();
    let mut progress = ProgressWriter::new(database.target.clone(), "web");
    progress.committed(&Committed { partitions: Default::default(), ..commit(0, 0) }).unwrap();
    assert_eq!(database.ask("SELECT * FROM progress"), Vec::<String>::new());
    progress.committed(&Committed { complete_through: None, ..commit(3, 4) }).unwrap();
    assert_eq!(
        database.ask("SELECT * FROM progress ORDER BY file"),
        ["\\N\t3\t\\N\tevents.web/0\t4", "\\N\t3\t\\N\tevents.web/1\t3"]
    );
    // A commit told twice, and an older one told late by a run that was asleep.
    for told in [commit(4, 9), commit(4, 9), commit(3, 4)] {
        progress.committed(&told).unwrap();
    }
    let newest =
        ["\\N\t4\t2024-01-01 00:00:00.000\tevents.web/0\t9", "\\N\t4\t2024-01-01 00:00:00.000\tevents.web/1\t3"];
    assert_eq!(database.ask("SELECT * FROM progress ORDER BY file"), newest);
    database.run("OPTIMIZE TABLE progress_data FINAL");
    assert_eq!(database.ask("SELECT * FROM progress ORDER BY file"), newest);
}

#[test]
fn a_log_begun_anew_shows_its_own_progress() {
    let database = Database::with_tables();
    let mut progress = ProgressWriter::new(database.target.clone(), "web");
    database.writer(&web_analytics::sessions(), &first_run("old"));
    progress.committed(&commit(90, 500)).unwrap();
    database.writer(&web_analytics::sessions(), &first_run("new"));
    progress.committed(&commit(2, 7)).unwrap();
    assert_eq!(database.one("SELECT max(epoch), sum(lines) FROM progress"), "2\t10");
}
