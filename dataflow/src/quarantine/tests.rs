use proptest::prelude::*;

use super::*;

fn attempt(run: u64, range: Range<u64>, single: bool) -> Attempt {
    let origin = Origin { partition: "events".into(), start: range.start, end: range.end, single };
    Attempt { run, origin, phase: Phase::Operate, operator: "map".into(), message: "boom".into(), twice: false }
}

fn block(run: u64, range: Range<u64>) -> Attempt {
    attempt(run, range, false)
}

fn record(run: u64, offset: u64) -> Attempt {
    attempt(run, offset..offset + 1, true)
}

fn twice(run: u64, offset: u64) -> Attempt {
    Attempt { twice: true, ..record(run, offset) }
}

fn offsets(records: &[Quarantined]) -> Vec<u64> {
    records.iter().map(|record| record.offset).collect()
}

fn committed(end: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([("events".to_owned(), end)])
}

#[test]
fn two_panics_at_a_record_set_it_aside_and_that_of_its_block_is_one() {
    let check = |attempts: &[Attempt], expected: &[u64]| {
        assert_eq!(offsets(&decide(&[], attempts, &committed(0)).new), expected, "{attempts:?}");
    };
    check(&[], &[]);
    check(&[block(1, 0..100)], &[]);
    check(&[record(1, 7)], &[]);
    check(&[block(1, 0..100), block(2, 0..100)], &[]);
    check(&[block(1, 0..100), record(2, 7)], &[7]);
    check(&[record(1, 7), record(2, 7)], &[7]);
    check(&[record(2, 7), block(1, 0..100)], &[7]);
    // A block's panic after the record's was another record's; one elsewhere is none of its own.
    check(&[record(1, 7), block(2, 0..100)], &[]);
    check(&[block(1, 10..100), record(2, 7)], &[]);
    check(&[block(1, 0..7), record(2, 7)], &[]);
    // One panic of a block is that of one record.
    check(&[block(1, 0..100), record(2, 7), record(3, 8)], &[7]);
    check(&[block(1, 0..100), record(2, 7), record(3, 8), record(4, 8)], &[7, 8]);
    check(&[block(1, 0..100), block(2, 0..100), record(3, 7)], &[7]);
    // Noted twice in one run.
    check(&[record(1, 7), record(1, 7)], &[]);
    // Tried twice in one run.
    check(&[twice(1, 7)], &[7]);
    check(&[record(1, 7), twice(1, 7)], &[7]);
    check(&[block(1, 0..100), twice(2, 7), twice(2, 8), record(2, 9)], &[7, 8]);
    let elsewhere = Attempt { origin: Origin { partition: "other".into(), ..record(2, 7).origin }, ..record(2, 7) };
    check(&[block(1, 0..100), elsewhere], &[]);
}

#[test]
fn what_was_committed_is_never_set_aside_and_what_was_set_aside_stays() {
    let attempts = [block(1, 0..100), record(2, 7)];
    let decision = decide(&[], &attempts, &committed(8));
    assert_eq!((offsets(&decision.refused), decision.quarantined), (vec![7], vec![]));
    let before = decide(&[], &attempts, &committed(7)).quarantined;
    let later = decide(&before, &attempts, &committed(1_000));
    assert_eq!((later.quarantined, later.new, later.refused, later.suspects), (before, vec![], vec![], vec![]));
}

#[test]
fn only_one_that_panicked_twice_while_it_was_decoded_is_not_decoded_any_more() {
    let decoding = |attempt: Attempt| Attempt { phase: Phase::Decode, ..attempt };
    let unreadable = |before: &[Quarantined], attempts: &[Attempt]| {
        decide(before, attempts, &committed(0)).new.iter().map(|record| record.unreadable).collect::<Vec<_>>()
    };
    assert_eq!(unreadable(&[], &[decoding(block(1, 0..9)), decoding(record(2, 7))]), [true]);
    let mixed = [block(1, 0..9), decoding(record(2, 7))];
    assert_eq!(unreadable(&[], &mixed), [false]);
    let before = decide(&[], &mixed, &committed(0)).quarantined;
    let again = [&mixed[..], &[decoding(record(3, 7))]].concat();
    assert_eq!(unreadable(&before, &again), [true]);
    let both = decide(&before, &again, &committed(0));
    let care = Watch::new(&both).care("events", 0..9).unwrap();
    assert!(care.at(7).unwrap().unreadable);
    assert_eq!(care.at(6), None);
}

#[test]
fn only_blocks_with_a_suspect_or_a_record_set_aside_are_taken_apart() {
    let watch = Watch::new(&decide(&[], &[block(1, 100..200), block(2, 500..600), record(3, 550)], &committed(150)));
    let apart = |range: Range<u64>| watch.care("events", range).is_some();
    assert!(apart(0..101) && apart(150..160) && apart(199..300) && apart(500..501));
    assert!(!apart(0..100) && !apart(200..500) && !apart(600..700));
    assert!(watch.care("other", 100..200).is_none());
    assert_eq!(watch.care("events", 540..560).unwrap().quarantined.len(), 1);
}

/// A record's offset, and what panics by itself, run after run: the deterministic records of a partition.
fn play(poison: &BTreeSet<u64>, block_length: u64, length: u64) -> (Vec<Quarantined>, u64) {
    let (mut attempts, mut listed) = (Vec::new(), Vec::new());
    for run in 1.. {
        let decision = decide(&listed, &attempts, &committed(0));
        listed.clone_from(&decision.quarantined);
        let watch = Watch::new(&decision);
        let first = (0..length).find(|offset| {
            let start = offset / block_length * block_length;
            let care = watch.care("events", start..start + block_length);
            poison.contains(offset) && care.is_none_or(|care| care.at(*offset).is_none())
        });
        let Some(offset) = first else { return (listed, run) };
        let start = offset / block_length * block_length;
        let apart = watch.care("events", start..start + block_length).is_some();
        attempts.push(if apart { record(run, offset) } else { block(run, start..start + block_length) });
    }
    unreachable!("the numbers of runs do not end")
}

proptest! {
    #[test]
    fn exactly_the_records_that_panic_are_set_aside_after_two_panics_each(
        poison in prop::collection::btree_set(0_u64..200, 0..8),
        block_length in 1_u64..50,
    ) {
        let (listed, runs) = play(&poison, block_length, 200);
        let mut found = offsets(&listed);
        found.sort_unstable();
        prop_assert_eq!(found, poison.iter().copied().collect::<Vec<_>>());
        prop_assert_eq!(runs, 2 * poison.len() as u64 + 1);
    }

    #[test]
    fn the_order_in_which_attempts_are_found_decides_nothing(
        attempts in prop::collection::vec((1_u64..6, 0_u64..20, any::<bool>()), 0..12),
        end in 0_u64..20,
        turn in 0_usize..12,
    ) {
        let made = |(run, offset, single): &(u64, u64, bool)| match single {
            true => record(*run, *offset),
            false => block(*run, offset / 5 * 5..offset / 5 * 5 + 5),
        };
        let attempts: Vec<Attempt> = attempts.iter().map(made).collect();
        let mut turned = attempts.clone();
        turned.rotate_left(turn.min(attempts.len()));
        let (one, other) = (decide(&[], &attempts, &committed(end)), decide(&[], &turned, &committed(end)));
        prop_assert!(one.quarantined.iter().all(|record| record.offset >= end));
        prop_assert_eq!(one, other);
    }
}

#[test]
fn ranges_are_joined_where_they_meet_and_become_one_if_they_are_many() {
    let origin = |partition: &str, range: Range<u64>| Origin {
        partition: partition.into(),
        start: range.start,
        end: range.end,
        single: false,
    };
    let check = |ranges: &[(&str, Range<u64>)], expected: &[(&str, Range<u64>)]| {
        let made = |ranges: &[(&str, Range<u64>)]| ranges.iter().map(|(name, at)| origin(name, at.clone())).collect();
        let (ranges, expected): (Vec<Origin>, Vec<Origin>) = (made(ranges), made(expected));
        assert_eq!(Origin::joined(ranges.iter()), expected);
    };
    check(&[], &[]);
    check(&[("a", 5..9), ("a", 0..5), ("b", 9..12)], &[("a", 0..9), ("b", 9..12)]);
    check(&[("a", 0..5), ("a", 7..9), ("a", 2..6), ("a", 0..5)], &[("a", 0..6), ("a", 7..9)]);
    let scattered: Vec<(&str, Range<u64>)> = (0..100).map(|n| ("a", 10 * n..10 * n + 5)).collect();
    check(&scattered, &[("a", 0..995)]);
    let single = Origin { single: true, ..origin("a", 3..4) };
    assert_eq!(Origin::joined([&single, &single].into_iter()), [single.clone()]);
    assert_eq!(Origin::joined([&single, &origin("a", 4..6)].into_iter()), [origin("a", 3..6)]);
}
