//! Where a log is and what is read from or written to it, from one address.
//!
//! `log://DIR?topics=..&start=..` is a source, `log://DIR?partitions=..&prefix=..` a sink. `DIR` is an absolute path or one
//! below the working folder; it and the parameters are percent-decoded.

use std::path::PathBuf;

use thiserror::Error;
use tidemill_connectors::messages::{Topics, parameters, percent_decoded};

use crate::topic::{check_name, check_partitions};

/// The topics that are read where the address names none.
pub const DEFAULT_TOPICS: &str = "events.*";

const SCHEME: &str = "log://";

/// What is wrong with an address, as a sentence with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Where a source begins with partitions that it has never read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is still there.
    #[default]
    Earliest,
    /// Behind the last record; topics that appear later are read from their beginning.
    Latest,
    /// At the first record that was appended at this time (milliseconds since 1970) or later.
    Time(i64),
}

/// A log, and what is read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The folder that holds the topics' folders.
    pub root: PathBuf,
    /// What is read.
    pub topics: Topics,
    /// Where reading begins.
    pub start: Start,
}

impl LogConfig {
    /// The topics `events.*` of the log in a folder, from their beginning.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> LogConfig {
        let topics = Topics::parse(DEFAULT_TOPICS).expect("the default is a list of topics");
        LogConfig { root: root.into(), topics, start: Start::default() }
    }

    /// The address of a source: `log://DIR?topics=LIST&start=WHERE`.
    ///
    /// `topics` is a list of names and patterns (`*`, `?`) separated by commas, `start` is `earliest`, `latest` or
    /// `time:MS`.
    ///
    /// # Errors
    /// A sentence that names the wrong part and the remedy.
    pub fn source(address: &str) -> Result<LogConfig, ConfigError> {
        let (root, parameters) = parts(address)?;
        let mut config = LogConfig::at(root);
        for (name, value) in parameters {
            match name.as_str() {
                "topics" => config.topics = Topics::parse(&value).map_err(ConfigError)?,
                "start" => config.start = parse_start(&value)?,
                _ => return Err(unknown(&name, "topics and start")),
            }
        }
        Ok(config)
    }
}

/// A log, and how tables are written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// The folder that holds the topics' folders.
    pub root: PathBuf,
    /// What stands before a table's name in its topic's.
    pub prefix: String,
    /// How many partitions new topics get (1).
    pub partitions: u32,
}

impl LogPlace {
    /// The log in a folder, topics named like their tables, with one partition.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> LogPlace {
        LogPlace { root: root.into(), prefix: String::new(), partitions: 1 }
    }

    /// The address of a sink: `log://DIR?partitions=N&prefix=TEXT`.
    ///
    /// # Errors
    /// A sentence that names the wrong part and the remedy.
    pub fn sink(address: &str) -> Result<LogPlace, ConfigError> {
        let (root, parameters) = parts(address)?;
        let mut place = LogPlace::at(root);
        for (name, value) in parameters {
            match name.as_str() {
                "partitions" => {
                    place.partitions = value.parse().map_err(|_| {
                        ConfigError(format!("partitions={value} is no number of partitions; use one from 1 to 10000"))
                    })?;
                    check_partitions(place.partitions).map_err(|error| ConfigError(error.to_string()))?;
                }
                "prefix" => {
                    check_name(&format!("{value}x")).map_err(|error| ConfigError(error.to_string()))?;
                    place.prefix = value;
                }
                _ => return Err(unknown(&name, "partitions and prefix")),
            }
        }
        Ok(place)
    }
}

/// Whether an address is one of a log.
#[must_use]
pub fn is_log_address(address: &str) -> bool {
    address.starts_with(SCHEME)
}

/// The folder of an address and its parameters.
fn parts(address: &str) -> Result<(PathBuf, Vec<(String, String)>), ConfigError> {
    let Some(rest) = address.strip_prefix(SCHEME) else {
        return Err(ConfigError(format!("`{address}` is no address of a log; write log://DIR")));
    };
    let (folder, query) = rest.split_once('?').unwrap_or((rest, ""));
    if folder.is_empty() {
        return Err(ConfigError(format!("`{address}` names no folder; write log://DIR")));
    }
    Ok((percent_decoded(folder).map_err(ConfigError)?.into(), parameters(query).map_err(ConfigError)?))
}

fn unknown(name: &str, known: &str) -> ConfigError {
    ConfigError(format!("there is no parameter `{name}` here; there are {known}"))
}

fn parse_start(text: &str) -> Result<Start, ConfigError> {
    let refused = || ConfigError(format!("start={text} is no place to start; use earliest, latest or time:MS"));
    match text.split_once(':') {
        None if text == "earliest" => Ok(Start::Earliest),
        None if text == "latest" => Ok(Start::Latest),
        Some(("time", ms)) => ms.parse().ok().filter(|ms| *ms >= 0).map(Start::Time).ok_or_else(refused),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_source_is_read() {
        let config = LogConfig::source("log:///var/lib/a%20b?topics=x,y.*&start=time:1431857103000").unwrap();
        assert_eq!(config.root, PathBuf::from("/var/lib/a b"));
        assert!(config.topics.matches("y.z") && !config.topics.matches("events.click"));
        assert_eq!(config.start, Start::Time(1_431_857_103_000));
        let default = LogConfig::source("log://data/log").unwrap();
        assert_eq!(default, LogConfig::at("data/log"));
        assert!(default.topics.matches("events.click") && default.start == Start::Earliest);
        assert_eq!(LogConfig::source("log://d?start=latest").unwrap().start, Start::Latest);
    }

    #[test]
    fn every_part_of_a_sink_is_read() {
        let place = LogPlace::sink("log://out?partitions=4&prefix=tidemill.").unwrap();
        assert_eq!(place, LogPlace { root: "out".into(), prefix: "tidemill.".into(), partitions: 4 });
        assert_eq!(LogPlace::sink("log://out").unwrap(), LogPlace::at("out"));
    }

    #[test]
    fn wrong_addresses_get_a_sentence_with_the_remedy() {
        for (address, part) in [
            ("kafka://h:1", "write log://DIR"),
            ("log://", "names no folder"),
            ("log://d?topics=a b", "is no topic"),
            ("log://d?start=now", "use earliest, latest or time:MS"),
            ("log://d?start=time:-1", "use earliest"),
            ("log://d?group=x", "topics and start"),
            ("log://d%ff", "percent-encoded"),
        ] {
            let error = LogConfig::source(address).unwrap_err().to_string();
            assert!(error.contains(part), "{address}: {error}");
        }
        for (address, part) in
            [("log://d?partitions=0", "use 1 to"), ("log://d?prefix=a/", "letters"), ("log://d?topics=x", "prefix")]
        {
            let error = LogPlace::sink(address).unwrap_err().to_string();
            assert!(error.contains(part), "{address}: {error}");
        }
    }
}
