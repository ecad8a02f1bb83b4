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
use tidemill_dataflow::source::SourceError;
use tracing::{debug, info, warn};

/// What to do about an error of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Wait: the broker is away or busy.
    Passing,
    /// Stop: user, password or certificate are not accepted; wait where they were before.
    Credentials,
    /// Stop: this user may not do that.
    Rights,
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
        | Code::SSL => Trouble::Credentials,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::DelegationTokenAuthorizationFailed => Trouble::Rights,
        Code::AutoOffsetReset | Code::OffsetOutOfRange => Trouble::OutOfRange,
        Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => Trouble::Vanished,
        Code::BadMessage | Code::BadCompression | Code::InvalidMessage | Code::NotImplemented => Trouble::Damaged,
        _ => Trouble::Passing,
    }
}

/// The sentence for a broker that refuses us.
pub(crate) fn refusal(brokers: &str, reason: &str) -> String {
    format!(
        "Kafka at {brokers} refuses access ({reason}); check security.protocol, ssl.ca.location and the host's name in the \
         certificate, sasl.mechanism, KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and the permissions of this user"
    )
}

/// The end of a source that is refused.
pub(crate) fn denied(brokers: &str, reason: &str) -> SourceError {
    let sentence = refusal(brokers, reason);
    let (partition, problem) = sentence.split_once(" refuses ").unwrap_or((brokers, &sentence));
    SourceError::Denied { partition: partition.to_owned(), problem: format!("it refuses {problem}") }
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
    refused: Option<(RDKafkaErrorCode, String)>,
    /// What was last said of a connection that failed.
    reason: Option<String>,
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
    /// A broker answered before.
    worked: AtomicBool,
    /// Something was said after which a topic may be another one of the same name.
    doubt: AtomicBool,
    /// It was said that a password is refused which was accepted before.
    refusal_said: AtomicBool,
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
        let [worked, refusal_said, doubt] = [const { AtomicBool::new(false) }; 3];
        Watch(Arc::new(Told { brokers, outage, worked, doubt, refusal_said, voice, seen, arrival, standings }))
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
        self.0.worked.store(true, Ordering::Relaxed);
        self.0.refusal_said.store(false, Ordering::Relaxed);
        if self.0.outage.swap(false, Ordering::Relaxed) && self.0.voice == Voice::Log {
            info!("Kafka at {} answers again", self.0.brokers);
        }
    }

    /// A password that was accepted before is refused: somebody changes it, so it is waited for; said once.
    fn begin_refusal(&self, reason: &str) {
        if !self.0.refusal_said.swap(true, Ordering::Relaxed) && self.0.voice == Voice::Log {
            warn!(
                "Kafka at {} refuses the credentials that it took before ({reason}); it is waited for until it takes them again",
                self.0.brokers
            );
        }
        self.0.outage.store(true, Ordering::Relaxed);
    }

    /// A topic may be another one of the same name by now.
    pub(crate) fn doubt(&self) {
        self.0.doubt.store(true, Ordering::Relaxed);
    }

    /// Whether one may be.
    pub(crate) fn in_doubt(&self) -> bool {
        self.0.doubt.load(Ordering::Relaxed)
    }

    /// The same, for whoever looks into it now.
    pub(crate) fn take_doubt(&self) -> bool {
        self.0.doubt.swap(false, Ordering::Relaxed)
    }

    /// Whether a broker ever answered.
    pub(crate) fn worked(&self) -> bool {
        self.0.worked.load(Ordering::Relaxed)
    }

    /// What was last said of a connection that failed.
    pub(crate) fn reason(&self) -> Option<String> {
        self.seen().reason.clone()
    }

    /// What an error says of us: waits, or remembers that we are refused.
    pub(crate) fn judged(&self, code: RDKafkaErrorCode, reason: &str) -> Trouble {
        let trouble = judge(code);
        match trouble {
            Trouble::Vanished | Trouble::OutOfRange => self.doubt(),
            _ if code == RDKafkaErrorCode::UnknownTopicId => self.doubt(),
            Trouble::Credentials if self.worked() => self.begin_refusal(reason),
            Trouble::Credentials | Trouble::Rights => {
                // What was said first is the server's own; what follows repeats its code.
                self.seen().refused.get_or_insert_with(|| (code, reason.to_owned()));
            }
            _ => {}
        }
        trouble
    }

    /// Whether a broker is being waited for.
    pub(crate) fn in_outage(&self) -> bool {
        self.0.outage.load(Ordering::Relaxed)
    }

    /// What was said when we were refused, if we were.
    pub(crate) fn refused(&self) -> Option<String> {
        self.seen().refused.as_ref().map(|(_, reason)| reason.clone())
    }

    /// How we were refused since this was asked last: the code, and what was said.
    pub(crate) fn take_refusal(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.seen().refused.take()
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
        let trouble = self.judged(code, reason);
        if trouble != Trouble::Passing {
            // Errors of a partition come with its messages.
            return;
        }
        if code != RDKafkaErrorCode::AllBrokersDown {
            self.seen().reason = Some(reason.to_owned());
        }
        if matches!(
            code,
            RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve
        ) {
            self.begin_outage(reason);
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
            (RDKafkaErrorCode::Authentication, Trouble::Credentials),
            (RDKafkaErrorCode::SSL, Trouble::Credentials),
            (RDKafkaErrorCode::TopicAuthorizationFailed, Trouble::Rights),
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
        let unknown = Watch::new("h:1");
        unknown.error(KafkaError::Global(RDKafkaErrorCode::Authentication), "no such user");
        assert!(unknown.refused().unwrap().contains("no such user"));
    }

    #[test]
    fn a_password_that_was_accepted_before_is_waited_for() {
        let watch = Watch::new("h:1");
        watch.end_outage();
        watch.error(KafkaError::Global(RDKafkaErrorCode::Authentication), "Authentication failed: no such user");
        assert!(watch.in_outage() && watch.refused().is_none());
        watch.error(KafkaError::Global(RDKafkaErrorCode::TopicAuthorizationFailed), "Topic authorization failed");
        assert!(watch.refused().is_some());
    }

    #[test]
    fn an_arrival_before_the_wait_is_not_missed() {
        let watch = Watch::new("h:1");
        watch.arrived();
        assert!(watch.wait(Duration::from_secs(60)));
        assert!(!watch.wait(Duration::ZERO));
    }
}
