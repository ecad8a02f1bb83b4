//! The writing side of lake tables: an epoch's rows as small Parquet files, later rolled into large ones.
//!
//! Promises: a file's name and bytes are a function of table, epoch, shard and rows alone, so writing an epoch again
//! changes nothing (INV-3); rows of (epoch, shard) are ordered as a whole, never by the worker that made them (INV-2).
//! No file here is visible by existing: a commit of the log names it (INV-1).
//!
//! Small files are cheap to write and lie under `_recent/`, a folder that other engines overlook; [`roll()`] folds the
//! files of an aligned range of epochs into one compressed file for each hour of event time, and the log exchanges
//! the ones for the other in one entry. What runs that were killed or fenced left behind, [`leftovers`] finds.

mod encode;
mod error;
mod expiry;
mod leftovers;
mod names;
mod plan;
mod roll;
mod table;

pub use error::LakeError;
pub use expiry::expired;
pub use leftovers::leftovers;
pub(crate) use names::rolled_hour_folder;
pub use names::{recent_epoch, rolled_epochs};
pub use plan::{Roll, plan_rolls};
pub use roll::roll;
pub use table::{CHUNK_ROWS, LakeTable, RowOrder};

#[cfg(test)]
mod tests;
