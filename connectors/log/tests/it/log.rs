//! A log in a folder of its own, and reading a source of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tidemill_connectors::events::Event;
use tidemill_connectors::messages::MessageDecoder;
use tidemill_dataflow::source::{
    Block, BlockReader, Decode, Decoded, PartitionBinding, PartitionInfo, Source, SourceError, as_the_connector_left_it,
};
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

/// What was read of a partition.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Read {
    pub(crate) ids: Vec<String>,
    /// Offset and reason.
    pub(crate) letters: Vec<(u64, String)>,
    pub(crate) blocks: Vec<Block>,
}

/// A source that is being read.
pub(crate) struct Reading {
    pub(crate) reader: Box<dyn BlockReader>,
    decoder: MessageDecoder,
}

impl Reading {
    pub(crate) fn open(source: &LogSource, recorded: &[PartitionBinding]) -> Reading {
        Reading { reader: source.open(recorded).unwrap(), decoder: source.decoder() }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.reader.partitions().into_iter().map(|partition| partition.name).collect()
    }

    /// Reads blocks of a partition until it is finished, or `enough`.
    pub(crate) fn until(
        &mut self,
        partition: u32,
        (limit, until): (usize, Option<u64>),
        enough: impl Fn(&Reading, &Read) -> bool,
    ) -> Result<Read, SourceError> {
        let mut read = Read::default();
        let mut silent = 0;
        while !self.reader.position(partition).finished && !enough(self, &read) {
            match self.reader.read(partition, limit, until)? {
                Some(block) => {
                    silent = 0;
                    let mut decoded = Decoded::default();
                    self.decoder.decode(block.clone(), &mut decoded);
                    read.ids.extend(decoded.records.iter().map(|event: &Event| event.event_id().to_owned()));
                    read.letters.extend(decoded.malformed.into_iter().map(|letter| (letter.line, letter.reason)));
                    read.blocks.push(block);
                }
                None => {
                    silent += 1;
                    assert!(silent < 10_000, "silence; {read:?} {:?}", self.reader.position(partition));
                    self.reader.wait(Duration::from_millis(5))?;
                }
            }
        }
        Ok(read)
    }

    /// Reads a bounded source to its end.
    pub(crate) fn read_to_the_end(&mut self, limit: usize) -> BTreeMap<String, Read> {
        let names = self.names();
        (0..)
            .zip(names)
            .map(|(number, name)| (name, self.until(number, (limit, None), |_, _| false).unwrap()))
            .collect()
    }

    /// What the engine would record now.
    pub(crate) fn bindings(&self) -> Vec<PartitionBinding> {
        let binding = |(number, info): (u32, PartitionInfo)| {
            let position = self.reader.position(number);
            let status = if position.finished { "finished" } else { "active" };
            let recorded = serde_json::json!({
                "partition": number, "name": info.name, "end": position.offset, "lines": position.lines,
                "digest": position.digest, "watermark": null, "status": status,
                "detail": { "source": info.detail },
            });
            as_the_connector_left_it(serde_json::from_value(recorded).unwrap())
        };
        (0..).zip(self.reader.partitions()).map(binding).collect()
    }
}
