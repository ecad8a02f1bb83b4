//! `tidemill explain`: the plan of a pipeline.

use std::io::Write;

use clap::Args;
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::runtime::{self, RunOptions};

use super::Failure;
use super::run::Pipeline;
use crate::io::AnalyticsIo;
use crate::web_analytics::web_analytics;

#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// The pipeline.
    pipeline: Pipeline,
}

pub(crate) fn explain(arguments: &ExplainArguments) -> Result<(), Failure> {
    let Pipeline::WebAnalytics = arguments.pipeline;
    let io = AnalyticsIo::nowhere();
    let plan = runtime::plan(&move |flow: &Flow<'_>| web_analytics(flow, &io), &RunOptions::default())?;
    std::io::stdout().write_all(plan.to_string().as_bytes()).map_err(Failure::failed)
}
