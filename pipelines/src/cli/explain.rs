//! `tidemill explain`: the plan of a pipeline.

use std::io::Write;

use clap::Args;
use tidemill_dataflow::runtime::{self, RunOptions};

use super::Failure;
use crate::io::AnalyticsIo;
use crate::pipeline::Catalog;

#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// The pipeline; needed where there are several.
    pipeline: Option<String>,
}

pub(crate) fn explain(arguments: &ExplainArguments, catalog: &Catalog) -> Result<(), Failure> {
    let pipeline = catalog.find(arguments.pipeline.as_deref()).map_err(Failure::usage)?;
    let io = AnalyticsIo::nowhere(pipeline.clone());
    let plan = runtime::plan(&pipeline.on(io), &RunOptions::default())?;
    std::io::stdout().write_all(plan.to_string().as_bytes()).map_err(Failure::failed)
}
