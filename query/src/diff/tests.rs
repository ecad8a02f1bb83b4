use proptest::prelude::*;
use tidemill_tables::web_analytics;

use super::*;
use crate::fixture::{Cell, Epoch, MINUTE, Order as Orders, TEN, TestPlace, Visit};

const MEMORY: usize = 64 << 20;

fn view(minute: i64, key: &'static str, count: i64, users: &[u64]) -> Cell {
    Cell { tenant: "default", minute: TEN + minute * MINUTE, key, count, users: users.to_vec() }
}

fn visit(user: &'static str, minutes: i64, events: i64, sign: i8) -> Visit {
    Visit { user, first: TEN, last: TEN + minutes * MINUTE, events, sign }
}

fn views(cells: Vec<Cell>) -> Epoch {
    Epoch { views: cells, ..Epoch::default() }
}

fn visits(visits: Vec<Visit>) -> Epoch {
    Epoch { visits, ..Epoch::default() }
}

/// A place with an epoch of each of `rows`, some of them rolled.
fn place(epochs: &[Epoch], rolled: usize) -> TestPlace {
    let mut place = TestPlace::new();
    for (at, epoch) in epochs.iter().enumerate() {
        place.commit(epoch);
        if at + 1 == rolled {
            place.roll();
        }
    }
    place
}

fn compare(spec: &TableSpec, a: &TestPlace, b: &TestPlace) -> TableDiff {
    let comparison = Comparison::open([&a.location(), &b.location()], &web_analytics::all(), MEMORY).unwrap();
    comparison.table(spec).unwrap()
}

#[test]
fn the_tables_compared_are_those_of_the_pipelines_that_wrote_the_two_places() {
    let specs = web_analytics::all();
    let compared = |a: &TestPlace, b: &TestPlace| {
        let comparison = Comparison::open([&a.location(), &b.location()], &specs, MEMORY).unwrap();
        let tables = comparison.tables(&specs);
        let rows = |spec: &&TableSpec| (spec.name.clone(), comparison.table(spec).unwrap().rows);
        tables.iter().map(rows).collect::<Vec<_>>()
    };
    let place = |names: &[&str], epoch: &Epoch| {
        let mut place = TestPlace::of_tables(names);
        place.commit(epoch);
        place
    };
    let viewed = Epoch { views: vec![view(0, "/", 1, &[1])], ..Epoch::default() };
    let (views, sessions) = (["page_views_by_minute"], ["sessions"]);
    let of_views = place(&views, &viewed);
    assert_eq!(compared(&of_views, &place(&views, &Epoch::default())), [("page_views_by_minute".into(), [1, 0])]);
    let both = [("page_views_by_minute".to_owned(), [1, 0]), ("sessions".to_owned(), [0, 0])];
    assert_eq!(compared(&of_views, &place(&sessions, &Epoch::default())), both);
    let mut older = TestPlace::new();
    older.commit(&viewed);
    assert_eq!(compared(&older, &of_views), [("page_views_by_minute".into(), [1, 1])], "one says, one has rows");
    assert_eq!(compared(&older, &older).len(), specs.len(), "neither says");
}

#[test]
fn tables_that_mean_the_same_are_equal_however_their_rows_came() {
    let one = [
        Epoch {
            views: vec![view(0, "/", 2, &[1, 2]), view(0, "/a", 1, &[3])],
            orders: vec![Orders { minute: TEN, currency: "EUR", orders: 2, cents: 300 }],
            visits: vec![visit("u", 5, 2, 1)],
            unverified: vec![TEN, TEN, TEN + 1],
            ..Epoch::default()
        },
        Epoch { views: vec![view(0, "/", 1, &[2]), view(70, "/", 1, &[9])], ..Epoch::default() },
        visits(vec![visit("u", 5, 2, -1), visit("u", 9, 3, 1)]),
    ];
    let other = [
        Epoch { views: vec![view(70, "/", 1, &[9]), view(0, "/", 3, &[2, 1])], ..Epoch::default() },
        Epoch {
            views: vec![view(0, "/a", 1, &[3]), view(0, "/b", 0, &[])],
            orders: [(1, 100), (1, 200)]
                .map(|(orders, cents)| Orders { minute: TEN, currency: "EUR", orders, cents })
                .to_vec(),
            visits: vec![visit("u", 9, 3, 1)],
            unverified: vec![TEN + 1, TEN, TEN],
            ..Epoch::default()
        },
    ];
    let (a, b) = (place(&one, 2), place(&other, 0));
    for (spec, rows) in web_analytics::all().iter().zip([3, 0, 1, 1, 0, 3]) {
        let found = compare(spec, &a, &b);
        assert_eq!(found.first, None, "{}", spec.name);
        assert_eq!((found.rows, found.digests[0]), ([rows; 2], found.digests[1]), "{}", spec.name);
    }
}

#[test]
fn the_first_differing_key_is_named_with_both_rows() {
    let spec = web_analytics::page_views_by_minute();
    let a = place(&[views(vec![view(0, "/", 2, &[1, 2]), view(1, "/x", 5, &[1]), view(2, "/y", 1, &[1])])], 0);
    let b = place(&[views(vec![view(0, "/", 2, &[1, 2]), view(1, "/x", 6, &[1]), view(2, "/y", 2, &[1])])], 1);
    let found = compare(&spec, &a, &b).first.expect("they differ");
    assert_eq!(found.key, r#"{"tenant":"default","window_start":"2015-05-17T10:01:00.000Z","page":"/x"}"#);
    let [first, second] = found.rows.map(Option::unwrap);
    assert!(first.contains(r#""views":5,"users":"1 (set "#) && second.contains(r#""views":6,"#), "{first} {second}");

    let missing = place(&[views(vec![view(0, "/", 2, &[1, 2]), view(2, "/y", 1, &[1])])], 0);
    for (pair, side) in [([&a, &missing], 0), ([&missing, &a], 1)] {
        let less = compare(&spec, pair[0], pair[1]);
        assert_eq!((less.rows[side], less.rows[1 - side]), (3, 2));
        let at = less.first.expect("one is missing");
        assert!(at.key.contains(r#""page":"/x""#), "{at:?}");
        assert!(at.rows[side].is_some() && at.rows[1 - side].is_none(), "{at:?}");
    }
}

#[test]
fn as_many_users_are_not_the_same_users() {
    let spec = web_analytics::page_views_by_minute();
    let (a, b) =
        (place(&[views(vec![view(0, "/", 2, &[1, 2])])], 0), place(&[views(vec![view(0, "/", 2, &[1, 3])])], 0));
    let [first, second] = compare(&spec, &a, &b).first.expect("they differ").rows.map(Option::unwrap);
    assert!(first.contains("2 (set ") && second.contains("2 (set ") && first != second, "{first} {second}");
}

#[test]
fn a_session_that_differs_is_shown_beside_the_other() {
    let spec = web_analytics::sessions();
    let (a, b) = (place(&[visits(vec![visit("u", 5, 2, 1)])], 0), place(&[visits(vec![visit("u", 9, 3, 1)])], 0));
    let found = compare(&spec, &a, &b).first.expect("they differ");
    assert_eq!(found.key, r#"{"tenant":"default","user_id":"u"}"#);
    assert!(found.rows.iter().all(Option::is_some), "{found:?}");
}

#[test]
fn a_place_without_a_log_is_refused_by_name() {
    let (a, empty) = (place(&[], 0), tempfile::tempdir().unwrap());
    let nothing = Location::Folder(empty.path().to_owned());
    let error = Comparison::open([&a.location(), &nothing], &web_analytics::all(), MEMORY).unwrap_err().chain();
    assert!(error.contains(&nothing.to_string()), "{error}");
}

#[test]
fn more_rows_than_are_folded_at_once_are_compared_to_the_last() {
    let spec = web_analytics::page_views_by_minute();
    let rows = |wrong: i64| {
        let mut cells: Vec<Cell> = (0..100_000).map(|at| view(at % 1_000, "/", 1, &[at.cast_unsigned() % 7])).collect();
        cells.push(view(2_000, "/", wrong, &[1]));
        views(cells)
    };
    let (a, b, c) = (place(&[rows(1)], 0), place(&[rows(1)], 1), place(&[rows(2)], 0));
    let same = compare(&spec, &a, &b);
    assert_eq!((same.first, same.rows), (None, [1_001; 2]));
    let differs = compare(&spec, &a, &c).first.expect("they differ");
    assert!(differs.key.contains("2015-05-18T19:20:00.000Z"), "{differs:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn equal_if_and_only_if_folded_rows_are_equal(
        a in prop::collection::vec((0..3_i64, 0..2_usize, 1..3_i64, prop::collection::vec(0..3_u64, 0..3)), 0..6),
        b in prop::collection::vec((0..3_i64, 0..2_usize, 1..3_i64, prop::collection::vec(0..3_u64, 0..3)), 0..6),
    ) {
        let cells = |rows: &[(i64, usize, i64, Vec<u64>)]| -> Vec<Cell> {
            rows.iter().map(|(minute, page, count, users)| view(*minute, ["/", "/a"][*page], *count, users)).collect()
        };
        let spec = web_analytics::page_views_by_minute();
        let folded = |all: &[Cell]| {
            let batches: Vec<_> = views(all.to_vec()).batches().into_iter().map(|(_, batch)| batch).collect();
            fold(&spec, &batches).unwrap()
        };
        let (a, b) = (cells(&a), cells(&b));
        let each = |all: &[Cell]| all.iter().map(|cell| views(vec![cell.clone()])).collect::<Vec<_>>();
        let found = compare(&spec, &place(&each(&a), 2), &place(&each(&b), 0));
        prop_assert_eq!(found.first.is_none(), folded(&a) == folded(&b));
        prop_assert_eq!(found.first.is_none(), found.digests[0] == found.digests[1] && found.rows[0] == found.rows[1]);
    }
}
