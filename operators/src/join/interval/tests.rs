//! The interval join against a loop over all pairs, recomputed after every epoch.

use std::rc::Rc;

use proptest::prelude::*;
use tidemill_dataflow::time::{minutes, seconds};

use super::*;
use crate::join::laws::{self, Counted, Given, Parts, Rec, Step, Workers};

const CORRECTABLE: i64 = 60;

type Row = (Option<Rec>, Option<Rec>);
type Join = IntervalLogic<Rec, Rec, fn(Option<&Rec>, Option<&Rec>) -> Row>;

fn parts(within: Within, unmatched: Unmatched, policy: Late) -> Rc<Parts<Join>> {
    let lateness = Lateness::of_records(policy, Duration::from_millis(CORRECTABLE.unsigned_abs()));
    let logic = move || {
        let give = |left: Option<&Rec>, right: Option<&Rec>| (left.copied(), right.copied());
        IntervalLogic::new(within, lateness, unmatched, give as _)
    };
    let tags = laws::Tags { left: |time, rec| Side::Left(time, *rec), right: |time, rec| Side::Right(time, *rec) };
    Rc::new(Parts { lateness, tags, logic: Rc::new(logic) })
}

/// The rows of all records that came through epoch `at`; those without a partner once `over` says that none can come.
fn expected(
    within: Within,
    unmatched: Unmatched,
    (counted, at): (&Counted, usize),
    over: impl Fn(i64) -> bool,
) -> Vec<Row> {
    let (lefts, rights) = counted.through(at);
    let together = |l: Rec, r: Rec| l.key == r.key && (l.time + within.lower..=l.time + within.upper).contains(&r.time);
    let mut rows = Vec::new();
    for &left in &lefts {
        rows.extend(rights.iter().filter(|&&right| together(left, right)).map(|&right| (Some(left), Some(right))));
        let alone = !rights.iter().any(|&right| together(left, right)) && over(left.time + within.upper);
        rows.extend((alone && unmatched != Unmatched::Neither).then_some((Some(left), None)));
    }
    for &right in &rights {
        let alone = !lefts.iter().any(|&left| together(left, right)) && over(right.time - within.lower);
        rows.extend((alone && unmatched == Unmatched::Both).then_some((None, Some(right))));
    }
    rows.sort();
    rows
}

fn check(within: Within, unmatched: Unmatched, policy: Late, script: &[Step], epochs: &[Given<Row>]) {
    let grace = if policy == Late::Correct { CORRECTABLE } else { 0 };
    let counted = Counted::of(script, |time| time + 1 + grace);
    laws::check_late(epochs, policy, counted.refused);
    let mut rows = Vec::new();
    for (at, (step, given)) in script.iter().zip(epochs).enumerate() {
        rows.extend(given.rows.iter().copied());
        rows.sort();
        let over = |latest: i64| latest + grace < step.after;
        assert_eq!(rows, expected(within, unmatched, (&counted, at), over), "epoch {at}");
    }
}

fn intervals() -> impl Strategy<Value = Within> {
    (-80i64..80, 0i64..80).prop_map(|(lower, length)| Within::millis(lower, lower + length))
}

fn kinds() -> impl Strategy<Value = Unmatched> {
    prop::sample::select(vec![Unmatched::Neither, Unmatched::Left, Unmatched::Both])
}

proptest! {
    #[test]
    fn every_epoch_adds_the_pairs_of_all_records_that_count(
        script in laws::script(150), workers in prop::collection::vec(1u32..5, 6),
        within in intervals(), unmatched in kinds(), policy in laws::policies(),
    ) {
        let given = laws::given(&parts(within, unmatched, policy), &script, &workers);
        check(within, unmatched, policy, &script, &given);
    }

    #[test]
    fn pairs_are_the_same_however_epochs_are_cut(
        left in prop::collection::vec((0u8..3, 0i64..200, 0u8..2), 0..20),
        right in prop::collection::vec((0u8..3, 0i64..200, 0u8..2), 0..20),
        size in 1usize..8, workers in 1u32..5, within in intervals(),
    ) {
        let rec = |&(key, time, id): &(u8, i64, u8)| Rec { key, time, id };
        let (left, right): (Vec<_>, Vec<_>) = (left.iter().map(rec).collect(), right.iter().map(rec).collect());
        let parts = parts(within, Unmatched::Neither, Late::Correct);
        let whole = Workers::new(1, &parts).epoch(&left, &right, None).rows;
        let mut cut = Workers::new(workers, &parts);
        let mut rows: Vec<_> = right.chunks(size).flat_map(|right| cut.epoch(&[], right, None).rows).collect();
        rows.extend(left.chunks(size + 1).flat_map(|left| cut.epoch(left, &[], None).rows));
        rows.sort();
        prop_assert_eq!(rows, whole);
    }

    #[test]
    fn state_is_empty_once_no_partner_can_come(
        script in laws::script(60), within in intervals(), policy in laws::policies(),
    ) {
        let mut workers = Workers::new(2, &parts(within, Unmatched::Neither, policy));
        for step in &script {
            workers.epoch(&step.left, &step.right, Some(EventTime(step.after)));
        }
        let latest = script.last().map_or(0, |step| step.after) + 60;
        let reach = within.upper.max(-within.lower).max(0);
        let grace = if policy == Late::Correct { CORRECTABLE } else { 0 };
        workers.epoch(&[], &[], Some(EventTime(latest + reach + grace)));
        prop_assert_eq!(workers.entries(), 0);
    }
}

#[test]
fn both_ends_of_the_interval_belong_to_it() {
    let rec = |time| Rec { key: 0, time, id: 0 };
    let mut run = Workers::new(1, &parts(Within::millis(-5, 10), Unmatched::Neither, Late::Correct));
    let rights = [94, 95, 110, 111].map(rec);
    let rows = run.epoch(&[rec(100)], &rights, None).rows;
    assert_eq!(rows, [(Some(rec(100)), Some(rec(95))), (Some(rec(100)), Some(rec(110)))]);
}

#[test]
fn equal_records_pair_as_often_as_they_come() {
    let rec = Rec { key: 0, time: 5, id: 1 };
    let mut run = Workers::new(1, &parts(Within::millis(0, 0), Unmatched::Both, Late::Correct));
    assert_eq!(run.epoch(&[rec; 2], &[rec; 3], None).rows.len(), 6);
    assert_eq!(run.epoch(&[rec], &[], None).rows.len(), 3);
}

#[test]
fn a_record_without_partner_is_told_when_none_can_come_and_not_before() {
    let rec = |time| Rec { key: 0, time, id: 0 };
    let mut run = Workers::new(1, &parts(Within::millis(0, 10), Unmatched::Left, Late::Drop));
    assert_eq!(run.epoch(&[rec(100)], &[], Some(EventTime(110))).rows, []);
    assert_eq!(run.epoch(&[], &[], Some(EventTime(111))).rows, [(Some(rec(100)), None)]);
    assert_eq!(run.entries(), 0);
}

#[test]
fn an_interval_that_is_empty_or_endless_is_refused() {
    assert!(Within::millis(5, 5).validate().is_ok());
    assert!(Within::around(minutes(5)).validate().is_ok());
    assert!(Within::before(seconds(1)).validate().is_ok());
    let error = Within::millis(5, 3).validate().unwrap_err().to_string();
    assert!(error.contains("give it another"), "{error}");
    assert!(Within::after(Duration::MAX).validate().is_err());
    assert!(Within::millis(i64::MIN, 0).validate().is_err());
}
