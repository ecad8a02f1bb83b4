//! One partition: its queue of fetched messages, and what the client says beside them.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde_json::{Value, json};
use tidemill_connectors::messages::{
    Answer, AvroToJson, Cutter, Feed, Polled, Reading, Schemas, Shorter, Told, Unprepared, partition_name, schema_id,
};
use tidemill_dataflow::source::{Block, Loss, PartitionInfo, SourceError};
use tracing::{info, warn};

use crate::trouble::{Trouble, Watch};

/// How long the broker may take to say where a partition begins and ends, when an error has to be explained.
const EXPLAIN: Duration = Duration::from_secs(2);

/// A partition of a topic.
pub(crate) struct Partition {
    pub(crate) topic: String,
    pub(crate) id: i32,
    /// Which topic of this name it is, where the cluster says so.
    pub(crate) topic_id: Option<String>,
    /// Where reading began in the first run.
    pub(crate) start: u64,
    pub(crate) cutter: Cutter,
    pub(crate) inbox: Inbox,
}

impl Partition {
    pub(crate) fn name(&self) -> String {
        partition_name(&self.topic, self.id)
    }

    pub(crate) fn info(&self) -> PartitionInfo {
        let mut detail = json!({ "start": self.start });
        if let Some(topic_id) = &self.topic_id {
            detail["topic_id"] = json!(topic_id);
        }
        PartitionInfo { name: self.name(), size: 0, detail }
    }

    pub(crate) fn read(&mut self, limit: usize, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        self.cutter.read(&mut self.inbox, limit, until).map_err(|shorter| match shorter {
            Shorter::Failed(error) => error,
            Shorter::At(end) => {
                let wanted = until.unwrap_or(end);
                changed(
                    &self.topic,
                    self.id,
                    &format!("messages up to offset {wanted} were read and it ends at {end} now"),
                )
            }
        })
    }
}

/// The refusal of a partition whose content is not what it was.
pub(crate) fn changed(topic: &str, id: i32, problem: &str) -> SourceError {
    SourceError::Changed { partition: partition_name(topic, id), problem: problem.to_owned() }
}

/// Refuses a partition whose topic is another one than was read; what has no id is not judged by it.
pub(crate) fn same_topic(name: &str, before: Option<&str>, now: Option<&String>) -> Result<(), SourceError> {
    match (before, now) {
        (Some(before), Some(now)) if before != now => Err(SourceError::Changed {
            partition: name.to_owned(),
            problem: format!(
                "the topic was made anew since it was read (its id was {before} and is {now}), so other messages stand at its \
                 offsets; restore it, or start a new state folder to read the new one from its beginning"
            ),
        }),
        _ => Ok(()),
    }
}

/// The refusal of a partition that lost, or never had, the offset that is wanted.
pub(crate) fn out_of_range(topic: &str, id: i32, wanted: u64, low: u64, high: u64) -> SourceError {
    let found = format!("offset {wanted} is wanted and offsets {low} to {high} are available");
    if wanted < low {
        let problem = format!("{found}: the broker's retention removed messages that were not read yet");
        let loss = Loss { partition: partition_name(topic, id), from: wanted, to: low - 1 };
        return SourceError::Missing { loss, problem };
    }
    let why = "the topic was truncated or made anew; restore it, or start a new state folder";
    changed(topic, id, &format!("{found}: {why}"))
}

/// Where a partition begins, and where what is committed ends.
pub(crate) fn watermarks(
    consumer: &BaseConsumer<Watch>,
    (topic, id): (&str, i32),
    at_most: Duration,
) -> Result<(u64, u64), KafkaError> {
    let (low, high) = consumer.fetch_watermarks(topic, id, at_most)?;
    Ok((low.max(0).unsigned_abs(), high.max(0).unsigned_abs()))
}

/// The queue of a partition.
pub(crate) struct Inbox {
    consumer: Arc<BaseConsumer<Watch>>,
    queue: PartitionQueue<Watch>,
    topic: String,
    id: i32,
    /// The offset behind the last message that came out.
    next: u64,
    /// Who knows schemas, and which of them this partition has read.
    avro: Option<(Arc<dyn AvroToJson>, Schemas)>,
    begun: Instant,
}

impl Inbox {
    /// Takes the partition's messages out of the consumer's own queue; before it is assigned, so that none slips past.
    pub(crate) fn split(
        consumer: &Arc<BaseConsumer<Watch>>,
        (topic, id): (&str, i32),
        next: u64,
        avro: Option<Arc<dyn AvroToJson>>,
    ) -> Result<Inbox, SourceError> {
        let Some(mut queue) = consumer.split_partition_queue(topic, id) else {
            return Err(unusable(topic, id, "the client knows no such partition"));
        };
        let watch = Arc::clone(consumer.context());
        queue.set_nonempty_callback(move || watch.arrived());
        let (consumer, topic) = (Arc::clone(consumer), topic.to_owned());
        let avro = avro.map(|avro| (Arc::clone(&avro), Schemas::new(avro.patience())));
        Ok(Inbox { consumer, queue, topic, id, next, avro, begun: now() })
    }

    /// What follows through `end` was decided before.
    pub(crate) fn recall(&mut self, end: u64, detail: &Value) {
        if let Some((_, schemas)) = &mut self.avro {
            schemas.recall(end, detail);
        }
    }

    /// Adds what was decided to the partition's detail.
    pub(crate) fn record(&self, detail: &mut Value) {
        if let Some((_, schemas)) = &self.avro {
            schemas.record(detail);
        }
    }

    /// Takes what the client says about the partition instead of a message.
    #[cold]
    fn told(&self, error: &KafkaError) -> Result<Polled, SourceError> {
        if let KafkaError::PartitionEOF(_) = error {
            return Ok(Polled::End);
        }
        let watch = self.consumer.context();
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        match watch.judged(code, &error.to_string()) {
            Trouble::Passing => watch.begin_outage(&error.to_string()),
            // Whoever serves the client stops with what was said, or waits.
            Trouble::Credentials | Trouble::Rights => {}
            Trouble::Damaged => return Err(unusable(&self.topic, self.id, &error.to_string())),
            Trouble::OutOfRange => match watermarks(&self.consumer, (&self.topic, self.id), EXPLAIN) {
                Ok((low, high)) => return Err(out_of_range(&self.topic, self.id, self.next, low, high)),
                Err(_) => {
                    let problem = format!("offset {} is wanted and not available any more", self.next);
                    return Err(changed(&self.topic, self.id, &problem));
                }
            },
            Trouble::Vanished => match self.consumer.fetch_metadata(Some(&self.topic), EXPLAIN) {
                Ok(metadata) => {
                    let there = |id: i32| {
                        metadata
                            .topics()
                            .iter()
                            .flat_map(|topic| topic.partitions())
                            .any(|partition| partition.id() == id)
                    };
                    if !there(self.id) {
                        return Err(changed(&self.topic, self.id, "it vanished from the cluster while it was read"));
                    }
                }
                Err(_) => watch.begin_outage(&error.to_string()),
            },
        }
        Ok(Polled::Nothing)
    }
}

fn unusable(topic: &str, id: i32, problem: &str) -> SourceError {
    SourceError::Io { partition: partition_name(topic, id), source: io::Error::other(problem.to_owned()) }
}

#[expect(clippy::disallowed_methods, reason = "when to ask a registry again reaches no result")]
fn now() -> Instant {
    Instant::now()
}

impl Feed for Inbox {
    fn poll(&mut self, take: &mut dyn FnMut(u64, Option<&[u8]>)) -> Result<Polled, SourceError> {
        let offset = match self.queue.poll(Duration::ZERO) {
            None => return Ok(Polled::Nothing),
            Some(Err(error)) => return self.told(&error),
            Some(Ok(message)) => {
                let offset = message.offset().max(0).unsigned_abs();
                take(offset, message.payload());
                offset
            }
        };
        self.next = offset + 1;
        Ok(Polled::Message)
    }

    fn reading(&mut self, offset: u64, framed: &[u8]) -> Reading {
        let (Some((avro, schemas)), Some(id)) = (&mut self.avro, schema_id(framed)) else { return Reading::Read };
        let now = self.begun.elapsed();
        if let Some(known) = schemas.known(id, offset, now) {
            return known;
        }
        let (answer, problem) = match avro.prepare(framed) {
            Ok(()) => (Answer::Known, String::new()),
            Err(Unprepared::Unknown(problem)) => (Answer::Unknown, problem),
            Err(Unprepared::Away(problem)) => (Answer::None, problem),
        };
        let (reading, told) = schemas.answered((id, offset), answer, now);
        let place = || format!("offset {offset} of {}", partition_name(&self.topic, self.id));
        let patience = avro.patience();
        match told {
            Some(Told::Waits) if answer == Answer::Unknown => warn!(
                "{} waits: {problem}; it is asked for again, and given up after {patience:?} (SCHEMA_REGISTRY_WAIT)",
                place()
            ),
            Some(Told::Waits) => warn!("{} waits for schema id {id}: {problem}", place()),
            Some(Told::There) => info!("schema id {id} is there: {} is read", place()),
            Some(Told::GivenUp) => warn!(
                "{problem}: messages of schema id {id} are dead letters from {} on, until it is there; `tidemill \
                 dead-letters replay` puts them back then",
                place()
            ),
            Some(Told::ReadAgain) => info!("schema id {id} is there now: its messages are read from {} on", place()),
            None => {}
        }
        reading
    }
}
