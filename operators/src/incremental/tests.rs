//! Whole runs of views: any number of workers and processes, crashes anywhere, other workers afterwards. After every epoch
//! they show what is recomputed from all events, and readers never see a change that changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use differential_dataflow::operators::Iterate;
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::key;
use tidemill_dataflow::testing::{Ends, Outcome, Script, Simulation};
use tidemill_dataflow::time::{Epoch, EventTime, minutes};
use tidemill_dataflow::watermark::Watermarks;

use super::{Change, IncrementalOps, Retain};
use views::*;

mod expired;
mod views;

/// A small generator of numbers: the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % sides).unwrap()
    }
}

/// So many events are read at once.
const STEP: usize = 30;

/// Two partitions of a day's events: most in order but for two minutes, some an hour late, some later than that, some twice;
/// now and then nothing happens for hours.
fn day(seed: u64) -> Vec<Vec<Event>> {
    let mut dice = Dice(seed);
    let mut partition = |p: u32| {
        let (mut now, mut events) = (100 * HOUR, Vec::new());
        for n in 0..300_u32 {
            now += match dice.roll(60) {
                0 => dice.roll(5) * HOUR,
                _ => dice.roll(3) * MINUTE + dice.roll(1_000),
            };
            let behind = match dice.roll(10) {
                0 => dice.roll(59) * MINUTE,
                1 => dice.roll(150) * MINUTE,
                _ => dice.roll(120) * 1_000,
            };
            let step = match dice.roll(4) {
                0 => Step::Purchased,
                1 => Step::Clicked,
                _ => Step::Viewed,
            };
            let text = |prefix: &str, number: i64| format!("{prefix}{number}");
            let (tenant, user, page) = (text("t", dice.roll(2)), text("u", dice.roll(5)), text("/", dice.roll(9)));
            let event = Event { time: now - behind, id: 2 * n + p, tenant, user, page, step };
            let again = dice.roll(20) == 0;
            events.push(events.last().filter(|_| again).cloned().unwrap_or(event));
        }
        events
    };
    vec![partition(0), partition(1)]
}

fn script(partitions: &[Vec<Event>]) -> Script<Event> {
    partitions.iter().fold(Script::new(), |script, events| {
        let step = |step: &[Event]| step.iter().map(|e| (EventTime(e.time), e.clone())).collect::<Vec<_>>();
        script.partition(events.chunks(STEP).map(step))
    })
}

fn changed<R: Debug>(change: &Change<R>) -> (String, i64) {
    (format!("{:?}", change.row), change.diff)
}

fn shop(flow: &Flow<'_>, ends: &Ends<Event>) {
    let rule = Watermarks::out_of_order(minutes(2));
    let events = flow.source("events", ends.records()).event_time(|e: &Event| EventTime(e.time), |_| None, rule);
    let events = unique(events);
    top_pages(events.clone()).sink("top", ends.sums("top", changed::<TopPage>));
    let (steps, late) = funnel(events.clone());
    steps.sink("steps", ends.sums("funnel", changed::<Users>));
    late.sink("late_steps", ends.sums("late_steps", |change: &Change<Users>| (format!("{change:?}"), 1)));
    events.sink("accepted_ids", ends.sums("accepted", |e: &Event| (e.id.to_string(), 1)));
}

/// What a table of changes shows after each epoch, and that every change changed something.
struct Shown<'a> {
    rows: BTreeMap<&'a str, i64>,
    changes: &'a BTreeMap<Epoch, Vec<String>>,
}

impl<'a> Shown<'a> {
    fn new(outcome: &'a Outcome, table: &str) -> Self {
        Shown { rows: BTreeMap::new(), changes: &outcome.written[table] }
    }

    fn after(&mut self, epoch: Epoch) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for change in self.changes.get(&epoch).into_iter().flatten() {
            let (diff, row) = change.split_once(' ').unwrap();
            assert!(changed.insert(row), "epoch {epoch}: {row} changes twice");
            *self.rows.entry(row).or_default() += diff.parse::<i64>().unwrap();
        }
        self.rows.retain(|_, n| *n != 0);
        assert!(self.rows.values().all(|n| *n == 1), "epoch {epoch}: {:?}", self.rows);
        self.rows.keys().map(|row| (*row).to_owned()).collect()
    }
}

fn texts<R: Debug>(rows: impl IntoIterator<Item = R>) -> BTreeSet<String> {
    rows.into_iter().map(|row| format!("{row:?}")).collect()
}

/// Compares what was shown after every epoch with what is recomputed from the events accepted by then.
fn check(outcome: &Outcome, partitions: &[Vec<Event>], seed: u64) {
    let by_id: BTreeMap<String, &Event> = partitions.iter().flatten().map(|e| (e.id.to_string(), e)).collect();
    let (mut top, mut funnel) = (Shown::new(outcome, "top"), Shown::new(outcome, "funnel"));
    let (mut events, mut filled) = (Vec::new(), 0);
    assert!(outcome.watermarks.len() > 10, "seed {seed}: only {} epochs", outcome.watermarks.len());
    for (epoch, after) in &outcome.watermarks {
        let accepted = outcome.written["accepted"].get(epoch).into_iter().flatten();
        events.extend(accepted.map(|line| by_id[line.strip_prefix("1 ").unwrap()]));
        let (shown, wanted) = (top.after(*epoch), texts(naive_top_pages(&events, *after)));
        filled += usize::from(!shown.is_empty());
        assert_eq!(shown, wanted, "seed {seed}, epoch {epoch}, W {after:?}: top pages");
        assert_eq!(funnel.after(*epoch), texts(naive_funnel(&events)), "seed {seed}, epoch {epoch}: funnel");
    }
    assert!(filled > 5 && funnel.rows.len() > 20, "seed {seed} shows little");
}

#[test]
fn after_every_epoch_views_show_what_is_recomputed_from_all_events() {
    for seed in 1..=8 {
        let partitions = day(seed);
        let outcome = Simulation::new().run(seed, &script(&partitions), shop);
        check(&outcome, &partitions, seed);
        let frozen = outcome.counts["funnel/frozen"].cast_signed();
        assert!(frozen > 0, "seed {seed}: nothing was kept from changing");
        assert_eq!(outcome.tables.rows("late_steps").values().sum::<i64>(), frozen, "seed {seed}");
        assert!(outcome.counts["unique/unverified"] > 0, "seed {seed}: nothing came too late");
    }
}

#[test]
fn crashes_and_other_workers_change_no_epoch_that_readers_see() {
    for seed in 1..=3 {
        let script = script(&day(seed));
        Simulation::new().seeds(0..4).crashes(0).repeats_itself(&script, shop);
        Simulation::new().seeds(10..16).crashes(4).repeats_itself(&script, shop);
    }
}

#[test]
fn several_processes_go_on_where_others_have_crashed() {
    Simulation::new().seeds(0..4).crashes(2).workers(2).processes(3).repeats_itself(&script(&day(5)), shop);
}

#[test]
fn a_live_run_read_again_in_its_cuts_gives_the_same_changes() {
    Simulation::new().seeds(0..3).live(Duration::from_millis(20)).repeats_itself(&script(&day(6)), shop);
}

/// An edge that comes (1) or goes (-1).
type Edge = (i64, (u32, u32));

fn graph(flow: &Flow<'_>, ends: &Ends<Edge>) {
    let rule = Watermarks::out_of_order(minutes(0));
    let edges = flow.source("edges", ends.source()).event_time(|(time, _)| *time, |_| None, rule);
    // An edge goes at another time than it came.
    edges
        .clone()
        .key_by(|(_, (_, (from, _)))| key("t", NAMES[*from as usize]))
        .incremental(
            "reached",
            Retain::forever(),
            |(_, (sign, edge))| Change::by(*sign, *edge),
            |there| {
                let root = there.clone().map(|_| 0).distinct();
                root.clone().iterate(|scope, reached| {
                    let next = reached.map(|node| (node, ())).join(there.enter(scope));
                    next.map(|(_, ((), to))| to).concat(root.enter(scope)).distinct()
                })
            },
        )
        .changes()
        .sink("found", ends.sums("reached", changed::<u32>));
    edges.sink(
        "edges_seen",
        ends.sums("edges", |(_, (sign, (from, to))): &(EventTime, Edge)| (format!("{from} {to}"), *sign)),
    );
}

const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

#[test]
fn joins_and_iteration_follow_edges_that_come_and_go() {
    let (mut dice, mut changes, mut there) = (Dice(7), Vec::new(), BTreeSet::new());
    for time in 0..400 {
        let edge = (u32::try_from(dice.roll(12)).unwrap(), u32::try_from(dice.roll(12)).unwrap());
        let sign = if there.insert(edge) { 1 } else { -1 };
        if sign < 0 {
            there.remove(&edge);
        }
        changes.push((EventTime(time), (sign, edge)));
    }
    let script = Script::new().partition(changes.chunks(STEP).map(<[_]>::to_vec));
    let simulation = Simulation::new().seeds(0..6);
    simulation.repeats_itself(&script, graph);

    let outcome = simulation.run(1, &script, graph);
    let (mut shown, mut edges) = (Shown::new(&outcome, "reached"), BTreeMap::new());
    for (epoch, lines) in &outcome.written["edges"] {
        // Within an epoch an edge may come and go: only the sum counts.
        for line in lines {
            let numbers: Vec<i64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
            *edges.entry((numbers[1], numbers[2])).or_default() += numbers[0];
        }
        edges.retain(|_, n: &mut i64| *n != 0);
        let mut reached = if edges.is_empty() { BTreeSet::new() } else { BTreeSet::from([0]) };
        while let Some(&(_, to)) = edges.keys().find(|(from, to)| reached.contains(from) && !reached.contains(to)) {
            reached.insert(to);
        }
        assert_eq!(shown.after(*epoch), texts(reached), "epoch {epoch}");
    }
}
