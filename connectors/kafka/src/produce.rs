//! Loading a topic with lines and reading a topic back, for tools, demos and tests.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{ClientContext, Message, Offset};

use crate::config::KafkaConfig;
use crate::topics::QUIET;
pub use crate::topics::create_topic;

/// How long a broker may be silent before loading or reading is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends lines to a topic, each once and in order within a partition; `partition_of` gets a line's number, from 0, and the
/// line, and says where it goes. Returns when the brokers hold all of them, and how many there were.
///
/// The topic has to be there: see [`create_topic`]. `compression.type` of the address is used, else lz4.
///
/// # Errors
/// What the client or the broker says; some lines may have been written then.
pub fn produce_lines<'a>(
    config: &KafkaConfig,
    topic: &str,
    lines: impl IntoIterator<Item = &'a [u8]>,
    mut partition_of: impl FnMut(u64, &[u8]) -> i32,
) -> Result<u64, KafkaError> {
    let mut client = config.client();
    for (name, value) in [("compression.type", "lz4"), ("linger.ms", "20"), ("queue.buffering.max.kbytes", "65536")] {
        if config.property(name).is_none() {
            client.set(name, value);
        }
    }
    client.set("enable.idempotence", "true").set("acks", "all").set_log_level(RDKafkaLogLevel::Critical);
    let producer: BaseProducer<Lost> = client.create_with_context(Lost::default())?;
    let mut sent = 0;
    for line in lines {
        let partition = partition_of(sent, line);
        let mut record = BaseRecord::<(), [u8]>::to(topic).payload(line).partition(partition);
        while let Err((error, back)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(error);
            }
            producer.poll(Duration::from_millis(10));
            producer.context().first()?;
            record = back;
        }
        sent += 1;
        if sent % 1024 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(PATIENCE)?;
    producer.context().first()?;
    Ok(sent)
}

/// The first message that was not taken.
#[derive(Debug, Default)]
struct Lost(Mutex<Option<KafkaError>>);

impl Lost {
    fn first(&self) -> Result<(), KafkaError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }
}

impl ClientContext for Lost {}

impl ProducerContext for Lost {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
    }
}

/// Key and value of a message, empty where there is none.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// A consumer of what is committed, to be assigned.
pub(crate) fn committed_reader(config: &KafkaConfig) -> Result<BaseConsumer<DefaultConsumerContext>, KafkaError> {
    config
        .client()
        .set("group.id", "tidemill-read")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set_log_level(QUIET)
        .create()
}

/// Reads what is committed in a topic, from its beginning to its end at this moment: keys and values, in the order of
/// each partition.
///
/// # Errors
/// What the client or the broker says, and [`KafkaError::NoMessageReceived`] if nothing came for a minute.
pub fn read_committed(config: &KafkaConfig, topic: &str) -> Result<Vec<KeyValue>, KafkaError> {
    let consumer = committed_reader(config)?;
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let mut partitions = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|found| found.partitions()) {
        partitions.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
    }
    if partitions.count() == 0 {
        return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
    }
    consumer.assign(&partitions)?;
    let mut found = Vec::new();
    let mut open: Vec<i32> = partitions.elements().iter().map(|element| element.partition()).collect();
    while !open.is_empty() {
        match consumer.poll(PATIENCE) {
            None => return Err(KafkaError::NoMessageReceived),
            Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|other| *other != partition),
            Some(Err(error)) => return Err(error),
            Some(Ok(message)) => {
                let bytes = |part: Option<&[u8]>| part.unwrap_or_default().to_vec();
                found.push((bytes(message.key()), bytes(message.payload())));
            }
        }
    }
    Ok(found)
}
