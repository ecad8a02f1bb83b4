//! `tidemill checkpoints`: what a restart would start from.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use tidemill_dataflow::checkpoint::{LoadError, Manifest, load_manifest};
use tidemill_log::{FOLDER, Location, LogState, Store, reader};

use super::run::open_store;
use super::{Failure, with_causes};

#[derive(Debug, Args)]
pub(crate) struct CheckpointsArguments {
    #[command(subcommand)]
    command: CheckpointsCommand,
}

#[derive(Debug, Subcommand)]
enum CheckpointsCommand {
    /// List the checkpoints that recovery may start from, the newest last.
    List {
        /// The folder that a run wrote to (its --out).
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
    /// Show what one checkpoint consists of.
    Show {
        /// The folder that a run wrote to (its --out).
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// The checkpoint's epoch; the newest one when not given.
        epoch: Option<u64>,
    },
}

pub(crate) fn checkpoints(arguments: &CheckpointsArguments) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let printed = match &arguments.command {
        CheckpointsCommand::List { data } => list(data, &mut out)?,
        CheckpointsCommand::Show { data, epoch } => show(data, *epoch, &mut out)?,
    };
    printed.map_err(Failure::failed)
}

fn load(data: &Path) -> Result<(Arc<dyn Store>, LogState), Failure> {
    let store = open_store(&Location::from(data))?;
    let log = reader::read(Arc::clone(&store), FOLDER);
    let state = log.map_err(|error| Failure::refused(with_causes(&error)))?;
    Ok((store, state))
}

fn list(data: &Path, out: &mut impl Write) -> Result<io::Result<()>, Failure> {
    let (store, state) = load(data)?;
    if state.checkpoints().is_empty() {
        return Ok(writeln!(out, "no checkpoint yet; a start replays from the first epoch"));
    }
    let mut lines = format!("{:>12}  {:>6}  {:>12}  manifest\n", "epoch", "pieces", "bytes");
    for entry in state.checkpoints() {
        let line = match load_manifest(&*store, entry) {
            Ok(manifest) => {
                let (pieces, bytes) = weight(&manifest);
                format!("{:>12}  {pieces:>6}  {bytes:>12}  {}\n", entry.epoch, entry.manifest)
            }
            Err(LoadError::Damaged(problem)) => format!("{:>12}  damaged: {problem}\n", entry.epoch),
            Err(failed) => format!("{:>12}  cannot be read: {}\n", entry.epoch, with_causes(&failed)),
        };
        lines.push_str(&line);
    }
    Ok(out.write_all(lines.as_bytes()))
}

fn weight(manifest: &Manifest) -> (usize, u64) {
    let pieces = || manifest.operators.iter().flat_map(|operator| &operator.pieces);
    (pieces().count(), pieces().map(|piece| piece.bytes).sum())
}

fn show(data: &Path, epoch: Option<u64>, out: &mut impl Write) -> Result<io::Result<()>, Failure> {
    let (store, state) = load(data)?;
    let known = || state.checkpoints().iter().map(|c| c.epoch.to_string()).collect::<Vec<_>>().join(", ");
    let entry = match epoch {
        None => state.checkpoints().last(),
        Some(epoch) => state.checkpoints().iter().find(|entry| entry.epoch == epoch),
    };
    let entry = entry.ok_or_else(|| Failure::usage(format!("no such checkpoint; there are: {}", known())))?;
    let manifest = load_manifest(&*store, entry).map_err(|error| match error {
        LoadError::Damaged(problem) => Failure::refused(problem),
        failed => Failure::failed(with_causes(&failed)),
    })?;
    let mut text = format!("checkpoint {} written by run {}\n", manifest.epoch, manifest.run);
    for operator in &manifest.operators {
        text.push_str(&format!("{} (state v{})\n", operator.id, operator.version));
        for piece in &operator.pieces {
            text.push_str(&format!(
                "  epochs {}..={}  {} bytes  {}\n",
                piece.first, piece.last, piece.bytes, piece.path
            ));
        }
    }
    text.push_str(&format!("source {}\n", manifest.source));
    for loss in state.seal().iter().flat_map(|seal| &seal.accepted_loss) {
        text.push_str(&format!("accepted loss {loss} ({} records)\n", loss.records()));
    }
    Ok(out.write_all(text.as_bytes()))
}
