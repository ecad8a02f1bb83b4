//! Dead letters on disk: one JSON object a line, and no clear IP address in it.
//!
//! A dead letter is the place to look at a line that could not become an event (INV-6). Its payload is masked where it
//! is made, before it leaves the worker: the last octet of an IPv4 address becomes `x`, an IPv6 address keeps its first
//! 48 bits. When in doubt something is masked: a version number of four parts looks like an address and is treated as one.

use std::borrow::Cow;
use std::io::Write;
use std::net::Ipv6Addr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tidemill_dataflow::source::DeadLetter;

#[derive(Serialize)]
struct Line<'a> {
    reason: &'a str,
    file: &'a str,
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    bytes: u64,
}

/// Appends a dead letter of the partition named `file` as one line of NDJSON: `reason`, `file`, `line` (from 1),
/// `payload` (or `payload_base64` where it is no UTF-8), `bytes` (the line's full length).
pub fn encode(letter: &DeadLetter, file: &str, out: &mut Vec<u8>) {
    let payload = std::str::from_utf8(&letter.payload).ok();
    let line = Line {
        reason: &letter.reason,
        file,
        line: letter.line,
        payload,
        payload_base64: payload.is_none().then(|| STANDARD.encode(&letter.payload)),
        bytes: letter.bytes,
    };
    serde_json::to_writer(&mut *out, &line).expect("texts and numbers can always be written as JSON");
    out.write_all(b"\n").expect("a Vec takes all that is written");
}

/// Masks every IPv4 and IPv6 address in a text: `83.149.9.216` becomes `83.149.9.x`, `2001:db8:1:2::3` becomes
/// `2001:db8:1::x`. Borrows where there is none.
///
/// Times of day, UUIDs and numbers of three parts are no addresses. The text need not be UTF-8.
#[must_use]
pub fn mask_addresses(text: &[u8]) -> Cow<'_, [u8]> {
    let mut masked = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    while at < text.len() {
        if !is_part(text[at]) {
            at += 1;
            continue;
        }
        let start = at;
        let length = text[at..].iter().position(|byte| !is_part(*byte)).unwrap_or(text.len() - at);
        at += length;
        let run = &text[start..at];
        // The first and last group may be the rest of a word (`std::fs`), which hexadecimal digits alone do not show.
        let in_word = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let before = in_word(start.checked_sub(1).and_then(|i| text.get(i)));
        let after = in_word(text.get(at));
        mask_run(run, before, after, |from, to, replacement| {
            masked.extend_from_slice(&text[copied..start + from]);
            masked.extend_from_slice(replacement.as_bytes());
            copied = start + to;
        });
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    masked.extend_from_slice(&text[copied..]);
    Cow::Owned(masked)
}

/// Whether a byte can be part of an address.
fn is_part(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':')
}

/// Finds the addresses in a longest run of hexadecimal digits, dots and colons; calls `found` with what to replace, in order.
fn mask_run(run: &[u8], before: bool, after: bool, mut found: impl FnMut(usize, usize, &str)) {
    let mut v4_from = 0;
    if run.iter().filter(|byte| **byte == b':').count() >= 2
        && let Some((from, to)) = find_v6(run, before, after)
    {
        mask_v4(&run[..from], |a, b, x| found(a, b, x));
        let network = std::str::from_utf8(&run[from..to]).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
        let replacement = match network.map(|address| address.segments()) {
            Some([a, b, c, ..]) => format!("{a:x}:{b:x}:{c:x}::x"),
            None => "::x".to_owned(),
        };
        found(from, to, &replacement);
        v4_from = to;
    }
    mask_v4(&run[v4_from..], |a, b, x| found(v4_from + a, v4_from + b, x));
}

/// A piece of a run between two colons.
struct Group {
    start: usize,
    end: usize,
    /// Not so a group that is too long, that is part of a word, or that is no hexadecimal number: it separates.
    usable: bool,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// The place of what can be an IPv6 address: groups of at most four digits with a `::` among them, or at least eight of
/// them; an IPv4 address at its end belongs to it.
fn find_v6(run: &[u8], before: bool, after: bool) -> Option<(usize, usize)> {
    let mut groups = Vec::new();
    let mut next = 0;
    for group in run.split(|byte| *byte == b':') {
        let (start, end) = (next, next + group.len());
        let in_word = !group.is_empty() && (start == 0 && before || end == run.len() && after);
        groups.push(Group { start, end, usable: !in_word && group.len() <= 4 && !group.contains(&b'.') });
        next = end + 1;
    }
    let mut first = 0;
    while first < groups.len() {
        let length = groups[first..].iter().take_while(|group| group.usable).count();
        if length > 0
            && let Some(place) = v6_of(run, &groups[first..first + length], groups.get(first + length))
        {
            return Some(place);
        }
        first += length + 1;
    }
    None
}

/// The place of the address that some usable groups make, if they do; `behind` is the group that separates them.
fn v6_of(run: &[u8], groups: &[Group], behind: Option<&Group>) -> Option<(usize, usize)> {
    let filled = groups.iter().filter(|group| !group.is_empty()).count();
    // An empty group between two colons is a `::`, also when one of the colons touches a separating group.
    let compressed = groups.iter().any(|group| group.is_empty() && group.start > 0 && group.end < run.len());
    // `::ffff:1.2.3.4`: the group behind is an IPv4 address.
    let tail = behind.and_then(|group| dotted_quad_end(&run[group.start..group.end]).map(|end| group.start + end));
    let filled = filled + if tail.is_some() { 2 } else { 0 };
    if filled < 8 && !(compressed && filled > 0) {
        return None;
    }
    // A single colon at either end is punctuation (`ip:2001:db8::1:`), a double one is part of the address.
    let (start, last) = (groups[0].start, groups[groups.len() - 1].end);
    let from = start + usize::from(run[start..].starts_with(b":") && !run[start..].starts_with(b"::"));
    let to = match tail {
        Some(tail) => tail,
        None if run[..last].ends_with(b":") && !run[..last].ends_with(b"::") => last - 1,
        None => last,
    };
    Some((from, to))
}

/// Where a text's leading IPv4 address ends.
fn dotted_quad_end(text: &[u8]) -> Option<usize> {
    let mut first = None;
    mask_v4(text, |start, end, _| {
        first.get_or_insert((start, end));
    });
    let (fourth, end) = first?;
    (text[..fourth].iter().filter(|byte| **byte == b'.').count() == 3).then_some(end)
}

/// Finds dotted quads in a run: from the fourth of any four numbers up to 255 on, numbers are replaced by `x`.
fn mask_v4(run: &[u8], mut found: impl FnMut(usize, usize, &str)) {
    let mut valid_in_row = 0;
    let mut start = 0;
    for group in run.split(|byte| matches!(byte, b'.' | b':')) {
        let end = start + group.len();
        let after_dot = start > 0 && run[start - 1] == b'.';
        if !after_dot {
            valid_in_row = 0;
        }
        // Digits at the edge of a run may touch letters (`v1.2.3.4`, `1.2.3.4a`): the number next to the dot counts.
        let digits = match valid_in_row {
            0 => group.iter().rev().take_while(|b| b.is_ascii_digit()).count(),
            _ => group.iter().take_while(|b| b.is_ascii_digit()).count(),
        };
        let whole = digits == group.len();
        let number = match valid_in_row {
            0 => &group[group.len() - digits..],
            _ => &group[..digits],
        };
        if is_octet(number) {
            valid_in_row += 1;
            if valid_in_row >= 4 {
                found(start, start + digits, "x");
            }
            if !whole && valid_in_row > 1 {
                valid_in_row = 0;
            }
        } else {
            valid_in_row = 0;
        }
        start = end + 1;
    }
}

fn is_octet(digits: &[u8]) -> bool {
    matches!(digits.len(), 1..=3) && digits.iter().fold(0_u32, |n, digit| n * 10 + u32::from(digit - b'0')) <= 255
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(String::from_utf8_lossy(&mask_addresses(text.as_bytes())), expected);
    }

    #[test]
    fn ipv4_loses_its_last_octet_wherever_it_stands() {
        check("83.149.9.216 - -", "83.149.9.x - -");
        check(r#"{"ip":"10.0.0.1"}"#, r#"{"ip":"10.0.0.x"}"#);
        check("from 1.2.3.4.", "from 1.2.3.x.");
        check("ip=1.2.3.4:8080", "ip=1.2.3.x:8080");
        check("v255.255.255.255z", "v255.255.255.xz");
        check("1.2.3.4,5.6.7.8", "1.2.3.x,5.6.7.x");
        check("1.2.3.4.5", "1.2.3.x.x");
        check("abc1.2.3.4def", "abc1.2.3.xdef");
        check("001.002.003.004", "001.002.003.x");
        check("1.2.3.4.in-addr.arpa", "1.2.3.x.in-addr.arpa");
        check("10:05:03:1.2.3.4", "10:05:03:1.2.3.x");
    }

    #[test]
    fn ipv6_keeps_48_bits() {
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1::x");
        check("[2001:db8::1]:80", "[2001:db8:0::x]:80");
        check("2001:DB8::1", "2001:db8:0::x");
        check("ip:2001:db8::1", "ip:2001:db8:0::x");
        check("fe80::1%eth0", "fe80:0:0::x%eth0");
        check("::1", "0:0:0::x");
        check("::ffff:83.149.9.216", "0:0:0::x");
        check("64:ff9b::83.149.9.216 x", "64:ff9b:0::x x");
        check("fe80:: ", "fe80:0:0::x ");
        check("face:2001:db8:0:0:0:0:0:1", "::x");
        check("dead:2001:db8::1", "dead:2001:db8::x");
        check(r#""2001:db8::1","#, r#""2001:db8:0::x","#);
        check("2001:db8::1: refused", "2001:db8:0::x: refused");
    }

    #[test]
    fn what_is_no_address_stays() {
        for text in [
            "[17/May/2015:10:05:03 +0000]",
            "10:05:03",
            "10:05:03.123",
            "1.2.3",
            "Chrome/32.0.1700.77",
            "2024.01.02.03",
            "256.1.1.1",
            "550e8400-e29b-41d4-a716-446655440000",
            "00:1a:2b:3c:4d:5e",
            "std::fs::File",
            "a :: b",
            "12.5 .. 13.5",
            "::",
            r#"{"a":1,"b":[2,3]}"#,
            "",
        ] {
            check(text, text);
            assert!(matches!(mask_addresses(text.as_bytes()), Cow::Borrowed(_)), "{text}");
        }
    }

    #[test]
    fn a_payload_that_is_no_text_is_written_in_base64() {
        let mut letter = DeadLetter {
            partition: 0,
            line: 7,
            reason: "not \"UTF-8\"".into(),
            payload: b"\xff\x00".to_vec(),
            bytes: 2,
        };
        let mut out = Vec::new();
        encode(&letter, "a/b.ndjson", &mut out);
        letter.payload = "ü\n".into();
        encode(&letter, "a", &mut out);
        let expected = concat!(
            r#"{"reason":"not \"UTF-8\"","file":"a/b.ndjson","line":7,"payload_base64":"/wA=","bytes":2}"#,
            "\n",
            r#"{"reason":"not \"UTF-8\"","file":"a","line":7,"payload":"ü\n","bytes":2}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    /// Texts that a masked text must not hold any more: every address that the standard library would read.
    fn clear_addresses(text: &str) -> bool {
        text.split([' ', ',', '"']).any(|word| {
            word.parse::<std::net::Ipv4Addr>().is_ok() || word.parse::<Ipv6Addr>().is_ok_and(|a| !a.is_unspecified())
        })
    }

    proptest! {
        #[test]
        fn no_address_is_left(
            v4 in any::<[u8; 4]>(),
            segments in any::<[u16; 8]>(),
            zeros in 0_usize..8,
            around in "[ ,\"]{1,2}[a-z0-9:.]{0,12}[ ,\"]",
        ) {
            let v4 = std::net::Ipv4Addr::from(v4);
            let mut segments = segments;
            segments[zeros..].fill(0);
            let v6 = Ipv6Addr::from(segments);
            let text = format!("{v4}{around}{v6}{around}::ffff:{v4}{around}{around}{v6}");
            let masked = mask_addresses(text.as_bytes()).into_owned();
            let masked = String::from_utf8(masked).unwrap();
            prop_assert!(!clear_addresses(&masked), "{text} became {masked}");
            prop_assert!(!masked.contains(&v4.to_string()), "{text} became {masked}");
        }

        #[test]
        fn any_bytes_can_be_masked(bytes in any::<Vec<u8>>(), parts in "[0-9a-f:.]{0,40}") {
            let _ = mask_addresses(&bytes);
            let _ = mask_addresses(parts.as_bytes());
        }
    }
}
