//! `tidemill run`: the contract of the main job's command line.

mod arguments;
mod control;
mod job;
mod processes;
mod source_setting;
mod user_key;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use serde_json::json;
use tidemill_connectors::lake::recent_epoch;
use tidemill_connectors::messages::Fenced;
use tidemill_dataflow::cluster::{ClusterError, Place};
use tidemill_dataflow::runtime::{self, Followed, RunContext, RunError, RunReport, StopHandle};
use tidemill_dataflow::sink::{CommitObserver, Maintenance};
use tidemill_dataflow::source::{Loss, PartitionBinding, Source, SourceError, as_the_connector_left_it, behind_losses};
use tidemill_dataflow::status::Status;
use tidemill_log::secrets::masked;
use tidemill_log::{FOLDER, Faults, Location, LocationError, LogError, LogState, Store, reader};
use tidemill_query::Lake;

use super::access::OpsAccess;
use super::alive::{self, Alive};
use super::books::Books;
use super::ending::Ending;
use super::measure::{Stopwatch, cpu_seconds, peak_memory_bytes};
use super::progress::Progress;
use super::replay::finish_exchange;
use super::{Failure, lines, otlp, signals, with_causes};
use crate::ops::{Ops, OpsOptions, openmetrics};
use crate::pipeline::Catalog;
pub(crate) use arguments::RunArguments;
pub(crate) use control::{Answer, Shape, ask};
use job::{Job, resolve};
pub(crate) use job::{clickhouse_target, kafka_credentials, topics, with_registry};
pub(crate) use processes::{cluster_token, free_addresses, supervised};
pub(crate) use source_setting::source_setting;
pub(crate) use user_key::user_key_of;

/// Epochs and checkpoints that wait to be traced.
const MARKS: usize = 256;

/// The store of a place; what it confirmed survives a power cut.
pub(crate) fn open_store(place: &Location) -> Result<Arc<dyn Store>, Failure> {
    place.open(true, Faults::None).map_err(|error| unopened(&error))
}

/// What a place that cannot be used means to whoever started the command, and to a supervisor.
fn unopened(error: &LocationError) -> Failure {
    let message = with_causes(error);
    match error {
        LocationError::Settings { .. } => Failure::usage(message),
        _ if error.is_denial() => Failure::denied(message),
        _ => Failure::failed(message),
    }
}

/// Runs a pipeline and shows how far it is, until it ends or is asked to stop.
pub(crate) fn drive(
    stop: &StopHandle,
    begin: impl FnOnce(RunContext, &StopHandle) -> Result<RunReport, RunError>,
    (store, place): (Arc<dyn Store>, Option<Place>),
    maintenance: Option<Box<dyn Maintenance>>,
    observers: Vec<Box<dyn CommitObserver>>,
    status: Arc<Status>,
) -> Result<Result<RunReport, RunError>, Failure> {
    let shown = Progress::start(Arc::clone(&status));
    let context = RunContext { store, maintenance, observers, status, place, warn: Box::new(lines::warn) };
    let ended = begin(context, stop);
    drop(shown);
    Ok(ended)
}

pub(crate) fn run(arguments: RunArguments, catalog: &Catalog) -> Result<(), Failure> {
    let alone = arguments.process_index.is_none() && !supervised();
    if let Some(renamed) = arguments.renamed().filter(|_| !supervised()) {
        lines::warn(renamed);
    }
    let access = arguments.ops.read()?;
    if (arguments.processes > 1 || arguments.supervise) && alone {
        return processes::supervise(&arguments);
    }
    let clock = Stopwatch::start();
    let stop = StopHandle::default();
    processes::answer_supervisor(&stop)?;
    let place = processes::place(&arguments)?;
    let job = resolve(arguments, access, catalog)?;
    if place.as_ref().is_some_and(|place| place.options.process > 0) {
        return follow(&job, place, &stop);
    }
    // What follows may wait: for a store, for topics.
    on_signals(&stop)?;
    let io = &job.io;
    let pipeline = job.pipeline.on(io.clone());
    let before = existing(&job)?;
    if let Some(state) = &before {
        if !job.options.exactly_once {
            return Err(Failure::usage(format!(
                "--exactly-once off needs a new folder, and {} holds a log; give another --out, or leave the option out",
                job.place
            )));
        }
        let same_plan = runtime::check(&pipeline, &job.options, state)?;
        if state.exchange().is_some() {
            // Not beside whoever carries it out.
            let _alone = if supervised() { None } else { Some(claim(&job)?) };
            finish_exchange(state, io.targets())?;
        }
        if job.files && same_plan && nothing_to_do(&job, state)? {
            lines::say("finished before: all input was read and committed; nothing was changed");
            if let Some(place) = &place
                && let Err(error) = runtime::dismiss(place, job.options.workers, &lines::warn)
            {
                lines::warn(&format!("not all processes were told that nothing is left to do: {error}"));
            }
            let report = finished_before(state);
            return end(&job, &report, &Usage::of(clock), &Books::of(state), &Status::new(job.pipeline.name()));
        }
    }
    // What is said to be gone is compared with the source where it is accepted.
    if job.options.accepted_loss.is_empty() && before.as_ref().is_none_or(|state| !state.ended()) {
        // A mistyped or changed input is refused before this run takes the folder over from one that may be alive.
        let recorded = before.iter().flat_map(|state| state.bound_partitions().values().cloned()).collect();
        let recorded = behind_losses(recorded, accepted_loss(before.as_ref()));
        let recorded: Vec<_> = recorded.into_iter().map(as_the_connector_left_it).collect();
        io.events().open(&recorded).map_err(|error| Failure::from(RunError::Source(error)))?;
    }
    let _alive = if supervised() { None } else { Some(claim(&job)?) };
    let observers = io.observers(&job.options.disabled_sinks).map_err(Failure::failed)?;
    let status = Arc::new(Status::new(job.pipeline.name()));
    export(&status);
    let ops = job.ops.as_ref().map(|ops| serve_ops(ops, &status)).transpose()?;
    if let Some(kept) = job.kept() {
        lines::say(&kept);
    }
    let begin = |context: RunContext, asked: &StopHandle| runtime::run(pipeline, &job.options, context, asked);
    let (store, maintenance) = (Arc::clone(&job.store), io.maintenance(job.retention));
    let shown = Arc::clone(&status);
    let report = match drive(&stop, begin, (store, place), maintenance, observers, status)? {
        // It was asked to stop before it could read again what was bound: that is for the next start.
        Err(RunError::Source(SourceError::Interrupted { .. })) => stopped_early(&job)?,
        // What it waited for did not answer in time: that is for the next start, too.
        Err(unfinished @ RunError::Unfinished(_)) => {
            lines::warn(&unfinished.to_string());
            stopped_early(&job)?
        }
        ended => ended.map_err(failure)?,
    };
    drop(ops);
    if processes::rests() {
        return Ok(());
    }
    let books_before = before.as_ref().map(Books::of).unwrap_or_default();
    end(&job, &report, &Usage::of(clock), &books_before, &shown)
}

/// The report of a run that was asked to stop before it had committed what it had read.
fn stopped_early(job: &Job) -> Result<RunReport, Failure> {
    let state = existing(job)?.unwrap_or_default();
    Ok(RunReport { finished: false, state, resumed_from: None, epochs: 0, checkpoints: 0 })
}

/// Refuses where a run lives already; a supervisor has done so for its processes. Whoever tries a changed pipeline beside a
/// living run is told rather what is wrong with that.
fn claim(job: &Job) -> Result<Alive, Failure> {
    alive::claim(&job.place, &job.state, job.take_over).map_err(|refusal| {
        let would = runtime::would_start(&job.pipeline.on(job.io.clone()), &job.options, &job.store);
        would.map_or_else(Failure::from, |()| refusal)
    })
}

/// Takes part in the run that process 0 leads.
fn follow(job: &Job, place: Option<Place>, stop: &StopHandle) -> Result<(), Failure> {
    let asked = stop.clone();
    let stopping = "asked to stop: process 0 is told, and ends the run for all after this epoch";
    let at_once = "stopped at once; the run of all ends with this process, and the same command goes on from there";
    signals::catch()?.stop_on(stopping, Some(at_once), move || asked.stop_within(signals::IN_ORDER))?;
    let pipeline = job.pipeline.on(job.io.clone());
    let status = Arc::new(Status::new(job.pipeline.name()));
    export(&status);
    let process = place.as_ref().map_or(0, |place| place.options.process);
    let ops = job.ops.as_ref().map(|access| serve_ops_of(process, access, &status)).transpose()?;
    let context = RunContext {
        store: Arc::clone(&job.store),
        maintenance: None,
        observers: Vec::new(),
        status,
        place,
        warn: Box::new(lines::warn),
    };
    let ended = runtime::follow(pipeline, &job.options, context, stop).map_err(failure);
    drop(ops);
    if ended? == Followed::NothingToDo {
        lines::say(
            "finished before, says process 0: all input was read and committed; nothing is left to take part in",
        );
    }
    Ok(())
}

/// Lets OpenTelemetry follow the run, if it was asked to.
fn export(status: &Arc<Status>) {
    otlp::watch(|| status.watch(MARKS));
    let status = Arc::clone(status);
    otlp::numbers(move || openmetrics(&status));
}

/// Starts the operators' server and says where it is, and who may look.
fn serve_ops(access: &OpsAccess, status: &Arc<Status>) -> Result<Ops, Failure> {
    let address = access.options.address;
    let ops = Ops::start(&access.options, Arc::clone(status)).map_err(|error| {
        Failure::failed(format!("--ops {address}: {error}; give an address of this machine that is free, or port 0"))
    })?;
    lines::say(&format!("ops {}://{}", access.scheme, ops.address()));
    lines::say(&format!("ops are shown to {}; /healthz and /readyz are open to everybody", access.open_to));
    Ok(ops)
}

/// The same in a process that follows process 0. Where a supervisor started all of them on one machine, each has the port of
/// process 0 and its own number; if that is not free the run goes on, with another.
fn serve_ops_of(process: u32, access: &OpsAccess, status: &Arc<Status>) -> Result<Ops, Failure> {
    if !supervised() {
        return serve_ops(access, status);
    }
    let start = |address| Ops::start(&OpsOptions { address, ..access.options.clone() }, Arc::clone(status));
    let first = access.options.address;
    let any = SocketAddr::new(first.ip(), 0);
    let own = own_port(first.port(), process).map(|port| SocketAddr::new(first.ip(), port));
    let taken = |error| Failure::failed(format!("--ops {any}: {error}"));
    let ops = match own.map(|own| (own, start(own))) {
        Some((_, Ok(ops))) => ops,
        Some((own, Err(error))) => {
            lines::warn(&format!(
                "process {process}: {own} would be its operators' address ({error}); another is taken"
            ));
            start(any).map_err(taken)?
        }
        None => start(any).map_err(taken)?,
    };
    lines::say(&format!("process {process}: ops {}://{}", access.scheme, ops.address()));
    Ok(ops)
}

/// The port of a process, if there is one that follows from that of process 0.
fn own_port(first: u16, process: u32) -> Option<u16> {
    (first > 0).then(|| first.checked_add(u16::try_from(process).ok()?))?
}

/// A sink that met a later run's producer was fenced like one that met it in the log.
pub(crate) fn failure(error: RunError) -> Failure {
    match &error {
        RunError::Sink { error: cause, .. } if cause.downcast_ref::<Fenced>().is_some() => {
            Failure::fenced(with_causes(&error))
        }
        // All processes of a supervisor are alike: whoever listens there took the address before one of them could.
        RunError::Cluster(ClusterError::Refused { .. }) if supervised() => Failure::failed(with_causes(&error)),
        _ => Failure::from(error),
    }
}

/// What the folder's log says, if it has one.
fn existing(job: &Job) -> Result<Option<LogState>, Failure> {
    match reader::read(Arc::clone(&job.store), FOLDER) {
        Ok(state) => Ok(Some(state)),
        Err(LogError::NotInitialized { .. }) => {
            for folder in ["tables", "dead_letters"] {
                if !job.store.list(folder).map_err(|error| Failure::failed(with_causes(&error)))?.is_empty() {
                    return Err(Failure::refused(format!(
                        "{} holds {folder}/ but no log (a run with --exactly-once off that did not finish?); name a new \
                         place",
                        job.place
                    )));
                }
            }
            Ok(None)
        }
        Err(error) => Err(Failure::from(RunError::Log(error))),
    }
}

/// What runs before went on without.
fn accepted_loss(state: Option<&LogState>) -> &[Loss] {
    state.and_then(LogState::seal).map_or(&[], |seal| &seal.accepted_loss)
}

/// Whether everything that is given was read, committed and checkpointed by earlier runs. Reads, writes nothing.
fn nothing_to_do(job: &Job, state: &LogState) -> Result<bool, Failure> {
    let complete = state.ended()
        && state.committed() == state.bound()
        && (state.drained() || state.checkpoints().last().map(|checkpoint| checkpoint.epoch) == state.committed())
        && (!job.options.drain || state.drained())
        && state.tables().values().flat_map(|files| files.keys()).all(|path| recent_epoch(path).is_none());
    if !complete {
        return Ok(false);
    }
    let recorded = behind_losses(state.committed_partitions().into_values().collect(), accepted_loss(Some(state)));
    let recorded: Vec<PartitionBinding> = recorded.into_iter().map(as_the_connector_left_it).collect();
    let mut reader = job.io.events().open(&recorded).map_err(|error| Failure::from(RunError::Source(error)))?;
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

/// A handle that Ctrl-C and SIGTERM stop.
pub(crate) fn stop_on_signals() -> Result<StopHandle, Failure> {
    let stop = StopHandle::default();
    on_signals(&stop)?;
    Ok(stop)
}

fn on_signals(stop: &StopHandle) -> Result<(), Failure> {
    let stopping = "stopping after this epoch; the same command goes on from there";
    let at_once = "stopped at once; nothing that was committed is affected, and the same command goes on from there";
    let stop = stop.clone();
    signals::catch()?.stop_on(stopping, Some(at_once), move || stop.stop_within(signals::IN_ORDER))
}

/// What the run used.
struct Usage {
    seconds: f64,
    cpu_seconds: f64,
    peak_memory_bytes: u64,
}

impl Usage {
    fn of(clock: Stopwatch) -> Usage {
        let seconds = clock.elapsed().as_secs_f64();
        Usage { seconds, cpu_seconds: cpu_seconds(), peak_memory_bytes: peak_memory_bytes() }
    }
}

/// Says how the run ended, and what operators should look at; fails where nothing of the input could be read.
fn end(job: &Job, report: &RunReport, usage: &Usage, before: &Books, status: &Status) -> Result<(), Failure> {
    let state = &report.state;
    let (reasons, without_records) = (status.malformed_reasons(), status.without_records());
    let ending = Ending {
        books: Books::of(state),
        before: *before,
        counts: state.counts(),
        reasons: &reasons,
        without_records: &without_records,
        finished: report.finished,
        dead_letters: &job.place_of_dead_letters(),
        unverified_table: job
            .pipeline
            .unverified_table()
            .filter(|table| !job.options.disabled_sinks.iter().any(|sink| sink == table)),
    };
    let Books { read, accepted, malformed, quarantined, duplicates, conflicting_duplicates, unverified, late, lost } =
        ending.books;
    let ended = if report.finished { "finished" } else { "stopped" };
    let rate = (read.saturating_sub(before.read)) as f64 / usage.seconds.max(1e-9);
    let of_these =
        if before.malformed > 0 { format!(" ({} in earlier runs)", before.malformed) } else { String::new() };
    lines::say(&format!(
        "{ended}: {read} events read, {accepted} accepted, {duplicates} duplicates, {malformed} malformed{of_these}, \
         {quarantined} quarantined, {unverified} unverified; {rate:.0} events/s",
    ));
    ending.warnings().iter().for_each(|warning| lines::warn(warning));
    if job.json {
        let object = json!({
            "status": ended,
            "events_read": read,
            "accepted": accepted,
            "malformed": malformed,
            "malformed_before": before.malformed,
            "malformed_by_reason": reasons,
            "without_records": without_records,
            "quarantined": quarantined,
            "duplicates": duplicates,
            "conflicting_duplicates": conflicting_duplicates,
            "late": late,
            "unverified": unverified,
            "lost": lost,
            "unverified_by_age": BTreeMap::from(ending.unverified_ages()),
            "epochs": state.committed().unwrap_or(0),
            "checkpoints": report.checkpoints,
            "resumed_from": report.resumed_from,
            "seconds": usage.seconds,
            "events_per_second": rate,
            "cpu_seconds": usage.cpu_seconds,
            "peak_memory_bytes": usage.peak_memory_bytes,
            "rows": rows(job)?,
        });
        let mut line = masked(&object.to_string()).into_owned();
        line.push('\n');
        std::io::stdout().write_all(line.as_bytes()).map_err(Failure::failed)?;
    }
    ending.refusal(|most| job.dead_letters.first(most)).map_or(Ok(()), Err)
}

/// Rows of every table of the lake as a query sees them; none where there is no lake.
fn rows(job: &Job) -> Result<BTreeMap<String, u64>, Failure> {
    let Some(lake) = &job.lake else { return Ok(BTreeMap::new()) };
    let lake = Lake::open(lake.clone(), job.pipeline.specs().to_vec())
        .map_err(|error| Failure::failed(with_causes(&error)))?;
    let mut rows = BTreeMap::new();
    for spec in job.pipeline.specs() {
        let counted = lake.sql(&format!("SELECT count(*) FROM {}", spec.name));
        let counted = counted.map_err(|error| Failure::failed(with_causes(&error)))?;
        let n = counted
            .batches
            .iter()
            .find_map(|batch| batch.column(0).as_primitive_opt::<Int64Type>()?.values().first().copied());
        rows.insert(spec.name.clone(), n.unwrap_or(0).cast_unsigned());
    }
    Ok(rows)
}
