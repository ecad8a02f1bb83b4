//! Two ends in memory: what goes in comes out, and nothing that somebody does to the wire does more than end it.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::cluster::greeting::tests::both_keys;

/// What one end sends, and what the other opens.
fn ends() -> (Outgoing, Incoming) {
    let (dialler, acceptor) = both_keys();
    (Outgoing::new(dialler), Incoming::new(acceptor))
}

type Opened = Vec<(Kind, Vec<u8>)>;

/// What is opened of a wire that arrives in pieces of these sizes, in turn; and whether that was all right to the end.
fn open(incoming: &mut Incoming, mut wire: &[u8], pieces: &[usize]) -> (Opened, Result<(), NotGenuine>) {
    let (mut opened, mut pieces) = (Vec::new(), pieces.iter().cycle());
    loop {
        match incoming.next() {
            Ok(Some(kind)) => {
                let (mut bytes, mut some) = (Vec::new(), [0; 1_000]);
                while let taken @ 1.. = incoming.take(&mut some) {
                    bytes.extend(&some[..taken]);
                }
                opened.push((kind, bytes));
            }
            Ok(None) if wire.is_empty() => return (opened, Ok(())),
            Ok(None) => {
                let room = incoming.room();
                assert!(!room.is_empty(), "nothing more could arrive");
                let arrives = room.len().min(wire.len()).min(*pieces.next().unwrap());
                room[..arrives].copy_from_slice(&wire[..arrives]);
                incoming.arrived(arrives);
                wire = &wire[arrives..];
            }
            Err(forged) => return (opened, Err(forged)),
        }
    }
}

/// Three frames, each by itself.
fn three(outgoing: &mut Outgoing) -> [Vec<u8>; 3] {
    [&b"one"[..], b"two", b"three"].map(|bytes| outgoing.seal(Kind::Bytes, bytes).to_vec())
}

fn sent() -> Opened {
    [&b"one"[..], b"two", b"three"].map(|bytes| (Kind::Bytes, bytes.to_vec())).to_vec()
}

#[test]
fn frames_fit_in_their_place_and_in_no_other() {
    for (order, fit) in
        [(&[0, 1, 2][..], 3), (&[0, 0, 1, 2], 1), (&[0, 2], 1), (&[1, 0, 2], 0), (&[0, 1, 2, 1], 3), (&[2], 0)]
    {
        let (mut outgoing, mut incoming) = ends();
        let frames = three(&mut outgoing);
        let wire: Vec<u8> = order.iter().flat_map(|at| frames[*at].clone()).collect();
        let (opened, all_right) = open(&mut incoming, &wire, &[usize::MAX]);
        assert_eq!(opened, sent()[..fit], "{order:?}");
        assert_eq!(all_right.is_ok(), order.len() == fit, "{order:?}");
        assert_eq!(incoming.next().is_ok(), all_right.is_ok(), "what is broken stays so");
    }
}

#[test]
fn frames_of_another_connection_or_our_own_are_not_opened() {
    let (dialler, acceptor) = both_keys();
    let (mut others, _) = ends();
    let mut own = Outgoing::new(Keys::clone(&acceptor));
    for wire in [three(&mut others), three(&mut own)] {
        let (opened, all_right) = open(&mut Incoming::new(Keys::clone(&acceptor)), &wire.concat(), &[usize::MAX]);
        assert_eq!((opened.len(), all_right), (0, Err(NotGenuine)));
    }
    let (opened, _) = open(&mut Incoming::new(dialler), &three(&mut Outgoing::new(acceptor)).concat(), &[usize::MAX]);
    assert_eq!(opened, sent(), "the other direction is as good");
}

#[test]
fn a_frame_that_is_cut_short_is_waited_for_and_known_as_such() {
    let whole = ends().0.seal(Kind::Goodbye, &[]).len();
    for cut in 0..whole {
        let (mut outgoing, mut incoming) = ends();
        let wire = outgoing.seal(Kind::Goodbye, &[]).to_vec();
        assert_eq!(open(&mut incoming, &wire[..cut], &[1]), (vec![], Ok(())));
        assert_eq!(incoming.in_frame(), cut > 0, "cut at {cut}");
    }
}

#[test]
fn frames_of_every_length_that_a_stranger_can_write_are_refused() {
    for length in [0_u16, 1, 15, 16, 17, 1_000, u16::MAX - 1, u16::MAX] {
        let (_, mut incoming) = ends();
        let wire = [&length.to_le_bytes()[..], &vec![7; usize::from(length)]].concat();
        assert_eq!(open(&mut incoming, &wire, &[4_096]), (vec![], Err(NotGenuine)), "{length}");
    }
}

#[test]
fn an_unknown_kind_is_no_frame() {
    let (dialler, acceptor) = both_keys();
    let mut wire = vec![0; 100];
    let sealed = dialler.write_message(0, &[200, 1, 2], &mut wire[HEADER..]).unwrap();
    wire[..HEADER].copy_from_slice(&u16::try_from(sealed).unwrap().to_le_bytes());
    let (opened, all_right) = open(&mut Incoming::new(acceptor), &wire, &[usize::MAX]);
    assert_eq!((opened.len(), all_right), (0, Err(NotGenuine)));
}

#[test]
fn the_same_bytes_look_different_each_time_and_like_nothing() {
    let (mut outgoing, _) = ends();
    let words = b"a page_view of user-17 ".repeat(1_000);
    let [first, second] = [(); 2].map(|()| outgoing.seal(Kind::Bytes, &words).to_vec());
    assert_eq!(first.len(), second.len());
    assert!(first[HEADER..].windows(8).zip(second[HEADER..].windows(8)).all(|(a, b)| a != b));
    for wire in [first, second] {
        assert!(!wire.windows(9).any(|window| window == b"page_view"));
    }
}

#[derive(Clone, Debug)]
enum Deed {
    Flip(usize, u8),
    Remove(usize, usize),
    Repeat(usize, usize),
    Insert(usize, Vec<u8>),
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        (any::<usize>(), 0..8_u8).prop_map(|(at, bit)| Deed::Flip(at, bit)),
        (any::<usize>(), 1..200_usize).prop_map(|(at, length)| Deed::Remove(at, length)),
        (any::<usize>(), 1..200_usize).prop_map(|(at, length)| Deed::Repeat(at, length)),
        (any::<usize>(), vec(any::<u8>(), 1..200)).prop_map(|(at, bytes)| Deed::Insert(at, bytes)),
    ]
}

fn done_to(wire: &[u8], deed: &Deed) -> Vec<u8> {
    let end = |at: usize, length: usize| (at + length).min(wire.len());
    match deed {
        Deed::Flip(at, bit) => {
            let mut changed = wire.to_vec();
            changed[at % wire.len()] ^= 1 << bit;
            changed
        }
        Deed::Remove(at, length) => {
            let at = at % wire.len();
            [&wire[..at], &wire[end(at, *length)..]].concat()
        }
        Deed::Repeat(at, length) => {
            let at = at % wire.len();
            [&wire[..end(at, *length)], &wire[at..]].concat()
        }
        Deed::Insert(at, bytes) => {
            let at = at % wire.len();
            [&wire[..at], bytes, &wire[at..]].concat()
        }
    }
}

/// Bytes by their size: few, some, and as many as go at once.
fn sizes() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![4 => 1..300_usize, 1 => MOST - 2..MOST + 2, 1 => BATCH - 2..=BATCH], 1..6)
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_in_any_pieces_arrive_as_they_were_sent(
        sizes in sizes(),
        pieces in vec(prop_oneof![1..40_usize, 1..200_000_usize], 1..8),
    ) {
        let (mut outgoing, mut incoming) = ends();
        let (mut wire, mut all) = (Vec::new(), Vec::new());
        for size in sizes {
            wire.extend(outgoing.seal(Kind::Bytes, &bytes(size)));
            wire.extend(outgoing.seal(Kind::Alive, &[]));
            all.extend(bytes(size));
        }
        wire.extend(outgoing.seal(Kind::Goodbye, &[]));
        let (mut opened, all_right) = open(&mut incoming, &wire, &pieces);
        prop_assert_eq!(all_right, Ok(()));
        prop_assert!(!incoming.in_frame());
        prop_assert_eq!(opened.pop(), Some((Kind::Goodbye, vec![])));
        prop_assert!(opened.iter().all(|(kind, bytes)| *kind == Kind::Bytes || bytes.is_empty()));
        prop_assert!(opened.into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<_>>() == all);
    }

    #[test]
    fn whatever_is_done_to_the_wire_what_is_opened_is_what_was_sent_before(
        deed in deeds(),
        sizes in vec(1..80_usize, 1..6),
        pieces in vec(1..100_usize, 1..4),
    ) {
        let (mut outgoing, mut incoming) = ends();
        let frames: Vec<_> = sizes.iter().map(|size| outgoing.seal(Kind::Bytes, &bytes(*size)).to_vec()).collect();
        let changed = done_to(&frames.concat(), &deed);
        let same = changed.iter().zip(frames.concat()).take_while(|(a, b)| **a == *b).count();
        let (opened, all_right) = open(&mut incoming, &changed, &pieces);
        let expected: Opened = sizes.iter().map(|size| (Kind::Bytes, bytes(*size))).collect();
        prop_assert!(opened.len() <= expected.len() && opened == expected[..opened.len()]);
        let untouched: usize = frames.iter().take(opened.len()).map(Vec::len).sum();
        prop_assert!(untouched <= same, "a frame that was changed was opened");
        // Only what is taken from the end can look like a pause.
        prop_assert!(all_right.is_err() || incoming.in_frame() || matches!(deed, Deed::Remove(..)));
    }
}
