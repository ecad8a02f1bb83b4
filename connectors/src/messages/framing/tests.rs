use super::*;
use proptest::prelude::*;

type Owned = (u64, Option<Vec<u8>>);

fn framed(messages: &[Owned]) -> Opened {
    let mut frame = Frame::default();
    for (offset, payload) in messages {
        frame.push(*offset, Message::of(payload.as_deref()), 0);
    }
    let first = frame.first();
    open(frame.close(), first)
}

fn unframed(opened: &Opened) -> Vec<Owned> {
    let mut messages = Vec::new();
    opened.for_each(|offset, message| {
        let payload = (message != Message::Null).then(|| message.bytes().to_vec());
        messages.push((offset, payload));
    });
    messages
}

/// What becomes of a payload that is text.
fn as_line(payload: &[u8]) -> Vec<u8> {
    if !matches!(Message::of(Some(payload)), Message::Line(_) | Message::Broken(_)) {
        return payload.to_vec();
    }
    let line = payload.strip_suffix(b"\n").unwrap_or(payload);
    line.iter().map(|byte| if *byte == b'\n' { b'\r' } else { *byte }).collect()
}

#[test]
fn kinds_are_told_by_content() {
    assert_eq!(Message::of(None), Message::Null);
    assert_eq!(Message::of(Some(b"")), Message::Blank(b""));
    assert_eq!(Message::of(Some(b" \n")), Message::Blank(b" \n"));
    assert_eq!(Message::of(Some(b"\0\0\0\0\x01x")), Message::Avro(b"\0\0\0\0\x01x"));
    assert_eq!(Message::of(Some(b"{}\n")), Message::Line(b"{}"));
    assert_eq!(Message::of(Some(b"{\n}")), Message::Broken(b"{\n}"));
}

fn payload() -> impl Strategy<Value = Option<Vec<u8>>> {
    prop_oneof![
        5 => "[ -~]{1,40}".prop_map(|text| Some(text.into_bytes())),
        2 => "[a\r\n ]{0,6}".prop_map(|text| Some(text.into_bytes())),
        2 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Some),
        1 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(|mut bytes| { bytes.insert(0, 0); Some(bytes) }),
        1 => Just(None),
    ]
}

proptest! {
    #[test]
    fn messages_come_out_as_they_went_in(
        parts in proptest::collection::vec((prop_oneof![4 => Just(0_u64), 1 => 1..100_000_u64], payload()), 1..80),
        first in 0..1_u64 << 40,
    ) {
        let mut next = first;
        let messages: Vec<Owned> = parts.into_iter().map(|(gap, payload)| {
            let offset = next + gap;
            next = offset + 1;
            (offset, payload)
        }).collect();
        let opened = framed(&messages);
        let expected: Vec<Owned> =
            messages.iter().map(|(offset, payload)| (*offset, payload.as_deref().map(as_line))).collect();
        prop_assert_eq!(unframed(&opened), expected);
        let lines = opened.text.iter().filter(|byte| **byte == b'\n').count();
        prop_assert_eq!(lines, messages.len());
    }

    #[test]
    fn a_number_is_read_as_it_was_written(number in any::<u32>(), more in any::<u8>()) {
        let mut bytes = Vec::new();
        put_number(&mut bytes, u64::from(number));
        bytes.push(more);
        let mut rest = bytes.as_slice();
        prop_assert_eq!(take_number(&mut rest), number as usize);
        prop_assert_eq!(rest, [more]);
    }

    #[test]
    fn the_digest_tells_other_content_offsets_and_kinds(text in "[a-z]{1,300}", at in 0..300_usize) {
        let digest = |offset: u64, payload: Option<&[u8]>| Frame::default().push(offset, Message::of(payload), 7);
        let mut other = text.clone().into_bytes();
        let at = at % other.len();
        other[at] = if other[at] == b'z' { b'a' } else { other[at] + 1 };
        let same = digest(3, Some(text.as_bytes()));
        prop_assert_ne!(same, digest(3, Some(&other)));
        prop_assert_ne!(same, digest(4, Some(text.as_bytes())));
        prop_assert_ne!(digest(3, Some(b"")), digest(3, None));
    }
}
