//! How text is encoded: UTF-8 is read as it is, UTF-16 is decoded, byte order marks are dropped.

use std::io::{self, Read};

use encoding_rs::{Decoder, UTF_16BE, UTF_16LE};
use memchr::memchr;

/// How the lines of a file are encoded, told from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Bytes as they are.
    Utf8,
    /// The same, behind a byte order mark; marks at the start of other lines (of files that were joined) go too.
    Utf8Marked,
    Utf16Le,
    Utf16Be,
}

const MARK: &[u8] = "\u{feff}".as_bytes();
/// Pairs of bytes from which UTF-16 is told where no mark says it.
const FEW: usize = 2;
/// Bytes decoded at once.
const STEP: usize = 64 << 10;

impl Encoding {
    /// Its name behind the packing's in checkpoints; none for bytes as they are.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Encoding::Utf8 => None,
            Encoding::Utf8Marked => Some("utf-8-bom"),
            Encoding::Utf16Le => Some("utf-16le"),
            Encoding::Utf16Be => Some("utf-16be"),
        }
    }

    pub(super) fn named(name: &str) -> Option<Encoding> {
        [Encoding::Utf8Marked, Encoding::Utf16Le, Encoding::Utf16Be]
            .into_iter()
            .find(|encoding| encoding.name() == Some(name))
    }

    /// The encoding of content that starts with `head`.
    pub(super) fn of(head: &[u8]) -> Encoding {
        match head {
            _ if head.starts_with(MARK) => Encoding::Utf8Marked,
            [0xff, 0xfe, ..] => Encoding::Utf16Le,
            [0xfe, 0xff, ..] => Encoding::Utf16Be,
            _ => Encoding::unmarked(head),
        }
    }

    /// ASCII in UTF-16 has a NUL in every second byte, and nearly none in the others.
    fn unmarked(head: &[u8]) -> Encoding {
        let pairs = head.len() / 2;
        let nuls = |odd: usize| head.chunks_exact(2).filter(|pair| pair[odd] == 0).count();
        let (first, second) = (nuls(0), nuls(1));
        let most = |count: usize| pairs >= FEW && count * 10 >= pairs * 7;
        let few = |count: usize| count * 20 <= pairs;
        if most(second) && few(first) {
            Encoding::Utf16Le
        } else if most(first) && few(second) {
            Encoding::Utf16Be
        } else {
            Encoding::Utf8
        }
    }

    /// Whether the content is UTF-32, of which nothing is made.
    pub(super) fn is_utf32(head: &[u8]) -> bool {
        let marked = head.starts_with(&[0xff, 0xfe, 0, 0]) || head.starts_with(&[0, 0, 0xfe, 0xff]);
        let ascii = |at: usize| {
            let of_ascii = |four: &[u8]| four[at] != 0 && four.iter().filter(|byte| **byte == 0).count() == 3;
            head.len() >= 8 && head.chunks_exact(4).all(of_ascii)
        };
        marked || ascii(0) || ascii(3)
    }

    /// The text in `bytes`, as UTF-8. `grows`: what stops within a character is no content yet, since the rest may come.
    pub(super) fn text(self, bytes: Box<dyn Read + Send>, grows: bool) -> Box<dyn Read + Send> {
        let decoder = match self {
            Encoding::Utf8 => return bytes,
            Encoding::Utf8Marked => None,
            Encoding::Utf16Le => Some(UTF_16LE.new_decoder_without_bom_handling()),
            Encoding::Utf16Be => Some(UTF_16BE.new_decoder_without_bom_handling()),
        };
        Box::new(Text { bytes, decoder, grows, ended: false, marks: Marks::default(), ready: Vec::new(), given: 0 })
    }
}

/// Decoded text without marks.
struct Text {
    bytes: Box<dyn Read + Send>,
    /// `None` where the bytes are UTF-8.
    decoder: Option<Decoder>,
    grows: bool,
    ended: bool,
    marks: Marks,
    ready: Vec<u8>,
    given: usize,
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.ready.len() && !self.ended {
            self.ready.clear();
            self.given = 0;
            let mut bytes = vec![0; STEP];
            let read = self.bytes.read(&mut bytes)?;
            self.ended = read == 0;
            self.decode(&bytes[..read]);
        }
        let ready = &self.ready[self.given..];
        let count = ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ready[..count]);
        self.given += count;
        Ok(count)
    }
}

impl Text {
    fn decode(&mut self, bytes: &[u8]) {
        let last = self.ended && !self.grows;
        let Some(decoder) = &mut self.decoder else {
            return self.marks.drop_from(bytes, last, &mut self.ready);
        };
        let mut text =
            String::with_capacity(decoder.max_utf8_buffer_length(bytes.len()).unwrap_or(4 * bytes.len() + 16));
        // What is no character becomes U+FFFD.
        let _ = decoder.decode_to_string(bytes, &mut text, last);
        self.marks.drop_from(text.as_bytes(), last, &mut self.ready);
    }
}

/// Drops marks at the start of lines, however the bytes come.
struct Marks {
    at_start: bool,
    /// Bytes at the start of a line that may be the beginning of a mark.
    begun: Vec<u8>,
}

impl Default for Marks {
    fn default() -> Self {
        Marks { at_start: true, begun: Vec::new() }
    }
}

impl Marks {
    fn drop_from(&mut self, bytes: &[u8], last: bool, out: &mut Vec<u8>) {
        let mut joined = std::mem::take(&mut self.begun);
        joined.extend_from_slice(bytes);
        let mut rest = joined.as_slice();
        while !rest.is_empty() {
            if self.at_start
                && let Some(behind) = rest.strip_prefix(MARK)
            {
                rest = behind;
                continue;
            }
            if self.at_start && !last && MARK.starts_with(rest) {
                self.begun = rest.to_vec();
                return;
            }
            let length = memchr(b'\n', rest).map_or(rest.len(), |found| found + 1);
            self.at_start = rest[..length].ends_with(b"\n");
            out.extend_from_slice(&rest[..length]);
            rest = &rest[length..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, as a slow file does.
    struct Slow(Vec<u8>, usize);

    impl Read for Slow {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(byte) = self.0.get(self.1) else { return Ok(0) };
            buffer[0] = *byte;
            self.1 += 1;
            Ok(1)
        }
    }

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    #[track_caller]
    fn check(bytes: &[u8], encoding: Encoding, grows: bool, text: &str) {
        assert_eq!(Encoding::of(bytes), encoding);
        for source in [
            Box::new(io::Cursor::new(bytes.to_vec())) as Box<dyn Read + Send>,
            Box::new(Slow(bytes.to_vec(), 0)) as Box<dyn Read + Send>,
        ] {
            let mut out = Vec::new();
            encoding.text(source, grows).read_to_end(&mut out).unwrap();
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }

    const LINES: &str = "{\"a\":\"ü\"}\n{\"b\":\"\u{1f600}\"}\r\n";

    #[test]
    fn utf_16_becomes_utf_8_with_a_mark_and_without_one() {
        for marked in [format!("\u{feff}{LINES}"), LINES.to_owned()] {
            check(&utf16(&marked, u16::to_le_bytes), Encoding::Utf16Le, false, LINES);
            check(&utf16(&marked, u16::to_be_bytes), Encoding::Utf16Be, false, LINES);
        }
    }

    #[test]
    fn marks_are_dropped_at_the_start_of_lines_only() {
        let joined = "\u{feff}one\n\u{feff}two\nthr\u{feff}ee\n\u{feff}\u{feff}four";
        let text = "one\ntwo\nthr\u{feff}ee\nfour";
        check(joined.as_bytes(), Encoding::Utf8Marked, false, text);
        check(&utf16(joined, u16::to_le_bytes), Encoding::Utf16Le, false, text);
        check(b"\xef\xbb\xbfbad \xff\n", Encoding::Utf8Marked, false, "bad \u{fffd}\n");
    }

    #[test]
    fn half_a_character_is_no_content_while_a_file_grows() {
        let whole = utf16("\u{feff}a\u{1f600}", u16::to_le_bytes);
        for cut in 5..whole.len() {
            check(&whole[..cut], Encoding::Utf16Le, true, "a");
        }
        check(&whole[..5], Encoding::Utf16Le, false, "a\u{fffd}");
        check(b"\xef\xbb\xbfa\n\xef\xbb", Encoding::Utf8Marked, true, "a\n");
    }

    #[test]
    fn bytes_that_are_no_utf_16_are_taken_as_they_are() {
        let hole = [vec![0; 4_000], b"\n192.0.2.1 - - line\n".to_vec()].concat();
        for bytes in [&b""[..], b"a\0", b"plain text", b"a\0b\0c d e f g h", &hole, "ü\n".as_bytes()] {
            assert_eq!(Encoding::of(bytes), Encoding::Utf8, "{bytes:?}");
            assert!(!Encoding::is_utf32(bytes));
        }
    }

    #[test]
    fn utf_32_is_told_from_utf_16() {
        let text = "\u{feff}{\"a\":1}\n";
        for marked in [text, &text[3..]] {
            let le: Vec<u8> = marked.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
            let be: Vec<u8> = marked.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect();
            assert!(Encoding::is_utf32(&le) && Encoding::is_utf32(&be), "{marked:?}");
            assert!(!Encoding::is_utf32(&utf16(marked, u16::to_le_bytes)));
        }
    }
}
