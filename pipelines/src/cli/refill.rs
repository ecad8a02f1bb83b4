//! `tidemill tables refill`: tables of a ClickHouse database that lost what was written to them, filled again.
//!
//! ```text
//! stop the run -> which tables lost rows? -> the pipeline again, beside them, through the last commit
//!              -> recorded in the run's log -> the rebuilt tables change places with the lost ones -> start the run
//! ```
//! What the run had read is read again in the cuts that are recorded, so the rows are the same (INV-2). Epochs behind the
//! last commit are written by the next start, as after any crash.

use std::path::PathBuf;

use clap::Args;
use tidemill_clickhouse::{Target, drop_tables, exchange, missing, plan_exchange, suffixed};
use tidemill_connectors::events::Bounds;
use tidemill_log::{Location, Log, LogOptions, LogState};
use tidemill_tables::TableSpec;
use tidemill_tables::web_analytics::is_of_unverified;

use super::replay::{Rebuild, finish_exchange, history, of_clickhouse, of_log, read, rebuild, record, say};
use super::run::{clickhouse_target, open_store};
use super::{Failure, alive, units};
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

pub(crate) fn refill(arguments: &RefillArguments, catalog: &Catalog) -> Result<(), Failure> {
    let pipeline = catalog.find_or_first(arguments.pipeline.as_deref()).map_err(Failure::usage)?;
    let target = clickhouse_target(&arguments.to)?;
    let place = &arguments.state;
    let store = open_store(place)?;
    let live = read(&store, place)?.ok_or_else(|| Failure::refused(format!("{place}: there is no log of a run")))?;
    let Some(floor) = live.committed().filter(|floor| *floor > 0) else {
        return Err(Failure::refused(format!("{place}: the run there has committed nothing yet; start it")));
    };
    let _alive = alive::claim(place, &store, arguments.take_over)?;
    finish_exchange(&live, &[SinkTarget::ClickHouse(target.clone())])?;
    let instance = live.seal().map(|seal| seal.instance.clone()).unwrap_or_default();
    let lost = missing(&target, pipeline.specs(), &instance).map_err(|error| of_clickhouse(&error))?;
    let lost = chosen(pipeline, &lost, &arguments.table)?;
    if lost.is_empty() {
        return say("no table lost anything; name one with --table to fill it again all the same");
    }
    let names = lost.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
    say(&format!("fills again through epoch {floor}: {names}"))?;

    let suffix = unused_suffix(place, floor, |suffix| drop_rebuilt(&target, pipeline, suffix))?;
    let mut wanted = Rebuild {
        from: arguments.from.as_deref(),
        input: &arguments.input,
        cuts: None,
        state: place,
        suffix: &suffix,
        since: None,
        until: None,
        oldest: arguments.oldest,
        workers: arguments.workers,
    };
    if let Some(table) = lost.iter().find(|spec| wanted.archive() && is_of_unverified(&spec.name)) {
        return Err(Failure::refused(format!(
            "{} is not in a lake of accepted events: name the topics or the log with --from",
            table.name
        )));
    }
    if !wanted.archive() && history(place)?.first() <= 1 {
        wanted.cuts = Some(place.clone());
    }
    let own = open_store(&wanted.place())?;
    rebuild(&wanted, pipeline, &live, &target, own)?;

    let mut log = Log::start(store, LogOptions::default()).map_err(of_log)?.log;
    require_floor(log.state(), floor)?;
    let plan = plan_exchange(&target, &lost, &suffix, (pipeline.name(), &instance, floor));
    let plan = plan.map_err(|error| of_clickhouse(&error))?;
    record(&mut log, &serde_json::to_value(&plan).map_err(Failure::failed)?)?;
    exchange(&target, &plan).map_err(|error| of_clickhouse(&error))?;
    drop_rebuilt(&target, pipeline, &suffix)?;
    say(&format!("filled again: {names}; start the run, it goes on at epoch {}", floor + 1))
}

/// The tables that are filled again, in the pipeline's order.
fn chosen(pipeline: &Pipeline, lost: &[String], named: &[String]) -> Result<Vec<TableSpec>, Failure> {
    let specs = pipeline.specs();
    if let Some(unknown) = named.iter().find(|name| !specs.iter().any(|spec| spec.name == **name)) {
        let all = specs.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Failure::usage(format!("--table {unknown}: pipeline {} has {all}", pipeline.name())));
    }
    Ok(specs.iter().filter(|spec| lost.contains(&spec.name) || named.contains(&spec.name)).cloned().collect())
}

fn drop_rebuilt(target: &Target, pipeline: &Pipeline, suffix: &str) -> Result<(), Failure> {
    let rebuilt: Vec<TableSpec> = pipeline.specs().iter().map(|spec| suffixed(spec, suffix)).collect();
    drop_tables(target, &rebuilt).map_err(|error| of_clickhouse(&error))
}

/// A suffix that was not used before; what an attempt left that did not end is taken away.
fn unused_suffix(
    place: &Location,
    floor: u64,
    take_away: impl Fn(&str) -> Result<(), Failure>,
) -> Result<String, Failure> {
    for attempt in 1_u32.. {
        let suffix = format!("_refill_{floor}_{attempt}");
        let below = place.below(&format!("replay/{suffix}"));
        let used = read(&open_store(&below)?, &below)?.is_some_and(|state: LogState| state.committed().is_some());
        if !used {
            return Ok(suffix);
        }
        take_away(&suffix)?;
    }
    Err(Failure::refused(format!("{place}: too many attempts below replay/")))
}

fn require_floor(state: &LogState, floor: u64) -> Result<(), Failure> {
    match state.committed() {
        Some(committed) if committed == floor => Ok(()),
        _ => Err(Failure::refused("the run has gone on meanwhile; stop it, then repeat this")),
    }
}
