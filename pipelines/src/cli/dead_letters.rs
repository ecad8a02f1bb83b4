//! `tidemill dead-letters`: what could not become an event, listed and put back.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Deserialize;
use tidemill_kafka::letters::{self, Letter, LetterPlace};
use tidemill_kafka::{KafkaConfig, KafkaError};
use tidemill_log::Location;

use super::run::kafka_credentials;
use super::{Failure, lines, with_causes};

/// The prefix of the topic of dead letters, unless a run writes tables to Kafka.
pub(crate) const PREFIX: &str = "tidemill.";

#[derive(Debug, Args)]
pub(crate) struct DeadLettersArguments {
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Debug, Subcommand)]
enum DeadLettersCommand {
    /// Print the dead letters: where each stood, why it is one, and whether it was put back.
    List(ListArguments),
    /// Send the messages of dead letters again to the topics where they stood, each once: after a schema was registered or a
    /// reader was mended. What was put back before is not put back again.
    Replay(ReplayArguments),
}

#[derive(Debug, Args)]
struct ListArguments {
    /// Where the topic of dead letters is: kafka://HOST:PORT, with the /PREFIX of --to kafka:// if the run has one.
    #[arg(long, value_name = "URL", required_unless_present = "data", conflicts_with = "data")]
    from: Option<String>,
    /// The folder or bucket of a run that keeps its dead letters in files.
    #[arg(long, value_name = "PLACE")]
    data: Option<PathBuf>,
    /// Only those whose reason contains this text.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
struct ReplayArguments {
    /// Where the topic of dead letters is: kafka://HOST:PORT, with the /PREFIX of --to kafka:// if the run has one.
    #[arg(long, value_name = "URL")]
    from: String,
    /// Only those whose reason contains this text.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(crate) fn dead_letters(arguments: &DeadLettersArguments) -> Result<(), Failure> {
    match &arguments.command {
        DeadLettersCommand::List(ListArguments { from, data, reason }) => {
            let text = match (from, data) {
                (Some(from), _) => of_topic(from, reason.as_deref())?,
                (None, Some(data)) => of_files(data, reason.as_deref())?,
                (None, None) => String::new(),
            };
            lines::print(&text).map_err(Failure::failed)
        }
        DeadLettersCommand::Replay(ReplayArguments { from, reason }) => {
            let config = config(from)?;
            let wanted = |letter: &Letter| has(&letter.reason, reason.as_deref());
            let done = letters::replay(&config, wanted).map_err(|error| failed(from, &error))?;
            for place in &done.gone {
                lines::warn(&format!("{}: its message is in no topic any more, so it is not put back", shown(place)));
            }
            let (sent, before, gone) = (done.sent, done.before, done.gone.len());
            lines::print(&format!("{sent} put back, {before} were before, {gone} cannot be\n")).map_err(Failure::failed)
        }
    }
}

fn config(from: &str) -> Result<KafkaConfig, Failure> {
    let config = KafkaConfig::sink(from, &kafka_credentials());
    let mut config = config.map_err(|error| Failure::usage(format!("--from: {error}")))?;
    if config.prefix.is_empty() {
        config.prefix = PREFIX.to_owned();
    }
    Ok(config)
}

fn failed(from: &str, error: &KafkaError) -> Failure {
    Failure::failed(format!("{from}: {}", with_causes(error)))
}

fn has(reason: &str, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| reason.contains(wanted))
}

fn shown(place: &LetterPlace) -> String {
    let partition = place.partition.map(|partition| format!("/{partition}")).unwrap_or_default();
    format!("{}{partition}, offset {}", place.topic, place.offset)
}

fn of_topic(from: &str, reason: Option<&str>) -> Result<String, Failure> {
    let mut text = String::new();
    let found = letters::letters(&config(from)?).map_err(|error| failed(from, &error))?;
    for letter in found.iter().filter(|letter| has(&letter.reason, reason)) {
        let put_back = if letter.replayed { " (put back)" } else { "" };
        writeln!(text, "{}: {}{put_back}", shown(&letter.place), letter.reason)
            .expect("memory takes what is written to it");
    }
    Ok(text)
}

#[derive(Deserialize)]
struct Line {
    file: String,
    line: u64,
    reason: String,
}

fn of_files(data: &Path, wanted: Option<&str>) -> Result<String, Failure> {
    let refused = |error: &dyn std::error::Error| Failure::failed(with_causes(error));
    let place = Location::from(data).open_for_reading().map_err(|error| refused(&error))?;
    let mut text = String::new();
    for name in place.store.list("dead_letters").map_err(|error| refused(&error))? {
        let stored = place.store.get(&name).map_err(|error| refused(&error))?.unwrap_or_default();
        let found = stored.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        for letter in found.filter(|letter| has(&letter.reason, wanted)) {
            let Line { file, line, reason } = letter;
            writeln!(text, "{file}, line {line}: {reason}").expect("memory takes what is written to it");
        }
    }
    Ok(text)
}
