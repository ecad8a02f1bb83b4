//! An epoch is in a topic once, whoever writes it how often and wherever it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use tidemill_dataflow::sink::{SinkNotes, SinkStart, TableWriter};
use tidemill_dataflow::source::DeadLetter;
use tidemill_kafka::produce::read_committed;
use tidemill_kafka::{Credentials, DeadLetterTopic, Fenced, KafkaConfig, KafkaTable, dead_letter_line};
use tidemill_tables::web_analytics;

use crate::cluster::*;

struct Setting {
    config: KafkaConfig,
    instance: String,
    /// A later run has begun.
    later: Arc<AtomicBool>,
}

impl Setting {
    fn new(name: &str) -> Setting {
        let prefix = unique(name);
        let address = format!("kafka://{}/{prefix}.", brokers());
        let config = KafkaConfig::sink(&address, &Credentials::default()).unwrap();
        Setting { config, instance: prefix, later: Arc::default() }
    }

    fn start(&self, committed: u64, bound: u64) -> SinkStart {
        let later = Arc::clone(&self.later);
        let fence = move || match later.load(Ordering::Relaxed) {
            true => Err("run 2 has begun".into()),
            false => Ok(()),
        };
        SinkStart {
            instance: self.instance.clone(),
            run: 1,
            committed,
            bound,
            fence: Arc::new(fence),
            notes: SinkNotes::default(),
        }
    }

    fn table(&self) -> KafkaTable {
        KafkaTable::new(self.config.clone(), "web_analytics", web_analytics::revenue_by_minute())
    }

    fn opened(&self, committed: u64, bound: u64) -> KafkaTable {
        let mut table = self.table();
        table.open(&self.start(committed, bound)).unwrap();
        table
    }

    fn topic(&self) -> String {
        self.table().topic().to_owned()
    }

    /// Epoch and orders of each message.
    fn published(&self) -> Vec<(u64, i64)> {
        let messages = read_committed(&self.config, &self.topic()).unwrap();
        let values = messages.iter().map(|(_, value)| serde_json::from_slice::<Value>(value).unwrap());
        values.map(|value| (value["epoch"].as_u64().unwrap(), value["orders"].as_i64().unwrap())).collect()
    }

    fn transactional_id(&self) -> String {
        format!("{}/web_analytics/{}", self.instance, self.topic())
    }
}

#[test]
fn an_epoch_written_twice_is_there_once() {
    let setting = Setting::new("twice");
    let mut table = setting.opened(0, 0);
    table.write_epoch(1, 0, revenue(&[1, 2])).unwrap();
    table.write_epoch(2, 0, revenue(&[])).unwrap();
    table.write_epoch(3, 0, revenue(&[3])).unwrap();
    table.write_epoch(3, 0, revenue(&[3])).unwrap();
    drop(table);
    // Killed before the log said that epoch 3 is there: it is written again by the next run.
    let mut next = setting.opened(2, 3);
    next.write_epoch(3, 0, revenue(&[3])).unwrap();
    next.write_epoch(4, 0, revenue(&[4])).unwrap();
    assert_eq!(setting.published(), [(1, 1), (1, 2), (3, 3), (4, 4)]);
    let messages = read_committed(&setting.config, &setting.topic()).unwrap();
    assert_eq!(String::from_utf8_lossy(&messages[0].0), r#"["default","1970-01-01T00:00:00.000Z","EUR"]"#);
}

#[test]
fn rows_that_fold_away_take_no_transaction() {
    let setting = Setting::new("nothing");
    let mut table = setting.opened(0, 0);
    table.write_epoch(1, 0, [revenue(&[5]), revenue(&[-5])].concat()).unwrap();
    table.write_epoch(2, 0, [revenue(&[5]), revenue(&[2])].concat()).unwrap();
    assert_eq!(setting.published(), [(2, 7)]);
}

/// A writer that stopped between producing an epoch and committing it.
fn half_written(setting: &Setting, epoch: i64) -> BaseProducer {
    let producer = transactional(&setting.transactional_id());
    let topic = setting.topic();
    let record = BaseRecord::<str, str>::to(&topic).key("k").payload(r#"{"epoch":1,"orders":666}"#);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    let group = format!("tidemill-sink/{}/revenue_by_minute", setting.instance);
    let mut client = ClientConfig::new();
    let consumer: BaseConsumer = client.set("bootstrap.servers", brokers()).set("group.id", &group).create().unwrap();
    let mut mark = TopicPartitionList::new();
    mark.add_partition_offset(&setting.topic(), 0, Offset::Offset(epoch)).unwrap();
    producer.flush(PATIENCE).unwrap();
    producer.send_offsets_to_transaction(&mark, &consumer.group_metadata().unwrap(), PATIENCE).unwrap();
    producer
}

#[test]
fn a_writer_that_stopped_between_producing_and_committing_left_nothing() {
    let setting = Setting::new("between");
    drop(setting.opened(0, 0));
    let stopped = half_written(&setting, 1);
    let mut table = setting.opened(0, 1);
    table.write_epoch(1, 0, revenue(&[1])).unwrap();
    assert!(stopped.commit_transaction(PATIENCE).is_err(), "it is fenced");
    assert_eq!(setting.published(), [(1, 1)]);
}

#[test]
fn a_writer_of_an_earlier_run_is_fenced_and_commits_nothing() {
    let setting = Setting::new("fenced");
    let mut old = setting.opened(0, 0);
    old.write_epoch(1, 0, revenue(&[1])).unwrap();
    let mut new = setting.opened(1, 2);
    setting.later.store(true, Ordering::Relaxed);
    let error = old.write_epoch(2, 0, revenue(&[666])).unwrap_err();
    assert!(error.downcast_ref::<Fenced>().is_some(), "{error}");
    assert!(error.to_string().contains("fenced"), "{error}");
    assert!(setting.table().open(&setting.start(1, 2)).unwrap_err().downcast_ref::<Fenced>().is_some());
    setting.later.store(false, Ordering::Relaxed);
    new.write_epoch(2, 0, revenue(&[2])).unwrap();
    assert_eq!(setting.published(), [(1, 1), (2, 2)]);
}

#[test]
fn a_producer_that_the_broker_gave_up_is_replaced_while_no_later_run_has_begun() {
    let setting = Setting::new("given_up");
    let mut table = setting.opened(0, 0);
    table.write_epoch(1, 0, revenue(&[1])).unwrap();
    // What a coordinator does to a transaction that takes too long looks the same to the producer.
    drop(transactional(&setting.transactional_id()));
    table.write_epoch(2, 0, revenue(&[2])).unwrap();
    // Here somebody else committed the epoch: it is not written again.
    let other = half_written(&setting, 3);
    other.commit_transaction(PATIENCE).unwrap();
    table.write_epoch(3, 0, revenue(&[3])).unwrap();
    table.write_epoch(4, 0, revenue(&[4])).unwrap();
    assert_eq!(setting.published(), [(1, 1), (2, 2), (1, 666), (4, 4)]);
}

#[test]
fn a_topic_that_holds_more_than_the_log_knows_is_refused() {
    let setting = Setting::new("ahead");
    setting.opened(0, 0).write_epoch(9, 0, revenue(&[1])).unwrap();
    let error = setting.table().open(&setting.start(3, 5)).unwrap_err().to_string();
    assert!(error.contains("epochs through 9") && error.contains("log ends at 5"), "{error}");
}

#[test]
fn an_epoch_larger_than_the_producers_queue_is_one_transaction() {
    let setting = Setting::new("large");
    let address = format!("kafka://{}/{}.?queue.buffering.max.messages=1000", brokers(), setting.instance);
    let config = KafkaConfig::sink(&address, &Credentials::default()).unwrap();
    let mut table = KafkaTable::new(config, "web_analytics", web_analytics::revenue_by_minute());
    table.open(&setting.start(0, 0)).unwrap();
    let orders: Vec<i64> = (1..=30_000).collect();
    table.write_epoch(1, 0, revenue(&orders)).unwrap();
    assert_eq!(setting.published(), orders.iter().map(|orders| (1, *orders)).collect::<Vec<_>>());
}

#[test]
fn dead_letters_are_published_once_with_their_place() {
    let setting = Setting::new("letters");
    let lines: Vec<String> = (0..3)
        .map(|n| {
            let payload = b"83.149.9.x".to_vec();
            let letter = DeadLetter { partition: 0, line: 40 + n, reason: "no event".into(), payload, bytes: 10 };
            let mut line = Vec::new();
            dead_letter_line(&letter, "events.a/7", &mut line);
            String::from_utf8(line).unwrap()
        })
        .collect();
    let schema = Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8, false)]));
    let rows = vec![RecordBatch::try_new(schema, vec![Arc::new(StringArray::from(lines))]).unwrap()];
    let mut letters = DeadLetterTopic::new(setting.config.clone(), "web_analytics");
    letters.open(&setting.start(0, 0)).unwrap();
    letters.write_epoch(1, 0, rows.clone()).unwrap();
    let mut again = DeadLetterTopic::new(setting.config.clone(), "web_analytics");
    again.open(&setting.start(0, 1)).unwrap();
    again.write_epoch(1, 0, rows).unwrap();
    let published = read_committed(&setting.config, again.topic()).unwrap();
    assert_eq!(published.len(), 3);
    let first: Value = serde_json::from_slice(&published[0].1).unwrap();
    let place = (first["topic"].as_str(), first["partition"].as_i64(), first["offset"].as_u64());
    assert_eq!(place, (Some("events.a"), Some(7), Some(40)));
    assert_eq!(first["payload"], "83.149.9.x");
    let keys: Vec<&[u8]> = published.iter().map(|(key, _)| key.as_slice()).collect();
    assert_eq!(keys, [b"events.a/7/40", b"events.a/7/41", b"events.a/7/42"]);
}

#[test]
fn a_compacted_topic_takes_dead_letters_and_keeps_each() {
    let setting = Setting::new("compacted");
    let mut letters = DeadLetterTopic::new(setting.config.clone(), "web_analytics");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    let new = NewTopic::new(letters.topic(), 1, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
    block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap()[0].as_ref().unwrap();
    letters.open(&setting.start(0, 0)).unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("line", DataType::Utf8, false)]));
    let rows = |line: &str| {
        vec![
            RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(StringArray::from(vec![line.to_owned()]))])
                .unwrap(),
        ]
    };
    letters
        .write_epoch(1, 0, rows(r#"{"topic":"e","partition":0,"offset":1,"reason":"x","payload":"y","bytes":1}"#))
        .unwrap();
    assert_eq!(read_committed(&setting.config, letters.topic()).unwrap()[0].0, b"e/0/1");
}

#[test]
fn a_message_that_a_topic_will_never_take_ends_the_run_with_the_brokers_words() {
    let setting = Setting::new("never");
    let mut table = setting.table();
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    let new = NewTopic::new(table.topic(), 1, TopicReplication::Fixed(1)).set("max.message.bytes", "20");
    block_on(admin.create_topics([&new], &AdminOptions::new())).unwrap()[0].as_ref().unwrap();
    table.open(&setting.start(0, 0)).unwrap();
    let error = table.write_epoch(1, 0, revenue(&[1])).unwrap_err().to_string();
    assert!(error.contains(table.topic()) && error.contains("max.message.bytes"), "{error}");
}
