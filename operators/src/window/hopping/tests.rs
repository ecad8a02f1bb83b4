//! Hopping windows against a list of all windows of each view.

use std::rc::Rc;

use proptest::prelude::*;
use tidemill_dataflow::time::{minutes, seconds};

use super::*;
use crate::aggregate::distinct;
use crate::window::cells::MergeLogic;
use crate::window::laws::{View, check_deltas, given, naive_windows, script, windower};
use crate::window::tumbling::Tumbling;
use crate::window::windowed::Deltas;

fn of(width: i64, step: i64) -> Hopping {
    let span = |millis: i64| Duration::from_millis(millis.unsigned_abs());
    Hopping::of(span(width)).every(span(step))
}

fn starts(windows: &Hopping, time: i64) -> Vec<i64> {
    let mut starts: Vec<_> = windows.windows(EventTime(time)).map(|start| start.0).collect();
    assert!(starts.is_sorted_by(|a, b| a > b), "the latest comes first");
    starts.reverse();
    starts
}

proptest! {
    #[test]
    fn a_time_is_in_every_window_that_holds_it(width in 1i64..60, step in 1i64..60, time in -200i64..200) {
        prop_assume!(step <= width);
        let windows = of(width, step);
        prop_assert_eq!(starts(&windows, time), naive_windows(time, width, step));
        // All times of its slice are in the same windows, and those around it are in others.
        let (start, length) = windows.slice(EventTime(time));
        prop_assert!((start.0..start.0 + length).contains(&time));
        for inside in start.0..start.0 + length {
            prop_assert_eq!(windows.slice(EventTime(inside)), (start, length));
            prop_assert_eq!(starts(&windows, inside), starts(&windows, time));
        }
        prop_assert_ne!(starts(&windows, start.0 - 1), starts(&windows, time));
        prop_assert_ne!(starts(&windows, start.0 + length), starts(&windows, time));
    }

    #[test]
    fn a_record_is_late_when_all_of_its_windows_are_complete(
        width in 1i64..40, step in 1i64..40, time in -50i64..50, before in prop::option::of(-100i64..150),
    ) {
        prop_assume!(step <= width);
        let (windows, before) = (of(width, step), before.map(EventTime));
        let complete = naive_windows(time, width, step).iter().filter(|s| before >= Some(EventTime(*s + width))).count();
        let all = naive_windows(time, width, step).len();
        prop_assert_eq!(windows.is_late(EventTime(time), before), complete == all);
        prop_assert_eq!(windows.missed(EventTime(time), before), complete);
    }

    #[test]
    fn an_epoch_adds_to_each_window_what_came_for_it(
        script in script(90), workers in prop::collection::vec(1u32..5, 8), step in 1i64..=20,
        policy in prop::sample::select(vec![Late::Correct, Late::Side, Late::Drop]),
    ) {
        check_deltas(&of(20, step).late(policy), (20, step), &script, &workers);
    }

    #[test]
    fn windows_side_by_side_are_tumbling_ones(script in script(90), workers in prop::collection::vec(1u32..5, 8)) {
        let (hopping, tumbling) = (of(20, 20).late(Late::Drop), Tumbling::of(Duration::from_millis(20)).late(Late::Drop));
        let aggregate = Rc::new(distinct(|v: &View| u64::from(v.user)));
        let hop = || (Deltas(windower(&hopping, 0, &aggregate)), MergeLogic::new(&hopping, Rc::clone(&aggregate)));
        let tumble = || (Deltas(windower(&tumbling, 0, &aggregate)), MergeLogic::new(&tumbling, Rc::clone(&aggregate)));
        prop_assert_eq!(given(&hop, &script, &workers), given(&tumble, &script, &workers));
    }
}

#[test]
fn a_step_of_zero_and_one_longer_than_the_width_are_refused_and_say_what_to_do() {
    for (step, told) in [(Duration::ZERO, "0 ms"), (minutes(2), "120000 ms"), (Duration::MAX, "from 6 ms to its width")]
    {
        let error = Hopping::of(minutes(1)).every(step).validate().unwrap_err().to_string();
        assert!(error.contains("the step") && error.contains(told) && error.contains("give it another"), "{error}");
    }
    let error = Hopping::of(Duration::ZERO).validate().unwrap_err();
    assert_eq!(error.what, "the width of a hopping window");
    for step in [seconds(60), seconds(7), Duration::from_millis(6)] {
        assert_eq!(Hopping::of(minutes(1)).every(step).validate(), Ok(()));
    }
    assert_eq!(Hopping::stand_in().validate(), Ok(()));
}

#[test]
fn a_step_that_puts_an_event_in_too_many_windows_is_refused_with_the_least_that_does_not() {
    let error = Hopping::of(minutes(24 * 60)).every(Duration::from_millis(1)).validate().unwrap_err().to_string();
    assert!(error.contains("from 8640 ms to its width (an event is in at most 10,000 windows)"), "{error}");
    for (width, least) in [(10_000, 1), (10_001, 2), (20_000, 2), (20_001, 3)] {
        let most = (0..20).map(|time| starts(&of(width, least), time).len()).max();
        assert!(most <= Some(10_000) && of(width, least).validate().is_ok(), "{width} ms every {least} ms: {most:?}");
        let refusal = of(width, least - 1).validate().unwrap_err();
        assert_eq!((refusal.millis, refusal.least), (least - 1, least));
    }
}

#[test]
fn the_ends_of_time_overflow_nothing() {
    let windows = of(10, 3);
    for time in [i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX] {
        let _ = windows.slice(EventTime(time));
        assert!(windows.windows(EventTime(time)).count() >= 1);
        assert!(!windows.is_late(EventTime(time), Some(EventTime(i64::MIN))));
    }
}

#[test]
fn the_plan_says_width_and_step() {
    assert_eq!(Hopping::of(minutes(10)).every(minutes(1)).to_string(), "hopping 600000 ms every 60000 ms");
}
