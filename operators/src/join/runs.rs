//! Joins and a process as one pipeline in whole runs: any number of workers and processes, crashes, restarts, other orders.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::{KeyRef, OwnedKey, key};
use tidemill_dataflow::runtime::plan;
use tidemill_dataflow::testing::{Ends, Lines, Script, Simulation, memory, options, text};
use tidemill_dataflow::time::{EventTime, minutes, seconds};
use tidemill_dataflow::watermark::Watermarks;

use super::{JoinOps, Within};
use crate::incremental::Change;
use crate::process::{Context, Process, ProcessOps};
use crate::window::tumbling::{Late, Tumbling};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Item {
    time: EventTime,
    left: bool,
    key: String,
    id: u64,
}

/// Three partitions of fourteen steps, out of order by up to a minute; every item has its own id.
fn items() -> Vec<Vec<Item>> {
    let item = |p: i64, n: i64| Item {
        time: EventTime(1_000_000 + n * 2_500 + p * 7_000 - (n * n % 31) * 2_000),
        left: (n + p) % 3 != 0,
        key: format!("key-{}", (n * n + p) % 7),
        id: (n * 3 + p).unsigned_abs(),
    };
    (0..3).map(|p| (0..14 * STEP as i64).map(|n| item(p, n)).collect()).collect()
}

/// So many items of a partition are read at once.
const STEP: usize = 12;

fn script() -> Script<Item> {
    items().iter().fold(Script::new(), |script, items| {
        let step = |step: &[Item]| step.iter().map(|item| (item.time, item.clone())).collect::<Vec<_>>();
        script.partition(items.chunks(STEP).map(step))
    })
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

const TABLES: [&str; 9] = ["window", "outer", "full", "late", "interval", "alone", "corrected", "closed", "tallies"];

fn by_key(item: &Item) -> KeyRef<'_> {
    key("t", item.key.as_str())
}

fn pipeline(flow: &Flow<'_>, ends: &Ends<Item>) {
    let rule = Watermarks::out_of_order(seconds(20));
    let items = flow.source("items", ends.records()).event_time(|item: &Item| item.time, |_| None, rule);
    let lefts = || items.clone().filter(|item| item.left).key_by(by_key);
    let rights = || items.clone().filter(|item| !item.left).key_by(by_key);
    let version = |item: &Item| (!item.id.is_multiple_of(5)).then_some(item.id);
    let pair = |(left, right): &(u64, u64)| (format!("{left} {right}"), 1);
    let changed = |change: &Change<(Option<u64>, Option<u64>)>| (format!("{:?}", change.row), change.diff);
    let id = |item: Option<&Item>| item.map(|item| item.id);

    let in_windows =
        lefts().join_window("in_windows", rights(), Tumbling::of(seconds(20))).inner(|left, right| (left.id, right.id));
    in_windows.rows.sink("window_table", ends.sums("window", pair));
    let or_alone = lefts()
        .join_window("or_alone", rights(), Tumbling::of(seconds(20)))
        .correctable_for(seconds(45))
        .left_outer(move |left, right| (Some(left.id), id(right)));
    or_alone.rows.sink("outer_table", ends.sums("outer", changed));
    let both = lefts()
        .join_window("both_sides", rights(), Tumbling::of(seconds(20)).late(Late::Side))
        .full_outer(move |left, right| (id(left), id(right)));
    both.rows.sink("full_table", ends.sums("full", changed));
    both.late_left.union(both.late_right).sink("late_table", ends.sums("late", |item: &Item| (item.id.to_string(), 1)));
    let near =
        lefts().join_interval("near", rights(), Within::around(seconds(15))).inner(|left, right| (left.id, right.id));
    near.rows.sink("interval_table", ends.sums("interval", pair));
    let none_near = lefts()
        .join_interval("none_near", rights(), Within::after(seconds(3)))
        .late(Late::Drop)
        .full_outer(move |left, right| Change::insert((id(left), id(right))));
    none_near.rows.sink("alone_table", ends.sums("alone", changed));
    let corrected = lefts()
        .lookup("as_it_was", rights(), version)
        .correctable_for(minutes(1))
        .corrected(|left, value| (Some(left.id), value.copied()));
    corrected.rows.sink("corrected_table", ends.sums("corrected", changed));
    let closed = lefts()
        .lookup("when_over", rights(), version)
        .once_closed(|left, value| Change::insert((Some(left.id), value.copied())));
    closed.rows.sink("closed_table", ends.sums("closed", changed));
    let tallies = items.clone().key_by(by_key).process("tallies_of_keys", Tally);
    tallies.sink("tallies_table", ends.sums("tallies", |row: &(String, i64, u64)| (format!("{row:?}"), 1)));
}

#[test]
fn a_run_shows_the_pairs_of_all_items() {
    let outcome = Simulation::new().run(1, &script(), pipeline);
    for table in TABLES {
        assert!(outcome.written[table].len() > 2, "`{table}` has rows in several epochs");
    }
    let (lefts, rights): (Vec<_>, Vec<_>) = items().into_iter().flatten().partition(|item| item.left);
    let pairs = |together: fn(i64, i64) -> bool| {
        let of = |left: &Item| {
            let partners = rights.iter().filter(|right| right.key == left.key && together(left.time.0, right.time.0));
            partners.map(|right| (format!("{} {}", left.id, right.id), 1)).collect::<Vec<_>>()
        };
        lefts.iter().flat_map(of).collect::<BTreeMap<_, _>>()
    };
    let in_windows = pairs(|left, right| left.div_euclid(20_000) == right.div_euclid(20_000));
    assert_eq!(outcome.tables.rows("window"), in_windows);
    assert_eq!(outcome.tables.rows("interval"), pairs(|left, right| (left - right).abs() <= 15_000));
}

#[test]
fn every_epoch_of_every_table_is_the_same_on_any_number_of_workers_and_processes() {
    Simulation::new().seeds(0..4).crashes(0).workers(4).repeats_itself(&script(), pipeline);
    Simulation::new().seeds(0..2).crashes(0).workers(2).processes(2).repeats_itself(&script(), pipeline);
}

#[test]
fn crashes_and_restarts_on_other_workers_change_no_epoch_of_any_table() {
    Simulation::new().repeats_itself(&script(), pipeline);
}

#[test]
fn a_live_run_read_again_in_its_cuts_gives_the_same_rows_late_ones_too() {
    Simulation::new().seeds(0..3).live(Duration::from_millis(20)).repeats_itself(&script(), pipeline);
}

#[test]
fn without_late_records_every_join_and_process_equals_a_batch_in_whatever_order_records_come() {
    Simulation::new().disorder(seconds(15)).drained().agrees_with_a_batch(&script(), pipeline);
}

#[test]
fn a_dry_build_reports_every_join_that_makes_no_sense() {
    let lines = Lines::new(["0\n"], |line| Some(Item { time: EventTime(0), left: true, key: line.into(), id: 0 }));
    let senseless = move |flow: &Flow<'_>| {
        let rule = Watermarks::out_of_order(seconds(20));
        let items = flow.source("items", lines.clone()).event_time(|item| item.time, |_| None, rule);
        let keyed = || items.clone().key_by(by_key);
        let (nothing, store) = (|_: &(u64, u64)| String::new(), memory());
        let windows = Tumbling::of(Duration::ZERO);
        let pairs = keyed().join_window("no_width", keyed(), windows).inner(|left, right| (left.id, right.id));
        pairs.rows.sink("a", text("a", &store, nothing)());
        let near =
            keyed().join_interval("empty", keyed(), Within::millis(5, 3)).inner(|left, right| (left.id, right.id));
        near.rows.sink("b", text("b", &store, nothing)());
        let answers = keyed().lookup("endless", keyed(), |item| Some(item.id)).correctable_for(Duration::MAX);
        answers
            .once_closed(|item, id| (item.id, id.copied().unwrap_or(0)))
            .rows
            .sink("c", text("c", &store, nothing)());
    };
    let error = plan(&senseless, &options(1)).unwrap_err().to_string();
    for sentence in
        ["`no_width`: the width", "`empty`: the length of a join's interval", "`endless`: the time for which"]
    {
        assert!(error.contains(sentence), "{sentence}: {error}");
    }
    assert!(error.contains("runs.rs"), "it names the lines: {error}");
}
