use proptest::prelude::*;

use super::*;
use crate::testing::memory;

fn record(run: u64, offset: u64) -> Attempt {
    let origin = Origin { partition: "events".into(), start: offset, end: offset + 1, single: true };
    Attempt { run, origin, phase: Phase::Operate, operator: "map".into(), message: "boom".into(), twice: false }
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
fn two_panics_at_a_record_set_it_aside() {
    let check = |attempts: &[Attempt], expected: &[u64]| {
        assert_eq!(offsets(&decide(&[], attempts, &committed(0)).new), expected, "{attempts:?}");
    };
    check(&[], &[]);
    check(&[record(1, 7)], &[]);
    check(&[record(1, 7), record(2, 7)], &[7]);
    check(&[record(2, 7), record(1, 7)], &[7]);
    check(&[record(2, 7), record(3, 8), record(4, 8)], &[8]);
    // Noted twice in one run.
    check(&[record(1, 7), record(1, 7)], &[]);
    // Tried twice in one run.
    check(&[twice(1, 7)], &[7]);
    check(&[record(1, 7), twice(1, 7)], &[7]);
    check(&[twice(2, 7), twice(2, 8), record(2, 9)], &[7, 8]);
    let elsewhere = Attempt { origin: Origin { partition: "other".into(), ..record(2, 7).origin }, ..record(2, 7) };
    check(&[record(1, 7), elsewhere], &[]);
    // What an earlier build noted of a block.
    let block = Attempt { origin: Origin { single: false, ..record(1, 7).origin }, ..twice(1, 7) };
    check(&[block], &[]);
}

#[test]
fn what_was_committed_is_never_set_aside_and_what_was_set_aside_stays() {
    let attempts = [twice(2, 7)];
    let decision = decide(&[], &attempts, &committed(8));
    assert_eq!((offsets(&decision.refused), decision.quarantined), (vec![7], vec![]));
    let before = decide(&[], &attempts, &committed(7)).quarantined;
    let later = decide(&before, &attempts, &committed(1_000));
    assert_eq!((later.quarantined, later.new, later.refused), (before, vec![], vec![]));
}

#[test]
fn only_one_that_panicked_twice_while_it_was_decoded_is_not_decoded_any_more() {
    let decoding = |attempt: Attempt| Attempt { phase: Phase::Decode, ..attempt };
    let unreadable = |before: &[Quarantined], attempts: &[Attempt]| {
        decide(before, attempts, &committed(0)).new.iter().map(|record| record.unreadable).collect::<Vec<_>>()
    };
    assert_eq!(unreadable(&[], &[decoding(twice(2, 7))]), [true]);
    assert_eq!(unreadable(&[], &[decoding(record(1, 7)), decoding(record(2, 7))]), [true]);
    let mixed = [record(1, 7), decoding(record(2, 7))];
    assert_eq!(unreadable(&[], &mixed), [false]);
    let before = decide(&[], &mixed, &committed(0)).quarantined;
    let again = [&mixed[..], &[decoding(record(3, 7))]].concat();
    assert_eq!(unreadable(&before, &again), [true]);
    let both = decide(&before, &again, &committed(0));
    let care = Watch::new(&both).care("events", 0..9, 1).unwrap();
    assert!(care.at(7).unwrap().unreadable);
    assert_eq!(care.at(6), None);
}

#[test]
fn only_epochs_that_panicked_and_blocks_with_a_record_set_aside_are_taken_apart() {
    let watch = Watch::new(&Decision { apart: 5, ..decide(&[], &[twice(3, 550)], &committed(150)) });
    let apart = |range: Range<u64>, epoch| watch.care("events", range, epoch).is_some();
    assert!(apart(0..100, 4) && apart(0..100, 5) && apart(550..551, 6));
    assert!(!apart(0..100, 6) && !apart(500..550, 6) && !apart(551..600, 6));
    assert!(watch.care("other", 540..560, 6).is_none());
    assert_eq!(watch.care("events", 540..560, 6).unwrap().quarantined.len(), 1);
}

#[test]
fn an_epoch_that_panicked_is_taken_apart_until_it_is_committed_and_in_the_start_after() {
    let store = memory();
    let note = |run, operator: &str, epoch| {
        let panic = Fruitless { run, operator: operator.into(), epoch, message: "boom".into() };
        attempts::write_fruitless(&*store, &panic).unwrap();
    };
    let apart = |run, committed| apart_through(&*store, run, committed).unwrap();
    assert_eq!(apart(1, 0), 0);
    note(3, "sums", 7);
    assert_eq!((apart(4, 6), apart(5, 6), apart(4, 7), apart(5, 7)), (10, 10, 10, 0));
    // Other processes of the run that noted it have begun before.
    assert_eq!(apart(3, 6), 0);
    note(4, "filter", 9);
    note(5, "filter", 8);
    assert_eq!((apart(6, 6), apart(7, 7), apart(7, 8)), (11, 11, 0));
}

proptest! {
    #[test]
    fn the_order_in_which_attempts_are_found_decides_nothing(
        attempts in prop::collection::vec((1_u64..6, 0_u64..20, any::<bool>()), 0..12),
        end in 0_u64..20,
        turn in 0_usize..12,
    ) {
        let made = |(run, offset, again): &(u64, u64, bool)| Attempt { twice: *again, ..record(*run, *offset) };
        let attempts: Vec<Attempt> = attempts.iter().map(made).collect();
        let mut turned = attempts.clone();
        turned.rotate_left(turn.min(attempts.len()));
        let (one, other) = (decide(&[], &attempts, &committed(end)), decide(&[], &turned, &committed(end)));
        prop_assert!(one.quarantined.iter().all(|record| record.offset >= end));
        prop_assert_eq!(one, other);
    }
}
