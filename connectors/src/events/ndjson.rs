//! Decodes NDJSON: one event a line.

use std::borrow::Cow;
use std::sync::Arc;

use tidemill_dataflow::source::{Block, DeadLetter, Decode, Decoded};

use crate::dead_letters::{mask_addresses, mask_log_line};

use super::block_text::{BlockText, SideText, Span};
use super::bounds::Bounds;
use super::event::Event;
use super::fields::{Fields, Judge};
use super::lines::{TextBlock, apart, decode, is_blank, line_end, set_aside};
use super::{MAX_LINE_BYTES, scanner, strict};

/// A guess at an event's length, by which room for a block's events is made.
const USUAL_BYTES: usize = 384;

/// Decodes blocks of JSON lines. What is no event becomes a dead letter (INV-6); white space is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NdjsonDecoder {
    bounds: Bounds,
}

impl NdjsonDecoder {
    /// A decoder that takes what these bounds hold.
    #[must_use]
    pub fn within(bounds: Bounds) -> NdjsonDecoder {
        NdjsonDecoder { bounds }
    }
}

impl Decode for NdjsonDecoder {
    type Record = Event;

    fn decode(&mut self, block: Block, out: &mut Decoded<Event>) {
        decode(block, mask, out, |block, side, out| decode_lines(block, self.bounds, side, out));
    }

    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        Ok(apart(&block))
    }

    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        set_aside(block, &reason, mask)
    }
}

/// Masks addresses, and host names where a log's lines have them: what is no object may be such a line.
fn mask(line: &[u8]) -> Cow<'_, [u8]> {
    if line.trim_ascii_start().starts_with(b"{") { mask_addresses(line) } else { mask_log_line(line) }
}

fn decode_lines(block: &TextBlock, bounds: Bounds, side: &mut SideText, out: &mut Decoded<Event>) {
    let bytes = block.text.raw().as_bytes();
    let mut judge = Judge { text: &block.text, side, bounds };
    out.records.reserve(bytes.len() / USUAL_BYTES + 1);
    let (mut start, mut row) = (0, 0);
    while start < bytes.len() {
        let mut fields = Fields::default();
        let scanned = scanner::scan(bytes, start, &mut fields).filter(|end| end - start <= MAX_LINE_BYTES);
        let end = scanned.unwrap_or_else(|| line_end(bytes, start));
        let found = match scanned {
            Some(_) => judge.event(&fields, line_span(start, end)),
            None => match odd_line(block, start, end, &mut fields) {
                Ok(OddLine::Object) => judge.event(&fields, line_span(start, end)),
                Ok(OddLine::Mended(line)) => mended_event(line, bounds),
                Ok(OddLine::Blank) => {
                    start = end + 1;
                    row += 1;
                    continue;
                }
                Err(reason) => Err(reason),
            },
        };
        match found {
            Ok(event) => out.records.push(event),
            Err(reason) => out.malformed.push(block.letter(row, reason, block.content(bytes, start..end))),
        }
        start = end + 1;
        row += 1;
    }
}

/// A line that the scanner left over and that is not malformed.
enum OddLine {
    Object,
    /// It reads like this.
    Mended(String),
    Blank,
}

/// Reads a line that the scanner left over.
#[cold]
fn odd_line(block: &TextBlock, start: usize, end: usize, fields: &mut Fields) -> Result<OddLine, String> {
    let raw = block.text.raw();
    let content = block.content(raw.as_bytes(), start..end);
    if let Some(reason) = block.over_long(content) {
        return Err(reason);
    }
    if is_blank(content) {
        return Ok(OddLine::Blank);
    }
    let line = &raw[start..start + content.len()];
    if let Cow::Owned(mended) = strict::whole(line) {
        return Ok(OddLine::Mended(mended));
    }
    *fields = Fields::default();
    strict::read(line, start, fields).map_err(|reason| match piece(line) {
        Some(known) => known.into(),
        None => reason,
    })?;
    Ok(OddLine::Object)
}

/// The event of a line that reads otherwise than it stands in its block: the only one of a text of its own.
#[cold]
fn mended_event(line: String, bounds: Bounds) -> Result<Event, String> {
    let mut fields = Fields::default();
    strict::read(&line, 0, &mut fields)?;
    let text = Arc::new(BlockText::new(line));
    let mut side = SideText::new(text.raw().len());
    let event = Judge { text: &text, side: &mut side, bounds }.event(&fields, line_span(0, text.raw().len()))?;
    text.finish(side);
    Ok(event)
}

/// What a line is a piece of, where JSON is not written one event a line, and how it gets to be.
fn piece(line: &str) -> Option<&'static str> {
    let line = line.trim_ascii();
    let next = line.strip_prefix('[').map(str::trim_ascii_start);
    if next.is_some_and(|next| next.is_empty() || next.starts_with(['{', ']'])) {
        return Some("a JSON array; write one event a line: jq -c '.[]'");
    }
    if line.starts_with('{') && line.ends_with("},") {
        return Some("a comma behind the object, as in a JSON array; write one event a line: jq -c '.[]'");
    }
    let brackets = line.bytes().all(|byte| matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b' ' | b'\t'));
    let member = line.starts_with('"') && (line.contains("\":") || line.contains("\" :"));
    (brackets || member).then_some("a piece of an object over several lines; write one event a line: jq -c .")
}

/// The line as a span.
#[expect(clippy::cast_possible_truncation, reason = "a block is shorter than 4 GiB, which BlockText checks")]
fn line_span(start: usize, end: usize) -> Span {
    Span::new(start as u32, (end - start) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letters_of_log_lines_show_no_host_names() {
        let line = "alice-laptop.corp.example.org - - [10/Mar/2026:10:00:00 +0000] \"GET / HTTP/1.1\" 200 1";
        let block = |bytes: Vec<u8>| Block { partition: 0, offset: 0, first_line: 1, bytes, skipped: 0 };
        let mut out = Decoded::default();
        let not_utf8 = [line.as_bytes(), b"\xff\n", line.as_bytes()].concat();
        NdjsonDecoder::default().decode(block(not_utf8), &mut out);
        let set_aside = NdjsonDecoder::default().letter(&block(line.into()), "it panicked".into());
        out.malformed.push(set_aside);
        assert_eq!(out.malformed.len(), 3);
        for letter in out.malformed {
            let shown = String::from_utf8_lossy(&letter.payload).into_owned();
            assert!(!shown.contains("alice") && shown.contains("example.org - - [10/Mar"), "{shown}");
        }
    }
}
