//! Where a cluster is and what to do with it, from one address.
//!
//! `kafka://HOST:PORT[,HOST2:PORT2]?topics=..&start=..&group=..` is a source, `kafka://HOST:PORT/PREFIX?partitions=..` a
//! sink. Any other parameter whose name contains a dot goes to librdkafka as it is (`security.protocol`,
//! `sasl.mechanism`, `ssl.ca.location`, `compression.type`, `fetch.max.bytes`); values are percent-decoded. What the
//! delivery promises rest on cannot be set. Secrets are not shown by `Debug`.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use thiserror::Error;
use tidemill_connectors::messages::{Topics, parameters, percent_decoded};

/// The topics that are read where the address names none.
pub const DEFAULT_TOPICS: &str = "events.*";
/// The consumer group whose offsets are kept for lag tools where the address names none.
pub const DEFAULT_GROUP: &str = "tidemill-web_analytics";

/// Settings that the delivery promises rest on, and what to do instead of setting them.
const RESERVED: [(&str, &str); 12] = [
    ("bootstrap.servers", "name the brokers in the address"),
    ("metadata.broker.list", "name the brokers in the address"),
    ("group.id", "use group=NAME"),
    ("group.instance.id", "partitions are assigned by the engine"),
    ("enable.auto.commit", "offsets are kept in the pipeline's log"),
    ("enable.auto.offset.store", "offsets are kept in the pipeline's log"),
    ("auto.offset.reset", "use start="),
    ("enable.partition.eof", "the source needs it"),
    ("isolation.level", "the source reads what is committed, and nothing else"),
    ("enable.idempotence", "the sink needs it"),
    ("transactional.id", "the sink derives it from the pipeline"),
    ("acks", "the sink needs all"),
];

/// What is wrong with an address, as a sentence with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Where a source begins with partitions that it has never read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first message that is still there.
    #[default]
    Earliest,
    /// Behind the last message; partitions that appear later are read from their beginning.
    Latest,
    /// At the first message with this broker timestamp (milliseconds since 1970) or a later one.
    Timestamp(i64),
    /// At these offsets by (topic, partition); partitions that are not named begin at the earliest message.
    Offsets(BTreeMap<(String, i32), u64>),
}

/// User and password for SASL, from the environment rather than from an address that shows up in process lists.
#[derive(Clone, Default)]
pub struct Credentials {
    /// `KAFKA_SASL_USERNAME`.
    pub username: Option<String>,
    /// `KAFKA_SASL_PASSWORD`.
    pub password: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "(hidden)");
        f.debug_struct("Credentials").field("username", &self.username).field("password", &password).finish()
    }
}

/// A cluster, and what is read from or written to it.
#[derive(Clone)]
pub struct KafkaConfig {
    /// `HOST:PORT` of one or more brokers, separated by commas.
    pub brokers: String,
    /// What a source reads.
    pub topics: Topics,
    /// Where a source begins.
    pub start: Start,
    /// The consumer group that gets a copy of the committed offsets.
    pub group: String,
    /// What a sink puts before a table's name to name its topic.
    pub prefix: String,
    /// How many partitions the topics have that a sink creates.
    pub partitions: i32,
    properties: BTreeMap<String, String>,
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value)| (name, if is_secret(name) { "(hidden)" } else { value });
        let properties: BTreeMap<&str, &str> =
            self.properties.iter().map(|(name, value)| shown((name.as_str(), value.as_str()))).collect();
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("topics", &self.topics)
            .field("start", &self.start)
            .field("group", &self.group)
            .field("prefix", &self.prefix)
            .field("partitions", &self.partitions)
            .field("properties", &properties)
            .finish()
    }
}

fn is_secret(name: &str) -> bool {
    ["password", "secret", ".pem", "oauthbearer", "token"].iter().any(|part| name.contains(part))
}

impl KafkaConfig {
    /// The address of a source: `kafka://HOST:PORT[,..]?topics=LIST&start=WHERE&group=NAME&..`.
    ///
    /// `topics` is a list of names and patterns (`*`, `?`) separated by commas, `start` is `earliest`, `latest`,
    /// `timestamp:MS` or `offsets:TOPIC/PARTITION=OFFSET[,..]`.
    ///
    /// # Errors
    /// A sentence that names the wrong part and the remedy.
    pub fn source(address: &str, credentials: &Credentials) -> Result<KafkaConfig, ConfigError> {
        let (mut config, parameters) = KafkaConfig::begin(address, credentials)?;
        if !config.prefix.is_empty() {
            let path = &config.prefix;
            return Err(wrong(format!(
                "{address}: a source has no path `/{path}`; name what to read with ?topics=LIST"
            )));
        }
        for (name, value) in parameters {
            match name.as_str() {
                "topics" => config.topics = Topics::parse(&value).map_err(wrong)?,
                "start" => config.start = parse_start(&value)?,
                "group" if !value.is_empty() => config.group = value,
                _ => config.pass_through(name, value, "topics, start, group")?,
            }
        }
        config.checked()
    }

    /// The address of a sink: `kafka://HOST:PORT[,..]/PREFIX?partitions=N&..`.
    ///
    /// # Errors
    /// A sentence that names the wrong part and the remedy.
    pub fn sink(address: &str, credentials: &Credentials) -> Result<KafkaConfig, ConfigError> {
        let (mut config, parameters) = KafkaConfig::begin(address, credentials)?;
        if !config.prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
            let prefix = &config.prefix;
            return Err(wrong(format!(
                "`{prefix}` cannot begin a topic's name; use letters, digits, `.`, `_` and `-`"
            )));
        }
        for (name, value) in parameters {
            match name.as_str() {
                "partitions" => {
                    let count = value.parse().ok().filter(|count| (1..=10_000).contains(count));
                    config.partitions = count.ok_or_else(|| {
                        wrong(format!("partitions={value} is no number of partitions; use one from 1 to 10000"))
                    })?;
                }
                _ => config.pass_through(name, value, "partitions")?,
            }
        }
        config.checked()
    }

    fn begin(address: &str, credentials: &Credentials) -> Result<(KafkaConfig, Vec<(String, String)>), ConfigError> {
        let Some(rest) = address.strip_prefix("kafka://") else {
            return Err(wrong(format!("`{address}` is no Kafka address; write kafka://HOST:PORT")));
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (brokers, prefix) = place.split_once('/').unwrap_or((place, ""));
        if brokers.contains('@') {
            let remedy = "set KAFKA_SASL_USERNAME and KAFKA_SASL_PASSWORD, or sasl.username=..";
            return Err(wrong(format!("a Kafka address holds no user and password before `@`; {remedy}")));
        }
        for broker in brokers.split(',') {
            let port =
                broker.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                return Err(wrong(format!("`{broker}` is no broker; write HOST:PORT, several separated by commas")));
            }
        }
        let mut properties = BTreeMap::new();
        let given = [("sasl.username", &credentials.username), ("sasl.password", &credentials.password)];
        for (name, value) in given {
            if let Some(value) = value {
                properties.insert(name.to_owned(), value.clone());
            }
        }
        let config = KafkaConfig {
            brokers: brokers.to_owned(),
            topics: Topics::parse(DEFAULT_TOPICS).expect("the default is a list of topics"),
            start: Start::Earliest,
            group: DEFAULT_GROUP.to_owned(),
            prefix: percent_decoded(prefix).map_err(wrong)?,
            partitions: 1,
            properties,
        };
        Ok((config, parameters(query).map_err(wrong)?))
    }

    fn pass_through(&mut self, name: String, value: String, known: &str) -> Result<(), ConfigError> {
        if let Some((_, remedy)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
            return Err(wrong(format!("{name} cannot be set: {remedy}")));
        }
        if !name.contains('.') {
            let hint = "settings of librdkafka have a dot in their name";
            return Err(wrong(format!("there is no parameter `{name}` here; there are {known} ({hint})")));
        }
        self.properties.insert(name, value);
        Ok(())
    }

    fn checked(self) -> Result<KafkaConfig, ConfigError> {
        match self.client().create_native_config() {
            Ok(_) => Ok(self),
            Err(KafkaError::ClientConfig(_, problem, name, _)) => {
                Err(wrong(format!("`{name}` was not accepted: {problem}; see librdkafka's CONFIGURATION.md")))
            }
            Err(error) => Err(wrong(format!("the settings were not accepted: {error}"))),
        }
    }

    /// Settings of every client of this cluster; each adds its own.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client.set("client.id", "tidemill").set("socket.keepalive.enable", "true");
        // A broker that comes back is found within a second.
        client.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client.set("bootstrap.servers", &self.brokers);
        client
    }

    /// The setting that the address gives, if it does.
    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }

    /// A cluster at `brokers` with nothing else set, for tools and tests.
    ///
    /// # Errors
    /// If `brokers` is not `HOST:PORT[,..]`.
    pub fn at(brokers: &str) -> Result<KafkaConfig, ConfigError> {
        KafkaConfig::sink(&format!("kafka://{brokers}"), &Credentials::default())
    }
}

fn wrong(sentence: String) -> ConfigError {
    ConfigError(sentence)
}

fn parse_start(text: &str) -> Result<Start, ConfigError> {
    let remedy = "use earliest, latest, timestamp:MS or offsets:TOPIC/PARTITION=OFFSET[,..]";
    let refused = || wrong(format!("start={text} is no place to start; {remedy}"));
    match text.split_once(':') {
        None if text == "earliest" => Ok(Start::Earliest),
        None if text == "latest" => Ok(Start::Latest),
        Some(("timestamp", ms)) => ms.parse().ok().filter(|ms| *ms >= 0).map(Start::Timestamp).ok_or_else(refused),
        Some(("offsets", list)) => {
            let one = |part: &str| {
                let (place, offset) = part.split_once('=')?;
                let (topic, partition) = place.rsplit_once('/')?;
                let partition = partition.parse::<i32>().ok().filter(|number| *number >= 0)?;
                Some(((topic.to_owned(), partition), offset.parse::<u64>().ok()?))
            };
            list.split(',').map(one).collect::<Option<_>>().map(Start::Offsets).ok_or_else(refused)
        }
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests;
