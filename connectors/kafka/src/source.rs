//! The source: partitions opened where the log says they stand, or where the address says to begin.
//!
//! Promises:
//! - What was bound is read again at the same offsets with the same content, or refused with the partition, the offset
//!   that is wanted and those that are available (INV-5). Nothing is skipped silently.
//! - Only what is committed is read, and nothing twice: the consumer group has no say in where reading goes on.
//! - Fetched messages take bounded memory, whatever the number of partitions (INV-8).
//! - A broker that is away is waited for; at the start for two minutes, then for as long as it takes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use tidemill_connectors::messages::{
    AvroToJson, Extent, MessageDecoder, Progress, parse_partition_name, partition_name,
};
use tidemill_dataflow::source::{BlockReader, PartitionBinding, Source, SourceError};
use tracing::warn;

use crate::config::{KafkaConfig, Start};
use crate::partition::{changed, out_of_range, same_topic, watermarks};
use crate::reader::{Clients, KafkaReader, Place, serve};
use crate::speech::mismatch;
use crate::topic_ids::{TopicIds, topic_ids};
use crate::topics;
use crate::trouble::Watch;

/// How long brokers may be away at the start.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one question to a broker may take.
const QUESTION: Duration = Duration::from_secs(5);
/// How long the question for the ids of topics may take.
const IDENTITY: Duration = Duration::from_secs(2);
/// Bytes of fetched messages, all partitions together; what is being fetched comes on top, at most the same again.
const QUEUED_BYTES: usize = 32 << 20;

/// A source of events from topics.
#[derive(Clone)]
pub struct KafkaSource {
    config: KafkaConfig,
    extent: Extent,
    /// Where each partition ends, if somebody else decided that; one that is not named is not read.
    ends: Option<BTreeMap<String, u64>>,
    avro: Option<Arc<dyn AvroToJson>>,
}

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSource")
            .field("config", &self.config)
            .field("extent", &self.extent)
            .finish_non_exhaustive()
    }
}

impl KafkaSource {
    /// A source that goes on for ever; nothing is connected yet.
    #[must_use]
    pub fn new(config: KafkaConfig) -> KafkaSource {
        KafkaSource { config, extent: Extent::Live, ends: None, avro: None }
    }

    /// The same source, ending where what is committed ends when it is opened.
    #[must_use]
    pub fn until_end(self) -> KafkaSource {
        KafkaSource { extent: Extent::UntilEnd, ..self }
    }

    /// The same source, stopping at these offsets by `topic/partition`; partitions that are not named are not read. A later
    /// run may go on from there to other offsets: a partition that has stopped holds the watermark where it stands.
    #[must_use]
    pub fn until_offsets(self, ends: BTreeMap<String, u64>) -> KafkaSource {
        KafkaSource { extent: Extent::UntilOffsets, ends: Some(ends), ..self }
    }

    /// The same source, reading Avro messages too.
    #[must_use]
    pub fn with_avro(self, avro: Arc<dyn AvroToJson>) -> KafkaSource {
        KafkaSource { avro: Some(avro), ..self }
    }

    /// What is read.
    #[must_use]
    pub fn config(&self) -> &KafkaConfig {
        &self.config
    }
}

impl Source for KafkaSource {
    type Decoder = MessageDecoder;

    fn decoder(&self) -> MessageDecoder {
        MessageDecoder::new(self.avro.clone())
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        let watch = Watch::new(&self.config.brokers);
        let opening = Opening::connect(&self.config, &watch)?;
        let found = opening.topics(recorded)?;
        let count = found.values().map(|count| usize::try_from(*count).unwrap_or(0)).sum::<usize>();
        let ids = opening.ids(&found)?;
        let mut places = opening.recorded(recorded, (&found, &ids))?;
        places.extend(opening.new_places(recorded, (&found, &ids))?);
        if let Some(ends) = &self.ends {
            for place in &mut places {
                let end = ends.get(&partition_name(&place.topic, place.id)).copied().unwrap_or(place.at.offset);
                place.end = place.end.min(end).max(place.at.offset);
            }
        }
        // How much each partition may queue depends on how many there are.
        let fetching = consumer(&self.config, count.max(1), watch).map_err(|error| unusable(&error))?;
        let clients = Clients { fetching: Arc::new(fetching), asking: Arc::new(opening.consumer) };
        let mut reader = KafkaReader::new(clients, self.config.clone(), self.extent, self.avro.clone());
        reader.add(places)?;
        Ok(Box::new(reader))
    }
}

/// A connection that finds out where to begin.
struct Opening<'a> {
    config: &'a KafkaConfig,
    consumer: BaseConsumer<Watch>,
    since: Instant,
}

impl<'a> Opening<'a> {
    fn connect(config: &'a KafkaConfig, watch: &Watch) -> Result<Opening<'a>, SourceError> {
        let consumer = consumer(config, 1, watch.clone()).map_err(|error| unusable(&error))?;
        #[expect(clippy::disallowed_methods, reason = "how long to wait for a broker reaches no result")]
        let since = Instant::now();
        Ok(Opening { config, consumer, since })
    }

    /// Asks until there is an answer, for as long as brokers may be away.
    fn ask<T>(&self, mut question: impl FnMut() -> Result<T, KafkaError>) -> Result<T, SourceError> {
        let brokers = &self.config.brokers;
        loop {
            let error = match question() {
                Ok(answer) => {
                    self.consumer.context().end_outage();
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let watch = self.consumer.context();
            if let Some(code) = error.rdkafka_error_code() {
                // What the broker said of it stands in the client's queue, and says more.
                serve(&self.consumer, self.config)?;
                watch.judged(code, &error.to_string());
            }
            serve(&self.consumer, self.config)?;
            if let Some(sentence) = (!watch.worked()).then(|| mismatch(self.config)).flatten() {
                return Err(SourceError::Usage(sentence));
            }
            let reason = watch.reason().unwrap_or_else(|| error.to_string());
            watch.begin_outage(&reason);
            if self.since.elapsed() > PATIENCE {
                let problem = format!("no broker answered for {} s ({reason}); check the address", PATIENCE.as_secs());
                return Err(SourceError::Io {
                    partition: format!("Kafka at {brokers}"),
                    source: io::Error::other(problem),
                });
            }
            self.consumer.context().wait(Duration::from_millis(250));
        }
    }

    /// The topics that are meant, with their number of partitions.
    fn topics(&self, recorded: &[PartitionBinding]) -> Result<BTreeMap<String, i32>, SourceError> {
        let topics = &self.config.topics;
        let list = || topics::list(&self.consumer, topics, QUESTION);
        let found: BTreeMap<String, i32> = self.ask(list)?.into_iter().collect();
        let brokers = &self.config.brokers;
        let was_read =
            |topic: &str| recorded.iter().any(|p| parse_partition_name(&p.name).is_some_and(|(name, _)| name == topic));
        let missing = topics.literals().iter().find(|topic| !found.contains_key(*topic) && !was_read(topic));
        if let Some(topic) = missing {
            let remedy = "create it, let this user describe it, or correct topics=";
            return Err(SourceError::Usage(format!("topic `{topic}` is not on Kafka at {brokers}; {remedy}")));
        }
        if found.is_empty() && recorded.is_empty() {
            let remedy = "create one, or name others with topics=";
            return Err(SourceError::Usage(format!("no topic on Kafka at {brokers} matches `{topics}`; {remedy}")));
        }
        Ok(found)
    }

    /// Which topics of these names they are. It takes a controller to know, and reading takes none: without one they are
    /// told by their offsets alone.
    fn ids(&self, found: &BTreeMap<String, i32>) -> Result<TopicIds, SourceError> {
        let topics: Vec<&str> = found.keys().map(String::as_str).collect();
        let mut asked = topic_ids(&self.consumer, &topics, IDENTITY);
        if asked.is_err() {
            serve(&self.consumer, self.config)?;
            asked = topic_ids(&self.consumer, &topics, IDENTITY);
        }
        Ok(asked.unwrap_or_else(|error| {
            warn!(
                "Kafka at {} does not give the ids of topics now ({error}); their offsets are compared",
                self.config.brokers
            );
            TopicIds::new()
        }))
    }

    /// Partitions that were read before, where they stand.
    fn recorded(
        &self,
        recorded: &[PartitionBinding],
        (found, ids): (&BTreeMap<String, i32>, &TopicIds),
    ) -> Result<Vec<Place>, SourceError> {
        let mut places = Vec::new();
        for binding in recorded {
            let refuse = |problem: &str| {
                Err(SourceError::Changed { partition: binding.name.clone(), problem: problem.to_owned() })
            };
            let Some((topic, id)) = parse_partition_name(&binding.name) else {
                return refuse("it was read before and is no partition of a topic; use the same --from as before");
            };
            if !self.config.topics.matches(topic) {
                let problem = "it was read before and topics= does not mean it any more; name its topic again";
                return refuse(problem);
            }
            if found.get(topic).is_none_or(|count| id >= *count) {
                return refuse("it was read before and is gone; restore it, or start a new state folder");
            }
            let read = binding.detail.get("topic_id").and_then(serde_json::Value::as_str);
            same_topic(&binding.name, read, ids.get(topic))?;
            let topic_id = ids.get(topic).cloned().or_else(|| read.map(str::to_owned));
            let (start, at) = Progress::recorded(binding)?;
            let (low, end) = self.ask(|| watermarks(&self.consumer, (topic, id), QUESTION))?;
            if at.offset < low || at.offset > end {
                return Err(out_of_range(topic, id, at.offset, low, end));
            }
            places.push(Place { topic: topic.to_owned(), id, topic_id, start, at, end });
        }
        Ok(places)
    }

    /// Partitions that were never read, where they are to begin, in the order of their names.
    fn new_places(
        &self,
        recorded: &[PartitionBinding],
        (found, ids): (&BTreeMap<String, i32>, &TopicIds),
    ) -> Result<Vec<Place>, SourceError> {
        let mut places = Vec::new();
        for (topic, count) in found {
            for id in 0..*count {
                let place = partition_name(topic, id);
                if recorded.iter().any(|binding| binding.name == place) {
                    continue;
                }
                let (low, end) = self.ask(|| watermarks(&self.consumer, (topic, id), QUESTION))?;
                let start = match &self.config.start {
                    Start::Offsets(given) => match given.get(&(topic.clone(), id)) {
                        Some(offset) if (low..=end).contains(offset) => *offset,
                        Some(offset) => {
                            let range = format!("offset {offset} is wanted and offsets {low} to {end} are available");
                            return Err(changed(topic, id, &format!("{range}: correct start=")));
                        }
                        None => low,
                    },
                    // What appeared after the first start is new as a whole.
                    _ if !recorded.is_empty() => low,
                    Start::Earliest => low,
                    Start::Latest => end,
                    Start::Timestamp(ms) => self.at_time(topic, id, *ms)?.unwrap_or(end).clamp(low, end),
                };
                let at = Progress::beginning(start);
                let topic_id = ids.get(topic).cloned();
                places.push(Place { topic: topic.clone(), id, topic_id, start, at, end });
            }
        }
        if let Start::Offsets(given) = &self.config.start
            && let Some((topic, id)) = given.keys().find(|(topic, id)| found.get(topic).is_none_or(|count| id >= count))
        {
            return Err(changed(topic, *id, "start=offsets names it and it is not there; correct start="));
        }
        Ok(places)
    }

    /// The first offset with this broker timestamp or a later one.
    fn at_time(&self, topic: &str, id: i32, ms: i64) -> Result<Option<u64>, SourceError> {
        let answer = self.ask(|| {
            let mut question = TopicPartitionList::new();
            question.add_partition_offset(topic, id, Offset::Offset(ms))?;
            let answer = self.consumer.offsets_for_times(question, QUESTION)?;
            let found = answer.find_partition(topic, id).ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::Unknown))?;
            found.error()?;
            Ok(found.offset())
        })?;
        Ok(match answer {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        })
    }
}

fn unusable(error: &KafkaError) -> SourceError {
    SourceError::Usage(format!("cannot make a Kafka consumer: {error}; check the settings of the address"))
}

/// A consumer whose partitions together queue a bounded amount.
fn consumer(config: &KafkaConfig, partitions: usize, watch: Watch) -> Result<BaseConsumer<Watch>, KafkaError> {
    let mut client = config.client();
    let share = QUEUED_BYTES / partitions;
    // What one fetch brings is compressed; about an eighth of what it becomes.
    let fetched = (share / 8).clamp(16 << 10, 1 << 20);
    let defaults = [
        ("queued.max.messages.kbytes", (share >> 10).max(64).to_string()),
        ("max.partition.fetch.bytes", fetched.to_string()),
        ("fetch.max.bytes", (8 << 20).to_string()),
        // A partition whose queue was full is fetched again at once when it has room.
        ("fetch.queue.backoff.ms", "20".to_owned()),
        // A fetch that waits at the end of some partitions keeps one that has more to give, and room again, out for as long.
        ("fetch.wait.max.ms", "50".to_owned()),
        ("fetch.error.backoff.ms", "100".to_owned()),
        // Where partitions end, for the lag that is shown; counted from answers that come anyway.
        ("statistics.interval.ms", "1000".to_owned()),
    ];
    for (name, value) in defaults {
        if config.property(name).is_none() {
            client.set(name, value);
        }
    }
    client
        .set("group.id", &config.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("check.crcs", "true")
        // Lines of its log come before errors in the queue, and where connections fail there are many.
        .set_log_level(RDKafkaLogLevel::Critical)
        .create_with_context(watch)
}
