//! Web server logs: from a line to an event.
//!
//! A user is a pseudonym: keyed BLAKE3 over address and agent, and the address stands nowhere else in the event. An event's
//! id is made of the file and the line's offset in it: two equal lines are two events, and no id can come twice
//! ([`IdOrigin::Place`](super::IdOrigin::Place)).
//!
//! | module | what |
//! |---|---|
//! | `reader` | every kind of log behind one reader of lines |
//! | `combined`, `json`, `w3c`, `alb` | the kinds that are known |
//! | `format_string`, `nginx`, `apache` | the kinds that people describe |
//! | `layout` | a format as fields and what stands between them |
//! | `line` | what a line of any log says, and what its fields mean |
//! | `text`, `time`, `strftime` | words, quoted texts; the times that servers write |
//! | `properties`, `user` | what of a line is kept beside the columns; pseudonyms |
//! | `decoder` | blocks of lines to events |

mod alb;
mod apache;
mod combined;
mod decoder;
mod format_string;
mod json;
mod layout;
mod line;
mod nginx;
mod properties;
mod reader;
mod strftime;
mod text;
mod time;
mod user;
mod w3c;

pub use decoder::LogDecoder;
pub(super) use format_string::is_format;
pub use layout::Layout;
pub(super) use line::LogLine;
pub use reader::LogReader;
pub(super) use reader::Reading;
pub(crate) use user::KNOWN_TO_ALL;
pub use user::{HashKey, UserKey};
pub(crate) use w3c::Directives;

#[cfg(test)]
mod tests;
