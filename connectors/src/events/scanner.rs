//! The fast way to read an event: one pass over the bytes of a block, borrowing, without an allocation.
//!
//! The scanner accepts a subset of valid JSON objects and gives up on anything unusual (an escape in a key, a key given
//! twice, containers nested deeper than 64, more than eight unknown keys); the [`strict`](super::strict) reader then
//! decides. What it accepts, the strict reader accepts with the same [`Fields`]: a property test holds the two together.
//! It reads the block directly, not a line cut out before: a newline is no part of any token, so no token crosses one.

use tidemill_dataflow::hash::{hash64, mix};

use super::fields::{Fields, Slot, What, slot};
use super::strict;

/// How many unknown keys the scanner compares with each other before it leaves the line to the strict reader.
const UNKNOWN_KEYS: usize = 8;

/// Reads the event that starts at `from`; gives the offset of its line's end (the newline, or the end of the block).
///
/// `fields` must be empty. `None`: the strict reader decides, `fields` is rubbish.
pub(super) fn scan(bytes: &[u8], from: usize, fields: &mut Fields) -> Option<usize> {
    let at = skip_space(bytes, from);
    if *bytes.get(at)? != b'{' {
        return None;
    }
    let mut unknown = [0_u64; UNKNOWN_KEYS];
    let mut unknown_count = 0;
    let at = members(bytes, at + 1, |key, at| {
        let place = match key {
            b"event_id" => &mut fields.event_id,
            b"event_type" => &mut fields.event_type,
            b"user_id" => &mut fields.user_id,
            b"session_id" => &mut fields.session_id,
            b"timestamp" => &mut fields.timestamp,
            b"client_time" => &mut fields.client_time,
            b"server_time" => &mut fields.server_time,
            b"ip" => &mut fields.ip,
            b"tenant" => &mut fields.tenant,
            b"properties" => return properties(bytes, at, fields),
            b"context" => return context(bytes, at, fields),
            b"geo" => return geo(bytes, at, fields),
            _ => {
                let value = value(bytes, at)?;
                let name = hash64(key);
                if unknown_count == UNKNOWN_KEYS || unknown[..unknown_count].contains(&name) {
                    return None;
                }
                unknown[unknown_count] = name;
                unknown_count += 1;
                fields.add_unknown(name, &bytes[value.range()]);
                return Some(value.end as usize);
            }
        };
        put(place, value(bytes, at)?)
    })?;
    let at = skip_space(bytes, at);
    matches!(bytes.get(at), None | Some(b'\n')).then_some(at)
}

/// Whether the scanner takes the first line of a text, for tests that send anything.
///
/// # Errors
/// What the strict reader says otherwise of a line that the scanner takes.
pub fn readers_agree(text: &str) -> Result<bool, String> {
    let line = text.split('\n').next().unwrap_or_default();
    let (mut fast, mut slow) = (Fields::default(), Fields::default());
    let Some(end) = scan(text.as_bytes(), 0, &mut fast) else { return Ok(false) };
    strict::read(line, 0, &mut slow).map_err(|reason| format!("the scanner alone takes it: {reason}"))?;
    match (end == line.len(), fast == slow) {
        (true, true) => Ok(true),
        (false, _) => Err(format!("the scanner ends it at {end}, and it has {} bytes", line.len())),
        (_, false) => Err(format!("the scanner reads {fast:?}, the strict reader {slow:?}")),
    }
}

fn properties(bytes: &[u8], at: usize, fields: &mut Fields) -> Option<usize> {
    if *bytes.get(at)? != b'{' {
        return put(&mut fields.properties, value(bytes, at)?);
    }
    let end = members(bytes, at + 1, |key, inner| {
        let found = value(bytes, inner)?;
        match key {
            b"page" => put(&mut fields.page, found),
            b"amount_cents" => put(&mut fields.amount_cents, found),
            b"currency" => put(&mut fields.currency, found),
            _ => Some(found.end as usize),
        }
    })?;
    put(&mut fields.properties, slot(at, end, What::Object))
}

fn context(bytes: &[u8], at: usize, fields: &mut Fields) -> Option<usize> {
    if *bytes.get(at)? != b'{' {
        return put(&mut fields.context, value(bytes, at)?);
    }
    let end = members(bytes, at + 1, |key, inner| {
        let place = match key {
            b"app_version" => &mut fields.app_version,
            b"os" => &mut fields.os,
            b"screen_resolution" => &mut fields.screen_resolution,
            b"locale" => &mut fields.locale,
            _ => {
                fields.unknown_inside = true;
                return Some(value(bytes, inner)?.end as usize);
            }
        };
        put(place, value(bytes, inner)?)
    })?;
    put(&mut fields.context, slot(at, end, What::Object))
}

fn geo(bytes: &[u8], at: usize, fields: &mut Fields) -> Option<usize> {
    if *bytes.get(at)? != b'{' {
        return put(&mut fields.geo, value(bytes, at)?);
    }
    let end = members(bytes, at + 1, |key, inner| {
        let place = match key {
            b"country" => &mut fields.country,
            b"city" => &mut fields.city,
            _ => {
                fields.unknown_inside = true;
                return Some(value(bytes, inner)?.end as usize);
            }
        };
        put(place, value(bytes, inner)?)
    })?;
    put(&mut fields.geo, slot(at, end, What::Object))
}

/// Fills an empty place; a second value for one key is left to the strict reader, where the last one wins.
#[inline(always)]
fn put(place: &mut Slot, found: Slot) -> Option<usize> {
    if place.what != What::Absent {
        return None;
    }
    *place = found;
    Some(found.end as usize)
}

/// Walks an object from behind its `{` to behind its `}`; `member` gets a key and the offset of its value, and gives
/// the offset behind the value.
#[inline(always)]
fn members(bytes: &[u8], at: usize, mut member: impl FnMut(&[u8], usize) -> Option<usize>) -> Option<usize> {
    let mut at = skip_space(bytes, at);
    if *bytes.get(at)? == b'}' {
        return Some(at + 1);
    }
    loop {
        let key_start = at + 1;
        if *bytes.get(at)? != b'"' {
            return None;
        }
        let key_end = plain_end(bytes, key_start)?;
        if bytes[key_end] != b'"' {
            return None;
        }
        at = skip_space(bytes, key_end + 1);
        if *bytes.get(at)? != b':' {
            return None;
        }
        at = skip_space(bytes, at + 1);
        at = member(&bytes[key_start..key_end], at)?;
        at = skip_space(bytes, at);
        match *bytes.get(at)? {
            b',' => at = skip_space(bytes, at + 1),
            b'}' => return Some(at + 1),
            _ => return None,
        }
    }
}

#[inline(always)]
fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\r') = bytes.get(at) {
        at += 1;
    }
    at
}

#[inline(always)]
fn value(bytes: &[u8], at: usize) -> Option<Slot> {
    match *bytes.get(at)? {
        b'"' => {
            let end = plain_end(bytes, at + 1)?;
            if bytes[end] == b'"' {
                return Some(slot(at, end + 1, What::Text));
            }
            Some(slot(at, escaped_end(bytes, end)?, What::Escaped))
        }
        b'{' => Some(slot(at, container_end(bytes, at)?, What::Object)),
        b'[' => Some(slot(at, container_end(bytes, at)?, What::Array)),
        b't' => literal(bytes, at, b"true", What::Bool),
        b'f' => literal(bytes, at, b"false", What::Bool),
        b'n' => literal(bytes, at, b"null", What::Null),
        _ => number(bytes, at),
    }
}

fn literal(bytes: &[u8], at: usize, word: &[u8], what: What) -> Option<Slot> {
    bytes[at..].starts_with(word).then(|| slot(at, at + word.len(), what))
}

fn number(bytes: &[u8], start: usize) -> Option<Slot> {
    let mut at = start + usize::from(bytes[start] == b'-');
    match *bytes.get(at)? {
        b'0' => at += 1,
        b'1'..=b'9' => at = digits(bytes, at),
        _ => return None,
    }
    let mut what = What::Integer;
    if bytes.get(at) == Some(&b'.') {
        what = What::Fraction;
        at = some_digits(bytes, at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        what = What::Fraction;
        at += 1;
        if let Some(b'+' | b'-') = bytes.get(at) {
            at += 1;
        }
        at = some_digits(bytes, at)?;
    }
    Some(slot(start, at, what))
}

#[inline(always)]
fn digits(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b'0'..=b'9') = bytes.get(at) {
        at += 1;
    }
    at
}

fn some_digits(bytes: &[u8], from: usize) -> Option<usize> {
    let at = digits(bytes, from);
    (at > from).then_some(at)
}

/// The offset of the first quote or backslash at or after `at`; `None` if a control character comes first.
#[inline(always)]
fn plain_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) else {
            return plain_end_bytewise(bytes, at);
        };
        let hits = specials(u64::from_le_bytes(*chunk));
        if hits != 0 {
            at += hits.trailing_zeros() as usize / 8;
            return (bytes[at] >= 0x20).then_some(at);
        }
        at += 8;
    }
}

#[cold]
fn plain_end_bytewise(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            b'"' | b'\\' => return Some(at),
            0..0x20 => return None,
            _ => at += 1,
        }
    }
}

/// Marks, in each byte's high bit, the quotes, backslashes and control characters of a word; exact up to the first hit
/// (a borrow can only raise marks behind it).
#[inline(always)]
fn specials(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // With bit 1 flipped a quote becomes 0x20, so that one comparison finds it and everything below 0x20.
    let low = word ^ (0x02 * ONES);
    let low = low.wrapping_sub(0x21 * ONES) & !low;
    let slash = word ^ (0x5c * ONES);
    let slash = slash.wrapping_sub(ONES) & !slash;
    (low | slash) & HIGH
}

/// The offset behind the closing quote of a string whose first backslash is at `at`. Surrogates must come in pairs.
fn escaped_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at = match *bytes.get(at + 1)? {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at + 2,
            b'u' => match hex4(bytes, at + 2)? {
                0xd800..0xdc00 => {
                    let second =
                        bytes.get(at + 6..at + 8)? == b"\\u" && (0xdc00..0xe000).contains(&hex4(bytes, at + 8)?);
                    if !second {
                        return None;
                    }
                    at + 12
                }
                0xdc00..0xe000 => return None,
                _ => at + 6,
            },
            _ => return None,
        };
        at = plain_end(bytes, at)?;
    }
}

/// Four hexadecimal digits as a number.
pub(super) fn hex4(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.iter().try_fold(0, |n, b| Some(n * 16 + char::from(*b).to_digit(16)?))
}

/// The offset behind a container that opens at `at`; `None` when it nests deeper than 64.
fn container_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    // One bit a level, the innermost lowest: 1 for an object, 0 for an array.
    let mut kinds = 0_u64;
    let mut depth = 0_u32;
    loop {
        // Here `at` is at the start of a value.
        let opened = match *bytes.get(at)? {
            open @ (b'{' | b'[') => {
                if depth == 64 {
                    return None;
                }
                depth += 1;
                kinds = kinds << 1 | u64::from(open == b'{');
                at = skip_space(bytes, at + 1);
                true
            }
            b'"' => {
                let end = plain_end(bytes, at + 1)?;
                at = if bytes[end] == b'"' { end + 1 } else { escaped_end(bytes, end)? };
                false
            }
            _ => {
                at = scalar_end(bytes, at)?;
                false
            }
        };
        // Close what ends here, then step to the next value.
        let mut first = opened;
        loop {
            if !first {
                at = skip_space(bytes, at);
            }
            let object = kinds & 1 == 1;
            let next = *bytes.get(at)?;
            if next == if object { b'}' } else { b']' } {
                at += 1;
                depth -= 1;
                kinds >>= 1;
                if depth == 0 {
                    return Some(at);
                }
                first = false;
                continue;
            }
            if !first {
                if next != b',' {
                    return None;
                }
                at = skip_space(bytes, at + 1);
            }
            if object {
                at = key_end(bytes, at)?;
            }
            break;
        }
    }
}

/// A number, `true`, `false` or `null` inside a container.
#[inline(always)]
fn scalar_end(bytes: &[u8], at: usize) -> Option<usize> {
    let found = match bytes[at] {
        b't' => literal(bytes, at, b"true", What::Bool),
        b'f' => literal(bytes, at, b"false", What::Bool),
        b'n' => literal(bytes, at, b"null", What::Null),
        _ => number(bytes, at),
    }?;
    Some(found.end as usize)
}

/// From the opening quote of a key to the start of its value.
fn key_end(bytes: &[u8], at: usize) -> Option<usize> {
    if *bytes.get(at)? != b'"' {
        return None;
    }
    let end = plain_end(bytes, at + 1)?;
    let end = if bytes[end] == b'"' { end + 1 } else { escaped_end(bytes, end)? };
    let colon = skip_space(bytes, end);
    if *bytes.get(colon)? != b':' {
        return None;
    }
    Some(skip_space(bytes, colon + 1))
}

impl Fields {
    /// Folds a member that has no name here into the fingerprint, whatever the order of the members.
    #[inline]
    pub(super) fn add_unknown(&mut self, name: u64, raw: &[u8]) {
        self.unknown = true;
        self.unknown_hash = self.unknown_hash.wrapping_add(mix(name, hash64(raw)));
    }
}
