//! What events are and where they come from and go to, as far as that needs no client library: files, made-up traffic, messages,
//! dead letters, Parquet tables of a lake and the archive among them, and the functions that every connector must pass.
//!
//! Sources and sinks keep the engine's contract (`tidemill_dataflow::source`, `tidemill_dataflow::sink`); [`conformance`]
//! tests it. Connectors with a client library are packages of their own beside this one.

pub mod capture;
pub mod conformance;
pub mod dead_letters;
pub mod events;
pub mod files;
pub mod generate;
pub mod lake;
pub mod messages;
pub mod parquet_source;
