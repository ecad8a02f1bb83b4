//! What the other side says against an epoch, and how long that may mend itself: pure, so that every case can be looked at.

use std::time::Duration;

use rdkafka::error::RDKafkaErrorCode;
use tidemill_dataflow::sink::SinkError;
use tidemill_dataflow::verdict::Judged;

use super::{Worked, what_to_do};
use crate::topics::MAX_MESSAGE_BYTES;
use crate::trouble::{Trouble, judge, refusal};

/// For how long what is no outage may mend itself before it ends the run.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// What the other side says against an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objection {
    /// Nothing: it is away, busy, or about to change who leads.
    Outage,
    /// User, password or certificate are not accepted.
    Credentials,
    /// This user may not do that.
    Rights,
    /// The topic is not there.
    Gone,
    /// A message is longer than the topic takes.
    TooLarge,
    /// It will never take this.
    Never,
}

impl Objection {
    /// What a code says.
    pub(super) fn of(code: RDKafkaErrorCode) -> Objection {
        use RDKafkaErrorCode as Code;
        match judge(code) {
            Trouble::Credentials => return Objection::Credentials,
            Trouble::Rights => return Objection::Rights,
            Trouble::Vanished => return Objection::Gone,
            // What a reader makes of a code is no matter of a writer.
            Trouble::Passing | Trouble::OutOfRange | Trouble::Damaged => {}
        }
        match code {
            Code::MessageSizeTooLarge | Code::MessageBatchTooLarge => Objection::TooLarge,
            Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::InvalidTopic
            | Code::InvalidConfig
            | Code::InvalidTransactionTimeout
            | Code::InvalidRequiredAcks
            | Code::PolicyViolation
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::UnsupportedForMessageFormat
            | Code::UnsupportedCompressionType => Objection::Never,
            _ => Objection::Outage,
        }
    }

    /// How long it is waited with; none if for as long as it takes.
    pub(super) fn patience(self, worked: Worked) -> Option<Duration> {
        match (self, worked) {
            // Somebody changes a password; this one was right.
            (Objection::Outage, _) | (Objection::Credentials, Worked::Opened | Worked::Wrote) => None,
            (Objection::Rights, Worked::Wrote) | (Objection::Gone, _) => Some(PATIENCE),
            (Objection::Rights | Objection::Credentials | Objection::TooLarge | Objection::Never, _) => {
                Some(Duration::ZERO)
            }
        }
    }

    /// The end of a run: what was said, and what to do.
    pub(super) fn refusal(self, topic: &str, brokers: &str, words: &str) -> SinkError {
        let sentence = self.sentence(topic, brokers, words);
        match self {
            Objection::Credentials | Objection::Rights => Judged::denied(sentence),
            _ => Judged::refused(sentence),
        }
    }

    fn sentence(self, topic: &str, brokers: &str, words: &str) -> String {
        match self {
            Objection::Outage | Objection::Credentials | Objection::Rights => {
                format!("{topic}: {}", refusal(brokers, words))
            }
            Objection::Gone => format!(
                "{topic}: the topic is not on Kafka at {brokers} any more ({words}), and what was written to it is gone with \
                 it; it was waited for {} s. {}",
                PATIENCE.as_secs(),
                what_to_do(topic)
            ),
            Objection::TooLarge => format!(
                "{topic}: a message is larger than the topic takes ({words}); raise its max.message.bytes to \
                 {MAX_MESSAGE_BYTES}"
            ),
            Objection::Never => format!(
                "{topic}: Kafka at {brokers} does not take what is written ({words}); look at the topic's settings \
                 (cleanup.policy, message.timestamp.*, compression.type) and the broker's log, and start again"
            ),
        }
    }
}

/// The code in what the client logs of a transaction that failed, `.. (TOPIC_AUTHORIZATION_FAILED)`: where it was seen while
/// messages were queued, later calls say no more than that the state is wrong.
pub(super) fn code_of_log(facility: &str, message: &str) -> Option<RDKafkaErrorCode> {
    use RDKafkaErrorCode as Code;
    let codes = [
        ("TOPIC_AUTHORIZATION_FAILED", Code::TopicAuthorizationFailed),
        ("GROUP_AUTHORIZATION_FAILED", Code::GroupAuthorizationFailed),
        ("CLUSTER_AUTHORIZATION_FAILED", Code::ClusterAuthorizationFailed),
        ("TRANSACTIONAL_ID_AUTHORIZATION_FAILED", Code::TransactionalIdAuthorizationFailed),
        ("UNKNOWN_TOPIC_OR_PART", Code::UnknownTopicOrPartition),
        ("MSG_SIZE_TOO_LARGE", Code::MessageSizeTooLarge),
        ("RECORD_LIST_TOO_LARGE", Code::MessageBatchTooLarge),
        ("INVALID_RECORD", Code::InvalidRecord),
        ("INVALID_TIMESTAMP", Code::InvalidTimestamp),
        ("POLICY_VIOLATION", Code::PolicyViolation),
        ("UNSUPPORTED_VERSION", Code::UnsupportedVersion),
        ("UNSUPPORTED_FOR_MESSAGE_FORMAT", Code::UnsupportedForMessageFormat),
        ("UNSUPPORTED_COMPRESSION_TYPE", Code::UnsupportedCompressionType),
    ];
    let (_, name) = message.rsplit_once('(').filter(|_| matches!(facility, "TXNERR" | "FATAL"))?;
    let name = name.trim_end().trim_end_matches(')').split(',').next()?;
    codes.iter().find(|(known, _)| *known == name.trim_start_matches('_')).map(|(_, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_waited_for_and_what_waiting_cannot_mend_ends_the_run() {
        use RDKafkaErrorCode as Code;
        for (code, at_first, later) in [
            (Code::AllBrokersDown, None, None),
            (Code::NotEnoughReplicas, None, None),
            (Code::CoordinatorNotAvailable, None, None),
            (Code::MessageTimedOut, None, None),
            (Code::SaslAuthenticationFailed, Some(Duration::ZERO), None),
            (Code::SSL, Some(Duration::ZERO), None),
            (Code::TopicAuthorizationFailed, Some(Duration::ZERO), Some(PATIENCE)),
            (Code::UnknownTopicOrPartition, Some(PATIENCE), Some(PATIENCE)),
            (Code::InvalidRecord, Some(Duration::ZERO), Some(Duration::ZERO)),
            (Code::PolicyViolation, Some(Duration::ZERO), Some(Duration::ZERO)),
            (Code::MessageSizeTooLarge, Some(Duration::ZERO), Some(Duration::ZERO)),
        ] {
            let found = Objection::of(code);
            assert_eq!((found.patience(Worked::Never), found.patience(Worked::Wrote)), (at_first, later), "{code:?}");
            assert!(found.patience(Worked::Opened).is_none_or(|patience| Some(patience) >= at_first), "{code:?}");
        }
    }

    #[test]
    fn what_the_client_logs_of_a_transaction_names_the_code() {
        let said = "Current transaction failed in state InTransaction: Failed to add partition(s) to transaction on broker \
                    h:1/1: Broker: Topic authorization failed (after 3 ms) (TOPIC_AUTHORIZATION_FAILED)";
        assert_eq!(code_of_log("TXNERR", said), Some(RDKafkaErrorCode::TopicAuthorizationFailed));
        let bumps = "Current transaction failed in state BeginCommit: x (INVALID_RECORD, requires epoch bump)";
        assert_eq!(code_of_log("TXNERR", bumps), Some(RDKafkaErrorCode::InvalidRecord));
        assert_eq!(code_of_log("FAIL", said), None);
        assert_eq!(code_of_log("TXNERR", "no code"), None);
    }

    #[test]
    fn every_sentence_has_the_topic_and_the_words_of_the_other_side() {
        for objection in [Objection::Rights, Objection::Gone, Objection::TooLarge, Objection::Never] {
            let sentence = objection.sentence("out.t", "h:1", "Broker: so (SO)");
            assert!(sentence.starts_with("out.t: ") && sentence.contains("Broker: so (SO)"), "{sentence}");
        }
    }
}
