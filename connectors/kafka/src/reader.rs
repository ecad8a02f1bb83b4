//! All partitions together, on the engine's reader thread.
//!
//! Nothing here waits but [`wait`](BlockReader::wait), and the short questions after new partitions and after a broker that
//! was away.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{Message as _, Offset};
use serde_json::Value;
use tidemill_connectors::messages::{AvroToJson, Cutter, Extent, Progress};
use tidemill_dataflow::source::{Block, BlockReader, PartitionInfo, Position, SourceError};
use tidemill_dataflow::time::EventTime;
use tracing::info;

use crate::config::KafkaConfig;
use crate::partition::{Inbox, Partition, changed, same_topic, watermarks};
use crate::topic_ids::{TopicIds, topic_ids};
use crate::topics;
use crate::trouble::{Watch, denied};

/// How often new partitions are looked for.
const DISCOVER_EVERY: Duration = Duration::from_secs(5);
/// How often a broker that is away is asked whether it is back.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// How long such a question may take.
const QUESTION: Duration = Duration::from_millis(500);
/// The most that is slept without serving the client's events.
const NAP: Duration = Duration::from_millis(200);
/// How long a reader that ends waits for its clients to be closed.
const CLOSED: Duration = Duration::from_secs(1);
/// How often the ids of topics are asked for in vain before reading goes on: it takes a controller to know them.
const UNANSWERED: u8 = 3;
/// How many lists in a row must lack a topic before it counts as deleted.
const MISSING: u8 = 3;

/// A partition to be opened.
pub(crate) struct Place {
    pub(crate) topic: String,
    pub(crate) id: i32,
    /// Which topic of this name it is, where the cluster says so.
    pub(crate) topic_id: Option<String>,
    /// Where reading began in the first run.
    pub(crate) start: u64,
    /// Where it goes on.
    pub(crate) at: Progress,
    /// Where what is committed ended when it was opened.
    pub(crate) end: u64,
}

/// The clients of a reader.
#[derive(Clone)]
pub(crate) struct Clients {
    /// Fetches messages.
    pub(crate) fetching: Arc<BaseConsumer<Watch>>,
    /// Asks what is there. A broker answers one connection in order, so a question there would wait behind a fetch that
    /// waits for messages.
    pub(crate) asking: Arc<BaseConsumer<Watch>>,
}

/// Closes the clients when all others have let go of them: on a thread of its own, as that may take as long as their
/// coordinator is away, and a run that ends waits for its reader.
struct Closing(Option<Clients>);

impl Drop for Closing {
    fn drop(&mut self) {
        let (closing, closed) = channel::<()>();
        let clients = self.0.take();
        let close = move || {
            drop(clients);
            drop(closing);
        };
        if thread::Builder::new().name("kafka closing".into()).spawn(close).is_ok() {
            // Ends with an error in any case: they are closed, or that takes too long.
            let _ = closed.recv_timeout(CLOSED);
        }
    }
}

/// The reader of a [`KafkaSource`](crate::KafkaSource).
pub(crate) struct KafkaReader {
    clients: Clients,
    config: KafkaConfig,
    extent: Extent,
    avro: Option<Arc<dyn AvroToJson>>,
    partitions: Vec<Partition>,
    discovered: Instant,
    probed: Instant,
    missing: u8,
    unanswered: u8,
    /// Dropped last.
    _closing: Closing,
}

#[expect(clippy::disallowed_methods, reason = "when to ask a broker again reaches no result")]
fn now() -> Instant {
    Instant::now()
}

impl KafkaReader {
    pub(crate) fn new(
        clients: Clients,
        config: KafkaConfig,
        extent: Extent,
        avro: Option<Arc<dyn AvroToJson>>,
    ) -> KafkaReader {
        let started = now();
        let (partitions, closing) = (Vec::new(), Closing(Some(clients.clone())));
        let (missing, unanswered) = (0, 0);
        let (discovered, probed) = (started, started);
        KafkaReader {
            clients,
            config,
            extent,
            avro,
            partitions,
            discovered,
            probed,
            missing,
            unanswered,
            _closing: closing,
        }
    }

    /// Begins to fetch these partitions, numbered in this order behind those that are there.
    pub(crate) fn add(&mut self, places: Vec<Place>) -> Result<(), SourceError> {
        let mut assignment = TopicPartitionList::new();
        for Place { topic, id, topic_id, start, at, end } in places {
            let number = u32::try_from(self.partitions.len())
                .map_err(|_| SourceError::Usage("there are more than 2^32 partitions".into()))?;
            let inbox = Inbox::split(&self.clients.fetching, (&topic, id), at.offset, self.avro.clone())?;
            if !self.extent.bounded() || at.offset < end {
                let offset = i64::try_from(at.offset).unwrap_or(i64::MAX);
                assignment.add_partition_offset(&topic, id, Offset::Offset(offset)).map_err(|error| self.io(&error))?;
            }
            let cutter = Cutter::new(number, self.extent.cutting(end), at, end);
            self.partitions.push(Partition { topic, id, topic_id, start, cutter, inbox });
        }
        if assignment.count() == 0 {
            return Ok(());
        }
        self.clients.fetching.incremental_assign(&assignment).map_err(|error| self.io(&error))
    }

    fn io(&self, error: &KafkaError) -> SourceError {
        let partition = format!("Kafka at {}", self.config.brokers);
        SourceError::Io { partition, source: io::Error::other(error.to_string()) }
    }

    fn watch(&self) -> &Watch {
        self.clients.fetching.context()
    }

    /// Takes what the clients have to say beside the partitions' messages.
    fn serve(&self) -> Result<(), SourceError> {
        serve(&self.clients.fetching, &self.config)?;
        serve(&self.clients.asking, &self.config)
    }

    /// Asks a broker that was away whether it is back.
    fn probe(&mut self, at_most: Duration) {
        if !self.watch().in_outage() || self.probed.elapsed() < PROBE_EVERY {
            return;
        }
        let topic = self.partitions.first().map(|partition| partition.topic.as_str());
        if self.clients.asking.fetch_metadata(topic, at_most.min(QUESTION)).is_ok() {
            // Meanwhile somebody may have made a topic anew.
            self.watch().doubt();
            self.watch().end_outage();
        }
        self.probed = now();
    }

    /// Looks for partitions that were not there before.
    fn look_for_new(&mut self) -> Result<(), SourceError> {
        let found = match topics::list(&self.clients.asking, &self.config.topics, QUESTION) {
            Ok(found) => found,
            Err(error) => {
                self.watch().begin_outage(&error.to_string());
                return Ok(());
            }
        };
        self.watch().end_outage();
        let gone =
            self.partitions.iter().find(|p| !found.iter().any(|(topic, count)| *topic == p.topic && p.id < *count));
        self.missing = if gone.is_some() { self.missing + 1 } else { 0 };
        if let Some(gone) = gone.filter(|_| self.missing >= MISSING) {
            return Err(changed(&gone.topic, gone.id, "it was deleted from the cluster while it was read"));
        }
        let names: Vec<&str> = found.iter().map(|(topic, _)| topic.as_str()).collect();
        // Without an answer the offsets tell; it is asked again the next time.
        let ids = self.ids(&names).unwrap_or_default();
        self.same_topics(&ids)?;
        let mut new = Vec::new();
        for (topic, count) in found {
            let known = self.partitions.iter().filter(|p| p.topic == topic).map(|p| p.id).collect::<Vec<_>>();
            for id in (0..count).filter(|id| !known.contains(id)) {
                // A partition that does not answer yet is found again the next time; those after it wait for it, so
                // that numbers follow names.
                let Ok((low, end)) = watermarks(&self.clients.asking, (&topic, id), QUESTION) else {
                    return self.add(new);
                };
                info!("{topic}/{id} is new and read from its beginning");
                let at = Progress::beginning(low);
                let topic_id = ids.get(&topic).cloned();
                new.push(Place { topic: topic.clone(), id, topic_id, start: low, at, end });
            }
        }
        self.add(new)
    }

    fn ids(&self, topics: &[&str]) -> Result<TopicIds, KafkaError> {
        topic_ids(&self.clients.asking, topics, QUESTION)
    }

    /// Whether the topics are those that were read: one of the same name, made anew, has other messages at its offsets.
    fn same_topics(&self, ids: &TopicIds) -> Result<(), SourceError> {
        let same = |partition: &Partition| {
            same_topic(&partition.name(), partition.topic_id.as_deref(), ids.get(&partition.topic))
        };
        self.partitions.iter().try_for_each(same)
    }

    /// Asks the same, where something was said of the topics: before more of them is read.
    fn look_at_topics(&mut self) -> Result<(), SourceError> {
        if !self.watch().take_doubt() {
            return Ok(());
        }
        let topics: BTreeSet<&str> = self.partitions.iter().map(|partition| partition.topic.as_str()).collect();
        match self.ids(&topics.into_iter().collect::<Vec<_>>()) {
            Ok(ids) => {
                self.unanswered = 0;
                self.same_topics(&ids)
            }
            Err(_) => {
                self.unanswered += 1;
                if self.unanswered < UNANSWERED {
                    self.watch().doubt();
                } else {
                    self.unanswered = 0;
                }
                Ok(())
            }
        }
    }

    fn partition(&self, number: u32) -> &Partition {
        self.partitions.get(number as usize).expect("partitions are numbered as this reader lists them")
    }
}

/// Takes what the client has to say beside the partitions' messages.
pub(crate) fn serve(consumer: &BaseConsumer<Watch>, config: &KafkaConfig) -> Result<(), SourceError> {
    let mut silent = 0;
    // A line of the client's log ends a poll like silence does, and errors stand behind it.
    while silent < 8 {
        match consumer.poll(Duration::ZERO) {
            None => silent += 1,
            Some(Ok(message)) => {
                // It would be lost here, and what is lost must stop the run.
                let partition = format!("{}/{}", message.topic(), message.partition());
                let source =
                    io::Error::other("a message came outside its partition's queue; this is a mistake of ours");
                return Err(SourceError::Io { partition, source });
            }
            Some(Err(error)) => {
                silent = 0;
                if let Some(code) = error.rdkafka_error_code() {
                    consumer.context().judged(code, &error.to_string());
                }
            }
        }
    }
    match consumer.context().refused() {
        Some(reason) => Err(denied(&config.brokers, &reason)),
        None => Ok(()),
    }
}

impl BlockReader for KafkaReader {
    fn partitions(&self) -> Vec<PartitionInfo> {
        self.partitions.iter().map(Partition::info).collect()
    }

    fn bounded(&self) -> bool {
        self.extent.bounded()
    }

    fn over_when_finished(&self) -> bool {
        self.extent.over_when_finished()
    }

    fn discover(&mut self) -> Result<bool, SourceError> {
        self.serve()?;
        self.look_at_topics()?;
        if self.extent.bounded() || self.discovered.elapsed() < DISCOVER_EVERY {
            return Ok(false);
        }
        let known = self.partitions.len();
        let looked = self.look_for_new();
        self.discovered = now();
        looked.map(|()| self.partitions.len() > known)
    }

    fn wait(&mut self, at_most: Duration) -> Result<(), SourceError> {
        self.serve()?;
        self.probe(at_most);
        self.watch().wait(at_most.min(NAP));
        Ok(())
    }

    fn head(&mut self, _partition: u32) -> Result<Option<EventTime>, SourceError> {
        // The broker's time of a message may lie behind its event time, and would then let the watermark run ahead; so
        // nothing is told, and a partition is read before it is judged.
        Ok(None)
    }

    fn read(&mut self, partition: u32, limit: usize, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        if self.watch().in_doubt() {
            self.look_at_topics()?;
            if self.watch().in_doubt() {
                return Ok(None);
            }
        }
        let found = self.partitions.get_mut(partition as usize);
        found.expect("partitions are numbered as this reader lists them").read(limit, until)
    }

    fn position(&self, partition: u32) -> Position {
        let mut position = self.partition(partition).cutter.position();
        position.caught_up &= !self.watch().in_outage() && !self.watch().in_doubt();
        position
    }

    fn detail(&self, partition: u32) -> Option<Value> {
        let partition = self.partition(partition);
        let mut detail = partition.info().detail;
        partition.inbox.record(&mut detail);
        Some(detail)
    }

    fn recall(&mut self, partition: u32, end: u64, detail: &Value) {
        let found = self.partitions.get_mut(partition as usize);
        found.expect("partitions are numbered as this reader lists them").inbox.recall(end, detail);
    }

    fn lag(&self, partition: u32) -> Option<u64> {
        let Partition { topic, id, cutter, .. } = self.partition(partition);
        // What came since a broker went away, nobody knows.
        if self.watch().in_outage() {
            return None;
        }
        let standing = self.watch().standing(topic, *id);
        // Markers of transactions may stand between the position and the end, and are no messages.
        if cutter.caught_up() && standing.is_none_or(|standing| !standing.more) {
            return Some(0);
        }
        cutter.lag(standing.map(|standing| standing.end))
    }
}
