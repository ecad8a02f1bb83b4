use std::collections::BTreeSet;

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::{EVENT_V1, EVENT_V2, encode};

fn decode(schema: &str, message: &[u8]) -> Result<String, String> {
    let shapes = Shapes::of(&Schema::parse_str(schema).unwrap())?;
    let mut out = b"before".to_vec();
    let decoded = push_event(&shapes, message, &mut out);
    let line = String::from_utf8(out).unwrap().strip_prefix("before").unwrap().to_owned();
    if decoded.is_err() {
        assert_eq!(line, "", "a refused message leaves nothing behind");
    }
    decoded.map(|()| line)
}

fn one_member(schema: &Json) -> String {
    json!({"type": "record", "name": "E", "namespace": "n", "fields": [{"name": "x", "type": schema}]}).to_string()
}

/// A record of one member `x`, its value as bytes.
fn raw(schema: &Json, bytes: &[u8]) -> Result<String, String> {
    decode(&one_member(schema), bytes)
}

/// The same, its value written by the reference implementation.
fn written(schema: &Json, value: Avro) -> Result<String, String> {
    let text = one_member(schema);
    let parsed = Schema::parse_str(&text).unwrap();
    let writer = GenericDatumWriter::builder(&parsed).build().unwrap();
    let bytes = writer.write_value_to_vec(Avro::Record(vec![("x".into(), value)])).unwrap();
    decode(&text, &bytes)
}

#[test]
fn each_primitive_becomes_its_json() {
    let check = |schema: &str, value, expected: &str| {
        assert_eq!(written(&json!(schema), value).unwrap(), format!(r#"{{"x":{expected}}}"#), "{schema}");
    };
    check("boolean", Avro::Boolean(true), "true");
    check("boolean", Avro::Boolean(false), "false");
    check("int", Avro::Int(i32::MIN), "-2147483648");
    check("long", Avro::Long(i64::MIN), "-9223372036854775808");
    check("long", Avro::Long(i64::MAX), "9223372036854775807");
    check("float", Avro::Float(1.1), "1.1");
    check("double", Avro::Double(-0.1), "-0.1");
    check("double", Avro::Double(1e300), "1e300");
    check("double", Avro::Double(3.0), "3.0");
    check("string", Avro::String("a\n\"\u{1}ü".into()), r#""a\n\"\u0001ü""#);
    check("bytes", Avro::Bytes(vec![0xff, 0, 1, 2]), r#""/wABAg==""#);
    check("bytes", Avro::Bytes(vec![]), r#""""#);
    assert_eq!(written(&json!("null"), Avro::Null).unwrap(), "{}");
}

#[test]
fn each_logical_type_becomes_its_json() {
    let check = |base: &str, logical: &str, value, expected: &str| {
        let schema = json!({"type": base, "logicalType": logical});
        assert_eq!(written(&schema, value).unwrap(), format!(r#"{{"x":{expected}}}"#), "{logical}");
    };
    check("int", "date", Avro::Date(19000), "19000");
    check("int", "time-millis", Avro::TimeMillis(5), "5");
    check("long", "time-micros", Avro::TimeMicros(5), "5");
    check("long", "timestamp-millis", Avro::TimestampMillis(1234), "1234");
    check("long", "timestamp-micros", Avro::TimestampMicros(1_234_999), "1234");
    check("long", "timestamp-micros", Avro::TimestampMicros(-1), "-1");
    check("long", "timestamp-nanos", Avro::TimestampNanos(1_234_999_999), "1234");
    check("long", "local-timestamp-millis", Avro::LocalTimestampMillis(7), "7");
    check("long", "local-timestamp-micros", Avro::LocalTimestampMicros(7000), "7");
    let id = apache_avro::Uuid::from_u128(0x7609_dfe0_7eff_4a17_a714_3f42_b5c5_488e);
    let text = r#""7609dfe0-7eff-4a17-a714-3f42b5c5488e""#;
    check("string", "uuid", Avro::Uuid(id), text);
    let fixed = json!({"type": "fixed", "name": "U", "size": 16, "logicalType": "uuid"});
    assert_eq!(written(&fixed, Avro::Uuid(id)).unwrap(), format!(r#"{{"x":{text}}}"#));
}

#[test]
fn decimals_are_text_with_all_their_digits() {
    let schema = json!({"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 2});
    let check = |unscaled: i128, expected: &str| {
        let value = Avro::Decimal(unscaled.to_be_bytes().as_slice().into());
        assert_eq!(written(&schema, value).unwrap(), format!(r#"{{"x":"{expected}"}}"#));
    };
    check(12345, "123.45");
    check(-5, "-0.05");
    check(123_456_789_012_345_678_901_234_567_890, "1234567890123456789012345678.90");
    let fixed = json!({"type": {"type": "fixed", "name": "D", "size": 2, "logicalType": "decimal", "precision": 4, "scale": 1}});
    assert_eq!(raw(&fixed["type"], &[0xff, 0xfe]).unwrap(), r#"{"x":"-0.2"}"#);
    let own = json!({"type": "bytes", "logicalType": "big-decimal"});
    assert_eq!(written(&own, Avro::BigDecimal("-12.50".parse().unwrap())).unwrap(), r#"{"x":"-12.50"}"#);
    assert!(raw(&own, &[8, 2, 5, 0xff, 0x7f]).is_err(), "a scale beyond any use");
}

#[test]
fn fixed_durations_and_enums_become_text_and_objects() {
    assert_eq!(raw(&json!({"type": "fixed", "name": "F", "size": 3}), b"abc").unwrap(), r#"{"x":"YWJj"}"#);
    let duration = json!({"type": "fixed", "name": "T", "size": 12, "logicalType": "duration"});
    let parts = [1, 0, 0, 0, 2, 0, 0, 0, 3, 1, 0, 0];
    assert_eq!(raw(&duration, &parts).unwrap(), r#"{"x":{"months":1,"days":2,"millis":259}}"#);
    let colour = json!({"type": "enum", "name": "C", "symbols": ["RED", "BLUE"]});
    assert_eq!(raw(&colour, &[2]).unwrap(), r#"{"x":"BLUE"}"#);
    assert_eq!(raw(&colour, &[4]).unwrap_err(), "x: there is no choice 2, only 2");
}

#[test]
fn maps_keep_the_order_of_the_message_and_arrays_their_nulls() {
    let map = json!({"type": "map", "values": ["null", "int"]});
    // Two blocks, the second with its length in bytes; the keys stand in no order that a sort would make.
    let bytes = [2, 2, b'z', 2, 14, 3, 12, 2, b'a', 0, 2, b'm', 2, 4, 0];
    assert_eq!(raw(&map, &bytes).unwrap(), r#"{"x":{"z":7,"a":null,"m":2}}"#);
    let array = json!({"type": "array", "items": ["null", "string"]});
    assert_eq!(raw(&array, &[4, 0, 2, 2, b'q', 0]).unwrap(), r#"{"x":[null,"q"]}"#);
    assert_eq!(raw(&array, &[0]).unwrap(), r#"{"x":[]}"#);
}

#[test]
fn a_type_may_be_named_again_and_hold_itself() {
    let node = json!({"type": "record", "name": "Node", "fields": [
        {"name": "v", "type": "int"}, {"name": "next", "type": ["null", "Node"]}, {"name": "also", "type": ["null", "n.Node"]}
    ]});
    assert_eq!(raw(&node, &[2, 2, 4, 0, 0, 2, 6, 0, 0]).unwrap(), r#"{"x":{"v":1,"next":{"v":2},"also":{"v":3}}}"#);
}

#[test]
fn numbers_that_json_cannot_say_are_malformed() {
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let reason = written(&json!("double"), Avro::Double(number)).unwrap_err();
        assert_eq!(reason, "x: a number is infinite or none, which JSON cannot say");
    }
    assert!(written(&json!("float"), Avro::Float(f32::NAN)).is_err());
}

#[test]
fn broken_messages_are_refused_with_a_reason() {
    let check = |schema: Json, bytes: &[u8], expected: &str| {
        assert_eq!(raw(&schema, bytes).unwrap_err(), expected, "{schema}");
    };
    check(json!("string"), &[8, b'a'], "x: the message ends early");
    check(json!(["null", "string"]), &[], "x: the message ends early");
    check(json!("boolean"), &[], "x: the message ends early");
    check(json!("boolean"), &[2], "x: a boolean is neither true nor false");
    check(json!("string"), &[2, 0xff], "x: a text is not UTF-8");
    check(json!("string"), &[1], "x: a length is negative");
    check(json!("int"), &[0x80, 0x80, 0x80, 0x80, 0x10], "x: an integer has more than 32 bits");
    check(json!("long"), &[0xff; 11], "x: an integer has more than 64 bits");
    check(json!(["null", "int"]), &[4], "x: there is no choice 2, only 2");
    check(json!(["null", "int"]), &[1], "x: there is no choice -1, only 2");
    check(json!("int"), &[2, 0, 0], "the message goes on for 2 bytes after the event");
    check(json!("string"), &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "x: the message ends early");
}

#[test]
fn a_few_bytes_cannot_become_a_line_of_any_length_or_depth() {
    let nulls = json!({"type": "array", "items": "null"});
    assert!(raw(&nulls, &[0xfe, 0xff, 0xff, 0xff, 0x0f, 0]).unwrap_err().contains("longer than 1048576 bytes"));
    let empty = json!({"type": "array", "items": {"type": "record", "name": "R", "fields": []}});
    assert!(
        raw(&empty, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0, 0]).unwrap_err().contains("longer")
    );
    let endless = json!({"type": "record", "name": "R", "fields": [{"name": "r", "type": ["null", "R"]}]});
    assert!(raw(&endless, &[2; 100_000]).unwrap_err().ends_with("the event is nested deeper than 100 levels"));
}

#[test]
fn a_schema_of_no_events_is_refused() {
    let reason = decode(r#""string""#, &[0]).unwrap_err();
    assert_eq!(reason, "its outermost type is no record, as an event is");
}

#[test]
fn properties_stand_as_their_text_says_on_one_line() {
    let schema = json!({"type": "record", "name": "E", "fields": [{"name": "properties", "type": ["null", "string"]}]});
    let check = |properties: &str, expected: &str| {
        let message = encode(&Schema::parse(&schema).unwrap(), 1, &json!({ "properties": properties })).unwrap();
        let line = decode(&schema.to_string(), &message[5..]).unwrap();
        assert_eq!(line, format!(r#"{{"properties":{expected}}}"#));
    };
    check(r#"{"z":1, "a":1.50}"#, r#"{"z":1, "a":1.50}"#);
    check(" {\r\n\"a\":\n[]} ", "{  \"a\": []}");
    check("{}", "{}");
    check("not json", r#""not json""#);
    check("[1]", r#""[1]""#);
    check(r#"{"a":1} {"#, r#""{\"a\":1} {""#);
}

/// A JSON value whose numbers are integers, which no way of printing changes.
fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        ".*".prop_map(Json::from)
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::from),
            prop::collection::btree_map(".{0,8}", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn texts(names: &'static [&'static str]) -> impl Strategy<Value = Json> {
    prop::collection::btree_map(prop::sample::select(names), ".{0,12}".prop_map(Json::from), 0..=names.len())
        .prop_map(|map| map.into_iter().map(|(name, text)| (name.to_owned(), text)).collect())
}

fn any_event() -> impl Strategy<Value = Json> {
    let members = prop::collection::btree_map(".{0,8}", any_json(), 0..5);
    let optional = (
        prop::option::of(members),
        prop::option::of(texts(&["app_version", "os", "screen_resolution", "locale"])),
        prop::option::of(texts(&["country", "city"])),
        prop::option::of(any::<i64>()),
        texts(&["session_id", "client_time", "ip", "tenant"]),
    );
    (".{0,20}", ".{0,20}", ".{0,20}", any::<i64>(), optional).prop_map(
        |(id, kind, user, time, (properties, context, geo, server_time, others))| {
            let mut event = json!({"event_id": id, "event_type": kind, "user_id": user, "timestamp": time});
            let all = event.as_object_mut().unwrap();
            all.extend(properties.map(|map| ("properties".to_owned(), map.into_iter().collect())));
            all.extend(context.map(|context| ("context".to_owned(), context)));
            all.extend(geo.map(|geo| ("geo".to_owned(), geo)));
            all.extend(server_time.map(|millis| ("server_time".to_owned(), millis.into())));
            all.extend(others.as_object().unwrap().clone());
            event
        },
    )
}

proptest! {
    #[test]
    fn an_event_comes_back_as_it_was_written(event in any_event(), build in prop::option::of(any::<Vec<i32>>())) {
        let mut event = event;
        for (text, sdk) in [(EVENT_V1, None), (EVENT_V2, build.map(|build| json!({"name": "web", "build": build})))] {
            if let Some(sdk) = sdk {
                event["sdk"] = sdk;
            }
            let message = encode(&Schema::parse_str(text).unwrap(), 7, &event).unwrap();
            let line = decode(text, &message[5..]).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Json>(&line).unwrap(), event.clone());
        }
    }

    #[test]
    fn a_message_cut_anywhere_or_with_more_behind_it_is_refused(event in any_event(), more in 1_usize..9) {
        let message = encode(&Schema::parse_str(EVENT_V2).unwrap(), 7, &event).unwrap();
        let shapes = Shapes::of(&Schema::parse_str(EVENT_V2).unwrap()).unwrap();
        let whole = &message[5..];
        for cut in 0..whole.len() {
            prop_assert!(push_event(&shapes, &whole[..cut], &mut Vec::new()).is_err(), "cut at {}", cut);
        }
        let longer = [whole, &vec![0; more]].concat();
        prop_assert!(push_event(&shapes, &longer, &mut Vec::new()).is_err());
    }

    #[test]
    fn any_bytes_are_an_event_or_refused(bytes: Vec<u8>) {
        let shapes = Shapes::of(&Schema::parse_str(EVENT_V2).unwrap()).unwrap();
        let mut out = Vec::new();
        match push_event(&shapes, &bytes, &mut out) {
            Ok(()) => prop_assert!(serde_json::from_slice::<Json>(&out).unwrap().is_object()),
            Err(reason) => {
                prop_assert!(out.is_empty());
                let names: BTreeSet<char> = reason.chars().collect();
                prop_assert!(names.iter().all(char::is_ascii), "a reason quotes nothing: {}", reason);
            }
        }
    }

    #[test]
    fn every_integer_is_read_as_it_was_written(number: i64) {
        prop_assert_eq!(written(&json!("long"), Avro::Long(number)).unwrap(), format!(r#"{{"x":{number}}}"#));
    }
}
