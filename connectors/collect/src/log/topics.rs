//! The real log: a writer for each topic, in one folder.

use std::path::PathBuf;

use tidemill_embedded_log::{FloorError, Floors, LogOptions, Record, Retention, TopicWriter};
use tidemill_log::{Location, with_causes};
use tracing::{info, warn};

use super::{EventLog, LogFailure, OpenLog};
use crate::topic::Topic;

/// Opens the collector's topics in a folder.
pub struct TopicLogs {
    folder: PathBuf,
    partitions: u32,
    options: LogOptions,
    pipelines: Vec<Location>,
}

impl TopicLogs {
    /// All topics in `folder`, each of so many partitions. Retention spares what one of `pipelines`, named by where their
    /// state lies, still needs.
    #[must_use]
    pub fn new(folder: PathBuf, partitions: u32, options: LogOptions, pipelines: Vec<Location>) -> TopicLogs {
        TopicLogs { folder, partitions, options, pipelines }
    }
}

impl OpenLog for TopicLogs {
    fn open(&mut self) -> Result<Box<dyn EventLog>, LogFailure> {
        let open = |topic: Topic| TopicWriter::open(&self.folder, topic.name(), self.partitions, &self.options);
        let writers = Topic::ALL.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        Ok(Box::new(Opened {
            writers,
            appended: [false; Topic::ALL.len()],
            retains: self.options.retention != Retention::default(),
            pipelines: self.pipelines.clone(),
            waits: false,
        }))
    }
}

struct Opened {
    /// In the order of [`Topic::ALL`].
    writers: Vec<TopicWriter>,
    /// Which topics have something to sync.
    appended: [bool; Topic::ALL.len()],
    retains: bool,
    pipelines: Vec<Location>,
    /// Retention waits for a pipeline whose needs are not known.
    waits: bool,
}

impl EventLog for Opened {
    fn append(&mut self, topic: Topic, partition: u32, records: &[Record<'_>]) -> Result<(), LogFailure> {
        self.appended[topic.number()] = true;
        self.writers[topic.number()].append(partition, records)?;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogFailure> {
        let topics = self.writers.iter_mut().zip(&mut self.appended);
        let unsynced = topics.filter_map(|(writer, appended)| std::mem::take(appended).then_some(writer));
        // The disk may take the syncs of several topics in one go, so they do not wait for each other.
        std::thread::scope(|scope| {
            let syncs: Vec<_> = unsynced.map(|writer| scope.spawn(|| writer.sync())).collect();
            let synced: Vec<_> =
                syncs.into_iter().map(|sync| sync.join().expect("syncing a topic does not panic")).collect();
            // One topic may be synced while another is not: then nothing of the group is acknowledged.
            synced.into_iter().collect::<Result<(), _>>()
        })?;
        Ok(())
    }

    fn retain(&mut self, now_ms: i64) -> Result<(), LogFailure> {
        if !self.retains {
            return Ok(());
        }
        let floors: Result<Vec<Floors>, FloorError> = self.pipelines.iter().map(Floors::read).collect();
        let floors = match floors {
            Ok(floors) => floors,
            Err(error) => {
                if !self.waits {
                    let problem = with_causes(&error);
                    warn!("nothing is deleted from the log until it is known what is needed: {problem}");
                }
                self.waits = true;
                return Ok(());
            }
        };
        if std::mem::take(&mut self.waits) {
            info!("it is known again what of the log is needed");
        }
        for (writer, topic) in self.writers.iter_mut().zip(Topic::ALL) {
            let floor =
                |partition| floors.iter().map(|floors| floors.floor(topic.name(), partition)).min().unwrap_or(u64::MAX);
            writer.retain(now_ms, &floor)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tidemill_embedded_log::LogReader;

    use super::*;

    fn record(value: &[u8], time_ms: i64) -> Record<'_> {
        Record { key: b"u", value, time_ms }
    }

    fn logs(folder: &std::path::Path, pipelines: Vec<Location>) -> TopicLogs {
        let retention = Retention { age: Some(Duration::from_secs(1)), bytes: None };
        TopicLogs::new(folder.to_owned(), 2, LogOptions { segment_bytes: 1, retention }, pipelines)
    }

    #[test]
    fn what_was_synced_is_there_for_readers_and_in_the_next_life() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = logs(folder.path(), Vec::new()).open().unwrap();
        log.append(Topic::Click, 1, &[record(b"a", 5), record(b"b", 6)]).unwrap();
        log.append(Topic::Error, 0, &[record(b"c", 6)]).unwrap();
        log.sync().unwrap();
        log.append(Topic::Click, 1, &[record(b"lost", 7)]).unwrap();
        assert!(logs(folder.path(), Vec::new()).open().is_err(), "one writer at a time");
        drop(log);
        drop(logs(folder.path(), Vec::new()).open().unwrap());
        let mut reader = LogReader::open(folder.path(), "events.click", 1).unwrap();
        assert_eq!(reader.next().unwrap(), Some((0, record(b"a", 5))));
        assert_eq!(reader.next().unwrap(), Some((1, record(b"b", 6))));
        let mut errors = LogReader::open(folder.path(), "events.error", 0).unwrap();
        assert_eq!(errors.next().unwrap(), Some((0, record(b"c", 6))));
    }

    #[test]
    fn retention_waits_for_pipelines_that_have_not_read_yet_and_for_those_that_cannot_be_asked() {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = folder.path().join("pipeline");
        fs::create_dir(&pipeline).unwrap();
        let unreadable = folder.path().join("file");
        fs::write(&unreadable, "no folder").unwrap();
        let root = folder.path().join("log");
        for (pipelines, earliest) in [
            (vec![Location::from(pipeline.as_path())], 0),
            (vec![Location::from(unreadable.as_path())], 0),
            (Vec::new(), 2),
        ] {
            let mut log = logs(&root, pipelines).open().unwrap();
            if LogReader::open(&root, "events.click", 0).unwrap().end().unwrap() == 0 {
                for value in [b"a", b"b"] {
                    log.append(Topic::Click, 0, &[record(value, 5)]).unwrap();
                    log.sync().unwrap();
                }
            }
            log.retain(1_000_000).unwrap();
            assert_eq!(LogReader::open(&root, "events.click", 0).unwrap().earliest().unwrap(), earliest);
        }
    }
}
