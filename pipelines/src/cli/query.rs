//! `tidemill query`: SQL over the tables in a folder or a bucket.

use std::io::{self, BufWriter, Write};

use clap::{Args, ValueEnum};
use tidemill_log::Location;
use tidemill_query::{Format, Lake};

use super::{Failure, with_causes};
use crate::pipeline::Catalog;

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Csv,
    Ndjson,
}

#[derive(Debug, Args)]
pub(crate) struct QueryArguments {
    /// Where a run wrote tables: its --out, or an s3://BUCKET/PREFIX of its --to.
    #[arg(long, value_name = "DIR|s3://BUCKET/PREFIX")]
    data: Location,
    /// How to print the answer.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    format: Output,
    /// The question, for example "SELECT page, sum(views) FROM page_views_by_minute GROUP BY page".
    sql: String,
}

pub(crate) fn query(arguments: &QueryArguments, catalog: &Catalog) -> Result<(), Failure> {
    let lake = Lake::open(&arguments.data, catalog.tables()).map_err(|error| Failure::failed(with_causes(&error)))?;
    let answer = lake.sql(&arguments.sql).map_err(|error| Failure::failed(with_causes(&error)))?;
    let format = match arguments.format {
        Output::Table => Format::Table,
        Output::Csv => Format::Csv,
        Output::Ndjson => Format::Ndjson,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    match format.write(&answer, &mut out).and_then(|()| out.flush()) {
        // Whoever reads us has seen enough (`| head`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Failure::failed),
    }
}
