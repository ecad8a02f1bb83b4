//! Dead letters in a topic: one JSON object a message, with the place of the message that is no event (INV-6).
//!
//! The key is the place, `topic/partition/offset`, so that a compacted topic takes and keeps each.
//! `{"topic","partition","offset","reason","payload" or "payload_base64","bytes"}`: the payload has its addresses masked
//! where it was made, and is in base64 where it is no UTF-8; `bytes` is the message's full length. A payload over 128 KiB is
//! cut, so that no dead letter is too large for a topic.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tidemill_connectors::messages::parse_partition_name;
use tidemill_connectors::messages::rows::Messages;
use tidemill_dataflow::sink::{DataFile, SinkError, SinkStart, TableWriter};
use tidemill_dataflow::source::DeadLetter;
use tidemill_dataflow::time::Epoch;

use crate::config::KafkaConfig;
use crate::table::one_shard;
use crate::transactions::Transactions;

/// The name of the topic behind the prefix, and of the table in the pipeline.
pub const DEAD_LETTERS: &str = "dead_letters";
/// The most of a payload that is shown, in bytes.
pub const SHOWN_BYTES: usize = 128 << 10;

#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: Option<i32>,
    offset: u64,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    bytes: u64,
}

/// The place of a message that became a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LetterPlace {
    /// Its topic; the name of the partition where it was none.
    pub topic: String,
    /// Its partition.
    pub partition: Option<i32>,
    /// Its offset.
    pub offset: u64,
}

impl LetterPlace {
    /// What its letter is keyed by, so that a compacted topic takes and keeps each: `topic/partition/offset`.
    pub(crate) fn key(&self) -> String {
        let LetterPlace { topic, partition, offset } = self;
        match partition {
            Some(partition) => format!("{topic}/{partition}/{offset}"),
            None => format!("{topic}/{offset}"),
        }
    }
}

/// Appends a dead letter of the partition `partition_name` (`topic/partition`) as one line of NDJSON.
///
/// Of a source that is no topic, `topic` is the partition's name (a file) and `partition` null.
pub fn dead_letter_line(letter: &DeadLetter, partition_name: &str, out: &mut Vec<u8>) {
    let (topic, partition) = match parse_partition_name(partition_name) {
        Some((topic, partition)) => (topic, Some(partition)),
        None => (partition_name, None),
    };
    let shown = &letter.payload[..letter.payload.len().min(SHOWN_BYTES)];
    let payload = match std::str::from_utf8(shown) {
        Ok(text) => Some(text),
        // Half a character at the cut is none.
        Err(error) if shown.len() < letter.payload.len() && error.error_len().is_none() => {
            std::str::from_utf8(&shown[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    let payload_base64 = payload.is_none().then(|| STANDARD.encode(shown));
    let (reason, offset, bytes) = (letter.reason.as_str(), letter.line, letter.bytes);
    let line = Line { topic, partition, offset, reason, payload, payload_base64, bytes };
    serde_json::to_writer(&mut *out, &line).expect("texts and numbers can always be written as JSON");
    out.push(b'\n');
}

/// Writes dead letters to the topic `PREFIX` + `dead_letters`, each once.
#[derive(Debug)]
pub struct DeadLetterTopic {
    transactions: Transactions,
}

impl DeadLetterTopic {
    /// A writer for the pipeline of this name; nothing is connected yet. Rows are one text column of NDJSON lines.
    #[must_use]
    pub fn new(config: KafkaConfig, pipeline: &str) -> DeadLetterTopic {
        DeadLetterTopic { transactions: Transactions::new(config, pipeline, DEAD_LETTERS) }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.transactions.topic()
    }
}

impl TableWriter for DeadLetterTopic {
    fn open(&mut self, start: &SinkStart) -> Result<(), SinkError> {
        self.transactions.open(start)
    }

    fn write_epoch(&mut self, epoch: Epoch, shard: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        one_shard(shard)?;
        let mut messages = Messages::default();
        for batch in &rows {
            let lines = batch.columns().first().filter(|column| *column.data_type() == DataType::Utf8);
            let lines = lines.ok_or("dead letters come as one column of text")?.as_string::<i32>();
            for line in lines.iter().flatten() {
                let place: LetterPlace = serde_json::from_str(line)?;
                messages.push(place.key().as_bytes(), line.trim_end_matches('\n').as_bytes());
            }
        }
        self.transactions.write(epoch, messages)?;
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(letter: &DeadLetter, name: &str) -> String {
        let mut out = Vec::new();
        dead_letter_line(letter, name, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn letter(payload: &[u8]) -> DeadLetter {
        let (reason, bytes) = ("not \"x\"".into(), payload.len() as u64);
        DeadLetter { partition: 0, line: 42, reason, payload: payload.to_vec(), bytes }
    }

    #[test]
    fn a_dead_letter_names_topic_partition_and_offset() {
        let expected =
            r#"{"topic":"events.a","partition":3,"offset":42,"reason":"not \"x\"","payload":"hi\n","bytes":3}"#;
        assert_eq!(line(&letter(b"hi\n"), "events.a/3"), format!("{expected}\n"));
        let in_base64 =
            r#"{"topic":"e","partition":0,"offset":42,"reason":"not \"x\"","payload_base64":"/wA=","bytes":2}"#;
        assert_eq!(line(&letter(b"\xff\0"), "e/0"), format!("{in_base64}\n"));
        assert!(line(&letter(b"x"), "logs/a.ndjson").starts_with(r#"{"topic":"logs/a.ndjson","partition":null,"#));
    }

    #[test]
    fn a_long_payload_is_cut_between_characters() {
        let long = "ü".repeat(SHOWN_BYTES);
        let shown: serde_json::Value =
            serde_json::from_str(&line(&letter(format!("a{long}").as_bytes()), "e/0")).unwrap();
        assert_eq!(shown["payload"].as_str().unwrap().len(), SHOWN_BYTES - 1);
        assert_eq!(shown["bytes"], 2 * SHOWN_BYTES + 1);
    }
}
