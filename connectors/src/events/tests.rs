//! The promises of the decoders: what is an event, what is malformed and why, and that both JSON readers agree.

use proptest::prelude::*;
use tidemill_dataflow::hash::hash64;
use tidemill_dataflow::source::{Block, Decode, Decoded};
use tidemill_dataflow::time::EventTime;

use super::*;

mod lengths;
mod senders;

fn block(bytes: &[u8]) -> Block {
    Block { partition: 3, offset: 1_000, first_line: 10, bytes: bytes.to_vec(), skipped: 0 }
}

fn decode(text: impl AsRef<[u8]>) -> Decoded<Event> {
    let mut out = Decoded::default();
    NdjsonDecoder::default().decode(block(text.as_ref()), &mut out);
    out
}

#[track_caller]
fn event(line: &str) -> Event {
    let out = decode(line);
    assert_eq!(out.malformed, [], "{line}");
    assert_eq!(out.records.len(), 1, "{line}");
    out.records[0].clone()
}

#[track_caller]
fn malformed(line: impl AsRef<[u8]>, reason: &str) {
    let out = decode(line.as_ref());
    assert_eq!((out.records.len(), out.malformed.len()), (0, 1), "{}", String::from_utf8_lossy(line.as_ref()));
    assert_eq!(out.malformed[0].reason, reason);
}

/// An event with these members besides the required ones; a member given here replaces a required one before it.
fn line(members: &str) -> String {
    let separator = if members.is_empty() { "" } else { "," };
    format!(r#"{{"event_id":"e1","event_type":"click","user_id":"u1","timestamp":1700000000000{separator}{members}}}"#)
}

const FULL: &str = r#"{"event_id":"0b2e","event_type":"page_view","user_id":"u42","session_id":"s1","timestamp":1700000000000,"client_time":"2023-11-14T22:13:20","properties":{"page":"/checkout","n":[1,{"a":null}]},"context":{"app_version":"1.2.3","os":"Linux","screen_resolution":"1x2","locale":"de_DE"},"server_time":1700000000500,"ip":"203.0.113.9","geo":{"country":"DE","city":"Köln"},"tenant":"acme"}"#;

#[test]
fn a_sample_tells_an_event_apart_and_holds_no_clear_address() {
    let shown = event(&FULL.replace("/checkout", "/from/2001:db8:1:2::3?by=203.0.113.9")).sample();
    let sample: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&sample["tenant"], &sample["event_id"]), (&"acme".into(), &"0b2e".into()));
    assert_eq!(sample["timestamp"], 1_700_000_000_000_i64);
    assert_eq!(sample["properties"]["page"], "/from/2001:db8:1::x?by=203.0.113.x");
    let long = line(&format!(r#""properties":{{"page":"{}"}}"#, "x".repeat(600)));
    let without = event(&long).sample();
    assert!(without.len() < 200 && without.ends_with('}'), "{without}");
}

const LOGGED: &str = r#"83.149.9.216 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 12 "-" "agent""#;

#[test]
fn every_column_of_a_full_event_is_read() {
    for line in [FULL.to_owned(), FULL.replace("\":", "\": ").replace(",\"", ", \"")] {
        let event = event(&line);
        assert_eq!((event.event_id(), event.event_type(), event.kind()), ("0b2e", "page_view", EventKind::PageView));
        assert_eq!((event.tenant().text, event.tenant().hash), ("acme", hash64(b"acme")));
        assert_eq!((event.user().text, event.user().hash), ("u42", hash64(b"u42")));
        assert_eq!(event.timestamp(), EventTime(1_700_000_000_000));
        assert_eq!(event.server_time(), Some(EventTime(1_700_000_000_500)));
        let page = event.page().unwrap();
        assert_eq!((page.text, page.hash), ("/checkout", hash64(b"/checkout")));
        assert_eq!(event.app_version(), Some("1.2.3"));
        assert_eq!((event.os(), event.screen_resolution()), (Some("Linux"), Some("1x2")));
        assert_eq!((event.locale(), event.country(), event.city()), (Some("de_DE"), Some("DE"), Some("Köln")));
        assert_eq!(event.session_id(), Some("s1"));
        assert!(event.properties().unwrap().starts_with(r#"{"page":"#));
        assert_eq!(event.extra().unwrap(), r#"{"client_time":"2023-11-14T22:13:20","ip":"203.0.113.x"}"#);
    }
}

#[test]
fn absent_and_null_columns_are_none() {
    let all = r#""session_id":null,"properties":null,"context":null,"geo":null,"server_time":null,"tenant":null"#;
    for event in [event(&line("")), event(&line(all)), event(&line(r#""context":{"os":null},"geo":{"city":null}"#))] {
        assert_eq!((event.session_id(), event.properties(), event.os(), event.city()), (None, None, None, None));
        assert!(event.page().is_none() && event.currency().is_none() && event.amount_cents().is_none());
        assert_eq!((event.server_time(), event.extra()), (None, None));
        assert_eq!((event.tenant().text, event.tenant().hash), ("default", hash64(b"default")));
        assert_eq!(event.kind(), EventKind::Other);
    }
}

#[test]
fn required_members_must_be_there_and_be_texts() {
    for name in ["event_id", "event_type", "user_id"] {
        let whole = line("");
        let from = whole.find(&format!("\"{name}\"")).unwrap();
        let to = from + whole[from..].find(',').unwrap();
        let with = |member: &str| format!("{}{}{}", &whole[..from], member, &whole[to..]);
        malformed(with(r#""x":1"#), &format!("{name} is missing"));
        malformed(with(&format!(r#""{name}":null"#)), &format!("{name} is null"));
        malformed(with(&format!(r#""{name}":"""#)), &format!("{name} is empty"));
        for other in ["1", "true", "{}", "[\"a\"]"] {
            malformed(with(&format!(r#""{name}":{other}"#)), &format!("{name} is not a text"));
        }
    }
}

#[test]
fn an_event_that_names_no_tenant_belongs_to_the_default_one() {
    for (tenant, extra) in [("\"\"", None), ("null", None), ("3", Some("{\"tenant\":3}"))] {
        let event = event(&line(&format!("\"tenant\":{tenant}")));
        assert_eq!((event.tenant().text, event.extra().as_deref()), ("default", extra), "{tenant}");
        assert_eq!(event.tenant().hash, hash64(b"default"));
    }
}

#[test]
fn ids_have_at_most_200_bytes() {
    let with_id = |id: &str| line("").replace("\"e1\"", &format!("\"{id}\""));
    event(&with_id(&"a".repeat(200)));
    event(&with_id(&"ü".repeat(100)));
    event(&with_id(&r"\u0041".repeat(200)));
    malformed(with_id(&"a".repeat(201)), "event_id is longer than 200 bytes");
    malformed(with_id(&"ü".repeat(101)), "event_id is longer than 200 bytes");
    malformed(line("").replace("\"u1\"", &format!("\"{}\"", "u".repeat(201))), "user_id is longer than 200 bytes");
}

#[test]
fn a_page_view_needs_a_page() {
    let view = |properties: &str| line(properties).replace("click", "page_view");
    assert_eq!(event(&view(r#""properties":{"page":""}"#)).page().unwrap().text, "");
    malformed(view(""), "properties of a page_view are missing");
    malformed(view(r#""properties":null"#), "properties of a page_view are null");
    malformed(view(r#""properties":"/a""#), "properties of a page_view are not an object");
    malformed(view(r#""properties":{}"#), "properties.page is missing");
    malformed(view(r#""properties":{"page":null}"#), "properties.page is null");
    malformed(view(r#""properties":{"page":7}"#), "properties.page is not a text");
}

#[test]
fn values_without_a_column_are_kept_in_extra() {
    let extra = |members: &str| event(&line(members)).extra().unwrap();
    assert_eq!(extra(r#""context":5,"zz":[1, 2],"aa":null"#), r#"{"context":5,"zz":[1, 2],"aa":null}"#);
    assert_eq!(
        extra(r#""geo":{"zip":"1","city":"X"},"context":{"os":7,"locale":"de","k\"":1}"#),
        r#"{"geo":{"zip":"1"},"context":{"os":7,"k\"":1}}"#
    );
    assert_eq!(extra(r#""session_id":5,"server_time":"now""#), r#"{"session_id":5,"server_time":"now"}"#);
    assert_eq!(extra(r#""server_time":7258118400001"#), r#"{"server_time":7258118400001}"#);
    assert_eq!(extra(r#""properties":[1]"#), r#"{"properties":[1]}"#);
    assert_eq!(extra(r#""ip":"2001:db8:1:2::3","client_time":1"#), r#"{"ip":"2001:db8:1::x","client_time":1}"#);
    assert_eq!(extra(r#""ip":"1\u002e2.3.4""#), r#"{"ip":"1.2.3.x"}"#);
    assert_eq!(extra(r#""x":1,"ip":["1.2.3.4"],"x":2"#), r#"{"ip":["1.2.3.x"],"x":2}"#);
    let event = event(&line(r#""context":{"os":7},"server_time":"x","geo":[],"session_id":{}"#));
    assert_eq!((event.os(), event.server_time(), event.session_id()), (None, None, None));
}

#[test]
fn escapes_are_resolved_in_columns_and_kept_in_properties() {
    let event = event(&line(r#""session_id":"a\"\\\/\b\f\n\r\t\u00fc\ud83d\ude00z","properties":{"page":"\u002f"}"#));
    assert_eq!(event.session_id(), Some("a\"\\/\u{8}\u{c}\n\r\tü😀z"));
    assert_eq!((event.page().unwrap().text, event.properties()), ("/", Some(r#"{"page":"\u002f"}"#)));
    assert_eq!(tests::event(&line("").replace("user_id", r"\u0075ser_id")).user().text, "u1");
}

#[test]
fn the_last_of_equal_keys_counts() {
    let event = event(&line(r#""user_id":"u2","properties":{"page":1},"properties":{"page":"/a","page":"/b"}"#));
    assert_eq!((event.user().text, event.page().unwrap().text), ("u2", "/b"));
    malformed(line(r#""user_id":null"#), "user_id is null");
}

#[test]
fn what_is_not_one_json_object_is_malformed() {
    for text in ["5", "[1]", "null", "\"83.149.9.216\"", "x", "x}", "\u{feff}{}"] {
        malformed(text, "not a JSON object");
    }
    let whole = line("");
    for (broken, reason) in [
        (whole[..whole.len() - 1].to_owned(), "not a JSON object: it ends early at byte 78"),
        (format!("{whole}}}"), "not a JSON object: wrong at byte 80"),
        (format!("{whole} {whole}"), "not a JSON object: wrong at byte 81"),
    ] {
        malformed(broken, reason);
    }
    for value in [
        "01",
        "1.",
        ".5",
        "+1",
        "1e",
        "--1",
        "0x1",
        "NaN",
        "tru",
        "\"\\x\"",
        "\"\\u12g4\"",
        "\"\t\"",
        "[1,]",
        "{\"a\"}",
        "{a:1}",
        "'a'",
        "[1 2]",
    ] {
        for members in [format!(r#""a":{value}"#), format!(r#""properties":{{"a":[{value}]}}"#)] {
            let out = decode(line(&members));
            assert_eq!((out.records.len(), out.malformed.len()), (0, 1), "{value}");
        }
    }
    malformed(b"{\"a\":\"\xff\"}", "not UTF-8; convert the input (iconv -f ISO-8859-1 -t UTF-8)");
}

#[test]
fn deep_nesting_neither_overflows_nor_loses_the_event() {
    for depth in [63, 64, 65, 100_000] {
        let event = event(&line(&format!(r#""properties":{{"a":{}1{}}}"#, "[".repeat(depth), "]".repeat(depth))));
        assert!(event.properties().unwrap().len() > 2 * depth);
    }
}

#[test]
fn only_a_newline_ends_a_line_and_white_space_is_nothing() {
    let text = format!("\r\n{}\r\n \t\n\n{}\u{2028}\n{}", line(""), "x\r", line(r#""a":"\u2028""#));
    let out = decode(&text);
    assert_eq!(out.records.len(), 2);
    assert_eq!((out.malformed.len(), out.malformed[0].line, out.malformed[0].partition), (1, 14, 3));
    assert_eq!(out.malformed[0].payload, "x\r\u{2028}".as_bytes());
    let unended = decode(format!("{}\n{}\r", line(""), line("")));
    assert_eq!((unended.records.len(), unended.malformed.len()), (2, 0));
}

#[test]
fn dead_letters_keep_line_order_and_hide_addresses() {
    let mut text = b"from 83.149.9.216\n".to_vec();
    text.extend_from_slice(line("").as_bytes());
    text.extend_from_slice(b"\n\xff 10.0.0.1\r\n{}\n");
    let out = decode(&text);
    let letters: Vec<_> = out.malformed.iter().map(|l| (l.line, l.reason.as_str(), &l.payload[..], l.bytes)).collect();
    assert_eq!(
        letters,
        [
            (10, "not a JSON object", &b"from 83.149.9.x"[..], 17),
            (12, "not UTF-8; convert the input (iconv -f ISO-8859-1 -t UTF-8)", b"\xff 10.0.0.x", 10),
            (13, "event_id is missing", b"{}", 2),
        ]
    );
    assert_eq!(out.records.len(), 1);
}

#[test]
fn a_line_over_1_mib_is_malformed_and_its_payload_cut() {
    let padded = |length: usize| {
        let short = line(r#""a":"""#);
        short.replace(r#""a":"""#, &format!(r#""a":"{}""#, "z".repeat(length - short.len())))
    };
    event(&padded(MAX_LINE_BYTES));
    event(&format!("{}\r\n", padded(MAX_LINE_BYTES)));
    for end in ["", "\n", "\r\n"] {
        let out = decode(format!("{}{end}", padded(MAX_LINE_BYTES + 1)));
        assert_eq!((out.records.len(), out.malformed.len()), (0, 1));
        assert_eq!(out.malformed[0].reason, "line is longer than 1 MiB");
        assert_eq!((out.malformed[0].bytes, out.malformed[0].payload.len()), (1_048_577, 1_048_576));
    }
    // A reader hands over the start of a line that goes on; no half address may show.
    let mut bytes = "ü".repeat(MAX_LINE_BYTES / 2 - 6).into_bytes();
    bytes.extend_from_slice(b" 2001:db8:1:2:3:4");
    bytes.truncate(MAX_LINE_BYTES + 2);
    let mut out = Decoded::default();
    NdjsonDecoder::default().decode(Block { skipped: 5_000_000_000, ..block(&bytes) }, &mut out);
    assert_eq!(out.malformed[0].bytes, 5_000_000_000 + bytes.len() as u64);
    assert!(out.malformed[0].payload.ends_with("ü ".as_bytes()));
}

#[test]
fn a_fingerprint_is_of_what_the_client_said() {
    let print = |text: &str| event(text).fingerprint();
    let first = print(FULL);
    for same in [
        FULL.replace("203.0.113.9", "203.0.113.8"),
        FULL.replace("1700000000500", "1700000009999"),
        FULL.replace("Köln", "Bonn"),
        FULL.replace("0b2e", "0b2f"),
    ] {
        assert_eq!(print(&same), first);
    }
    let parts = ["1700000000000", "page_view", "u42", "s1", "checkout", "1.2.3", "22:13", "\"tenant\":"];
    for (part, other) in parts.iter().zip(["1700000000001", "view", "u43", "s2", "check", "1.2.4", "22:14", "\"x\":"]) {
        assert_ne!(print(&FULL.replace(part, other)), first, "{part}");
    }
    assert_eq!(print(&line(r#""a":1,"b":2"#)), print(&line(r#""b":2,"a":1"#)));
}

#[test]
fn ids_differ_between_tenants() {
    let id = |tenant: &str| event(&line(&format!(r#""tenant":{tenant}"#))).id();
    assert_ne!(id("\"a\""), id("\"b\""));
    assert_eq!(id("null"), id("\"default\""));
}

fn combined(file: &str, key: HashKey) -> LogDecoder {
    LogDecoder::new(file, key, LogReader::Combined)
}

fn decode_log(decoder: &mut LogDecoder, bytes: &[u8]) -> Decoded<Event> {
    let mut out = Decoded::default();
    decoder.decode(block(bytes), &mut out);
    out
}

#[test]
fn log_lines_become_events() {
    let mut decoder = combined("access.log", HashKey::from_secret("s"));
    let head = "203.0.113.9 - - [17/May/2015:10:05:03 +0000]";
    let lines = [
        (r#""GET /blog?x=1.2 HTTP/1.1" 200 5 "-" "Moz""#, "page_view", Some("/blog"), None),
        (r#""GET /a.PNG?v=1 HTTP/1.1" 304 - "-" "Moz""#, "asset", None, None),
        (r#""GET /blog HTTP/1.1" 404 5 "-" "Moz""#, "other", None, None),
        (r#""HEAD /blog HTTP/1.1" 200 5 "-" "Moz""#, "other", None, None),
        (r#""POST /blog HTTP/1.1" 503 5 "-" "Moz""#, "error", None, Some("http-503")),
        (r#""-" 408 -"#, "other", None, None),
        (r#""\x16\x03" 500 -"#, "error", None, Some("http-500")),
    ];
    let text: String = lines.iter().map(|(rest, ..)| format!("{head} {rest}\n")).collect();
    let out = decode_log(&mut decoder, text.as_bytes());
    assert_eq!(out.malformed, []);
    for (event, (rest, kind, page, version)) in out.records.iter().zip(lines) {
        assert_eq!(event.event_type(), kind, "{rest}");
        assert_eq!(event.page().map(|hashed| hashed.text), page, "{rest}");
        assert_eq!(event.app_version(), version, "{rest}");
        assert_eq!((event.event_id().len(), event.user().text.len()), (32, 16));
        assert_eq!(event.user().hash, hash64(event.user().text.as_bytes()));
        assert_eq!((event.tenant().text, event.timestamp()), ("default", EventTime(1_431_857_103_000)));
        let properties = event.properties().unwrap();
        assert!(serde_json::from_str::<serde_json::Value>(properties).unwrap().is_object(), "{properties}");
        assert!(!properties.contains("203.0.113") && event.extra().is_none());
    }
    assert_eq!(
        out.records[0].properties().unwrap(),
        r#"{"method":"GET","path":"/blog","query":"x=1.2","protocol":"HTTP/1.1","status":200,"bytes":5}"#
    );
    assert_eq!(out.records[6].properties().unwrap(), r#"{"request":"\\x16\\x03","status":500}"#);
    assert_eq!(out.records[0].kind(), EventKind::PageView);
    let page = out.records[0].page().unwrap();
    assert_eq!(page.hash, hash64(page.text.as_bytes()));
    assert_eq!(out.records[0].user(), out.records[1].user());
    assert_ne!(out.records[0].user(), out.records[5].user(), "another agent is another user");

    let again = decode_log(&mut decoder, text.as_bytes());
    let ids = |decoded: &Decoded<Event>| decoded.records.iter().map(Event::id).collect::<Vec<_>>();
    assert_eq!(ids(&out), ids(&again));
    let other = decode_log(&mut combined("b.log", HashKey::from_secret("s")), text.as_bytes());
    assert!(ids(&out).iter().all(|id| !ids(&other).contains(id)));
    let key = decode_log(&mut combined("access.log", HashKey::from_secret("t")), text.as_bytes());
    assert_ne!(key.records[0].user(), out.records[0].user());
    assert_eq!(key.records[0].event_id(), out.records[0].event_id());
}

#[test]
fn equal_log_lines_are_two_events() {
    let line = "::1 - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.0\" 200 1\r\n";
    let out = decode_log(&mut combined("a", HashKey::default()), line.repeat(2).as_bytes());
    assert_eq!((out.records.len(), out.malformed.len()), (2, 0));
    assert_ne!(out.records[0].id(), out.records[1].id());
}

#[test]
fn a_user_is_keyed_blake3_of_address_and_agent() {
    let line = "203.0.113.9 - - [17/May/2015:10:05:03 +0000] \"GET / HTTP/1.0\" 200 1 \"-\" \"Moz\"";
    let out = decode_log(&mut combined("a", HashKey::from_secret("s")), line.as_bytes());
    let key = blake3::derive_key("tidemill 2025 web server log users", b"s");
    let expected = blake3::keyed_hash(&key, b"203.0.113.9\0Moz").to_hex();
    assert_eq!(out.records[0].user().text, &expected[..16]);
}

#[test]
fn log_lines_that_do_not_match_hide_their_address() {
    let mut decoder = combined("a", HashKey::default());
    let text = b"203.0.113.9 - - [17/May/2015:10:05:03 +0000] \"GET /\n\
        host-7.dsl.example.org - - [x]\nexample.org -\n \n2001:db8::1 - \xff\n10:05:03 up\n";
    let out = decode_log(&mut decoder, text);
    let payloads: Vec<_> = out.malformed.iter().map(|l| (l.line, String::from_utf8_lossy(&l.payload))).collect();
    let expected = [
        (10, "203.0.113.x - - [17/May/2015:10:05:03 +0000] \"GET /"),
        (11, "x.example.org - - [x]"),
        (12, "x.org -"),
        (14, "2001:db8:0::x - \u{fffd}"),
        (15, "10:05:03 up"),
    ];
    assert_eq!(payloads, expected.map(|(line, payload)| (line, payload.into())));
    assert_eq!(out.malformed[3].reason, "not UTF-8; convert the input (iconv -f ISO-8859-1 -t UTF-8)");
}

#[test]
fn ordinary_events_take_the_fast_way() {
    for text in [FULL.to_owned(), line(""), line(r#""properties":{"a":[{"b":"\u00fc\""},-1.5e+3,[],{}]},"x":1"#)] {
        assert!(readers_agree(&text).unwrap(), "{text}");
        assert!(readers_agree(&format!("{text}\r\n{{")).unwrap(), "{text}");
    }
}

/// A JSON value as text, also odd and broken ones.
fn json_value() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        4 => "\"[a-zü ]{0,12}\"",
        2 => r#""(\\["\\/bfnrt]|\\u00[0-9a-f]{2}|\\ud83d\\ude00|\\ud[89a-f]00|[a-z]){0,4}""#,
        2 => "-?(0|[1-9][0-9]{0,13})",
        1 => r"-?[0-9]{0,3}(\.[0-9]{0,2})?([eE][+-]?[0-9]{0,2})?",
        1 => Just("true".to_owned()),
        1 => Just("false".to_owned()),
        1 => Just("null".to_owned()),
        1 => Just("tru".to_owned()),
    ];
    scalar.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|values| format!("[{}]", values.join(","))),
            prop::collection::vec((json_key(), inner), 0..5).prop_map(|members| object(&members)),
        ]
    })
}

fn object(members: &[(String, String)]) -> String {
    let members: Vec<_> = members.iter().map(|(key, value)| format!("{key}:{value}")).collect();
    format!("{{{}}}", members.join(","))
}

fn json_key() -> impl Strategy<Value = String> {
    let names = [
        "event_id",
        "event_type",
        "user_id",
        "session_id",
        "timestamp",
        "client_time",
        "server_time",
        "ip",
        "tenant",
        "properties",
        "context",
        "geo",
        "page",
        "amount_cents",
        "currency",
        "app_version",
        "os",
        "screen_resolution",
        "locale",
        "country",
        "city",
    ];
    prop_oneof![
        12 => prop::sample::select(names.to_vec()).prop_map(|name| format!("\"{name}\"")),
        3 => "\"[a-z]{0,10}\"",
        1 => r#""[a-z]\\u0061""#,
        1 => " \"[a-c]\"\t",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn both_readers_agree_on_generated_lines(members in prop::collection::vec((json_key(), json_value()), 0..14), end in "[ \r\n}x]{0,2}") {
        readers_agree(&format!("{}{end}", object(&members))).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn both_readers_agree_on_mutated_events(
        edits in prop::collection::vec((0..FULL.len(), prop::sample::select(b"\"\\{}[]:,0-9.eE \t\r\n\x01atnu".to_vec()), 0..3_u8), 1..4),
    ) {
        let mut bytes = FULL.as_bytes().to_vec();
        for (at, byte, how) in edits {
            let at = at.min(bytes.len() - 1);
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        if let Ok(text) = String::from_utf8(bytes) {
            readers_agree(&text).map_err(TestCaseError::fail)?;
        }
    }

    #[test]
    fn every_line_is_an_event_a_dead_letter_or_white_space(bytes in prop::collection::vec(prop_oneof![
        4 => prop::sample::select(vec![FULL.as_bytes().to_vec(), b"{}".to_vec(), b" ".to_vec(), b"\n".to_vec(), b"\r\n".to_vec()]),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ], 0..12)) {
        let bytes = bytes.concat();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !lines::is_blank(line)).count();
        let out = decode(&bytes);
        prop_assert_eq!(out.records.len() + out.malformed.len(), lines);
        let log = decode_log(&mut combined("a", HashKey::default()), &bytes);
        prop_assert_eq!(log.records.len() + log.malformed.len(), lines);
    }

    #[test]
    fn a_block_taken_apart_decodes_to_the_same(bytes in prop::collection::vec(prop_oneof![
        4 => prop::sample::select(vec![
            FULL.as_bytes().to_vec(), b"{}".to_vec(), b" ".to_vec(), b"\n".to_vec(), b"\r\n".to_vec(), LOGGED.as_bytes().to_vec(),
        ]),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ], 0..12)) {
        fn agree<C: Decode<Record = Event>>(mut decoder: C, bytes: &[u8]) -> Result<(), TestCaseError> {
            let shown = |event: &Event| format!("{:?} {:?} {}", event.id(), event.timestamp(), event.fingerprint());
            let mut whole = Decoded::default();
            decoder.decode(block(bytes), &mut whole);
            let (mut records, mut malformed) = (Vec::new(), Vec::new());
            for piece in decoder.apart(block(bytes)).unwrap() {
                let letter = decoder.letter(&piece, "why".into());
                let mut out = Decoded::default();
                decoder.decode(piece, &mut out);
                prop_assert!(out.malformed.iter().all(|m| (m.line, &m.payload, m.bytes) == (letter.line, &letter.payload, letter.bytes)));
                records.extend(out.records.iter().map(shown));
                malformed.append(&mut out.malformed);
            }
            prop_assert_eq!(records, whole.records.iter().map(shown).collect::<Vec<_>>());
            prop_assert_eq!(malformed, whole.malformed);
            Ok(())
        }
        let bytes = bytes.concat();
        agree(NdjsonDecoder::default(), &bytes)?;
        agree(combined("a", HashKey::default()), &bytes)?;
    }
    #[test]
    fn any_json_object_is_judged_without_a_panic(members in prop::collection::vec((json_key(), json_value()), 0..14)) {
        let out = decode(object(&members));
        for event in &out.records {
            let _ = (event.id(), event.fingerprint(), format!("{event:?}"));
            let extra = event.extra();
            prop_assert!(extra.is_none_or(|text| serde_json::from_str::<Box<serde_json::value::RawValue>>(&text).is_ok()));
        }
    }
}
