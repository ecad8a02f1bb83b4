//! Malformed lines, every kind that the input's rules name.

use super::draft::{Draft, Layout};
use super::skew::Dice;

/// How to break a well-formed event before it is rendered.
type Break = fn(&mut Draft, &mut Dice);

/// Kinds that replace or leave out a piece of the event.
const PIECES: [Break; 29] = [
    |e, _| e.id.clear(),
    |e, _| e.kind.clear(),
    |e, _| e.user.clear(),
    |e, _| e.timestamp.clear(),
    |e, _| replace(&mut e.id, b"null"),
    |e, _| replace(&mut e.kind, b"null"),
    |e, _| replace(&mut e.user, b"null"),
    |e, _| replace(&mut e.timestamp, b"null"),
    |e, _| replace(&mut e.id, b"\"\""),
    |e, _| replace(&mut e.kind, b"\"\""),
    |e, _| replace(&mut e.user, b"\"\""),
    |e, _| replace(&mut e.id, b"123456789"),
    |e, _| replace(&mut e.kind, b"[\"page_view\"]"),
    |e, _| replace(&mut e.user, b"true"),
    |e, _| replace(&mut e.timestamp, b"\"1772323200000\""),
    |e, _| replace(&mut e.timestamp, b"1772323200000.5"),
    |e, _| replace(&mut e.timestamp, b"-1"),
    |e, _| replace(&mut e.timestamp, b"253402300800000"),
    |e, _| drop(e.id.splice(1..1, [b'y'; 165])),
    |e, _| of_type(e, b"\"page_view\"", b""),
    |e, _| of_type(e, b"\"page_view\"", b"{\"title\":\"none\"}"),
    |e, _| of_type(e, b"\"page_view\"", b"{\"page\":17}"),
    |e, _| of_type(e, b"\"page_view\"", b"{\"page\":null}"),
    |e, _| of_type(e, b"\"purchase\"", b"{\"currency\":\"EUR\"}"),
    |e, _| of_type(e, b"\"purchase\"", b"{\"amount_cents\":12.5,\"currency\":\"EUR\"}"),
    |e, _| of_type(e, b"\"purchase\"", b"{\"amount_cents\":\"1250\",\"currency\":\"EUR\"}"),
    |e, _| of_type(e, b"\"purchase\"", b"{\"amount_cents\":9223372036854775808,\"currency\":\"EUR\"}"),
    |e, _| of_type(e, b"\"purchase\"", b"{\"amount_cents\":1250}"),
    |e, _| of_type(e, b"\"purchase\"", b"{\"amount_cents\":1250,\"currency\":978}"),
];

/// How to break a line after it was rendered.
const LINES: [fn(&mut Vec<u8>); 6] = [
    |line| line.truncate(line.len() * 2 / 3),
    |line| *line = [b"[", &line[..], b"]"].concat(),
    |line| replace(line, b"\"just a text\""),
    |line| line.extend_from_slice(b" trailing"),
    // Not UTF-8.
    |line| line.splice(2..2, [0xff, 0xfe]).for_each(drop),
    |line| replace(line, b"GET / HTTP/1.1"),
];

/// Appends the malformed line number `number`: the kinds come in turn.
pub(super) fn write(line: &mut Vec<u8>, draft: &mut Draft, dice: &mut Dice, arrival: u64, number: u64) {
    let kind = usize::try_from(number % (PIECES.len() + LINES.len()) as u64).expect("below the number of kinds");
    if let Some(piece) = PIECES.get(kind) {
        piece(draft, dice);
    }
    draft.render(line, Some(arrival), Layout::Usual);
    if let Some(whole) = kind.checked_sub(PIECES.len()) {
        LINES[whole](line);
    }
}

/// Appends a line that is well-formed but for its length of more than 1 MiB.
pub(super) fn oversized(line: &mut Vec<u8>, draft: &mut Draft, dice: &mut Dice, arrival: u64) {
    draft.purchase(dice);
    draft.properties.pop();
    draft.properties.extend_from_slice(b",\"note\":\"");
    draft.properties.resize(draft.properties.len() + (1 << 20), b'z');
    draft.properties.extend_from_slice(b"\"}");
    draft.render(line, Some(arrival), Layout::Usual);
}

fn replace(piece: &mut Vec<u8>, by: &[u8]) {
    piece.clear();
    piece.extend_from_slice(by);
}

fn of_type(event: &mut Draft, kind: &[u8], properties: &[u8]) {
    replace(&mut event.kind, kind);
    replace(&mut event.properties, properties);
}
