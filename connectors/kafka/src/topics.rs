//! Which topics a cluster has of those that are meant, and making those that are missing.

use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

pub use tidemill_connectors::messages::Topics;

use crate::config::KafkaConfig;

/// The largest message that topics made here take: a row whose texts are as long as an event can be.
pub(crate) const MAX_MESSAGE_BYTES: &str = "16777216";

/// What the cluster has of the topics that are meant: names with their number of partitions, sorted by name.
pub(crate) fn list<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &Topics,
    at_most: Duration,
) -> Result<Vec<(String, i32)>, KafkaError> {
    let metadata = consumer.fetch_metadata(None, at_most)?;
    let count = |partitions: usize| i32::try_from(partitions).unwrap_or(i32::MAX);
    let mut found: Vec<_> = metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none() && topics.matches(topic.name()))
        .map(|topic| (topic.name().to_owned(), count(topic.partitions().len())))
        .collect();
    found.sort();
    Ok(found)
}

/// Creates a topic with the broker's own replication; one that is there already stays as it is.
///
/// # Errors
/// What the broker says, or that it does not answer within ten seconds.
pub fn create_topic(config: &KafkaConfig, topic: &str, partitions: i32) -> Result<(), KafkaError> {
    let admin: AdminClient<DefaultClientContext> = config.client().set_log_level(QUIET).create()?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1)).set("max.message.bytes", MAX_MESSAGE_BYTES);
    let patience = Some(Duration::from_secs(10));
    let options = AdminOptions::new().operation_timeout(patience).request_timeout(patience);
    match block_on(admin.create_topics([&new], &options))?.pop() {
        Some(Ok(_)) | Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | None => Ok(()),
        Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
    }
}

/// Errors are returned; the client has nothing to add to them.
pub(crate) const QUIET: rdkafka::config::RDKafkaLogLevel = rdkafka::config::RDKafkaLogLevel::Critical;
