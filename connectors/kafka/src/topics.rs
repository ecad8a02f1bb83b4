//! Which topics are meant, and making those that are missing.

use std::time::Duration;

use futures::executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::KafkaConfig;

/// The topic that holds what the others hold, for raw archives; no pattern means it.
const RAW_ALL: &str = "events.raw_all";

/// The largest message that topics made here take: a row whose texts are as long as an event can be.
pub(crate) const MAX_MESSAGE_BYTES: &str = "16777216";

/// Names of topics and patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    literals: Vec<String>,
    patterns: Vec<String>,
}

impl Topics {
    /// Reads a list separated by commas; an item with `*` (any text) or `?` (any character) is a pattern.
    ///
    /// # Errors
    /// A sentence, if an item is no topic's name.
    pub fn parse(list: &str) -> Result<Topics, String> {
        let mut topics = Topics { literals: Vec::new(), patterns: Vec::new() };
        for item in list.split(',') {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'*' | b'?');
            if item.is_empty() || item.len() > 249 || !item.bytes().all(known) {
                return Err(format!(
                    "topics={list}: `{item}` is no topic; list names of letters, digits, `.`, `_`, `-` or patterns with `*`"
                ));
            }
            let kind = if item.contains(['*', '?']) { &mut topics.patterns } else { &mut topics.literals };
            kind.push(item.to_owned());
        }
        Ok(topics)
    }

    /// Whether a topic is meant. `events.raw_all`, and internal topics (`__..`), only if named in full.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let by_pattern = || self.patterns.iter().any(|pattern| glob(pattern.as_bytes(), topic.as_bytes()));
        self.literals.iter().any(|name| name == topic) || topic != RAW_ALL && !topic.starts_with("__") && by_pattern()
    }

    /// The topics that are named in full.
    pub(crate) fn literals(&self) -> &[String] {
        &self.literals
    }
}

impl std::fmt::Display for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<&str> = self.literals.iter().chain(&self.patterns).map(String::as_str).collect();
        f.write_str(&all.join(","))
    }
}

/// Whether a pattern of `*` and `?` matches all of a text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star stood, and how much of the text it had taken.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// What the cluster has of the topics that are meant: names with their number of partitions, sorted by name.
pub(crate) fn list<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &Topics,
    at_most: Duration,
) -> Result<Vec<(String, i32)>, KafkaError> {
    let metadata = consumer.fetch_metadata(None, at_most)?;
    let count = |partitions: usize| i32::try_from(partitions).unwrap_or(i32::MAX);
    let mut found: Vec<_> = metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none() && topics.matches(topic.name()))
        .map(|topic| (topic.name().to_owned(), count(topic.partitions().len())))
        .collect();
    found.sort();
    Ok(found)
}

/// Creates a topic with the broker's own replication; one that is there already stays as it is.
///
/// # Errors
/// What the broker says, or that it does not answer within ten seconds.
pub fn create_topic(config: &KafkaConfig, topic: &str, partitions: i32) -> Result<(), KafkaError> {
    let admin: AdminClient<DefaultClientContext> = config.client().set_log_level(QUIET).create()?;
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1)).set("max.message.bytes", MAX_MESSAGE_BYTES);
    let patience = Some(Duration::from_secs(10));
    let options = AdminOptions::new().operation_timeout(patience).request_timeout(patience);
    match block_on(admin.create_topics([&new], &options))?.pop() {
        Some(Ok(_)) | Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | None => Ok(()),
        Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
    }
}

/// Errors are returned; the client has nothing to add to them.
pub(crate) const QUIET: rdkafka::config::RDKafkaLogLevel = rdkafka::config::RDKafkaLogLevel::Critical;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("events.*", "events.clicks", true),
            ("events.*", "events.a.b", true),
            ("events.*", "events", false),
            ("events.*", "myevents.x", false),
            ("events.*", "eventsx", false),
            ("*", "anything", true),
            ("*", "__consumer_offsets", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b", "ab_ba", false),
            ("events.*", RAW_ALL, false),
            ("events.raw*", RAW_ALL, false),
            ("x,events.raw_all", RAW_ALL, true),
            ("__internal", "__internal", true),
        ] {
            assert_eq!(Topics::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_no_topic_is_refused() {
        for list in ["", "a,,b", "a b", "a/b", "ä"] {
            assert!(Topics::parse(list).unwrap_err().contains("is no topic"), "{list}");
        }
    }
}
