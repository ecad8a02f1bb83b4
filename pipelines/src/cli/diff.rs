//! `tidemill diff`: whether the tables of two places say the same.

use std::collections::BTreeSet;
use std::io::Write;

use clap::Args;
use tidemill_log::Location;
use tidemill_query::QueryError;
use tidemill_query::diff::{Comparison, TableDiff};

use super::{Failure, units};
use crate::pipeline::Catalog;

#[derive(Debug, Args)]
pub(crate) struct DiffArguments {
    /// A place that a run wrote tables to: its --out, or an s3://BUCKET/PREFIX of its --to.
    #[arg(value_name = "DIR")]
    first: Location,
    /// Another one.
    #[arg(value_name = "DIR2")]
    second: Location,
    /// Memory for sorting each of the two; what does not fit takes temporary files of about the size of the tables.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = units::bytes)]
    memory: u64,
}

/// Prints a line for each table. Fails where one differs, with exit code 1.
pub(crate) fn diff(arguments: &DiffArguments, catalog: &Catalog) -> Result<(), Failure> {
    let failed = |error: QueryError| Failure::refused(error.chain());
    let places = [&arguments.first, &arguments.second];
    let specs = catalog.tables();
    let memory = usize::try_from(arguments.memory).map_err(Failure::usage)?;
    let comparison = Comparison::open(places, &specs, memory).map_err(failed)?;
    for (place, visible) in places.into_iter().zip(comparison.visible()) {
        if visible.epoch.is_none() {
            return Err(Failure::refused(format!("{place}: no epoch is committed there; there is nothing to compare")));
        }
    }
    let tables = comparison.tables(&specs);
    if tables.is_empty() {
        let known = comparison.visible().into_iter().filter_map(|visible| visible.known.as_ref()).flatten();
        let names: BTreeSet<&str> = known.map(String::as_str).collect();
        return Err(Failure::refused(format!(
            "none of the tables there ({}) is one of this program's; run diff of the program that wrote them",
            names.into_iter().collect::<Vec<_>>().join(", ")
        )));
    }
    let mut different = Vec::new();
    let mut out = std::io::stdout().lock();
    for spec in tables {
        let found = comparison.table(spec).map_err(failed)?;
        out.write_all(describe(&spec.name, &found, places).as_bytes()).map_err(Failure::failed)?;
        if found.first.is_some() {
            different.push(spec.name.as_str());
        }
    }
    if different.is_empty() { Ok(()) } else { Err(Failure::failed(format!("different: {}", different.join(", ")))) }
}

/// The line of a table, and below it where it first differs.
fn describe(table: &str, found: &TableDiff, places: [&Location; 2]) -> String {
    let [rows, digest] = [found.rows[0].to_string(), format!("{:016x}", found.digests[0])];
    let Some(first) = &found.first else { return format!("{table}: equal, {rows} rows, digest {digest}\n") };
    let mut text = format!("{table}: DIFFERENT, {rows} and {} rows, first at {}\n", found.rows[1], first.key);
    for (place, row) in places.into_iter().zip(&first.rows) {
        let row = row.as_deref().unwrap_or("no row to match the other's");
        text.push_str(&format!("  {place}: {row}\n"));
    }
    text
}
