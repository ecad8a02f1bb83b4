//! The window join against a loop over all pairs, recomputed after every epoch.

use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::join::laws::{self, Counted, Given, Parts, Rec, Step, Workers};
use crate::window::tumbling::Late;

const WIDTH: i64 = 40;
const CORRECTABLE: i64 = 60;

type Row = (Option<Rec>, Option<Rec>, i8);
type Join = WindowLogic<Rec, Rec, fn(Option<&Rec>, Option<&Rec>, i8) -> Row>;

fn parts(unmatched: Unmatched, policy: Late) -> Rc<Parts<Join>> {
    let lateness = Lateness::of_windows(WIDTH, policy, Duration::from_millis(CORRECTABLE.unsigned_abs()));
    let logic = move || {
        let give = |left: Option<&Rec>, right: Option<&Rec>, sign| (left.copied(), right.copied(), sign);
        WindowLogic::new(WIDTH, lateness, unmatched, give as _)
    };
    let tags = laws::Tags { left: |time, rec| Side::Left(time, *rec), right: |time, rec| Side::Right(time, *rec) };
    Rc::new(Parts { lateness, tags, logic: Rc::new(logic) })
}

fn start(rec: Rec) -> i64 {
    rec.time.div_euclid(WIDTH) * WIDTH
}

/// The rows of all records that came through epoch `at`, under the watermark after it.
fn expected(unmatched: Unmatched, counted: &Counted, at: usize, after: i64) -> Vec<(Option<Rec>, Option<Rec>)> {
    let (lefts, rights) = counted.through(at);
    let together = |left: Rec, right: Rec| left.key == right.key && start(left) == start(right);
    let mut rows = Vec::new();
    for &left in &lefts {
        let partners = rights.iter().filter(|&&right| together(left, right));
        rows.extend(partners.map(|&right| (Some(left), Some(right))));
        let alone = !rights.iter().any(|&right| together(left, right)) && start(left) + WIDTH <= after;
        rows.extend((alone && unmatched != Unmatched::Neither).then_some((Some(left), None)));
    }
    for &right in &rights {
        let alone = !lefts.iter().any(|&left| together(left, right)) && start(right) + WIDTH <= after;
        rows.extend((alone && unmatched == Unmatched::Both).then_some((None, Some(right))));
    }
    rows
}

fn check(unmatched: Unmatched, policy: Late, script: &[Step], epochs: &[Given<Row>]) {
    let grace = if policy == Late::Correct { CORRECTABLE } else { 0 };
    let counted = Counted::of(script, |time| time.div_euclid(WIDTH) * WIDTH + WIDTH + grace);
    laws::check_late(epochs, policy, counted.refused);
    let mut rows = Vec::new();
    for (at, (step, given)) in script.iter().zip(epochs).enumerate() {
        rows.extend(given.rows.iter().map(|&(left, right, sign)| ((left, right), sign)));
        let all = expected(unmatched, &counted, at, step.after).into_iter().map(|row| (row, 1));
        assert_eq!(laws::fold(rows.iter().copied()), laws::fold(all), "epoch {at}");
    }
}

fn kinds() -> impl Strategy<Value = Unmatched> {
    prop::sample::select(vec![Unmatched::Neither, Unmatched::Left, Unmatched::Both])
}

proptest! {
    #[test]
    fn every_epoch_shows_the_join_of_all_records_that_count(
        script in laws::script(180), workers in prop::collection::vec(1u32..5, 6),
        unmatched in kinds(), policy in laws::policies(),
    ) {
        let given = laws::given(&parts(unmatched, policy), &script, &workers);
        check(unmatched, policy, &script, &given);
    }

    #[test]
    fn an_inner_join_is_the_same_however_epochs_are_cut(
        left in prop::collection::vec((0u8..3, 0i64..200, 0u8..2), 0..20),
        right in prop::collection::vec((0u8..3, 0i64..200, 0u8..2), 0..20),
        size in 1usize..8, workers in 1u32..5,
    ) {
        let rec = |&(key, time, id): &(u8, i64, u8)| Rec { key, time, id };
        let (left, right): (Vec<_>, Vec<_>) = (left.iter().map(rec).collect(), right.iter().map(rec).collect());
        let parts = parts(Unmatched::Neither, Late::Correct);
        let whole = Workers::new(1, &parts).epoch(&left, &right, None).rows;
        let mut cut = Workers::new(workers, &parts);
        let mut rows: Vec<_> = left.chunks(size).flat_map(|left| cut.epoch(left, &[], None).rows).collect();
        rows.extend(right.chunks(size + 1).flat_map(|right| cut.epoch(&[], right, None).rows));
        rows.sort();
        prop_assert_eq!(rows, whole);
    }

    #[test]
    fn state_is_empty_once_the_watermark_is_past_the_windows(
        script in laws::script(60), unmatched in kinds(), policy in laws::policies(),
    ) {
        let mut workers = Workers::new(2, &parts(unmatched, policy));
        for step in &script {
            workers.epoch(&step.left, &step.right, Some(EventTime(step.after)));
        }
        let latest = script.last().map_or(0, |step| step.after) + 60 + WIDTH;
        let grace = if policy == Late::Correct { CORRECTABLE } else { 0 };
        workers.epoch(&[], &[], Some(EventTime(latest + grace)));
        prop_assert_eq!(workers.entries(), 0);
    }
}

#[test]
fn a_late_partner_takes_back_that_there_was_none() {
    let rec = |time, id| Rec { key: 0, time, id };
    let mut run = Workers::new(1, &parts(Unmatched::Left, Late::Correct));
    let (left, right) = (rec(5, 1), rec(6, 2));
    assert_eq!(run.epoch(&[left], &[], Some(EventTime(39))).rows, []);
    assert_eq!(run.epoch(&[], &[], Some(EventTime(40))).rows, [(Some(left), None, 1)]);
    let corrected = run.epoch(&[], &[right], Some(EventTime(41)));
    assert_eq!(corrected.rows, [(Some(left), None, -1), (Some(left), Some(right), 1)]);
    assert_eq!(corrected.counts["late"], 1);
    // At the end of the correctable span the window is gone, and what comes for it is put aside.
    run.epoch(&[], &[], Some(EventTime(100)));
    assert_eq!(run.entries(), 0);
    let beyond = run.epoch(&[left], &[], Some(EventTime(100)));
    assert_eq!((beyond.rows.len(), beyond.late.0), (0, vec![left]));
}

#[test]
fn equal_records_pair_as_often_as_they_come() {
    let rec = Rec { key: 0, time: 5, id: 1 };
    let mut run = Workers::new(1, &parts(Unmatched::Neither, Late::Correct));
    assert_eq!(run.epoch(&[rec; 2], &[rec; 3], None).rows.len(), 6);
    assert_eq!(run.epoch(&[rec], &[], None).rows.len(), 3);
}
