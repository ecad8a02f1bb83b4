//! A replay into a new place: the same pipeline over the same input, in the cuts of the run that is repeated or fresh ones.
//!
//! With recorded cuts every decision about time is repeated, so the tables have the same rows, also those that were late or
//! could not be verified (INV-2). With fresh ones the tables that late events correct have the same rows; what could not be
//! verified near the horizon may differ.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use tidemill_connectors::events::{Bounds, UserKey};
use tidemill_connectors::files::{FilesConfig, Notice};
use tidemill_connectors::messages::Topics;
use tidemill_dataflow::runtime::{self, RunContext, RunError, RunOptions, RunReport, StopHandle};
use tidemill_dataflow::source::{PartitionBinding, SourceError, as_the_connector_left_it};
use tidemill_dataflow::status::Status;
use tidemill_embedded_log::{LogConfig, LogSource, is_log_address};
use tidemill_kafka::KafkaSource;
use tidemill_log::{FOLDER, History, Location, LogState};
use tidemill_tables::Retention;

use super::{ReplayArguments, ends, read, say, set_aside};
use crate::cli::books::Books;
use crate::cli::ending::Ending;
use crate::cli::run::{drive, failure, open_store, stop_on_signals, topics, user_key_of, with_registry};
use crate::cli::{Failure, alive, lines, with_causes};
use crate::io::{AnalyticsIo, DeadLetters, EventSource, SinkTarget};
use crate::pipeline::Pipeline;

/// Runs the pipeline into `out`.
pub(super) fn replay(arguments: &ReplayArguments, pipeline: &Pipeline, out: &Location) -> Result<(), Failure> {
    let original = arguments.bindings.as_ref().or(arguments.state.as_ref());
    if original.is_some_and(|original| same_place(original, out)) {
        return Err(Failure::usage(format!("--out {out}: the run that is repeated is there; name a new place")));
    }
    let cuts = arguments.bindings.as_ref().map(history).transpose()?;
    let live = match &cuts {
        Some(cuts) => Some(cuts.state().clone()),
        None => arguments.state.as_ref().map(state).transpose()?,
    };
    let instance = live.as_ref().and_then(LogState::seal).map(|seal| seal.instance.clone()).unwrap_or_default();
    let how = if cuts.is_some() { "recorded" } else { "fresh" };
    let options = RunOptions {
        workers: arguments.workers,
        // Nobody but the same replay goes on here.
        settings: format!("replay of=[{instance}] cuts={how} to=lake"),
        disabled_sinks: arguments.disable_sink.iter().cloned().collect(),
        quarantined: set_aside(live.as_ref()),
        ..RunOptions::default()
    };
    let key = user_key_of(original, out);
    let source = match &cuts {
        Some(cuts) => repeated(Named::by(arguments), cuts, key)?,
        None => afresh(Named::by(arguments), live.as_ref(), key)?,
    };
    let store = open_store(out)?;
    let letters = DeadLetters::Files(Arc::clone(&store));
    let io = AnalyticsIo::new(pipeline.clone(), source, vec![SinkTarget::Lake(Arc::clone(&store))], letters);
    if let Some(begun) = read(&store, out)? {
        // Another plan is compared with the checkpoint at the start.
        let _same = runtime::check(&pipeline.on(io.clone()), &options, &begun)?;
    }
    let _alive = alive::claim(out, &store, arguments.take_over)?;
    let through = cuts.as_ref().map(History::through);
    let declared = pipeline.on(io.clone());
    let begin = |context: RunContext, stop: &StopHandle| match cuts {
        Some(cuts) => runtime::repeat(declared, &options, context, cuts, stop),
        None => runtime::run(declared, &options, context, stop),
    };
    // Nobody follows a replay: the live run's consumer group, for one, must not be moved back.
    let status = Arc::new(Status::new(pipeline.name()));
    let shown = Arc::clone(&status);
    let maintenance = io.maintenance(Retention::FOREVER);
    let ended = drive(&stop_on_signals()?, begin, (store, None), maintenance, Vec::new(), status)?;
    let report = ended.map_err(why)?;
    let finished = through.map_or(report.finished, |through| report.state.committed() == Some(through));
    tell(&report, (pipeline, out), finished, &shown)
}

fn tell(
    report: &RunReport,
    (pipeline, out): (&Pipeline, &Location),
    finished: bool,
    status: &Status,
) -> Result<(), Failure> {
    if !finished {
        return Err(Failure::failed("stopped; the same command goes on from there"));
    }
    let (reasons, without_records) = (status.malformed_reasons(), status.without_records());
    let ending = Ending {
        books: Books::of(&report.state),
        before: Books::default(),
        counts: report.state.counts(),
        reasons: &reasons,
        without_records: &without_records,
        finished,
        dead_letters: &out.below("dead_letters").to_string(),
        unverified_table: pipeline.unverified_table(),
    };
    let Books { read, accepted, malformed, quarantined, duplicates, unverified, .. } = ending.books;
    say(&format!(
        "replayed through epoch {} into {out}: {read} events read, {accepted} accepted, {duplicates} duplicates, \
         {malformed} malformed, {quarantined} quarantined, {unverified} unverified",
        report.state.committed().unwrap_or(0),
    ))?;
    ending.warnings().iter().for_each(|warning| lines::warn(warning));
    Ok(())
}

/// A source that lost its beginning is refused with what that means here.
pub(super) fn why(error: RunError) -> Failure {
    let (lost, failed) = match error {
        // A replay takes nothing for lost.
        RunError::Source(SourceError::Missing { loss, problem }) => {
            (true, Failure::refused(format!("{}: {problem}", loss.partition)))
        }
        error => (matches!(error, RunError::Source(SourceError::Changed { .. })), failure(error)),
    };
    if lost { failed.adding("a replay reads again from where the run began") } else { failed }
}

fn same_place(a: &Location, b: &Location) -> bool {
    match (a, b) {
        (Location::Folder(a), Location::Folder(b)) => {
            a == b || (a.canonicalize().ok() == b.canonicalize().ok() && a.exists())
        }
        _ => a == b,
    }
}

fn state(place: &Location) -> Result<LogState, Failure> {
    read(&open_store(place)?, place)?.ok_or_else(|| Failure::refused(format!("{place}: there is no log of a run")))
}

pub(in crate::cli) fn history(place: &Location) -> Result<History, Failure> {
    let found = History::open(open_store(place)?, FOLDER);
    let found = found.map_err(|error| Failure::refused(format!("{place}: {}", with_causes(&error))))?;
    found.ok_or_else(|| Failure::refused(format!("{place}: the run there has committed nothing yet")))
}

fn files(paths: Vec<PathBuf>, recorded: &[PartitionBinding], bounds: Bounds, user_key: UserKey) -> EventSource {
    // Files of one format are of that format, whatever they begin with.
    let named = |partition: &PartitionBinding| partition.detail.get("format")?.as_str()?.parse().ok();
    let formats: Vec<_> = recorded.iter().filter_map(named).collect();
    let format = formats.first().cloned().filter(|one| formats.iter().all(|other| other == one)).unwrap_or_default();
    let notice = Notice::to(lines::say);
    EventSource::files(FilesConfig { paths, format, user_key, drain: false, notice, bounds })
}

fn log_config(from: &str) -> Result<LogConfig, Failure> {
    LogConfig::source(from).map_err(|error| Failure::usage(format!("--from: {error}")))
}

fn unknown(from: &str) -> Failure {
    Failure::usage(format!("--from {from}: give kafka://HOST:PORT?topics=LIST, or log://DIR?topics=LIST"))
}

/// What is read again, as it is named now.
#[derive(Clone, Copy)]
pub(in crate::cli) struct Named<'a> {
    pub(in crate::cli) from: Option<&'a str>,
    pub(in crate::cli) input: &'a [PathBuf],
    pub(in crate::cli) oldest: Bounds,
}

impl<'a> Named<'a> {
    fn by(arguments: &'a ReplayArguments) -> Named<'a> {
        Named { from: arguments.from.as_deref(), input: &arguments.input, oldest: arguments.oldest }
    }
}

/// What the run that is repeated has read: as it is named now, or as it was recorded.
pub(in crate::cli) fn repeated(named: Named<'_>, cuts: &History, key: UserKey) -> Result<EventSource, Failure> {
    let Named { from, input, oldest } = named;
    let recorded: Vec<_> = cuts.partitions().into_values().map(as_the_connector_left_it).collect();
    match from {
        // Nothing is read beyond what is recorded, so where a topic ends now does not matter.
        Some(from) if is_log_address(from) => {
            return Ok(EventSource::log(LogSource::new(log_config(from)?)).within(oldest));
        }
        Some(from) if from.starts_with("kafka://") => {
            let source = with_registry(KafkaSource::new(topics(from)?))?;
            return Ok(EventSource::topics(source).within(oldest));
        }
        Some(from) => return Err(unknown(from)),
        None if !input.is_empty() => {
            return Ok(files(input.to_vec(), &recorded, oldest, key));
        }
        None => {}
    }
    let text = |partition: &PartitionBinding, name: &str| partition.detail.get(name)?.as_str().map(PathBuf::from);
    let paths: Vec<PathBuf> = recorded.iter().filter_map(|partition| text(partition, "path")).collect();
    if !paths.is_empty() {
        return Ok(files(paths, &recorded, oldest, key));
    }
    let Some(root) = recorded.first().and_then(|partition| text(partition, "log")) else {
        return Err(Failure::usage("where the run read from is not recorded: name it with --from"));
    };
    let names = recorded.iter().filter_map(|partition| Some(partition.name.rsplit_once('/')?.0));
    let names: BTreeSet<&str> = names.collect();
    let topics = Topics::parse(&names.into_iter().collect::<Vec<_>>().join(",")).map_err(Failure::refused)?;
    let source = LogSource::new(LogConfig { topics, ..LogConfig::at(root) });
    Ok(EventSource::log(source).within(oldest))
}

/// What is there now, or what the live run had read at its last commit.
pub(in crate::cli) fn afresh(named: Named<'_>, live: Option<&LogState>, key: UserKey) -> Result<EventSource, Failure> {
    let Named { from, input, oldest } = named;
    let ends = live.map(ends);
    match from {
        None => Ok(files(input.to_vec(), &[], oldest, key)),
        Some(from) if is_log_address(from) => {
            let source = LogSource::new(log_config(from)?);
            let source = match ends {
                Some(ends) => source.until_offsets(ends),
                None => source.until_end(),
            };
            Ok(EventSource::log(source).within(oldest))
        }
        Some(from) if from.starts_with("kafka://") => {
            let source = KafkaSource::new(topics(from)?);
            let source = match ends {
                Some(ends) => source.until_offsets(ends),
                None => source.until_end(),
            };
            Ok(EventSource::topics(with_registry(source)?).within(oldest))
        }
        Some(from) => Err(unknown(from)),
    }
}
