use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{StringArray, TimestampMillisecondArray};
use proptest::prelude::*;

use super::*;
use crate::web_analytics;

type Delta = (String, i64, String, i64, Vec<u64>);

fn delta_batch(rows: &[Delta]) -> RecordBatch {
    let users: Vec<u64> = rows.iter().flat_map(|row| row.4.clone()).collect();
    RecordBatch::try_new(
        web_analytics::page_views_by_minute().stored_schema(),
        vec![
            Arc::new(rows.iter().map(|row| Some(&row.0)).collect::<StringArray>()),
            Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.1)).with_timezone("UTC")),
            Arc::new(rows.iter().map(|row| Some(&row.2)).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| row.3).collect::<Int64Array>()),
            Arc::new(hash_lists(rows.iter().map(|row| row.4.len()), users)),
        ],
    )
    .unwrap()
}

fn naive_deltas(rows: &[Delta]) -> Vec<Delta> {
    let mut cells: BTreeMap<(String, i64, String), (i128, BTreeSet<u64>)> = BTreeMap::new();
    for (tenant, minute, page, views, users) in rows {
        let cell = cells.entry((tenant.clone(), *minute, page.clone())).or_default();
        cell.0 += i128::from(*views);
        cell.1.extend(users);
    }
    let mut folded = Vec::new();
    for ((tenant, minute, page), (mut views, mut users)) in cells {
        while views != 0 || !users.is_empty() {
            let part = i64::try_from(views).unwrap_or(if views < 0 { i64::MIN } else { i64::MAX });
            let list = std::mem::take(&mut users).into_iter().collect();
            folded.push((tenant.clone(), minute, page.clone(), part, list));
            views -= i128::from(part);
        }
    }
    folded
}

type Session = (String, i64, i64, i8);

fn session_batch(rows: &[Session]) -> RecordBatch {
    let time =
        |at: fn(&Session) -> i64| TimestampMillisecondArray::from_iter_values(rows.iter().map(at)).with_timezone("UTC");
    RecordBatch::try_new(
        web_analytics::sessions().stored_schema(),
        vec![
            Arc::new(rows.iter().map(|_| Some("default")).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| Some(&row.0)).collect::<StringArray>()),
            Arc::new(time(|row| row.1)),
            Arc::new(time(|row| row.1 + 10)),
            Arc::new(rows.iter().map(|row| row.2).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.3).collect::<Int8Array>()),
        ],
    )
    .unwrap()
}

fn naive_signed(rows: &[Session]) -> Vec<Session> {
    let mut net: BTreeMap<(String, i64, i64), i64> = BTreeMap::new();
    for (user, first, count, sign) in rows {
        *net.entry((user.clone(), *first, *count)).or_default() += i64::from(*sign);
    }
    net.into_iter()
        .filter(|(_, sign)| *sign != 0)
        .map(|((user, first, count), sign)| (user, first, count, i8::try_from(sign).unwrap()))
        .collect()
}

fn delta() -> impl Strategy<Value = Delta> {
    (
        "[ab]",
        0..3_i64,
        "/[xyz]?",
        prop_oneof![-2..3_i64, Just(i64::MAX), Just(i64::MIN)],
        prop::collection::vec(0..6_u64, 0..4),
    )
}

fn session() -> impl Strategy<Value = Session> {
    ("[ab]", -2..2_i64, 1..3_i64, prop_oneof![Just(1_i8), Just(-1)])
}

fn cut<T>(rows: &[T], at: usize) -> (&[T], &[T]) {
    rows.split_at(at.min(rows.len()))
}

proptest! {
    #[test]
    fn deltas_fold_as_a_map_would(rows in prop::collection::vec(delta(), 0..40), at in 0..40_usize) {
        let spec = web_analytics::page_views_by_minute();
        let (left, right) = cut(&rows, at);
        let folded = fold(&spec, &[delta_batch(left), delta_batch(right)]).unwrap();
        prop_assert_eq!(&folded, &delta_batch(&naive_deltas(&rows)));
        let by_halves = [fold(&spec, &[delta_batch(right)]).unwrap(), fold(&spec, &[delta_batch(left)]).unwrap()];
        prop_assert_eq!(fold(&spec, &by_halves).unwrap(), folded);
    }

    #[test]
    fn signs_fold_as_a_map_would(rows in prop::collection::vec(session(), 0..40), at in 0..40_usize) {
        let spec = web_analytics::sessions();
        let (left, right) = cut(&rows, at);
        let folded = fold(&spec, &[session_batch(left), session_batch(right)]).unwrap();
        prop_assert_eq!(&folded, &session_batch(&naive_signed(&rows)));
        let by_halves = [fold(&spec, &[session_batch(right)]).unwrap(), fold(&spec, &[session_batch(left)]).unwrap()];
        prop_assert_eq!(fold(&spec, &by_halves).unwrap(), folded);
    }
}

#[test]
fn a_net_sign_beyond_i8_loses_nothing() {
    let rows = vec![("u".to_owned(), 0, 1, 100_i8); 3];
    let folded = fold(&web_analytics::sessions(), &[session_batch(&rows)]).unwrap();
    let signs = folded.column(5).as_primitive::<Int8Type>();
    assert_eq!(signs.values().to_vec(), [127, 127, 46]);
    assert_eq!(fold(&web_analytics::sessions(), std::slice::from_ref(&folded)).unwrap(), folded);
}

#[test]
fn a_sum_beyond_64_bits_takes_several_rows() {
    let spec = web_analytics::revenue_by_minute();
    let batch = |rows: &[(i64, i64, i64)]| {
        let number =
            |of: fn(&(i64, i64, i64)) -> i64| Arc::new(rows.iter().map(of).collect::<Int64Array>()) as ArrayRef;
        let minutes = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.0)).with_timezone("UTC");
        let text = |text: &str| Arc::new(rows.iter().map(|_| Some(text)).collect::<StringArray>());
        let columns: Vec<ArrayRef> =
            vec![text("t"), Arc::new(minutes), text("EUR"), number(|row| row.1), number(|row| row.2)];
        RecordBatch::try_new(spec.stored_schema(), columns).unwrap()
    };
    let (max, min) = (i64::MAX, i64::MIN);
    for (rows, folded) in [
        (vec![(0, 1, max), (0, 1, max), (1, 1, 7), (0, 1, 5)], vec![(0, 3, max), (0, 0, max), (0, 0, 5), (1, 1, 7)]),
        (vec![(0, 1, min), (0, 1, min)], vec![(0, 2, min), (0, 0, min)]),
        (vec![(0, 1, min), (0, 1, min), (0, 1, max), (0, 1, max)], vec![(0, 4, -2)]),
        (vec![(0, max, max), (0, 1, 1)], vec![(0, max, max), (0, 1, 1)]),
        (vec![(0, max, max), (0, -max, -max), (1, 0, max)], vec![(1, 0, max)]),
    ] {
        let once = fold(&spec, &[batch(&rows)]).unwrap();
        assert_eq!(once, batch(&folded), "{rows:?}");
        assert_eq!(fold(&spec, std::slice::from_ref(&once)).unwrap(), once);
        let (left, right) = rows.split_at(1);
        assert_eq!(fold(&spec, &[batch(right), batch(left)]).unwrap(), once);
    }
}

#[test]
fn appended_rows_are_all_kept_and_sorted() {
    let mut spec = web_analytics::sessions();
    spec.fold = Fold::Append;
    let rows = |order: &[usize]| {
        let all = [("b".to_owned(), 1, 1, 1_i8), ("a".to_owned(), 2, 1, 1), ("a".to_owned(), 2, 1, 1)];
        session_batch(&order.iter().map(|&at| all[at].clone()).collect::<Vec<_>>())
    };
    assert_eq!(fold(&spec, &[rows(&[0]), rows(&[1, 2])]).unwrap(), rows(&[1, 2, 0]));
}

#[test]
fn no_batches_fold_to_a_batch_without_rows() {
    for spec in web_analytics::all() {
        let folded = fold(&spec, &[]).unwrap();
        assert_eq!((folded.num_rows(), folded.schema()), (0, spec.stored_schema()));
    }
}

#[test]
fn a_batch_of_another_table_is_refused_by_name() {
    let error = fold(&web_analytics::revenue_by_minute(), &[delta_batch(&[])]).unwrap_err();
    assert!(error.to_string().contains("table revenue_by_minute"), "{error}");
    assert!(error.to_string().contains("amount_cents Int64"), "{error}");
}

#[test]
fn query_schema_hides_signs_and_counts_hashes() {
    let sessions = web_analytics::sessions().query_schema();
    assert_eq!(sessions.fields().len(), 5);
    let views = web_analytics::page_views_by_minute().query_schema();
    assert_eq!(views.field_with_name("users").unwrap().data_type(), &DataType::Int64);
}
