//! The analytics event, and the decoders that read it from NDJSON and from web server logs.
//!
//! A decoder is pure: a block gives the same events and the same dead letters whenever and wherever it is decoded
//! (INV-2). Every line is an event, a dead letter with a reason, or white space (INV-6).
//!
//! The collector publishes one JSON object a line:
//!
//! | member | column | else |
//! |---|---|---|
//! | `event_id`, `event_type`, `user_id` | text, required, not empty | malformed |
//! | `timestamp` | required: milliseconds since 1970 as an integer, or RFC 3339 text; within the [`Bounds`] | malformed |
//! | `tenant` | text; absent, null or empty: `default` | `default`, the value goes to `extra` |
//! | `properties.page` | text; required of a `page_view` | malformed there, else no column |
//! | `properties.amount_cents`, `.currency` | integer of at most 10^15 either way, text; required of a `purchase` | malformed there, else no column |
//! | `session_id`, `context.*`, `geo.*`, `server_time` | text; a time like `timestamp` | no column, the value goes to `extra` |
//! | everything else | `extra` | |
//!
//! Texts that have a column have at most [`MAX_ID_BYTES`], [`MAX_PAGE_BYTES`], [`MAX_CURRENCY_BYTES`] or [`MAX_NAME_BYTES`]; with a
//! longer one the event is malformed.
//!
//! Of a key given twice the last value counts. A `\u` escape of half a surrogate pair is read as U+FFFD, in keys and values
//! alike.

mod block_text;
mod bounds;
mod event;
mod extra;
mod fields;
mod format;
mod guess;
mod json;
mod lines;
mod logs;
mod ndjson;
mod scanner;
mod strict;
#[cfg(test)]
mod tests;

pub use bounds::Bounds;
pub use event::{Event, EventKind, IdOrigin};
pub(crate) use extra::push_text;
pub use format::{Format, UnknownFormat};
pub(crate) use guess::{Guess, Head, Shape};
pub use json::JsonDecoder;
pub(crate) use lines::masked;
pub(crate) use logs::{Directives, KNOWN_TO_ALL};
pub use logs::{HashKey, Layout, LogDecoder, LogReader, UserKey};
pub use ndjson::NdjsonDecoder;
#[doc(hidden)]
pub use scanner::readers_agree;
pub(crate) use strict::NOT_AN_OBJECT;
pub use strict::{Member, members_of, whole};

/// The longest line that can be an event, in bytes without its terminator; longer ones are malformed.
pub const MAX_LINE_BYTES: usize = 1 << 20;

/// The longest `event_id` and `user_id`, in bytes.
pub const MAX_ID_BYTES: u32 = 200;

/// The longest page, in bytes: the longest line of a request that web servers take unless they are told otherwise.
pub const MAX_PAGE_BYTES: u32 = 8_192;

/// The longest `currency`, in bytes.
pub const MAX_CURRENCY_BYTES: u32 = 32;

/// The longest `event_type`, `tenant`, `session_id`, and text of `context` and `geo`, in bytes.
pub const MAX_NAME_BYTES: u32 = 200;

/// The tenant of an event that names none.
pub const DEFAULT_TENANT: &str = "default";
