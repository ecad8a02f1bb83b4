//! NDJSON: the fast reader beside the strict one, and what a block becomes beside what its lines become.

use serde_json::Value;
use tidemill_connectors::events::{Bounds, Event, MAX_ID_BYTES, MAX_NAME_BYTES, NdjsonDecoder, readers_agree};
use tidemill_dataflow::source::{Block, DeadLetter, Decode, Decoded};
use tidemill_dataflow::time::EventTime;

use crate::memory::within;

/// Ordinary and odd events.
pub(crate) const EVENTS: [&str; 6] = [
    r#"{"event_id":"e1","event_type":"page_view","user_id":"u1","timestamp":1767225600000,"properties":{"page":"/a?b=c"}}"#,
    r#"{"event_id":"e2","event_type":"purchase","user_id":"u1","timestamp":"2026-03-10T10:00:00.250Z","tenant":"t","properties":{"amount_cents":1999,"currency":"EUR","items":[{"sku":"x","n":1.5e3}]}}"#,
    r#"{"event_id":"e3","event_type":"error","user_id":"ü😀","timestamp":1767225600001,"session_id":"s","client_time":1,"server_time":1767225600002,"ip":"203.0.113.9","context":{"app_version":"1.2.3","os":"Linux","screen_resolution":"1x1","locale":"de","more":true},"geo":{"country":"DE","city":"Köln","zip":null}}"#,
    r#"{ "event_id" : "a\"b\\\u00fc\ud83d\ude00" , "event_type":"click","user_id":"\ud83d","timestamp":1767225600000,"x":[[[]]],"y":{"z":false} }"#,
    r#"{"event_id":"e4","event_type":"click","event_id":"e5","user_id":"u","timestamp":1767225600000,"properties":{"page":"/a","page":"/b"},"properties":{"page":7}}"#,
    r#"{"event_id":"e6","event_type":"click","user_id":null,"timestamp":1.5,"tenant":"","context":[],"geo":3,"properties":"x"}"#,
];

/// What events are made of.
pub(crate) const WORDS: [&str; 48] = [
    "\"event_id\":",
    "\"event_type\":",
    "\"user_id\":",
    "\"session_id\":",
    "\"timestamp\":",
    "\"client_time\":",
    "\"server_time\":",
    "\"ip\":",
    "\"tenant\":",
    "\"properties\":{",
    "\"context\":{",
    "\"geo\":{",
    "\"page\":",
    "\"amount_cents\":",
    "\"currency\":",
    "\"app_version\":",
    "\"os\":",
    "\"screen_resolution\":",
    "\"locale\":",
    "\"country\":",
    "\"city\":",
    "\"page_view\"",
    "\"purchase\"",
    "\"error\"",
    "\"click\"",
    "{\"events\":[",
    "]}",
    "\"api_key\":",
    "1767225600000",
    "\"2026-03-10T10:00:00.250+01:00\"",
    "2026-02-29T23:59:60Z",
    "null",
    "true",
    "false",
    "{}",
    "[]",
    "{\"a\":",
    "[[[[",
    "]]]]",
    "\\ud83d",
    "\\ude00",
    "\\u0000",
    "\\\"",
    "\"",
    "\n",
    "\r\n",
    "é",
    "203.0.113.9",
];

pub(crate) fn run(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        for line in text.split_inclusive('\n') {
            readers_agree(line).unwrap_or_else(|problem| panic!("{problem}: {line}"));
        }
    }
    let whole = block(bytes.to_vec());
    let parts = NdjsonDecoder::default().apart(whole.clone()).expect("lines can be taken apart");
    // What is no event is copied for its dead letter, and so is what reads otherwise than it stands there.
    let decoded = within(bytes.len() * 60 + (64 << 10), || decode(whole));
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !is_blank(line)).count();
    assert_eq!(decoded.records.len() + decoded.malformed.len(), lines, "every line is an event or a dead letter");
    let mut apart = Decoded::default();
    for part in parts {
        let one = decode(part);
        apart.records.extend(one.records);
        apart.malformed.extend(one.malformed);
    }
    assert_eq!(said(&decoded.records), said(&apart.records), "a block is what its lines are");
    assert_eq!(decoded.malformed, apart.malformed, "a block is what its lines are");
    decoded.records.iter().for_each(check);
    decoded.malformed.iter().for_each(check_letter);
    for line in bytes.split(|byte| *byte == b'\n') {
        against_values(line);
    }
}

pub(crate) fn block(bytes: Vec<u8>) -> Block {
    Block { partition: 0, offset: 0, first_line: 1, bytes, skipped: 0 }
}

fn decode(block: Block) -> Decoded<Event> {
    let mut decoded = Decoded::default();
    NdjsonDecoder::default().decode(block, &mut decoded);
    decoded
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | 0x0b | 0x0c))
}

/// All that can be asked of events.
pub(crate) fn said(events: &[Event]) -> Vec<String> {
    let say = |event: &Event| {
        let texts = [
            event.session_id(),
            event.app_version(),
            event.os(),
            event.screen_resolution(),
            event.locale(),
            event.country(),
            event.city(),
            event.properties(),
            event.page().map(|page| page.text),
            event.currency().map(|currency| currency.text),
        ];
        let numbers = (event.server_time(), event.amount_cents(), event.id(), event.fingerprint());
        format!("{event:?} {texts:?} {numbers:?} {:?} {}", event.extra(), event.sample())
    };
    events.iter().map(say).collect()
}

/// What holds of every event.
pub(crate) fn check(event: &Event) {
    let (id, user) = (event.event_id(), event.user().text);
    for text in [id, user, event.event_type(), event.tenant().text] {
        assert!(!text.is_empty() && text.len() <= MAX_ID_BYTES.max(MAX_NAME_BYTES) as usize, "{event:?}");
    }
    assert!(Bounds::default().hold(event.timestamp()), "{event:?}");
    let object = |text: &str| {
        assert!(text.starts_with('{'), "{text}");
        // Numbers beyond all measure are JSON, and no values of serde_json.
        let read = serde_json::from_str::<serde::de::IgnoredAny>(text);
        read.unwrap_or_else(|error| panic!("no JSON ({error}): {text}"));
    };
    event.properties().into_iter().for_each(object);
    event.extra().as_deref().into_iter().for_each(object);
    let sample = event.sample();
    assert!(!shows_address(sample.as_bytes()), "a sample shows an address: {sample}");
}

/// What holds of every dead letter.
pub(crate) fn check_letter(letter: &DeadLetter) {
    assert!(!letter.reason.is_empty());
    assert!(!shows_address(&letter.payload), "a dead letter shows an address: {}", letter.payload.escape_ascii());
}

/// The address that inputs have, where nothing touches it that could make it something else.
const ADDRESS: &[u8] = b"203.0.113.9";

fn shows_address(text: &[u8]) -> bool {
    let touches = |byte: Option<&u8>| byte.is_some_and(|byte| !matches!(byte, b' ' | b'"' | b',' | b'[' | b']'));
    text.windows(ADDRESS.len()).enumerate().any(|(at, found)| {
        found == ADDRESS
            && !touches(at.checked_sub(1).and_then(|before| text.get(before)))
            && !touches(text.get(at + ADDRESS.len()))
    })
}

/// A third reader, as simple as can be: `serde_json`'s values.
fn against_values(line: &[u8]) {
    let Ok(Value::Object(object)) = serde_json::from_slice::<Value>(line) else { return };
    let decoded = decode(block(line.to_vec()));
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let short = |name: &str, most: u32| text(name).is_some_and(|text| !text.is_empty() && text.len() <= most as usize);
    match decoded.records.first() {
        Some(event) => {
            assert_eq!(text("event_id"), Some(event.event_id()));
            assert_eq!(text("event_type"), Some(event.event_type()));
            assert_eq!(text("user_id"), Some(event.user().text));
            let tenant = text("tenant").filter(|tenant| !tenant.is_empty()).unwrap_or("default");
            assert_eq!(tenant, event.tenant().text);
            if let Some(time) = object.get("timestamp").and_then(Value::as_i64) {
                assert_eq!(event.timestamp(), EventTime(time));
            }
            assert_eq!(text("session_id"), event.session_id());
            let properties = object.get("properties").and_then(Value::as_object);
            let page = properties.and_then(|properties| properties.get("page")?.as_str());
            assert_eq!(page, event.page().map(|found| found.text));
        }
        None => {
            let has_ids = short("event_id", MAX_ID_BYTES) && short("user_id", MAX_ID_BYTES);
            let time = object.get("timestamp").and_then(Value::as_i64);
            let is_plain = object.len() == 4 && text("event_type") == Some("click");
            let refused = !(has_ids && is_plain && time.is_some_and(|time| Bounds::default().hold(EventTime(time))));
            assert!(refused, "an event was refused: {:?}", decoded.malformed);
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = EVENTS.map(|event| event.as_bytes().to_vec()).to_vec();
    seeds.push(EVENTS.join("\n").into_bytes());
    seeds.push(format!("\n \r\n{}\r\n[{}]\nnot json 203.0.113.9\n", EVENTS[0], EVENTS[1]).into_bytes());
    seeds
}
