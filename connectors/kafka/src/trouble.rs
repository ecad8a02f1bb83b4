//! What an error of the Kafka client asks for: waiting, or stopping with a sentence.
//!
//! A broker that does not answer is no error of a run: it is waited for, and the log says so once when it begins and
//! once when it is over. Beside errors the client tells where partitions end, for the lag that is shown.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::{self, Statistics};
use tracing::{debug, info, warn};

/// What to do about an error of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Wait: the broker is away or busy.
    Passing,
    /// Stop: the broker refuses us, and will go on doing so.
    Refused,
    /// Stop: the offset that is to be read next is not there.
    OutOfRange,
    /// The topic seems to be gone, which the cluster's metadata confirms or not.
    Vanished,
    /// Stop: what was fetched cannot be used, and skipping it would lose records.
    Damaged,
}

/// Judges an error code.
pub(crate) fn judge(code: RDKafkaErrorCode) -> Trouble {
    use RDKafkaErrorCode as Code;
    match code {
        Code::Authentication
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::SecurityDisabled
        | Code::SSL
        | Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::DelegationTokenAuthorizationFailed => Trouble::Refused,
        Code::AutoOffsetReset | Code::OffsetOutOfRange => Trouble::OutOfRange,
        Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => Trouble::Vanished,
        Code::BadMessage | Code::BadCompression | Code::InvalidMessage | Code::NotImplemented => Trouble::Damaged,
        _ => Trouble::Passing,
    }
}

/// The sentence for a broker that refuses us.
pub(crate) fn refusal(brokers: &str, reason: &str) -> String {
    format!(
        "Kafka at {brokers} refuses access ({reason}); check security.protocol, sasl.mechanism, KAFKA_SASL_USERNAME, \
         KAFKA_SASL_PASSWORD and the permissions of this user"
    )
}

/// Where a partition stood when the client last counted: from the answers to its fetches, without a question of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The offset behind the last message that may be read.
    pub(crate) end: u64,
    /// Messages were fetched and not taken, or the end moved since it was last met.
    pub(crate) more: bool,
}

/// What the client's callbacks saw.
#[derive(Debug, Default)]
struct Seen {
    refused: Option<String>,
    /// Something arrived since it was last waited for.
    arrived: bool,
}

/// What clients tell beside messages: outages, refusals, and that something arrived. Clones share it, so that several
/// clients of one source say a thing once.
#[derive(Clone, Debug)]
pub(crate) struct Watch(Arc<Told>);

/// Whether outages are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    Log,
    Silent,
}

#[derive(Debug)]
struct Told {
    brokers: String,
    /// Brokers are waited for.
    outage: AtomicBool,
    voice: Voice,
    seen: Mutex<Seen>,
    arrival: Condvar,
    /// By topic and partition.
    standings: Mutex<BTreeMap<String, BTreeMap<i32, Standing>>>,
}

impl Watch {
    pub(crate) fn new(brokers: &str) -> Watch {
        Watch::with(brokers, Voice::Log)
    }

    /// One that logs nothing: whoever uses the client says what is waited for.
    pub(crate) fn silent(brokers: &str) -> Watch {
        Watch::with(brokers, Voice::Silent)
    }

    fn with(brokers: &str, voice: Voice) -> Watch {
        let (brokers, outage) = (brokers.to_owned(), AtomicBool::new(false));
        let (seen, arrival, standings) = (Mutex::default(), Condvar::new(), Mutex::default());
        Watch(Arc::new(Told { brokers, outage, voice, seen, arrival, standings }))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A broker does not answer; said once.
    pub(crate) fn begin_outage(&self, reason: &str) {
        if !self.0.outage.swap(true, Ordering::Relaxed) && self.0.voice == Voice::Log {
            warn!("Kafka at {} does not answer ({reason}); it is waited for", self.0.brokers);
        }
    }

    /// Brokers answered a request just now; said once. Messages that were fetched before prove nothing.
    pub(crate) fn end_outage(&self) {
        if self.0.outage.swap(false, Ordering::Relaxed) && self.0.voice == Voice::Log {
            info!("Kafka at {} answers again", self.0.brokers);
        }
    }

    /// Whether a broker is being waited for.
    pub(crate) fn in_outage(&self) -> bool {
        self.0.outage.load(Ordering::Relaxed)
    }

    /// The sentence to stop with, if we are refused.
    pub(crate) fn refused(&self) -> Option<String> {
        self.seen().refused.clone()
    }

    /// Where a partition stood at the last count; `None` before the first answer to a fetch of it.
    pub(crate) fn standing(&self, topic: &str, partition: i32) -> Option<Standing> {
        let standings = self.0.standings.lock().unwrap_or_else(PoisonError::into_inner);
        standings.get(topic)?.get(&partition).copied()
    }

    /// Something arrived in one of the queues.
    pub(crate) fn arrived(&self) {
        self.seen().arrived = true;
        self.0.arrival.notify_all();
    }

    /// Waits until something arrived since the last call, at most this long; gives whether it did.
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        let waiting = self.0.arrival.wait_timeout_while(self.seen(), at_most, |seen| !seen.arrived);
        let (mut seen, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut seen.arrived)
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!("librdkafka {level:?} {facility}: {message}");
    }

    fn stats(&self, counted: Statistics) {
        let mut standings = self.0.standings.lock().unwrap_or_else(PoisonError::into_inner);
        for (topic, partitions) in counted.topics {
            let of_topic = standings.entry(topic).or_default();
            of_topic.extend(partitions.partitions.iter().filter_map(|(id, told)| Some((*id, standing(told)?))));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        match (code, judge(code)) {
            (_, Trouble::Refused) => self.seen().refused = Some(refusal(&self.0.brokers, reason)),
            (RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure, _) => {
                self.begin_outage(reason)
            }
            // Errors of a partition come with its messages.
            _ => {}
        }
    }
}

/// What a count says of a partition, if anything was fetched of it.
fn standing(counted: &statistics::Partition) -> Option<Standing> {
    // Negative numbers are no offsets.
    let end = u64::try_from(counted.ls_offset).ok()?;
    Some(Standing { end, more: counted.fetchq_cnt > 0 || counted.ls_offset > counted.eof_offset })
}

impl ConsumerContext for Watch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_is_away_is_waited_for_and_one_that_refuses_is_not() {
        for (code, trouble) in [
            (RDKafkaErrorCode::AllBrokersDown, Trouble::Passing),
            (RDKafkaErrorCode::BrokerTransportFailure, Trouble::Passing),
            (RDKafkaErrorCode::NotLeaderForPartition, Trouble::Passing),
            (RDKafkaErrorCode::RequestTimedOut, Trouble::Passing),
            (RDKafkaErrorCode::Authentication, Trouble::Refused),
            (RDKafkaErrorCode::TopicAuthorizationFailed, Trouble::Refused),
            (RDKafkaErrorCode::AutoOffsetReset, Trouble::OutOfRange),
            (RDKafkaErrorCode::UnknownTopicOrPartition, Trouble::Vanished),
            (RDKafkaErrorCode::BadMessage, Trouble::Damaged),
        ] {
            assert_eq!(judge(code), trouble, "{code:?}");
        }
    }

    #[test]
    fn an_outage_lasts_until_a_broker_answers() {
        let watch = Watch::new("h:1");
        watch.error(KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        assert!(watch.in_outage() && watch.refused().is_none());
        watch.end_outage();
        assert!(!watch.in_outage());
        watch.error(KafkaError::Global(RDKafkaErrorCode::PartitionEOF), "end");
        assert!(!watch.in_outage());
        watch.error(KafkaError::Global(RDKafkaErrorCode::Authentication), "no such user");
        assert!(watch.refused().unwrap().contains("no such user"));
    }

    #[test]
    fn an_arrival_before_the_wait_is_not_missed() {
        let watch = Watch::new("h:1");
        watch.arrived();
        assert!(watch.wait(Duration::from_secs(60)));
        assert!(!watch.wait(Duration::ZERO));
    }
}
