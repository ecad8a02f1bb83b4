//! Kafka in and out, exactly once.
//!
//! The source reads partitions at the offsets that the log binds and never asks the consumer group where it stood; the
//! sink writes an epoch in one transaction that carries the epoch's number, so that an epoch written twice, or by a run
//! that was fenced, has the effect of one.
//!
//! | module | what |
//! |---|---|
//! | `config` | `kafka://` addresses: brokers, topics, start, pass-through settings |
//! | `source` | the source: opening partitions where the log says, or where the address says |
//! | `reader` | all partitions together, on the engine's reader thread: discovery, outages, waiting |
//! | `partition` | one partition's queue of fetched messages |
//! | `topics` | which topics a pattern means, and making them |
//! | `trouble` | what an error of the client asks for: waiting, or stopping with a sentence |
//! | `speech` | what a listener speaks, where the client only says that connections end |
//! | `topic_ids` | which topic a name means now |
//! | `hands` | calls that may hang, on a thread that can be given up |
//! | `group_offsets` | offsets mirrored to the consumer group, for lag tools |
//! | `transactions` | one epoch, one transaction: the state machine that both sinks share |
//! | `table` | the sink of a table |
//! | `dead_letters` | the sink of dead letters, and their JSON |
//! | `letters` | dead letters read and put back, for tools |
//! | `produce` | loading a topic and reading it back, for tools and tests |

pub mod config;
pub mod dead_letters;
pub mod group_offsets;
mod hands;
pub mod letters;
mod partition;
pub mod produce;
mod reader;
pub mod source;
mod speech;
pub mod table;
mod topic_ids;
pub mod topics;
mod transactions;
mod trouble;

pub use config::{ConfigError, Credentials, KafkaConfig, Start};
pub use dead_letters::{DeadLetterTopic, dead_letter_line};
pub use group_offsets::GroupOffsets;
pub use rdkafka::error::KafkaError;
pub use source::KafkaSource;
pub use table::KafkaTable;
pub use tidemill_connectors::messages::{AvroToJson, Fenced, MessageDecoder as KafkaDecoder, Unprepared};
pub use topics::Topics;
