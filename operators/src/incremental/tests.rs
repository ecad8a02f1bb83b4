//! Whole runs of views: any number of workers and processes, crashes anywhere, other workers afterwards. After every epoch
//! they show what is recomputed from all events, and readers never see a change that changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use differential_dataflow::operators::Iterate;
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::key;
use tidemill_dataflow::keyed::{Changes, Chunk, DecodeError, Emit, ShardLogic, StateSize, keyed};
use tidemill_dataflow::runtime::{Build, RunError};
use tidemill_dataflow::testing::{Lines, attempt, attempt_processes, by_epoch, dying_at, memory, text};
use tidemill_dataflow::time::{Epoch, EpochTime, EventTime, Watermark, minutes};
use tidemill_dataflow::watermark::Watermarks;

use super::{Change, IncrementalOps, Retain};
use views::*;

mod views;

type Store = Arc<dyn tidemill_dataflow::testing::Store>;

/// A small generator of numbers: the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % sides).unwrap()
    }
}

/// Two partitions of a day's events, about thirty to an epoch: most in order but for two minutes, some an hour late, some
/// later than that, some twice; now and then nothing happens for hours.
fn day(seed: u64) -> Vec<String> {
    let mut dice = Dice(seed);
    let mut partition = |p: u32| {
        let (mut now, mut lines, mut last) = (100 * HOUR, String::new(), String::new());
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
            if dice.roll(20) > 0 {
                last = format!("{} {:0>2000}\n", event.line(), 0);
            }
            lines.push_str(&last);
        }
        lines
    };
    vec![partition(0), partition(1)]
}

/// Says which clocks each epoch had.
struct Clock;

impl ShardLogic for Clock {
    type In = ();
    type Out = EpochTime;
    const STATE_VERSION: u32 = 1;
    const STATEFUL: bool = false;

    fn close_epoch(&mut self, time: EpochTime, _: Vec<Chunk<()>>, out: &mut Emit<EpochTime>) {
        out.give(time);
    }
    fn changes(&mut self) -> Option<Changes> {
        None
    }
    fn restore(&mut self, _: u8, _: &[u8]) -> Result<(), DecodeError> {
        Ok(())
    }
    fn restored(&mut self, _: Watermark) {}
    fn fold(_: &[&[u8]], _: Watermark, _: bool) -> Result<Vec<u8>, DecodeError> {
        Ok(Vec::new())
    }
    fn size(&self) -> StateSize {
        StateSize::default()
    }
}

/// A change as a line that is read back: the row's own text would do, but numbers are easier to compare.
fn line<R: Debug>(change: &Change<R>) -> String {
    format!("{:+} {:?}", change.diff, change.row)
}

fn shop(partitions: &[String], store: &Store) -> impl Build + Clone + use<> {
    let lines = Lines::new(partitions.iter().cloned(), Event::parse);
    let accepted = text("accepted", store, Event::line);
    let clocks = text("clocks", store, |time: &EpochTime| {
        let after = time.after.map_or("-".to_owned(), |after| after.0.to_string());
        format!("{} {after}", time.epoch)
    });
    let (top, steps) = (text("top", store, line::<TopPage>), text("funnel", store, line::<Users>));
    move |flow: &Flow<'_>| {
        let rule = Watermarks::out_of_order(minutes(2));
        let events = flow.source("events", lines.clone()).event_time(|e: &Event| EventTime(e.time), |_| None, rule);
        let node = events.record("clock", "clock".into());
        keyed(flow, ("clock", node), events.route("nothing", |_, _| Vec::new()), Clock).sink("clocks", clocks());
        let events = unique(events);
        top_pages(events.clone()).sink("top", top());
        funnel(events.clone()).sink("steps", steps());
        events.sink("accepted", accepted());
    }
}

/// What a table of changes shows after each epoch, and that every change changed something.
struct Shown {
    rows: BTreeMap<String, i64>,
    changes: BTreeMap<Epoch, Vec<String>>,
}

impl Shown {
    fn new(store: &Store, table: &str) -> Self {
        Shown { rows: BTreeMap::new(), changes: by_epoch(store, table) }
    }

    fn after(&mut self, epoch: Epoch) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        for change in self.changes.get(&epoch).into_iter().flatten() {
            let (diff, row) = change.split_once(' ').unwrap();
            assert!(changed.insert(row.to_owned()), "epoch {epoch}: {row} changes twice");
            *self.rows.entry(row.to_owned()).or_default() += diff.parse::<i64>().unwrap();
        }
        self.rows.retain(|_, n| *n != 0);
        assert!(self.rows.values().all(|n| *n == 1), "epoch {epoch}: {:?}", self.rows);
        self.rows.keys().cloned().collect()
    }
}

fn lines_of<R: Debug>(rows: impl IntoIterator<Item = R>) -> BTreeSet<String> {
    rows.into_iter().map(|row| format!("{row:?}")).collect()
}

/// Compares what was shown after every epoch with what is recomputed from the events accepted by then.
fn check(store: &Store, seed: u64) {
    let (mut top, mut funnel) = (Shown::new(store, "top"), Shown::new(store, "funnel"));
    let accepted = by_epoch(store, "accepted");
    let mut events = Vec::new();
    let (clocks, mut filled) = (by_epoch(store, "clocks"), 0);
    assert!(clocks.len() > 10, "seed {seed}: only {} epochs", clocks.len());
    for (epoch, clock) in clocks {
        let after = clock[0].split_once(' ').unwrap().1.parse().ok().map(EventTime);
        events.extend(accepted.get(&epoch).into_iter().flatten().map(|line| Event::parse(line).unwrap()));
        let (shown, wanted) = (top.after(epoch), lines_of(naive_top_pages(&events, after)));
        filled += usize::from(!shown.is_empty());
        assert_eq!(shown, wanted, "seed {seed}, epoch {epoch}, W {after:?}: top pages");
        assert_eq!(funnel.after(epoch), lines_of(naive_funnel(&events)), "seed {seed}, epoch {epoch}: funnel");
    }
    assert!(filled > 5 && funnel.rows.len() > 20, "seed {seed} shows little");
}

/// The changes that readers got, by table and epoch.
fn changes(store: &Store) -> [BTreeMap<Epoch, Vec<String>>; 2] {
    ["top", "funnel"].map(|table| by_epoch(store, table))
}

#[test]
fn after_every_epoch_views_show_what_is_recomputed_from_all_events_whatever_the_workers() {
    for seed in 1..=8 {
        let partitions = day(seed);
        let mut first = None;
        for workers in 1..=4 {
            let store = memory();
            let report = attempt(&shop(&partitions, &store), &store, workers).unwrap();
            check(&store, seed);
            let counts = report.state.counts().clone();
            let all = (changes(&store), counts);
            assert_eq!(first.get_or_insert_with(|| all.clone()), &all, "seed {seed}, {workers} workers");
        }
        let (_, counts) = first.unwrap();
        assert!(counts["funnel/frozen"] > 0, "seed {seed}: nothing was kept from changing");
        assert!(counts["unique/unverified"] > 0, "seed {seed}: nothing came too late");
    }
}

#[test]
fn crashes_and_other_workers_change_no_epoch_that_readers_see() {
    let mut restored = 0;
    for seed in 1..=2 {
        let partitions = day(seed);
        let whole = memory();
        attempt(&shop(&partitions, &whole), &whole, 1).unwrap();
        let whole = changes(&whole);
        for step in (12_u64..).step_by(23) {
            let store = memory();
            let workers = 1 + u32::try_from(step % 4).unwrap();
            let crashed = attempt(&shop(&partitions, &store), &dying_at(&store, step), workers);
            for (after, other) in [(step, 1 + workers % 4), (100_000, 1 + (workers + 1) % 4)] {
                let again = attempt(&shop(&partitions, &store), &dying_at(&store, after), other);
                restored += again.map_or(0, |report| u32::from(report.resumed_from.is_some()));
            }
            assert!(whole == changes(&store), "seed {seed}, crash at step {step}: readers saw other changes");
            if crashed.is_ok() {
                break;
            }
        }
    }
    assert!(restored > 5, "only {restored} runs began at a checkpoint");
}

#[test]
fn several_processes_go_on_where_one_has_crashed() -> Result<(), RunError> {
    let partitions = day(5);
    let whole = memory();
    attempt(&shop(&partitions, &whole), &whole, 2)?;
    for (processes, workers) in [(2, 1), (2, 2), (3, 1)] {
        let store = memory();
        let crashed = attempt(&shop(&partitions, &store), &dying_at(&store, 130), 2);
        assert!(crashed.is_err(), "it ended before it could crash");
        let report = attempt_processes(&shop(&partitions, &store), &store, processes, workers)?;
        assert!(report.resumed_from.is_some(), "it began anew");
        assert!(changes(&whole) == changes(&store), "{processes} x {workers}: readers saw other changes");
    }
    Ok(())
}

/// `<time> <+|-> <from> <to>`: an edge that comes or goes.
type Edge = (i64, i64, (u32, u32));

fn edge(line: &str) -> Option<Edge> {
    let mut parts = line.split(' ');
    let (time, sign) = (parts.next()?.parse().ok()?, if parts.next()? == "+" { 1 } else { -1 });
    Some((time, sign, (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?)))
}

fn graph(lines: &str, store: &Store) -> impl Build + Clone + use<> {
    let lines = Lines::new([lines], edge);
    let raw = text("edges", store, |(_, sign, edge): &Edge| format!("{sign} {} {}", edge.0, edge.1));
    let found = text("reached", store, line::<u32>);
    move |flow: &Flow<'_>| {
        let rule = Watermarks::out_of_order(minutes(0));
        let edges = flow.source("edges", lines.clone()).event_time(|e: &Edge| EventTime(e.0), |_| None, rule);
        // One event time for all, so that an edge that goes meets the one that came.
        let rows = edges.clone().untimed().with_event_time(|_| EventTime(0));
        rows.key_by(|(_, _, (from, _))| key("t", NAMES[*from as usize]))
            .incremental(
                "reached",
                Retain::forever(),
                |(_, sign, edge)| Change::by(*sign, *edge),
                |there| {
                    let root = there.clone().map(|_| 0).distinct();
                    root.clone().iterate(|scope, reached| {
                        let next = reached.map(|node| (node, ())).join(there.enter(scope));
                        next.map(|(_, ((), to))| to).concat(root.enter(scope)).distinct()
                    })
                },
            )
            .changes()
            .sink("found", found());
        edges.sink("edges_seen", raw());
    }
}

const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

#[test]
fn joins_and_iteration_follow_edges_that_come_and_go() {
    let (mut dice, mut text, mut there) = (Dice(7), String::new(), BTreeSet::new());
    for time in 0..400 {
        let edge = (dice.roll(12), dice.roll(12));
        let sign = if there.insert(edge) { "+" } else { "-" };
        if sign == "-" {
            there.remove(&edge);
        }
        text.push_str(&format!("{time} {sign} {} {} {:0>2000}\n", edge.0, edge.1, 0));
    }
    let whole = memory();
    attempt(&graph(&text, &whole), &whole, 3).unwrap();
    let (mut shown, mut edges) = (Shown::new(&whole, "reached"), BTreeSet::new());
    for (epoch, lines) in by_epoch(&whole, "edges") {
        // Within an epoch an edge may come and go: only the sum counts.
        let mut sums: BTreeMap<(u32, u32), i32> = BTreeMap::new();
        for line in lines {
            let numbers: Vec<i32> = line.split(' ').map(|n| n.parse().unwrap()).collect();
            *sums.entry((numbers[1].unsigned_abs(), numbers[2].unsigned_abs())).or_default() += numbers[0];
        }
        edges.extend(sums.iter().filter(|(_, n)| **n > 0).map(|(edge, _)| *edge));
        edges.retain(|edge| sums.get(edge).is_none_or(|n| *n >= 0));
        let mut reached = BTreeSet::from([0]);
        while let Some(&(_, to)) = edges.iter().find(|(from, to)| reached.contains(from) && !reached.contains(to)) {
            reached.insert(to);
        }
        assert_eq!(shown.after(epoch), lines_of(reached), "epoch {epoch}");
    }
    for (step, workers) in [(40, 1), (60, 2), (80, 4)] {
        let store = memory();
        let _ = attempt(&graph(&text, &store), &dying_at(&store, step), 2);
        attempt(&graph(&text, &store), &store, workers).unwrap();
        assert!(by_epoch(&whole, "reached") == by_epoch(&store, "reached"), "crash at step {step}");
    }
}
