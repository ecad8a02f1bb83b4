//! An open writer: its producer and the consumer that finds the epoch's number, on a thread that can be given up.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::TopicPartitionList;
use tidemill_connectors::messages::rows::Messages;
use tidemill_dataflow::sink::{SinkError, SinkStart};
use tidemill_dataflow::time::Epoch;

use super::deliveries::{Deliveries, Said};
use super::steps::Step;
use super::{Failure, transactional_id};
use crate::config::KafkaConfig;
use crate::hands::{Hands, LeftBehind};
use crate::topic_ids::topic_ids;
use crate::topics::{MAX_MESSAGE_BYTES, create_topic};
use crate::trouble::Watch;

/// How long one request may take before it is asked again, which the client is told.
const REQUEST: Duration = Duration::from_secs(10);
/// How long it is waited for the client, which does not always keep what it is told.
const LIMIT: Duration = Duration::from_secs(30);
/// Messages that are queued at a time.
const QUEUED: usize = 1024;

/// The clients of a writer, and where it writes.
struct Clients {
    producer: BaseProducer<Deliveries>,
    marker: BaseConsumer<Watch>,
    topic: String,
}

/// What an open writer holds.
pub(super) struct Link {
    pub(super) start: SinkStart,
    hands: Hands<Clients>,
    deliveries: Deliveries,
    watch: Watch,
    /// The topic holds all epochs through this one.
    pub(super) held: Epoch,
    /// An epoch was written.
    pub(super) wrote: bool,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Link {
    /// The clients of a writer; nothing is connected yet.
    ///
    /// # Errors
    /// If the settings are not accepted.
    pub(super) fn new(
        config: &KafkaConfig,
        (pipeline, table, topic): (&str, &str, &str),
        start: &SinkStart,
    ) -> Result<Link, SinkError> {
        let unusable = |error: KafkaError| format!("{topic}: cannot make a Kafka producer: {error}");
        let (deliveries, watch) = (Deliveries::default(), Watch::silent(&config.brokers));
        let group = format!("tidemill-sink/{}/{table}", start.instance);
        let marker = marker(config, &group, watch.clone()).map_err(unusable)?;
        let id = transactional_id(&start.instance, pipeline, topic);
        let producer = producer(config, &id, deliveries.clone()).map_err(unusable)?;
        let hands = Hands::take("kafka calls", Clients { producer, marker, topic: topic.to_owned() })?;
        Ok(Link { start: start.clone(), hands, deliveries, watch, held: 0, wrote: false })
    }

    /// Fences earlier producers and learns what the topic holds. It is created if it is missing and nothing was ever
    /// written to it.
    pub(super) fn open(&mut self, config: &KafkaConfig, may_create: bool) -> Result<(), Failure> {
        if !self.is_there()? {
            if !may_create {
                return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition).into());
            }
            let config = config.clone();
            self.call("create_topics", move |c| create_topic(&config, &c.topic, config.partitions))?;
        }
        let initialize = |c: &mut Clients| c.producer.init_transactions(3 * REQUEST);
        self.hands.call(("init_transactions", 2 * LIMIT), initialize)??;
        self.held = self.call("committed_offsets", |c| {
            let mut place = TopicPartitionList::new();
            place.add_partition(&c.topic, 0);
            let found = c.marker.committed_offsets(place, REQUEST)?;
            let found = found.find_partition(&c.topic, 0);
            let found = found.ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::Unknown))?;
            found.error()?;
            Ok(match found.offset() {
                Offset::Offset(epoch) => epoch.max(0).unsigned_abs(),
                _ => 0,
            })
        })?;
        Ok(())
    }

    /// Takes one step; gives the next one, or none when the epoch is committed.
    pub(super) fn take(&self, step: Step, (epoch, messages): (Epoch, &Arc<Messages>)) -> Result<Option<Step>, Failure> {
        match step {
            Step::Begin => {
                // What was said against the transaction before is no reason against this one.
                self.deliveries.take();
                self.call("begin_transaction", |c| c.producer.begin_transaction())?;
                Ok(Some(Step::Send(0)))
            }
            Step::Send(from) => {
                let messages = Arc::clone(messages);
                Ok(Some(self.call("produce", move |c| c.send(&messages, from))?))
            }
            Step::Mark => {
                self.call("send_offsets_to_transaction", move |c| {
                    let mut mark = TopicPartitionList::new();
                    let number = Offset::Offset(i64::try_from(epoch).unwrap_or(i64::MAX));
                    mark.add_partition_offset(&c.topic, 0, number)?;
                    let group = c.marker.group_metadata().ok_or(KafkaError::Canceled)?;
                    c.producer.send_offsets_to_transaction(&mark, &group, REQUEST)
                })?;
                Ok(Some(Step::Commit))
            }
            Step::Commit => {
                self.call("commit_transaction", |c| c.producer.commit_transaction(REQUEST))?;
                Ok(None)
            }
            Step::Abort => {
                self.call("abort_transaction", |c| c.producer.abort_transaction(REQUEST))?;
                Ok(Some(Step::Begin))
            }
            Step::Connect => unreachable!("a new connection replaces this one"),
        }
    }

    /// Whether the cluster lists the topic.
    pub(super) fn is_there(&self) -> Result<bool, Failure> {
        self.call("fetch_metadata", |c| {
            let listed = c.marker.fetch_metadata(Some(&c.topic), REQUEST)?;
            Ok(listed.topics().iter().any(|topic| !topic.partitions().is_empty()))
        })
    }

    /// The id of the topic; none where the cluster gives none, or cannot now: it takes a controller.
    pub(super) fn topic_id(&self) -> Option<String> {
        let ask = || self.call("describe_topics", |c| topic_ids(&c.marker, &[&c.topic], REQUEST));
        ask().or_else(|_| ask()).ok()?.into_values().next()
    }

    /// Serves what the client has to tell, for this long.
    pub(super) fn serve(&self, span: Duration) {
        let serve = move |c: &mut Clients| {
            c.producer.poll(span);
            while c.marker.poll(Duration::ZERO).is_some() {}
        };
        // Where this hangs the next call does, and is given up.
        let _ = self.hands.call(("poll", LIMIT), serve);
    }

    /// What the client told beside the answers to its calls.
    pub(super) fn told(&self) -> Option<Said> {
        // A line of the client's log ends a poll of no length.
        self.serve(Duration::from_millis(20));
        let refused = || self.watch.take_refusal().map(|(code, words)| Said::of(code, &words));
        self.deliveries.take().or_else(refused)
    }

    /// The thread, to be left behind.
    pub(super) fn leave(self, left: &mut LeftBehind) -> Result<(), String> {
        left.leave(self.hands)
    }

    fn call<R: Send + 'static>(
        &self,
        call: &'static str,
        make: impl FnOnce(&mut Clients) -> Result<R, KafkaError> + Send + 'static,
    ) -> Result<R, Failure> {
        Ok(self.hands.call((call, LIMIT), make)??)
    }
}

impl Clients {
    /// Queues some of the messages; gives the step that follows.
    fn send(&self, messages: &Messages, from: usize) -> Result<Step, KafkaError> {
        for at in from..from + QUEUED {
            let Some((key, value)) = messages.get(at) else { return Ok(Step::Mark) };
            let record = BaseRecord::<[u8], [u8]>::to(&self.topic).payload(value);
            let record = if key.is_empty() { record } else { record.key(key) };
            match self.producer.send(record) {
                Ok(()) => {}
                // What went in before is in.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) if at > from => {
                    return Ok(Step::Send(at));
                }
                Err((error, _)) => return Err(error),
            }
        }
        self.producer.poll(Duration::ZERO);
        Ok(Step::Send(from + QUEUED))
    }
}

/// The consumer that finds the number of the last epoch.
fn marker(config: &KafkaConfig, group: &str, watch: Watch) -> Result<BaseConsumer<Watch>, KafkaError> {
    config
        .client()
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set_log_level(RDKafkaLogLevel::Critical)
        .create_with_context(watch)
}

fn producer(config: &KafkaConfig, id: &str, deliveries: Deliveries) -> Result<BaseProducer<Deliveries>, KafkaError> {
    let mut client = config.client();
    let defaults = [
        ("compression.type", "lz4"),
        ("linger.ms", "5"),
        ("queue.buffering.max.kbytes", "32768"),
        ("message.max.bytes", MAX_MESSAGE_BYTES),
        ("partitioner", "murmur2_random"),
        ("transaction.timeout.ms", "60000"),
    ];
    for (name, value) in defaults {
        if config.property(name).is_none() {
            client.set(name, value);
        }
    }
    client
        .set("transactional.id", id)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // Why a transaction failed is logged as an error, and nowhere else.
        .set_log_level(RDKafkaLogLevel::Error)
        .create_with_context(deliveries)
}
