use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// A queue with scripted hiccups.
struct Script(VecDeque<Step>);

#[derive(Clone, Debug)]
enum Step {
    Message(u64, Option<Vec<u8>>),
    End,
    Nothing,
}

impl Feed for Script {
    fn poll(&mut self, take: &mut dyn FnMut(u64, Option<&[u8]>)) -> Result<Polled, SourceError> {
        Ok(match self.0.pop_front() {
            Some(Step::Message(offset, payload)) => {
                take(offset, payload.as_deref());
                Polled::Message
            }
            Some(Step::End) => Polled::End,
            Some(Step::Nothing) | None => Polled::Nothing,
        })
    }
}

const START: Progress = Progress { offset: 0, lines: 0, digest: 0 };

fn message(offset: u64, text: &str) -> Step {
    Step::Message(offset, Some(text.into()))
}

fn offsets(block: &Block) -> Vec<u64> {
    let mut offsets = Vec::new();
    open(block.bytes.clone(), block.offset).for_each(|offset, _| offsets.push(offset));
    offsets
}

fn live(steps: impl IntoIterator<Item = Step>) -> (Cutter, Script) {
    (Cutter::new(0, Cutting::AsItComes, START, 100), Script(steps.into_iter().collect()))
}

fn bounded(end: u64, steps: impl IntoIterator<Item = Step>) -> (Cutter, Script) {
    (Cutter::new(0, Cutting::Until(end), START, end), Script(steps.into_iter().collect()))
}

#[test]
fn what_is_there_is_handed_out_and_a_message_that_does_not_fit_is_kept() {
    let (mut cutter, mut feed) = live([message(0, "aaaa"), message(1, "bbbb"), message(2, "cccc")]);
    let block = cutter.read(&mut feed, 10, None).unwrap().unwrap();
    assert_eq!((block.offset, block.first_line, offsets(&block)), (0, 1, vec![0, 1]));
    assert_eq!(cutter.position().offset, 2);
    assert_eq!(offsets(&cutter.read(&mut feed, 10, None).unwrap().unwrap()), [2]);
    assert!(cutter.read(&mut feed, 10, None).unwrap().is_none());
}

#[test]
fn a_message_longer_than_the_limit_comes_alone() {
    let (mut cutter, mut feed) = live([message(0, "a"), message(1, "bbbbbbbbbbbbbbbb"), message(2, "c")]);
    let mut read = || offsets(&cutter.read(&mut feed, 4, None).unwrap().unwrap());
    assert_eq!([read(), read(), read()], [[0], [1], [2]]);
}

#[test]
fn a_live_partition_is_caught_up_after_the_brokers_word_and_until_the_next_message() {
    let (mut cutter, mut feed) = live([Step::Nothing, message(0, "a"), Step::End, message(1, "b"), Step::Nothing]);
    assert!(cutter.read(&mut feed, 100, None).unwrap().is_none());
    assert!(!cutter.position().caught_up, "silence is no proof");
    assert!(cutter.read(&mut feed, 100, None).unwrap().is_some());
    assert!(cutter.position().caught_up && !cutter.position().finished);
    assert!(cutter.read(&mut feed, 100, None).unwrap().is_some());
    assert!(!cutter.position().caught_up);
}

#[test]
fn a_bounded_partition_waits_for_a_full_block_and_ends_at_its_end() {
    let (mut cutter, mut feed) = bounded(2, [message(0, "a"), Step::Nothing, message(1, "b"), message(2, "late")]);
    assert!(cutter.read(&mut feed, 100, None).unwrap().is_none());
    assert_eq!(cutter.position().offset, 0);
    let block = cutter.read(&mut feed, 100, None).unwrap().unwrap();
    assert_eq!(offsets(&block), [0, 1]);
    let position = cutter.position();
    assert!(position.finished && position.offset == 2);
    assert!(cutter.read(&mut feed, 100, None).unwrap().is_none());
}

#[test]
fn an_end_behind_markers_is_reached_by_the_brokers_word_or_by_a_message_behind_it() {
    for last in [Step::End, message(7, "behind")] {
        let (mut cutter, mut feed) = bounded(5, [message(0, "a"), message(1, "b"), last]);
        assert_eq!(offsets(&cutter.read(&mut feed, 100, None).unwrap().unwrap()), [0, 1]);
        let position = cutter.position();
        assert!(position.finished);
        assert_eq!((position.offset, position.lines), (5, 2));
    }
    let (mut cutter, mut feed) = bounded(5, [Step::End]);
    assert!(cutter.read(&mut feed, 100, None).unwrap().is_none());
    assert!(cutter.position().finished, "nothing but markers");
}

#[test]
fn nothing_at_or_behind_a_recorded_end_is_handed_out_before_the_replay_is_over() {
    let (mut cutter, mut feed) = live([message(0, "a"), message(3, "b"), message(4, "c")]);
    assert_eq!(offsets(&cutter.read(&mut feed, 100, Some(2)).unwrap().unwrap()), [0]);
    assert_eq!(cutter.position().offset, 2);
    assert!(cutter.read(&mut feed, 100, Some(2)).unwrap().is_none());
    assert_eq!(offsets(&cutter.read(&mut feed, 100, Some(4)).unwrap().unwrap()), [3]);
    assert_eq!(offsets(&cutter.read(&mut feed, 100, None).unwrap().unwrap()), [4]);
}

#[test]
fn a_partition_that_ends_before_a_recorded_end_is_noticed() {
    let (mut cutter, mut feed) = live([message(0, "a"), Step::End]);
    assert!(cutter.read(&mut feed, 100, Some(101)).unwrap().is_some());
    assert!(matches!(cutter.read(&mut feed, 100, Some(101)), Err(Shorter::At(1))));
}

#[test]
fn what_was_gathered_is_cut_again_for_a_smaller_limit() {
    let steps = [message(0, "aa"), message(2, "bb"), Step::Nothing, message(3, "cc"), message(4, "dd")];
    let (mut cutter, mut feed) = bounded(5, steps);
    assert!(cutter.read(&mut feed, 100, None).unwrap().is_none());
    assert_eq!(offsets(&cutter.read(&mut feed, 5, None).unwrap().unwrap()), [0]);
    assert_eq!((cutter.position().offset, cutter.position().lines), (1, 1));
    assert!(cutter.read(&mut feed, 100, Some(2)).unwrap().is_none());
    assert_eq!(cutter.position().offset, 2);
    assert_eq!(offsets(&cutter.read(&mut feed, 100, None).unwrap().unwrap()), [2, 3, 4]);
}

/// Reads everything with the given limits and hiccups; gives blocks and the last position.
fn read_all(
    messages: &[(u64, Option<Vec<u8>>)],
    end: u64,
    limits: &[usize],
    hiccups: &[bool],
) -> (Vec<Block>, Position) {
    let mut steps = VecDeque::new();
    for (at, (offset, payload)) in messages.iter().enumerate() {
        if hiccups[at % hiccups.len()] {
            steps.push_back(Step::Nothing);
        }
        steps.push_back(Step::Message(*offset, payload.clone()));
    }
    steps.push_back(Step::End);
    let (mut cutter, mut feed) = bounded(end, steps);
    let mut blocks = Vec::new();
    for limit in limits.iter().cycle() {
        if cutter.position().finished {
            break;
        }
        blocks.extend(cutter.read(&mut feed, *limit, None).unwrap());
    }
    (blocks, cutter.position())
}

proptest! {
    #[test]
    fn any_cuts_give_the_same_messages_and_the_same_digest(
        parts in proptest::collection::vec((0..3_u64, proptest::option::weighted(0.9, "[ -~\n]{0,30}")), 0..60),
        tail in 0..3_u64,
        limits in proptest::collection::vec(1..200_usize, 1..6),
        hiccups in proptest::collection::vec(any::<bool>(), 1..9),
    ) {
        let mut next = 0;
        let messages: Vec<_> = parts.into_iter().map(|(gap, text)| {
            let offset = next + gap;
            next = offset + 1;
            (offset, text.map(String::into_bytes))
        }).collect();
        let end = next + tail;
        let (blocks, position) = read_all(&messages, end, &limits, &hiccups);
        let (_, whole) = read_all(&messages, end, &[usize::MAX], &[false]);
        prop_assert_eq!(&position, &whole);
        prop_assert_eq!(position.lines, messages.len() as u64);
        let read: Vec<u64> = blocks.iter().flat_map(offsets).collect();
        let sent: Vec<u64> = messages.iter().map(|(offset, _)| *offset).collect();
        prop_assert_eq!(read, sent);
        let mut lines = 1;
        for block in &blocks {
            prop_assert_eq!(block.first_line, lines);
            lines += offsets(block).len() as u64;
        }
    }

    #[test]
    fn blocks_of_a_bounded_partition_do_not_depend_on_when_messages_arrive(
        texts in proptest::collection::vec("[a-z]{0,30}", 0..60),
        limit in 1..200_usize,
        hiccups in proptest::collection::vec(any::<bool>(), 1..9),
    ) {
        let messages: Vec<_> = (0..).zip(texts.into_iter().map(|text| Some(text.into_bytes()))).collect();
        let end = messages.len() as u64;
        prop_assert_eq!(
            read_all(&messages, end, &[limit], &hiccups).0,
            read_all(&messages, end, &[limit], &[false]).0
        );
    }
}
