//! How long the texts may be that become columns.

use super::*;

/// A `click`, or an event of another type, with one text of so many bytes at a place.
fn with(member: &str, bytes: usize) -> String {
    let text = "x".repeat(bytes);
    match member.split_once('.') {
        Some((outer, inner)) => line(&format!(r#""{outer}":{{"{inner}":"{text}"}}"#)),
        None if member == "event_type" => line("").replace("click", &text),
        None => line(&format!(r#""{member}":"{text}""#)),
    }
}

const LONGEST: [(&str, u32); 11] = [
    ("event_type", MAX_NAME_BYTES),
    ("tenant", MAX_NAME_BYTES),
    ("session_id", MAX_NAME_BYTES),
    ("properties.page", MAX_PAGE_BYTES),
    ("properties.currency", MAX_CURRENCY_BYTES),
    ("context.app_version", MAX_NAME_BYTES),
    ("context.os", MAX_NAME_BYTES),
    ("context.screen_resolution", MAX_NAME_BYTES),
    ("context.locale", MAX_NAME_BYTES),
    ("geo.country", MAX_NAME_BYTES),
    ("geo.city", MAX_NAME_BYTES),
];

#[test]
fn a_text_that_has_a_column_has_a_bound_and_a_longer_one_is_malformed_by_name() {
    assert_eq!((MAX_NAME_BYTES, MAX_PAGE_BYTES, MAX_CURRENCY_BYTES), (200, 8_192, 32));
    for (member, limit) in LONGEST {
        event(&with(member, limit as usize));
        malformed(with(member, limit as usize + 1), &format!("{member} is longer than {limit} bytes"));
    }
    // Bytes of the text, however it is escaped; and whatever the type of the event.
    let view = |page: &str| line(&format!(r#""properties":{{"page":"{page}"}}"#)).replace("click", "page_view");
    event(&view(&r"\u0041".repeat(8_192)));
    malformed(view(&"ü".repeat(4_097)), "properties.page is longer than 8192 bytes");
    event(&line(&format!(r#""note":"{}","properties":{{"title":"{0}"}}"#, "x".repeat(9_000))));
}

#[test]
fn what_was_taken_before_there_were_bounds_is_still_read_from_an_archive() {
    for (member, limit) in LONGEST {
        let text = with(member, limit as usize + 1);
        let mut out = Decoded::default();
        NdjsonDecoder::within(Bounds::of_archive()).decode(block(text.as_bytes()), &mut out);
        assert_eq!((out.records.len(), out.malformed.len()), (1, 0), "{member}");
    }
}

#[test]
fn a_logged_path_may_be_as_long_as_web_servers_take_a_request() {
    let line = |path: &str, status: u16| {
        format!("192.0.2.1 - - [17/May/2015:10:05:03 +0000] \"GET {path}?{} HTTP/1.1\" {status} 1", "q".repeat(9_000))
    };
    let decoded = |one: String| decode_log(&mut combined("a", HashKey::default()), one.as_bytes());
    let longest = format!("/{}", "x".repeat(8_191));
    let taken = decoded(line(&longest, 200));
    assert_eq!(taken.malformed, []);
    assert_eq!(taken.records[0].page().map(|page| page.text), Some(&*longest));

    let beyond = decoded(line(&format!("{longest}y"), 200));
    assert_eq!(beyond.records.len(), 0);
    assert_eq!(beyond.malformed[0].reason, "the request's path is longer than 8192 bytes");
    assert!(!String::from_utf8_lossy(&beyond.malformed[0].payload).contains("192.0.2.1"));
    // Where it becomes no page, it makes no rows of its own in a table.
    assert_eq!(decoded(line(&format!("{longest}y"), 404)).records.len(), 1);
}
