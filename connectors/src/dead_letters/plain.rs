//! A text without its escapes, and where each of its bytes stood in the text.
//!
//! JSON's escapes, those of web servers (`\x2e`), percent-encoding and the NULs of UTF-16 hide an address from who looks at
//! the bytes, and not from who decodes them. Escapes of escapes are undone too.

/// How often escapes of escapes are undone.
const ROUNDS: usize = 4;

/// A text without escapes.
pub(super) struct Plain {
    bytes: Vec<u8>,
    /// Where the source of each byte begins, and the source's length.
    starts: Vec<usize>,
}

impl Plain {
    /// `None` where the text holds nothing that could be an escape.
    pub(super) fn of(text: &[u8]) -> Option<Plain> {
        if !text.iter().any(|byte| is_sign(*byte)) {
            return None;
        }
        let mut plain = Plain { bytes: text.to_vec(), starts: (0..=text.len()).collect() };
        for _ in 0..ROUNDS {
            let before = plain.bytes.len();
            plain = plain.undone();
            if plain.bytes.len() == before {
                break;
            }
        }
        Some(plain)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Where the bytes `from..to` stand in the source.
    pub(super) fn source(&self, from: usize, to: usize) -> (usize, usize) {
        (self.starts[from], self.starts[to])
    }

    /// One layer of escapes less. NULs count to the character behind them.
    fn undone(&self) -> Plain {
        let mut next = Plain { bytes: Vec::with_capacity(self.bytes.len()), starts: Vec::new() };
        let (mut at, mut start) = (0, 0);
        while at < self.bytes.len() {
            let (byte, length) = first(&self.bytes[at..]);
            at += length;
            if byte != 0 {
                next.bytes.push(byte);
                next.starts.push(self.starts[start]);
                start = at;
            }
        }
        next.starts.push(self.starts[start]);
        next
    }
}

fn is_sign(byte: u8) -> bool {
    matches!(byte, b'\\' | b'%' | 0)
}

/// The byte that a text begins with, escaped or not, and how many bytes it takes.
fn first(text: &[u8]) -> (u8, usize) {
    let hex = |at: usize, digits: usize| -> Option<u8> {
        let text = std::str::from_utf8(text.get(at..at + digits)?).ok()?;
        let number = u32::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+'))?;
        u8::try_from(number).ok().filter(u8::is_ascii)
    };
    let escaped = match text {
        [b'\\', b'u' | b'U', ..] => hex(2, 4).map(|byte| (byte, 6)),
        [b'\\', b'x' | b'X', ..] => hex(2, 2).map(|byte| (byte, 4)),
        [b'\\', b'n' | b'r' | b't' | b'b' | b'f', ..] => Some((b' ', 2)),
        [b'\\', byte @ (b'"' | b'\\' | b'/'), ..] => Some((*byte, 2)),
        [b'%', ..] => hex(1, 2).map(|byte| (byte, 3)),
        _ => None,
    };
    escaped.unwrap_or((text[0], 1))
}
