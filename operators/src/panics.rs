//! Code of keyed operators that panics, in whole runs. The records to blame are set aside, in at most three starts, and the
//! rest comes out as if they had not been there; where none is to blame the run ends for good, in the second start.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::{KeyRef, OwnedKey, key};
use tidemill_dataflow::runtime::{Build, RunError, RunErrorKind};
use tidemill_dataflow::stream::Rejected;
use tidemill_dataflow::testing::{Lines, Store, attempt, by_epoch, memory, text};
use tidemill_dataflow::time::{Epoch, EventTime, minutes, seconds};
use tidemill_dataflow::watermark::Watermarks;

use crate::aggregate::Aggregate;
use crate::incremental::{Change, IncrementalOps, Retain};
use crate::join::{JoinOps, Within};
use crate::process::{Context, Process, ProcessOps};
use crate::stream::KeyedStreamOps;
use crate::window::hopping::Hopping;
use crate::window::tumbling::{Late, Tumbling};

/// Whose code panics.
#[derive(Clone, Copy, Debug)]
enum Of {
    Process,
    /// In a timer that a record sets, so many seconds later.
    Timer(u64),
    View,
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

/// Out of order by half a minute. An epoch takes one of two partitions, and no watermark is known before it has taken both;
/// so where time must pass in the first epoch there is one.
fn lines(of: Of, bad: &[u64]) -> Lines<Item> {
    let partitions = if matches!(of, Of::Timer(_)) { 1 } else { 2 };
    let line = |id: u64| {
        let word = if bad.contains(&id) { "bad" } else { "good" };
        format!("{} {id} {word} {:050}\n", 1_000_000 + id * 800 + (id * id % 13) * 2_500, 0)
    };
    let of_partition = |p| (0..ITEMS).filter(|id| id % partitions == p).map(line).collect::<String>();
    Lines::new((0..partitions).map(of_partition), parse)
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

/// Remembers whether there was a bad item, and panics because of it in a timer, so many seconds after each.
struct Alarm(u64);

impl Process for Alarm {
    type In = Item;
    type State = (u64, bool);
    type Out = (u64, u64);
    const STATE_VERSION: u32 = 1;

    fn on_record(&self, _: &OwnedKey, (sum, bad): &mut (u64, bool), item: Item, ctx: &mut Context<'_, Self::Out>) {
        *sum += item.id;
        *bad |= item.bad;
        ctx.set_timer(item.time.plus(seconds(self.0)));
    }

    fn on_timer(&self, _: &OwnedKey, (sum, bad): &mut (u64, bool), at: EventTime, ctx: &mut Context<'_, Self::Out>) {
        assert!(!*bad, "there was a bad item");
        ctx.emit((*sum, at.0.unsigned_abs()));
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
            Of::Timer(after) => {
                all().process("op", Alarm(after)).map(|row| format!("{row:?}")).sink("rows", rows());
            }
            Of::View => {
                let change = |item: &Item| Change::insert((item.id, item.bad));
                let view = all().incremental("op", Retain::forever(), change, |changes| {
                    changes.map(|(id, bad)| {
                        assert!(!bad, "item {id} is bad");
                        id
                    })
                });
                view.changes().map(|row| format!("{row:?}")).sink("rows", rows());
            }
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
    let (lines, store) = (lines(of, bad), memory());
    let build = pipeline(of, &lines, &store, false);
    for start in 1..10 {
        match attempt(&build, &store, workers) {
            Ok(_) => {
                let letters: Vec<String> = by_epoch(&store, "letters").into_values().flatten().collect();
                assert!(letters.iter().all(|letter| letter.contains("it panicked in op twice: ")), "{letters:?}");
                let id = |letter: &String| parse(letter).expect("the payload is a line").id;
                return (start, by_epoch(&store, "rows"), letters.iter().map(id).collect());
            }
            Err(RunError::WorkerPanicked(sentence)) => {
                assert!(["panicked in op", "op panicked"].iter().any(|words| sentence.contains(words)), "{sentence}");
            }
            Err(error) => panic!("{of:?}: {error}"),
        }
    }
    panic!("{of:?}, {workers} workers: it panics again and again");
}

fn check(of: Of, bad: &[u64], workers: u32) {
    let (lines, store) = (lines(of, bad), memory());
    attempt(&pipeline(of, &lines, &store, true), &store, 1).expect("nothing bad gets there");
    let (starts, rows, aside) = run(of, bad, workers);
    assert_eq!(aside, bad.iter().copied().collect(), "{of:?}, {workers} workers");
    assert_eq!(rows, by_epoch(&store, "rows"), "{of:?}, {workers} workers");
    assert_eq!(starts, 3, "{of:?}, {workers} workers");
}

/// All of one partition, and of its first epoch.
const BAD: [u64; 3] = [100, 106, 200];

const WORKERS: [u32; 3] = [1, 2, 4];

#[test]
fn a_panic_in_process_sets_its_record_aside() {
    WORKERS.into_iter().for_each(|workers| check(Of::Process, &BAD, workers));
}

#[test]
fn a_panic_in_the_aggregate_of_a_window_sets_its_record_aside() {
    for of in [Of::Window, Of::Hopping, Of::Upserts] {
        WORKERS.into_iter().for_each(|workers| check(of, &BAD, workers));
    }
}

#[test]
fn a_panic_in_a_join_or_a_lookup_sets_the_record_aside_that_all_its_panics_have_in_common() {
    for of in [Of::JoinWindow, Of::JoinInterval, Of::Lookup] {
        WORKERS.into_iter().for_each(|workers| check(of, &[100, 200], workers));
    }
    // On the other side.
    check(Of::JoinWindow, &[102, 300], 2);
}

#[test]
fn a_panic_in_a_timer_is_of_the_record_of_the_same_epoch_that_led_to_it() {
    WORKERS.into_iter().for_each(|workers| check(Of::Timer(1), &BAD, workers));
}

/// What a pipeline says that panics in each start, where no record is to blame, until it is mended.
fn says(of: Of, workers: u32) -> Vec<String> {
    let (lines, store) = (lines(of, &[100]), memory());
    let says = [RunErrorKind::Failed, RunErrorKind::Refused, RunErrorKind::Refused].map(|kind| {
        let error = attempt(&pipeline(of, &lines, &store, false), &store, workers).unwrap_err();
        assert_eq!(error.kind(), kind, "{of:?}, {workers} workers: {error}");
        error.to_string()
    });
    assert!(says[1].contains("mend op, and start the new program"), "{says:?}");
    says.into()
}

#[test]
fn a_panic_in_a_timer_of_an_earlier_epoch_ends_the_run_for_good_in_the_second_start() {
    for workers in WORKERS {
        for sentence in says(Of::Timer(900), workers) {
            assert!(sentence.contains("op panicked at key t/a in epoch 2 (there was a bad item)"), "{sentence}");
        }
    }
}

#[test]
fn a_panic_in_a_view_ends_the_run_for_good_in_the_second_start() {
    for workers in WORKERS {
        for sentence in says(Of::View, workers) {
            let words = ["op panicked in epoch ", " or soon after (item 100 is bad)"];
            assert!(words.iter().all(|word| sentence.contains(word)), "{sentence}");
        }
    }
}
