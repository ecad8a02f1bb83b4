//! The collector: events posted over HTTP, checked, enriched, and acknowledged once they are on disk.
//!
//! `POST /v1/events` takes `{"events":[...]}` and answers for each event, in order: `ok`, or `rejected` with a reason.
//! What is promised to a client: an event that was answered with `ok` is in the log, whatever dies afterwards; one that
//! was not answered may be there too, so a client sends it again with the same `event_id`, and the pipeline counts it
//! once. What is promised to a pipeline: every line in the log is an event by the engine's own rules, so nothing that
//! was accepted ever becomes a dead letter (INV-6), and no line holds a clear address. The rules are those of
//! [`tidemill_connectors::events`], with the same [`Bounds`](tidemill_connectors::events::Bounds) where the log is read.
//!
//! ```text
//! connection -> body (limits, unpacked) -> batch -> admission (checked, enriched) -> committer -> log -> answer
//! ```
//! Memory is bounded (INV-8): what requests hold is leased from one budget as it comes, and a request that finds it empty
//! is asked to come again; a share for each address and each key keeps anybody from emptying it for all. Who finds the log
//! failed or behind is asked to come again as well.

mod address;
mod admission;
mod answers;
mod batch;
mod body;
mod budget;
mod committer;
mod config;
mod environment;
mod geo;
mod ingest;
mod log;
mod metrics;
#[doc(hidden)]
pub mod offline;
mod rate;
mod routes;
mod salts;
mod server;
mod topic;

pub use address::{Network, TrustedProxies};
pub use admission::RejectKind;
pub use config::{CollectConfig, Limits};
pub use environment::{Environment, Host};
pub use log::{EventLog, LogFailure, OpenLog, TopicLogs};
pub use metrics::Books;
pub use server::{CollectError, Collector, StopHandle};
pub use topic::Topic;
