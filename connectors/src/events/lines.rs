//! From a block to its lines, and from a line that is no event to its dead letter.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use memchr::memchr;
use tidemill_dataflow::source::{Block, DeadLetter, Decoded};

use super::MAX_LINE_BYTES;
use super::block_text::{BlockText, SideText};
use crate::dead_letters::mask_addresses;

const NOT_UTF8: &str = "not UTF-8; convert the input (iconv -f ISO-8859-1 -t UTF-8)";

/// Hides the addresses in a dead letter's payload.
pub(super) type Mask = fn(&[u8]) -> Cow<'_, [u8]>;

/// A block whose lines are all UTF-8.
pub(super) struct TextBlock {
    pub(super) text: Arc<BlockText>,
    pub(super) offset: u64,
    partition: u32,
    first_line: u64,
    skipped: u64,
    mask: Mask,
}

impl TextBlock {
    /// Takes the block's bytes as text. Lines that are not become dead letters, and white space in the text.
    pub(super) fn new(block: Block, mask: Mask, malformed: &mut Vec<DeadLetter>) -> TextBlock {
        let Block { partition, offset, first_line, bytes, skipped } = block;
        let mut opened =
            TextBlock { text: Arc::new(BlockText::new(String::new())), offset, partition, first_line, skipped, mask };
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => opened.without_broken_lines(error.into_bytes(), malformed),
        };
        opened.text = Arc::new(BlockText::new(text));
        opened
    }

    #[cold]
    fn without_broken_lines(&self, mut bytes: Vec<u8>, malformed: &mut Vec<DeadLetter>) -> String {
        let (mut start, mut row) = (0, 0);
        while start < bytes.len() {
            let end = line_end(&bytes, start);
            let line = self.content(&bytes, start..end);
            if std::str::from_utf8(line).is_err() {
                let reason = self.over_long(line).unwrap_or_else(|| NOT_UTF8.into());
                malformed.push(self.letter(row, reason, line));
                bytes[start..end].fill(b' ');
            }
            start = end + 1;
            row += 1;
        }
        String::from_utf8(bytes).expect("every line that was not UTF-8 is now white space")
    }

    /// A line's bytes without its terminator.
    pub(super) fn content<'a>(&self, bytes: &'a [u8], line: Range<usize>) -> &'a [u8] {
        let content = &bytes[line];
        match content.strip_suffix(b"\r") {
            Some(shorter) if self.skipped == 0 => shorter,
            _ => content,
        }
    }

    /// Why a line is malformed by its length alone.
    pub(super) fn over_long(&self, content: &[u8]) -> Option<String> {
        (content.len() > MAX_LINE_BYTES).then(|| "line is longer than 1 MiB".into())
    }

    /// The dead letter of a line; `row` counts the block's lines from 0.
    pub(super) fn letter(&self, row: u64, reason: String, content: &[u8]) -> DeadLetter {
        let bytes = content.len() as u64 + self.skipped;
        let shown = if content.len() > MAX_LINE_BYTES { cut(&content[..MAX_LINE_BYTES]) } else { content };
        let payload = (self.mask)(shown).into_owned();
        DeadLetter { partition: self.partition, line: self.first_line + row, reason, payload, bytes }
    }
}

/// Decodes a block by `read`, which goes over its lines; dead letters come in the order of the lines.
pub(super) fn decode<D>(
    block: Block,
    mask: Mask,
    out: &mut Decoded<D>,
    read: impl FnOnce(&TextBlock, &mut SideText, &mut Decoded<D>),
) {
    let block = TextBlock::new(block, mask, &mut out.malformed);
    let broken = !out.malformed.is_empty();
    let mut side = SideText::new(block.text.raw().len());
    read(&block, &mut side, out);
    block.text.finish(side);
    if broken {
        out.malformed.sort_by_key(|letter| letter.line);
    }
}

/// A block of lines as blocks of one line each.
pub(super) fn apart(block: &Block) -> Vec<Block> {
    let Block { partition, skipped, .. } = *block;
    let (mut offset, mut first_line) = (block.offset, block.first_line);
    let one = |line: &[u8]| {
        // What is left out of an over-long line is left out of the only one.
        let piece = Block { partition, offset, first_line, bytes: line.to_vec(), skipped };
        offset += line.len() as u64;
        first_line += 1;
        piece
    };
    block.bytes.split_inclusive(|byte| *byte == b'\n').map(one).collect()
}

/// The dead letter of a block of one line.
pub(super) fn set_aside(block: &Block, reason: &str, mask: Mask) -> DeadLetter {
    let Block { partition, offset, first_line, skipped, .. } = *block;
    let text = Arc::new(BlockText::new(String::new()));
    let opened = TextBlock { text, offset, partition, first_line, skipped, mask };
    let line = block.bytes.strip_suffix(b"\n").unwrap_or(&block.bytes);
    opened.letter(0, masked(reason), opened.content(line, 0..line.len()))
}

/// What a panic said may quote the record.
pub(crate) fn masked(reason: &str) -> String {
    String::from_utf8_lossy(&mask_addresses(reason.as_bytes())).into_owned()
}

/// A line without its terminator.
pub(super) fn unterminated(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// The offset of the newline that ends the line from `start` on, or of the end of the block.
#[inline]
pub(super) fn line_end(bytes: &[u8], start: usize) -> usize {
    memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |found| start + found)
}

/// Whether a line is nothing: white space only.
pub(super) fn is_blank(content: &[u8]) -> bool {
    content.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c))
}

/// The longest address or host name, escapes included, that a cut payload may end within.
const HALF_ADDRESS: usize = 512;

/// Takes from the end of a cut payload what might be half a character or half an address.
fn cut(mut bytes: &[u8]) -> &[u8] {
    let half_address =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'-' | b'_' | b'%' | b'\\' | 0);
    let tail = bytes.iter().rev().take(HALF_ADDRESS).take_while(|byte| half_address(byte)).count();
    let (kept, word) = bytes.split_at(bytes.len() - tail);
    if word.iter().any(|byte| byte.is_ascii_digit() || *byte == b':') {
        bytes = kept;
    }
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    }
}
