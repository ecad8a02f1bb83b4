use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const SERVER: &str = r#""server_time":1700000000000,"ip":"00112233aabbccdd","tenant":"shop""#;

fn event() -> Value {
    json!({
        "event_id": "e1", "event_type": "page_view", "user_id": "u1", "timestamp": 1_772_323_200_000_i64,
        "properties": {"page": "/"},
    })
}

fn with(member: &str, value: Value) -> String {
    let mut event = event();
    event[member] = value;
    event.to_string()
}

fn without(member: &str) -> String {
    let mut event = event();
    event.as_object_mut().unwrap().remove(member);
    event.to_string()
}

fn bought(cents: i64) -> String {
    let mut event = event();
    event["event_type"] = json!("purchase");
    event["properties"] = json!({"amount_cents": cents, "currency": "EUR"});
    event.to_string()
}

fn line(admitted: &Admitted, number: usize) -> &str {
    std::str::from_utf8(&admitted.text[admitted.lines[number].value.clone()]).unwrap()
}

#[test]
fn the_servers_fields_are_the_servers_and_all_others_stay() {
    let sent = concat!(
        r#"{"event_id":"e1","tenant":"theirs","event_type":"click","user_id":"u\u00e91","timestamp":1700000000007,"ip":"1.2.3.4","#,
        r#""\u0069p":"5.6.7.8","geo":{"country":"XX"},"server_time":1,"session_id":"s","properties":{"ip":"kept"},"#,
        "\n\r\n \"build\" : [1,\r\n 2.50,\"a\\nb\"]}"
    );
    let admitted = admit(&[sent], SERVER, Bounds::default());
    assert_eq!(
        line(&admitted, 0),
        [
            r#"{"event_id":"e1","event_type":"click","user_id":"u\u00e91","timestamp":1700000000007,"session_id":"s","#,
            r#""properties":{"ip":"kept"},"build":[1,   2.50,"a\nb"],"#,
            SERVER,
            "}"
        ]
        .concat()
    );
    assert_eq!(admitted.lines[0].topic, Topic::Click);
    assert_eq!(&admitted.text[admitted.lines[0].key.clone()], "ué1".as_bytes());
    assert_eq!(admitted.verdicts, [Verdict { event_id: Some("e1".into()), rejected: None }]);
}

#[test]
fn places_and_tenants_are_written_as_json() {
    let place = Place { country: Some("BR"), city: Some("São \"P\"") };
    assert_eq!(
        server_members(5, "ab", Some(&place), "t"),
        r#""server_time":5,"ip":"ab","geo":{"country":"BR","city":"São \"P\""},"tenant":"t""#
    );
    let city = Place { country: None, city: Some("X") };
    assert_eq!(
        server_members(5, "ab", Some(&city), "t"),
        r#""server_time":5,"ip":"ab","geo":{"city":"X"},"tenant":"t""#
    );
}

#[test]
fn each_event_is_judged_by_itself_and_in_order() {
    let long = "x".repeat(201);
    let cases = [
        (with("event_id", json!("ok")), None),
        ("7".to_owned(), Some((RejectKind::NotAnObject, "not a JSON object"))),
        (r#"{"user_id":"\ud800"}"#.to_owned(), Some((RejectKind::EventId, "event_id is missing"))),
        ("{}".to_owned(), Some((RejectKind::EventId, "event_id is missing"))),
        (without("event_id"), Some((RejectKind::EventId, "event_id is missing"))),
        (with("event_id", json!(7)), Some((RejectKind::EventId, "not a text"))),
        (with("event_id", json!(long)), Some((RejectKind::TooLong, "longer than 200"))),
        (with("event_type", json!("")), Some((RejectKind::EventType, "empty"))),
        (with("event_type", json!(long)), Some((RejectKind::TooLong, "event_type is longer than 200"))),
        (
            with("properties", json!({"page": "p".repeat(8_193)})),
            Some((RejectKind::TooLong, "page is longer than 8192")),
        ),
        (with("context", json!({"app_version": long})), Some((RejectKind::TooLong, "app_version is longer than 200"))),
        (with("user_id", json!(null)), Some((RejectKind::UserId, "null"))),
        (with("user_id", json!("Anonymous ")), Some((RejectKind::ForbiddenId, "stands for nobody"))),
        (with("user_id", json!("[object Object]")), Some((RejectKind::ForbiddenId, "stands for nobody"))),
        (with("user_id", json!("  ")), Some((RejectKind::ForbiddenId, "stands for nobody"))),
        (with("event_id", json!("null")), Some((RejectKind::ForbiddenId, "event_id `null`"))),
        (with("timestamp", json!(1.5)), Some((RejectKind::Timestamp, "not an integer"))),
        (with("timestamp", json!(-1)), Some((RejectKind::Timestamp, "is before 1970-01-01"))),
        (with("timestamp", json!(60_000)), Some((RejectKind::Timestamp, "is before 2000-01-01"))),
        (with("timestamp", json!(1_772_323_200)), Some((RejectKind::Timestamp, "looks like seconds"))),
        (with("timestamp", json!(1_772_323_200.25)), Some((RejectKind::Timestamp, "looks like seconds"))),
        (with("timestamp", json!("2026-03-01T00:00:00")), Some((RejectKind::Timestamp, "without an offset"))),
        (with("properties", json!({"title": 1})), Some((RejectKind::Properties, "properties.page is missing"))),
        (with("event_type", json!("purchase")), Some((RejectKind::Properties, "amount_cents"))),
        (bought(1_000_000_000_000_001), Some((RejectKind::Properties, "beyond 10^15 cents"))),
        (bought(i64::MAX), Some((RejectKind::Properties, "beyond 10^15 cents"))),
        (with("note", json!("y".repeat(MAX_LINE_BYTES))), Some((RejectKind::TooLong, "the event is longer"))),
        // At the limit by itself, beyond it with what the server adds.
        (with("note", json!("y".repeat(MAX_LINE_BYTES - 160))), Some((RejectKind::TooLong, "longer than 1 MiB"))),
        (with("event_id", json!("last")), None),
    ];
    let events: Vec<&str> = cases.iter().map(|(event, _)| &**event).collect();
    let admitted = admit(&events, SERVER, Bounds::default());
    assert_eq!(admitted.verdicts.len(), cases.len());
    for ((event, expected), verdict) in cases.iter().zip(&admitted.verdicts) {
        let shown = &event[..event.len().min(200)];
        match (expected, &verdict.rejected) {
            (None, None) => {}
            (Some((kind, words)), Some(reject)) => {
                assert_eq!(reject.kind, *kind, "{shown}: {reject:?}");
                assert!(reject.reason.contains(words), "{shown}: {reject:?}");
            }
            other => panic!("{shown}: {other:?}"),
        }
    }
    assert_eq!(admitted.lines.len(), 2);
    assert_eq!(admitted.verdicts[11].event_id.as_deref(), Some("e1"), "a rejected event is named by its id");
    assert_eq!(admitted.verdicts[6].event_id, None, "but not by one of any length");
    assert_eq!(admitted.verdicts.last().unwrap().event_id.as_deref(), Some("last"));
}

#[test]
fn what_a_client_writes_otherwise_is_stored_so_that_every_reader_takes_it() {
    let sent = [
        r#"{"event_id":"e1","event_type":"click","user_id":"u\ud83d","timestamp":"2026-03-01T01:00:00.250+01:00","properties":{"k\udc00":["cut \uD83D"]}}"#.to_owned(),
        bought(-1_000_000_000_000_000),
    ];
    let admitted = admit(&[&sent[0], &sent[1]], SERVER, Bounds::default());
    assert!(admitted.verdicts.iter().all(|verdict| verdict.rejected.is_none()), "{:?}", admitted.verdicts);
    let stored = line(&admitted, 0);
    assert!(stored.contains(r#""properties":{"k\ufffd":["cut \ufffd"]}"#), "{stored}");
    let value: Value = serde_json::from_str(stored).unwrap();
    assert_eq!(value["user_id"], "u\u{fffd}");
    let decoded = decode(stored.as_bytes().to_vec(), Bounds::default());
    assert_eq!(decoded.records[0].timestamp().0, 1_772_323_200_250);
    assert_eq!(&admitted.text[admitted.lines[0].key.clone()], "u\u{fffd}".as_bytes());
    let older = Bounds::since("1970-01-01".parse().unwrap());
    let old = with("timestamp", json!(1_772_323_200));
    assert_eq!(admit(&[&old], SERVER, older).lines.len(), 1);
}

#[test]
fn every_kind_has_a_name_of_its_own() {
    let mut names = RejectKind::ALL.map(RejectKind::name);
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
}

/// JSON values, now and then of a kind that a member must not have.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0_i64..300_000_000_000_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[a-z0-9-]{0,8}".prop_map(Value::from),
        Just(json!("anonymous")),
        Just(json!("page_view")),
        Just(json!("purchase")),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let name = prop_oneof!["page", "amount_cents", "currency", "country", "os", ".{0,4}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// Texts of events: well-formed ones with a few members exchanged, laid out in some way, or cut and garbled.
fn any_event() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "event_id",
        "event_type",
        "user_id",
        "timestamp",
        "properties",
        "context",
        "geo",
        "ip",
        "tenant",
        "server_time",
        ".{0,6}"
    ];
    let changes = prop::collection::vec((name, any_value()), 0..4);
    (changes, any::<bool>(), prop::option::weighted(0.1, ".{0,40}")).prop_map(|(changes, pretty, garbage)| {
        let mut event = event();
        for (member, value) in changes {
            event[member] = value;
        }
        let text = if pretty { serde_json::to_string_pretty(&event).unwrap() } else { event.to_string() };
        garbage.unwrap_or(text)
    })
}

proptest! {
    /// What is accepted is an event in the log, of the client's words and the server's; what is not is no line there.
    #[test]
    fn an_accepted_event_is_never_a_dead_letter(events in prop::collection::vec(any_event(), 1..12)) {
        let texts: Vec<&str> = events.iter().map(|event| &**event).collect();
        let admitted = admit(&texts, SERVER, Bounds::default());
        prop_assert_eq!(admitted.verdicts.len(), events.len());
        let mut lines = admitted.lines.iter();
        for (event, verdict) in events.iter().zip(&admitted.verdicts) {
            if verdict.rejected.is_some() {
                continue;
            }
            let line = lines.next().unwrap();
            let text = &admitted.text[line.value.clone()];
            let decoded = decode(text.to_vec(), Bounds::default());
            prop_assert_eq!((decoded.records.len(), decoded.malformed.len()), (1, 0));
            let stored = &decoded.records[0];
            prop_assert_eq!(stored.tenant().text, "shop");
            prop_assert_eq!(stored.server_time().map(|time| time.0), Some(1_700_000_000_000));
            prop_assert_eq!(Some(stored.event_id()), verdict.event_id.as_deref());
            prop_assert_eq!(stored.user().text.as_bytes(), &admitted.text[line.key.clone()]);

            let mut sent: Value = serde_json::from_str(event).unwrap();
            let mut kept: Value = serde_json::from_slice(text).unwrap();
            for member in OF_THE_SERVER {
                sent.as_object_mut().unwrap().remove(member);
                kept.as_object_mut().unwrap().remove(member);
            }
            prop_assert_eq!(sent, kept);
        }
        prop_assert!(lines.next().is_none());
    }

    /// The collector refuses nothing that the engine would take, but for its own rule of ids.
    #[test]
    fn a_rejected_event_would_have_been_a_dead_letter(event in any_event()) {
        let admitted = admit(&[&event], SERVER, Bounds::default());
        if let Some(reject) = &admitted.verdicts[0].rejected
            && reject.kind != RejectKind::ForbiddenId
        {
            let mut line = Vec::new();
            push_on_one_line(&mut line, event.as_bytes());
            if !line.iter().all(u8::is_ascii_whitespace) {
                prop_assert_eq!(decode(line, Bounds::default()).malformed.len(), 1, "{:?}: {:?}", event, reject);
            }
        }
    }
}
