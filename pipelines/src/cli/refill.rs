//! `tidemill tables refill`: tables of a ClickHouse database that lost what was written to them, filled again.
//!
//! ```text
//! stop the run -> which tables lost rows? -> the pipeline again, beside them, through the last commit
//!              -> did it read all that the run had read? -> recorded in the run's log
//!              -> the rebuilt tables change places with the lost ones, and only with those -> start the run
//! ```
//! What the run had read is read again in the cuts that are recorded, so the rows are the same (INV-2). Epochs behind the
//! last commit are written by the next start, as after any crash. What the lost tables still held is kept under another name.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tidemill_clickhouse::{
    Exchange, Target, accept, are_written_by, drop_tables, exchange, left_over, missing, plan_exchange, storages,
    suffixed,
};
use tidemill_connectors::events::Bounds;
use tidemill_log::{FOLDER, Location, Log, LogOptions, LogState, SplitStore, Store};
use tidemill_tables::TableSpec;
use tidemill_tables::web_analytics::is_of_unverified;

use super::alive::Alive;
use super::books::Books;
use super::replay::{Rebuild, finish_exchange, history, of_clickhouse, of_log, read, rebuild, record, say};
use super::run::{clickhouse_target, open_store};
use super::{Failure, alive, lines, units, with_causes};
use crate::io::SinkTarget;
use crate::pipeline::{Catalog, Pipeline};

#[derive(Debug, Args)]
pub(crate) struct RefillArguments {
    /// The pipeline; the first of this binary unless it is named.
    pipeline: Option<String>,
    /// The database: clickhouse://HOST:PORT/DB.
    #[arg(long, value_name = "URL")]
    to: String,
    /// Where the run keeps its log, its --state or its --out.
    #[arg(long, value_name = "PLACE")]
    state: Location,
    /// What is read again: the topics or the log that the run reads, or its lake (a folder or s3://BUCKET/PREFIX with
    /// raw_events). Files and an embedded log need not be named where all cuts are recorded.
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// Event files that are read again, where they have other paths by now.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "from")]
    input: Vec<PathBuf>,
    /// A table that is filled again in any case. May be given several times.
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,
    /// Fill tables with what there is still, although it is not all that the run had read. What they hold now is kept beside
    /// them.
    #[arg(long)]
    incomplete: bool,
    /// The first day of event times that are taken from files and topics: as the run was told.
    #[arg(long, value_name = "DATE", default_value = "2000-01-01", value_parser = units::oldest)]
    oldest: Bounds,
    /// Fence a run that is alive in the same place. Without it such a start is refused.
    #[arg(long)]
    take_over: bool,
    /// Worker threads.
    #[arg(long, value_name = "N", default_value_t = 1)]
    workers: u32,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptArguments {
    /// The pipeline; the first of this binary unless it is named.
    pipeline: Option<String>,
    /// The database: clickhouse://HOST:PORT/DB.
    #[arg(long, value_name = "URL")]
    to: String,
    /// Where the run keeps its log, its --state or its --out.
    #[arg(long, value_name = "PLACE")]
    state: Location,
    /// A table that is taken as it is. May be given several times.
    #[arg(long, value_name = "TABLE", required = true)]
    table: Vec<String>,
    /// Fence a run that is alive in the same place. Without it such a start is refused.
    #[arg(long)]
    take_over: bool,
}

/// A run that is stopped, and stays so for as long as this lives.
struct Stopped {
    store: Arc<dyn Store>,
    live: LogState,
    /// Its last commit.
    floor: u64,
    instance: String,
    _alive: Alive,
}

impl Stopped {
    fn at(place: &Location, target: &Target, take_over: bool) -> Result<Stopped, Failure> {
        let store = open_store(place)?;
        let live =
            read(&store, place)?.ok_or_else(|| Failure::refused(format!("{place}: there is no log of a run")))?;
        let Some(floor) = live.committed().filter(|floor| *floor > 0) else {
            return Err(Failure::refused(format!("{place}: the run there has committed nothing yet; start it")));
        };
        let alive = alive::claim(place, &store, take_over)?;
        finish_exchange(&live, &[SinkTarget::ClickHouse(target.clone())])?;
        let instance = live.seal().map(|seal| seal.instance.clone()).unwrap_or_default();
        Ok(Stopped { store, live, floor, instance, _alive: alive })
    }

    /// The tables of `pipeline` that the run writes.
    fn specs(&self, pipeline: &Pipeline, catalog: &Catalog, place: &Location) -> Result<Vec<TableSpec>, Failure> {
        let specs = pipeline.specs();
        let Some(written) = self.live.seal().and_then(|seal| seal.tables.as_ref()) else { return Ok(specs.to_vec()) };
        let others = catalog.tables().into_iter().filter(|other| !specs.iter().any(|spec| spec.name == other.name));
        let foreign = others.map(|other| other.name).find(|other| written.contains(other));
        let specs: Vec<TableSpec> = specs.iter().filter(|spec| written.contains(&spec.name)).cloned().collect();
        if foreign.is_some() || specs.is_empty() {
            let written = written.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Failure::refused(format!(
                "{place}: the run there writes {written}, which is not pipeline {}: name the pipeline of that run, and use the \
                 program that it ran with",
                pipeline.name()
            )));
        }
        Ok(specs)
    }
}

pub(crate) fn accept_tables(arguments: &AcceptArguments, catalog: &Catalog) -> Result<(), Failure> {
    let pipeline = catalog.find_or_first(arguments.pipeline.as_deref()).map_err(Failure::usage)?;
    let target = clickhouse_target(&arguments.to)?;
    let run = Stopped::at(&arguments.state, &target, arguments.take_over)?;
    let specs = named(pipeline.name(), &run.specs(pipeline, catalog, &arguments.state)?, &arguments.table)?;
    accept(&target, &specs, (pipeline.name(), &run.instance, run.floor)).map_err(|error| of_clickhouse(&error))?;
    say(&format!("taken as they are: {}; the run goes on at epoch {}", list(&specs), run.floor + 1))
}

pub(crate) fn refill(arguments: &RefillArguments, catalog: &Catalog) -> Result<(), Failure> {
    let pipeline = catalog.find_or_first(arguments.pipeline.as_deref()).map_err(Failure::usage)?;
    let target = clickhouse_target(&arguments.to)?;
    let place = &arguments.state;
    let run = Stopped::at(place, &target, arguments.take_over)?;
    let (floor, instance) = (run.floor, run.instance.as_str());
    let specs = run.specs(pipeline, catalog, place)?;
    let mut lost = missing(&target, &specs, instance).map_err(|error| of_clickhouse(&error))?;
    lost.extend(named(pipeline.name(), &specs, &arguments.table)?.iter().flat_map(storages));
    let specs: Vec<TableSpec> =
        specs.into_iter().filter(|spec| storages(spec).iter().any(|table| lost.contains(table))).collect();
    let rebuilt_with =
        |suffix: &str| -> Vec<TableSpec> { pipeline.specs().iter().map(|spec| suffixed(spec, suffix)).collect() };
    let drop_rebuilt =
        |suffix: &str| drop_tables(&target, &rebuilt_with(suffix)).map_err(|error| of_clickhouse(&error));
    if specs.is_empty() {
        // One that was interrupted behind the exchange has left them.
        attempts(place, floor).try_for_each(|attempt| drop_rebuilt(&attempt?.0))?;
        return say("no table lost anything; name one with --table to fill it again all the same");
    }
    say(&format!("fills again through epoch {floor}: {}", lost.iter().cloned().collect::<Vec<_>>().join(", ")))?;

    let mut wanted = Rebuild {
        from: arguments.from.as_deref(),
        input: &arguments.input,
        cuts: None,
        state: place,
        suffix: "",
        since: None,
        until: None,
        oldest: arguments.oldest,
        workers: arguments.workers,
    };
    if wanted.archive() {
        if let Some(table) = specs.iter().find(|spec| is_of_unverified(&spec.name)) {
            return Err(Failure::refused(format!(
                "{} is not in a lake of accepted events: name the topics or the log with --from",
                table.name
            )));
        }
        bring_up_to_date(wanted.from.unwrap_or_default(), place, &run.store)?;
    } else if !arguments.incomplete && history(place)?.first() <= 1 {
        wanted.cuts = Some(place.clone());
    }
    let is_there = |suffix: &str, own: &str| {
        are_written_by(&target, &rebuilt_with(suffix), own).map_err(|error| of_clickhouse(&error))
    };
    let suffix = suffix_of(&wanted, &run, is_there, drop_rebuilt)?;
    wanted.suffix = &suffix;
    let own = open_store(&wanted.place())?;
    if let Err(failure) = rebuild(&wanted, pipeline, &run.live, &target, Arc::clone(&own)) {
        // What was read in another way than the run did it is not gone on with; what was only interrupted is.
        if failure.is_refusal() {
            drop_rebuilt(&suffix)?;
        }
        return Err(failure);
    }
    let rebuilt = read(&own, &wanted.place())?.unwrap_or_default();
    if let Some(problem) = shortfall(&wanted, Books::of(&run.live), Books::of(&rebuilt)) {
        if !arguments.incomplete {
            // What was built in another way than the run was does not get better by being gone on with.
            drop_rebuilt(&suffix)?;
            return Err(Failure::refused(format!(
                "{problem}: nothing was changed. Name a source that has all of it with --from, or fill the tables with what there \
                 is by --incomplete"
            )));
        }
        lines::warn(&problem);
    }

    let mut log = Log::start(run.store, LogOptions::default()).map_err(of_log)?.log;
    require_floor(log.state(), floor)?;
    let plan = plan_exchange(&target, &specs, &suffix, (pipeline.name(), instance, floor));
    let plan = only(plan.map_err(|error| of_clickhouse(&error))?, &lost);
    let recorded = serde_json::to_value(&plan).map_err(Failure::failed)?;
    record(&mut log, &recorded)?;
    exchange(&target, &plan).map_err(|error| of_clickhouse(&error))?;
    record(&mut Log::start(own, LogOptions::default()).map_err(of_log)?.log, &recorded)?;
    drop_rebuilt(&suffix)?;
    let left = left_over(&target, &plan).map_err(|error| of_clickhouse(&error))?;
    if !left.is_empty() {
        say(&format!("what the tables held before is kept in {}; drop it when nobody needs it", left.join(", ")))?;
    }
    say(&format!("filled again: {}; start the run, it goes on at epoch {}", list(&specs), floor + 1))
}

fn list(specs: &[TableSpec]) -> String {
    specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Those of `specs` that are named.
fn named(pipeline: &str, specs: &[TableSpec], names: &[String]) -> Result<Vec<TableSpec>, Failure> {
    if let Some(unknown) = names.iter().find(|name| !specs.iter().any(|spec| spec.name == **name)) {
        let all = list(specs);
        return Err(Failure::usage(format!("--table {unknown}: the run of pipeline {pipeline} writes {all}")));
    }
    Ok(specs.iter().filter(|spec| names.contains(&spec.name)).cloned().collect())
}

/// The exchanges of lost tables; what these hold is kept under a name that no other refill gives.
fn only(plan: Vec<Exchange>, lost: &BTreeSet<String>) -> Vec<Exchange> {
    let lost = plan.into_iter().filter(|one| lost.contains(&one.live));
    lost.map(|one| Exchange { kept: Some(format!("{}_lost_{}", one.live, one.uuid.replace('-', "_"))), ..one })
        .collect()
}

/// A lake is read as far as its copy of the log goes: one that a crash left short misses the last commits, and one of
/// another run is refused.
fn bring_up_to_date(lake: &str, place: &Location, store: &Arc<dyn Store>) -> Result<(), Failure> {
    let lake: Location = lake.parse().map_err(|error| Failure::usage(format!("--from: {}", with_causes(&error))))?;
    if lake == *place {
        return Ok(());
    }
    let tables = open_store(&lake)?;
    if read(&tables, &lake)?.is_none() {
        return Err(Failure::refused(format!("{lake}: there are no tables of a run; nothing was changed")));
    }
    let both = SplitStore::new(Arc::clone(store), tables, FOLDER);
    both.reconcile().map_err(|error| Failure::refused(format!("{lake}: {}; nothing was changed", with_causes(&error))))
}

/// In which way a rebuilt set of tables cannot hold what the live one held.
fn shortfall(wanted: &Rebuild<'_>, live: Books, rebuilt: Books) -> Option<String> {
    if wanted.archive() {
        let (had, there) = (live.accepted, rebuilt.accepted);
        return (had != there).then(|| {
            format!("of the lake {there} events are accepted, and the run has accepted {had} through its last commit")
        });
    }
    if live.read != rebuilt.read {
        let (had, there) = (live.read, rebuilt.read);
        return Some(format!("what can be read again are {there} records, and the run has read {had}"));
    }
    let counted = |books: Books| {
        let always = [("malformed", books.malformed), ("quarantined", books.quarantined)];
        // What is late or a duplicate near the horizon is decided anew with fresh cuts.
        let by_cut = [("accepted", books.accepted), ("duplicate", books.duplicates), ("unverified", books.unverified)];
        always.into_iter().chain(by_cut.into_iter().filter(|_| wanted.cuts.is_some()))
    };
    let mut both = counted(live).zip(counted(rebuilt));
    let ((name, had), (_, there)) = both.find(|((_, had), (_, there))| had != there)?;
    Some(format!("of the same records {there} are {name} now, and the run had counted {had} of them as that"))
}

/// Earlier refills through `floor`: the suffix of each, and its log.
fn attempts(place: &Location, floor: u64) -> impl Iterator<Item = Result<(String, LogState), Failure>> {
    (1_u32..).map_while(move |attempt| {
        let suffix = suffix(floor, attempt);
        let below = place.below(&format!("replay/{suffix}"));
        let found = open_store(&below).and_then(|store| read(&store, &below));
        found.transpose().map(|state| Ok((suffix, state?)))
    })
}

fn suffix(floor: u64, attempt: u32) -> String {
    format!("_refill_{floor}_{attempt}")
}

/// Where this refill builds: where one like it was interrupted, if its tables are there, or under a new suffix. What others
/// left is taken away.
fn suffix_of(
    wanted: &Rebuild<'_>,
    run: &Stopped,
    is_there: impl Fn(&str, &str) -> Result<bool, Failure>,
    take_away: impl Fn(&str) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let exchanged = run.live.exchange().map(|(_, plan)| plan.to_string()).unwrap_or_default();
    let mut next = 1;
    for attempt in attempts(wanted.state, run.floor) {
        let (suffix, state) = attempt?;
        let begun = state.seal().filter(|seal| seal.plan.ends_with(&wanted.settings(run.floor)));
        if let Some(seal) = begun
            && state.exchange().is_none()
            && !exchanged.contains(&format!("{suffix}_"))
            && is_there(&suffix, &seal.instance)?
        {
            return Ok(suffix);
        }
        take_away(&suffix)?;
        next += 1;
    }
    Ok(suffix(run.floor, next))
}

fn require_floor(state: &LogState, floor: u64) -> Result<(), Failure> {
    match state.committed() {
        Some(committed) if committed == floor => Ok(()),
        _ => Err(Failure::refused("the run has gone on meanwhile; stop it, then repeat this")),
    }
}
