//! What tests of shown samples need: a run over numbered lines of which a few come far too late, while somebody watches.

use std::sync::Arc;

use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::runtime::{RunContext, StopHandle, run};
use tidemill_dataflow::status::{SetAside, Status};
use tidemill_dataflow::stream::TimedStream;
use tidemill_dataflow::testing::{Lines, Store, context, options};
use tidemill_dataflow::time::{EventTime, seconds};
use tidemill_dataflow::watermark::Watermarks;

/// A record: its time, and its number.
pub(crate) type Numbered = (i64, u64);

/// About 250 KiB of seconds with their numbers, of which seven come fifty minutes late.
fn lines() -> Lines<Numbered> {
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

/// Runs a pipeline over the lines; gives the numbers of the late ones that were shown, after looking that they are the late
/// lines, all of `operator`, and as many as it counted as `counter`.
#[track_caller]
pub(crate) fn shown_as_late(
    store: &Arc<dyn Store>,
    (operator, counter): (&str, &str),
    pipeline: impl for<'s> Fn(TimedStream<'s, Numbered>) + Clone + Send + Sync + 'static,
) -> Vec<u64> {
    let (lines, status) = (lines(), Arc::new(Status::new("late")));
    let build = move |flow: &Flow<'_>| {
        let rule = Watermarks::out_of_order(seconds(1));
        let records = flow.source("records", lines.clone()).event_time(|(time, _)| EventTime(*time), |_| None, rule);
        pipeline(records.shown(|(_, number)| format!("number {number}")));
    };
    let watched = RunContext { status: Arc::clone(&status), ..context(store) };
    let report = run(build, &options(2), watched, &StopHandle::default()).unwrap();

    let shown = status.snapshot().samples.late;
    let number_of = |sample: &SetAside| sample.payload["number ".len()..].parse().unwrap();
    let numbers: Vec<u64> = shown.iter().map(number_of).collect();
    assert!(!shown.is_empty() && shown.iter().all(|sample| sample.operator == operator), "{shown:?}");
    assert_eq!(numbers.len() as u64, report.state.counts()[&format!("{operator}/{counter}")], "{numbers:?}");
    assert!(numbers.iter().all(|number| number % 701 == 3), "{numbers:?}");
    numbers
}
