//! Encoded rows hold the values, in the schema's types.

use arrow::array::{AsArray, cast::as_list_array};
use arrow::datatypes::{
    Decimal128Type, Float64Type, Int8Type, Int32Type, Int64Type, Schema, TimeUnit, TimestampMillisecondType,
    UInt32Type, UInt64Type,
};
use tidemill_dataflow::key::key;

use super::*;
use crate::aggregate::{
    Aggregate, ExactSum, HyperLogLog, QuantileSketch, SumAndCount, approx_distinct, mean, quantiles, sum_float,
};
use crate::emission::WindowVersion;
use crate::window::top_k::RankChange;

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

fn schema(columns: &[(&str, DataType, bool)]) -> SchemaRef {
    Arc::new(Schema::new(
        columns.iter().map(|(name, data, null)| Field::new(*name, data.clone(), *null)).collect::<Vec<_>>(),
    ))
}

fn windowed(values: &[(&str, DataType, bool)]) -> SchemaRef {
    let keys = [("tenant", DataType::Utf8, false), ("window_start", time(), false), ("page", DataType::Utf8, false)];
    schema(&[&keys, values].concat())
}

fn row<P>(name: &str, start: i64, value: P) -> WindowRow<P> {
    WindowRow { key: key("acme", name).to_owned(), start: EventTime(start), value }
}

fn users() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::UInt64, false)))
}

#[test]
fn a_window_row_is_its_key_then_its_values() {
    let schema = windowed(&[("views", DataType::Int64, false), ("users", users(), false)]);
    let rows = [row("/a", 60_000, (2i64, Hashes(vec![1, u64::MAX]))), row("/ö", 0, (1, Hashes(vec![])))];
    let batch = WindowRows::encode(&rows, Arc::clone(&schema)).unwrap();
    assert_eq!(batch.schema(), schema);
    assert_eq!(batch.column(0).as_string::<i32>().value(1), "acme");
    assert_eq!(batch.column(1).as_primitive::<TimestampMillisecondType>().values(), &[60_000, 0]);
    assert_eq!(batch.column(2).as_string::<i32>().value(1), "/ö");
    assert_eq!(batch.column(3).as_primitive::<Int64Type>().values(), &[2, 1]);
    let users = as_list_array(batch.column(4));
    assert_eq!(users.value(0).as_primitive::<UInt64Type>().values(), &[1, u64::MAX]);
    assert_eq!(users.value(1).len(), 0);
}

#[test]
fn every_value_finds_its_columns_in_nested_tuples() {
    let schema = windowed(&[
        ("amount", DataType::Decimal128(10, 2), false),
        ("least", DataType::Int64, true),
        ("first_time", time(), true),
        ("first", DataType::Utf8, true),
        ("last_time", time(), true),
        ("last", DataType::Binary, true),
    ]);
    let stamped = |time: i64, text: &str| Some(Stamped { time: EventTime(time), bytes: text.as_bytes().to_vec() });
    let rows = [row("/a", 0, ((1234i128, None::<i64>), (stamped(5, "x"), stamped(6, "y"))))];
    let batch = WindowRows::encode(&rows, schema).unwrap();
    assert_eq!(batch.column(3).as_primitive::<Decimal128Type>().value_as_string(0), "12.34");
    assert!(batch.column(4).is_null(0));
    assert_eq!(batch.column(6).as_string::<i32>().value(0), "x");
    assert_eq!(batch.column(8).as_binary::<i32>().value(0), b"y");
}

#[test]
fn a_session_row_carries_its_sign() {
    let schema = schema(&[
        ("tenant", DataType::Utf8, false),
        ("user_id", DataType::Utf8, false),
        ("first_event", time(), false),
        ("last_event", time(), false),
        ("event_count", DataType::Int64, false),
        ("sign", DataType::Int8, false),
    ]);
    let change = |sign| SessionChange {
        key: key("acme", "u1").to_owned(),
        first: EventTime(1),
        last: EventTime(2),
        count: 3,
        sign,
    };
    let batch = SessionRows::encode(&[change(-1), change(1)], schema).unwrap();
    assert_eq!(batch.column(4).as_primitive::<Int64Type>().values(), &[3, 3]);
    assert_eq!(batch.column(5).as_primitive::<Int8Type>().values(), &[-1, 1]);
}

#[test]
fn rows_that_do_not_fit_are_refused_with_the_reason() {
    let narrow = windowed(&[("views", DataType::Int64, false)]);
    let error = WindowRows::encode(&[row("/a", 0, (1i64, 2i64))], Arc::clone(&narrow)).unwrap_err();
    assert!(error.to_string().contains("5 columns") && error.to_string().contains("has 4"), "{error}");
    assert!(
        WindowRows::encode(&[row("/a", 0, None::<i64>)], Arc::clone(&narrow)).is_err(),
        "null in a non-null column"
    );
    let other = WindowRows::encode(&[row("/a", 0, i128::from(i64::MAX) + 1)], narrow).unwrap_err();
    let sentence =
        "column views is Int64, which cannot hold the sum 9223372036854775808: declare it as Decimal128(38, 0)";
    assert_eq!(other.to_string(), sentence);
    let float = WindowRows::encode(&[row("/a", 0, 1i128)], windowed(&[("views", DataType::Float64, false)]));
    assert!(float.unwrap_err().to_string().contains("views is Float64"));
    let decimal = windowed(&[("amount", DataType::Decimal128(3, 0), false)]);
    assert!(WindowRows::encode(&[row("/a", 0, 1_000i128)], decimal).is_err(), "more digits than declared");
    let text = windowed(&[("at", time(), true), ("first", DataType::Utf8, true)]);
    let broken = Some(Stamped { time: EventTime(0), bytes: vec![0xff] });
    assert!(WindowRows::encode(&[row("/a", 0, broken)], text).is_err(), "no UTF-8");
}

#[test]
fn a_sum_beyond_64_bits_is_several_rows_where_rows_add_up() {
    let columns = [
        ("orders", DataType::Int64, false),
        ("cents", DataType::Int64, false),
        ("users", users(), false),
        ("exact", DataType::Decimal128(38, 0), false),
    ];
    let schema = windowed(&columns);
    let (max, min) = (i128::from(i64::MAX), i128::from(i64::MIN));
    let value = |orders: i64, cents: i128| ((orders, cents), (Hashes(vec![7]), cents));
    let rows = [row("/a", 0, value(1, 5)), row("/b", 0, value(3, 2 * max + 1)), row("/c", 60_000, value(2, 2 * min))];
    assert!(WindowRows::encode(&rows, Arc::clone(&schema)).is_err());
    let batch = WindowRows::encode_deltas(&rows, Arc::clone(&schema)).unwrap();
    assert_eq!(batch.schema(), schema);
    let names: Vec<_> = batch.column(2).as_string::<i32>().iter().flatten().collect();
    assert_eq!(names, ["/a", "/b", "/c", "/b", "/c", "/b"]);
    assert_eq!(batch.column(1).as_primitive::<TimestampMillisecondType>().values(), &[0, 0, 60_000, 0, 60_000, 0]);
    assert_eq!(batch.column(3).as_primitive::<Int64Type>().values(), &[1, 3, 2, 0, 0, 0]);
    let cents = [5, i64::MAX, i64::MIN, i64::MAX, i64::MIN, 1];
    assert_eq!(batch.column(4).as_primitive::<Int64Type>().values(), &cents);
    let lists = as_list_array(batch.column(5));
    assert_eq!((0..6).map(|row| lists.value_length(row)).collect::<Vec<_>>(), [1, 1, 1, 0, 0, 0]);
    let exact: i128 = batch.column(6).as_primitive::<Decimal128Type>().values().iter().sum();
    assert_eq!(exact, 5 + 2 * max + 1 + 2 * min);
    let few = WindowRows::encode_deltas(&rows[..1], Arc::clone(&schema)).unwrap();
    assert_eq!(few, WindowRows::encode(&rows[..1], schema).unwrap());
}

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, false)))
}

#[test]
fn sketches_and_exact_sums_come_back_from_their_columns() {
    let schema = windowed(&[
        ("sum", DataType::Decimal128(38, 0), false),
        ("count", DataType::Int64, false),
        ("users", list(DataType::UInt32), false),
        ("buckets", list(DataType::Int32), false),
        ("counts", list(DataType::Int64), false),
        ("places", list(DataType::Int32), false),
        ("digits", list(DataType::Int64), false),
    ]);
    let aggregate = (
        mean(|n: &i64| *n),
        approx_distinct(|n: &i64| n.unsigned_abs()),
        quantiles(|n: &i64| *n, 0.01),
        sum_float(|n: &i64| *n as f64 / 10.0),
    );
    // What a table folds of two epochs is what one epoch with all records would have been.
    let over = |values: &[i64]| {
        let mut partial = Default::default();
        values.iter().for_each(|value| aggregate.add(&mut partial, value));
        aggregate.finish(&mut partial);
        partial
    };
    let rows = [row("/a", 0, over(&[-7, 3, 10_000])), row("/a", 0, over(&[3, 3, -7, i64::MAX]))];
    let batch = WindowRows::encode(&rows, schema).unwrap();
    let items = |column: usize| Arc::clone(as_list_array(batch.column(column)).values());
    let pairs = |keys: usize, counts: usize| {
        let (keys, counts) = (items(keys), items(counts));
        let counts = counts.as_primitive::<Int64Type>().values().to_vec();
        keys.as_primitive::<Int32Type>().values().to_vec().into_iter().zip(counts)
    };
    let folded = (
        SumAndCount {
            sum: batch.column(3).as_primitive::<Decimal128Type>().values().iter().sum(),
            count: batch.column(4).as_primitive::<Int64Type>().values().iter().sum(),
        },
        HyperLogLog::of_entries(items(5).as_primitive::<UInt32Type>().values().to_vec()),
        QuantileSketch::of_buckets(0.01, pairs(6, 7)).unwrap(),
        ExactSum::of_digits(pairs(8, 9)),
    );
    assert_eq!(folded, over(&[-7, 3, 10_000, 3, 3, -7, i64::MAX]));
}

#[test]
fn a_version_row_carries_its_epoch_and_floats_are_columns() {
    let keys = [("tenant", DataType::Utf8, false), ("window_start", time(), false), ("page", DataType::Utf8, false)];
    let values =
        [("version", DataType::UInt64, false), ("sum", DataType::Float64, false), ("p99", DataType::Float64, true)];
    let rows = [WindowVersion { row: row("/a", 5, (1.5, None::<f64>)), version: 7 }];
    let batch = VersionRows::encode(&rows, schema(&[&keys[..], &values].concat())).unwrap();
    assert_eq!(batch.column(3).as_primitive::<UInt64Type>().values(), &[7]);
    assert_eq!(batch.column(4).as_primitive::<Float64Type>().values(), &[1.5]);
    assert!(batch.column(5).is_null(0));
    assert!(VersionRows::encode(&rows, schema(&keys)).unwrap_err().to_string().contains("6 columns"));
}

#[test]
fn a_ranked_row_is_its_place_and_item() {
    let columns = |item| {
        schema(&[
            ("tenant", DataType::Utf8, false),
            ("window_start", time(), false),
            ("shop", DataType::Utf8, false),
            ("rank", DataType::UInt32, false),
            ("page", item, false),
            ("views", DataType::Int64, false),
            ("sign", DataType::Int8, false),
        ])
    };
    let of = |item: &[u8]| {
        let (key, start, item) = (key("acme", "s").to_owned(), EventTime(60_000), item.to_vec());
        [RankChange { key, start, rank: 2, item, count: 9, sign: -1 }]
    };
    let batch = RankRows::encode(&of(b"/a"), columns(DataType::Utf8)).unwrap();
    assert_eq!(batch.column(3).as_primitive::<UInt32Type>().values(), &[2]);
    assert_eq!(batch.column(4).as_string::<i32>().value(0), "/a");
    assert_eq!(batch.column(6).as_primitive::<Int8Type>().values(), &[-1]);
    assert!(RankRows::encode(&of(&[0xff]), columns(DataType::Utf8)).is_err(), "no UTF-8");
    let binary = RankRows::encode(&of(&[0xff]), columns(DataType::Binary)).unwrap();
    assert_eq!(binary.column(4).as_binary::<i32>().value(0), [0xff]);
    assert!(RankRows::encode(&of(b"a"), columns(DataType::Int64)).unwrap_err().to_string().contains("page is Int64"));
}
