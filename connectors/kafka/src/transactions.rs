//! One epoch, one transaction: messages and the epoch's number become visible together, once.
//!
//! The number is kept as a committed offset of the group `tidemill-sink/INSTANCE/TABLE` on partition 0 of the topic, sent
//! in the same transaction as the messages; a reader with `read_committed` sees both or neither (INV-3).
//!
//! ```text
//!          init_transactions fences every earlier producer and ends what it left open;
//!          only then is the number read: nobody can change it any more
//!  closed ---------------------------------------------------------------> ready(held)
//!    ^                                                                       |     ^  ^
//!    |                                         write(e), e > held: begin     |     |  | abort done: wait, begin again
//!    |                                                                       v     |  |
//!    |            fatal, or the outcome is unknown           sending, marking -----|-> aborting
//!    +-----------------------------------------------------+     | all is queued   |
//!    |  no later run has begun: connect again; the number  |     v                 |
//!    |  that is read then says whether e is there          +-- committing --- ok --+  ready(e)
//!    |
//!    '-- a later run has begun: `Fenced`, and the run ends
//! ```
//! - `write(e)` with e at or below `held` does nothing: an epoch written twice has the effect of once.
//! - A broker that is away is waited for in every state, for as long as it takes; the log says so once.
//! - A transaction that the broker gave up because it took longer than a minute looks like fencing; the log of the
//!   pipeline tells the two apart.
//! - The number expires with the group (`offsets.retention.minutes`, a week): after a longer rest than that, only what the
//!   pipeline's log says is known to be there.

mod deliveries;
mod steps;

use std::thread;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::TopicPartitionList;
use tidemill_connectors::messages::Fenced;
use tidemill_connectors::messages::rows::Messages;
use tidemill_dataflow::sink::{SinkError, SinkStart};
use tidemill_dataflow::time::Epoch;
use tracing::{debug, info, warn};

use crate::config::KafkaConfig;
use crate::topics::{MAX_MESSAGE_BYTES, create_topic};
use crate::trouble::{Trouble, Watch, judge, refusal};

use deliveries::{Deliveries, too_large};
use steps::{Signs, Step};

/// How long one request may take before it is asked again.
const REQUEST: Duration = Duration::from_secs(10);
/// How long to wait before something is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// A transactional writer of one topic, for one table of one pipeline.
#[derive(Debug)]
pub(crate) struct Transactions {
    config: KafkaConfig,
    pipeline: String,
    table: String,
    topic: String,
    link: Option<Link>,
}

/// What an open writer holds.
struct Link {
    start: SinkStart,
    producer: BaseProducer<Deliveries>,
    marker: BaseConsumer<Watch>,
    /// The topic holds all epochs through this one.
    held: Epoch,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Transactions {
    /// A writer of the topic `PREFIX` + `table`; nothing is connected yet.
    pub(crate) fn new(config: KafkaConfig, pipeline: &str, table: &str) -> Transactions {
        let topic = format!("{}{table}", config.prefix);
        Transactions { config, pipeline: pipeline.to_owned(), table: table.to_owned(), topic, link: None }
    }

    /// The topic.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The last epoch that the topic is known to hold; 0 before [`open`](Transactions::open).
    pub(crate) fn held(&self) -> Epoch {
        self.link.as_ref().map_or(0, |link| link.held)
    }

    /// Creates the topic if it is missing, fences earlier producers, and learns what the topic holds.
    ///
    /// # Errors
    /// If a later run has begun ([`Fenced`]), the broker refuses us, or the topic holds epochs that the pipeline's log does
    /// not know.
    pub(crate) fn open(&mut self, start: &SinkStart) -> Result<(), SinkError> {
        self.link = None;
        let link = self.connect(start)?;
        let found = link.held;
        if found > start.bound {
            let bound = start.bound;
            return Err(format!(
                "{}: the topic holds epochs through {found} and the pipeline's log ends at {bound}: state was lost or set \
                 back; restore it, or write to another prefix",
                self.topic
            )
            .into());
        }
        self.link = Some(Link { held: found.max(start.committed), ..link });
        Ok(())
    }

    /// Writes the messages of an epoch, unless the topic holds it; gives whether it had to. An epoch without messages
    /// takes no transaction.
    ///
    /// # Errors
    /// If a later run has begun ([`Fenced`]), or the broker refuses us or the messages for good.
    pub(crate) fn write(&mut self, epoch: Epoch, messages: &Messages) -> Result<bool, SinkError> {
        let mut link = self.link.take().ok_or("a writer is opened before it writes")?;
        if epoch <= link.held || messages.is_empty() {
            self.link = Some(link);
            return Ok(false);
        }
        let mut step = Step::Begin;
        let mut waiting = Waiting::new(&self.topic);
        loop {
            let failed = match self.take(step, &mut link, epoch, messages) {
                Ok(Some(next)) => {
                    step = next;
                    continue;
                }
                Ok(None) => break,
                Err(error) => error,
            };
            if let Some(sentence) = link.producer.context().refused() {
                return Err(sentence.into());
            }
            if let Step::Send(_) = step
                && let KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge) = failed
            {
                return Err(too_large(&self.topic).into());
            }
            let verdict = Signs::of(&failed).verdict();
            let full = matches!(failed, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            let Some(next) = step.after(verdict) else {
                return Err(refusal(&self.config.brokers, &failed.to_string()).into());
            };
            if !full {
                self.look_for_a_later_run(&link.start, Some(&failed))?;
                waiting.begin(&failed.to_string());
            }
            // Serves what the client has to tell, for as long as the pause takes.
            link.producer.poll(if full { Duration::from_millis(5) } else { PAUSE });
            step = next;
            if step == Step::Connect {
                let start = link.start.clone();
                drop(link);
                link = self.connect(&start)?;
                if link.held > epoch {
                    return Err(self.fenced(None));
                }
                if link.held == epoch {
                    break;
                }
                step = Step::Begin;
            }
        }
        waiting.end();
        link.held = epoch;
        self.link = Some(link);
        Ok(true)
    }

    /// Takes one step; gives the next one, or none when the epoch is committed.
    fn take(&self, step: Step, link: &mut Link, epoch: Epoch, messages: &Messages) -> Result<Option<Step>, KafkaError> {
        let producer = &link.producer;
        match step {
            Step::Begin => {
                producer.begin_transaction()?;
                Ok(Some(Step::Send(0)))
            }
            Step::Send(from) => {
                let Some((key, value)) = messages.get(from) else { return Ok(Some(Step::Mark)) };
                let record = BaseRecord::<[u8], [u8]>::to(&self.topic).payload(value);
                let record = if key.is_empty() { record } else { record.key(key) };
                producer.send(record).map_err(|(error, _)| error)?;
                if from % 1024 == 0 {
                    producer.poll(Duration::ZERO);
                }
                Ok(Some(Step::Send(from + 1)))
            }
            Step::Mark => {
                let mut mark = TopicPartitionList::new();
                mark.add_partition_offset(&self.topic, 0, Offset::Offset(i64::try_from(epoch).unwrap_or(i64::MAX)))?;
                let group = link.marker.group_metadata().ok_or(KafkaError::Canceled)?;
                producer.send_offsets_to_transaction(&mark, &group, REQUEST)?;
                Ok(Some(Step::Commit))
            }
            Step::Commit => producer.commit_transaction(REQUEST).map(|()| None),
            Step::Abort => {
                producer.abort_transaction(REQUEST)?;
                Ok(Some(Step::Begin))
            }
            Step::Connect => unreachable!("a new connection replaces this one"),
        }
    }

    /// Connects until it works, unless there is no sense in trying.
    fn connect(&self, start: &SinkStart) -> Result<Link, SinkError> {
        let mut waiting = Waiting::new(&self.topic);
        loop {
            self.look_for_a_later_run(start, None)?;
            let error = match self.try_connect(start) {
                Ok(link) => {
                    // The later run may have begun in between, and then it has to win.
                    self.look_for_a_later_run(start, None)?;
                    waiting.end();
                    return Ok(link);
                }
                Err(error) => error,
            };
            let error = match error {
                Unconnected::Refused(sentence) => return Err(sentence.into()),
                Unconnected::Passing(error) => error,
            };
            if matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_)) {
                return Err(format!("{}: cannot make a Kafka producer: {error}", self.topic).into());
            }
            if error.rdkafka_error_code().map(judge) == Some(Trouble::Refused) {
                return Err(refusal(&self.config.brokers, &error.to_string()).into());
            }
            waiting.begin(&error.to_string());
            thread::park_timeout(PAUSE);
        }
    }

    fn try_connect(&self, start: &SinkStart) -> Result<Link, Unconnected> {
        let group = format!("tidemill-sink/{}/{}", start.instance, self.table);
        let marker: BaseConsumer<Watch> = self
            .config
            .client()
            .set("group.id", &group)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set_log_level(RDKafkaLogLevel::Critical)
            .create_with_context(Watch::silent(&self.config.brokers))?;
        let there = marker.fetch_metadata(Some(&self.topic), REQUEST).map_err(|error| {
            // Why there is no answer, the client tells beside it.
            while marker.poll(Duration::ZERO).is_some() {}
            marker.context().refused().map_or(Unconnected::Passing(error), Unconnected::Refused)
        })?;
        if there.topics().iter().all(|topic| topic.partitions().is_empty()) {
            create_topic(&self.config, &self.topic, self.config.partitions)?;
        }
        let producer = self.producer(start)?;
        producer.init_transactions(3 * REQUEST)?;
        let mut place = TopicPartitionList::new();
        place.add_partition(&self.topic, 0);
        let found = marker.committed_offsets(place, REQUEST)?;
        let found = found.find_partition(&self.topic, 0).ok_or(KafkaError::OffsetFetch(RDKafkaErrorCode::Unknown))?;
        found.error()?;
        let held = match found.offset() {
            Offset::Offset(epoch) => epoch.max(0).unsigned_abs(),
            _ => 0,
        };
        Ok(Link { start: start.clone(), producer, marker, held })
    }

    fn producer(&self, start: &SinkStart) -> Result<BaseProducer<Deliveries>, KafkaError> {
        let mut client = self.config.client();
        let defaults = [
            ("compression.type", "lz4"),
            ("linger.ms", "5"),
            ("queue.buffering.max.kbytes", "32768"),
            ("message.max.bytes", MAX_MESSAGE_BYTES),
            ("partitioner", "murmur2_random"),
            ("transaction.timeout.ms", "60000"),
        ];
        for (name, value) in defaults {
            if self.config.property(name).is_none() {
                client.set(name, value);
            }
        }
        client
            .set("transactional.id", transactional_id(&start.instance, &self.pipeline, &self.topic))
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set_log_level(RDKafkaLogLevel::Critical)
            .create_with_context(Deliveries::new(&self.topic))
    }

    fn look_for_a_later_run(&self, start: &SinkStart, seen: Option<&KafkaError>) -> Result<(), SinkError> {
        (start.fence)().map_err(|cause| {
            debug!("{}: a later run has begun; the producer said {seen:?}", self.topic);
            self.fenced(Some(cause))
        })
    }

    fn fenced(&self, cause: Option<SinkError>) -> SinkError {
        Box::new(Fenced { topic: self.topic.clone(), cause })
    }
}

/// Why there is no connection.
enum Unconnected {
    /// The broker refuses us: a sentence.
    Refused(String),
    /// Anything else.
    Passing(KafkaError),
}

impl From<KafkaError> for Unconnected {
    fn from(error: KafkaError) -> Self {
        Unconnected::Passing(error)
    }
}

/// The name by which a broker knows the writer of a topic and fences earlier ones.
pub(crate) fn transactional_id(instance: &str, pipeline: &str, topic: &str) -> String {
    format!("{instance}/{pipeline}/{topic}")
}

/// Says once that something is waited for, and once that it is over.
struct Waiting<'a> {
    topic: &'a str,
    begun: bool,
}

impl Waiting<'_> {
    fn new(topic: &str) -> Waiting<'_> {
        Waiting { topic, begun: false }
    }

    fn begin(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.begun, true) {
            warn!("{}: Kafka cannot take an epoch now ({reason}); it is tried again until it does", self.topic);
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.begun) {
            info!("{}: Kafka takes epochs again", self.topic);
        }
    }
}
