//! The lookup against a search through all versions, recomputed after every epoch.

use std::rc::Rc;

use proptest::prelude::*;

use super::*;
use crate::join::laws::{self, Counted, Given, Parts, Rec, Step, Workers};

const CORRECTABLE: i64 = 60;

/// A fact, the value that was valid, and the sign.
type Row = (Rec, Option<u8>, i8);
type Join = LookupLogic<Rec, u8, fn(&Rec, Option<&u8>, i8) -> Row>;

/// What a record says of its key: id 0 deletes it.
fn value(rec: &Rec) -> Option<u8> {
    (rec.id > 0).then_some(rec.id)
}

fn parts(answers: Answers, policy: Late) -> Rc<Parts<Join>> {
    let lateness = Lateness::of_records(policy, Duration::from_millis(CORRECTABLE.unsigned_abs()));
    let logic = move || {
        let give = |fact: &Rec, value: Option<&u8>, sign| (*fact, value.copied(), sign);
        LookupLogic::new(lateness, answers, give as _)
    };
    let tags =
        laws::Tags { left: |time, rec| Side::Left(time, *rec), right: |time, rec| Side::Right(time, value(rec)) };
    Rc::new(Parts { lateness, tags, logic: Rc::new(logic) })
}

/// The value of all versions that was valid at the time of a fact.
fn valid(versions: &[Rec], fact: Rec) -> Option<u8> {
    let until = versions.iter().filter(|version| version.key == fact.key && version.time <= fact.time);
    until.map(|version| (version.time, value(version))).max()?.1
}

fn counted(policy: Late, script: &[Step]) -> Counted {
    let grace = if policy == Late::Correct { CORRECTABLE } else { 0 };
    Counted::of(script, |time| time + 1 + grace)
}

fn check_corrected(policy: Late, script: &[Step], epochs: &[Given<Row>]) {
    let counted = counted(policy, script);
    laws::check_late(epochs, policy, counted.refused);
    let mut rows = Vec::new();
    for (at, given) in epochs.iter().enumerate() {
        rows.extend(given.rows.iter().map(|&(fact, value, sign)| ((fact, value), sign)));
        let (facts, versions) = counted.through(at);
        let all = facts.iter().map(|&fact| ((fact, valid(&versions, fact)), 1));
        assert_eq!(laws::fold(rows.iter().copied()), laws::fold(all), "epoch {at}");
    }
}

fn check_once_closed(policy: Late, script: &[Step], epochs: &[Given<Row>]) {
    let counted = counted(policy, script);
    laws::check_late(epochs, policy, counted.refused);
    for (at, (step, given)) in script.iter().zip(epochs).enumerate() {
        let versions = counted.through(at).1;
        // A fact is answered in the first epoch, from its own on, under whose watermark its time is over.
        let over = |epoch: usize, fact: Rec| fact.time < script[epoch].after;
        let now = |came: usize, fact: Rec| fact.time < step.after && !(came..at).any(|epoch| over(epoch, fact));
        let answered = counted.left.iter().filter(|&&(came, fact)| came <= at && now(came, fact));
        let mut rows: Vec<_> = answered.map(|&(_, fact)| (fact, valid(&versions, fact), 1)).collect();
        rows.sort();
        assert_eq!(given.rows, rows, "epoch {at}");
    }
}

proptest! {
    #[test]
    fn corrected_answers_are_at_every_epoch_those_of_all_facts_and_versions_that_count(
        script in laws::script(150), workers in prop::collection::vec(1u32..5, 6), policy in laws::policies(),
    ) {
        let given = laws::given(&parts(Answers::Corrected, policy), &script, &workers);
        check_corrected(policy, &script, &given);
    }

    #[test]
    fn an_answer_once_closed_is_given_when_its_time_is_over_from_the_versions_that_came(
        script in laws::script(150), workers in prop::collection::vec(1u32..5, 6), policy in laws::policies(),
    ) {
        let given = laws::given(&parts(Answers::OnceClosed, policy), &script, &workers);
        check_once_closed(policy, &script, &given);
    }

    #[test]
    fn without_late_records_both_ways_of_answering_end_with_the_same_rows(script in laws::script(1)) {
        let last = EventTime(script.last().map_or(0, |step| step.after) + 1_000);
        let run = |answers| {
            let mut workers = Workers::new(1, &parts(answers, Late::Drop));
            let step = |step: &Step| (step.left.clone(), step.right.clone(), EventTime(step.after));
            let steps = script.iter().map(step).chain([(vec![], vec![], last)]);
            let rows = steps.flat_map(|(left, right, after)| {
                let on_time = |recs: Vec<Rec>, before: Watermark| {
                    recs.into_iter().filter(|rec| Some(EventTime(rec.time)) >= before).collect::<Vec<_>>()
                };
                let before = workers.watermark();
                workers.epoch(&on_time(left, before), &on_time(right, before), Some(after)).rows
            });
            laws::fold(rows.map(|(fact, value, sign)| ((fact, value), sign)).collect::<Vec<_>>())
        };
        prop_assert_eq!(run(Answers::Corrected), run(Answers::OnceClosed));
    }

    #[test]
    fn only_the_latest_value_of_a_key_that_is_not_deleted_stays(
        script in laws::script(60), policy in laws::policies(),
        answers in prop::sample::select(vec![Answers::Corrected, Answers::OnceClosed]),
    ) {
        let mut workers = Workers::new(2, &parts(answers, policy));
        for step in &script {
            workers.epoch(&step.left, &step.right, Some(EventTime(step.after)));
        }
        let after = script.last().map_or(0, |step| step.after) + 200;
        workers.epoch(&[], &[], Some(EventTime(after)));
        let versions = counted(policy, &script).through(script.len()).1;
        let at_the_end = |key| valid(&versions, Rec { key, time: i64::MAX, id: 0 });
        let live = (0..3).filter(|&key| at_the_end(key).is_some()).count();
        prop_assert_eq!(workers.entries(), live as u64);
        // Deleting the rest leaves nothing.
        let gone: Vec<_> = (0..3).map(|key| Rec { key, time: after, id: 0 }).collect();
        workers.epoch(&[], &gone, Some(EventTime(after)));
        workers.epoch(&[], &[], Some(EventTime(after + 1 + CORRECTABLE)));
        prop_assert_eq!(workers.entries(), 0);
    }
}

fn rec(time: i64, id: u8) -> Rec {
    Rec { key: 0, time, id }
}

#[test]
fn a_version_that_comes_after_its_facts_corrects_those_that_it_is_valid_for() {
    let mut run = Workers::new(1, &parts(Answers::Corrected, Late::Correct));
    let facts = [rec(10, 0), rec(20, 0), rec(30, 0)];
    let first = run.epoch(&facts, &[rec(5, 1), rec(25, 2)], Some(EventTime(40)));
    assert_eq!(first.rows, [(facts[0], Some(1), 1), (facts[1], Some(1), 1), (facts[2], Some(2), 1)]);
    let late = run.epoch(&[], &[rec(15, 3)], Some(EventTime(40)));
    assert_eq!(late.rows, [(facts[1], Some(1), -1), (facts[1], Some(3), 1)]);
    assert_eq!((late.counts["late"], late.counts["corrected"]), (1, 1));
    // A version that says the same again changes nothing; a deletion does.
    assert_eq!(run.epoch(&[], &[rec(16, 3)], Some(EventTime(40))).rows, []);
    let deleted = run.epoch(&[], &[rec(17, 0)], Some(EventTime(40)));
    assert_eq!(deleted.rows, [(facts[1], None, 1), (facts[1], Some(3), -1)]);
}

#[test]
fn of_versions_of_one_time_the_largest_value_is_valid_whichever_came_first() {
    for order in [[1, 2], [2, 1]] {
        let mut run = Workers::new(1, &parts(Answers::OnceClosed, Late::Drop));
        order.iter().for_each(|&id| assert_eq!(run.epoch(&[], &[rec(5, id)], None).rows, []));
        assert_eq!(run.epoch(&[rec(5, 0)], &[], Some(EventTime(6))).rows, [(rec(5, 0), Some(2), 1)]);
    }
}
