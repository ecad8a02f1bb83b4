//! Everything that is committed is read, once, in the order of each partition, however blocks are cut.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::producer::Producer;
use tidemill_dataflow::source::PartitionBinding;
use tidemill_kafka::produce::{create_topic, produce_lines};
use tidemill_kafka::{AvroToJson, Credentials, KafkaConfig, KafkaSource, Unprepared};

use crate::cluster::*;

fn ids(range: impl Iterator<Item = u64>) -> Vec<String> {
    range.map(|id| format!("e{id}")).collect()
}

#[test]
fn any_block_limit_gives_what_was_produced_and_the_same_digests() {
    let topic = topic("limits", 4);
    load(&topic, 4, 0..4_000);
    let source = until_end(&format!("topics={topic}"));
    let mut positions = Vec::new();
    for limit in [1, 777, 64 << 10, 4 << 20] {
        let mut reading = opened(&source, &[]);
        assert!(reading.reader.bounded());
        let read = reading.read_to_the_end(limit);
        for partition in 0..4_u64 {
            let name = format!("{topic}/{partition}");
            assert_eq!(read[&name].ids, ids((0..4_000).filter(|id| id % 4 == partition)), "limit {limit}");
            assert_eq!(read[&name].letters, []);
        }
        let position = |number| reading.reader.position(number);
        positions.push((0..4).map(position).collect::<Vec<_>>());
    }
    assert!(positions.iter().all(|other| *other == positions[0]), "{positions:?}");
    assert_eq!((positions[0][0].offset, positions[0][0].lines), (1_000, 1_000));
    let blocks = |read: BTreeMap<String, Read>| read.into_values().map(|read| read.blocks).collect::<Vec<_>>();
    let again = || blocks(opened(&source, &[]).read_to_the_end(10_000));
    assert_eq!(again(), again(), "blocks of a bounded source are the same each time");
}

#[test]
fn reading_goes_on_where_it_was_recorded() {
    let topic = topic("resume", 2);
    load(&topic, 2, 0..200);
    let source = live(&format!("topics={topic}"));
    let mut first = opened(&source, &[]);
    let before = first.until(0, (2_000, None), |_, read| read.ids.len() >= 20).unwrap();
    let recorded = first.bindings();
    drop(first);
    load(&topic, 2, 200..300);
    let ending = until_end(&format!("topics={topic}"));
    let mut second = opened(&ending, &recorded);
    let mut read = second.read_to_the_end(1 << 20);
    let mut all = before.ids;
    all.append(&mut read.get_mut(&format!("{topic}/0")).unwrap().ids);
    assert_eq!(all, ids((0..300).filter(|id| id % 2 == 0)));
    let mut whole = opened(&ending, &[]);
    whole.read_to_the_end(1 << 20);
    assert_eq!(whole.bindings(), second.bindings(), "the digest went on from its text");
}

#[test]
fn a_replay_reads_the_recorded_range_and_nothing_behind_it() {
    let topic = topic("replay", 1);
    load(&topic, 1, 0..100);
    let source = live(&format!("topics={topic}"));
    let mut first = opened(&source, &[]);
    first.until(0, (3_000, None), |_, read| read.ids.len() >= 30).unwrap();
    let end = first.reader.position(0);
    let mut again = opened(&source, &[]);
    let read = again.until(0, (100, Some(end.offset)), |r, _| r.reader.position(0).offset >= end.offset).unwrap();
    assert_eq!(read.ids, ids(0..end.offset));
    assert_eq!(again.reader.position(0).digest, end.digest);
    assert!(again.reader.read(0, 1_000, Some(end.offset)).unwrap().is_none());
    // Bound after the checkpoint: handed back without a digest, and read again from where it began.
    let mut recorded = first.bindings();
    (recorded[0].end, recorded[0].lines, recorded[0].digest) = (0, 0, String::new());
    recorded[0].detail["start"] = 5.into();
    let mut from_start = opened(&source, &recorded);
    let bound_again = from_start.until(0, (100, Some(10)), |r, _| r.reader.position(0).offset >= 10).unwrap();
    assert_eq!(bound_again.ids, ids(5..10));
}

#[test]
fn every_compression_is_readable() {
    for kind in ["none", "lz4", "zstd", "snappy", "gzip"] {
        let topic = topic(kind, 1);
        let address = format!("kafka://{}?compression.type={kind}", brokers());
        let config = KafkaConfig::sink(&address, &Credentials::default()).unwrap();
        let lines: Vec<String> = (0..500).map(event).collect();
        produce_lines(&config, &topic, lines.iter().map(String::as_bytes), |_, _| 0).unwrap();
        let read = opened(&until_end(&format!("topics={topic}")), &[]).read_to_the_end(1 << 20);
        assert_eq!(read[&format!("{topic}/0")].ids, ids(0..500), "{kind}");
    }
}

#[test]
fn aborted_transactions_are_not_read_and_open_ones_are_not_waited_for() {
    let topic = topic("aborted", 1);
    let producer = transactional(&topic);
    put(&producer, &topic, &event(0));
    producer.commit_transaction(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    put(&producer, &topic, &event(666));
    producer.flush(PATIENCE).unwrap();
    producer.abort_transaction(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    put(&producer, &topic, &event(1));
    producer.commit_transaction(PATIENCE).unwrap();
    producer.begin_transaction().unwrap();
    put(&producer, &topic, &event(2));
    producer.flush(PATIENCE).unwrap();
    let source = until_end(&format!("topics={topic}"));
    let name = format!("{topic}/0");
    // 0, marker, 666, marker, 1, marker: all of it is behind the position.
    let reading = settled(&source, &[], &name, &["e0".to_owned(), "e1".to_owned()], 6);
    assert_eq!(reading.reader.position(0).lines, 2);
    producer.commit_transaction(PATIENCE).unwrap();
    settled(&source, &reading.bindings(), &name, &["e2".to_owned()], 8);
}

#[test]
fn a_tail_of_markers_ends_and_nothing_but_markers_too() {
    let topic = topic("markers", 1);
    let producer = transactional(&topic);
    put(&producer, &topic, &event(666));
    producer.flush(PATIENCE).unwrap();
    producer.abort_transaction(PATIENCE).unwrap();
    let source = until_end(&format!("topics={topic}"));
    let reading = settled(&source, &[], &format!("{topic}/0"), &[], 2);
    load(&topic, 1, 0..3);
    producer.begin_transaction().unwrap();
    put(&producer, &topic, &event(3));
    producer.commit_transaction(PATIENCE).unwrap();
    settled(&source, &reading.bindings(), &format!("{topic}/0"), &ids(0..4), 7);
}

/// Reads until the offset is reached that the partition will end at. A broker answers the end of a transaction before it
/// has written the marker, so what is committed may end in front of it for a moment.
fn settled(
    source: &KafkaSource,
    bindings: &[PartitionBinding],
    name: &str,
    expected: &[String],
    offset: u64,
) -> Reading {
    let mut seen = (Vec::new(), 0);
    for _ in 0..500 {
        let mut reading = opened(source, bindings);
        let ids = reading.read_to_the_end(1 << 20).get(name).map(|read| read.ids.clone()).unwrap_or_default();
        seen = (ids, reading.reader.position(0).offset);
        if seen == (expected.to_vec(), offset) {
            return reading;
        }
    }
    panic!("{name} ends with {seen:?}, not with {expected:?} at {offset}");
}

#[test]
fn a_live_partition_is_caught_up_when_the_broker_says_so() {
    let topic = topic("live", 1);
    let source = live(&format!("topics={topic}"));
    let mut reading = opened(&source, &[]);
    assert!(!reading.reader.bounded());
    reading.until(0, (1 << 20, None), |r, _| r.reader.position(0).caught_up).unwrap();
    load(&topic, 1, 0..10);
    let read = reading.until(0, (1 << 20, None), |_, read| read.ids.len() == 10).unwrap();
    assert_eq!(read.ids, ids(0..10));
    reading.until(0, (1 << 20, None), |r, _| r.reader.position(0).caught_up).unwrap();
    assert!(!reading.reader.position(0).finished);
}

/// Takes what the client has to say, and reads nothing, until so many messages are said to wait.
fn until_lag(reading: &mut Reading, partition: u32, messages: u64) {
    let mut lag = None;
    for _ in 0..600 {
        lag = reading.reader.lag(partition);
        if lag == Some(messages) {
            return;
        }
        reading.reader.discover().unwrap();
        reading.reader.wait(Duration::from_millis(50)).unwrap();
    }
    panic!("{messages} messages wait, and {lag:?} are told");
}

#[test]
fn what_waits_in_a_partition_is_told_whether_or_not_it_is_read() {
    let topic = topic("lag", 2);
    load(&topic, 2, 0..20);
    let mut reading = opened(&live(&format!("topics={topic}")), &[]);
    assert_eq!(reading.reader.lag(0), None, "nothing was fetched yet");
    until_lag(&mut reading, 0, 10);
    until_lag(&mut reading, 1, 10);
    reading.until(0, (1, None), |_, read| read.ids.len() == 4).unwrap();
    assert_eq!(reading.reader.lag(0), Some(6));
    reading.until(0, (1 << 20, None), |r, _| r.reader.position(0).caught_up).unwrap();
    until_lag(&mut reading, 0, 0);
    load(&topic, 2, 20..26);
    until_lag(&mut reading, 0, 3);
    until_lag(&mut reading, 1, 13);
    let ending = opened(&until_end(&format!("topics={topic}")), &[]);
    load(&topic, 2, 26..30);
    assert_eq!([ending.reader.lag(0), ending.reader.lag(1)], [Some(13), Some(13)], "a run that ends reads no more");
}

#[test]
fn markers_of_transactions_do_not_count_as_waiting_messages() {
    let topic = topic("lag_markers", 1);
    let producer = transactional(&topic);
    put(&producer, &topic, &event(0));
    producer.commit_transaction(PATIENCE).unwrap();
    let mut reading = opened(&live(&format!("topics={topic}")), &[]);
    reading.until(0, (1 << 20, None), |r, read| !read.ids.is_empty() && r.reader.position(0).caught_up).unwrap();
    until_lag(&mut reading, 0, 0);
    producer.begin_transaction().unwrap();
    put(&producer, &topic, &event(1));
    producer.commit_transaction(PATIENCE).unwrap();
    reading.until(0, (1 << 20, None), |_, read| !read.ids.is_empty()).unwrap();
    reading.until(0, (1 << 20, None), |r, _| r.reader.position(0).caught_up).unwrap();
    until_lag(&mut reading, 0, 0);
    assert_eq!(reading.reader.position(0).offset, 3, "the last marker stands behind it");
}

#[test]
fn a_broken_message_is_a_dead_letter_with_its_offset() {
    let topic = topic("broken", 1);
    let pretty = event(7).replace(',', ",\n");
    let messages: [Option<&[u8]>; 6] =
        [Some(b"{}"), None, Some(pretty.as_bytes()), Some(b""), Some(b"\0\0\0\0\x07avro"), Some(b"\xff")];
    send(&topic, 0, &messages);
    let read = opened(&until_end(&format!("topics={topic}")), &[]).read_to_the_end(1 << 20);
    let read = &read[&format!("{topic}/0")];
    assert_eq!(read.ids, ["e7"]);
    let offsets: Vec<u64> = read.letters.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [0, 1, 3, 4, 5]);
    assert!(read.letters[3].1.contains("SCHEMA_REGISTRY_URL"), "{:?}", read.letters);
}

/// A registry that does not answer at first.
struct Slow(AtomicU32);

impl AvroToJson for Slow {
    fn prepare(&self, _: &[u8]) -> Result<(), Unprepared> {
        let away = self.0.fetch_add(1, Ordering::Relaxed) < 3;
        if away { Err(Unprepared::Away("it does not answer".into())) } else { Ok(()) }
    }

    fn to_json(&self, framed: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        assert!(self.0.load(Ordering::Relaxed) > 3, "not before the schema is there");
        out.extend_from_slice(&framed[5..]);
        Ok(())
    }
}

#[test]
fn an_avro_message_is_waited_with_until_its_schema_is_there() {
    let topic = topic("avro", 1);
    let (plain, avro) = (event(0), format!("\0\0\0\0\x01{}", event(1)));
    let last = event(2);
    send(&topic, 0, &[Some(plain.as_bytes()), Some(avro.as_bytes()), Some(last.as_bytes()), Some(avro.as_bytes())]);
    let registry = Arc::new(Slow(AtomicU32::new(0)));
    let source = until_end(&format!("topics={topic}")).with_avro(Arc::clone(&registry) as Arc<dyn AvroToJson>);
    let read = opened(&source, &[]).read_to_the_end(1 << 20);
    let read = &read[&format!("{topic}/0")];
    assert_eq!(read.ids, ["e0", "e1", "e2", "e1"]);
    assert_eq!(registry.0.load(Ordering::Relaxed), 4, "a schema is asked for once");
}

#[test]
fn a_start_is_earliest_latest_a_time_or_offsets() {
    let topic = topic("start", 2);
    load(&topic, 2, 0..20);
    let first = |query: &str| {
        let reading = opened(&live(&format!("topics={topic}&start={query}")), &[]);
        [reading.reader.position(0).offset, reading.reader.position(1).offset]
    };
    assert_eq!(first("earliest"), [0, 0]);
    assert_eq!(first("latest"), [10, 10]);
    assert_eq!(first("timestamp:0"), [0, 0]);
    assert_eq!(first("timestamp:99999999999999"), [10, 10]);
    assert_eq!(first(&format!("offsets:{topic}/1=4")), [0, 4]);
}

#[test]
fn new_partitions_and_topics_are_found_while_reading_and_numbered_behind_the_others() {
    let prefix = unique("found");
    let first = format!("{prefix}.b");
    create_topic(&cluster(), &first, 1).unwrap();
    load(&first, 1, 0..5);
    let source = live(&format!("topics={prefix}.*&start=latest"));
    let mut reading = opened(&source, &[]);
    let second = format!("{prefix}.a");
    create_topic(&cluster(), &second, 1).unwrap();
    add_partitions(&first, 2);
    load(&second, 1, 5..8);
    load(&first, 2, 8..10);
    let names = |of: &Reading| of.reader.partitions().into_iter().map(|p| p.name).collect::<Vec<_>>();
    for _ in 0..600 {
        reading.reader.discover().unwrap();
        if reading.reader.partitions().len() == 3 {
            break;
        }
        reading.reader.wait(Duration::from_millis(50)).unwrap();
    }
    let expected = [format!("{first}/0"), format!("{second}/0"), format!("{first}/1")];
    assert_eq!(names(&reading), expected);
    let read = |from: &mut Reading, name: &str, count: usize| {
        let number = from.number(name);
        from.until(number, (1 << 20, None), |_, seen| seen.ids.len() >= count).unwrap().ids
    };
    assert_eq!(read(&mut reading, &expected[1], 3), ids(5..8), "what appears later is read from its beginning");
    assert_eq!(read(&mut reading, &expected[2], 1), ["e9"]);
    assert_eq!(read(&mut reading, &expected[0], 1), ["e8"]);
    // The numbers stay when the source is opened again.
    let recorded = reading.bindings();
    drop(reading);
    assert_eq!(names(&opened(&source, &recorded)), expected);
}

fn add_partitions(topic: &str, count: usize) {
    use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
    let admin: AdminClient<rdkafka::client::DefaultClientContext> =
        rdkafka::ClientConfig::new().set("bootstrap.servers", brokers()).create().unwrap();
    let more = NewPartitions::new(topic, count);
    futures::executor::block_on(admin.create_partitions([&more], &AdminOptions::new())).unwrap();
}

#[test]
fn many_partitions_share_a_bounded_queue_and_are_all_read() {
    let topic = topic("many", 100);
    load(&topic, 100, 0..2_000);
    let source: KafkaSource = until_end(&format!("topics={topic}"));
    let read = opened(&source, &[]).read_to_the_end(64 << 10);
    assert_eq!(read.values().map(|read| read.ids.len()).sum::<usize>(), 2_000);
}
