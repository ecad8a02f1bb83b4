//! A stream that is split: every record is on exactly one side, whatever the number of workers and the crashes.

use crate::flow::Flow;
use crate::testing::{Ends, Script, Simulation};
use crate::time::{EventTime, minutes};
use crate::watermark::Watermarks;

/// The sides of a split and of a branch, and of a split of what a filter left.
const SIDES: [&str; 7] = ["even", "odd", "third_0", "third_1", "third_2", "small_even", "small_odd"];

fn sides(flow: &Flow<'_>, ends: &Ends<i64>) {
    let rule = Watermarks::out_of_order(minutes(2));
    let all = flow.source("numbers", ends.records()).event_time(|n: &i64| EventTime(*n), |_| None, rule);
    let (even, odd) = all.clone().split(|n| n % 2 == 0);
    let [first, second, others] = all.clone().branch(|n| usize::try_from(n % 5).unwrap());
    let (small_even, small_odd) = all.untimed().filter(|n| *n < 10).split(|n| n % 2 == 0);
    let timed = [even, odd, first, second, others].map(|side| side.untimed());
    for (side, stream) in SIDES.into_iter().zip(timed.into_iter().chain([small_even, small_odd])) {
        stream.sink(side, ends.sums(side, |n: &i64| (format!("{n:03}"), 1)));
    }
}

#[test]
fn every_record_is_on_exactly_one_side() {
    let step = |step: i64| (step * 30..(step + 1) * 30).map(|n| (EventTime(n), n));
    let script = (0..3).fold(Script::new(), |script, p| script.partition((p * 10..(p + 1) * 10).map(step)));
    let simulation = Simulation::new().seeds(0..4);
    simulation.repeats_itself(&script, sides);
    simulation.agrees_with_a_batch(&script, sides);

    let tables = simulation.run(1, &script, sides).tables;
    let of = |keep: fn(&i64) -> bool| (0..900).filter(keep).map(|n| (format!("{n:03}"), 1)).collect();
    let expected: [fn(&i64) -> bool; 7] = [
        |n| n % 2 == 0,
        |n| n % 2 == 1,
        |n| n % 5 == 0,
        |n| n % 5 == 1,
        |n| n % 5 >= 2,
        |n| *n < 10 && n % 2 == 0,
        |n| *n < 10 && n % 2 == 1,
    ];
    for (side, keep) in SIDES.into_iter().zip(expected) {
        assert_eq!(tables.rows(side), of(keep), "{side}");
    }
}
