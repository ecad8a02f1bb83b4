//! JSON as senders write it: times of all kinds, amounts, texts that were cut in the middle of a character, and lines that are
//! a piece of something else.

use super::*;

fn with_time(time: &str) -> String {
    line("").replace("1700000000000", time)
}

fn buy(properties: &str) -> String {
    line(&format!(r#""properties":{{{properties}}}"#)).replace("click", "purchase")
}

fn decoded_within(bounds: Bounds, text: &str) -> Decoded<Event> {
    let mut out = Decoded::default();
    NdjsonDecoder::within(bounds).decode(block(text.as_bytes()), &mut out);
    out
}

#[test]
fn a_timestamp_is_milliseconds_or_rfc_3339() {
    let number = event(&with_time("1773136800250"));
    for text in [
        "2026-03-10T10:00:00.250Z",
        "2026-03-10t10:00:00.250999z",
        "2026-03-10 11:00:00.25+01:00",
        r"2026-03-10T11:00:00.250\u002b01:00",
        r"2026-03-10T10\u003a00:00.250Z",
    ] {
        let text = event(&with_time(&format!("\"{text}\"")));
        assert_eq!(text.timestamp(), EventTime(1_773_136_800_250));
        assert_eq!((text.fingerprint(), text.id()), (number.fingerprint(), number.id()));
        assert_eq!(text.extra(), None);
    }
    for (bound, text) in [("946684800000", "2000-01-01T00:00:00Z"), ("7258118400000", "2200-01-01T00:00:00Z")] {
        assert_eq!(event(&with_time(bound)).timestamp(), event(&with_time(&format!("\"{text}\""))).timestamp());
    }
    malformed(with_time("null"), "timestamp is null");
    malformed(line("").replace("timestamp", "time"), "timestamp is missing");
    for wrong in ["true", "[]", "{}"] {
        malformed(with_time(wrong), "timestamp is neither an integer nor a text");
    }
    for wrong in ["1773136800000.0", "1773136800000.25", "1e3", "12.5", "-0.0"] {
        malformed(with_time(wrong), &format!("timestamp {wrong} is not an integer"));
    }
    for wrong in ["\"1773136800250\"", "\"1773136800\""] {
        malformed(with_time(wrong), "timestamp is a number in quotes; write it without them");
    }
    let form = "timestamp is no RFC 3339 time such as 2000-01-31T10:00:00.250Z";
    for wrong in ["\"\"", "\"now\"", "\"2026-03-10\"", "\"2026-02-30T10:00:00Z\"", r#""\ud83d""#] {
        malformed(with_time(wrong), form);
    }
    let offset = "timestamp is a time without an offset: write Z behind it, or an offset such as +01:00";
    for wrong in ["\"2026-03-10T10:00:00\"", "\"2026-03-10 10:00:00.250\""] {
        malformed(with_time(wrong), offset);
    }
}

#[test]
fn a_time_of_another_unit_or_age_is_malformed() {
    for (wrong, unit) in [
        ("1773136800", "seconds"),
        ("1773136800.25", "seconds"),
        ("1773136800250000", "microseconds"),
        ("1773136800250000000", "nanoseconds"),
    ] {
        malformed(with_time(wrong), &format!("timestamp {wrong} looks like {unit}; milliseconds are needed"));
    }
    let older = "is before 2000-01-01; --oldest 1970-01-01 takes older ones";
    for (wrong, reason) in [
        ("0", older),
        ("946684799999", older),
        ("-1", "is before 1970-01-01"),
        ("-9223372036854775809", "is before 1970-01-01"),
        ("7258118400001", "is after 2200-01-01"),
        ("253402300740000", "is after 2200-01-01"),
        ("9223372036854775808", "is after 2200-01-01"),
    ] {
        malformed(with_time(wrong), &format!("timestamp {wrong} {reason}"));
    }
    malformed(with_time("\"1999-12-31T23:59:59.9999Z\""), &format!("timestamp 1999-12-31T23:59:59.999Z {older}"));
    malformed(with_time("\"1969-12-31T23:59:59Z\""), "timestamp 1969-12-31T23:59:59.000Z is before 1970-01-01");
    malformed(with_time("\"9999-12-31T23:59:59Z\""), "timestamp 9999-12-31T23:59:59.000Z is after 2200-01-01");
    let long = "9".repeat(400);
    malformed(with_time(&long), &format!("timestamp {}... is after 2200-01-01", &long[..40]));

    let epoch = Bounds::since("1970-01-01".parse().unwrap());
    for (text, time) in [("0", 0), ("1773136800", 1_773_136_800), ("\"1970-01-01T00:00:01Z\"", 1_000)] {
        let out = decoded_within(epoch, &with_time(text));
        assert_eq!(out.records.iter().map(Event::timestamp).collect::<Vec<_>>(), [EventTime(time)], "{text}");
    }
}

#[test]
fn log_lines_have_the_same_bounds() {
    let at = |year: &str| LOGGED.replace("2015", year);
    let mut out = Decoded::default();
    let text = [at("1999"), at("2000"), at("2199"), at("2200")].join("\n");
    combined("a", HashKey::default()).decode(block(text.as_bytes()), &mut out);
    let letters: Vec<_> = out.malformed.iter().map(|letter| (letter.line, letter.reason.as_str())).collect();
    let older = "timestamp 1999-05-17T10:05:03.000Z is before 2000-01-01; --oldest 1970-01-01 takes older ones";
    assert_eq!(letters, [(10, older), (13, "timestamp 2200-05-17T10:05:03.000Z is after 2200-01-01")]);
    let mut taken = Decoded::default();
    let epoch = Bounds::since("1970-01-01".parse().unwrap());
    combined("a", HashKey::default()).within(epoch).decode(block(at("1999").as_bytes()), &mut taken);
    assert_eq!((taken.records.len(), taken.malformed.len()), (1, 0));
}

#[test]
fn a_server_time_that_is_none_stays_in_extra() {
    for time in ["1700000000500", "\"2023-11-14T22:13:20.5Z\""] {
        let event = event(&line(&format!("\"server_time\":{time}")));
        assert_eq!((event.server_time(), event.extra()), (Some(EventTime(1_700_000_000_500)), None));
    }
    for kept in ["0", "1773136800", "7258118400001", "\"now\"", "\"1999-01-01T00:00:00Z\"", "\"2023-11-14T22:13:20\""] {
        let event = event(&line(&format!("\"server_time\":{kept}")));
        assert_eq!((event.server_time(), event.extra()), (None, Some(format!("{{\"server_time\":{kept}}}"))));
    }
    let twice = event(&line(r#""server_time":"now","server_time":1700000000500,"x":1"#));
    assert_eq!(twice.extra().as_deref(), Some(r#"{"x":1}"#));
}

#[test]
fn a_purchase_needs_whole_cents_and_a_currency() {
    for cents in [-1_000_000_000_000_000, -5, 0, 1_000_000_000_000_000] {
        let event = event(&buy(&format!(r#""amount_cents":{cents},"currency":"EUR""#)));
        assert_eq!((event.kind(), event.amount_cents()), (EventKind::Purchase, Some(cents)));
        assert_eq!((event.currency().unwrap().text, event.currency().unwrap().hash), ("EUR", hash64(b"EUR")));
    }
    assert_eq!(event(&buy(r#""amount_cents":-0,"currency":"EUR""#)).amount_cents(), Some(0));
    malformed(buy(r#""currency":"EUR""#), "properties.amount_cents is missing");
    malformed(buy(r#""amount_cents":null,"currency":"EUR""#), "properties.amount_cents is null");
    malformed(buy(r#""amount_cents":"5","currency":"EUR""#), "properties.amount_cents is not an integer");
    for fraction in ["5.0", "1e3", "0.5"] {
        let reason = format!("properties.amount_cents {fraction} is not an integer");
        malformed(buy(&format!(r#""amount_cents":{fraction},"currency":"EUR""#)), &reason);
    }
    for beyond in
        ["1000000000000001", "-1000000000000001", "9223372036854775807", "-9223372036854775808", "9223372036854775808"]
    {
        let reason = format!("properties.amount_cents {beyond} is beyond 10^15 cents");
        malformed(buy(&format!(r#""amount_cents":{beyond},"currency":"EUR""#)), &reason);
    }
    malformed(buy(r#""amount_cents":5"#), "properties.currency is missing");
    malformed(buy(r#""amount_cents":5,"currency":978"#), "properties.currency is not a text");
    malformed(line("").replace("click", "purchase"), "properties of a purchase are missing");
    let other = event(&line(r#""properties":{"amount_cents":1000000000000001}"#));
    assert_eq!((other.kind(), other.amount_cents()), (EventKind::Other, None));
    let archived = decoded_within(Bounds::of_archive(), &buy(r#""amount_cents":9223372036854775807,"currency":"EUR""#));
    assert_eq!(archived.records[0].amount_cents(), Some(i64::MAX));
}

#[test]
fn half_of_a_surrogate_pair_is_a_replacement_character() {
    for (sent, kept) in [
        (r"\ud83d", r"\ufffd"),
        (r"\uDE00", r"\ufffd"),
        (r"a\ud83d\ud83d\ude00z", r"a\ufffd\ud83d\ude00z"),
        (r"\ude00\ud83d", r"\ufffd\ufffd"),
        (r"\ud83d\u0041\n", r"\ufffd\u0041\n"),
        (r"\ud83d\\ude00", r"\ufffd\\ude00"),
        (r"\\ud83d", r"\\ud83d"),
        (r"\ud83d\ude00", r"\ud83d\ude00"),
        (r"ü\ud83dü", r"ü\ufffdü"),
    ] {
        let read: String = serde_json::from_str(&format!("\"{kept}\"")).unwrap();
        let page = format!("\"{sent}\"");
        let text =
            line(&format!(r#""x\ud800":[{page}],"session_id":{page},"properties":{{"page":{page},{page}:{page}}}"#));
        let event = event(&text.replace("\"u1\"", &page).replace("\"e1\"", &page).replace("click", "page_view"));
        assert_eq!((event.event_id(), event.user().text, event.session_id()), (&*read, &*read, Some(&*read)), "{sent}");
        assert_eq!((event.page().unwrap().text, event.page().unwrap().hash), (&*read, hash64(read.as_bytes())));
        let properties = format!(r#"{{"page":"{kept}","{kept}":"{kept}"}}"#);
        assert_eq!(event.properties(), Some(&*properties));
        assert_eq!(event.extra(), Some(format!("{{\"x\u{fffd}\":[\"{kept}\"]}}")));
    }
}

#[test]
fn a_mended_line_is_read_like_every_other() {
    let whole = FULL.replace("/checkout", r"/\ufffd");
    let mended = event(&FULL.replace("/checkout", r"/\ud83d"));
    let text = event(&whole);
    assert_eq!((mended.fingerprint(), mended.id(), mended.extra()), (text.fingerprint(), text.id(), text.extra()));
    assert_eq!((mended.city(), mended.server_time(), mended.amount_cents()), (text.city(), text.server_time(), None));
    // Its neighbours stay in the block's own text, and its letter is what was sent.
    let bad = line(r#""a":"\ud800""#).replace("\"u1\"", "7");
    let out = decode(format!("{FULL}\n{}\r\n{bad}\r\n{FULL}", FULL.replace("/checkout", r"/\ud83d")));
    let pages: Vec<_> = out.records.iter().map(|event| event.page().unwrap().text).collect();
    assert_eq!(pages, ["/checkout", "/\u{fffd}", "/checkout"]);
    assert_eq!((out.malformed[0].line, out.malformed[0].reason.as_str()), (12, "user_id is not a text"));
    assert_eq!(out.malformed[0].payload, bad.as_bytes());
    malformed(line(r#""a":"\ud8""#), "not a JSON object: wrong at byte 90");
    for cut in ["\\", r"\u", r"\ud8", "\\ud800\\", r"\ud800\ud8"] {
        assert_eq!(decode(format!("{{\"a\":\"{cut}")).malformed.len(), 1, "{cut}");
    }
    // Of two keys that read the same now, the last counts.
    let twice = event(&line(r#""a\ud800":1,"a\udc00":2,"\ud800":3"#));
    assert_eq!(twice.extra().unwrap(), "{\"a\u{fffd}\":2,\"\u{fffd}\":3}");
    malformed(
        line("").replace("\"e1\"", &format!("\"{}\"", r"\ud800".repeat(67))),
        "event_id is longer than 200 bytes",
    );
}

#[test]
fn a_piece_of_something_else_says_what_it_is() {
    let array = "a JSON array; write one event a line: jq -c '.[]'";
    for text in [format!("[{}]", line("")), format!(" [ {},", line("")), "[".into(), "[]".into(), "[{".into()] {
        malformed(text, array);
    }
    let comma = "a comma behind the object, as in a JSON array; write one event a line: jq -c '.[]'";
    malformed(format!("{},", line("")), comma);
    malformed(format!("  {} , ", line("")).replace(" ,", ","), comma);
    let piece = "a piece of an object over several lines; write one event a line: jq -c .";
    for text in ["{", "}", "  },", "]", "} ]", r#"  "event_id": "e1","#, r#""timestamp" : 7"#, r#"	"properties": {"#] {
        malformed(text, piece);
    }
    for text in ["[Tue Mar 10 10:00:00 2026] [error] no", "\"a, b\"", "[1,2]"] {
        malformed(text, "not a JSON object");
    }
}

proptest! {
    /// What is whole has the length that was sent, is valid where that was, and reads as the standard library has it.
    #[test]
    fn a_text_is_made_whole_as_utf_16_would_be(units in prop::collection::vec(prop_oneof![
        3 => 0xd7f0..0xe010_u16, 2 => 0x41..0x5a_u16, 1 => any::<u16>(),
    ], 0..12)) {
        let escaped: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
        let json = format!("\"{escaped}\"");
        let whole = whole(&json);
        prop_assert_eq!(whole.len(), json.len());
        let read: String = serde_json::from_str(&whole).unwrap();
        prop_assert_eq!(read, String::from_utf16_lossy(&units));
    }

    #[test]
    fn lines_with_any_escapes_are_judged_without_a_panic(text in r#"(\\u(d[89a-f][0-9a-f]{2}|00[0-7][0-9a-f])|\\["\\/bn]|[a-zü"]|\\u?){0,8}"#) {
        let line = line(&format!(r#""session_id":"{text}","properties":{{"page":"{text}","k{text}":[1]}}"#));
        let out = decode(&line);
        prop_assert_eq!(out.records.len() + out.malformed.len(), 1);
        for event in &out.records {
            let properties = serde_json::from_str::<serde_json::Value>(event.properties().unwrap());
            prop_assert!(properties.is_ok(), "{:?}", properties);
        }
    }
}
