//! The source: partitions opened where the pipeline's log says they stand, or where the address says to begin.
//!
//! Promises, the same as those of the Kafka source:
//! - What was bound is read again at the same offsets with the same content, or refused with the partition, the offset
//!   that is wanted and those that are available (INV-5). A topic that was made anew under its name is refused too.
//! - Only what is published is read, so nothing that a crash can take back.
//! - A source that goes on for ever waits for topics that are not there yet, and says so once; others refuse them.
//! - `until_end` ends where each partition's published end was when it was opened, `until_offsets` where it was told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Once};

use serde_json::json;
use tidemill_connectors::messages::{Extent, MessageDecoder, Progress, parse_partition_name, partition_name};
use tidemill_dataflow::source::{BlockReader, Loss, PartitionBinding, Source, SourceError};
use tracing::warn;

use crate::config::{LogConfig, Start};
use crate::error::{LogError, LogErrorKind};
use crate::topic::Topic;

mod reader;

use reader::{LogBlocks, Place};

/// A source of events from the topics of an embedded log.
#[derive(Clone, Debug)]
pub struct LogSource {
    config: LogConfig,
    extent: Extent,
    /// Where each partition ends, if somebody else decided that; one that is not named is not read.
    ends: Option<BTreeMap<String, u64>>,
    /// Whether it was said that topics are waited for; of all clones.
    waits: Arc<Once>,
}

impl LogSource {
    /// A source that goes on for ever; nothing is opened yet.
    #[must_use]
    pub fn new(config: LogConfig) -> LogSource {
        LogSource { config, extent: Extent::Live, ends: None, waits: Arc::new(Once::new()) }
    }

    /// The same source, ending where what is published ends when it is opened.
    #[must_use]
    pub fn until_end(self) -> LogSource {
        LogSource { extent: Extent::UntilEnd, ..self }
    }

    /// The same source, stopping at these offsets by `topic/partition`; partitions that are not named are not read. A later
    /// run may go on from there to other offsets: a partition that has stopped holds the watermark where it stands.
    #[must_use]
    pub fn until_offsets(self, ends: BTreeMap<String, u64>) -> LogSource {
        LogSource { extent: Extent::UntilOffsets, ends: Some(ends), ..self }
    }

    /// What is read.
    #[must_use]
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// The topics that are meant.
    fn topics(&self, recorded: &[PartitionBinding]) -> Result<Vec<Topic>, SourceError> {
        let (root, meant) = (self.config.root.display(), &self.config.topics);
        let found = Topic::list(&self.config.root, meant).map_err(|error| unreadable(root.to_string(), &error))?;
        let was_read =
            |topic: &str| recorded.iter().any(|p| parse_partition_name(&p.name).is_some_and(|(name, _)| name == topic));
        let missing =
            meant.literals().iter().find(|topic| !found.iter().any(|t| t.name == **topic) && !was_read(topic));
        let absent = match missing {
            Some(topic) => format!("topic `{topic}` is not in the log {root}"),
            None if found.is_empty() && recorded.is_empty() => format!("no topic in the log {root} matches `{meant}`"),
            None => return Ok(found),
        };
        if self.extent.bounded() {
            return Err(SourceError::Usage(format!("{absent}; start what writes it, or correct topics=")));
        }
        self.waits.call_once(|| {
            warn!("{absent} yet; waiting until something writes it (`tidemill collect`, `tidemill generate`)");
        });
        Ok(found)
    }

    /// A partition that was read before, where it stands.
    fn recorded(&self, binding: &PartitionBinding, found: &[Topic]) -> Result<Place, SourceError> {
        let refuse =
            |problem: &str| Err(SourceError::Changed { partition: binding.name.clone(), problem: problem.to_owned() });
        let Some((name, id)) = parse_partition_name(&binding.name) else {
            return refuse("it was read before and is no partition of a topic; use the same --from as before");
        };
        if !self.config.topics.matches(name) {
            return refuse("it was read before and topics= does not mean it any more; name its topic again");
        }
        let topic = found.iter().find(|topic| topic.name == name);
        let Some((topic, id)) = topic.zip(u32::try_from(id).ok()).filter(|(topic, id)| *id < topic.partitions) else {
            return refuse("it was read before and is gone; restore it, or start a new state folder");
        };
        let known = binding.detail.get("topic_id").and_then(serde_json::Value::as_str);
        if known.is_some_and(|known| known != topic.id) {
            return refuse("the topic was made anew since it was read; restore it, or start a new state folder");
        }
        let (start, at) = Progress::recorded(binding)?;
        let mut place = Place::open(topic, id)?;
        if at.offset < place.low || at.offset > place.promised {
            return Err(out_of_range(&binding.name, at.offset, place.low, place.end));
        }
        if at.offset > place.end {
            let end = place.end;
            warn!(
                "{}: what was read up to offset {} is stored, and published up to {end} only; the rest is waited for \
                 until a writer opens the log",
                binding.name, at.offset
            );
        }
        (place.start, place.at) = (start, at);
        Ok(place)
    }

    /// A partition that was never read, where it is to begin.
    fn begun(&self, topic: &Topic, id: u32, first_start: bool) -> Result<Place, SourceError> {
        let mut place = Place::open(topic, id)?;
        let start = match self.config.start {
            // What appeared after the first start is new as a whole.
            _ if !first_start => place.low,
            Start::Earliest => place.low,
            Start::Latest => place.end,
            Start::Time(ms) => {
                let found = place.reader.offset_of_time(ms).map_err(|error| refused(&place.name(), &error))?;
                found.unwrap_or(place.end).clamp(place.low, place.end)
            }
        };
        (place.start, place.at) = (start, Progress::beginning(start));
        Ok(place)
    }
}

impl Source for LogSource {
    type Decoder = MessageDecoder;

    fn decoder(&self) -> MessageDecoder {
        MessageDecoder::new(None)
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        let found = self.topics(recorded)?;
        let mut places = Vec::new();
        for binding in recorded {
            places.push(self.recorded(binding, &found)?);
        }
        for topic in &found {
            for id in 0..topic.partitions {
                let name = name_of(topic, id);
                if recorded.iter().all(|binding| binding.name != name) {
                    places.push(self.begun(topic, id, recorded.is_empty())?);
                }
            }
        }
        if let Some(ends) = &self.ends {
            for place in &mut places {
                let end = ends.get(&place.name()).copied().unwrap_or(place.at.offset);
                place.end = place.end.min(end);
            }
        }
        let mut reader = LogBlocks::new(self.config.clone(), self.extent);
        reader.add(places)?;
        Ok(Box::new(reader))
    }
}

/// The name of a partition of a topic.
fn name_of(topic: &Topic, id: u32) -> String {
    partition_name(&topic.name, i32::try_from(id).expect("a topic has at most 10,000 partitions"))
}

/// What is recorded with every binding of a partition. Where the log lies is for a replay that is not told.
fn detail(topic: &Topic, start: u64) -> serde_json::Value {
    let log = topic.folder.parent().and_then(|root| std::path::absolute(root).ok());
    json!({ "start": start, "topic_id": topic.id, "log": log })
}

/// The refusal of a partition that lost, or never had, the offset that is wanted.
fn out_of_range(partition: &str, wanted: u64, low: u64, high: u64) -> SourceError {
    let found = format!("offset {wanted} is wanted and offsets {low} to {high} are available");
    if wanted < low {
        let problem = format!("{found}: retention removed records that were not read yet");
        return SourceError::Missing {
            loss: Loss { partition: partition.to_owned(), from: wanted, to: low - 1 },
            problem,
        };
    }
    let why = "the log was set back to an earlier state; restore it, or start a new state folder";
    let problem = format!("{found}: {why}");
    SourceError::Changed { partition: partition.to_owned(), problem }
}

/// What a failure of the log means to the engine.
fn refused(partition: &str, error: &LogError) -> SourceError {
    match error {
        LogError::Gone { wanted, low, high, .. } => out_of_range(partition, *wanted, *low, *high),
        _ => unreadable(partition.to_owned(), error),
    }
}

fn unreadable(partition: String, error: &LogError) -> SourceError {
    match error.kind() {
        LogErrorKind::Refused => SourceError::Usage(error.to_string()),
        _ => SourceError::Io { partition, source: std::io::Error::other(error.to_string()) },
    }
}
