//! The digest of a file's content up to where it was read.
//!
//! XXH3-128 of every whole 16 MiB of content, folded one after the other, and of what follows. So a digest can go on
//! from its text and the last, unfinished piece of content alone; the pieces before need not be read again. It guards
//! against mistakes (a file rotated, edited, replaced), not against somebody who forges collisions.

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// Content bytes in one piece.
const PIECE: u64 = 16 << 20;

/// The digest of some content, and how its last line ended.
#[derive(Clone)]
pub(super) struct ContentDigest {
    fold: u128,
    piece: Xxh3,
    in_piece: u64,
}

impl Default for ContentDigest {
    fn default() -> Self {
        ContentDigest { fold: 0, piece: Xxh3::new(), in_piece: 0 }
    }
}

impl ContentDigest {
    /// Takes the next bytes of content.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = usize::try_from(PIECE - self.in_piece).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.piece.update(now);
            self.in_piece += now.len() as u64;
            if self.in_piece == PIECE {
                self.fold = folded(self.fold, self.piece.digest128());
                self.piece.reset();
                self.in_piece = 0;
            }
            bytes = later;
        }
    }

    /// The text that is recorded.
    pub(super) fn record(&self, last_line: LastLine) -> RecordedDigest {
        RecordedDigest { fold: self.fold, piece: self.piece.digest128(), last_line }
    }

    /// The digest of content whose whole pieces fold to `fold`, before the first byte of its last piece.
    pub(super) fn from_fold(fold: u128) -> ContentDigest {
        ContentDigest { fold, ..ContentDigest::default() }
    }
}

fn folded(before: u128, piece: u128) -> u128 {
    let mut both = [0; 32];
    both[..16].copy_from_slice(&before.to_le_bytes());
    both[16..].copy_from_slice(&piece.to_le_bytes());
    xxh3_128(&both)
}

/// Where the last, unfinished piece of `length` bytes of content starts.
pub(super) fn last_piece(length: u64) -> u64 {
    length - length % PIECE
}

/// How the last line that was handed out ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastLine {
    /// With a newline, or there was none.
    Ended,
    /// With the content: a newline that follows belongs to it.
    Open,
}

/// A digest as it stands in a binding: 64 hexadecimal digits, and `+` behind an open last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordedDigest {
    pub(super) fold: u128,
    piece: u128,
    pub(super) last_line: LastLine,
}

impl RecordedDigest {
    pub(super) fn parse(text: &str) -> Option<RecordedDigest> {
        let (digits, last_line) = match text.strip_suffix('+') {
            Some(digits) => (digits, LastLine::Open),
            None => (text, LastLine::Ended),
        };
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let half = |half: &str| u128::from_str_radix(half, 16).ok();
        Some(RecordedDigest { fold: half(&digits[..32])?, piece: half(&digits[32..])?, last_line })
    }

    pub(super) fn text(self) -> String {
        let open = if self.last_line == LastLine::Open { "+" } else { "" };
        format!("{:032x}{:032x}{open}", self.fold, self.piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_goes_on_from_its_text_and_the_last_piece() {
        let content: Vec<u8> = (0..PIECE + PIECE / 2).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let piece = usize::try_from(PIECE).unwrap();
        for length in [0, 1, 1_000, piece - 1, piece, piece + 1, content.len()] {
            let mut whole = ContentDigest::default();
            content[..length].chunks(99_991).for_each(|part| whole.update(part));
            let recorded = RecordedDigest::parse(&whole.record(LastLine::Open).text()).unwrap();
            assert_eq!(recorded, whole.record(LastLine::Open));

            let mut resumed = ContentDigest::from_fold(recorded.fold);
            resumed.update(&content[usize::try_from(last_piece(length as u64)).unwrap()..length]);
            assert_eq!(resumed.record(LastLine::Open), recorded);
            whole.update(b"more");
            resumed.update(b"more");
            assert_eq!(resumed.record(LastLine::Ended), whole.record(LastLine::Ended));
        }
    }

    #[test]
    fn a_text_that_is_no_digest_is_refused() {
        for text in ["", "00", "+", &"g".repeat(64), &"0".repeat(65)] {
            assert_eq!(RecordedDigest::parse(text), None, "{text}");
        }
    }
}
