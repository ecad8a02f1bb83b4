//! Avro events: the schema registry they are written with, and the way from a framed message to a line of JSON.
//!
//! [`Registry`] speaks the Confluent-compatible API (Confluent, Apicurio, Redpanda, Karapace) and keeps every schema it
//! has fetched: an id never changes its meaning. [`AvroEvents`] turns a message in Confluent framing (a zero byte, the
//! schema's id as four bytes, big-endian, then Avro binary) into one JSON object, by the schema that it was written
//! with: an event of an older or newer version is read as what it says, and what it does not have is absent.
//!
//! What it promises: the line is a function of the message and its schema alone (INV-2), and a message that is cut
//! short, too long or of an unknown schema is refused as a whole, with a reason that quotes none of it (INV-6).
//!
//! [`EVENT_V1`] and [`EVENT_V2`] are the schemas of the analytics event; [`encode()`] writes one.
//!
//! ```
//! use serde_json::json;
//! use tidemill_registry::{EVENT_V1, Schema, encode, schema_id};
//!
//! let schema = Schema::parse_str(EVENT_V1)?;
//! let event = json!({"event_id": "e1", "event_type": "scroll", "user_id": "u1", "timestamp": 1_772_323_200_000_i64});
//! let message = encode(&schema, 17, &event)?;
//! assert_eq!(schema_id(&message), Some(17));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod client;
mod connection;
mod decimal;
mod decode;
mod encode;
mod error;
mod events;
mod reader;
#[cfg(test)]
mod scripted_server;
mod shape;

pub use apache_avro::Schema;
pub use client::{Compatibility, CompatibilityLevel, Credentials, Registered, Registry};
pub use encode::{EncodeError, encode};
pub use error::{ErrorKind, RegistryError};
pub use events::{AvroEvents, Prepared, schema_id};

/// The first version of the analytics event's schema, Avro JSON. `properties` is the text of a JSON object.
pub const EVENT_V1: &str = include_str!("../schemas/event-v1.avsc");

/// The second version: `sdk` was added, with a default. Each version reads what the other wrote.
pub const EVENT_V2: &str = include_str!("../schemas/event-v2.avsc");

/// The longest line that an event becomes, in bytes; what would be longer is refused.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
