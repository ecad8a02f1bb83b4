//! `tidemill run`: the contract of the main job's command line.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use clap::{Args, ValueEnum};
use object_store::local::LocalFileSystem;
use serde_json::json;
use tidemill_connectors::events::{Format, HashKey};
use tidemill_connectors::files::FilesConfig;
use tidemill_dataflow::faults::Faults;
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::runtime::{self, Gauges, RunContext, RunError, RunOptions, RunReport, StopHandle};
use tidemill_dataflow::source::{PartitionBinding, Source, as_the_connector_left_it};
use tidemill_log::{DurableLocal, LogError, LogState, ObjectStoreBridge, Store, reader};
use tidemill_query::Lake;

use super::measure::{Stopwatch, cpu_seconds, peak_memory_bytes};
use super::progress::Progress;
use super::{Failure, units, with_causes};
use crate::io::AnalyticsIo;
use crate::web_analytics::web_analytics;

/// The pipelines that this command knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pipeline {
    /// Page views, sessions, errors and revenue of a web site.
    #[value(name = "web_analytics")]
    WebAnalytics,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    Ndjson,
    Combined,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The pipeline.
    pipeline: Pipeline,
    /// Event files, plain, .gz or .zst, in any order.
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    input: Vec<PathBuf>,
    /// The folder for tables, dead letters, log and state.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Worker threads; may change from one start to the next.
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: u32,
    /// Print one JSON object on stdout at the end.
    #[arg(long)]
    json: bool,
    /// What the files hold; told from each file's first line when not given.
    #[arg(long, value_enum)]
    format: Option<InputFormat>,
    /// Bytes of input that an epoch takes, for example 8388608 or 32MiB.
    #[arg(long, value_name = "BYTES", default_value = "32MiB", value_parser = units::bytes)]
    epoch_bytes: u64,
    /// Time between checkpoints, for example 500ms, 10s or 5m.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    checkpoint_every: Duration,
    /// Memory for what is read and not yet committed, for example 256MiB.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = units::bytes)]
    memory_budget: u64,
    /// Leave a sink out; fixed when the folder is begun. May be given several times.
    #[arg(long, value_name = "ID")]
    disable_sink: Vec<String>,
    /// `off`: no log and no checkpoints, in a new folder only; for measuring what they cost.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    exactly_once: Switch,
    /// Declare the end of the input the end of time: everything closes, nothing can be added afterwards.
    #[arg(long)]
    drain: bool,
}

/// The store of a data folder; `durable`: what it confirmed survives a power cut.
pub(crate) fn open_store(root: &Path, durable: bool, forget_unsynced: bool) -> Result<Arc<ObjectStoreBridge>, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("cannot open {}: {error}", root.display()));
    let bridge = if durable {
        let faults = if forget_unsynced { tidemill_log::Faults::ForgetUnsynced } else { tidemill_log::Faults::None };
        let local = DurableLocal::open(root, faults).map_err(|error| failed(&error))?;
        ObjectStoreBridge::new(Arc::new(local))
    } else {
        std::fs::create_dir_all(root).map_err(|error| failed(&error))?;
        let local = LocalFileSystem::new_with_prefix(root).map_err(|error| failed(&error))?;
        ObjectStoreBridge::new(Arc::new(local))
    };
    bridge.map(Arc::new).map_err(|error| failed(&error))
}

/// What a run is about, resolved from arguments and environment.
struct Job {
    options: RunOptions,
    files: FilesConfig,
    store: Arc<dyn Store>,
    json: bool,
    root: PathBuf,
}

pub(crate) fn run(arguments: RunArguments) -> Result<(), Failure> {
    let clock = Stopwatch::start();
    let job = resolve(arguments)?;
    let io = AnalyticsIo::new(job.files.clone(), Arc::clone(&job.store));
    let declared = io.clone();
    let pipeline = move |flow: &Flow<'_>| web_analytics(flow, &declared);
    let before = existing(&job)?;
    if let Some(state) = &before {
        if !job.options.exactly_once {
            return Err(Failure::usage(format!(
                "--exactly-once off needs a new folder, and {} holds a log; give another --out, or leave the option out",
                job.root.display()
            )));
        }
        runtime::check(&pipeline, &job.options, state)?;
        if nothing_to_do(&job, state)? {
            eprintln!("finished before: all input was read and committed; nothing was changed");
            let report = finished_before(state);
            return print(&job, &report, &Usage::of(clock, 0));
        }
    }
    if before.as_ref().is_none_or(|state| !state.ended()) {
        // A mistyped or changed input is refused before this run takes the folder over from one that may be alive.
        let recorded =
            before.iter().flat_map(|state| state.committed_partitions().into_values()).map(as_the_connector_left_it);
        io.events().open(&recorded.collect::<Vec<_>>()).map_err(|error| Failure::from(RunError::Source(error)))?;
    }
    let gauges = Arc::new(Gauges::default());
    let stop = StopHandle::default();
    on_signals(&stop)?;
    let context = RunContext {
        store: Arc::clone(&job.store),
        maintenance: Some(io.maintenance()),
        gauges: Arc::clone(&gauges),
        warn: Box::new(|warning| eprintln!("warning: {warning}")),
    };
    let progress = Progress::start(Arc::clone(&gauges));
    let ended = runtime::run(pipeline, &job.options, context, &stop);
    drop(progress);
    let report = ended?;
    let read_before = before.as_ref().map_or(0, |state| counter(state, "events/read"));
    print(&job, &report, &Usage::of(clock, read_before))
}

fn resolve(arguments: RunArguments) -> Result<Job, Failure> {
    let Pipeline::WebAnalytics = arguments.pipeline;
    let secret = std::env::var("TIDEMILL_HASH_KEY").ok().filter(|secret| !secret.is_empty());
    let format = match arguments.format {
        None => Format::Guess,
        Some(InputFormat::Ndjson) => Format::Ndjson,
        Some(InputFormat::Combined) => Format::Combined,
    };
    let faults = std::env::var("TIDEMILL_FAULTS").unwrap_or_default();
    let faults = Faults::parse(&faults).map_err(|problem| Failure::usage(format!("TIDEMILL_FAULTS: {problem}")))?;
    if arguments.out.exists() && !arguments.out.is_dir() {
        return Err(Failure::usage(format!("--out {}: it is no folder; name a folder", arguments.out.display())));
    }
    let exactly_once = arguments.exactly_once == Switch::On;
    let store: Arc<dyn Store> = open_store(&arguments.out, exactly_once, faults.forget_unsynced)?;
    let options = RunOptions {
        workers: arguments.workers,
        epoch_bytes: arguments.epoch_bytes,
        checkpoint_every: arguments.checkpoint_every,
        memory_budget: arguments.memory_budget,
        disabled_sinks: arguments.disable_sink.into_iter().collect::<BTreeSet<_>>(),
        exactly_once,
        drain: arguments.drain,
        settings: String::new(),
        faults,
    };
    let hash_key = secret.as_deref().map(HashKey::from_secret).unwrap_or_default();
    let files = FilesConfig { paths: arguments.input, format, hash_key };
    Ok(Job { options, files, store, json: arguments.json, root: arguments.out })
}

/// What the folder's log says, if it has one.
fn existing(job: &Job) -> Result<Option<LogState>, Failure> {
    match reader::read(Arc::clone(&job.store), "_tidemill") {
        Ok(state) => Ok(Some(state)),
        Err(LogError::NotInitialized { .. }) => {
            let left = ["tables", "dead_letters"].into_iter().find(|folder| job.root.join(folder).exists());
            match left {
                None => Ok(None),
                Some(folder) => Err(Failure::refused(format!(
                    "{} holds {folder}/ but no log (a run with --exactly-once off that did not finish?); name a new folder",
                    job.root.display()
                ))),
            }
        }
        Err(error) => Err(Failure::from(RunError::Log(error))),
    }
}

/// Whether everything that is given was read, committed and checkpointed by earlier runs. Reads, writes nothing.
fn nothing_to_do(job: &Job, state: &LogState) -> Result<bool, Failure> {
    let complete = state.ended()
        && state.committed() == state.bound()
        && (state.drained() || state.checkpoints().last().map(|checkpoint| checkpoint.epoch) == state.committed())
        && (!job.options.drain || state.drained());
    if !complete {
        return Ok(false);
    }
    let recorded: Vec<PartitionBinding> =
        state.committed_partitions().into_values().map(as_the_connector_left_it).collect();
    let source = AnalyticsIo::new(job.files.clone(), Arc::clone(&job.store)).events();
    let mut reader = source.open(&recorded).map_err(|error| Failure::from(RunError::Source(error)))?;
    if reader.partitions().len() > recorded.len() {
        return Ok(false);
    }
    for partition in &recorded {
        let next = reader.read(partition.partition, 1, None);
        if next.map_err(|error| Failure::from(RunError::Source(error)))?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn finished_before(state: &LogState) -> RunReport {
    let resumed_from = state.checkpoints().last().map(|checkpoint| checkpoint.epoch);
    RunReport { finished: true, state: state.clone(), resumed_from, epochs: 0, checkpoints: 0 }
}

fn on_signals(stop: &StopHandle) -> Result<(), Failure> {
    let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
    let mut signals = signal_hook::iterator::Signals::new(signals).map_err(Failure::failed)?;
    let stop = stop.clone();
    let wait = move || {
        if signals.forever().next().is_some() {
            eprintln!("stopping after this epoch; the same command goes on from there");
            stop.stop();
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop).map_err(Failure::failed)
}

/// What the run used.
struct Usage {
    seconds: f64,
    cpu_seconds: f64,
    peak_memory_bytes: u64,
    /// Events of earlier runs: the rate is of this one.
    read_before: u64,
}

impl Usage {
    fn of(clock: Stopwatch, read_before: u64) -> Usage {
        let seconds = clock.elapsed().as_secs_f64();
        Usage { seconds, cpu_seconds: cpu_seconds(), peak_memory_bytes: peak_memory_bytes(), read_before }
    }
}

fn counter(state: &LogState, name: &str) -> u64 {
    state.counts().get(name).copied().unwrap_or(0)
}

/// Records that came after their window was complete, summed over the window operators.
fn late(state: &LogState) -> u64 {
    state.counts().iter().filter(|(name, _)| name.ends_with("/late")).map(|(_, n)| n).sum()
}

fn print(job: &Job, report: &RunReport, usage: &Usage) -> Result<(), Failure> {
    let state = &report.state;
    let read = counter(state, "events/read");
    let status = if report.finished { "finished" } else { "stopped" };
    let rate = (read.saturating_sub(usage.read_before)) as f64 / usage.seconds.max(1e-9);
    eprintln!(
        "{status}: {read} events read, {} accepted, {} duplicates, {} malformed, {} unverified; {rate:.0} events/s",
        counter(state, "unique_events/accepted"),
        counter(state, "unique_events/duplicates"),
        counter(state, "events/malformed"),
        counter(state, "unique_events/unverified"),
    );
    if !job.json {
        return Ok(());
    }
    let object = json!({
        "status": status,
        "events_read": read,
        "accepted": counter(state, "unique_events/accepted"),
        "malformed": counter(state, "events/malformed"),
        "duplicates": counter(state, "unique_events/duplicates"),
        "conflicting_duplicates": counter(state, "unique_events/conflicting_duplicates"),
        "late": late(state),
        "unverified": counter(state, "unique_events/unverified"),
        "epochs": state.committed().unwrap_or(0),
        "checkpoints": report.checkpoints,
        "resumed_from": report.resumed_from,
        "seconds": usage.seconds,
        "events_per_second": rate,
        "cpu_seconds": usage.cpu_seconds,
        "peak_memory_bytes": usage.peak_memory_bytes,
        "rows": rows(&job.root)?,
    });
    let mut line = object.to_string();
    line.push('\n');
    std::io::stdout().write_all(line.as_bytes()).map_err(Failure::failed)
}

/// Rows of every table as a query sees them.
fn rows(root: &Path) -> Result<BTreeMap<String, u64>, Failure> {
    let lake = Lake::open(root).map_err(|error| Failure::failed(with_causes(&error)))?;
    let mut rows = BTreeMap::new();
    for spec in tidemill_tables::web_analytics::all() {
        let counted = lake.sql(&format!("SELECT count(*) FROM {}", spec.name));
        let counted = counted.map_err(|error| Failure::failed(with_causes(&error)))?;
        let n = counted
            .batches
            .iter()
            .find_map(|batch| batch.column(0).as_primitive_opt::<Int64Type>()?.values().first().copied());
        rows.insert(spec.name, n.unwrap_or(0).cast_unsigned());
    }
    Ok(rows)
}
