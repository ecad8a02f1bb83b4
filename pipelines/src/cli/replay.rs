//! `tidemill replay`: the tables built anew from what is kept: into a new place ([`anew`]), or beside the live ones of a
//! ClickHouse database, compared, and put in their place.
//!
//! ```text
//! live run goes on ── replay (any number of times) ── live run is stopped ── replay --swap ── live run is started again
//!                     rebuilds through X, the                               catches up, compares,
//!                     last commit at that time                              records, exchanges
//! ```
//! A replay is a run of the same pipeline with a state of its own, bounded by what the live run had read when it committed
//! its epoch X. When nothing runs any more, live and rebuilt tables hold the same epoch and must have equal digests.
//!
//! The archive is read as it stands: a replay of it that is to be put in place begins when the live run is stopped. It holds
//! what was accepted, so what was unverified is neither read nor compared.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tidemill_clickhouse::{
    ClickHouseError, Exchange, Partition, Target, digest, exchange, first_difference, make_beside, plan_exchange,
    suffixed,
};
use tidemill_connectors::events::Bounds;
use tidemill_connectors::parquet_source::ParquetSource;
use tidemill_dataflow::quarantine::Quarantined;
use tidemill_dataflow::runtime::{self, RunContext, RunError, RunOptions, StopHandle};
use tidemill_dataflow::time::EventTime;
use tidemill_embedded_log::is_log_address;
use tidemill_kafka::{KafkaSource, Start};
use tidemill_log::{
    Commit, Entry, FOLDER, History, Location, LocationError, Log, LogError, LogOptions, LogState, Seal, Store, reader,
};
use tidemill_tables::TableSpec;
use tidemill_tables::web_analytics::is_of_unverified;

use super::run::{clickhouse_target, drive, open_store, stop_on_signals, topics, user_key_of, with_registry};
use super::{Failure, alive, units, with_causes};
use crate::io::{AnalyticsIo, DeadLetters, EventSource, SinkTarget};
use crate::pipeline::{Catalog, Pipeline};

mod anew;

use anew::Named;
pub(super) use anew::history;

#[derive(Debug, Args)]
pub(crate) struct ReplayArguments {
    /// The pipeline; the first of this binary unless it is named.
    pipeline: Option<String>,
    /// What is read again: topics, 'kafka://HOST:PORT?topics=events.*' or 'log://DIR'; into ClickHouse also the raw events
    /// of a lake, s3://BUCKET/PREFIX or a folder. With --bindings, files and an embedded log need not be named.
    #[arg(long, value_name = "URL", required_unless_present_any = ["bindings", "input"])]
    from: Option<String>,
    /// Event files that are read again.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "from", requires = "out")]
    input: Vec<PathBuf>,
    /// A new place for all tables, a folder or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "PLACE", required_unless_present = "to")]
    out: Option<Location>,
    /// The --state or --out of the run that is repeated in the cuts recorded there, through its last commit: the same rows,
    /// also those that were late or could not be verified. Without it, cuts are made afresh.
    #[arg(long, value_name = "PLACE", requires = "out", conflicts_with = "state")]
    bindings: Option<Location>,
    /// Where the live run keeps its log, its --state or its --out: topics are read through its last commit. Without it, an
    /// --out gets what is there now.
    #[arg(long, value_name = "PLACE", required_unless_present = "out")]
    state: Option<Location>,
    /// The database of the live tables.
    #[arg(long, value_name = "URL", conflicts_with = "out", requires = "into")]
    to: Option<String>,
    /// What the rebuilt tables are called, behind the live ones' names: letters, digits and underscores.
    #[arg(long, value_name = "SUFFIX", requires = "to")]
    into: Option<String>,
    /// Begin here, in milliseconds since 1970: the broker's timestamp in topics, event time in a lake.
    #[arg(long, value_name = "MS", conflicts_with = "out")]
    since: Option<i64>,
    /// End before this event time, in milliseconds since 1970; of a lake only. Topics are read to where the live run was.
    #[arg(long, value_name = "MS", conflicts_with = "out")]
    until: Option<i64>,
    /// The first day of event times that are taken from files and topics: as the run that is repeated was told.
    #[arg(long, value_name = "DATE", default_value = "2000-01-01", value_parser = units::oldest)]
    oldest: Bounds,
    /// Compare, and if all is equal put the rebuilt tables in the place of the live ones. The live run must be stopped.
    #[arg(long, conflicts_with = "out")]
    swap: bool,
    /// Fence a replay that is alive in the same place, and with --swap the live run. Without it such a start is refused.
    #[arg(long)]
    take_over: bool,
    /// Leave a sink out, as the run that is repeated did. May be given several times.
    #[arg(long, value_name = "ID", requires = "out")]
    disable_sink: Vec<String>,
    /// Worker threads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: u32,
}

/// What the tables beside live ones are built from.
pub(super) struct Rebuild<'a> {
    pub(super) from: Option<&'a str>,
    pub(super) input: &'a [PathBuf],
    /// Where the cuts are recorded that are repeated; fresh ones without it.
    pub(super) cuts: Option<Location>,
    pub(super) state: &'a Location,
    pub(super) suffix: &'a str,
    pub(super) since: Option<i64>,
    pub(super) until: Option<i64>,
    pub(super) oldest: Bounds,
    pub(super) workers: u32,
}

impl Rebuild<'_> {
    /// Whether the lake is read, and not topics.
    pub(super) fn archive(&self) -> bool {
        self.from.is_some_and(|from| !(from.starts_with("kafka://") || is_log_address(from)))
    }

    /// What is recorded of how it reads; another one does not go on where this one was interrupted.
    pub(super) fn settings(&self, floor: u64) -> String {
        match (&self.cuts, self.archive()) {
            (Some(_), _) => "cuts=recorded to=rebuilt".to_owned(),
            // Its files are what they were when it was first read.
            (None, true) => format!("from=lake through={floor} to=rebuilt"),
            (None, false) => "from=kafka to=rebuilt".to_owned(),
        }
    }

    fn named(&self) -> Named<'_> {
        Named { from: self.from, input: self.input, oldest: self.oldest }
    }

    /// Where the run that rebuilds has its log.
    pub(super) fn place(&self) -> Location {
        self.state.below(&format!("replay/{}", self.suffix))
    }
}

pub(crate) fn replay(arguments: &ReplayArguments, catalog: &Catalog) -> Result<(), Failure> {
    let pipeline = catalog.find_or_first(arguments.pipeline.as_deref()).map_err(Failure::usage)?;
    if let Some(out) = &arguments.out {
        return anew::replay(arguments, pipeline, out);
    }
    let ReplayArguments { from: Some(from), state: Some(state), to: Some(to), into: Some(suffix), .. } = arguments
    else {
        return Err(Failure::usage("tables beside live ones need --from, --state, --to and --into"));
    };
    let ReplayArguments { since, until, oldest, workers, .. } = *arguments;
    let wanted = Rebuild { from: Some(from), input: &[], cuts: None, state, suffix, since, until, oldest, workers };
    beside(&wanted, arguments, &clickhouse_target(to)?, pipeline)
}

fn beside(
    wanted: &Rebuild<'_>,
    arguments: &ReplayArguments,
    target: &Target,
    pipeline: &Pipeline,
) -> Result<(), Failure> {
    let suffix = wanted.suffix;
    if suffix.is_empty() || !suffix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(Failure::usage(format!("--into {suffix}: give letters, digits and underscores, such as _rebuilt")));
    }
    if arguments.swap && (arguments.since.is_some() || arguments.until.is_some()) {
        return Err(Failure::usage("--swap needs all of the time: leave out --since and --until"));
    }
    let live_store = open_store(wanted.state)?;
    let live = read(&live_store, wanted.state)?
        .ok_or_else(|| Failure::refused(format!("{}: there is no log of a live run", wanted.state)))?;
    let floor = live.committed().ok_or_else(|| Failure::refused("the live run has committed nothing yet"))?;
    let place = wanted.place();
    let store = open_store(&place)?;
    if read(&store, &place)?.is_some_and(|state| state.exchange().is_some()) {
        return Err(Failure::refused(format!(
            "the tables rebuilt with {suffix} were put in the place of the live ones; name another suffix"
        )));
    }
    let _alive = alive::claim(&place, &store, arguments.take_over)?;
    let specs = pipeline.specs();
    rebuild(wanted, pipeline, &live, target, Arc::clone(&store))?;
    say(&format!("rebuilt through epoch {floor} of the live run"))?;

    let now = read(&live_store, wanted.state)?.and_then(|state| state.committed());
    let gone_on = if wanted.archive() {
        "the live run has gone on meanwhile; stop it and repeat this with another --into to compare"
    } else {
        "the live run has gone on meanwhile; stop it and repeat this to compare"
    };
    let not_compared = || if arguments.swap { Err(Failure::refused(gone_on)) } else { say(gone_on) };
    if now != Some(floor) {
        return not_compared();
    }
    if arguments.since.is_some() || arguments.until.is_some() {
        return say("not compared: the rebuilt tables hold a part of the time only");
    }
    let compared = specs.iter().filter(|spec| !wanted.archive() || !is_of_unverified(&spec.name));
    let equal = compare(target, compared, suffix);
    // Rows of an epoch are there before it is committed, but never before it is bound.
    let bound = read(&live_store, wanted.state)?.and_then(|state| state.bound());
    if bound != Some(floor) {
        return not_compared();
    }
    equal?;
    if !arguments.swap {
        return Ok(());
    }
    let _live = alive::claim(wanted.state, &live_store, arguments.take_over)?;
    swap(target, (pipeline.name(), specs, suffix), live_store, store, floor)
}

/// The records that the run which is replayed leaves out.
fn set_aside(live: Option<&LogState>) -> Vec<Quarantined> {
    live.and_then(LogState::seal).map(|seal| seal.quarantined.clone()).unwrap_or_default()
}

pub(super) fn of_clickhouse(error: &ClickHouseError) -> Failure {
    Failure::failed(with_causes(error))
}

pub(super) fn read(store: &Arc<dyn Store>, place: &Location) -> Result<Option<LogState>, Failure> {
    let failed = |error| Failure::refused(format!("{place}: {}", with_causes(&error)));
    if !reader::is_initialized(Arc::clone(store), FOLDER).map_err(failed)? {
        return Ok(None);
    }
    reader::read(Arc::clone(store), FOLDER).map(Some).map_err(failed)
}

pub(super) fn say(line: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{line}").map_err(Failure::failed)
}

/// Makes the tables beside the live ones, and runs the pipeline through what the live run had read at its last commit.
pub(super) fn rebuild(
    wanted: &Rebuild<'_>,
    pipeline: &Pipeline,
    live: &LogState,
    target: &Target,
    store: Arc<dyn Store>,
) -> Result<(), Failure> {
    let specs = pipeline.specs();
    make_beside(target, specs, wanted.suffix).map_err(|error| of_clickhouse(&error))?;
    let cuts = match &wanted.cuts {
        Some(place) => Some(history(place)?),
        None => None,
    };
    let source = match &cuts {
        Some(cuts) => anew::repeated(wanted.named(), cuts, user_key_of(Some(wanted.state), wanted.state))?,
        None => source(wanted, live)?,
    };
    let settings = wanted.settings(live.committed().unwrap_or(0));
    let targets = vec![SinkTarget::Rebuilt(target.clone(), wanted.suffix.to_owned())];
    let io = AnalyticsIo::new(pipeline.clone(), source, targets, DeadLetters::Files(Arc::clone(&store)));
    let quarantined = set_aside(Some(live));
    let options = RunOptions { workers: wanted.workers, quarantined, settings, ..RunOptions::default() };
    // Nobody follows a replay: the live run's consumer group, for one, must not be moved back.
    let pipeline = pipeline.on(io);
    let through = cuts.as_ref().map(History::through);
    let begin = |context: RunContext, stop: &StopHandle| match cuts {
        Some(cuts) => runtime::repeat(pipeline, &options, context, cuts, stop),
        None => runtime::run(pipeline, &options, context, stop),
    };
    let ended = drive(&stop_on_signals()?, begin, (store, None), None, Vec::new(), Arc::default())?;
    let report = ended.map_err(anew::why)?;
    let finished = through.map_or(report.finished, |through| report.state.committed() == Some(through));
    if finished { Ok(()) } else { Err(Failure::failed("stopped; the same command goes on from there")) }
}

/// What the live run had read at its last commit, from its topics or its archive.
fn source(wanted: &Rebuild<'_>, live: &LogState) -> Result<EventSource, Failure> {
    let key = || user_key_of(Some(wanted.state), wanted.state);
    let Some(from) = wanted.from else {
        return match wanted.input {
            [] => Err(Failure::usage("name what is read again with --from or --input")),
            _ => anew::afresh(wanted.named(), Some(live), key()),
        };
    };
    if wanted.archive() {
        let location = from.parse().map_err(|error: LocationError| Failure::usage(format!("--from: {error}")))?;
        let (since, until) = (wanted.since.map(EventTime), wanted.until.map(EventTime));
        return Ok(EventSource::archive(ParquetSource { location, table: "raw_events".into(), since, until }));
    }
    if wanted.until.is_some() {
        return Err(Failure::usage("--until is of a lake only: topics are read to where the live run was"));
    }
    let Some(since) = wanted.since else {
        return anew::afresh(wanted.named(), Some(live), key());
    };
    let mut config = topics(from)?;
    config.start = Start::Timestamp(since);
    let source = with_registry(KafkaSource::new(config).until_offsets(ends(live)))?;
    Ok(EventSource::topics(source).within(wanted.oldest))
}

/// Where each partition stood at the last commit.
fn ends(live: &LogState) -> BTreeMap<String, u64> {
    live.committed_partitions().into_values().map(|partition| (partition.name, partition.end)).collect()
}

/// Prints the digests of live and rebuilt tables; fails with the first row that differs.
fn compare<'a>(target: &Target, specs: impl Iterator<Item = &'a TableSpec>, suffix: &str) -> Result<(), Failure> {
    for spec in specs {
        let rebuilt = suffixed(spec, suffix).name;
        let by = format!("toDate({})", spec.columns[spec.time].name);
        let (there, anew) = (
            digest(target, &spec.name, &by).map_err(|error| of_clickhouse(&error))?,
            digest(target, &rebuilt, &by).map_err(|error| of_clickhouse(&error))?,
        );
        for one in &there {
            let other = anew.iter().find(|other| other.partition == one.partition);
            let verdict = if other == Some(one) { "equal" } else { "DIFFERENT" };
            say(&format!("{} {} {} rows {} {verdict}", spec.name, one.partition, one.rows, one.digest))?;
        }
        let differs = there.iter().chain(&anew).find(|one| !(there.contains(one) && anew.contains(one)));
        if let Some(one) = differs {
            let within = Partition { by, value: one.partition.clone() };
            let first =
                first_difference(target, &spec.name, &rebuilt, Some(&within)).map_err(|error| of_clickhouse(&error))?;
            let row = first.map_or_else(
                || "they agree by now: something still writes to one of them".to_owned(),
                |found| {
                    format!(
                        "{} is there {} times live and {} times rebuilt",
                        found.row, found.in_first, found.in_second
                    )
                },
            );
            return Err(Failure::refused(format!("{} differs in {}: {row}", spec.name, one.partition)));
        }
    }
    say("all tables are equal")
}

/// Takes the live log over, records the exchange and its floor, carries it out.
fn swap(
    target: &Target,
    (pipeline, specs, suffix): (&str, &[TableSpec], &str),
    live_store: Arc<dyn Store>,
    store: Arc<dyn Store>,
    floor: u64,
) -> Result<(), Failure> {
    let mut log = Log::start(live_store, LogOptions::default()).map_err(of_log)?.log;
    let live = log.state();
    if live.committed() != Some(floor) || live.bound() != Some(floor) {
        return Err(Failure::refused(
            "the live run has epochs that are not committed, or has gone on; start and stop it once, then repeat this",
        ));
    }
    let instance = live.seal().map(|seal| seal.instance.clone()).unwrap_or_default();
    let plan =
        plan_exchange(target, specs, suffix, (pipeline, &instance, floor)).map_err(|error| of_clickhouse(&error))?;
    let recorded = serde_json::to_value(&plan).map_err(Failure::failed)?;
    record(&mut log, &recorded)?;
    exchange(target, &plan).map_err(|error| of_clickhouse(&error))?;
    // From here on a replay with this suffix would add to what was live before.
    let own = read(&store, &Location::Folder(suffix.into()))?.and_then(|state| state.committed());
    if own.is_some() {
        record(&mut Log::start(store, LogOptions::default()).map_err(of_log)?.log, &recorded)?;
    }
    say(&format!("exchanged; the live run goes on at epoch {}, and its old tables are those with {suffix}", floor + 1))
}

pub(super) fn of_log(error: LogError) -> Failure {
    Failure::from(RunError::Log(error))
}

/// Appends the exchange to a log as a run of its own: whoever wrote the log before is fenced.
pub(super) fn record(log: &mut Log, plan: &serde_json::Value) -> Result<(), Failure> {
    let (run, state) = (log.run(), log.state().clone());
    let before = state.seal().cloned().ok_or_else(|| Failure::refused("the log has no seal"))?;
    let checkpoint = state.checkpoints().last().map(|checkpoint| checkpoint.epoch);
    log.seal(|_| Ok::<_, LogError>(Seal { run, checkpoint, ..before.clone() })).map_err(of_log)?;
    let commit = Commit {
        epoch: state.committed().unwrap_or(0),
        watermark: state.watermark(),
        counts: state.counts().clone(),
        drained: state.drained(),
        exchange: Some(plan.clone()),
        ..Commit::default()
    };
    log.append(Entry::Commit(commit)).map(drop).map_err(of_log)
}

/// Carries out an exchange that was recorded, in case whoever recorded it died before it was done.
///
/// # Errors
/// If the plan is not one of this build, or the server fails.
pub(crate) fn finish_exchange(state: &LogState, targets: &[SinkTarget]) -> Result<(), Failure> {
    let Some((_, plan)) = state.exchange() else { return Ok(()) };
    let plan: Vec<Exchange> = serde_json::from_value(plan.clone()).map_err(|error| {
        Failure::refused(format!("the log records an exchange of tables that this build cannot read: {error}"))
    })?;
    for target in targets {
        if let SinkTarget::ClickHouse(target) = target {
            exchange(target, &plan).map_err(|error| of_clickhouse(&error))?;
        }
    }
    Ok(())
}
