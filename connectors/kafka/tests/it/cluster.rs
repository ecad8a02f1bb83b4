//! What the tests do to the broker, and reading a source to its end.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidemill_connectors::conformance::reading;
pub(crate) use tidemill_connectors::conformance::reading::Read;
pub(crate) use tidemill_connectors::conformance::sink::revenue;
use tidemill_dataflow::source::PartitionBinding;
use tidemill_kafka::produce::{create_topic, produce_lines};
use tidemill_kafka::{Credentials, KafkaConfig, KafkaDecoder, KafkaSource};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn brokers() -> String {
    std::env::var("KAFKA_BROKERS").expect("KAFKA_BROKERS is not set; run `make services` and take its variables")
}

/// A name that no other test has.
pub(crate) fn unique(name: &str) -> String {
    format!("t.{name}.{:016x}", RandomState::new().build_hasher().finish())
}

pub(crate) fn cluster() -> KafkaConfig {
    KafkaConfig::at(&brokers()).unwrap()
}

pub(crate) fn topic(name: &str, partitions: i32) -> String {
    let topic = unique(name);
    create_topic(&cluster(), &topic, partitions).unwrap();
    topic
}

pub(crate) fn config(query: &str) -> KafkaConfig {
    KafkaConfig::source(&format!("kafka://{}?{query}", brokers()), &Credentials::default()).unwrap()
}

pub(crate) fn event(id: u64) -> String {
    let user = id % 17;
    format!(
        r#"{{"event_id":"e{id}","event_type":"click","user_id":"u{user}","timestamp":{},"properties":{{"n":{id}}}}}"#,
        1_431_857_103_000 + id
    )
}

/// Sends events `from..to`, dealt over the partitions in turn.
pub(crate) fn load(topic: &str, partitions: i32, ids: std::ops::Range<u64>) {
    let lines: Vec<String> = ids.map(event).collect();
    let partition = |n: u64| i32::try_from(n % u64::try_from(partitions).unwrap()).unwrap();
    let lines = lines.iter().map(String::as_bytes);
    produce_lines(&cluster(), topic, lines, |n, _| partition(n)).unwrap();
}

/// Sends payloads as they are.
pub(crate) fn send(topic: &str, partition: i32, payloads: &[Option<&[u8]>]) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    for payload in payloads {
        let mut record = BaseRecord::<(), [u8]>::to(topic).partition(partition);
        record.payload = *payload;
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

/// A producer inside a transaction.
pub(crate) fn transactional(id: &str) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers()).set("transactional.id", id);
    let producer: BaseProducer = config.create().unwrap();
    producer.init_transactions(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    producer
}

pub(crate) fn put(producer: &BaseProducer, topic: &str, text: &str) {
    producer.send(BaseRecord::<(), str>::to(topic).partition(0).payload(text)).map_err(|(error, _)| error).unwrap();
}

/// A source with its reader.
pub(crate) type Reading = reading::Reading<KafkaDecoder>;

pub(crate) fn opened(source: &KafkaSource, recorded: &[PartitionBinding]) -> Reading {
    Reading::open(source, recorded, (3_000, Duration::from_millis(50))).unwrap()
}

pub(crate) fn until_end(query: &str) -> KafkaSource {
    KafkaSource::new(config(query)).until_end()
}

pub(crate) fn live(query: &str) -> KafkaSource {
    KafkaSource::new(config(query))
}
