//! Generated lines dealt over the partitions of topics, so that the naive oracle knows which copy of an event wins.
//!
//! All copies of an event go to one partition, as a producer that keys by event id would send them: whichever epochs
//! they fall into, the one with the lowest offset wins. A line's place in its partition is its offset.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tidemill_kafka::KafkaConfig;
use tidemill_kafka::produce::create_topic;

use crate::corpus;
use crate::oracle::Oracle;
use crate::services::{Producer, delete_topic};

/// Topics, and the lines that go to their partitions.
pub struct Topics<'a> {
    names: Vec<(String, i32)>,
    partitions: Vec<(String, i32)>,
    /// Partition (by its place in `partitions`) and line, in the order in which they are sent.
    order: Vec<(usize, &'a [u8])>,
}

impl<'a> Topics<'a> {
    /// Deals lines, but for blank ones, over topics that are named with their number of partitions.
    #[must_use]
    pub fn deal(names: Vec<(String, i32)>, bytes: &'a [u8]) -> Topics<'a> {
        let partitions: Vec<(String, i32)> =
            names.iter().flat_map(|(name, count)| (0..*count).map(|id| (name.clone(), id))).collect();
        let told = corpus::lines(bytes).into_iter().filter(|line| !line.trim_ascii().is_empty());
        let order = told.map(|line| (place(line, partitions.len()), line)).collect();
        Topics { names, partitions, order }
    }

    /// The topics with their number of partitions.
    #[must_use]
    pub fn names(&self) -> &[(String, i32)] {
        &self.names
    }

    /// All partitions: topic and number.
    #[must_use]
    pub fn partitions(&self) -> &[(String, i32)] {
        &self.partitions
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The lines, in the order in which they are sent.
    pub fn lines(&self) -> impl Iterator<Item = &'a [u8]> {
        self.order.iter().map(|(_, line)| *line)
    }

    /// Makes the topics.
    ///
    /// # Panics
    /// When the broker refuses.
    pub fn create(&self, brokers: &str) {
        self.names.iter().for_each(|(name, count)| create(brokers, name, *count));
    }

    /// Deletes the topics and makes empty ones of the same names.
    ///
    /// # Panics
    /// When the broker refuses.
    pub fn make_anew(&self, brokers: &str) {
        self.names.iter().for_each(|(name, _)| delete_topic(brokers, name));
        self.create(brokers);
    }

    /// Sends the lines from `from` to before `until`, in their order; they are on their way when this returns.
    pub fn send(&self, producer: &Producer, from: usize, until: usize) {
        self.send_some(producer, from, until, &vec![true; self.partitions.len()]);
    }

    /// Like [`send`](Topics::send), but only lines of partitions that are `wanted`.
    pub fn send_some(&self, producer: &Producer, from: usize, until: usize, wanted: &[bool]) {
        for (at, line) in self.order[from..until].iter().filter(|(at, _)| wanted[*at]) {
            let (topic, partition) = &self.partitions[*at];
            producer.send(topic, *partition, line);
        }
    }

    /// How many of the first `sent` lines went to each partition.
    #[must_use]
    pub fn counts(&self, sent: usize) -> Vec<u64> {
        let mut counts = vec![0; self.partitions.len()];
        self.order[..sent].iter().for_each(|(at, _)| counts[*at] += 1);
        counts
    }

    /// What each partition holds when all is sent, as the text of a file.
    #[must_use]
    pub fn texts(&self) -> Vec<Vec<u8>> {
        let of = |partition| self.order.iter().filter(move |(at, _)| *at == partition).map(|(_, line)| *line);
        (0..self.partitions.len()).map(|partition| corpus::joined(of(partition))).collect()
    }

    /// What is right to say of these partitions.
    #[must_use]
    pub fn oracle(&self) -> Oracle {
        Oracle::of(self.texts().iter().map(Vec::as_slice))
    }

    /// Writes each partition to a file of `folder`, for an oracle that reads files.
    ///
    /// # Panics
    /// When a file cannot be written.
    #[must_use]
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        fs::create_dir_all(folder).expect("a folder in a temporary one");
        let name = |(topic, id): &(String, i32)| format!("{topic}-{id}.ndjson");
        self.partitions.iter().zip(self.texts()).map(|(p, text)| corpus::file(folder, &name(p), &text)).collect()
    }
}

/// Makes a topic.
///
/// # Panics
/// When the broker refuses.
pub fn create(brokers: &str, topic: &str, partitions: i32) {
    let config = KafkaConfig::at(brokers).expect("the address of a running broker");
    create_topic(&config, topic, partitions).unwrap_or_else(|error| panic!("{topic}: {error}"));
}

/// Where a line goes: by its event id, if it has one.
fn place(line: &[u8], partitions: usize) -> usize {
    let parsed: Value = serde_json::from_slice(line).unwrap_or_default();
    let key = parsed["event_id"].as_str().map_or(line, str::as_bytes);
    // FNV-1a; the low bits of the last bytes alone would be skewed.
    let hash = key
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    usize::try_from((hash ^ (hash >> 29)) % partitions as u64).expect("less than the number of partitions")
}

#[cfg(test)]
mod tests {
    use tidemill_connectors::generate::Rates;

    use super::*;

    #[test]
    fn dealt_lines_mean_the_same_as_before() {
        let bytes = corpus::events(20_000, 5, Rates::within_horizon());
        let topics = Topics::deal(vec![("a".into(), 3), ("b".into(), 5)], &bytes);
        let counts = topics.counts(topics.len());
        assert!(counts.iter().all(|count| *count > 1_500), "{counts:?}");
        let (expected, books) = Oracle::of([bytes.as_slice()]).answer();
        let (found, dealt) = topics.oracle().answer();
        expected.assert_equal(&found, "dealt over partitions");
        assert_eq!(books, dealt);
    }
}
