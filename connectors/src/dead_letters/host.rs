//! Addresses inside host names, as providers make them: `dsl-192-0-2-77.dyn.example.net`, `77.2.0.192.in-addr.arpa`,
//! `c000024d.example.net`, `2001-db8--1.example.net`.

use super::address::{is_octet, runs};

/// Labels that end the name of a file and no host's.
const FILES: [&str; 16] = [
    "js", "css", "map", "png", "jpg", "jpeg", "gif", "svg", "html", "php", "json", "woff", "webp", "ico", "txt", "log",
];

/// A label of more pieces is a UUID or the like.
const MOST_PIECES: usize = 4;

/// Finds what stands for an address in the host names of a text without escapes; calls `found` with each place, in order
/// within a name.
pub(super) fn find(text: &[u8], mut found: impl FnMut(usize, usize)) {
    for (start, name) in runs(text, is_part) {
        for separator in [b'-', b'_'] {
            find_quads(name, separator, |from, to| found(start + from, start + to));
        }
        if is_host(name) {
            find_in_host(name, |from, to| found(start + from, start + to));
        }
    }
}

fn is_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

/// Four octets between separators.
fn find_quads(name: &[u8], separator: u8, mut found: impl FnMut(usize, usize)) {
    let mut groups = Vec::new();
    let mut start = 0;
    for group in name.split(|byte| *byte == separator) {
        groups.push((start, group));
        start += group.len() + 1;
    }
    let mut row = 0;
    while row + 4 <= groups.len() {
        let (first_at, first) = groups[row];
        let (last_at, last) = groups[row + 3];
        let (behind, before) = (digits_behind(first), digits_before(last));
        let middle = &groups[row + 1..row + 3];
        if is_year(behind) && is_octet_of(groups[row + 1].1) && is_octet_of(groups[row + 2].1) {
            // A date, and the time of day behind it.
            row += 6;
        } else if is_octet_of(behind) && is_octet_of(before) && middle.iter().all(|(_, group)| is_octet_of(group)) {
            found(first_at + first.len() - behind.len(), last_at + before.len());
            row += 4;
        } else {
            row += 1;
        }
    }
}

fn digits_behind(group: &[u8]) -> &[u8] {
    &group[group.len() - group.iter().rev().take_while(|byte| byte.is_ascii_digit()).count()..]
}

fn digits_before(group: &[u8]) -> &[u8] {
    &group[..group.iter().take_while(|byte| byte.is_ascii_digit()).count()]
}

fn is_octet_of(group: &[u8]) -> bool {
    group.iter().all(u8::is_ascii_digit) && is_octet(group)
}

fn is_year(digits: &[u8]) -> bool {
    matches!(digits, [b'1', b'9', _, _] | [b'2', b'0', _, _])
}

/// Whether a name ends like a host's: letters behind a point, and no file's ending.
fn is_host(name: &[u8]) -> bool {
    let last = name.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    last.len() < name.len()
        && last.len() >= 2
        && last.iter().all(u8::is_ascii_alphabetic)
        && !FILES.iter().any(|file| last.eq_ignore_ascii_case(file.as_bytes()))
}

/// Addresses in the labels of a host name.
fn find_in_host(name: &[u8], mut found: impl FnMut(usize, usize)) {
    if name.to_ascii_lowercase().ends_with(b".ip6.arpa") {
        return found(0, name.len() - b".ip6.arpa".len());
    }
    let mut octets = Vec::new();
    let mut start = 0;
    for label in name.split(|byte| *byte == b'.') {
        let end = start + label.len();
        match is_octet_of(label) {
            true => octets.push((start, end)),
            false => octets.clear(),
        }
        if let [(from, _), _, _, (_, to)] = octets[..] {
            found(from, to);
            octets.clear();
        }
        if is_v6(label) {
            found(start, end);
        } else if label.iter().filter(|byte| matches!(byte, b'-' | b'_')).count() < MOST_PIECES {
            let mut piece_start = start;
            for piece in label.split(|byte| matches!(byte, b'-' | b'_')) {
                if let Some(length) = hidden(piece) {
                    found(piece_start + piece.len() - length, piece_start + piece.len());
                }
                piece_start += piece.len() + 1;
            }
        }
        start = end + 1;
    }
}

/// The length of an address of eight hexadecimal or twelve decimal digits at the end of a piece of a label.
fn hidden(piece: &[u8]) -> Option<usize> {
    let is_hex = |byte: &u8| byte.is_ascii_hexdigit();
    if let Some((before, hex)) = piece.len().checked_sub(8).map(|at| piece.split_at(at))
        && hex.iter().all(is_hex)
        && hex.iter().any(u8::is_ascii_digit)
        && before.len() <= 6
        && before.last().is_none_or(|byte| !is_hex(byte))
    {
        return Some(8);
    }
    let (before, padded) = piece.len().checked_sub(12).map(|at| piece.split_at(at))?;
    let octets = padded.iter().all(u8::is_ascii_digit) && padded.chunks(3).all(is_octet);
    let is_date =
        is_year(&padded[..4]) && matches!(&padded[4..8], [b'0' | b'1', _, b'0'..=b'3', _]) && padded[4..6] != *b"00";
    (octets && !is_date && before.last().is_none_or(|byte| !byte.is_ascii_digit())).then_some(12)
}

/// Whether a label is an IPv6 address with dashes for its colons.
fn is_v6(label: &[u8]) -> bool {
    let groups: Vec<&[u8]> = label.split(|byte| *byte == b'-').collect();
    let filled = groups.iter().filter(|group| !group.is_empty()).count();
    let fits = groups.iter().all(|group| group.len() <= 4 && group.iter().all(u8::is_ascii_hexdigit));
    fits && (filled == 8 || filled >= 3 && filled < groups.len())
}
