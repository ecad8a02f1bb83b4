//! Offsets mirrored to the consumer group after a commit, so that tools that show lag work.
//!
//! Promise: nothing is ever read back from there. A group whose offsets were changed, or that is gone, changes no result.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{ClientContext, Offset};
use tidemill_connectors::messages::parse_partition_name;
use tidemill_dataflow::sink::{CommitObserver, Committed, Partitions, SinkError};
use tracing::{debug, info, warn};

use crate::config::KafkaConfig;

/// Offsets are sent no more often than this.
const EVERY: Duration = Duration::from_secs(1);
/// How long the last offsets may take when a run ends: a group's first commit has to find its coordinator.
const LAST: Duration = Duration::from_secs(5);

/// Follows commits and tells the consumer group how far they are.
pub struct GroupOffsets {
    consumer: BaseConsumer<Answers>,
    sent: Option<Instant>,
    /// What was not sent because something was, less than a second before.
    waiting: Option<Partitions>,
}

impl GroupOffsets {
    /// Connects in the background; a cluster that does not answer holds nothing up.
    ///
    /// # Errors
    /// If the settings are not accepted.
    pub fn new(config: &KafkaConfig) -> Result<GroupOffsets, SinkError> {
        let consumer = config
            .client()
            .set("group.id", &config.group)
            .set("enable.auto.commit", "false")
            .set_log_level(RDKafkaLogLevel::Critical)
            .create_with_context(Answers { group: config.group.clone(), ..Answers::default() })?;
        Ok(GroupOffsets { consumer, sent: None, waiting: None })
    }

    fn send(&mut self, partitions: &Partitions) {
        let mut offsets = TopicPartitionList::new();
        for binding in partitions.values() {
            let Some((topic, id)) = parse_partition_name(&binding.name) else { continue };
            let offset = Offset::Offset(i64::try_from(binding.end).unwrap_or(i64::MAX));
            if let Err(error) = offsets.add_partition_offset(topic, id, offset) {
                debug!("offset of {} not mirrored: {error}", binding.name);
            }
        }
        if offsets.count() > 0 {
            self.consumer.context().unanswered.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = self.consumer.commit(&offsets, CommitMode::Async) {
                self.consumer.context().answered(Err(error));
            }
        }
    }

    /// Takes answers that are there.
    fn serve(&self) {
        while self.consumer.poll(Duration::ZERO).is_some() {}
    }
}

impl CommitObserver for GroupOffsets {
    fn committed(&mut self, commit: &Committed) -> Result<(), SinkError> {
        self.serve();
        if self.sent.is_some_and(|sent| sent.elapsed() < EVERY) {
            self.waiting = Some(commit.partitions.clone());
            return Ok(());
        }
        self.waiting = None;
        self.send(&commit.partitions);
        #[expect(clippy::disallowed_methods, reason = "how often a mirror is written reaches no result")]
        let sent = Instant::now();
        self.sent = Some(sent);
        Ok(())
    }
}

impl Drop for GroupOffsets {
    fn drop(&mut self) {
        if let Some(partitions) = self.waiting.take() {
            self.send(&partitions);
        }
        let Some(sent) = self.sent else { return };
        let deadline = sent.elapsed() + LAST;
        while self.consumer.context().unanswered.load(Ordering::Relaxed) > 0 && sent.elapsed() < deadline {
            self.consumer.poll(Duration::from_millis(20));
        }
    }
}

/// What became of offsets that were sent.
#[derive(Debug, Default)]
struct Answers {
    group: String,
    /// Commits on their way: the answer to one says nothing of those sent after it.
    unanswered: AtomicUsize,
    /// The last answer was a failure; said once.
    failing: AtomicBool,
}

impl Answers {
    fn answered(&self, result: KafkaResult<()>) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        match result {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!("offsets are mirrored to group {} again", self.group);
                }
            }
            Err(error) => {
                if !self.failing.swap(true, Ordering::Relaxed) {
                    warn!(
                        "offsets are not mirrored to group {} ({error}); only tools that show lag miss them",
                        self.group
                    );
                }
            }
        }
    }
}

impl ClientContext for Answers {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!("librdkafka {level:?} {facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!("mirroring offsets: {error}: {reason}");
    }
}

impl ConsumerContext for Answers {
    fn commit_callback(&self, result: KafkaResult<()>, _offsets: &TopicPartitionList) {
        self.answered(result);
    }
}
