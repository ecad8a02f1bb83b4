//! What a join shows of the records that come too late for it.

use std::sync::Arc;

use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::key;
use tidemill_dataflow::runtime::{RunContext, StopHandle, run};
use tidemill_dataflow::status::Status;
use tidemill_dataflow::testing::{Lines, context, memory, options, text};
use tidemill_dataflow::time::seconds;
use tidemill_dataflow::watermark::Watermarks;

use super::*;
use crate::join::{JoinOps, Within};

/// About 250 KiB of seconds with their numbers, of which seven come fifty minutes late.
fn records() -> Lines<(i64, u64)> {
    let line = |n: i64| {
        let late = if n % 701 == 3 { 3_000_000 } else { 0 };
        format!("{} {n:036}\n", n * 1_000 - late)
    };
    let parse = |text: &str| {
        let (time, number) = text.split_once(' ')?;
        Some((time.parse().ok()?, number.parse().ok()?))
    };
    Lines::new([(1_000..6_000).map(line).collect::<String>()], parse)
}

#[test]
fn late_records_of_both_sides_are_shown_to_those_who_watch() {
    let (store, lines, status) = (memory(), records(), Arc::new(Status::new("pairs")));
    let pairs = text("pairs", &store, |(left, right): &(u64, u64)| format!("{left} {right}"));
    let pipeline = move |flow: &Flow<'_>| {
        let records = flow
            .source("records", lines.clone())
            .event_time(|(time, _)| EventTime(*time), |_| None, Watermarks::out_of_order(seconds(1)))
            .shown(|(_, number)| format!("number {number}"));
        let side = |odd| records.clone().filter(move |(_, number)| number % 2 == odd).key_by(|_| key("t", "all"));
        let near = side(0).join_interval("near", side(1), Within::after(seconds(1))).late(Late::Drop);
        near.inner(|left, right| (left.1, right.1)).rows.sink("pairs", pairs());
    };
    let watched = RunContext { status: Arc::clone(&status), ..context(&store) };
    let report = run(pipeline, &options(2), watched, &StopHandle::default()).unwrap();

    let shown = status.snapshot().samples.late;
    let numbers: Vec<u64> = shown.iter().map(|sample| sample.payload["number ".len()..].parse().unwrap()).collect();
    assert!(shown.iter().all(|sample| sample.operator == "near"), "{shown:?}");
    assert_eq!(numbers.len() as u64, report.state.counts()["near/late"], "{numbers:?}");
    assert!(numbers.iter().all(|number| number % 701 == 3), "{numbers:?}");
    assert!([0, 1].into_iter().all(|odd| numbers.iter().any(|number| number % 2 == odd)), "{numbers:?}");
}
