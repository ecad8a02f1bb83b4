//! `tidemill explain`: the plan of a pipeline.

use std::io::Write;
use std::sync::Arc;

use clap::Args;
use tidemill_connectors::files::FilesConfig;
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::runtime::{self, RunOptions};
use tidemill_log::testing::MemoryStore;

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
    let io = AnalyticsIo::new(FilesConfig::default(), Arc::new(MemoryStore::default()));
    let plan = runtime::plan(&move |flow: &Flow<'_>| web_analytics(flow, &io), &RunOptions::default())?;
    std::io::stdout().write_all(plan.to_string().as_bytes()).map_err(Failure::failed)
}
