//! What is malformed is set aside with its reason and place, complete when the run has finished, without clear addresses.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::files_under;
use tidemill_tests::oracle::Oracle;

use crate::{counter, tidemill};

/// All dead letters of a run.
pub(crate) fn letters(out: &Path) -> Vec<Value> {
    let folder = out.join("dead_letters");
    let mut found = Vec::new();
    for file in files_under(&folder) {
        let bytes = fs::read(folder.join(&file)).unwrap();
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        found.extend(lines.map(|line| serde_json::from_slice::<Value>(line).unwrap()));
    }
    found
}

#[test]
fn every_malformed_line_is_there_once_with_reason_file_and_line() {
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(30_000, 51, Rates { malformed: 5_000, ..Rates::within_horizon() });
    let input = [corpus::file(folder.path(), "events.ndjson", &bytes)];
    let out = folder.path().join("out");
    let line = tidemill().job(&input, &out).workers(2).option(&["--epoch-bytes", "1048576"]).finish();
    let found = letters(&out);
    assert_eq!(counter(&line, "malformed"), found.len() as u64, "{line}");
    let lines: BTreeSet<u64> = found.iter().map(|letter| letter["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, Oracle::of([bytes.as_slice()]).malformed_lines(0));
    assert_eq!(lines.len(), found.len(), "no line is there twice");
    for letter in &found {
        assert!(letter["file"].as_str().is_some_and(|file| file.ends_with("events.ndjson")), "{letter}");
        assert!(letter["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{letter}");
    }
}

#[test]
fn a_payload_is_the_line_itself_or_base64_where_it_is_no_text() {
    let folder = TempDir::new().unwrap();
    let lines: [&[u8]; 3] = [b"not \"json\"", b"\xff\xfe", b"[1]"];
    let input = [corpus::file(folder.path(), "bad.ndjson", &corpus::joined(lines))];
    let out = folder.path().join("out");
    tidemill().job(&input, &out).outcome().assert_refused(&[3], &["all 3 records"]);
    let mut found = letters(&out);
    found.sort_by_key(|letter| letter["line"].as_u64());
    let whole: Vec<String> = found.iter().map(Value::to_string).collect();
    assert_eq!(found.len(), 3, "{whole:?}");
    assert_eq!(found[0]["payload"], "not \"json\"", "{whole:?}");
    assert!(whole[1].contains("//4="), "{whole:?}");
    assert_eq!(found[2]["payload"], "[1]", "{whole:?}");
}

#[test]
fn no_clear_address_is_kept() {
    let folder = TempDir::new().unwrap();
    let lines = [
        r#"{"event_id":"e1","ip":"203.0.113.77","timestamp":1}"#,
        r#"203.0.113.77 - - [10/Oct/2025:13:55:36 -0700] "GET / HTTP/1.1" 200 2326 "-" "cut"#,
        r#"{"ip":"2001:db8:85a3::8a2e:370:7334"}"#,
    ];
    let text = corpus::joined(lines.map(str::as_bytes));
    for (name, format) in [("events.ndjson", "ndjson"), ("access.log", "combined")] {
        let input = [corpus::file(folder.path(), name, &text)];
        let out = folder.path().join(format!("out-{format}"));
        let outcome = tidemill().job(&input, &out).option(&["--format", format]).outcome();
        outcome.assert_refused(&[3], &["all 3 records"]);
        let found = format!("{:?}", letters(&out));
        assert_eq!(letters(&out).len(), 3);
        assert!(!found.contains("203.0.113.77") && !found.contains("8a2e:370:7334"), "{found}");
    }
}
