//! The body of a request to the collector, plain and packed: `POST /v1/events`.

use std::io::Write;

use serde_json::Value;
use tidemill_collect::Limits;
use tidemill_collect::offline::{Judged, judge, members};
use tidemill_connectors::events::NdjsonDecoder;
use tidemill_dataflow::source::{Block, Decode, Decoded};

use crate::events::EVENTS;
use crate::input::Input;
use crate::memory::within;

/// Small enough to be reached.
const BODY_BYTES: usize = 256 << 10;
const EVENTS_AT_MOST: usize = 200;
/// What a decoder needs for itself, whoever sends: the window of zstd, and tables.
const DECODERS: usize = 20 << 20;
const ENCODINGS: [&[u8]; 4] = [b"", b"gzip", b"zstd", b"br"];

fn limits() -> Limits {
    Limits { body_bytes: BODY_BYTES, events: EVENTS_AT_MOST, memory: 8 << 20, ..Limits::default() }
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let encoding = ENCODINGS[usize::from(input.byte()) % ENCODINGS.len()];
    let sent = input.0.to_vec();
    let judged = within(DECODERS + BODY_BYTES * 40, || judge(encoding, sent.clone(), &limits()));
    let judged = match judged {
        Ok(judged) => judged,
        Err(reason) => {
            assert!(!reason.is_empty(), "whoever is refused is told why");
            return;
        }
    };
    assert!(judged.body.len() <= BODY_BYTES && judged.events.len() <= EVENTS_AT_MOST);
    every_line_is_an_event(&judged);
    // However it is packed, it is judged the same.
    for (again, packed) in [(ENCODINGS[1], gzip(&judged.body)), (ENCODINGS[2], zstd(&judged.body))] {
        if packed.len() <= BODY_BYTES {
            assert_eq!(judge(again, packed, &limits()).as_ref(), Ok(&judged), "{}", again.escape_ascii());
        }
    }
    lines_stay_what_they_are(&judged);
}

/// What the collector takes, the pipeline takes.
fn every_line_is_an_event(judged: &Judged) {
    let lines: Vec<&String> = judged.events.iter().filter_map(|event| event.as_ref().ok()).collect();
    let mut text = String::new();
    for line in &lines {
        assert!(!line.contains(['\n', '\r']), "a line is one line: {line}");
        text.push_str(line);
        text.push('\n');
    }
    let mut decoded = Decoded::default();
    let block = Block { partition: 0, offset: 0, first_line: 1, bytes: text.into_bytes(), skipped: 0 };
    NdjsonDecoder::default().decode(block, &mut decoded);
    assert_eq!(decoded.malformed, [], "nothing that was taken becomes a dead letter");
    assert_eq!(decoded.records.len(), lines.len());
    for (event, line) in decoded.records.iter().zip(lines) {
        assert_eq!(event.tenant().text, "shop", "the tenant is the server's: {line}");
        assert_eq!(event.server_time().map(|time| time.0), Some(1_767_225_600_000), "{line}");
        assert!(line.ends_with(&format!("{}}}", members())), "{line}");
        // serde_json refuses only numbers beyond all measure.
        if let Ok(value) = serde_json::from_str::<Value>(line) {
            assert_eq!(value["event_id"].as_str(), Some(event.event_id()), "{line}");
            assert_eq!(value["user_id"].as_str(), Some(event.user().text), "{line}");
            assert_eq!(value["ip"].as_str(), Some("hash"), "{line}");
        }
    }
}

/// Lines that are sent again, as a proxy might, are taken, and become the same lines.
fn lines_stay_what_they_are(judged: &Judged) {
    let lines: Vec<&str> = judged.events.iter().filter_map(|event| event.as_deref().ok()).collect();
    let body = format!("{{\"events\":[{}]}}", lines.join(","));
    if lines.is_empty() || body.len() > BODY_BYTES {
        return;
    }
    let again = judge(b"", body.into_bytes(), &limits()).expect("lines are a batch");
    let again: Vec<&str> = again.events.iter().filter_map(|event| event.as_deref().ok()).collect();
    assert_eq!(again, lines);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("memory takes it");
    packer.finish().expect("memory takes it")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory takes it")
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let batch = |events: &[&str]| format!("{{\"api_key\":\"k\",\"events\":[{}]}}", events.join(","));
    let mut seeds = Vec::new();
    for body in [batch(&EVENTS), batch(&EVENTS[..1]), batch(&["7", "\"x\"", "{}", EVENTS[2]])] {
        let body = body.into_bytes();
        seeds.push([&[0], &body[..]].concat());
        seeds.push([&[1], &gzip(&body)[..]].concat());
        seeds.push([&[2], &zstd(&body)[..]].concat());
    }
    // A bomb, and a frame that asks for the largest window.
    seeds.push([&[1], &gzip(&vec![b' '; 1 << 20])[..]].concat());
    seeds.push([&[2, 0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3, 0x11, 0, 0][..], b"{}"].concat());
    seeds
}
