//! What the client tells of an epoch beside the answers to its calls: messages that were not taken, transactions that failed.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tracing::debug;

use super::objections::{Objection, code_of_log};

/// What was said, with the words of whoever said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) objection: Objection,
    pub(super) words: String,
}

impl Said {
    /// What an error says.
    pub(super) fn of(code: RDKafkaErrorCode, words: &str) -> Said {
        Said { objection: Objection::of(code), words: words.to_owned() }
    }
}

/// The first that was said against the epoch that is being written. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Deliveries(Arc<Mutex<Option<Said>>>);

impl Deliveries {
    /// What was said since this was asked last.
    pub(super) fn take(&self) -> Option<Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, code: RDKafkaErrorCode, words: &str) {
        let said = Said::of(code, words);
        if said.objection != Objection::Outage {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(said);
        }
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!("librdkafka {level:?} {facility}: {message}");
        if let Some(code) = code_of_log(facility, message) {
            self.note(code, message);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.note(code, reason);
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        // The transaction cannot be committed without the message, which the commit will say.
        let Err((error, _)) = result else { return };
        if let Some(code) = error.rdkafka_error_code() {
            self.note(code, &format!("{code}, code {}", code as i32));
        }
    }
}
