//! Rankings against sorting everything.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemill_dataflow::keyed::PerKey;

use super::*;
use crate::window::assigner::Late;
use crate::window::hopping::Hopping;
use crate::window::laws::{Judged, View, given, script, user, windower};
use crate::window::windowed::Holding;

const WIDTH: i64 = 20;
const CORRECTABLE: i64 = 30;

fn span(millis: i64) -> Duration {
    Duration::from_millis(millis.unsigned_abs())
}

fn aggregate(places: u32) -> Rc<impl Aggregate<View, Partial = ItemCounts>> {
    Rc::new(CountItems::new(user_bytes, places))
}

fn user_bytes(view: &View) -> &[u8] {
    user(view).as_bytes()
}

/// (page, window, place, user, count)
type Place = (String, i64, u32, String, i64);

proptest! {
    #[test]
    fn the_sum_of_all_changes_is_the_ranking_of_all_views_after_every_epoch(
        script in script(90), workers in prop::collection::vec(1u32..5, 8), step in 4i64..=20, places in 1u32..4,
        policy in prop::sample::select(vec![Late::Side, Late::Drop]),
    ) {
        let windows = Hopping::of(span(WIDTH)).every(span(step)).late(policy);
        let counts = aggregate(places);
        let make = || {
            let logic = TopKLogic::new(Held::new(windows, span(CORRECTABLE)), places);
            (Holding(windower(&windows, CORRECTABLE, &counts)), PerKey::new(logic))
        };
        let given = given(&make, &script, &workers);
        let judged = Judged::of(&script, (WIDTH, step), CORRECTABLE, policy);
        judged.check_late(&given, policy);
        let mut folded: BTreeMap<Place, i64> = BTreeMap::new();
        for (at, epoch) in given.iter().enumerate() {
            let mut seen = BTreeMap::new();
            for change in &epoch.rows {
                let item = String::from_utf8(change.item.clone()).unwrap();
                let place = (change.key.texts().1.into_owned(), change.start.0, change.rank, item, change.count);
                prop_assert_eq!(seen.insert(place.clone(), change.sign), None, "a row comes once in an epoch");
                *folded.entry(place).or_default() += i64::from(change.sign);
            }
            folded.retain(|_, sign| *sign != 0);
            prop_assert_eq!(&folded, &expected(&judged, at, places), "after epoch {}", at);
        }
    }
}

/// The first places of every window, of what came through an epoch.
fn expected(judged: &Judged, epoch: usize, places: u32) -> BTreeMap<Place, i64> {
    let mut expected = BTreeMap::new();
    for ((page, start), views) in &judged.cells {
        let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
        for (_, view) in views.iter().filter(|(came, _)| *came <= epoch) {
            *counts.entry(user(view)).or_default() += 1;
        }
        let mut ranked: Vec<_> = counts.into_iter().collect();
        ranked.sort_by_key(|(user, count)| (-count, *user));
        for (rank, (user, count)) in (1..=places).zip(ranked) {
            let page = ["/a", "/b", "/c"][usize::from(*page)].to_owned();
            expected.insert((page, *start, rank, user.to_owned(), count), 1);
        }
    }
    expected
}

#[test]
fn of_items_with_one_count_the_smaller_bytes_come_first() {
    let windows = Hopping::of(span(WIDTH)).late(Late::Drop);
    let logic = TopKLogic::new(Held::new(windows, span(0)), 2);
    let items = |items: &[(&str, i64)]| {
        ItemCounts(items.iter().map(|(item, count)| (item.as_bytes().into(), *count)).collect())
    };
    let mut state = Ranking::default();
    let names = |ranked: &[(Item, i64)]| -> Vec<_> {
        ranked.iter().map(|(item, _)| String::from_utf8(item.to_vec()).unwrap()).collect()
    };
    let first = logic.count(&mut state, &mut vec![items(&[("c", 1), ("b", 1)]), items(&[("a", 1)])]);
    assert_eq!(names(&first), ["a", "b"]);
    state.shown = first;
    let second = logic.count(&mut state, &mut vec![items(&[("c", 1)])]);
    assert_eq!(names(&second), ["c", "a"]);
}

#[test]
fn a_ranking_without_places_is_reported() {
    let mut problems = Vec::new();
    aggregate(0).problems(&mut |problem| problems.push(problem));
    assert!(matches!(&problems[..], [problem] if problem.contains("at least one")), "{problems:?}");
}

#[test]
fn state_is_measured_with_its_items() {
    let windows = Hopping::of(span(WIDTH)).late(Late::Drop);
    let logic = TopKLogic::new(Held::new(windows, span(0)), 1);
    let mut state = Ranking::default();
    let before = logic.heap_bytes(&state);
    let items = ItemCounts([(vec![b'x'; 1_000].into_boxed_slice(), 1)].into());
    logic.count(&mut state, &mut vec![items]);
    assert!(logic.heap_bytes(&state) > before + 1_000);
}
