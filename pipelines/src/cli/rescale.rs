//! `tidemill rescale`: other numbers for a run that goes on.
//!
//! The supervisor of the run does it: it lets the run stop at a checkpoint and starts it with the new numbers. If a process
//! dies meanwhile, the supervisor goes on with the new numbers from the last checkpoint; state does not know how many
//! workers there are (INV-7).

use std::path::PathBuf;

use clap::Args;
use tidemill_log::Location;

use super::run::{Answer, Shape, ask, cluster_token};
use super::{Failure, lines};

#[derive(Debug, Args)]
pub(crate) struct RescaleArguments {
    /// The run's --out.
    #[arg(long, value_name = "DIR", required_unless_present = "state", conflicts_with = "state")]
    out: Option<PathBuf>,
    /// The run's --state.
    #[arg(long, value_name = "PLACE")]
    state: Option<Location>,
    /// Worker threads in each process.
    #[arg(long, value_name = "N")]
    workers: u32,
    /// Processes.
    #[arg(long, value_name = "M", default_value_t = 1)]
    processes: u32,
}

pub(crate) fn rescale(arguments: RescaleArguments) -> Result<(), Failure> {
    let place = arguments.out.map(Location::Folder).or(arguments.state);
    let place = place.ok_or_else(|| Failure::usage("give the run's --out or --state"))?;
    let shape = Shape { workers: arguments.workers, processes: arguments.processes };
    if let Some(wrong) = shape.wrong() {
        return Err(Failure::usage(wrong));
    }
    let answer = ask(&place, cluster_token().unwrap_or_default(), shape, lines::say);
    match answer.map_err(|error| Failure::failed(format!("the supervisor of {place}: {error}")))? {
        Some(Answer::Done(sentence)) => {
            lines::say(&sentence);
            Ok(())
        }
        Some(Answer::Failed(reason) | Answer::Step(reason)) => Err(Failure::refused(reason)),
        None => Err(Failure::refused(format!(
            "{place}: no supervisor of this user runs it on this machine. A run that is to be rescaled this way is started \
             with --supervise or --processes; one whose processes were started by hand or by Kubernetes is stopped \
             (SIGTERM, it ends at a checkpoint) and started with other --workers and --hosts, all processes alike"
        ))),
    }
}
