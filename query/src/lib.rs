//! Questions to the lake tables in a folder or a bucket, each answer at one commit.
//!
//! [`Lake`] reads which files a commit made visible, gives exactly those to DataFusion, and shows every table folded
//! under its own name. Promise: a query sees all tables at the same commit, never a file that is not in it, and the
//! column types of the table specs (INV-1). [`Format`] prints an answer. [`api::Server`] answers over HTTP while commits
//! arrive, and shows the [`dashboard`].
//!
//! No answer is complete beyond the [`Clock`] of whoever gives it.
//!
//! The stored rows are readable as `stored.<table>`; over them `union_count(users)` counts distinct users of a longer
//! time than a minute. Nothing here knows the engine.

pub mod api;
mod checked_sum;
mod clock;
pub mod dashboard;
mod date_trunc;
pub mod diff;
mod error;
mod file_table;
#[cfg(test)]
mod fixture;
mod format;
mod lake;
mod segments;
mod session;
pub mod sql;
mod union_count;
mod visible;

pub use clock::Clock;
pub use error::QueryError;
pub use format::{Format, UnknownFormat};
pub use lake::{Answer, Lake};
pub use union_count::union_count;
pub use visible::{LogSource, Visible, VisibleSource};
