//! Windows in whole runs: hopping deltas, upserts, final values and rankings of one stream, on any number of workers,
//! through crashes and rescales.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::hash::hash64;
use tidemill_dataflow::key::key;
use tidemill_dataflow::runtime::Build;
use tidemill_dataflow::stream::TimedStream;
use tidemill_dataflow::testing::{Lines, Store, attempt, by_epoch, dying_at, memory, text};
use tidemill_dataflow::time::{Epoch, EventTime, minutes, seconds};
use tidemill_dataflow::watermark::Watermarks;

use super::assigner::Late;
use super::cells::WindowRow;
use super::hopping::Hopping;
use super::top_k::RankChange;
use super::tumbling::Tumbling;
use crate::aggregate::{approx_distinct, count, mean, quantiles, quantiles_float, sum_float};
use crate::emission::WindowVersion;
use crate::stream::KeyedStreamOps;

/// A request.
#[derive(Clone)]
struct Request {
    time: i64,
    route: String,
    user: String,
    millis: i64,
}

fn parse(line: &str) -> Option<Request> {
    let mut words = line.split(' ');
    let (time, route, user) = (words.next()?.parse().ok()?, words.next()?.into(), words.next()?.into());
    Some(Request { time, route, user, millis: words.next()?.parse().ok()? })
}

const REQUESTS: i64 = 3 * 1_500;

/// About 300 KiB in three partitions; one request in thirteen is minutes late.
fn requests() -> Lines<Request> {
    let partition = |p: i64| {
        let line = |n: i64| {
            let late = if n % 13 == 5 { (n % 7) * 40_000 } else { 0 };
            let (time, route, user) = (n * 400 + p * 1_000 - late, (n * n + p) % 5, (n * 31 + p) % 97);
            format!("{time} /route-{route} user-{user:040} {}\n", (n * 37 + p) % 500)
        };
        (0..REQUESTS / 3).map(line).collect::<String>()
    };
    Lines::new((0..3).map(partition), parse)
}

fn source<'s>(flow: &Flow<'s>, lines: &Lines<Request>) -> TimedStream<'s, Request> {
    let rule = Watermarks::out_of_order(seconds(10));
    flow.source("requests", lines.clone()).event_time(|r| EventTime(r.time), |_| None, rule)
}

fn cell<P>(row: &WindowRow<P>) -> String {
    format!("{} {}", row.start.0, row.key.texts().1)
}

const TABLES: [&str; 6] = ["loads", "late_loads", "current", "finals", "late_finals", "top"];

fn pipeline(store: &Arc<dyn Store>) -> impl Build + Clone + use<> {
    let lines = requests();
    let request = |r: &Request| format!("{} {} {}", r.time, r.route, r.millis);
    let loads = text("loads", store, |row: &WindowRow<(i64, _)>| {
        let (count, mean): &(i64, crate::aggregate::SumAndCount) = &row.value;
        format!("{} {count} {:?}", cell(row), mean.mean())
    });
    let current = text("current", store, |of: &WindowVersion<(_, _)>| {
        let (millis, users): &(crate::aggregate::QuantileSketch, crate::aggregate::HyperLogLog) = &of.row.value;
        format!("{} {} {:?} {}", of.version, cell(&of.row), millis.quantile(0.9), users.estimate())
    });
    let finals = text("finals", store, |row: &WindowRow<(i64, crate::aggregate::ExactSum)>| {
        format!("{} {} {}", cell(row), row.value.0, row.value.1.value())
    });
    let top = text("top", store, |change: &RankChange| {
        let item = String::from_utf8_lossy(&change.item).into_owned();
        format!("{} {} {item} {} {}", change.start.0, change.rank, change.count, change.sign)
    });
    let (late_loads, late_finals) = (text("late_loads", store, request), text("late_finals", store, request));
    move |flow: &Flow<'_>| {
        let requests = source(flow, &lines);
        let by_route = || requests.clone().key_by(|r: &Request| key("t", r.route.as_str()));
        let hopping = Hopping::of(minutes(1)).every(seconds(20)).late(Late::Side);
        let (added, late_for_added) =
            by_route().window("load_windows", hopping).aggregate_and_late((count(), mean(|r: &Request| r.millis)));
        added.sink("loads", loads());
        late_for_added.sink("late_loads", late_loads());
        by_route()
            .window("current_windows", Tumbling::of(minutes(1)).late(Late::Drop))
            .upserts(seconds(30))
            .aggregate((
                quantiles(|r: &Request| r.millis, 0.01),
                approx_distinct(|r: &Request| hash64(r.user.as_bytes())),
            ))
            .sink("current", current());
        let (closed, late_for_closed) = by_route()
            .window("final_windows", Tumbling::of(minutes(1)).late(Late::Side))
            .once_closed()
            .correctable_for(seconds(30))
            .aggregate_and_late((count(), sum_float(|r: &Request| r.millis as f64 * 0.1)));
        closed.sink("finals", finals());
        late_for_closed.sink("late_finals", late_finals());
        requests
            .key_by(|_| key("t", "all"))
            .window("top_windows", hopping.late(Late::Drop))
            .top_k(3, |r: &Request| r.user.as_bytes(), minutes(1))
            .sink("top", top());
    }
}

type Tables = Vec<BTreeMap<Epoch, Vec<String>>>;

fn tables(store: &Arc<dyn Store>) -> Tables {
    TABLES.iter().map(|table| by_epoch(store, table)).collect()
}

/// What one worker makes of it without a crash.
fn undisturbed() -> Tables {
    let store = memory();
    let report = attempt(&pipeline(&store), &store, 1).unwrap();
    assert!(report.finished && report.epochs > 3, "{report:?}");
    let tables = tables(&store);
    assert!(tables.iter().all(|table| table.len() > 1), "every table has rows of several epochs");
    // Each request is in three windows, less what it missed, or aside.
    let lines = |table: usize| tables[table].values().flatten();
    let counted = |line: &String| line.split(' ').nth(2).unwrap().parse::<i64>().unwrap();
    let (late, counts) = (lines(1).count() as i64, report.state.counts());
    assert_eq!(counts["load_windows/late"], late.unsigned_abs());
    let missed = counts["load_windows/late_windows"].cast_signed();
    assert!(late > 0 && missed > 0);
    assert_eq!(lines(0).map(counted).sum::<i64>() + missed, 3 * (REQUESTS - late));
    // A final value comes once.
    let mut cells: Vec<_> = lines(3).map(|line| line.split(' ').take(2).collect::<Vec<_>>()).collect();
    let all = cells.len();
    cells.sort();
    cells.dedup();
    assert_eq!(cells.len(), all);
    tables
}

#[test]
fn every_emission_is_the_same_on_any_number_of_workers_and_after_any_crash() {
    let expected = undisturbed();
    for workers in [2, 3] {
        let store = memory();
        attempt(&pipeline(&store), &store, workers).unwrap();
        assert_eq!(tables(&store), expected, "{workers} workers");
    }
    for (first, second) in [(9, 30), (25, 14), (40, 41), (55, 7), (70, 22)] {
        let store = memory();
        for (step, workers) in [(first, 2), (second, 3)] {
            let dying = dying_at(&store, step);
            let _ = attempt(&pipeline(&dying), &dying, workers);
        }
        attempt(&pipeline(&store), &store, 1).unwrap();
        assert_eq!(tables(&store), expected, "crashes at steps {first} and {second}");
    }
}

#[test]
fn everything_that_is_wrong_with_windows_is_told_at_once() {
    let lines = requests();
    let build = move |flow: &Flow<'_>| {
        let requests = source(flow, &lines);
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
