//! `tidemill generate`: made-up events with everything that goes wrong in the field, to a file, a topic, a log, or posted
//! to a collector like a fleet of browsers.

mod browser;
mod embedded;
mod fleet;
mod sender;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tidemill_connectors::generate::{self, GenerateConfig, Rates, Summary};
use tidemill_dataflow::hash::hash64;
use tidemill_embedded_log::is_log_address;
use tidemill_kafka::KafkaConfig;
use tidemill_kafka::produce::produce_lines;
use tidemill_kafka::topics::create_topic;

use self::fleet::Fleet;
use super::run::kafka_credentials;
use super::{Failure, lines, units};

#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    /// How many distinct events. A fleet may also send for a time, or until it is stopped.
    #[arg(long, value_name = "N")]
    events: Option<u64>,
    /// The seed of all randomness: equal seeds give equal files.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// The file to write.
    #[arg(long, value_name = "FILE", required_unless_present = "to")]
    out: Option<PathBuf>,
    /// What to write instead: a topic, by user, kafka://HOST:PORT/TOPIC?partitions=8, created if it is missing; a log,
    /// log://DIR?partitions=4, with the collector's topics; or a collector, http://HOST:PORT.
    #[arg(long, value_name = "URL", conflicts_with = "out")]
    to: Option<String>,
    /// Event time from the first to the last event, for example 3h; a fleet sends as time goes by instead.
    #[arg(long, value_name = "TIME", default_value = "3h", value_parser = units::duration)]
    span: Duration,
    /// Leave out events that lie beyond the deduplication horizon: then the tables are exact in any order of lines.
    #[arg(long)]
    within_horizon: bool,
    #[command(flatten)]
    fleet: FleetArguments,
}

/// For a collector alone.
#[derive(Debug, Args)]
#[command(next_help_heading = "Posting to a collector")]
struct FleetArguments {
    /// Events a second.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Send for so long.
    #[arg(long = "for", value_name = "TIME", conflicts_with = "events", value_parser = units::duration)]
    time: Option<Duration>,
    /// The API key.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Connections that post at the same time.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = units::at_least_one)]
    connections: usize,
    /// Events of a user that are posted together; fewer after a second.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = units::at_least_one)]
    batch: usize,
    /// Give a batch up that was not acknowledged for so long; without it, it is sent again for ever.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    give_up: Option<Duration>,
    /// Write every acknowledged event down as it was sent, a JSON object a line.
    #[arg(long, value_name = "FILE")]
    acked: Option<PathBuf>,
    /// Print the books at the end as one line of JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn generate(arguments: GenerateArguments) -> Result<(), Failure> {
    let rates = if arguments.within_horizon { Rates::within_horizon() } else { Rates::default() };
    let of = |events| GenerateConfig { span: arguments.span, rates, ..GenerateConfig::new(events, arguments.seed) };
    if let Some(url) = arguments.to.as_ref().filter(|url| url.starts_with("http://") || url.starts_with("https://")) {
        return to_collector(&of(0), url.clone(), arguments.events, arguments.fleet);
    }
    let events = arguments.events.ok_or_else(|| Failure::usage("say how many events with --events"))?;
    let config = of(events);
    let (place, made) = match (&arguments.out, &arguments.to) {
        (Some(path), _) => (path.display().to_string(), to_file(&config, path)?),
        (None, Some(url)) if is_log_address(url) => (url.clone(), embedded::to_log(&config, url)?),
        (None, Some(url)) => (url.clone(), to_topic(&config, url)?),
        (None, None) => return Err(Failure::usage("give --out FILE or --to kafka://HOST:PORT/TOPIC")),
    };
    lines::say(&format!(
        "{place}: {} lines, {} bytes: {} events, {} duplicates, {} conflicting, {} late, {} very late, {} malformed",
        made.lines,
        made.bytes,
        made.events,
        made.duplicates,
        made.conflicting,
        made.late,
        made.very_late,
        made.malformed
    ));
    Ok(())
}

fn to_collector(
    config: &GenerateConfig,
    to: String,
    events: Option<u64>,
    arguments: FleetArguments,
) -> Result<(), Failure> {
    let FleetArguments { rate, time, key, connections, batch, give_up, acked, json } = arguments;
    let fleet = Fleet { to, key, rate, events, time, connections, batch, give_up, acknowledged: acked };
    let report = fleet.run(config)?;
    let books = report.books;
    lines::say(&format!(
        "{} events sent in {:.1} s: {} accepted, {} rejected, {} given up; {} batches, {} of them sent again",
        books.sent,
        report.seconds,
        books.accepted,
        books.rejected,
        books.given_up,
        books.batches,
        books.retried_batches
    ));
    if json {
        let line = serde_json::to_string(&report).map_err(Failure::failed)?;
        writeln!(io::stdout(), "{line}").map_err(Failure::failed)?;
    }
    Ok(())
}

fn to_file(config: &GenerateConfig, path: &Path) -> Result<Summary, Failure> {
    let failed = |error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    let made = generate::generate(config, &mut out).map_err(Failure::failed)?;
    out.flush().map_err(failed)?;
    Ok(made)
}

fn to_topic(config: &GenerateConfig, url: &str) -> Result<Summary, Failure> {
    let cluster =
        KafkaConfig::sink(url, &kafka_credentials()).map_err(|error| Failure::usage(format!("--to: {error}")))?;
    let (topic, partitions) = (cluster.prefix.clone(), cluster.partitions);
    if topic.is_empty() {
        return Err(Failure::usage(format!("--to {url}: name a topic, kafka://HOST:PORT/TOPIC")));
    }
    create_topic(&cluster, &topic, partitions).map_err(Failure::failed)?;
    let mut out = TopicWriter { cluster, topic, partitions, waiting: Vec::new() };
    let made = generate::generate(config, &mut out).map_err(Failure::failed)?;
    out.send().map_err(Failure::failed)?;
    Ok(made)
}

/// Collects text and sends its whole lines, many at a time.
struct TopicWriter {
    cluster: KafkaConfig,
    topic: String,
    partitions: i32,
    waiting: Vec<u8>,
}

/// How much text is sent at once.
const SENT_AT_ONCE: usize = 64 << 20;

impl TopicWriter {
    fn send(&mut self) -> io::Result<()> {
        let end = self.waiting.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = self.waiting[..end].split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1]);
        let partitions = u64::try_from(self.partitions).unwrap_or(1).max(1);
        let of_user = |_, line: &[u8]| {
            let partition = hash64(user_of(line).unwrap_or(line)) % partitions;
            i32::try_from(partition).expect("it is less than the number of partitions")
        };
        produce_lines(&self.cluster, &self.topic, lines, of_user).map_err(io::Error::other)?;
        self.waiting.drain(..end);
        Ok(())
    }
}

impl Write for TopicWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= SENT_AT_ONCE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// The user as the line spells it: events of one user stay in order, and a retry follows its original.
fn user_of(line: &[u8]) -> Option<&[u8]> {
    let start = memchr::memmem::find(line, b"\"user_id\":\"")? + b"\"user_id\":\"".len();
    let length = line[start..].iter().position(|byte| *byte == b'"')?;
    Some(&line[start..start + length])
}
