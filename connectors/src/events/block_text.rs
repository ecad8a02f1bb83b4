//! The text that the events of one block share, and the spans by which they refer to it.
//!
//! A block's bytes become one `String` and are not copied again. What does not stand in it as it should be read (texts
//! with escapes, made-up texts of log lines) goes to a second string, addressed behind the first.

use std::sync::OnceLock;

use super::fields::default_tenant_hash;
use super::scanner::hex4;

/// The longest block that spans can address, both strings together.
const MAX_BYTES: usize = u32::MAX as usize;

/// A piece of a block's text: offset and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// No text at all, which is not the empty text.
    pub(super) const NONE: Span = Span { start: 0, len: u32::MAX };

    #[inline(always)]
    pub(super) fn new(start: u32, len: u32) -> Span {
        Span { start, len }
    }

    #[inline(always)]
    pub(super) fn is_none(self) -> bool {
        self.len == u32::MAX
    }

    pub(super) fn start(self) -> u32 {
        self.start
    }

    /// Length in bytes.
    pub(super) fn len(self) -> u32 {
        self.len
    }
}

/// A block's text.
#[derive(Debug)]
pub(super) struct BlockText {
    raw: String,
    side: OnceLock<String>,
}

impl BlockText {
    /// # Panics
    /// If the block has 4 GiB or more; readers hand out far smaller ones.
    pub(super) fn new(raw: String) -> BlockText {
        assert!(raw.len() < MAX_BYTES, "a block is shorter than 4 GiB");
        BlockText { raw, side: OnceLock::new() }
    }

    #[inline(always)]
    pub(super) fn raw(&self) -> &str {
        &self.raw
    }

    /// Adds the second string, once all of the block was read.
    pub(super) fn finish(&self, side: SideText) {
        self.side.set(side.text).expect("a block's side text is set once, by its decoder");
    }

    #[inline]
    pub(super) fn text(&self, span: Span) -> &str {
        let start = span.start as usize;
        let end = start + span.len as usize;
        match self.raw.get(start..end) {
            Some(text) => text,
            None => {
                let side = self.side.get().expect("events are seen after their block was decoded");
                &side[start - self.raw.len()..end - self.raw.len()]
            }
        }
    }
}

/// The second string of a block while it is being decoded.
#[derive(Debug)]
pub(super) struct SideText {
    text: String,
    offset: usize,
    default_tenant_hash: u64,
}

impl SideText {
    /// For a block whose first string has `offset` bytes.
    pub(super) fn new(offset: usize) -> SideText {
        SideText { text: String::new(), offset, default_tenant_hash: default_tenant_hash() }
    }

    pub(super) fn default_tenant_hash(&self) -> u64 {
        self.default_tenant_hash
    }

    /// The text of a span in either string; empty for none.
    #[inline(always)]
    pub(super) fn text<'a>(&'a self, block: &'a BlockText, span: Span) -> &'a str {
        if span.is_none() {
            return "";
        }
        let (start, end) = (span.start as usize, (span.start + span.len) as usize);
        match block.raw.get(start..end) {
            Some(text) => text,
            None => &self.text[start - self.offset..end - self.offset],
        }
    }

    /// Appends what `write` writes, as one span.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut String)) -> Span {
        let start = self.offset + self.text.len();
        write(&mut self.text);
        let end = self.offset + self.text.len();
        let narrow = |n: usize| u32::try_from(n).ok().filter(|n| *n < u32::MAX);
        match (narrow(start), narrow(end)) {
            (Some(start), Some(end)) => Span::new(start, end - start),
            _ => unreachable!("a block and its unescaped texts are shorter than 4 GiB"),
        }
    }

    /// Appends the text that `raw`, the inside of a valid JSON string, stands for.
    pub(super) fn unescape(&mut self, raw: &str) -> Span {
        self.add(|out| {
            let mut rest = raw;
            while let Some(at) = rest.find('\\') {
                out.push_str(&rest[..at]);
                let escape = rest.as_bytes()[at + 1];
                rest = &rest[at + 2..];
                out.push(match escape {
                    b'b' => '\u{8}',
                    b'f' => '\u{c}',
                    b'n' => '\n',
                    b'r' => '\r',
                    b't' => '\t',
                    b'u' => unicode(&mut rest),
                    plain => char::from(plain),
                });
            }
            out.push_str(rest);
        })
    }
}

/// The character whose escape goes on in `rest` behind `\u`; a surrogate takes its partner along.
fn unicode(rest: &mut &str) -> char {
    const CHECKED: &str = "escapes were checked when the line was read";
    let first = hex4(rest.as_bytes(), 0).expect(CHECKED);
    *rest = &rest[4..];
    if !(0xd800..0xe000).contains(&first) {
        return char::from_u32(first).expect(CHECKED);
    }
    let second = hex4(rest.as_bytes(), 2).expect(CHECKED);
    *rest = &rest[6..];
    char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)).expect(CHECKED)
}
