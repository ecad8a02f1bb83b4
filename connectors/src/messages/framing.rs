//! How messages lie in a block: as NDJSON lines, with what lines cannot say in a trailer behind them.
//!
//! ```text
//! | line \n line \n .. | specials | gaps | u32 specials' length | u32 gaps' length | u32 count |
//! ```
//! A message costs one copy. A line break inside a message becomes `\r`, which JSON treats as white space between tokens
//! and refuses in strings, just like the line break; one at the end of a message is left out. The line of a message that
//! is no text line (no payload, only white space, Avro) is empty, and the *specials* hold it: for each its row, kind and
//! bytes. *Gaps* hold by how much an offset is ahead of the one before plus one, where it is (transaction markers, aborted
//! and compacted messages).
//!
//! Promise: any messages come out as they went in, at their offsets, but for the line breaks.

use memchr::memchr;
use tidemill_dataflow::hash::mix;
use xxhash_rust::xxh3::xxh3_64;

/// Length of the three numbers at a block's end.
const FOOTER: usize = 12;

/// A message as a block holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// One line of text.
    Line(&'a [u8]),
    /// Text with line breaks inside, stored as `\r`.
    Broken(&'a [u8]),
    /// No payload at all.
    Null,
    /// Nothing but white space.
    Blank(&'a [u8]),
    /// Confluent framing: a zero byte, a schema's id, Avro.
    Avro(&'a [u8]),
    /// The same, and its schema was not to be had.
    Unread(&'a [u8]),
}

impl<'a> Message<'a> {
    /// What a payload is.
    #[must_use]
    pub fn of(payload: Option<&'a [u8]>) -> Message<'a> {
        let Some(bytes) = payload else { return Message::Null };
        if bytes.first() == Some(&0) {
            return Message::Avro(bytes);
        }
        if bytes.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c)) {
            return Message::Blank(bytes);
        }
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if memchr(b'\n', line).is_some() { Message::Broken(line) } else { Message::Line(line) }
    }

    /// Bytes that it takes in a block, without what offsets take.
    #[must_use]
    pub fn cost(&self) -> usize {
        1 + self.bytes().len()
    }

    /// Its bytes as a block holds them.
    pub(super) fn bytes(&self) -> &'a [u8] {
        match self {
            Message::Line(bytes) | Message::Broken(bytes) | Message::Blank(bytes) => bytes,
            Message::Avro(bytes) | Message::Unread(bytes) => bytes,
            Message::Null => &[],
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Message::Line(_) => 0,
            Message::Broken(_) => 1,
            Message::Null => 2,
            Message::Blank(_) => 3,
            Message::Avro(_) => 4,
            Message::Unread(_) => 5,
        }
    }
}

/// A block under construction.
#[derive(Debug, Default)]
pub struct Frame {
    text: Vec<u8>,
    specials: Vec<u8>,
    gaps: Vec<u8>,
    count: u32,
    first: u64,
    next: u64,
    special_row: u32,
    gap_row: u32,
}

impl Frame {
    /// An empty one with room for about `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Frame {
        Frame { text: Vec::with_capacity(bytes), ..Frame::default() }
    }

    /// Whether it holds no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The offset of the first message.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// What its messages take, as [`Message::cost`] counts.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.text.len() + self.specials.len()
    }

    /// Adds a message; gives the digest chained over it, which does not depend on where blocks are cut.
    pub fn push(&mut self, offset: u64, message: Message<'_>, digest: u64) -> u64 {
        let row = self.count;
        if self.is_empty() {
            self.first = offset;
        } else if offset != self.next {
            put_number(&mut self.gaps, u64::from(row - self.gap_row));
            put_number(&mut self.gaps, offset - self.next);
            self.gap_row = row;
        }
        let start = self.text.len();
        let bytes = message.bytes();
        let hashed = match message {
            Message::Line(line) | Message::Broken(line) => {
                self.text.extend_from_slice(line);
                if matches!(message, Message::Broken(_)) {
                    self.text[start..].iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b'\r');
                }
                xxh3_64(&self.text[start..])
            }
            Message::Null | Message::Blank(_) | Message::Avro(_) | Message::Unread(_) => xxh3_64(bytes),
        };
        self.text.push(b'\n');
        if !matches!(message, Message::Line(_)) {
            put_number(&mut self.specials, u64::from(row - self.special_row));
            self.specials.push(message.kind());
            if matches!(message, Message::Blank(_) | Message::Avro(_) | Message::Unread(_)) {
                put_number(&mut self.specials, bytes.len() as u64);
                self.specials.extend_from_slice(bytes);
            }
            self.special_row = row;
        }
        self.count += 1;
        self.next = offset + 1;
        mix(mix(digest, offset << 3 | u64::from(message.kind())), hashed)
    }

    /// The block's bytes.
    #[must_use]
    pub fn close(self) -> Vec<u8> {
        let Frame { mut text, specials, gaps, count, .. } = self;
        text.reserve_exact(specials.len() + gaps.len() + FOOTER);
        text.extend_from_slice(&specials);
        text.extend_from_slice(&gaps);
        for number in [narrow(specials.len()), narrow(gaps.len()), count] {
            text.extend_from_slice(&number.to_le_bytes());
        }
        text
    }
}

fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("a block is shorter than 4 GiB")
}

/// A block that was cut apart again.
#[derive(Debug)]
pub struct Opened {
    /// The lines, each ended by `\n`.
    pub text: Vec<u8>,
    /// What the lines cannot say.
    pub trailer: Trailer,
}

/// What a block says of its messages beside their text.
#[derive(Debug)]
pub struct Trailer {
    first: u64,
    count: u32,
    specials: Vec<u8>,
    gaps: Vec<u8>,
}

const WHOLE: &str = "a block comes from a cutter, whole";

/// Cuts a block's bytes apart; `first` is its offset.
///
/// # Panics
/// If the bytes are not those of a [`Frame`].
#[must_use]
pub fn open(mut bytes: Vec<u8>, first: u64) -> Opened {
    let (rest, footer) = bytes.split_last_chunk::<FOOTER>().expect(WHOLE);
    let number = |at: usize| u32::from_le_bytes([footer[at], footer[at + 1], footer[at + 2], footer[at + 3]]);
    let (specials, gaps, count) = (number(0) as usize, number(4) as usize, number(8));
    let (rest, gaps) = rest.split_at_checked(rest.len().wrapping_sub(gaps)).expect(WHOLE);
    let (text, specials) = rest.split_at_checked(rest.len().wrapping_sub(specials)).expect(WHOLE);
    let trailer = Trailer { first, count, specials: specials.to_vec(), gaps: gaps.to_vec() };
    let length = text.len();
    bytes.truncate(length);
    Opened { text: bytes, trailer }
}

impl Trailer {
    /// Whether all messages are plain lines.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.specials.is_empty()
    }

    /// The messages that are no plain lines, by row; text is not repeated here.
    #[must_use]
    pub fn specials(&self) -> Vec<(u32, Special<'_>)> {
        let (mut rest, mut row) = (self.specials.as_slice(), 0);
        let mut specials = Vec::new();
        while !rest.is_empty() {
            row += narrow(take_number(&mut rest));
            let kind = *rest.split_off_first().expect(WHOLE);
            let mut bytes = || {
                let length = take_number(&mut rest);
                rest.split_off(..length).expect(WHOLE)
            };
            let special = match kind {
                1 => Special::Broken,
                2 => Special::Null,
                3 => Special::Blank(bytes()),
                4 => Special::Avro(bytes()),
                _ => Special::Unread(bytes()),
            };
            specials.push((row, special));
        }
        specials
    }

    /// Finds offsets by row.
    #[must_use]
    pub fn offsets(&self) -> Offsets {
        let (mut rest, mut row, mut ahead) = (self.gaps.as_slice(), 0, 0);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            row += narrow(take_number(&mut rest));
            ahead += take_number(&mut rest) as u64;
            steps.push((row, ahead));
        }
        Offsets { first: self.first, steps }
    }
}

/// A message that is no plain line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special<'a> {
    /// Its line had line breaks, which are `\r` now.
    Broken,
    /// There is no payload.
    Null,
    /// Nothing but white space.
    Blank(&'a [u8]),
    /// Confluent framing: a zero byte, a schema's id, Avro.
    Avro(&'a [u8]),
    /// The same, and its schema was not to be had.
    Unread(&'a [u8]),
}

/// The offsets of a block's messages.
#[derive(Debug)]
pub struct Offsets {
    first: u64,
    /// From this row on, so much is left out.
    steps: Vec<(u32, u64)>,
}

impl Offsets {
    /// The offset of the message in a row, counted from 0.
    #[must_use]
    pub fn of(&self, row: u32) -> u64 {
        let before = self.steps.partition_point(|(from, _)| *from <= row);
        let ahead = before.checked_sub(1).map_or(0, |last| self.steps[last].1);
        self.first + u64::from(row) + ahead
    }
}

impl Opened {
    /// Shows every message with its offset, in order.
    pub fn for_each(&self, mut see: impl FnMut(u64, Message<'_>)) {
        let offsets = self.trailer.offsets();
        let mut specials = self.trailer.specials().into_iter().peekable();
        let mut rest = self.text.as_slice();
        for row in 0..self.trailer.count {
            let end = memchr(b'\n', rest).expect(WHOLE);
            let line = &rest[..end];
            rest = &rest[end + 1..];
            let message = match specials.next_if(|(at, _)| *at == row) {
                None => Message::Line(line),
                Some((_, Special::Broken)) => Message::Broken(line),
                Some((_, Special::Null)) => Message::Null,
                Some((_, Special::Blank(bytes))) => Message::Blank(bytes),
                Some((_, Special::Avro(bytes))) => Message::Avro(bytes),
                Some((_, Special::Unread(bytes))) => Message::Unread(bytes),
            };
            see(offsets.of(row), message);
        }
    }
}

/// Appends a number, seven bits a byte, lowest first.
fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while let Some(low) = u8::try_from(number & 0x7f).ok().filter(|_| number > 0x7f) {
        out.push(low | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("seven bits are left"));
}

fn take_number(rest: &mut &[u8]) -> usize {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first().expect(WHOLE);
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    usize::try_from(number).expect("a length or a gap of a block fits an address")
}

#[cfg(test)]
mod tests;
