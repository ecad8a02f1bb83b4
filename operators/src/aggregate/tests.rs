//! The laws that let partial values be combined on any worker, in any order.

use proptest::prelude::*;
use tidemill_dataflow::time::EventTime;

use super::*;

#[derive(Clone, Debug)]
struct Record {
    time: i64,
    value: i64,
    text: String,
}

fn all() -> impl Aggregate<Record, Partial: PartialEq + std::fmt::Debug> {
    (
        count(),
        (sum(|r: &Record| r.value), sum_decimal(|r: &Record| i128::from(r.value) << 70)),
        (min(|r: &Record| r.value), max(|r: &Record| r.value)),
        first(|r: &Record| (EventTime(r.time), r.text.as_bytes())),
        last(|r: &Record| (EventTime(r.time), r.text.as_bytes())),
        (distinct(|r: &Record| r.value.unsigned_abs() % 50), mean(|r: &Record| r.value), sketches()),
    )
}

/// A sketch that stays small and one that does not, quantiles of integers and floats, a float that cancels itself.
fn sketches() -> impl Aggregate<Record, Partial: PartialEq + std::fmt::Debug> {
    let float = |r: &Record| f64::from_bits(r.value.cast_unsigned().rotate_left(11));
    (
        approx_distinct(|r: &Record| r.value.unsigned_abs() % 50),
        approx_distinct(|r: &Record| r.value.cast_unsigned()),
        quantiles(|r: &Record| r.value, 0.01),
        quantiles_float(float, 0.1),
        sum_float(float),
        sum_float(|r: &Record| r.value as f64 * 1e-3),
    )
}

fn over<A: Aggregate<Record>>(aggregate: &A, records: &[Record]) -> A::Partial {
    let mut partial = A::Partial::default();
    records.iter().for_each(|record| aggregate.add(&mut partial, record));
    partial
}

fn merged<A: Aggregate<Record>>(aggregate: &A, mut into: A::Partial, from: A::Partial) -> A::Partial {
    aggregate.merge(&mut into, from);
    into
}

fn bytes<A: Aggregate<Record>>(aggregate: &A, mut partial: A::Partial) -> Vec<u8> {
    aggregate.finish(&mut partial);
    postcard::to_stdvec(&partial).unwrap()
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let value = prop_oneof![any::<i64>(), -5i64..5];
    let record = (0i64..4, value, "[ab]{0,2}").prop_map(|(time, value, text)| Record { time, value, text });
    prop::collection::vec(record, 0..300)
}

proptest! {
    #[test]
    fn merging_is_commutative_and_associative_to_the_byte(a in records(), b in records(), c in records()) {
        let all = all();
        let (a, b, c) = (over(&all, &a), over(&all, &b), over(&all, &c));
        let left = merged(&all, merged(&all, a.clone(), b.clone()), c.clone());
        let right = merged(&all, a.clone(), merged(&all, b.clone(), c.clone()));
        let turned = merged(&all, c, merged(&all, b, a.clone()));
        let expected = bytes(&all, left);
        prop_assert_eq!(&expected, &bytes(&all, right));
        prop_assert_eq!(&expected, &bytes(&all, turned));
        let neutral = merged(&all, Default::default(), a.clone());
        prop_assert_eq!(bytes(&all, a), bytes(&all, neutral));
    }

    #[test]
    fn adding_in_any_order_equals_adding_in_parts(records in records(), cut in 0usize..300) {
        let all = all();
        let cut = cut.min(records.len());
        let parts = merged(&all, over(&all, &records[cut..]), over(&all, &records[..cut]));
        prop_assert_eq!(bytes(&all, over(&all, &records)), bytes(&all, parts));
    }

    #[test]
    fn any_number_of_parts_merged_in_any_order_are_equal_bytes(records in records(), parts in 1usize..8, turn in 0usize..8) {
        let all = all();
        // The records dealt out, one part after the other or the other way round, from any of them on.
        let dealt = |part: usize| records.iter().skip(part).step_by(parts).cloned().collect::<Vec<_>>();
        let order = (0..parts).map(|n| (n + turn) % parts);
        let merge = |into, part| merged(&all, into, over(&all, &dealt(part)));
        let forth = order.clone().fold(Default::default(), merge);
        let back = order.rev().fold(Default::default(), merge);
        let expected = bytes(&all, over(&all, &records));
        prop_assert_eq!(&expected, &bytes(&all, forth));
        prop_assert_eq!(&expected, &bytes(&all, back));
    }

    #[test]
    fn what_was_stored_comes_back_and_goes_on(records in records(), more in records()) {
        let all = all();
        let stored = bytes(&all, over(&all, &records));
        let restored = postcard::from_bytes(&stored).unwrap();
        prop_assert_eq!(&stored, &bytes(&all, restored));
        let go_on = |partial| bytes(&all, merged(&all, partial, over(&all, &more)));
        prop_assert_eq!(go_on(postcard::from_bytes(&stored).unwrap()), go_on(over(&all, &records)));
    }

    #[test]
    fn finishing_twice_changes_nothing(records in records()) {
        let all = all();
        let mut partial = over(&all, &records);
        all.finish(&mut partial);
        let once = partial.clone();
        all.finish(&mut partial);
        prop_assert_eq!(once, partial);
    }
}

#[test]
fn partial_values_that_change_their_form_obey_the_laws_too() {
    // More distinct values than a sparse sketch holds, dealt to parts that are sparse, dense, and one of each.
    let sketches = sketches();
    let record = |n: i64| Record {
        time: 0,
        value: n.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed()),
        text: String::new(),
    };
    let records: Vec<_> = (0..9_000).map(record).collect();
    let expected = bytes(&sketches, over(&sketches, &records));
    for cuts in [vec![], vec![3_000, 6_000], vec![100, 8_900], vec![2_000, 4_000, 6_000, 8_000], vec![4_500]] {
        let mut parts = Vec::new();
        let mut rest = &records[..];
        for at in cuts.iter().rev() {
            let (before, part) = rest.split_at(*at);
            parts.push(over(&sketches, part));
            rest = before;
        }
        parts.push(over(&sketches, rest));
        let forth = parts.iter().cloned().reduce(|into, from| merged(&sketches, into, from)).unwrap();
        let back = parts.into_iter().rev().reduce(|into, from| merged(&sketches, into, from)).unwrap();
        assert_eq!(bytes(&sketches, forth), expected, "{cuts:?}");
        assert_eq!(bytes(&sketches, back), expected, "{cuts:?}");
    }
}

#[test]
fn values_are_those_of_a_plain_loop() {
    let record = |time, value, text: &str| Record { time, value, text: text.into() };
    let (n, (sum, units), (min, max), first, last, (hashes,)) = {
        let records = [record(3, 7, "c"), record(1, -2, "b"), record(1, 7, "a"), record(3, 7, "d")];
        let aggregate = (
            count(),
            (sum(|r: &Record| r.value), sum_decimal(|r: &Record| i128::from(r.value))),
            (min(|r: &Record| r.value), max(|r: &Record| r.value)),
            first(|r: &Record| (EventTime(r.time), r.text.as_bytes())),
            last(|r: &Record| (EventTime(r.time), r.text.as_bytes())),
            (distinct(|r: &Record| r.value.unsigned_abs()),),
        );
        let mut partial = over(&aggregate, &records);
        aggregate.finish(&mut partial);
        partial
    };
    assert_eq!((n, sum, units, min, max), (4, 19, 19, Some(-2), Some(7)));
    assert_eq!((first.unwrap().bytes, last.unwrap().bytes), (b"a".to_vec(), b"d".to_vec()));
    assert_eq!(hashes, Hashes(vec![2, 7]));
}

#[test]
fn a_hot_cell_keeps_few_hashes_however_often_they_come() {
    let users = distinct(|n: &u64| n % 10);
    let mut partial = Hashes::default();
    (0..100_000).for_each(|n| users.add(&mut partial, &n));
    assert!(partial.0.capacity() <= 2 * UNCOMPACTED_CELL, "{}", partial.0.capacity());
}

/// What the list of a cell with ten users may grow to.
const UNCOMPACTED_CELL: usize = 64;
