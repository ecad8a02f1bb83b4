//! Joins and a process as one pipeline in whole runs: any number of workers and processes, crashes, restarts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::{KeyRef, OwnedKey, key};
use tidemill_dataflow::runtime::{Build, plan};
use tidemill_dataflow::sink::TableSink;
use tidemill_dataflow::testing::{Lines, attempt, attempt_processes, by_epoch, dying_at, memory, options, text};
use tidemill_dataflow::time::{Epoch, EventTime, minutes, seconds};
use tidemill_dataflow::watermark::Watermarks;

use super::{JoinOps, Signed, Within};
use crate::process::{Context, Process, ProcessOps};
use crate::window::tumbling::Tumbling;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Item {
    time: EventTime,
    left: bool,
    key: String,
    id: u64,
}

/// A line is `<time> <l or r> <key> <id> <padding>`.
fn parse(line: &str) -> Option<Item> {
    let mut parts = line.split(' ');
    let time = EventTime(parts.next()?.parse().ok()?);
    let left = parts.next()? == "l";
    Some(Item { time, left, key: parts.next()?.to_owned(), id: parts.next()?.parse().ok()? })
}

/// Three partitions of a few epochs, out of order by up to half a minute; every item has its own id.
fn sample() -> Vec<String> {
    let partition = |p: i64| {
        let line = |n: i64| {
            let time = 1_000_000 + n * 500 + p * 7_000 - (n * n % 31) * 1_000;
            let side = if (n + p) % 3 == 0 { 'r' } else { 'l' };
            format!("{time} {side} key-{} {} {:080}\n", (n * n + p) % 23, n * 3 + p, 0)
        };
        (0..900).map(line).collect()
    };
    (0..3).map(partition).collect()
}

/// How many items of a key there are in each ten seconds, told when they are over, and again when late ones came.
struct Tally;

impl Process for Tally {
    type In = Item;
    type State = BTreeMap<EventTime, u64>;
    type Out = (String, i64, u64);
    const STATE_VERSION: u32 = 1;

    fn on_record(&self, _: &OwnedKey, counts: &mut Self::State, item: Item, ctx: &mut Context<'_, Self::Out>) {
        let end = item.time.window_start(10_000).plus(seconds(10));
        *counts.entry(end).or_default() += 1;
        ctx.set_timer(end);
    }

    fn on_timer(&self, key: &OwnedKey, counts: &mut Self::State, end: EventTime, ctx: &mut Context<'_, Self::Out>) {
        let count = counts.remove(&end).unwrap_or(0);
        ctx.emit((key.texts().1.into_owned(), end.0, count));
    }
}

const TABLES: [&str; 6] = ["window", "outer", "interval", "corrected", "closed", "tallies"];

type Store = Arc<dyn tidemill_dataflow::testing::Store>;

type Text<D> = fn(&D) -> String;

fn table<D: 'static>(
    name: &'static str,
    store: &Store,
    line: Text<D>,
) -> impl Fn() -> TableSink<D> + Send + Sync + Clone + use<D> {
    text(name, store, line)
}

fn by_key(item: &Item) -> KeyRef<'_> {
    key("t", item.key.as_str())
}

fn pipeline(store: &Store) -> impl Build + Clone + use<> {
    let pair: Text<(u64, u64)> = |(left, right)| format!("{left} {right}");
    let maybe: Text<Signed<(u64, Option<u64>)>> = |row| format!("{} {:?} {}", row.row.0, row.row.1, row.sign);
    let (window, interval) = (table("window", store, pair), table("interval", store, pair));
    let (outer, corrected) = (table("outer", store, maybe), table("corrected", store, maybe));
    let closed = table("closed", store, |row: &(u64, Option<u64>)| format!("{} {:?}", row.0, row.1));
    let tallies = table("tallies", store, |row: &(String, i64, u64)| format!("{row:?}"));
    let lines = Lines::new(sample(), parse);
    move |flow: &Flow<'_>| {
        let rule = Watermarks::out_of_order(seconds(20));
        let items = flow.source("lines", lines.clone()).event_time(|item| item.time, |_| None, rule);
        let lefts = || items.clone().filter(|item| item.left).key_by(by_key);
        let rights = || items.clone().filter(|item| !item.left).key_by(by_key);
        let version = |item: &Item| (!item.id.is_multiple_of(5)).then_some(item.id);

        lefts()
            .join_window("in_windows", rights(), Tumbling::of(seconds(20)))
            .inner(|left, right| (left.id, right.id))
            .rows
            .sink("window", window());
        lefts()
            .join_window("or_alone", rights(), Tumbling::of(seconds(20)))
            .correctable_for(seconds(45))
            .left_outer(|left, right| (left.id, right.map(|right| right.id)))
            .rows
            .sink("outer", outer());
        lefts()
            .join_interval("near", rights(), Within::around(seconds(15)))
            .inner(|left, right| (left.id, right.id))
            .rows
            .sink("interval", interval());
        lefts()
            .lookup("as_it_was", rights(), version)
            .correctable_for(minutes(1))
            .corrected(|left, id| (left.id, id.copied()))
            .rows
            .sink("corrected", corrected());
        lefts()
            .lookup("when_over", rights(), version)
            .once_closed(|left, id| (left.id, id.copied()))
            .rows
            .sink("closed", closed());
        items.clone().key_by(by_key).process("tallies_of_keys", Tally).sink("tallies", tallies());
    }
}

/// The lines of all tables, by epoch.
fn tables(store: &Store) -> Vec<BTreeMap<Epoch, Vec<String>>> {
    TABLES.iter().map(|table| by_epoch(store, table)).collect()
}

fn one_worker() -> Vec<BTreeMap<Epoch, Vec<String>>> {
    let store = memory();
    let report = attempt(&pipeline(&store), &store, 1).unwrap();
    assert!(report.finished && report.epochs > 3, "{report:?}");
    tables(&store)
}

#[test]
fn a_run_shows_the_pairs_of_all_items() {
    let shown = one_worker();
    for (table, rows) in TABLES.iter().zip(&shown) {
        assert!(rows.len() > 2, "`{table}` has rows in several epochs");
    }
    let items: Vec<_> = sample().iter().flat_map(|lines| lines.lines().filter_map(parse).collect::<Vec<_>>()).collect();
    let (lefts, rights): (Vec<_>, Vec<_>) = items.iter().partition(|item| item.left);
    let pairs = |together: fn(i64, i64) -> bool| {
        let of = |left: &&Item| {
            let (left, rights) = ((*left).clone(), &rights);
            let partners = rights.iter().filter(|right| right.key == left.key && together(left.time.0, right.time.0));
            partners.map(|right| format!("{} {}", left.id, right.id)).collect::<Vec<_>>()
        };
        let mut pairs: Vec<_> = lefts.iter().flat_map(of).collect();
        pairs.sort();
        pairs
    };
    let all = |table: usize| {
        let mut rows: Vec<_> = shown[table].values().flatten().cloned().collect();
        rows.sort();
        rows
    };
    assert_eq!(all(0), pairs(|left, right| left.div_euclid(20_000) == right.div_euclid(20_000)));
    assert_eq!(all(2), pairs(|left, right| (left - right).abs() <= 15_000));
}

#[test]
fn every_epoch_of_every_table_is_the_same_on_any_number_of_workers_and_processes() {
    let expected = one_worker();
    for workers in [2, 3, 4] {
        let store = memory();
        attempt(&pipeline(&store), &store, workers).unwrap();
        assert_eq!(tables(&store), expected, "{workers} workers");
    }
    let store = memory();
    attempt_processes(&pipeline(&store), &store, 2, 2).unwrap();
    assert_eq!(tables(&store), expected, "two processes");
}

#[test]
fn a_dry_build_reports_every_join_that_makes_no_sense() {
    let lines = Lines::new(sample(), parse);
    let senseless = move |flow: &Flow<'_>| {
        let rule = Watermarks::out_of_order(seconds(20));
        let items = flow.source("lines", lines.clone()).event_time(|item| item.time, |_| None, rule);
        let keyed = || items.clone().key_by(by_key);
        let nothing: Text<(u64, u64)> = |_| String::new();
        let store = memory();
        let windows = Tumbling::of(Duration::ZERO);
        let pairs = keyed().join_window("no_width", keyed(), windows).inner(|left, right| (left.id, right.id));
        pairs.rows.sink("a", table("a", &store, nothing)());
        let near =
            keyed().join_interval("empty", keyed(), Within::millis(5, 3)).inner(|left, right| (left.id, right.id));
        near.rows.sink("b", table("b", &store, nothing)());
        let answers = keyed().lookup("endless", keyed(), |item| Some(item.id)).correctable_for(Duration::MAX);
        answers
            .once_closed(|item, id| (item.id, id.copied().unwrap_or(0)))
            .rows
            .sink("c", table("c", &store, nothing)());
    };
    let error = plan(&senseless, &options(1)).unwrap_err().to_string();
    for sentence in
        ["`no_width`: the width", "`empty`: the length of a join's interval", "`endless`: the time for which"]
    {
        assert!(error.contains(sentence), "{sentence}: {error}");
    }
    assert!(error.contains("runs.rs"), "it names the lines: {error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn crashes_and_restarts_on_other_workers_change_no_epoch_of_any_table(
        deaths in prop::collection::vec((1u64..200, 1u32..5), 1..4), last in 1u32..5,
    ) {
        let store = memory();
        for (step, workers) in deaths {
            // The tables lie in the store itself: it is the log and the state that lose power.
            let _ = attempt(&pipeline(&store), &dying_at(&store, step), workers);
        }
        attempt(&pipeline(&store), &store, last).unwrap();
        prop_assert_eq!(tables(&store), one_worker());
    }
}
