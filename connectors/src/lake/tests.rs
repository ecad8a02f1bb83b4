use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int8Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use proptest::prelude::*;
use tidemill_log::testing::MemoryStore;
use tidemill_log::{DataFile, Store};
use tidemill_tables::calendar::HOUR_MS;
use tidemill_tables::{Role, TableSpec, fold, hash_lists, web_analytics};

use super::encode::decode;
use super::roll::roll_within;
use super::table::encode_epoch;
use super::*;

/// 2015-05-17T10:00:00Z.
const TEN: i64 = 1_431_856_800_000;

/// A row of any table: its event time, what it is about, a number, and hashes.
type Row = (i64, String, i64, Vec<u64>);

fn batch(spec: &TableSpec, rows: &[Row]) -> RecordBatch {
    let columns = spec.columns.iter().enumerate().map(|(at, column)| -> ArrayRef {
        match (&column.stored, column.role) {
            (_, Role::UnionCount) => {
                let hashes = rows.iter().flat_map(|row| row.3.clone()).collect();
                Arc::new(hash_lists(rows.iter().map(|row| row.3.len()), hashes))
            }
            (_, Role::Sign) => Arc::new(rows.iter().map(|row| if row.2 < 0 { -1 } else { 1 }).collect::<Int8Array>()),
            (DataType::Int64, _) => Arc::new(rows.iter().map(|row| row.2.abs()).collect::<Int64Array>()),
            (DataType::Timestamp(..), _) => {
                let later = if at == spec.time { 0 } else { 1 };
                let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.0 + later));
                Arc::new(times.with_timezone("UTC"))
            }
            _ if column.nullable => Arc::new(rows.iter().map(|_| None::<&str>).collect::<StringArray>()),
            _ => Arc::new(rows.iter().map(|row| Some(&row.1)).collect::<StringArray>()),
        }
    });
    RecordBatch::try_new(spec.stored_schema(), columns.collect()).unwrap()
}

fn rows(at: &[i64]) -> Vec<Row> {
    at.iter().map(|&time| (time, "a".to_owned(), 1, vec![time.unsigned_abs()])).collect()
}

fn read(store: &MemoryStore, spec: &TableSpec, files: &[DataFile]) -> RecordBatch {
    let mut batches = Vec::new();
    for file in files {
        let bytes = store.get(&file.path).unwrap().unwrap();
        assert_eq!(bytes.len() as u64, file.bytes);
        let decoded = decode(bytes, None).unwrap().map(Result::unwrap).collect::<Vec<_>>();
        assert_eq!(decoded.iter().map(|batch| batch.num_rows() as u64).sum::<u64>(), file.rows);
        batches.extend(decoded);
    }
    concat_batches(&spec.stored_schema(), &batches).unwrap()
}

fn lake(spec: &TableSpec) -> (Arc<MemoryStore>, LakeTable) {
    let store = Arc::new(MemoryStore::default());
    let table = LakeTable::new(spec.clone(), Arc::clone(&store) as Arc<dyn Store>);
    (store, table)
}

#[test]
fn an_epoch_without_rows_writes_no_file() {
    let spec = web_analytics::raw_events();
    let (store, table) = lake(&spec);
    assert_eq!(table.write_epoch(1, 0, Vec::new(), RowOrder::ByKeys).unwrap(), []);
    assert_eq!(table.write_epoch(1, 0, vec![batch(&spec, &[])], RowOrder::AsGiven).unwrap(), []);
    let cancelling = [(TEN, "u".to_owned(), 1, vec![]), (TEN, "u".to_owned(), -1, vec![])];
    let sessions = web_analytics::sessions();
    let (_, signed) = lake(&sessions);
    assert_eq!(signed.write_epoch(1, 0, vec![batch(&sessions, &cancelling)], RowOrder::ByKeys).unwrap(), []);
    assert_eq!(store.list("").unwrap(), Vec::<String>::new());
}

#[test]
fn written_rows_read_back_under_the_name_of_their_epoch() {
    for spec in web_analytics::all() {
        let (store, table) = lake(&spec);
        let given = batch(&spec, &rows(&[TEN + 5, TEN, TEN + HOUR_MS]));
        let files = table.write_epoch(12, 3, vec![given.slice(0, 1), given.slice(1, 2)], RowOrder::AsGiven).unwrap();
        assert_eq!(files[0].path, format!("tables/{}/_recent/000000000012-003-000.parquet", spec.name));
        assert_eq!(read(&store, &spec, &files), given);
        assert_eq!(store.list("tables").unwrap().len(), 1);
    }
}

#[test]
fn an_epoch_is_cut_at_a_fixed_number_of_rows() {
    let spec = web_analytics::raw_events();
    let given = batch(&spec, &rows(&[5, 4, 3, 2, 1]));
    let chunks = encode_epoch(&spec, 1, 0, vec![given], RowOrder::ByKeys, 2).unwrap();
    assert_eq!(chunks.iter().map(|chunk| chunk.rows).collect::<Vec<_>>(), [2, 2, 1]);
    assert!(chunks[2].path.ends_with("000000000001-000-002.parquet"));
}

#[test]
fn rows_of_another_table_are_refused() {
    let (_, table) = lake(&web_analytics::sessions());
    let wrong = batch(&web_analytics::revenue_by_minute(), &rows(&[TEN]));
    for order in [RowOrder::ByKeys, RowOrder::AsGiven] {
        assert!(matches!(table.write_epoch(1, 0, vec![wrong.clone()], order), Err(LakeError::Fold(_))));
    }
}

#[test]
fn rolled_rows_lie_in_the_hour_of_their_event_time() {
    let spec = web_analytics::page_views_by_minute();
    let (store, table) = lake(&spec);
    // The last row is late: its hour was over long before.
    let given = batch(&spec, &rows(&[TEN, TEN + HOUR_MS - 1, TEN + HOUR_MS, TEN - 30 * HOUR_MS]));
    let files = table.write_epoch(7, 0, vec![given], RowOrder::ByKeys).unwrap();
    let change = roll(&spec, store.as_ref(), &Roll { first_epoch: 0, last_epoch: 59, files: files.clone() }).unwrap();
    let folder = "tables/page_views_by_minute";
    let expected = [
        (format!("{folder}/dt=2015-05-16/hour=04/000000000000-000000000059.parquet"), 1),
        (format!("{folder}/dt=2015-05-17/hour=10/000000000000-000000000059.parquet"), 2),
        (format!("{folder}/dt=2015-05-17/hour=11/000000000000-000000000059.parquet"), 1),
    ];
    let added: Vec<(String, u64)> = change.added.iter().map(|file| (file.path.clone(), file.rows)).collect();
    assert_eq!(added, expected);
    assert_eq!(change.removed, [files[0].path.clone()]);
    assert_eq!(change.table, spec.name);
}

#[test]
fn a_range_that_folds_to_nothing_removes_its_files_and_adds_none() {
    let spec = web_analytics::sessions();
    let (store, table) = lake(&spec);
    let mut files = Vec::new();
    for (epoch, sign) in [(1, 1), (2, -1)] {
        let rows = [(TEN, "u".to_owned(), sign, vec![])];
        files.extend(table.write_epoch(epoch, 0, vec![batch(&spec, &rows)], RowOrder::ByKeys).unwrap());
    }
    let change = roll(&spec, store.as_ref(), &Roll { first_epoch: 0, last_epoch: 59, files }).unwrap();
    assert_eq!((change.added.len(), change.removed.len()), (0, 2));
}

#[test]
fn missing_and_damaged_files_are_named() {
    let spec = web_analytics::sessions();
    let store = MemoryStore::default();
    let file = DataFile { path: "tables/sessions/_recent/000000000001-000-000.parquet".into(), rows: 1, bytes: 4 };
    let one = Roll { first_epoch: 0, last_epoch: 59, files: vec![file.clone()] };
    let error = roll(&spec, &store, &one).unwrap_err();
    assert!(matches!(&error, LakeError::Missing { path } if *path == file.path), "{error}");
    store.put(&file.path, b"torn").unwrap();
    let damaged = roll(&spec, &store, &one).unwrap_err();
    assert!(damaged.to_string().starts_with(&file.path), "{damaged}");
}

fn any_rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (-3..3_i64, 0..3_i64, "[ab]", -1..3_i64, prop::collection::vec(0..9_u64, 0..4));
    let row = row.prop_map(|(hour, at, name, number, hashes)| (TEN + hour * HOUR_MS + at, name, number, hashes));
    prop::collection::vec(row, 0..30)
}

proptest! {
    // Each case writes and reads files of every table.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_epoch_has_the_same_bytes_however_its_rows_arrive(mut given in any_rows(), at in 0..30_usize) {
        for spec in web_analytics::all() {
            let forwards = encode_epoch(&spec, 1, 0, vec![batch(&spec, &given)], RowOrder::ByKeys, 8).unwrap();
            given.reverse();
            let (left, right) = given.split_at(at.min(given.len()));
            let pieces = vec![batch(&spec, left), batch(&spec, right)];
            let backwards = encode_epoch(&spec, 1, 0, pieces, RowOrder::ByKeys, 8).unwrap();
            prop_assert_eq!(forwards.len(), backwards.len());
            for (one, other) in forwards.iter().zip(&backwards) {
                prop_assert_eq!(&one.path, &other.path);
                prop_assert!(one.bytes == other.bytes, "{} differs", one.path);
            }
        }
    }

    #[test]
    fn rolled_files_fold_to_what_the_recent_ones_do(epochs in prop::collection::vec(any_rows(), 1..5), budget in 1..40_u64) {
        for spec in web_analytics::all() {
            let (store, table) = lake(&spec);
            let mut files = Vec::new();
            for (epoch, given) in (0..).zip(&epochs) {
                for (shard, part) in (0..).zip(given.chunks(12)) {
                    files.extend(table.write_epoch(epoch, shard, vec![batch(&spec, part)], RowOrder::ByKeys).unwrap());
                }
            }
            let recent = fold(&spec, &[read(&store, &spec, &files)]).unwrap();
            let range = Roll { first_epoch: 0, last_epoch: 59, files };
            let change = roll(&spec, store.as_ref(), &range).unwrap();
            prop_assert_eq!(fold(&spec, &[read(&store, &spec, &change.added)]).unwrap(), recent);
            // Rolled again, also in other portions, it is the same change and the same bytes.
            let before: Vec<_> = change.added.iter().map(|file| store.get(&file.path).unwrap()).collect();
            for file in &change.added {
                store.delete(&file.path).unwrap();
            }
            prop_assert_eq!(&roll_within(&spec, store.as_ref(), &range, budget).unwrap(), &change);
            prop_assert_eq!(&roll(&spec, store.as_ref(), &range).unwrap(), &change);
            let after: Vec<_> = change.added.iter().map(|file| store.get(&file.path).unwrap()).collect();
            prop_assert!(before == after);
            let hours: BTreeSet<&str> = change.added.iter().map(|file| file.path.rsplit_once('/').unwrap().0).collect();
            prop_assert_eq!(hours.len(), change.added.len());
        }
    }
}
