//! Records at which the code of keyed operators panics, in whole runs: each is set aside, in at most three starts, and the
//! rest comes out as if it had not been there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::{KeyRef, OwnedKey, key};
use tidemill_dataflow::runtime::{Build, RunError};
use tidemill_dataflow::stream::Rejected;
use tidemill_dataflow::testing::{Lines, Store, attempt, by_epoch, memory, text};
use tidemill_dataflow::time::{Epoch, EventTime, minutes, seconds};
use tidemill_dataflow::watermark::Watermarks;

use crate::aggregate::Aggregate;
use crate::join::{JoinOps, Within};
use crate::process::{Context, Process, ProcessOps};
use crate::stream::KeyedStreamOps;
use crate::window::hopping::Hopping;
use crate::window::tumbling::{Late, Tumbling};

/// Whose code panics.
#[derive(Clone, Copy, Debug)]
enum Of {
    Process,
    Window,
    Hopping,
    Upserts,
    JoinWindow,
    JoinInterval,
    Lookup,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Item {
    time: EventTime,
    id: u64,
    bad: bool,
}

impl Item {
    fn left(&self) -> bool {
        !self.id.is_multiple_of(3)
    }
}

fn panics(item: &Item) {
    assert!(!item.bad, "item {} is bad", item.id);
}

fn parse(line: &str) -> Option<Item> {
    let mut parts = line.split(' ');
    let time = EventTime(parts.next()?.parse().ok()?);
    Some(Item { time, id: parts.next()?.parse().ok()?, bad: parts.next()? == "bad" })
}

const ITEMS: u64 = 1_500;

/// Two partitions, out of order by half a minute.
fn lines(bad: &[u64]) -> Lines<Item> {
    let line = |id: u64| {
        let word = if bad.contains(&id) { "bad" } else { "good" };
        format!("{} {id} {word} {:050}\n", 1_000_000 + id * 800 + (id * id % 13) * 2_500, 0)
    };
    Lines::new((0..2).map(|p| (0..ITEMS).filter(|id| id % 2 == p).map(line).collect::<String>()), parse)
}

/// Remembers how many items there were and their sum: half of one that panics.
struct Running;

impl Process for Running {
    type In = Item;
    type State = (u64, u64);
    type Out = (String, u64, u64);
    const STATE_VERSION: u32 = 1;

    fn on_record(&self, key: &OwnedKey, (count, sum): &mut (u64, u64), item: Item, ctx: &mut Context<'_, Self::Out>) {
        *count += 1;
        ctx.emit((key.texts().1.into_owned(), *count, *sum));
        ctx.set_timer(item.time.plus(seconds(30)));
        panics(&item);
        *sum += item.id;
    }

    fn on_timer(&self, key: &OwnedKey, (count, sum): &mut (u64, u64), _: EventTime, ctx: &mut Context<'_, Self::Out>) {
        ctx.emit((key.texts().1.into_owned(), *count, *sum));
    }
}

/// A sum that panics when a value with a bad item is merged, or brought into its final form.
struct Touchy;

impl Aggregate<Item> for Touchy {
    type Partial = (u64, bool);

    fn name(&self) -> String {
        "touchy".into()
    }

    fn add(&self, (sum, bad): &mut (u64, bool), item: &Item) {
        *sum += item.id;
        *bad |= item.bad;
    }

    fn merge(&self, (sum, bad): &mut (u64, bool), from: (u64, bool)) {
        *sum += from.0;
        *bad |= from.1;
        assert!(!*bad, "a bad item is merged");
    }

    fn finish(&self, (_, bad): &mut (u64, bool)) {
        assert!(!*bad, "a value has a bad item");
    }
}

fn by_key(item: &Item) -> KeyRef<'_> {
    key("t", if (item.id / 7).is_multiple_of(2) { "a" } else { "b" })
}

/// The pipeline; with `without` bad items never reach the operator.
fn pipeline(of: Of, lines: &Lines<Item>, store: &Arc<dyn Store>, without: bool) -> impl Build + Clone + use<> {
    let lines = lines.clone();
    let letters = text("letters", store, |rejected: &Rejected| {
        let letter = &rejected.letter;
        format!("{} | {}", String::from_utf8_lossy(&letter.payload), letter.reason)
    });
    let rows = text("rows", store, |row: &String| row.clone());
    move |flow: &Flow<'_>| {
        let items = flow
            .source("items", lines.clone())
            .malformed_to("dead_letters", letters())
            .event_time(|item: &Item| item.time, |_| None, Watermarks::out_of_order(seconds(60)))
            .filter(move |item| !(without && item.bad));
        let all = || items.clone().key_by(by_key);
        let lefts = || items.clone().filter(Item::left).key_by(by_key);
        let rights = || items.clone().filter(|item| !item.left()).key_by(by_key);
        let pair = |left: &Item, right: &Item| {
            panics(left);
            panics(right);
            (left.id, right.id)
        };
        match of {
            Of::Process => all().process("op", Running).map(|row| format!("{row:?}")).sink("rows", rows()),
            Of::Window => {
                let windows = all().window("op", Tumbling::of(minutes(1)).late(Late::Correct));
                windows.aggregate(Touchy).map(|row| format!("{row:?}")).sink("rows", rows());
            }
            Of::Hopping => {
                let windows = all().window("op", Hopping::of(minutes(3)).every(minutes(1)));
                windows.aggregate(Touchy).map(|row| format!("{row:?}")).sink("rows", rows());
            }
            Of::Upserts => {
                let windows = all().window("op", Tumbling::of(minutes(1)).late(Late::Drop));
                windows.upserts(minutes(60)).aggregate(Touchy).map(|row| format!("{row:?}")).sink("rows", rows());
            }
            Of::JoinWindow => {
                let windows = Tumbling::of(minutes(1)).late(Late::Correct);
                let joined = lefts().join_window("op", rights(), windows).inner(pair);
                joined.rows.map(|row| format!("{row:?}")).sink("rows", rows());
            }
            Of::JoinInterval => {
                let joined = lefts().join_interval("op", rights(), Within::after(minutes(1))).inner(pair);
                joined.rows.map(|row| format!("{row:?}")).sink("rows", rows());
            }
            Of::Lookup => {
                let looked_up = lefts().lookup("op", rights(), |right| Some(right.id)).corrected(|left, right| {
                    panics(left);
                    (left.id, right.copied())
                });
                looked_up.rows.map(|row| format!("{row:?}")).sink("rows", rows());
            }
        }
    }
}

type Rows = BTreeMap<Epoch, Vec<String>>;

/// Runs until all is read: how often it was started, the rows, and the ids that were set aside, which the letters name.
fn run(of: Of, bad: &[u64], workers: u32) -> (u32, Rows, BTreeSet<u64>) {
    let (lines, store) = (lines(bad), memory());
    let build = pipeline(of, &lines, &store, false);
    for start in 1..10 {
        match attempt(&build, &store, workers) {
            Ok(_) => {
                let letters: Vec<String> = by_epoch(&store, "letters").into_values().flatten().collect();
                assert!(letters.iter().all(|letter| letter.contains("it panicked in op twice: ")), "{letters:?}");
                let id = |letter: &String| parse(letter).expect("the payload is a line").id;
                return (start, by_epoch(&store, "rows"), letters.iter().map(id).collect());
            }
            Err(RunError::WorkerPanicked(sentence)) => assert!(sentence.contains("panicked in op"), "{sentence}"),
            Err(error) => panic!("{of:?}: {error}"),
        }
    }
    panic!("{of:?}, {workers} workers: it panics again and again");
}

fn check(of: Of, bad: &[u64], workers: u32) {
    let (lines, store) = (lines(bad), memory());
    attempt(&pipeline(of, &lines, &store, true), &store, 1).expect("nothing bad gets there");
    let (starts, rows, aside) = run(of, bad, workers);
    assert_eq!(aside, bad.iter().copied().collect(), "{of:?}, {workers} workers");
    assert_eq!(rows, by_epoch(&store, "rows"), "{of:?}, {workers} workers");
    assert_eq!(starts, 3, "{of:?}, {workers} workers");
}

/// All of one partition, and of one block of it.
const BAD: [u64; 3] = [100, 106, 200];

#[test]
fn a_panic_in_process_sets_its_record_aside() {
    (1..=2).for_each(|workers| check(Of::Process, &BAD, workers));
}

#[test]
fn a_panic_in_the_aggregate_of_a_window_sets_its_record_aside() {
    for of in [Of::Window, Of::Hopping, Of::Upserts] {
        (1..=2).for_each(|workers| check(of, &BAD, workers));
    }
}

#[test]
fn a_panic_in_a_join_or_a_lookup_sets_the_record_aside_that_all_its_panics_have_in_common() {
    for of in [Of::JoinWindow, Of::JoinInterval, Of::Lookup] {
        (1..=2).for_each(|workers| check(of, &[100, 200], workers));
    }
    // On the other side.
    check(Of::JoinWindow, &[102, 300], 2);
}
