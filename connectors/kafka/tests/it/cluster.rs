//! What the tests do to the broker, and reading a source to its end.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tidemill_connectors::events::Event;
use tidemill_dataflow::source::{
    Block, BlockReader, Decode, Decoded, PartitionBinding, Source, SourceError, as_the_connector_left_it,
};
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

/// What was read of a partition.
#[derive(Debug, Default)]
pub(crate) struct Read {
    pub(crate) ids: Vec<String>,
    /// Offset and reason.
    pub(crate) letters: Vec<(u64, String)>,
    pub(crate) blocks: Vec<(u64, usize)>,
}

/// A source with its reader.
pub(crate) struct Reading {
    pub(crate) reader: Box<dyn BlockReader>,
    decoder: KafkaDecoder,
}

impl Reading {
    pub(crate) fn open(source: &KafkaSource, recorded: &[PartitionBinding]) -> Reading {
        Reading { reader: source.open(recorded).unwrap(), decoder: source.decoder() }
    }

    pub(crate) fn number(&self, name: &str) -> u32 {
        let at = self.reader.partitions().iter().position(|partition| partition.name == name).unwrap();
        u32::try_from(at).unwrap()
    }

    fn take(&mut self, block: Block, read: &mut Read) {
        let mut decoded = Decoded::default();
        read.blocks.push((block.offset, block.bytes.len()));
        self.decoder.decode(block, &mut decoded);
        read.ids.extend(decoded.records.iter().map(|event: &Event| event.event_id().to_owned()));
        read.letters.extend(decoded.malformed.into_iter().map(|letter| (letter.line, letter.reason)));
    }

    /// Reads a partition until `enough` of what was read, or until it is finished.
    pub(crate) fn until(
        &mut self,
        partition: u32,
        (limit, until): (usize, Option<u64>),
        enough: impl Fn(&Self, &Read) -> bool,
    ) -> Result<Read, SourceError> {
        let mut read = Read::default();
        let mut idle = 0;
        while !self.reader.position(partition).finished && !enough(self, &read) {
            match self.reader.read(partition, limit, until)? {
                Some(block) => self.take(block, &mut read),
                None => {
                    idle += 1;
                    assert!(idle < 3_000, "nothing came for too long; {read:?} {:?}", self.reader.position(partition));
                    self.reader.wait(Duration::from_millis(50))?;
                }
            }
        }
        Ok(read)
    }

    /// Reads a bounded source to its end.
    pub(crate) fn read_to_the_end(&mut self, limit: usize) -> BTreeMap<String, Read> {
        let mut all = BTreeMap::new();
        for (number, partition) in (0..).zip(self.reader.partitions()) {
            all.insert(partition.name, self.until(number, (limit, None), |_, _| false).unwrap());
        }
        all
    }

    /// What the engine would record now.
    pub(crate) fn bindings(&self) -> Vec<PartitionBinding> {
        let binding = |(number, info): (u32, tidemill_dataflow::source::PartitionInfo)| {
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

pub(crate) fn until_end(query: &str) -> KafkaSource {
    KafkaSource::new(config(query)).until_end()
}

pub(crate) fn live(query: &str) -> KafkaSource {
    KafkaSource::new(config(query))
}
