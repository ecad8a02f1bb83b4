//! Kafka to ClickHouse beside a bare consumer that only counts, in one run, rounds interleaved.
//!
//! ```text
//! bench-kafka [--events N] [--rounds N] [--workers N] [--keep]       needs KAFKA_BROKERS and CLICKHOUSE_URL (make services)
//! bench-kafka count BROKERS TOPIC                                    the bare consumer, in a process of its own
//! ```

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::TopicPartitionList;
use serde_json::{Value, json};
use tidemill_benches::report::median;
use tidemill_benches::rounds::BenchError;
use tidemill_benches::usage;

const TOPIC: &str = "bench.kafka";
const PARTITIONS: i32 = 8;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((first, [brokers, topic])) if first == "count" => count(brokers, topic),
        _ => compare(&arguments),
    };
    match done {
        Ok(text) if writeln!(std::io::stdout(), "{text}").is_ok() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench-kafka: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads all partitions to their ends and counts; gives `{"messages", "bytes", "seconds"}`.
fn count(brokers: &str, topic: &str) -> Result<String, BenchError> {
    let kafka = |error: rdkafka::error::KafkaError| BenchError::Usage(format!("Kafka at {brokers}: {error}"));
    let begun = usage::now();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench-count")
        .set("enable.auto.commit", "false")
        .set("queued.max.messages.kbytes", "65536")
        .create()
        .map_err(kafka)?;
    let mut left = 0;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        let (low, high) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(30)).map_err(kafka)?;
        left += high - low;
        partitions.add_partition_offset(topic, partition, Offset::Beginning).map_err(kafka)?;
    }
    consumer.assign(&partitions).map_err(kafka)?;
    let (mut messages, mut bytes) = (0_i64, 0_usize);
    while messages < left {
        if let Some(message) = consumer.poll(Duration::from_secs(1)) {
            bytes += message.map_err(kafka)?.payload().map_or(0, <[u8]>::len);
            messages += 1;
        }
    }
    Ok(json!({ "messages": messages, "bytes": bytes, "seconds": begun.elapsed().as_secs_f64() }).to_string())
}

struct Settings {
    tidemill: PathBuf,
    brokers: String,
    clickhouse: String,
    events: u64,
    rounds: usize,
    workers: String,
    keep: bool,
}

fn settings(arguments: &[String]) -> Result<Settings, BenchError> {
    let variable = |name: &str| {
        env::var(name)
            .map_err(|_| BenchError::Usage(format!("{name} is not set; run `make services` and its export lines")))
    };
    let own = env::current_exe().map_err(|source| BenchError::Io { what: "finding this program".into(), source })?;
    let clickhouse = variable("CLICKHOUSE_URL")?.replace("http://", "clickhouse://");
    let mut settings = Settings {
        tidemill: own.with_file_name("tidemill"),
        brokers: variable("KAFKA_BROKERS")?,
        clickhouse: clickhouse.trim_end_matches('/').to_owned(),
        events: 3_000_000,
        rounds: 3,
        workers: "2".into(),
        keep: false,
    };
    let mut rest = arguments.iter();
    while let Some(option) = rest.next() {
        let mut number = || {
            let value = rest.next().and_then(|value| value.parse::<u64>().ok());
            value.ok_or_else(|| BenchError::Usage(format!("{option} takes a number")))
        };
        match option.as_str() {
            "--events" => settings.events = number()?,
            "--rounds" => settings.rounds = usize::try_from(number()?).unwrap_or(1).max(1),
            "--workers" => settings.workers = number()?.to_string(),
            "--keep" => settings.keep = true,
            other => return Err(BenchError::Usage(format!("{other}: give --events, --rounds, --workers or --keep"))),
        }
    }
    Ok(settings)
}

fn run(program: &Path, arguments: &[&str]) -> Result<Vec<u8>, BenchError> {
    let what = format!("{} {}", program.display(), arguments.join(" "));
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let done = done.map_err(|source| BenchError::Io { what: what.clone(), source })?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    Err(BenchError::Failed { name: "a contestant".into(), status: done.status.to_string(), command: what })
}

fn compare(arguments: &[String]) -> Result<String, BenchError> {
    let settings = settings(arguments)?;
    let own = env::current_exe().map_err(|source| BenchError::Io { what: "finding this program".into(), source })?;
    let topic = format!("{TOPIC}.{}", std::process::id());
    let to = format!("kafka://{}/{topic}?partitions={PARTITIONS}", settings.brokers);
    run(&settings.tidemill, &["generate", "--events", &settings.events.to_string(), "--to", &to])?;
    let (mut bare, mut job) = (Vec::new(), Vec::new());
    let mut text =
        String::from("| round | bare consumer, msg/s | Kafka to ClickHouse, events/s | ratio |\n|---|---|---|---|\n");
    for round in 1..=settings.rounds {
        let counted = parse(&run(&own, &["count", &settings.brokers, &topic])?)?;
        let messages = number(&counted, "messages");
        let rate = messages / number(&counted, "seconds");
        let line = one_run(&settings, &topic, round)?;
        let events = number(&line, "events_read");
        if (events - messages).abs() > 0.5 {
            let (found, expected) =
                (line["events_read"].as_u64().unwrap_or(0), counted["messages"].as_u64().unwrap_or(0));
            return Err(BenchError::Disagree { name: "the job".into(), what: "events_read".into(), found, expected });
        }
        let ours = events / number(&line, "seconds");
        text.push_str(&format!("| {round} | {rate:.0} | {ours:.0} | {:.2} |\n", ours / rate));
        bare.push(rate);
        job.push(ours);
    }
    let (bare, job) = (median(bare), median(job));
    let ratio = job / bare;
    text.push_str(&format!(
        "\nmedians: bare {:.0}, job {:.0} at {} workers, ratio {ratio:.2} (goal 0.5)",
        bare, job, settings.workers
    ));
    Ok(text)
}

/// The job over the whole topic into a new database, with a new state.
fn one_run(settings: &Settings, topic: &str, round: usize) -> Result<Value, BenchError> {
    let place = format!("bench_{}_{round}", std::process::id());
    let database = format!("{}/{place}", settings.clickhouse);
    let state = env::temp_dir().join(&place);
    let from = format!("kafka://{}?topics={topic}", settings.brokers);
    run(&settings.tidemill, &["tables", "apply", "--to", &database])?;
    let state_text = state.display().to_string();
    let job = ["run", "web_analytics", "--from", &from, "--until-end", "--to", &database, "--state", &state_text];
    let line = run(&settings.tidemill, &[&job[..], &["--workers", &settings.workers, "--json"]].concat())?;
    if !settings.keep {
        std::fs::remove_dir_all(&state)
            .map_err(|source| BenchError::Io { what: format!("removing {}", state.display()), source })?;
    }
    parse(&line)
}

fn parse(line: &[u8]) -> Result<Value, BenchError> {
    serde_json::from_slice(line).map_err(|error| BenchError::Usage(format!("a contestant printed no JSON: {error}")))
}

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or(f64::NAN)
}
