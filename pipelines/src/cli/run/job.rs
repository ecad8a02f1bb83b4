//! What a run is about, resolved from arguments and environment: the source, the places, the options.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemill_clickhouse::Target;
use tidemill_connectors::files::{FilesConfig, Notice};
use tidemill_dataflow::faults::Faults;
use tidemill_dataflow::runtime::RunOptions;
use tidemill_embedded_log::{LogConfig, LogSource, is_log_address};
use tidemill_kafka::{Credentials, KafkaConfig, KafkaSource};
use tidemill_log::{FOLDER, Location, SplitStore, Store};
use tidemill_tables::Retention;

use super::arguments::{RunArguments, Switch};
use super::source_setting::{SourceSetting, tuned};
use super::user_key::user_key_of;
use crate::cli::access::OpsAccess;
use crate::cli::{Failure, avro, dead_letters, lines, secrets, with_causes};
use crate::io::{AnalyticsIo, DeadLetters, EventSource, SinkTarget};
use crate::pipeline::{Catalog, Pipeline};

/// A run, ready to start.
pub(super) struct Job {
    pub(super) pipeline: Pipeline,
    pub(super) options: RunOptions,
    pub(super) io: AnalyticsIo,
    /// Log and state; the lake's files where there is a lake.
    pub(super) store: Arc<dyn Store>,
    /// Log and state alone.
    pub(super) state: Arc<dyn Store>,
    /// Where the lake is read, if there is one.
    pub(super) lake: Option<Location>,
    /// Where log and state are kept.
    pub(super) place: Location,
    /// Whether a living run there is fenced without being asked.
    pub(super) take_over: bool,
    /// Whether what is read can be compared with what was read before without starting.
    pub(super) files: bool,
    pub(super) json: bool,
    /// Where operators look.
    pub(super) ops: Option<OpsAccess>,
    pub(super) dead_letters: DeadLetters,
    /// How long the lake keeps rows.
    pub(super) retention: Retention,
}

impl Job {
    /// What to say of how long the tables of a live run are kept.
    pub(super) fn kept(&self) -> Option<String> {
        let days = |days: u32| match days {
            0 => "for ever".to_owned(),
            1 => "for a day".to_owned(),
            days => format!("for {days} days"),
        };
        let Retention { raw_days, rollup_days } = self.retention;
        (self.lake.is_some() && !self.files).then(|| {
            format!(
                "the lake keeps events {} and tables by minute {}; --raw-days and --rollup-days say otherwise, 0 \
                 keeps them for ever",
                days(raw_days),
                days(rollup_days)
            )
        })
    }

    /// What to call the place of dead letters.
    pub(super) fn place_of_dead_letters(&self) -> String {
        match (&self.dead_letters, &self.lake) {
            (DeadLetters::Topic(config), _) => format!("the topic {}dead_letters", config.prefix),
            (DeadLetters::Files(_), Some(lake)) => lake.below("dead_letters").to_string(),
            (DeadLetters::Files(_), None) => format!("{}/dead_letters", self.place),
        }
    }
}

/// The places that `--out`, `--to` and `--state` name.
struct Places {
    state: Location,
    lake: Option<Location>,
    clickhouse: Vec<Target>,
    kafka: Vec<KafkaConfig>,
}

pub(super) fn resolve(arguments: RunArguments, ops: Option<OpsAccess>, catalog: &Catalog) -> Result<Job, Failure> {
    let pipeline = catalog.find(arguments.pipeline.as_deref()).map_err(Failure::usage)?.clone();
    let faults = std::env::var("TIDEMILL_FAULTS").unwrap_or_default();
    let faults = Faults::parse(&faults).map_err(|problem| Failure::usage(format!("TIDEMILL_FAULTS: {problem}")))?;
    if arguments.drain && arguments.from.is_some() && !arguments.until_end {
        return Err(Failure::usage("--drain declares the end of the input: topics have one only with --until-end"));
    }
    check_source_settings(&pipeline, arguments.from.as_deref(), &arguments.source_setting)?;
    let places = places(&arguments)?;
    let exactly_once = arguments.exactly_once == Switch::On;
    let elsewhere = !places.clickhouse.is_empty() || !places.kafka.is_empty();
    if elsewhere && !exactly_once {
        return Err(Failure::usage("--exactly-once off is for a folder only: leave out --to, or the option"));
    }
    let open =
        |place: &Location| place.open(exactly_once, faults.of_the_store()).map_err(|error| super::unopened(&error));
    let state = open(&places.state)?;
    let (store, mut targets): (Arc<dyn Store>, _) = match &places.lake {
        Some(lake) if *lake == places.state => (Arc::clone(&state), vec![SinkTarget::Lake(Arc::clone(&state))]),
        Some(lake) => {
            let split = SplitStore::new(Arc::clone(&state), open(lake)?, FOLDER);
            split.check().map_err(|error| Failure::refused(with_causes(&error)))?;
            let split: Arc<dyn Store> = Arc::new(split);
            (Arc::clone(&split), vec![SinkTarget::Lake(split)])
        }
        None => (Arc::clone(&state), Vec::new()),
    };
    let dead_prefix = places.kafka.first().map(|config| config.prefix.clone());
    let settings = settings(&arguments, &places);
    targets.extend(places.clickhouse.into_iter().map(SinkTarget::ClickHouse));
    targets.extend(places.kafka.into_iter().map(SinkTarget::Kafka));
    let (source, dead_letters) = source(&arguments, dead_prefix, &store, &places.state)?;
    let io = AnalyticsIo::new(pipeline.clone(), source, targets, dead_letters.clone()).with_faults(&faults);
    let mut disabled_sinks: BTreeSet<String> = arguments.disable_sink.into_iter().collect();
    disabled_sinks.extend(io.unwanted());
    let options = RunOptions {
        workers: arguments.workers,
        epoch_bytes: arguments.epoch_bytes,
        epoch_every: arguments.epoch_every,
        checkpoint_every: arguments.checkpoint_every,
        memory_budget: arguments.memory_budget,
        disabled_sinks,
        exactly_once,
        drain: arguments.drain,
        keep_bindings: arguments.keep_bindings,
        quarantined: Vec::new(),
        settings,
        drop_state: arguments.drop_state.into_iter().collect(),
        accepted_loss: arguments.accept_loss,
        accepted_places: arguments.accept_topic.into_iter().collect(),
        replay_with_changed_plan: arguments.replay_with_changed_plan,
        faults,
    };
    let (place, lake, files) = (places.state, places.lake, arguments.from.is_none());
    let (json, take_over) = (arguments.json, arguments.take_over);
    let by_default = if files { Retention::FOREVER } else { Retention::default() };
    let retention = Retention {
        raw_days: arguments.raw_days.unwrap_or(by_default.raw_days),
        rollup_days: arguments.rollup_days.unwrap_or(by_default.rollup_days),
    };
    Ok(Job { pipeline, options, io, store, state, lake, place, take_over, files, json, ops, dead_letters, retention })
}

/// Refuses settings of a source that is not there, or that has none.
fn check_source_settings(pipeline: &Pipeline, from: Option<&str>, settings: &[SourceSetting]) -> Result<(), Failure> {
    let Some(first) = settings.first() else { return Ok(()) };
    if !from.is_some_and(|from| from.starts_with("kafka://")) {
        return Err(Failure::usage(format!("{first}: settings of fetches are for --from kafka://; leave them out")));
    }
    let plan = pipeline.plan()?;
    let is_source = |id: &str| plan.operator(id).is_some_and(|operator| operator.family() == "source");
    match settings.iter().find(|setting| !is_source(&setting.id)) {
        Some(wrong) => Err(Failure::usage(format!("{wrong}: `{}` is no source of {}", wrong.id, pipeline.name()))),
        None => Ok(()),
    }
}

/// Kinds and names, without hosts: a server may move, but the tables of one state are not those of another.
fn settings(arguments: &RunArguments, places: &Places) -> String {
    if arguments.from.is_none() && arguments.to.is_empty() {
        return String::new();
    }
    let from = match &arguments.from {
        None => "files",
        Some(from) if is_log_address(from) => "log",
        Some(_) => "kafka",
    };
    let mut to: Vec<String> = Vec::new();
    if let Some(lake) = &places.lake {
        // Files that the log names are in this place and no other.
        to.push(if *lake == places.state { "lake".to_owned() } else { format!("lake:{lake}") });
    }
    to.extend(places.clickhouse.iter().map(|target| format!("clickhouse:{}", target.database())));
    to.extend(places.kafka.iter().map(|config| format!("kafka:{}", config.prefix)));
    to.sort();
    format!("from={from} to={}", to.join(","))
}

fn places(arguments: &RunArguments) -> Result<Places, Failure> {
    let location = |text: &str| text.parse::<Location>().map_err(|error| Failure::usage(with_causes(&error)));
    let (mut lakes, mut clickhouse, mut kafka) = (Vec::new(), Vec::new(), Vec::new());
    let state = match (&arguments.out, &arguments.state) {
        (Some(out), _) => {
            let folder = Location::Folder(folder("--out", out)?);
            lakes.push(folder.clone());
            folder
        }
        (None, Some(state)) => location(state)?,
        (None, None) => return Err(Failure::usage("give --out DIR, or --state PLACE with at least one --to URL")),
    };
    if let Location::Folder(path) = &state {
        folder("--state", path)?;
    }
    for to in &arguments.to {
        match to.split_once("://") {
            Some(("clickhouse", _)) => clickhouse.push(clickhouse_target(to)?),
            Some(("kafka", _)) => {
                let config = KafkaConfig::sink(to, &kafka_credentials());
                kafka.push(config.map_err(|error| Failure::usage(format!("--to: {error}")))?);
            }
            None | Some(("s3", _)) => lakes.push(location(to)?),
            Some((scheme, _)) => {
                return Err(Failure::usage(format!(
                    "--to {to}: nothing is known of {scheme}://; give clickhouse://, s3://, kafka:// or a folder"
                )));
            }
        }
    }
    if lakes.len() > 1 {
        return Err(Failure::usage(
            "there can be one place for Parquet tables: a folder (--out, or --to DIR) or s3://, not two",
        ));
    }
    Ok(Places { state, lake: lakes.pop(), clickhouse, kafka })
}

/// A ClickHouse database by its address, with user and password from the environment, the password also from a file.
pub(crate) fn clickhouse_target(address: &str) -> Result<Target, Failure> {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    Target::parse(address, variable("CLICKHOUSE_USER"), secrets::secret("CLICKHOUSE_PASSWORD"))
        .map_err(|error| Failure::usage(with_causes(&error)))
}

/// User and password for Kafka, the password also from a file.
pub(crate) fn kafka_credentials() -> Credentials {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    Credentials { username: variable("KAFKA_SASL_USERNAME"), password: secrets::secret("KAFKA_SASL_PASSWORD") }
}

fn folder(option: &str, path: &Path) -> Result<PathBuf, Failure> {
    if path.exists() && !path.is_dir() {
        return Err(Failure::usage(format!("{option} {}: it is no folder; name a folder", path.display())));
    }
    Ok(path.to_owned())
}

/// The topics of `--from kafka://..`.
pub(crate) fn topics(from: &str) -> Result<KafkaConfig, Failure> {
    KafkaConfig::source(from, &kafka_credentials()).map_err(|error| Failure::usage(format!("--from: {error}")))
}

/// The same source, reading Avro by the registry that the environment names.
pub(crate) fn with_registry(source: KafkaSource) -> Result<KafkaSource, Failure> {
    Ok(source.with_avro(avro::from_environment()?))
}

fn source(
    arguments: &RunArguments,
    dead_prefix: Option<String>,
    store: &Arc<dyn Store>,
    state: &Location,
) -> Result<(EventSource, DeadLetters), Failure> {
    if let Some(from) = &arguments.from {
        if is_log_address(from) {
            let config = LogConfig::source(from).map_err(|error| Failure::usage(format!("--from: {error}")))?;
            let source = LogSource::new(config);
            let source = if arguments.until_end { source.until_end() } else { source };
            return Ok((EventSource::log(source).within(arguments.oldest), DeadLetters::Files(Arc::clone(store))));
        }
        if !from.starts_with("kafka://") {
            return Err(Failure::usage(format!(
                "--from {from}: give kafka://HOST:PORT?topics=LIST, or log://DIR?topics=LIST"
            )));
        }
        let config = topics(&tuned(from, &arguments.source_setting))?;
        let mut letters = config.clone();
        letters.prefix = dead_prefix.unwrap_or_else(|| dead_letters::PREFIX.to_owned());
        let mut source = KafkaSource::new(config);
        if arguments.until_end {
            source = source.until_end();
        }
        let source = with_registry(source)?;
        return Ok((EventSource::topics(source).within(arguments.oldest), DeadLetters::Topic(letters)));
    }
    let format = arguments.format()?;
    let notice = Notice::to(lines::say);
    let (paths, bounds) = (arguments.input.clone(), arguments.oldest);
    let files =
        FilesConfig { paths, format, user_key: user_key_of(None, state), drain: arguments.drain, notice, bounds };
    Ok((EventSource::files(files), DeadLetters::Files(Arc::clone(store))))
}
