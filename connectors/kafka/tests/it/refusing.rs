//! What cannot be read as it was is refused, with the partition and the offsets.

use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tidemill_dataflow::source::{PartitionBinding, Source, SourceError};
use tidemill_kafka::KafkaSource;
use tidemill_kafka::produce::create_topic;

use crate::cluster::*;

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap()
}

/// What retention does.
fn delete_before(topic: &str, offset: i64) {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
    block_on(admin().delete_records(&list, &AdminOptions::new())).unwrap();
}

fn delete(topic: &str) {
    block_on(admin().delete_topics(&[topic], &AdminOptions::new())).unwrap();
}

fn refusal(source: &KafkaSource, recorded: &[PartitionBinding]) -> String {
    match source.open(recorded) {
        Ok(_) => panic!("it was opened"),
        Err(error @ (SourceError::Changed { .. } | SourceError::Missing { .. } | SourceError::Usage(_))) => {
            error.to_string()
        }
        Err(error) => panic!("{error}"),
    }
}

fn read_some(source: &KafkaSource, count: usize) -> Vec<PartitionBinding> {
    let mut reading = opened(source, &[]);
    reading.until(0, (1, None), |_, read| read.ids.len() == count).unwrap();
    reading.bindings()
}

#[test]
fn an_offset_that_retention_took_is_named_with_those_that_are_there() {
    let topic = topic("retention", 1);
    load(&topic, 1, 0..100);
    let source = live(&format!("topics={topic}"));
    let recorded = read_some(&source, 10);
    delete_before(&topic, 40);
    let error = refusal(&source, &recorded);
    assert!(error.contains(&format!("{topic}/0")), "{error}");
    assert!(error.contains("offset 10 is wanted and offsets 40 to 100 are available"), "{error}");
    assert!(error.contains("retention"), "{error}");
    assert!(error.ends_with(&format!("give --accept-loss {topic}/0:10-39")), "{error}");
}

#[test]
fn an_offset_that_retention_takes_while_it_is_read_stops_the_run() {
    let topic = topic("retention2", 1);
    // More than is fetched ahead, so that the reader has to come back for it.
    let payload = event(1).replace("click", &"x".repeat(900_000));
    let payloads: Vec<Option<&[u8]>> = vec![Some(payload.as_bytes()); 60];
    send(&topic, 0, &payloads);
    let source = live(&format!("topics={topic}"));
    let mut reading = opened(&source, &[]);
    reading.until(0, (1, None), |_, read| read.blocks.len() == 1).unwrap();
    delete_before(&topic, 60);
    match reading.until(0, (1, None), |_, read| read.blocks.len() == 59) {
        Err(SourceError::Missing { loss, problem }) => {
            assert_eq!((loss.partition, loss.to), (format!("{topic}/0"), 59));
            assert!(problem.contains("offsets 60 to 60 are available"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
}

/// Makes a topic anew, and waits until the cluster says so.
fn make_anew(name: &str) {
    delete(name);
    while create_topic(&cluster(), name, 1).is_err() || live(&format!("topics={name}")).open(&[]).is_err() {}
}

#[test]
fn a_topic_made_anew_is_refused_whatever_stands_in_it() {
    for again in [20, 50, 100, 300] {
        let topic = topic("anew", 1);
        load(&topic, 1, 0..100);
        let source = live(&format!("topics={topic}"));
        let recorded = read_some(&source, 50);
        assert!(recorded[0].detail["topic_id"].is_string(), "{:?}", recorded[0].detail);
        make_anew(&topic);
        load(&topic, 1, 0..again);
        let error = refusal(&source, &recorded);
        assert!(error.contains(&format!("{topic}/0")) && error.contains("made anew"), "{error}");
    }
}

#[test]
fn a_state_that_was_written_before_topics_were_told_apart_is_read_and_told_from_then_on() {
    let topic = topic("older", 1);
    load(&topic, 1, 0..100);
    let source = live(&format!("topics={topic}"));
    let mut recorded = read_some(&source, 50);
    recorded[0].detail.as_object_mut().unwrap().remove("topic_id");
    let reading = opened(&source, &recorded);
    assert!(reading.bindings()[0].detail["topic_id"].is_string());
}

#[test]
fn a_topic_made_anew_while_it_is_read_stops_the_run() {
    let topic = topic("anew_live", 1);
    load(&topic, 1, 0..100);
    let mut reading = opened(&live(&format!("topics={topic}")), &[]);
    reading.until(0, (1 << 20, None), |_, read| read.ids.len() == 100).unwrap();
    make_anew(&topic);
    load(&topic, 1, 0..100);
    let found = loop {
        match reading.reader.discover() {
            Ok(_) => reading.reader.wait(Duration::from_millis(50)).unwrap(),
            Err(error) => break error.to_string(),
        }
    };
    assert!(found.contains(&topic), "{found}");
}

#[test]
fn a_topic_that_is_not_there_or_not_meant_any_more_gets_a_sentence() {
    let check = |source: &KafkaSource, recorded: &[PartitionBinding], parts: &[&str]| {
        let error = refusal(source, recorded);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let missing = unique("missing");
    check(&until_end(&format!("topics={missing}")), &[], &[&missing, "create it"]);
    check(&until_end(&format!("topics={missing}.*")), &[], &["no topic", "topics="]);
    let (a, b) = (topic("a", 1), topic("b", 1));
    load(&a, 1, 0..3);
    let recorded = read_some(&live(&format!("topics={a}")), 3);
    check(&live(&format!("topics={b}")), &recorded, &[&a, "name its topic again"]);
    let range = "offset 99 is wanted and offsets 0 to 3 are available";
    check(&live(&format!("topics={a}&start=offsets:{a}/0=99")), &[], &[range]);
}
