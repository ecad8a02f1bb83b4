//! What every source and sink of messages shares, whoever keeps the topics.
//!
//! | module | what |
//! |---|---|
//! | `address` | parameters of an address, names of partitions |
//! | `topics` | names and patterns of topics |
//! | [`cutter`] | from messages to blocks, and what the position is; no I/O |
//! | [`framing`] | how messages lie in a block |
//! | [`decoder`] | from blocks to events, JSON and Avro |
//! | [`schemas`] | which Avro messages are read, waited for, or given up |
//! | [`rows`] | rows of a table as keyed JSON messages |
//! | `fenced` | what a sink says when a later run writes |

mod address;
pub mod cutter;
pub mod decoder;
mod fenced;
pub mod framing;
pub mod rows;
pub mod schemas;
mod topics;

pub use address::{parameters, parse_partition_name, partition_name, percent_decoded};
pub use cutter::{Cutter, Cutting, Extent, Feed, Polled, Progress, Shorter};
pub use decoder::{AvroToJson, MessageDecoder, Unprepared};
pub use fenced::Fenced;
pub use schemas::{Answer, Reading, Schemas, Told, schema_id};
pub use topics::Topics;
