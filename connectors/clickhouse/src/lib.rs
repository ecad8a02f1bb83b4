//! Tables in ClickHouse, written exactly once.
//!
//! What readers get are views under the tables' own names, folded and exact at any moment. What writers promise is INV-3:
//! an insert is named by pipeline, instance, table, epoch, shard and chunk, says the same each time, and the server drops the
//! ones it has. No transaction is needed, and rows are visible as soon as their epoch is closed.
//!
//! - [`apply`] and [`diff`] make the tables and say what is wrong with them.
//! - [`ClickHouseTable`] is the sink of one table, [`ProgressWriter`] follows the commits.
//! - [`missing`] says which tables lost what was written to them, [`accept`] takes them as they are.
//! - [`make_beside`], [`digest`], [`first_difference`], [`plan_exchange`] and [`exchange`] make a set of tables to be rebuilt,
//!   compare it with the live one and put it in its place.

mod apply;
mod check;
mod chunks;
mod client;
mod ddl;
mod digest;
mod dry;
mod error;
mod exchange;
mod identity;
mod owner;
mod progress;
mod rejected;
mod retry;
mod row_binary;
mod table;
mod target;
mod window;

pub use apply::{Change, apply, apply_tables, drop_tables};
pub use check::{Difference, diff, diff_tables};
pub use chunks::ChunkLimits;
pub use ddl::{DEDUP_WINDOW, default_tables, storages, suffixed};
pub use digest::{DifferingRow, Partition, PartitionDigest, digest, first_difference};
pub use error::ClickHouseError;
pub use exchange::{Exchange, Writer, exchange, left_over, make_beside, plan_exchange};
pub use owner::{accept, are_written_by, missing};
pub use progress::ProgressWriter;
pub use table::ClickHouseTable;
pub use target::Target;
pub use tidemill_tables::Retention;
