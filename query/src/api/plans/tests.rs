use std::sync::Arc;

use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use proptest::prelude::*;
use tidemill_log::DataFile;
use tidemill_tables::calendar::hour_folder;
use tidemill_tables::web_analytics;
use tokio::runtime::Runtime;

use super::*;
use crate::api::time_range::Span;
use crate::fixture::{Cell, Epoch, MINUTE, Order, TEN, Visit, different_users, parquet};
use crate::session::{Tables, session};
use crate::visible::Visible;

/// A session over epochs, each of whose files is recent or rolled by the hour; rows kept in memory or read from files.
async fn tables(epochs: &[(Epoch, bool)], memory: usize) -> SessionContext {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut visible = Visible { epoch: Some(9), complete_through: Some(TEN), ..Visible::default() };
    for (number, (epoch, rolled)) in epochs.iter().enumerate() {
        let parts: Vec<(String, Epoch)> = if *rolled {
            epoch.by_hour().into_iter().map(|(hour, part)| (hour_folder(hour), part)).collect()
        } else {
            vec![("_recent".to_owned(), epoch.clone())]
        };
        for (folder, part) in parts {
            for (spec, batch) in part.batches() {
                let path = format!("tables/{}/{folder}/{number:012}-000-000.parquet", spec.name);
                let bytes = parquet(&batch);
                let file = DataFile { path, rows: batch.num_rows() as u64, bytes: bytes.len() as u64 };
                store.put(&ObjectPath::from(file.path.as_str()), bytes.into()).await.unwrap();
                visible.tables.entry(spec.name).or_default().push(file);
            }
        }
    }
    session(&Tables::cached(store, web_analytics::all(), memory, 64 << 20).unwrap(), &visible).unwrap()
}

fn query(metric: Metric, step: Step) -> MetricQuery {
    MetricQuery { metric, span: Span::default(), step, tenant: "default".into(), page: None, currency: None }
}

fn values(points: &[Point]) -> Vec<i64> {
    points.iter().map(|point| point.value).collect()
}

fn cell() -> impl Strategy<Value = Cell> {
    let parts = (
        prop_oneof![4 => Just("default"), 1 => Just("acme")],
        -70..140_i64,
        prop_oneof![Just("/"), Just("/a"), Just("/b'; DROP TABLE x")],
        1..5_i64,
        prop::collection::vec(0..30_u64, 1..4),
    );
    parts.prop_map(|(tenant, minute, key, count, users)| Cell {
        tenant,
        minute: TEN + minute * MINUTE,
        key,
        count,
        users,
    })
}

fn epoch() -> impl Strategy<Value = (Epoch, bool)> {
    (prop::collection::vec(cell(), 0..12), any::<bool>())
        .prop_map(|(views, rolled)| (Epoch { views, ..Epoch::default() }, rolled))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn buckets_and_unions_over_any_range_are_those_of_the_rows(
        epochs in prop::collection::vec(epoch(), 0..5),
        from in -80..100_i64,
        minutes in 0..150_i64,
        step in prop_oneof![Just(Step::Minute), Just(Step::Hour), Just(Step::Day)],
        page in prop_oneof![Just(None), Just(Some("/a")), Just(Some("/b'; DROP TABLE x"))],
        in_memory in any::<bool>(),
    ) {
        let span = Span { from: Some(TEN + from * MINUTE), to: Some(TEN + (from + minutes) * MINUTE) };
        let range = span.whole(step, None);
        let cells: Vec<&Cell> = epochs.iter().flat_map(|(epoch, _)| &epoch.views).collect();
        let within = |cell: &&&Cell, start: i64, end: i64| {
            cell.tenant == "default"
                && page.is_none_or(|page| cell.key == page)
                && (start..end).contains(&cell.minute)
        };
        let starts: Vec<i64> = (range.from..range.to).step_by(usize::try_from(step.ms()).unwrap()).collect();
        let expected = |number: &dyn Fn(Vec<&Cell>) -> i64| -> Vec<i64> {
            let bucket = |&start: &i64| cells.iter().filter(|c| within(c, start, start + step.ms())).copied().collect();
            starts.iter().map(|start| number(bucket(start))).collect()
        };
        let users = expected(&|rows| different_users(rows));
        let views = expected(&|rows| rows.iter().map(|cell| cell.count).sum());
        let of_range = different_users(
            cells.iter().filter(|cell| cell.tenant == "default" && (range.from..range.to).contains(&cell.minute)).copied(),
        );
        Runtime::new().unwrap().block_on(async {
            let context = tables(&epochs, if in_memory { 64 << 20 } else { 0 }).await;
            for (metric, numbers) in [(Metric::UniqueUsers, &users), (Metric::Views, &views)] {
                let asked = MetricQuery { page: page.map(str::to_owned), ..query(metric, step) };
                let points = timeseries(&context, &asked, range).await.unwrap();
                assert_eq!(&values(&points), numbers);
                let times: Vec<String> = points.into_iter().map(|point| point.t).collect();
                assert_eq!(times, starts.iter().map(|start| rfc3339(*start)).collect::<Vec<_>>());
            }
            assert_eq!(totals(&context, "default", range).await.unwrap().unique_users, of_range);
        });
    }
}

fn order(minute: i64, currency: &'static str, orders: i64, cents: i64) -> Order {
    Order { minute: TEN + minute * MINUTE, currency, orders, cents }
}

fn visit(user: &'static str, first: i64, length_ms: i64, events: i64, sign: i8) -> Visit {
    Visit { user, first: TEN + first, last: TEN + first + length_ms, events, sign }
}

const HOUR: Range = Range { from: TEN, to: TEN + 60 * MINUTE };

#[tokio::test(flavor = "multi_thread")]
async fn sums_beyond_64_bits_are_refused_and_those_within_are_exact() {
    let epoch = Epoch {
        orders: vec![
            order(0, "EUR", 1, i64::MAX),
            order(1, "EUR", 1, i64::MAX),
            order(2, "EUR", 1, -i64::MAX),
            order(3, "EUR", 0, -5),
            order(9, "EUR", 1, i64::MAX),
        ],
        ..Epoch::default()
    };
    let context = tables(&[(epoch, false)], 1 << 20).await;
    let asked = MetricQuery { currency: Some("EUR".into()), ..query(Metric::RevenueCents, Step::Hour) };
    let error = timeseries(&context, &asked, HOUR).await.unwrap_err();
    assert!(matches!(error, Refusal::Overflow), "{error}");
    assert!(matches!(totals(&context, "default", HOUR).await.unwrap_err(), Refusal::Overflow));
    let few = Range { from: TEN, to: TEN + 9 * MINUTE };
    let totals = totals(&context, "default", few).await.unwrap();
    assert_eq!(totals.revenue, [Revenue { currency: "EUR".into(), amount_cents: i64::MAX - 5, orders: 3 }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn amounts_in_several_currencies_are_not_added() {
    let epoch = Epoch { orders: vec![order(0, "EUR", 1, 10), order(1, "JPY", 1, 900)], ..Epoch::default() };
    let context = tables(&[(epoch, true)], 1 << 20).await;
    let mixed = query(Metric::RevenueCents, Step::Minute);
    let error = timeseries(&context, &mixed, HOUR).await.unwrap_err().to_string();
    assert!(error.starts_with("currency: amounts in EUR, JPY do not add up"), "{error}");
    let first = Range { from: TEN, to: TEN + MINUTE };
    assert_eq!(values(&timeseries(&context, &mixed, first).await.unwrap()), [10]);
    let ranks = TopQuery {
        by: Ranked::Currency,
        metric: Metric::RevenueCents,
        span: Span::default(),
        tenant: "default".into(),
        limit: 10,
    };
    let rank = |key: &str, value| Rank { key: key.to_owned(), value };
    assert_eq!(top(&context, &ranks, HOUR).await.unwrap(), [rank("JPY", 900), rank("EUR", 10)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_ranks_are_in_the_order_of_their_keys_and_nothing_is_no_rank() {
    let cell = |key, count, users: &[u64]| Cell { tenant: "default", minute: TEN, key, count, users: users.to_vec() };
    let cells = vec![cell("/c", 2, &[1]), cell("/a", 2, &[1, 2]), cell("/b", 9, &[3]), cell("/z", 0, &[])];
    let context = tables(&[(Epoch { views: cells, ..Epoch::default() }, false)], 1 << 20).await;
    let asked =
        |metric, limit| TopQuery { by: Ranked::Page, metric, span: Span::default(), tenant: "default".into(), limit };
    let rank = |key: &str, value| Rank { key: key.to_owned(), value };
    let views = top(&context, &asked(Metric::Views, 10), HOUR).await.unwrap();
    assert_eq!(views, [rank("/b", 9), rank("/a", 2), rank("/c", 2)]);
    let users = top(&context, &asked(Metric::UniqueUsers, 2), HOUR).await.unwrap();
    assert_eq!(users, [rank("/a", 2), rank("/b", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_taken_back_count_nowhere() {
    let grown = vec![visit("u1", 0, 500, 1, 1), visit("u1", 0, 500, 1, -1), visit("u1", 0, 61_000, 4, 1)];
    let long = vec![
        visit("u2", 61_000, 0, 1, 1),
        visit("u3", 62_000, 3_600_000, 7, 1),
        visit("u4", 62_000, 999, 2, 1),
        visit("u5", 62_000, 1_000, 2, 1),
    ];
    let epochs =
        [(Epoch { visits: grown, ..Epoch::default() }, false), (Epoch { visits: long, ..Epoch::default() }, true)];
    for memory in [0, 1 << 20] {
        let context = tables(&epochs, memory).await;
        let range = Range { from: TEN, to: TEN + 3 * MINUTE };
        let sessions = sessions(&context, "default", range, Step::Minute).await.unwrap();
        assert_eq!(values(&sessions.started), [1, 4, 0]);
        let counts: Vec<_> = sessions.lengths.iter().map(|each| (each.from_s, each.to_s, each.count)).collect();
        let (end, expected) = (Some, [2, 1, 0, 1, 0, 0, 0, 1]);
        let bounds = [(0, end(1)), (1, end(10)), (10, end(60)), (60, end(300)), (300, end(900)), (900, end(1800))];
        let bounds = bounds.into_iter().chain([(1800, end(3600)), (3600, None)]);
        assert_eq!(counts, bounds.zip(expected).map(|((from, to), count)| (from, to, count)).collect::<Vec<_>>());
        let totals = totals(&context, "default", range).await.unwrap();
        assert_eq!((totals.sessions, totals.events_in_sessions), (5, 16));
        assert_eq!(extent(&context, None, i64::MAX).await.unwrap(), Some((TEN, TEN + MINUTE)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_extent_is_that_of_all_tables_and_of_shown_sessions_alone() {
    let cell = |tenant, minute| Cell { tenant, minute: TEN + minute * MINUTE, key: "/", count: 1, users: vec![1] };
    let visits =
        vec![visit("u1", -600_001, 0, 1, 1), visit("u2", 30 * MINUTE, 0, 1, 1), visit("u2", 30 * MINUTE, 0, 1, -1)];
    let epoch = Epoch {
        views: vec![cell("default", 2), cell("acme", 9)],
        errors: vec![cell("default", 5)],
        visits,
        ..Epoch::default()
    };
    let context = tables(&[(epoch, false)], 1 << 20).await;
    let minute = |n: i64| TEN + n * MINUTE;
    assert_eq!(extent(&context, Some("default"), i64::MAX).await.unwrap(), Some((minute(-11), minute(5))));
    assert_eq!(extent(&context, Some("acme"), i64::MAX).await.unwrap(), Some((minute(9), minute(9))));
    assert_eq!(extent(&context, None, i64::MAX).await.unwrap(), Some((minute(-11), minute(9))));
    assert_eq!(extent(&context, Some("nobody"), i64::MAX).await.unwrap(), None);
}
