use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int64Array, StringArray,
    StringViewArray, StructArray, TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::datatypes::Field;
use tidemill_tables::hash_lists;

use super::*;

fn answer(columns: Vec<(&str, ArrayRef)>) -> Answer {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let batch = batch.unwrap();
    Answer { schema: batch.schema(), batches: vec![batch], epoch: Some(1), complete_through: None }
}

fn print(format: Format, answer: &Answer) -> String {
    let mut out = Vec::new();
    format.write(answer, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn page_views() -> Answer {
    let times = TimestampMillisecondArray::from(vec![Some(1_431_857_103_000), Some(-1), None]).with_timezone("UTC");
    answer(vec![
        ("window_start", Arc::new(times)),
        ("page", Arc::new(StringArray::from(vec![Some("/a,b"), Some("say \"hi\"\n"), Some("")]))),
        ("views", Arc::new(Int64Array::from(vec![Some(1), Some(i64::MIN), None]))),
    ])
}

#[test]
fn csv_quotes_only_what_must_be_and_tells_empty_from_null() {
    let expected = "window_start,page,views\n\
                    2015-05-17T10:05:03.000Z,\"/a,b\",1\n\
                    1969-12-31T23:59:59.999Z,\"say \"\"hi\"\"\n\",-9223372036854775808\n\
                    ,\"\",\n";
    assert_eq!(print(Format::Csv, &page_views()), expected);
}

#[test]
fn ndjson_has_every_column_in_every_line() {
    let expected = r#"{"window_start":"2015-05-17T10:05:03.000Z","page":"/a,b","views":1}
{"window_start":"1969-12-31T23:59:59.999Z","page":"say \"hi\"\n","views":-9223372036854775808}
{"window_start":null,"page":"","views":null}
"#;
    assert_eq!(print(Format::Ndjson, &page_views()), expected);
}

#[test]
fn table_is_aligned_and_keeps_a_row_on_a_line() {
    let expected = [
        " window_start             | page       | views                ",
        "--------------------------+------------+----------------------",
        " 2015-05-17T10:05:03.000Z | /a,b       |                    1 ",
        " 1969-12-31T23:59:59.999Z | say \"hi\"\\n | -9223372036854775808 ",
        "                          |            |                      ",
        "(3 rows)\n",
    ];
    assert_eq!(print(Format::Table, &page_views()), expected.join("\n"));
}

#[test]
fn every_type_has_a_text_that_reads_back() {
    let inner: ArrayRef = Arc::new(StringViewArray::from(vec!["ä"]));
    let record = StructArray::from(vec![(Arc::new(Field::new("k", inner.data_type().clone(), true)), inner)]);
    let one = answer(vec![
        ("float", Arc::new(Float64Array::from(vec![0.1 + 0.2]))),
        ("single", Arc::new(Float32Array::from(vec![0.1_f32]))),
        ("large", Arc::new(Float64Array::from(vec![1e300]))),
        ("nan", Arc::new(Float64Array::from(vec![f64::NAN]))),
        ("truth", Arc::new(BooleanArray::from(vec![true]))),
        ("date", Arc::new(Date32Array::from(vec![16_572]))),
        ("seconds", Arc::new(TimestampSecondArray::from(vec![1]))),
        ("nanos", Arc::new(TimestampNanosecondArray::from(vec![-1]).with_timezone("+02:00"))),
        ("decimal", Arc::new(Decimal128Array::from(vec![12_345]).with_precision_and_scale(10, 2).unwrap())),
        ("list", Arc::new(hash_lists([2], vec![1, u64::MAX]))),
        ("record", Arc::new(record)),
    ]);
    let expected = concat!(
        r#"{"float":0.30000000000000004,"single":0.1,"large":1e+300,"nan":null,"truth":true,"date":"2015-05-17","#,
        r#""seconds":"1970-01-01T00:00:01.000Z","nanos":"1969-12-31T23:59:59.999Z","decimal":123.45,"#,
        r#""list":[1,18446744073709551615],"record":{"k":"ä"}}"#,
    );
    assert_eq!(print(Format::Ndjson, &one).trim_end(), expected);
    let csv = print(Format::Csv, &one);
    let as_csv = concat!(
        "0.30000000000000004,0.1,1e+300,NaN,true,2015-05-17,1970-01-01T00:00:01.000Z,",
        "1969-12-31T23:59:59.999Z,123.45,\"[1,18446744073709551615]\",\"{\"\"k\"\":\"\"ä\"\"}\"",
    );
    assert_eq!(csv.lines().nth(1), Some(as_csv));
}

#[test]
fn formats_are_chosen_by_name() {
    assert_eq!("csv".parse::<Format>().unwrap(), Format::Csv);
    let error = "xml".parse::<Format>().unwrap_err().to_string();
    assert_eq!(error, "there is no format xml; use table, csv or ndjson");
}
