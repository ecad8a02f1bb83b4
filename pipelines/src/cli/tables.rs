//! `tidemill tables`: the tables of a ClickHouse database, made and compared.

use std::io::Write;

use clap::{Args, Subcommand};
use tidemill_clickhouse::{Retention, apply_tables, diff_tables};
use tidemill_tables::TableSpec;

use super::refill::{AcceptArguments, RefillArguments, accept_tables, refill};
use super::run::clickhouse_target;
use super::{Failure, with_causes};
use crate::pipeline::Catalog;

#[derive(Debug, Args)]
pub(crate) struct TablesArguments {
    #[command(subcommand)]
    command: TablesCommand,
}

#[derive(Debug, Subcommand)]
enum TablesCommand {
    /// Create what is missing; what is there and differs is reported, not changed.
    Apply {
        /// The pipeline whose tables they are; all pipelines unless it is named.
        pipeline: Option<String>,
        /// The database: clickhouse://HOST:PORT/DB.
        #[arg(long, value_name = "URL")]
        to: String,
        /// Days that raw events are kept after they arrived; 0: for ever.
        #[arg(long, value_name = "DAYS", default_value_t = Retention::default().raw_days)]
        raw_days: u32,
        /// Days that the tables by minute and by day are kept after they last changed; 0: for ever. Sessions stay.
        #[arg(long, value_name = "DAYS", default_value_t = Retention::default().rollup_days)]
        rollup_days: u32,
    },
    /// Say how the database differs from what the sinks need, with the statements that mend it. Exit code 3 if it does.
    Diff {
        /// The pipeline whose tables they are; all pipelines unless it is named.
        pipeline: Option<String>,
        /// The database: clickhouse://HOST:PORT/DB.
        #[arg(long, value_name = "URL")]
        to: String,
    },
    /// Fill tables again that lost what a run wrote to them: they were emptied, or dropped and made anew. The run must be
    /// stopped; it goes on afterwards where it was.
    Refill(RefillArguments),
    /// Take tables as they are: what they lost stays lost, what is new begins here, and the run goes on. The run must be stopped.
    Accept(AcceptArguments),
}

pub(crate) fn tables(arguments: &TablesArguments, catalog: &Catalog) -> Result<(), Failure> {
    match &arguments.command {
        TablesCommand::Apply { pipeline, to, raw_days, rollup_days } => {
            let specs = specs(catalog, pipeline.as_deref())?;
            let target = clickhouse_target(to)?;
            let retention = Retention { raw_days: *raw_days, rollup_days: *rollup_days };
            let changes =
                apply_tables(&target, &specs, retention).map_err(|error| Failure::failed(with_causes(&error)))?;
            print(changes.iter().map(ToString::to_string), "nothing to do: everything is there")
        }
        TablesCommand::Refill(arguments) => refill(arguments, catalog),
        TablesCommand::Accept(arguments) => accept_tables(arguments, catalog),
        TablesCommand::Diff { pipeline, to } => {
            let specs = specs(catalog, pipeline.as_deref())?;
            let differences =
                diff_tables(&clickhouse_target(to)?, &specs).map_err(|error| Failure::failed(with_causes(&error)))?;
            print(differences.iter().map(ToString::to_string), "no difference")?;
            match differences.len() {
                0 => Ok(()),
                n => Err(Failure::refused(format!("{n} differences; run what is said above, or name a new database"))),
            }
        }
    }
}

fn specs(catalog: &Catalog, pipeline: Option<&str>) -> Result<Vec<TableSpec>, Failure> {
    match pipeline {
        None => Ok(catalog.tables()),
        named => Ok(catalog.find(named).map_err(Failure::usage)?.specs().to_vec()),
    }
}

fn print(lines: impl ExactSizeIterator<Item = String>, none: &str) -> Result<(), Failure> {
    let mut text = if lines.len() == 0 { format!("{none}\n") } else { String::new() };
    lines.for_each(|line| text.push_str(&(line + "\n")));
    std::io::stdout().write_all(text.as_bytes()).map_err(Failure::failed)
}
