//! Dead letters on disk: one JSON object a line, and no clear IP address in it.
//!
//! A dead letter is the place to look at a line that could not become an event (INV-6). Its payload is masked where it
//! is made, before it leaves the worker: the last octet of an IPv4 address becomes `x`, an IPv6 address keeps its first
//! 48 bits, however they are escaped or encoded, and an address inside a host name becomes `x`. When in doubt something is
//! masked: a version number of four parts looks like an address and is treated as one.
//!
//! | module | what |
//! |---|---|
//! | `mask` | finds what to hide, and hides it |
//! | `address` | addresses in figures |
//! | `host` | addresses in host names |
//! | `plain` | a text without its escapes, and where it stood in them |

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tidemill_dataflow::source::DeadLetter;

mod address;
mod host;
mod mask;
mod plain;

pub use mask::mask_addresses;
pub(crate) use mask::mask_log_line;

#[derive(Serialize)]
struct Line<'a> {
    reason: &'a str,
    file: &'a str,
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    bytes: u64,
}

/// Appends a dead letter of the partition named `file` as one line of NDJSON: `reason`, `file`, `line` (from 1),
/// `payload` (or `payload_base64` where it is no UTF-8), `bytes` (the line's full length).
pub fn encode(letter: &DeadLetter, file: &str, out: &mut Vec<u8>) {
    let payload = std::str::from_utf8(&letter.payload).ok();
    let line = Line {
        reason: &letter.reason,
        file,
        line: letter.line,
        payload,
        payload_base64: payload.is_none().then(|| STANDARD.encode(&letter.payload)),
        bytes: letter.bytes,
    };
    serde_json::to_writer(&mut *out, &line).expect("texts and numbers can always be written as JSON");
    out.write_all(b"\n").expect("a Vec takes all that is written");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_is_no_text_is_written_in_base64() {
        let mut letter = DeadLetter {
            partition: 0,
            line: 7,
            reason: "not \"UTF-8\"".into(),
            payload: b"\xff\x00".to_vec(),
            bytes: 2,
        };
        let mut out = Vec::new();
        encode(&letter, "a/b.ndjson", &mut out);
        letter.payload = "ü\n".into();
        encode(&letter, "a", &mut out);
        let expected = concat!(
            r#"{"reason":"not \"UTF-8\"","file":"a/b.ndjson","line":7,"payload_base64":"/wA=","bytes":2}"#,
            "\n",
            r#"{"reason":"not \"UTF-8\"","file":"a","line":7,"payload":"ü\n","bytes":2}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
