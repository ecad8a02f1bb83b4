//! Nexmark's queries as pipelines of a binary of one's own, against an independent engine.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::{oracle_python, root};

/// Query, and the question whose rows the oracle gives.
const QUESTIONS: [(&str, &str); 5] = [
    ("q1", "SELECT auction, bidder, price_milli_euro_cents, CAST(time AS BIGINT) FROM bids_in_euro"),
    ("q2", "SELECT auction, bidder, price_cents, CAST(time AS BIGINT) FROM selected_bids"),
    ("q5", "SELECT CAST(window_start AS BIGINT), auction, bids FROM hot_items"),
    ("q8", "SELECT CAST(window_start AS BIGINT), person, name, auctions FROM new_sellers"),
    ("q11", "SELECT bidder, CAST(first_bid AS BIGINT), CAST(last_bid AS BIGINT), bids FROM bidder_sessions"),
];

fn nexmark(arguments: &[&str]) -> Output {
    let out = Command::new(env!("CARGO_BIN_EXE_nexmark-under-test")).args(arguments).output().expect("it starts");
    assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    out
}

/// Lines in an order that both sides have.
fn sorted(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let mut lines: Vec<String> = text.lines().map(|line| line.trim_matches(['[', ']']).to_owned()).collect();
    lines.sort();
    lines
}

#[test]
fn nexmark_queries_equal_an_independent_engine() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let text = |of: &Path| of.display().to_string();
    let input = path("happenings.ndjson");
    fs::write(&input, nexmark(&["generate", "20000", "7"]).stdout).expect("room on the disk");
    for (query, question) in QUESTIONS {
        let out = text(&path(query));
        let run = ["run", query, "--input", &text(&input), "--out", &out, "--workers", "2", "--epoch-bytes", "256KiB"];
        nexmark(&run);
        let answer = nexmark(&["query", "--data", &out, "--format", "csv", question]).stdout;
        let rows = String::from_utf8_lossy(&answer);
        let rows = rows.split_once('\n').map_or("", |(_, rows)| rows);
        let expected =
            Command::new(oracle_python()).arg(root().join("tests/oracle/nexmark.py")).arg(&input).arg(query).output();
        let expected = expected.expect("the oracle starts");
        assert!(expected.status.success(), "{query}: {}", String::from_utf8_lossy(&expected.stderr));
        let (found, wanted) = (sorted(rows.as_bytes()), sorted(&expected.stdout));
        assert!(!wanted.is_empty(), "{query} has no rows");
        let difference = found.iter().zip(&wanted).find(|(one, other)| one != other);
        assert_eq!((found.len(), difference), (wanted.len(), None), "{query}");
    }
}
