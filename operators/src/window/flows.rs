//! Windows in whole runs: deltas, upserts, final values, rankings and every aggregate of one stream, on any number of
//! workers, through crashes and rescales, in other orders.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::hash::hash64;
use tidemill_dataflow::key::key;
use tidemill_dataflow::testing::{Ends, Lines, Script, Simulation, attempt, memory};
use tidemill_dataflow::time::{EventTime, minutes, seconds};
use tidemill_dataflow::watermark::Watermarks;

use super::assigner::Late;
use super::cells::WindowRow;
use super::hopping::Hopping;
use super::top_k::RankChange;
use super::tumbling::Tumbling;
use super::windowed::Windowed;
use crate::aggregate::{
    Aggregate, HyperLogLog, QuantileSketch, SumAndCount, approx_distinct, count, distinct, first, last, max, mean, min,
    quantiles, quantiles_float, sum, sum_decimal, sum_float,
};
use crate::emission::WindowVersion;
use crate::stream::KeyedStreamOps;

/// A request.
#[derive(Clone, Serialize, Deserialize)]
struct Request {
    route: String,
    user: String,
    millis: i64,
}

type Timed = (EventTime, Request);

const REQUESTS: i64 = 3 * 360;

/// Three partitions of twelve steps; one request in thirteen is minutes late.
fn requests() -> Script<Request> {
    let request = |p: i64, n: i64| {
        let late = if n % 13 == 5 { (n % 7) * 40_000 } else { 0 };
        let (route, user) = (format!("/{}", (n * n + p) % 5), format!("user-{}", (n * 31 + p) % 97));
        (EventTime(n * 1_700 + p * 1_000 - late), Request { route, user, millis: (n * 37 + p) % 500 })
    };
    (0..3).fold(Script::new(), |script, p| {
        let step = |step: i64| (step * 30..(step + 1) * 30).map(move |n| request(p, n));
        script.partition((0..REQUESTS / 90).map(step))
    })
}

fn cell<P>(row: &WindowRow<P>) -> String {
    format!("{} {}", row.start.0, row.key.texts().1)
}

fn milliseconds((_, r): &Timed) -> i64 {
    r.millis
}

/// All aggregates at once.
fn every_aggregate() -> impl Aggregate<Timed, Partial: Debug> {
    let tenths = |(_, r): &Timed| r.millis as f64 * 0.1;
    let user = |(_, r): &Timed| hash64(r.user.as_bytes());
    (
        (count(), sum(milliseconds), sum_decimal(|r: &Timed| i128::from(milliseconds(r)) << 70), mean(milliseconds)),
        (min(milliseconds), max(milliseconds), sum_float(tenths)),
        (first(|(time, r): &Timed| (*time, r.user.as_bytes())), last(|(time, r): &Timed| (*time, r.user.as_bytes()))),
        (distinct(user), approx_distinct(user)),
        (quantiles(milliseconds, 0.01), quantiles_float(tenths, 0.05)),
    )
}

const TABLES: [&str; 8] = ["loads", "millis", "late_loads", "minutes", "current", "finals", "late_finals", "top"];

fn pipeline(flow: &Flow<'_>, ends: &Ends<Request>) {
    let rule = Watermarks::out_of_order(seconds(10));
    let requests = flow.source("requests", ends.source()).event_time(|(time, _)| *time, |_| None, rule);
    let by_route = || requests.clone().key_by(|(_, r): &Timed| key("t", r.route.as_str()));
    let request = |(time, r): &Timed| (format!("{} {} {}", time.0, r.route, r.millis), 1);

    let hopping = Hopping::of(minutes(1)).every(seconds(20)).late(Late::Side);
    let (added, late_for_added) =
        by_route().window("load_windows", hopping).aggregate_and_late((count(), mean(milliseconds)));
    let load = |row: &WindowRow<(i64, SumAndCount)>| (cell(row), row.value.0);
    added.clone().sink("loads_table", ends.sums("loads", load));
    let sums = |row: &WindowRow<(i64, SumAndCount)>| (cell(row), i64::try_from(row.value.1.sum).unwrap());
    added.sink("millis_table", ends.sums("millis", sums));
    late_for_added.sink("late_loads_table", ends.sums("late_loads", request));

    let by_minute =
        by_route().window("minute_windows", Tumbling::of(minutes(1)).late(Late::Correct)).aggregate(count());
    by_minute.sink("minutes_table", ends.sums("minutes", |row: &WindowRow<i64>| (cell(row), row.value)));

    by_route()
        .window("current_windows", Tumbling::of(minutes(1)).late(Late::Drop))
        .upserts(seconds(30))
        .aggregate((quantiles(milliseconds, 0.01), approx_distinct(|(_, r): &Timed| hash64(r.user.as_bytes()))))
        .sink(
            "current_table",
            ends.latest("current", |of: &WindowVersion<(QuantileSketch, HyperLogLog)>| {
                let (millis, users) = &of.row.value;
                (cell(&of.row), of.version, format!("{:?} {}", millis.quantile(0.9), users.estimate()))
            }),
        );

    every(
        by_route().window("final_windows", Tumbling::of(minutes(1)).late(Late::Side)),
        every_aggregate(),
        request,
        ends,
    );

    requests
        .key_by(|_| key("t", "all"))
        .window("top_windows", hopping.late(Late::Drop))
        .top_k(3, |(_, r): &Timed| r.user.as_bytes(), minutes(1))
        .sink(
            "top_table",
            ends.sums("top", |change: &RankChange| {
                let item = String::from_utf8_lossy(&change.item);
                (format!("{} {} {item} {}", change.start.0, change.rank, change.count), i64::from(change.sign))
            }),
        );
}

/// The final value of each window, and the requests that came too late for it.
fn every<A: Aggregate<Timed, Partial: Debug>>(
    windows: Windowed<'_, Timed, Tumbling>,
    aggregate: A,
    request: impl Fn(&Timed) -> (String, i64) + Send + Sync + Clone + 'static,
    ends: &Ends<Request>,
) {
    let (closed, late) = windows.once_closed().correctable_for(seconds(30)).aggregate_and_late(aggregate);
    closed.sink(
        "finals_table",
        ends.sums("finals", |row: &WindowRow<A::Partial>| (format!("{} {:?}", cell(row), row.value), 1)),
    );
    late.sink("late_finals_table", ends.sums("late_finals", request));
}

#[test]
fn every_request_is_in_its_windows_or_aside_and_a_final_value_comes_once() {
    let outcome = Simulation::new().crashes(0).run(1, &requests(), pipeline);
    assert!(TABLES.iter().all(|table| outcome.written[table].len() > 1), "every table has rows of several epochs");
    let total = |table: &str| outcome.tables.rows(table).values().sum::<i64>();
    let counter = |name: &str| outcome.counts[name].cast_signed();
    let (late, missed) = (total("late_loads"), counter("load_windows/late_windows"));
    assert_eq!(counter("load_windows/late"), late);
    assert!(late > 0 && missed > 0);
    // Each request is in three windows, less what it missed, or aside.
    assert_eq!(total("loads") + missed, 3 * (REQUESTS - late));
    assert_eq!(total("minutes"), REQUESTS);
    let finals = outcome.tables.rows("finals");
    let mut cells: BTreeMap<_, i64> = BTreeMap::new();
    for (row, n) in &finals {
        let (start, rest) = row.split_once(' ').unwrap();
        *cells.entry((start, rest.split(' ').next())).or_default() += n;
    }
    assert!(cells.values().all(|n| *n == 1), "{cells:?}");
}

#[test]
fn every_emission_is_the_same_on_any_number_of_workers_and_after_any_crash() {
    Simulation::new().repeats_itself(&requests(), pipeline);
    Simulation::new().seeds(0..2).crashes(1).workers(2).processes(2).repeats_itself(&requests(), pipeline);
}

#[test]
fn a_live_run_read_again_in_its_cuts_decides_the_same_of_late_records() {
    Simulation::new().seeds(0..3).live(Duration::from_millis(20)).repeats_itself(&requests(), pipeline);
}

#[test]
fn without_late_records_every_emission_and_aggregate_equals_a_batch_in_whatever_order_records_come() {
    Simulation::new().disorder(seconds(8)).drained().agrees_with_a_batch(&requests(), pipeline);
}

#[test]
fn everything_that_is_wrong_with_windows_is_told_at_once() {
    let lines = Lines::new(["0\n"], |line| Some(Request { route: line.into(), user: "".into(), millis: 0 }));
    let build = move |flow: &Flow<'_>| {
        let rule = Watermarks::out_of_order(seconds(10));
        let requests = flow.source("requests", lines.clone()).event_time(|_| EventTime(0), |_| None, rule);
        let by_route = || requests.clone().key_by(|r: &Request| key("t", r.route.as_str()));
        let minute = Tumbling::of(minutes(1));
        let _ = by_route().window("steps", Hopping::of(minutes(1)).every(minutes(2))).aggregate(count());
        let _ = by_route().window("for_ever", minute).upserts(minutes(1)).aggregate(count());
        let _ =
            by_route().window("no_width", Tumbling::of(seconds(0)).late(Late::Drop)).once_closed().aggregate(count());
        let _ = by_route().window("no_place", minute.late(Late::Side)).top_k(0, |r| r.user.as_bytes(), minutes(1));
        let too_fine = quantiles(|r: &Request| r.millis, 1e-9);
        let _ = by_route().window("fine", minute).aggregate((count(), too_fine));
        let share = quantiles_float(|r: &Request| r.millis as f64, 2.0);
        let _ = by_route().window("coarse", minute.late(Late::Drop)).upserts(minutes(0)).aggregate((share,));
    };
    let error = attempt(&build, &memory(), 2).unwrap_err().to_string();
    let told = [
        "`steps`: the step of a hopping window is 120000 ms",
        "`for_ever`: values are held until 60000 ms",
        "`no_width`: the width of a tumbling window is 0 ms",
        "`no_place`: a ranking of 0 places",
        "`fine`: quantiles within a relative error of 0.000000001",
        "`coarse`: quantiles within a relative error of 2",
    ];
    for sentence in told {
        assert!(error.contains(sentence), "{sentence}\nis not in\n{error}");
    }
}
