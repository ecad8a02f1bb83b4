//! Offsets are mirrored to the consumer group.

use std::collections::BTreeMap;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tidemill_dataflow::sink::{CommitObserver, Committed};
use tidemill_kafka::GroupOffsets;

use crate::cluster::*;

#[test]
fn a_group_shows_the_last_offsets_also_when_commits_come_fast() {
    let topic = topic("group", 1);
    load(&topic, 1, 0..10);
    let group = unique("g");
    let mut reading = opened(&live(&format!("topics={topic}")), &[]);
    let mut observer = GroupOffsets::new(&config(&format!("topics={topic}&group={group}"))).unwrap();
    for epoch in 1..=5 {
        reading.until(0, (1, None), |_, read| !read.ids.is_empty()).unwrap();
        let partitions: BTreeMap<_, _> =
            reading.bindings().into_iter().map(|binding| (binding.partition, binding)).collect();
        let commit = Committed { epoch, complete_through: None, partitions, counts: BTreeMap::new() };
        observer.committed(&commit).unwrap();
    }
    drop(observer);
    let mut client = ClientConfig::new();
    let tool: BaseConsumer = client.set("bootstrap.servers", brokers()).set("group.id", &group).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition(&topic, 0);
    let found = tool.committed_offsets(list, PATIENCE).unwrap();
    assert_eq!(found.find_partition(&topic, 0).unwrap().offset(), Offset::Offset(5));
}
