//! Which kind of lines a file holds.

use std::str::FromStr;

use thiserror::Error;

use super::MAX_LINE_BYTES;
use super::lines::{is_blank, line_end};
use super::log_line::LogLine;

/// The kind of lines of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Told from the first line of each file that is not blank: one that starts with `{` means NDJSON, one that is a
    /// web server log line means that, anything else NDJSON.
    #[default]
    Guess,
    /// One JSON object a line.
    Ndjson,
    /// Common or Combined Log Format.
    Combined,
}

/// A format's name that is none.
#[derive(Debug, Error)]
#[error("format {0:?} is unknown; use guess, ndjson or combined")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        [Format::Guess, Format::Ndjson, Format::Combined]
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}

impl Format {
    /// Its name on the command line and in checkpoints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Guess => "guess",
            Format::Ndjson => "ndjson",
            Format::Combined => "combined",
        }
    }

    /// The format of content that starts with `bytes`; `None` while only white space is known.
    ///
    /// A first line that goes on behind `bytes` is judged by what is there.
    pub(crate) fn of(bytes: &[u8]) -> Option<Format> {
        let mut start = 0;
        while start < bytes.len() {
            let end = line_end(bytes, start);
            let line = bytes[start..end].trim_ascii_end();
            if !is_blank(line) {
                return Some(Format::of_line(line));
            }
            start = end + 1;
        }
        None
    }

    fn of_line(line: &[u8]) -> Format {
        let is_log = || {
            let text = std::str::from_utf8(line).ok().filter(|text| text.len() <= MAX_LINE_BYTES);
            text.and_then(LogLine::parse).is_some()
        };
        if !line.trim_ascii_start().starts_with(b"{") && is_log() { Format::Combined } else { Format::Ndjson }
    }
}
