//! Dead letters put back: the messages that they came of are sent again, each once, to the topic and partition where they stood.
//!
//! A dead letter has its addresses masked and may be cut, so what is sent is the message itself, read where the letter says that
//! it stands. Messages and notes that they were sent (in `PREFIX` + `dead_letters_replayed`) are one transaction, and the
//! transactional id, which follows from the topic, fences whoever does the same at the same time. So nothing is put back twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedMessage;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::{Message, Offset};
use serde::Deserialize;

use crate::config::KafkaConfig;
use crate::dead_letters::DEAD_LETTERS;
pub use crate::dead_letters::LetterPlace;
use crate::produce::{committed_reader, read_committed};
use crate::topics::{MAX_MESSAGE_BYTES, QUIET, create_topic};

/// How long a broker may be silent before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages of a transaction.
const AT_ONCE: usize = 500;
/// What is passed over by reading rather than by asking again from another offset.
const NEAR: u64 = 1_000;

/// A dead letter in a topic.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Letter {
    /// Where its message stood.
    #[serde(flatten)]
    pub place: LetterPlace,
    /// Why it is one.
    #[serde(default)]
    pub reason: String,
    /// Whether its message was put back.
    #[serde(skip)]
    pub replayed: bool,
}

/// What became of the dead letters that were to be put back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Messages that were sent again.
    pub sent: u64,
    /// Letters whose message was put back before.
    pub before: u64,
    /// Letters whose message is gone, or never stood in a topic.
    pub gone: Vec<LetterPlace>,
}

/// The dead letters in `PREFIX` + `dead_letters`, in the order of its partitions; what is none is passed over.
///
/// # Errors
/// What the client or the broker says.
pub fn letters(config: &KafkaConfig) -> Result<Vec<Letter>, KafkaError> {
    let lines = read_committed(config, &format!("{}{DEAD_LETTERS}", config.prefix))?;
    let notes = match read_committed(config, &notes_of(config)) {
        Ok(notes) => notes,
        Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let notes: BTreeSet<LetterPlace> = notes.iter().filter_map(|(_, note)| serde_json::from_slice(note).ok()).collect();
    let found = lines.iter().filter_map(|(_, line)| serde_json::from_slice::<Letter>(line).ok());
    Ok(found.map(|letter| Letter { replayed: notes.contains(&letter.place), ..letter }).collect())
}

/// Puts back the messages of the dead letters that `wanted` names, unless that was done before.
///
/// # Errors
/// What the client or the broker says; what was sent by then is noted, and the same call goes on from there.
pub fn replay(config: &KafkaConfig, wanted: impl Fn(&Letter) -> bool) -> Result<Replayed, KafkaError> {
    create_topic(config, &notes_of(config), 1)?;
    let sender = format!("tidemill-{}{DEAD_LETTERS}-replay", config.prefix);
    let mut client = config.client();
    client
        .set("transactional.id", sender)
        .set("enable.idempotence", "true")
        .set("message.max.bytes", MAX_MESSAGE_BYTES);
    let producer: BaseProducer = client.set_log_level(QUIET).create()?;
    producer.init_transactions(PATIENCE)?;
    // Only now can nobody else put anything back.
    let mut done = Replayed::default();
    let mut places: BTreeMap<(String, i32), BTreeSet<u64>> = BTreeMap::new();
    for letter in letters(config)?.into_iter().filter(wanted) {
        match (letter.replayed, letter.place.partition) {
            (true, _) => done.before += 1,
            (false, Some(id)) => drop(places.entry((letter.place.topic, id)).or_default().insert(letter.place.offset)),
            (false, None) => done.gone.push(letter.place),
        }
    }
    let consumer = committed_reader(config)?;
    for ((topic, id), offsets) in places {
        let offsets: Vec<u64> = offsets.into_iter().collect();
        for some in offsets.chunks(AT_ONCE) {
            let (found, gone) = fetch(&consumer, (&topic, id), some)?;
            send(&producer, &notes_of(config), &found)?;
            done.sent += found.len() as u64;
            let place = |offset| LetterPlace { topic: topic.clone(), partition: Some(id), offset };
            done.gone.extend(gone.into_iter().map(place));
        }
    }
    Ok(done)
}

/// The topic that says what was put back.
fn notes_of(config: &KafkaConfig) -> String {
    format!("{}{DEAD_LETTERS}_replayed", config.prefix)
}

/// The messages at these offsets, in order, and the offsets where there is none any more.
fn fetch(
    consumer: &BaseConsumer<DefaultConsumerContext>,
    (topic, id): (&str, i32),
    offsets: &[u64],
) -> Result<(Vec<OwnedMessage>, Vec<u64>), KafkaError> {
    let known = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    if !known.topics().iter().flat_map(|found| found.partitions()).any(|found| found.id() == id) {
        return Ok((Vec::new(), offsets.to_vec()));
    }
    let (low, high) = consumer.fetch_watermarks(topic, id, PATIENCE)?;
    let (low, high) = (low.max(0).unsigned_abs(), high.max(0).unsigned_abs());
    let (mut found, mut gone) = (Vec::new(), Vec::new());
    // Where reading stands, and a message that was read and stands behind what was wanted then.
    let (mut at, mut ahead): (Option<u64>, Option<OwnedMessage>) = (None, None);
    for &wanted in offsets {
        let mut open = (low..high).contains(&wanted);
        while open {
            let message = match ahead.take() {
                Some(message) => message,
                None => {
                    if at.is_none_or(|at| at > wanted || wanted - at > NEAR) {
                        let mut place = TopicPartitionList::new();
                        let offset = Offset::Offset(i64::try_from(wanted).unwrap_or(i64::MAX));
                        place.add_partition_offset(topic, id, offset)?;
                        consumer.assign(&place)?;
                    }
                    match consumer.poll(PATIENCE) {
                        None => return Err(KafkaError::NoMessageReceived),
                        Some(Err(KafkaError::PartitionEOF(_))) => {
                            at = None;
                            break;
                        }
                        Some(Err(error)) => return Err(error),
                        Some(Ok(message)) => message.detach(),
                    }
                }
            };
            let offset = message.offset().max(0).unsigned_abs();
            at = Some(offset + 1);
            open = offset < wanted;
            match offset == wanted {
                true => found.push(message),
                false if !open => ahead = Some(message),
                false => {}
            }
        }
        if found.last().is_none_or(|last| last.offset().max(0).unsigned_abs() != wanted) {
            gone.push(wanted);
        }
    }
    Ok((found, gone))
}

/// Sends messages again, and says so, in one transaction.
fn send(producer: &BaseProducer, notes: &str, messages: &[OwnedMessage]) -> Result<(), KafkaError> {
    if messages.is_empty() {
        return Ok(());
    }
    producer.begin_transaction()?;
    for message in messages {
        let mut record = BaseRecord::<[u8], [u8]>::to(message.topic()).partition(message.partition());
        if let Some(payload) = message.payload() {
            record = record.payload(payload);
        }
        if let Some(key) = message.key() {
            record = record.key(key);
        }
        if let Some(time) = message.timestamp().to_millis() {
            record = record.timestamp(time);
        }
        if let Some(headers) = message.headers() {
            record = record.headers(headers.clone());
        }
        queue(producer, record)?;
        let offset = message.offset().max(0).unsigned_abs();
        let place = LetterPlace { topic: message.topic().to_owned(), partition: Some(message.partition()), offset };
        let note = serde_json::to_vec(&place).expect("texts and numbers can always be written as JSON");
        let key = place.key();
        queue(producer, BaseRecord::<[u8], [u8]>::to(notes).partition(0).key(key.as_bytes()).payload(&note))?;
    }
    producer.commit_transaction(PATIENCE)
}

fn queue(producer: &BaseProducer, mut record: BaseRecord<'_, [u8], [u8]>) -> Result<(), KafkaError> {
    while let Err((error, back)) = producer.send(record) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
            return Err(error);
        }
        producer.poll(Duration::from_millis(10));
        record = back;
    }
    Ok(())
}
