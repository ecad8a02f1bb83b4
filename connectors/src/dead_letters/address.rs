//! Addresses in figures: dotted quads and IPv6.

use std::net::Ipv6Addr;

/// Finds every address in a text without escapes; calls `found` with what to replace by what, in order.
///
/// Times of day, UUIDs and numbers of three parts are no addresses. The text need not be UTF-8.
pub(super) fn find(text: &[u8], mut found: impl FnMut(usize, usize, &str)) {
    for (start, run) in runs(text, is_part) {
        // The first and last group may be the rest of a word (`std::fs`), which hexadecimal digits alone do not show.
        let in_word = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        let before = in_word(start.checked_sub(1).and_then(|i| text.get(i)));
        let after = in_word(text.get(start + run.len()));
        mask_run(run, before, after, |from, to, replacement| found(start + from, start + to, replacement));
    }
}

/// The longest runs of bytes of a kind, each with its place in the text.
pub(super) fn runs(text: &[u8], is_part: fn(u8) -> bool) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + text[at..].iter().position(|byte| is_part(*byte))?;
        at = start + text[start..].iter().position(|byte| !is_part(*byte)).unwrap_or(text.len() - start);
        Some((start, &text[start..at]))
    })
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

pub(super) fn is_octet(digits: &[u8]) -> bool {
    matches!(digits.len(), 1..=3) && digits.iter().fold(0_u32, |n, digit| n * 10 + u32::from(digit - b'0')) <= 255
}
