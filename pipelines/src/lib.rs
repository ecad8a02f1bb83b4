//! Tidemill: an exact, exactly-once stream processor, and the analytics pipelines made with it.
//!
//! An author writes a function over a [`Flow`](prelude::Flow); `tidemill run` runs it. A small one:
//!
//! ```
//! use tidemill::io::AnalyticsIo;
//! use tidemill::prelude::*;
//! use tidemill_connectors::events::Event;
//!
//! /// Events per tenant and minute.
//! fn traffic(flow: &Flow<'_>, io: &AnalyticsIo) {
//!     flow.source("events", io.events())
//!         .event_time(Event::timestamp, Event::server_time, Watermarks::out_of_order(minutes(2)))
//!         .key_by(|e| key(e.tenant(), e.event_type()))
//!         .window("events_per_minute", Tumbling::of(minutes(1)).late(Late::Correct))
//!         .aggregate((count(), sum(|e: &Event| e.amount_cents().unwrap_or(0))))
//!         .sink("revenue_by_minute", io.windows("revenue_by_minute"));
//! }
//! ```

pub mod archive;
pub mod cli;
pub mod events;
pub mod funnel;
pub mod io;
pub mod ops;
pub mod pipeline;
pub mod prelude;
pub mod top_pages;
pub mod web_analytics;

pub use arrow::datatypes::DataType;
pub use cli::main;
pub use io::AnalyticsIo;
pub use pipeline::{Pipeline, built_in};
pub use tidemill_dataflow::testing;
pub use tidemill_tables::{ColumnSpec, Fold, TableSpec, time_type};

/// The page for authors: the programs on it are compiled and run as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/authoring.md")]
mod authoring {}
