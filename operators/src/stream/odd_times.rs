//! Times that are not as they should be, in whole runs: what becomes of the records, and of everybody else's.

use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::key;
use tidemill_dataflow::testing::{Ends, Outcome, Script, Simulation};
use tidemill_dataflow::time::{EventTime, hours, minutes};
use tidemill_dataflow::watermark::Watermarks;

use super::{Horizon, Identity, KeyedStreamOps, StreamOps};
use crate::aggregate::count;
use crate::window::tumbling::{Late, Tumbling, WindowRow};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
/// Ten o'clock on a day of 2026.
const TEN: i64 = 1_767_225_600_000 + 10 * HOUR;

/// An event and its number.
type Event = (EventTime, u64);

/// One partition: the events of each step, as minutes from ten o'clock.
fn script(partitions: &[&[&[i64]]]) -> Script<u64> {
    let mut number = 0;
    partitions.iter().fold(Script::new(), |script, steps| {
        let step = |minutes: &&[i64]| {
            let of = |minute: &i64| {
                number += 1;
                (EventTime(TEN + minute * MINUTE), number)
            };
            minutes.iter().map(of).collect::<Vec<_>>()
        };
        script.partition(steps.iter().map(step).collect::<Vec<_>>())
    })
}

/// Counts by minute under each late policy, with and without deduplication before.
fn pipeline(flow: &Flow<'_>, ends: &Ends<u64>) {
    let events = flow.source("events", ends.source()).event_time(
        |(time, _): &Event| *time,
        |_| None,
        Watermarks::out_of_order(minutes(2)),
    );
    let counted = |row: &WindowRow<i64>| (at(row.start), row.value);
    let by_minute = |id, late| {
        let all = events.clone().key_by(|_| key("default", "all"));
        all.window(id, Tumbling::of(minutes(1)).late(late)).aggregate_and_late(count())
    };
    by_minute("corrected", Late::Correct).0.sink("corrected_table", ends.sums("corrected", counted));
    by_minute("dropped", Late::Drop).0.sink("dropped_table", ends.sums("dropped", counted));
    let (sided, aside) = by_minute("sided", Late::Side);
    sided.sink("sided_table", ends.sums("sided", counted));
    aside.sink("aside_table", ends.sums("aside", |(time, _): &Event| (at(*time), 1)));
    let judged = events.clone().dedup(
        "unique",
        |(_, n)| Identity { id: u128::from(*n), fingerprint: 0 },
        Horizon::event_time(hours(1)),
    );
    judged.unique.sink("unique_table", ends.sums("unique", |(time, _): &Event| (at(*time), 1)));
    judged.unverified.sink("unverified_table", ends.sums("unverified", |(time, _): &Event| (at(*time), 1)));
}

/// A time as minutes from ten o'clock.
fn at(time: EventTime) -> String {
    ((time.0 - TEN).div_euclid(MINUTE)).to_string()
}

/// The outcome, once it is known to be the same after crashes and on other numbers of workers.
fn outcome(script: &Script<u64>) -> Outcome {
    let simulation = Simulation::new().seeds(0..3);
    simulation.repeats_itself(script, pipeline);
    simulation.run(0, script, pipeline)
}

fn counter(outcome: &Outcome, name: &str) -> u64 {
    outcome.counts.get(name).copied().unwrap_or(0)
}

#[track_caller]
fn check(outcome: &Outcome, table: &str, expected: &[(i64, i64)]) {
    let expected = expected.iter().map(|(minute, n)| (minute.to_string(), *n)).collect();
    assert_eq!(outcome.tables.rows(table), expected, "{table}");
}

#[test]
fn an_event_three_days_late_corrects_goes_aside_or_is_dropped_as_the_policy_says_and_is_unverified() {
    let three_days = -3 * 24 * 60;
    let outcome = outcome(&script(&[&[&[0, 1], &[2, 5], &[three_days, 6]]]));
    let timely = [(0, 1), (1, 1), (2, 1), (5, 1), (6, 1)];
    check(&outcome, "corrected", &[&timely[..], &[(three_days, 1)]].concat());
    check(&outcome, "dropped", &timely);
    check(&outcome, "sided", &timely);
    check(&outcome, "aside", &[(three_days, 1)]);
    check(&outcome, "unverified", &[(three_days, 1)]);
    check(&outcome, "unique", &timely);
    let late = ["corrected", "dropped", "sided"].map(|id| counter(&outcome, &format!("{id}/late")));
    assert_eq!((late, counter(&outcome, "unique/unverified")), ([1; 3], 1));
}

#[test]
fn a_clock_that_is_set_back_holds_no_window_open_and_loses_nothing() {
    // At ten past, the producer's clock goes back by half an hour, and on from there.
    let outcome = outcome(&script(&[&[&[0, 5], &[10], &[-20, -19], &[-18], &[11, 12]]]));
    let all = [(-20, 1), (-19, 1), (-18, 1), (0, 1), (5, 1), (10, 1), (11, 1), (12, 1)];
    check(&outcome, "corrected", &all);
    check(&outcome, "aside", &all[..3]);
    check(&outcome, "sided", &all[3..]);
    check(&outcome, "unique", &all);
    assert_eq!(counter(&outcome, "corrected/late"), 3);
}

#[test]
fn a_time_in_the_far_future_makes_nobody_elses_events_late() {
    let (next_year, next) = (365 * 24 * 60, 1);
    let outcome = outcome(&script(&[&[&[0], &[next_year], &[next, 2], &[3]]]).unvouched());
    let all = [(0, 1), (1, 1), (2, 1), (3, 1), (next_year, 1)];
    check(&outcome, "corrected", &all);
    check(&outcome, "dropped", &all);
    check(&outcome, "unique", &all);
    assert_eq!(counter(&outcome, "dropped/late") + counter(&outcome, "unique/unverified"), 0);
}

#[test]
fn a_partition_a_day_ahead_of_another_makes_none_of_its_events_late() {
    let day: Vec<i64> = (0..24).map(|hour| hour * 60).collect();
    let later: Vec<i64> = day.iter().map(|minute| minute + 24 * 60).collect();
    let steps = |minutes: &[i64]| minutes.iter().map(|minute| vec![*minute]).collect::<Vec<_>>();
    let (early, ahead) = (steps(&day), steps(&later));
    let [early, ahead] =
        [&early, &ahead].map(|hours: &Vec<Vec<i64>>| hours.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let outcome = outcome(&script(&[&ahead, &early]));
    let all: Vec<(i64, i64)> = day.iter().chain(&later).map(|minute| (*minute, 1)).collect();
    check(&outcome, "dropped", &all);
    check(&outcome, "unique", &all);
    assert_eq!(counter(&outcome, "dropped/late") + counter(&outcome, "unique/unverified"), 0);
}
