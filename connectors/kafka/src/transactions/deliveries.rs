//! What the broker says of messages: those that it will never take stop the run with a sentence.

use std::sync::{Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tracing::debug;

use crate::topics::MAX_MESSAGE_BYTES;
use crate::trouble::{Trouble, judge, refusal};

/// What the broker says of messages that it does not want.
#[derive(Debug)]
pub(super) struct Deliveries {
    topic: String,
    refused: Mutex<Option<String>>,
}

impl Deliveries {
    /// Of a producer that writes to `topic`.
    pub(super) fn new(topic: &str) -> Deliveries {
        Deliveries { topic: topic.to_owned(), refused: Mutex::default() }
    }

    /// The sentence to stop with, if there is one.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refuse(&self, sentence: String) {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(sentence);
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!("librdkafka {level:?} {facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code().map(judge) == Some(Trouble::Refused) {
            self.refuse(refusal(&self.topic, reason));
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let Err((error, _)) = result else { return };
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge) => {
                self.refuse(too_large(&self.topic));
            }
            Some(code) if judge(code) == Trouble::Refused => self.refuse(refusal(&self.topic, &error.to_string())),
            // The transaction cannot be committed without the message, which the commit will say.
            _ => {}
        }
    }
}

/// The sentence for a message that a topic does not take.
pub(super) fn too_large(topic: &str) -> String {
    format!("{topic}: a message is larger than the topic takes; raise its max.message.bytes to {MAX_MESSAGE_BYTES}")
}
