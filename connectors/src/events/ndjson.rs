//! Decodes NDJSON: one event a line.

use tidemill_dataflow::source::{Block, DeadLetter, Decode, Decoded};

use crate::dead_letters::mask_addresses;

use super::block_text::{SideText, Span};
use super::event::Event;
use super::fields::{Fields, Judge};
use super::lines::{TextBlock, apart, is_blank, line_end, set_aside};
use super::{MAX_LINE_BYTES, scanner, strict};

/// A guess at an event's length, by which room for a block's events is made.
const USUAL_BYTES: usize = 384;

/// Decodes blocks of JSON lines. What is no event becomes a dead letter (INV-6); white space is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NdjsonDecoder;

impl Decode for NdjsonDecoder {
    type Record = Event;

    fn decode(&mut self, block: Block, out: &mut Decoded<Event>) {
        let block = TextBlock::new(block, mask_addresses, &mut out.malformed);
        let broken = !out.malformed.is_empty();
        let mut side = SideText::new(block.text.raw().len());
        decode_lines(&block, &mut side, out);
        block.text.finish(side);
        if broken {
            out.malformed.sort_by_key(|letter| letter.line);
        }
    }

    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        Ok(apart(&block))
    }

    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        set_aside(block, &reason, mask_addresses)
    }
}

fn decode_lines(block: &TextBlock, side: &mut SideText, out: &mut Decoded<Event>) {
    let bytes = block.text.raw().as_bytes();
    let mut judge = Judge { text: &block.text, side };
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
    *fields = Fields::default();
    strict::read(&raw[start..start + content.len()], start, fields)?;
    Ok(OddLine::Object)
}

/// The line as a span.
#[expect(clippy::cast_possible_truncation, reason = "a block is shorter than 4 GiB, which BlockText checks")]
fn line_span(start: usize, end: usize) -> Span {
    Span::new(start as u32, (end - start) as u32)
}
