//! `tidemill explain`: the plan of a pipeline, as text, as a graph, as data.

use std::io::Write;

use clap::{Args, ValueEnum};

use super::Failure;
use crate::pipeline::Catalog;

/// How the plan is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum PlanFormat {
    /// A line for each operator: what checkpoints are compared by.
    #[default]
    Text,
    /// A Mermaid flowchart.
    Mermaid,
    /// A JSON array of operators.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// The pipeline; needed where there are several.
    pipeline: Option<String>,
    /// How to print the plan.
    #[arg(long, value_enum, default_value_t)]
    format: PlanFormat,
}

pub(crate) fn explain(arguments: &ExplainArguments, catalog: &Catalog) -> Result<(), Failure> {
    let pipeline = catalog.find(arguments.pipeline.as_deref()).map_err(Failure::usage)?;
    let plan = pipeline.plan()?;
    let printed = match arguments.format {
        PlanFormat::Text => plan.to_string(),
        PlanFormat::Mermaid => plan.mermaid(),
        PlanFormat::Json => plan.json(),
    };
    std::io::stdout().write_all(printed.as_bytes()).map_err(Failure::failed)
}
