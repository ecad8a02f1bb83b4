//! Producers of events, and what a topic and a consumer group hold.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{ClientContext, Offset};
use serde_json::Value;
use tidemill_kafka::KafkaConfig;
use tidemill_kafka::produce::read_committed;

/// How long one question to a broker may take.
const QUESTION: Duration = Duration::from_secs(30);
/// A line of the generator may be a little over a mebibyte.
const LARGEST: &str = "4194304";

/// Sends events; each is written exactly once and in order, however often the broker goes away.
pub struct Producer {
    inner: BaseProducer<Lost>,
}

impl Producer {
    /// A producer for the brokers at `HOST:PORT`.
    ///
    /// # Panics
    /// When there can be none.
    #[must_use]
    pub fn new(brokers: &str) -> Producer {
        let inner = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            .set("linger.ms", "5")
            .set("message.max.bytes", LARGEST)
            // For ever: what was given is written.
            .set("message.timeout.ms", "0")
            .set("reconnect.backoff.max.ms", "500")
            .set("queue.buffering.max.messages", "1000000")
            .set_log_level(RDKafkaLogLevel::Critical)
            .create_with_context(Lost::default());
        Producer { inner: inner.expect("a producer's settings are right") }
    }

    /// Takes a message; it is on its way when this returns.
    ///
    /// # Panics
    /// When the broker will not have it.
    pub fn send(&self, topic: &str, partition: i32, payload: &[u8]) {
        let mut record = BaseRecord::<(), [u8]>::to(topic).payload(payload).partition(partition);
        while let Err((error, back)) = self.inner.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{topic}/{partition}: {error}");
            self.inner.poll(Duration::from_millis(10));
            record = back;
        }
        self.inner.poll(Duration::ZERO);
        self.inner.context().check();
    }

    /// Waits until the broker holds everything.
    ///
    /// # Panics
    /// When it does not within five minutes.
    pub fn flush(&self) {
        self.inner.flush(Duration::from_secs(300)).expect("the broker takes what was sent");
        self.inner.context().check();
    }
}

/// What was not taken.
#[derive(Default)]
struct Lost(Mutex<Option<KafkaError>>);

impl Lost {
    #[track_caller]
    fn check(&self) {
        let lost = self.0.lock().expect("nobody panics while holding it");
        assert!(lost.is_none(), "a message was lost on its way to the broker: {lost:?}");
    }
}

impl ClientContext for Lost {}

impl ProducerContext for Lost {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().expect("nobody panics while holding it").get_or_insert_with(|| error.clone());
        }
    }
}

/// Removes a topic with everything in it, and waits until it is gone.
///
/// # Panics
/// When the broker refuses.
pub fn delete_topic(brokers: &str, topic: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set_log_level(RDKafkaLogLevel::Critical);
    let admin: AdminClient<DefaultClientContext> = config.create().expect("an admin client's settings are right");
    let deleted = block_on(admin.delete_topics(&[topic], &AdminOptions::new())).expect("the broker answers");
    assert!(deleted.iter().all(Result::is_ok), "{topic}: {deleted:?}");
    let there = || {
        let known = admin.inner().fetch_metadata(None, QUESTION).expect("the broker lists its topics");
        known.topics().iter().any(|known| known.name() == topic)
    };
    super::wait_until("a deleted topic is gone", || !there());
}

/// Removes all messages of a partition before an offset, as retention does.
///
/// # Panics
/// When the broker refuses.
pub fn delete_before(brokers: &str, (topic, partition): (&str, i32), offset: u64) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set_log_level(RDKafkaLogLevel::Critical);
    let admin: AdminClient<DefaultClientContext> = config.create().expect("an admin client's settings are right");
    let mut list = TopicPartitionList::new();
    let offset = Offset::Offset(i64::try_from(offset).expect("an offset"));
    list.add_partition_offset(topic, partition, offset).expect("an offset that can be named");
    block_on(admin.delete_records(&list, &AdminOptions::new())).expect("the broker deletes records");
}

/// The values of everything committed in a topic, as JSON.
///
/// # Panics
/// When the topic cannot be read, or a value is no JSON.
#[must_use]
#[track_caller]
pub fn read_lines(brokers: &str, topic: &str) -> Vec<Value> {
    let config = KafkaConfig::at(brokers).expect("the address of a running broker");
    let messages = read_committed(&config, topic).unwrap_or_else(|error| panic!("{topic}: {error}"));
    let parse = |(_, value): &(Vec<u8>, Vec<u8>)| {
        serde_json::from_slice(value).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(value)))
    };
    messages.iter().map(parse).collect()
}

/// The offsets of a consumer group, by topic and partition; those it has none for are left out.
///
/// # Panics
/// When the broker does not answer.
#[must_use]
pub fn committed_offsets(brokers: &str, group: &str, topics: &[(String, i32)]) -> BTreeMap<(String, i32), i64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set_log_level(RDKafkaLogLevel::Critical)
        .create()
        .expect("a consumer's settings are right");
    let mut asked = TopicPartitionList::new();
    for (topic, partitions) in topics {
        asked.add_partition_range(topic, 0, partitions - 1);
    }
    let found = consumer.committed_offsets(asked, QUESTION).expect("the broker says what a group committed");
    let offset = |place: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match place.offset() {
        Offset::Offset(offset) => Some(((place.topic().to_owned(), place.partition()), offset)),
        _ => None,
    };
    found.elements().iter().filter_map(offset).collect()
}
