//! A log in a folder of its own, and reading a source of it.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tidemill_connectors::conformance::reading;
use tidemill_connectors::messages::MessageDecoder;
use tidemill_dataflow::source::PartitionBinding;
use tidemill_embedded_log::produce::produce_lines;
use tidemill_embedded_log::{LogConfig, LogOptions, LogSource, Record, Retention, TopicWriter, Topics};

pub(crate) fn event(id: u64) -> String {
    let user = id % 17;
    format!(
        r#"{{"event_id":"e{id}","event_type":"click","user_id":"u{user}","timestamp":{},"properties":{{"n":{id}}}}}"#,
        1_431_857_103_000 + id
    )
}

pub(crate) fn ids(range: impl Iterator<Item = u64>) -> Vec<String> {
    range.map(|id| format!("e{id}")).collect()
}

/// A log in a folder that goes with it.
pub(crate) struct Log(TempDir);

impl Log {
    pub(crate) fn new() -> Log {
        Log(tempfile::tempdir().unwrap())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    /// Appends events, dealt over the partitions in turn; the time of appending is the id.
    pub(crate) fn load(&self, topic: &str, partitions: u32, ids: std::ops::Range<u64>) {
        for id in ids.clone().step_by(100) {
            let lines: Vec<String> = (id..ids.end.min(id + 100)).map(event).collect();
            let lines = lines.iter().map(String::as_bytes);
            let time_ms = i64::try_from(id).unwrap();
            let partition = |n: u64, _: &[u8]| u32::try_from((id - ids.start + n) % u64::from(partitions)).unwrap();
            produce_lines(self.root(), topic, partitions, lines, time_ms, partition).unwrap();
        }
    }

    /// Makes a topic without records.
    pub(crate) fn make(&self, topic: &str, partitions: u32) {
        drop(self.writer(topic, partitions));
    }

    pub(crate) fn writer(&self, topic: &str, partitions: u32) -> TopicWriter {
        let retention = Retention { age: Some(Duration::ZERO), bytes: None };
        let options = LogOptions { segment_bytes: 1, retention };
        TopicWriter::open(self.root(), topic, partitions, &options).unwrap()
    }

    pub(crate) fn append(&self, topic: &str, partition: u32, values: &[&[u8]]) {
        let mut writer = self.writer(topic, 1);
        for value in values {
            writer.append(partition, &[Record { key: b"", value, time_ms: 0 }]).unwrap();
        }
        writer.sync().unwrap();
    }

    pub(crate) fn config(&self, topics: &str) -> LogConfig {
        LogConfig { topics: Topics::parse(topics).unwrap(), ..LogConfig::at(self.root()) }
    }

    pub(crate) fn live(&self, topics: &str) -> LogSource {
        LogSource::new(self.config(topics))
    }

    pub(crate) fn until_end(&self, topics: &str) -> LogSource {
        self.live(topics).until_end()
    }
}

/// A source that is being read.
pub(crate) type Reading = reading::Reading<MessageDecoder>;

pub(crate) fn opened(source: &LogSource, recorded: &[PartitionBinding]) -> Reading {
    Reading::open(source, recorded, (10_000, Duration::from_millis(5))).unwrap()
}
