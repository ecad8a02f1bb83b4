//! Offsets mirrored to the consumer group after a commit, so that tools that show lag work.
//!
//! Promise: nothing is ever read back from there. A group whose offsets were changed, or that is gone, changes no result.

use std::convert::Infallible;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{ClientContext, Offset};
use tidemill_connectors::messages::parse_partition_name;
use tidemill_dataflow::sink::{CommitObserver, Committed, Partitions, SinkError};
use tracing::{debug, info, warn};

use crate::config::KafkaConfig;

/// How long the last offsets may take when a run ends: a group's first commit has to find its coordinator.
const LAST: Duration = Duration::from_secs(5);

/// Follows commits and tells the consumer group how far they are.
pub struct GroupOffsets {
    /// Gone when nothing follows any more.
    commits: Option<Sender<Partitions>>,
    /// Hangs up when the last offsets are told.
    ended: Receiver<Infallible>,
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
            .create_with_context(Quiet)?;
        let ((commits, told), (end, ended)) = (channel(), channel());
        let mut mirror = Mirror { group: config.group.clone(), consumer, failing: false };
        // A thread, since librdkafka answers a commit only to those who wait for it.
        thread::Builder::new().name("group-offsets".to_owned()).spawn(move || {
            mirror.follow(&told);
            drop(end);
        })?;
        Ok(GroupOffsets { commits: Some(commits), ended })
    }
}

impl CommitObserver for GroupOffsets {
    fn committed(&mut self, commit: &Committed) -> Result<(), SinkError> {
        if let Some(commits) = &self.commits {
            // Nobody listens only if the mirror panicked, and then it has said so.
            let _ = commits.send(commit.partitions.clone());
        }
        Ok(())
    }
}

impl Drop for GroupOffsets {
    fn drop(&mut self) {
        self.commits = None;
        // Ends with an error in any case: all was told, or it takes too long.
        let _ = self.ended.recv_timeout(LAST);
    }
}

/// The thread that tells the group.
struct Mirror {
    group: String,
    consumer: BaseConsumer<Quiet>,
    /// The last answer was a failure; said once.
    failing: bool,
}

impl Mirror {
    /// Tells the newest offsets, as fast as the group takes them, until nothing follows.
    fn follow(&mut self, commits: &Receiver<Partitions>) {
        while let Ok(next) = commits.recv() {
            let newest = commits.try_iter().last().unwrap_or(next);
            let told = self.tell(&newest);
            self.say(told);
            while self.consumer.poll(Duration::ZERO).is_some() {}
        }
    }

    fn tell(&self, partitions: &Partitions) -> KafkaResult<()> {
        let mut offsets = TopicPartitionList::new();
        for binding in partitions.values() {
            let Some((topic, id)) = parse_partition_name(&binding.name) else { continue };
            let offset = Offset::Offset(i64::try_from(binding.end).unwrap_or(i64::MAX));
            if let Err(error) = offsets.add_partition_offset(topic, id, offset) {
                debug!("offset of {} not mirrored: {error}", binding.name);
            }
        }
        match offsets.count() {
            0 => Ok(()),
            _ => self.consumer.commit(&offsets, CommitMode::Sync),
        }
    }

    fn say(&mut self, told: KafkaResult<()>) {
        let fails = told.is_err();
        match told {
            Ok(()) if self.failing => info!("offsets are mirrored to group {} again", self.group),
            Err(error) if !self.failing => {
                warn!("offsets are not mirrored to group {} ({error}); only tools that show lag miss them", self.group);
            }
            _ => {}
        }
        self.failing = fails;
    }
}

/// What librdkafka says by itself is for those who look for it.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!("librdkafka {level:?} {facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!("mirroring offsets: {error}: {reason}");
    }
}

impl ConsumerContext for Quiet {}
