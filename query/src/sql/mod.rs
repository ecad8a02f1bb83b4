//! SQL from strangers: bounded before it is planned, and run where its end is nobody else's.
//!
//! DataFusion plans by recursion and lets a function take what memory it likes, so one statement can end a process. A
//! statement is therefore first held to `limits`, and then handed to a worker: a process of its own, with a hard limit of
//! memory, that is killed when its time is over or nobody waits any more. Its end is an error of that statement alone.

mod limits;
mod messages;
mod worker;
mod workers;

pub(crate) use limits::check;
pub use worker::{WorkerOptions, work};
pub(crate) use workers::{Bytes, Workers};
pub use workers::{Program, SqlOptions};
