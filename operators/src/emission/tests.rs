//! Upserts and final values against the plain rule: all views of a window so far.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemill_dataflow::time::{hours, minutes};

use super::*;
use crate::aggregate::{Hashes, approx_distinct, count, distinct, max};
use crate::window::hopping::Hopping;
use crate::window::laws::{Given, Judged, Step, View, given, script, windower};
use crate::window::tumbling::Tumbling;

const WIDTH: i64 = 20;

fn span(millis: i64) -> Duration {
    Duration::from_millis(millis.unsigned_abs())
}

fn windows(step: i64, policy: Late) -> Hopping {
    Hopping::of(span(WIDTH)).every(span(step)).late(policy)
}

type Value = (i64, Option<i64>, Hashes);

fn aggregate() -> Rc<impl Aggregate<View, Partial = Value>> {
    Rc::new((count(), max(|v: &View| v.time), distinct(|v: &View| u64::from(v.user))))
}

fn value<'a>(views: impl Iterator<Item = &'a View> + Clone) -> Value {
    let mut users: Vec<_> = views.clone().map(|view| u64::from(view.user)).collect();
    users.sort_unstable();
    users.dedup();
    (views.clone().count() as i64, views.map(|view| view.time).max(), Hashes(users))
}

/// (page, window) and value, and in which epoch it is given.
type Expected = BTreeMap<(usize, String, i64), Value>;

fn page(page: u8) -> String {
    ["/a", "/b", "/c"][usize::from(page)].into()
}

fn in_order<O>(given: &[Given<O>], row: impl Fn(&O, usize) -> (String, i64, Value)) -> Expected {
    let mut rows = BTreeMap::new();
    for (at, epoch) in given.iter().enumerate() {
        for (page, start, value) in epoch.rows.iter().map(|out| row(out, at)) {
            assert!(rows.insert((at, page, start), value).is_none(), "a window comes once in an epoch");
        }
    }
    rows
}

/// The first epoch whose watermark is at or past a time; the one after the script drains.
fn reached(script: &[Step], time: i64) -> usize {
    script.iter().position(|(_, after)| *after >= time).unwrap_or(script.len())
}

proptest! {
    #[test]
    fn an_upsert_is_the_whole_window_in_each_epoch_that_changes_it(
        script in script(90), workers in prop::collection::vec(1u32..5, 8), step in 4i64..=20, correctable in 0i64..60,
        policy in prop::sample::select(vec![Late::Side, Late::Drop]),
    ) {
        let (windows, aggregate) = (windows(step, policy), aggregate());
        let make = || {
            let logic = UpsertLogic::new(Held::new(windows, span(correctable)), Rc::clone(&aggregate));
            (Holding(windower(&windows, correctable, &aggregate)), PerKey::new(logic))
        };
        let given = given(&make, &script, &workers);
        let judged = Judged::of(&script, (WIDTH, step), correctable, policy);
        judged.check_late(&given, policy);
        let mut expected = Expected::new();
        for ((of, start), views) in &judged.cells {
            for (at, _) in views {
                let so_far = views.iter().filter(|(came, _)| came <= at).map(|(_, view)| view);
                expected.insert((*at, page(*of), *start), value(so_far));
            }
        }
        let row = |out: &WindowVersion<Value>, at: usize| {
            assert_eq!(out.version, at as u64 + 1, "the version is the epoch");
            (out.row.key.texts().1.into_owned(), out.row.start.0, out.row.value.clone())
        };
        prop_assert_eq!(in_order(&given, row), expected);
    }

    #[test]
    fn a_window_is_given_once_when_nothing_can_change_it_any_more(
        script in script(90), workers in prop::collection::vec(1u32..5, 8), step in 4i64..=20, correctable in 0i64..60,
        policy in prop::sample::select(vec![Late::Side, Late::Drop]),
    ) {
        let (windows, aggregate) = (windows(step, policy), aggregate());
        let make = || {
            let logic = OnceLogic::new(Held::new(windows, span(correctable)), Rc::clone(&aggregate));
            (Holding(windower(&windows, correctable, &aggregate)), PerKey::new(logic))
        };
        let given = given(&make, &script, &workers);
        let judged = Judged::of(&script, (WIDTH, step), correctable, policy);
        judged.check_late(&given, policy);
        let mut expected = Expected::new();
        for ((of, start), views) in &judged.cells {
            // In the epoch that closes it; what comes for a window that is about to close closes with it.
            let came = views.iter().map(|(came, _)| *came).max().unwrap_or_default();
            let closes = reached(&script, start + WIDTH + correctable);
            assert!(came <= closes);
            expected.insert((closes, page(*of), *start), value(views.iter().map(|(_, view)| view)));
        }
        let row = |out: &WindowRow<Value>, _: usize| (out.key.texts().1.into_owned(), out.start.0, out.value.clone());
        prop_assert_eq!(in_order(&given, row), expected);
    }

    #[test]
    fn deltas_upserts_and_final_values_tell_the_same(script in script(15), workers in prop::collection::vec(1u32..5, 8)) {
        // Nothing is late here, so the last upsert of a window, its only final value and the fold of deltas agree.
        let (windows, aggregate) = (Tumbling::of(span(WIDTH)).late(Late::Drop), aggregate());
        let held = || Held::new(windows, span(30));
        let combiner = || Holding(windower(&windows, 30, &aggregate));
        let upserts = || (combiner(), PerKey::new(UpsertLogic::new(held(), Rc::clone(&aggregate))));
        let once = || (combiner(), PerKey::new(OnceLogic::new(held(), Rc::clone(&aggregate))));
        let mut last = BTreeMap::new();
        for out in given(&upserts, &script, &workers).into_iter().flat_map(|given| given.rows) {
            last.insert((out.row.key, out.row.start), out.row.value);
        }
        let finals = given(&once, &script, &workers).into_iter().flat_map(|given| given.rows);
        let finals: BTreeMap<_, _> = finals.map(|row| ((row.key, row.start), row.value)).collect();
        prop_assert_eq!(&last, &finals);
        let correct = windows.late(Late::Correct);
        let merge = || crate::window::cells::MergeLogic::new(&correct, Rc::clone(&aggregate));
        let deltas = || (crate::window::windowed::Deltas(windower(&correct, 0, &aggregate)), merge());
        let mut folded: BTreeMap<_, Value> = BTreeMap::new();
        for row in given(&deltas, &script, &workers).into_iter().flat_map(|given| given.rows) {
            let cell = folded.entry((row.key, row.start)).or_default();
            aggregate.merge(cell, row.value);
            aggregate.finish(cell);
        }
        prop_assert_eq!(folded, finals);
    }
}

#[test]
fn what_cannot_be_corrected_for_ever_is_refused_with_the_remedies() {
    let error = Held::new(Tumbling::of(minutes(1)), hours(1)).validate().unwrap_err().to_string();
    for told in ["3600000 ms", "Late::Side", "Late::Drop", "emit deltas"] {
        assert!(error.contains(told), "{error}");
    }
    let of = |late, span| Held::new(Tumbling::of(minutes(1)).late(late), span).validate();
    assert_eq!(of(Late::Drop, Duration::ZERO), Ok(()));
    assert_eq!(of(Late::Side, hours(1)), Ok(()));
    assert!(of(Late::Side, Duration::MAX).unwrap_err().to_string().contains("correctable"));
    let nothing = Held::new(Tumbling::of(Duration::ZERO).late(Late::Side), hours(1)).validate().unwrap_err();
    assert!(nothing.to_string().contains("the width of a tumbling window is 0 ms"), "{nothing}");
}

#[test]
fn the_end_of_time_closes_every_window() {
    let held = Held::new(Tumbling::of(minutes(1)).late(Late::Drop), hours(1));
    assert_eq!(held.keep(EventTime(i64::MAX - 5), Some(EventTime::MAX)), Keep::Remove);
    assert_eq!(held.keep(EventTime(0), None), Keep::Keep);
}

#[test]
fn state_is_measured_with_what_values_hold() {
    let windows = Tumbling::of(minutes(1)).late(Late::Drop);
    let users = Rc::new((count(), approx_distinct(|n: &u64| *n)));
    let logic = UpsertLogic::new(Held::new(windows, hours(1)), Rc::clone(&users));
    let mut state = HeldValue::default();
    (0..10_000).for_each(|n: u64| users.add(&mut state.value, &n));
    assert_eq!(logic.heap_bytes(&state), 1 << 14);
}
