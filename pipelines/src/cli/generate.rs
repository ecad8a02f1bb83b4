//! `tidemill generate`: a file of made-up events with everything that goes wrong in the field.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tidemill_connectors::generate::{self, GenerateConfig, Rates};

use super::{Failure, units};

#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    /// How many distinct events.
    #[arg(long, value_name = "N")]
    events: u64,
    /// The seed of all randomness: equal seeds give equal files.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// The file to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Event time from the first to the last event, for example 3h.
    #[arg(long, value_name = "TIME", default_value = "3h", value_parser = units::duration)]
    span: Duration,
    /// Leave out events that lie beyond the deduplication horizon: then the tables are exact in any order of lines.
    #[arg(long)]
    within_horizon: bool,
}

pub(crate) fn generate(arguments: &GenerateArguments) -> Result<(), Failure> {
    let path = arguments.out.display();
    let rates = if arguments.within_horizon { Rates::within_horizon() } else { Rates::default() };
    let config =
        GenerateConfig { span: arguments.span, rates, ..GenerateConfig::new(arguments.events, arguments.seed) };
    let file =
        File::create(&arguments.out).map_err(|error| Failure::failed(format!("cannot write {path}: {error}")))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let made = generate::generate(&config, &mut out).map_err(Failure::failed)?;
    out.flush().map_err(|error| Failure::failed(format!("cannot write {path}: {error}")))?;
    eprintln!(
        "{path}: {} lines, {} bytes: {} events, {} duplicates, {} conflicting, {} late, {} very late, {} malformed",
        made.lines,
        made.bytes,
        made.events,
        made.duplicates,
        made.conflicting,
        made.late,
        made.very_late,
        made.malformed
    );
    Ok(())
}
