//! Pipelines that change between two runs: state goes on where it means the same, and is refused where it would not.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::key;
use tidemill_dataflow::runtime::RunErrorKind;
use tidemill_dataflow::stream::{KeyedStream, Stream};
use tidemill_dataflow::testing::{Lines, Store, attempt, by_epoch, memory, text};
use tidemill_dataflow::time::{EventTime, seconds};
use tidemill_dataflow::watermark::Watermarks;

use crate::aggregate::{Aggregate, count, max, min, quantiles, sum};
use crate::incremental::{Change, IncrementalOps, Retain};
use crate::join::{JoinOps, Within};
use crate::stream::KeyedStreamOps;
use crate::window::hopping::Hopping;
use crate::window::top_k::RankChange;
use crate::window::tumbling::{Late, Tumbling, WindowRow};

/// A time, an item, and a number.
type Record = (i64, String, i64);
type Keyed<'s> = KeyedStream<'s, Record>;

fn lines(content: &str) -> Lines<Record> {
    Lines::new([content], |line| {
        let mut parts = line.split(' ');
        Some((parts.next()?.parse().ok()?, parts.next()?.to_owned(), parts.next()?.parse().ok()?))
    })
}

/// All records of one key, in the same few seconds: no window is over at the end.
const FIRST: &str = "1000 a 1\n2000 a 2\n3000 b 3\n4000 c 4\n4500 c 1\n4500 c 1\n";

/// Runs a pipeline around the operator `op` over everything in the input; an error is a refusal.
fn start<F, R>(operator: F, content: &str, store: &Arc<dyn Store>) -> Result<(), String>
where
    F: for<'s> Fn(Keyed<'s>, Keyed<'s>) -> Stream<'s, R> + Clone + Send + Sync + 'static,
    R: Debug + Send + Sync + 'static,
{
    let (lines, out) = (lines(content), text("out", store, |row: &R| format!("{row:?}")));
    let build = move |flow: &Flow<'_>| {
        let rule = Watermarks::out_of_order(seconds(30));
        let records = flow.source("records", lines.clone()).event_time(|r: &Record| EventTime(r.0), |_| None, rule);
        let all = || records.clone().key_by(|_| key("t", "all"));
        operator(all(), all()).sink("table", out());
    };
    match attempt(&build, store, 2) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == RunErrorKind::Refused => Err(error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

/// What goes on from the state that another one left.
fn after<A, B, R, S>(before: A, now: B) -> Result<(), String>
where
    A: for<'s> Fn(Keyed<'s>, Keyed<'s>) -> Stream<'s, R> + Clone + Send + Sync + 'static,
    B: for<'s> Fn(Keyed<'s>, Keyed<'s>) -> Stream<'s, S> + Clone + Send + Sync + 'static,
    R: Debug + Send + Sync + 'static,
    S: Debug + Send + Sync + 'static,
{
    let store = memory();
    start(before, FIRST, &store).expect("the first run of a folder is not refused");
    start(now, &format!("{FIRST}5000 d 1\n"), &store)
}

/// The state would mean something else, in either direction.
macro_rules! refused {
    ($before:expr, $now:expr, [$was:literal, $is:literal]) => {
        let said = [
            after($before, $now).expect_err(concat!($was, " is not ", $is)),
            after($now, $before).expect_err(concat!($is, " is not ", $was)),
        ];
        let sentence =
            |was, is| format!("`op` has state of `{was}` in the checkpoint and would take it for that of `{is}`: give");
        assert!(said[0].contains(&sentence($was, $is)), "{}", said[0]);
        assert!(said[1].contains(&sentence($is, $was)), "{}", said[1]);
    };
}

fn number(record: &Record) -> i64 {
    record.2
}

fn minutes_of(late: Late) -> Tumbling {
    Tumbling::of(seconds(60)).late(late)
}

fn upserts<'s, A: Aggregate<Record, Partial: Debug>>(
    all: Keyed<'s>,
    windows: Tumbling,
    aggregate: A,
) -> Stream<'s, String> {
    all.window("op", windows).upserts(seconds(60)).aggregate(aggregate).map(|of| format!("{of:?}"))
}

#[test]
fn values_that_are_held_belong_to_their_windows_emission_and_aggregate() {
    fn sums<'s>(all: Keyed<'s>, _: Keyed<'s>) -> Stream<'s, String> {
        upserts(all, minutes_of(Late::Drop), sum(number))
    }
    fn hops(all: Keyed<'_>, step: Duration) -> Stream<'_, WindowRow<i128>> {
        let windows = Hopping::of(seconds(60)).every(step).late(Late::Drop);
        all.window("op", windows).once_closed().aggregate(sum(number))
    }
    fn top(all: Keyed<'_>, windows: Tumbling) -> Stream<'_, RankChange> {
        all.window("op", windows).top_k(2, |r| r.1.as_bytes(), seconds(60))
    }
    let minute = minutes_of(Late::Drop);
    let half = Tumbling::of(seconds(30)).late(Late::Drop);
    refused!(
        sums,
        move |all, _| upserts(all, half, sum(number)),
        ["tumbling 60000 ms, upserts, sum", "tumbling 30000 ms, upserts, sum"]
    );
    refused!(
        sums,
        move |all, _| upserts(all, minute, count()),
        ["tumbling 60000 ms, upserts, sum", "tumbling 60000 ms, upserts, count"]
    );
    refused!(
        move |all, _| upserts(all, minute, (count(), max(number))),
        move |all, _| upserts(all, minute, (count(), min(number))),
        ["tumbling 60000 ms, upserts, count, max", "tumbling 60000 ms, upserts, count, min"]
    );
    refused!(
        move |all, _| upserts(all, minute, quantiles(number, 0.01)),
        move |all, _| upserts(all, minute, quantiles(number, 0.05)),
        ["tumbling 60000 ms, upserts, quantiles 0.01", "tumbling 60000 ms, upserts, quantiles 0.05"]
    );
    refused!(
        sums,
        move |all, _| all.window("op", minute).once_closed().aggregate(sum(number)),
        ["tumbling 60000 ms, upserts, sum", "tumbling 60000 ms, once closed, sum"]
    );
    refused!(
        |all, _| hops(all, seconds(20)),
        |all, _| hops(all, seconds(30)),
        ["hopping 60000 ms every 20000 ms, once closed, sum", "hopping 60000 ms every 30000 ms, once closed, sum"]
    );
    refused!(
        move |all, _| top(all, minute),
        move |all, _| top(all, half),
        ["tumbling 60000 ms, top, items", "tumbling 30000 ms, top, items"]
    );
    after(sums, |all, _| {
        let values = all.window("op", minutes_of(Late::Side)).upserts(seconds(90)).aggregate(sum(number));
        values.map(|of| format!("{of:?}"))
    })
    .unwrap();
}

#[test]
fn a_window_without_state_may_get_another_width() {
    fn deltas(all: Keyed<'_>, width: Duration) -> Stream<'_, WindowRow<i64>> {
        all.window("op", Tumbling::of(width)).aggregate(count())
    }
    after(|all, _| deltas(all, seconds(60)), |all, _| deltas(all, seconds(30))).unwrap();
}

#[test]
fn records_that_wait_for_others_belong_to_their_kind_of_join() {
    fn pair(left: &Record, right: &Record) -> (i64, i64) {
        (left.2, right.2)
    }
    fn minute<'s>(left: Keyed<'s>, right: Keyed<'s>) -> Stream<'s, (i64, i64)> {
        left.join_window("op", right, Tumbling::of(seconds(60))).inner(pair).rows
    }
    fn looked_up(fact: &Record, value: Option<&i64>) -> (i64, Option<i64>) {
        (fact.2, value.copied())
    }
    fn near<'s>(left: Keyed<'s>, right: Keyed<'s>) -> Stream<'s, (i64, i64)> {
        left.join_interval("op", right, Within::after(seconds(5))).late(Late::Side).inner(pair).rows
    }
    refused!(
        minute,
        |left, right| left.join_window("op", right, Tumbling::of(seconds(30))).inner(pair).rows,
        ["join inner, windows tumbling 60000 ms", "join inner, windows tumbling 30000 ms"]
    );
    refused!(minute, near, ["join inner, windows tumbling 60000 ms", "join inner, interval"]);
    after(near, |left, right| left.join_interval("op", right, Within::after(seconds(9))).inner(pair).rows).unwrap();
    after(minute, |left, right| {
        let windows = minutes_of(Late::Side);
        left.join_window("op", right, windows).correctable_for(seconds(5)).inner(pair).rows
    })
    .unwrap();

    refused!(
        |facts, all| facts.lookup("op", all, |r| Some(r.2)).corrected(looked_up).rows,
        |facts, all| facts.lookup("op", all, |r| Some(r.2)).once_closed(looked_up).rows,
        ["lookup, corrected", "lookup, once closed"]
    );
}

#[test]
fn rows_of_a_view_belong_to_the_way_they_are_kept_and_the_span_may_change() {
    fn kept(all: Keyed<'_>, retain: Retain) -> Stream<'_, Change<i64>> {
        all.incremental("op", retain, |r: &Record| Change::insert(r.2), |rows| rows).changes()
    }
    refused!(
        |all, _| kept(all, Retain::last(seconds(60))),
        |all, _| kept(all, Retain::forever()),
        ["rows of the last span", "rows kept until retracted"]
    );
    refused!(
        |all, _| kept(all, Retain::at_least(seconds(60))),
        |all, _| kept(all, Retain::last(seconds(60))),
        ["rows kept for a span", "rows of the last span"]
    );
    after(|all, _| kept(all, Retain::last(seconds(60))), |all, _| kept(all, Retain::last(seconds(90)))).unwrap();
}

#[test]
fn a_ranking_that_gets_more_places_fills_them_from_all_counts() {
    let store = memory();
    start(|all, _| ranked(all, 1), FIRST, &store).unwrap();
    start(|all, _| ranked(all, 5), &format!("{FIRST}5000 c 1\n"), &store).unwrap();
    let given: Vec<_> = by_epoch(&store, "out").into_values().collect();
    assert_eq!(given[0], ["(1, 1, \"c\", 3)"]);
    // Nothing came of a and b in the second run.
    assert_eq!(
        given[1],
        ["(-1, 1, \"c\", 3)", "(1, 1, \"c\", 4)", "(1, 2, \"a\", 2)", "(1, 3, \"b\", 1)"],
        "places that there was no room for are filled"
    );
}

fn ranked(all: Keyed<'_>, places: u32) -> Stream<'_, (i8, u32, String, i64)> {
    let top = all.window("op", minutes_of(Late::Drop)).top_k(places, |r| r.1.as_bytes(), seconds(60));
    top.map(|change| {
        let item = String::from_utf8_lossy(&change.item).into_owned();
        (change.sign, change.rank, item, change.count)
    })
}
