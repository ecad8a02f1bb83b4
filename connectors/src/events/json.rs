//! Decodes NDJSON into records of an author's own type, by its serde implementation.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use tidemill_dataflow::source::{Block, DeadLetter, Decode, Decoded};

use crate::dead_letters::mask_addresses;

use super::lines::{TextBlock, apart, decode, is_blank, line_end, set_aside};
use super::strict::whole;

/// Decodes blocks of JSON lines, each a `T`. What is none becomes a dead letter that says why and where (INV-6); white
/// space is nothing.
///
/// `T` decides what is required and what is ignored; what it computes beyond the line's content (a clock, a counter)
/// would break replays (INV-2).
pub struct JsonDecoder<T>(PhantomData<fn() -> T>);

impl<T> JsonDecoder<T> {
    /// A decoder.
    #[must_use]
    pub fn new() -> Self {
        JsonDecoder(PhantomData)
    }
}

impl<T> Default for JsonDecoder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for JsonDecoder<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for JsonDecoder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonDecoder").finish()
    }
}

impl<T: DeserializeOwned + Send + Sync + 'static> Decode for JsonDecoder<T> {
    type Record = T;

    fn decode(&mut self, block: Block, out: &mut Decoded<T>) {
        decode(block, mask_addresses, out, |block, _, out| decode_lines(block, out));
    }

    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        Ok(apart(&block))
    }

    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        set_aside(block, &reason, mask_addresses)
    }
}

fn decode_lines<T: DeserializeOwned>(block: &TextBlock, out: &mut Decoded<T>) {
    let bytes = block.text.raw().as_bytes();
    let (mut start, mut row) = (0, 0);
    while start < bytes.len() {
        let end = line_end(bytes, start);
        let line = block.content(bytes, start..end);
        if let Some(reason) = block.over_long(line) {
            out.malformed.push(block.letter(row, reason, line));
        } else if !is_blank(line) {
            match serde_json::from_slice(line).or_else(|error| mended(line).ok_or(error)) {
                Ok(record) => out.records.push(record),
                Err(error) => out.malformed.push(block.letter(row, reason(&error), line)),
            }
        }
        start = end + 1;
        row += 1;
    }
}

/// The record of a line that holds half of a surrogate pair.
#[cold]
fn mended<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    match whole(std::str::from_utf8(line).ok()?) {
        Cow::Owned(line) => serde_json::from_str(&line).ok(),
        Cow::Borrowed(_) => None,
    }
}

/// What is wrong; the place that serde names is within the one line, so its line number would only mislead.
#[cold]
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((what, _)) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Bid {
        auction: u64,
        price: i64,
    }

    #[test]
    fn a_line_is_a_record_or_a_dead_letter_that_names_it() {
        let lines =
            "{\"auction\":1,\"price\":7,\"extra\":[]}\n\n{\"auction\":1}\nnot json\n{\"price\":2,\"auction\":3}";
        let block = Block { partition: 2, offset: 0, first_line: 10, bytes: lines.into(), skipped: 0 };
        let mut out = Decoded::default();
        JsonDecoder::<Bid>::new().decode(block, &mut out);
        assert_eq!(out.records, [Bid { auction: 1, price: 7 }, Bid { auction: 3, price: 2 }]);
        let letters: Vec<_> = out.malformed.iter().map(|letter| (letter.line, letter.reason.as_str())).collect();
        assert_eq!(letters, [(12, "missing field `price` at column 13"), (13, "expected ident at column 2")]);
    }
}
