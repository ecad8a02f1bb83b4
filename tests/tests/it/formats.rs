//! Web server logs as servers write them, through the whole command: what is read without a word, what is said, what is refused.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_tests::corpus;
use tidemill_tests::harness::Outcome;

use crate::dead_letters::letters;
use crate::{counter, tidemill};

/// A request, `minute` minutes after ten.
fn line(minute: u32, front: &str, behind: &str) -> String {
    format!(
        "{front} [10/Mar/2026:10:{minute:02}:00 +0000] \"GET /p{minute} HTTP/1.1\" 200 12 \"-\" \"agent\"{behind}\n"
    )
}

fn lines(front: &str, behind: &str) -> String {
    (1..10).map(|minute| line(minute, front, behind)).collect()
}

fn run(text: &[u8], out: &Path, options: &[&str]) -> Outcome {
    let input = [corpus::file(out.parent().unwrap(), "access.log", text)];
    tidemill().job(&input, out).option(options).outcome()
}

#[test]
fn logs_are_read_as_they_are_and_it_is_said_as_what() {
    let folder = TempDir::new().unwrap();
    let combined = lines("192.0.2.1 - -", "");
    let json: String = (1..10)
        .map(|minute| {
            format!(
                "{{\"time_iso8601\":\"2026-03-10T10:{minute:02}:00+00:00\",\"remote_addr\":\"192.0.2.1\",\
                 \"request\":\"GET /p{minute} HTTP/1.1\",\"status\":200,\"http_user_agent\":\"agent\"}}\n"
            )
        })
        .collect();
    let w3c: String =
        (1..10).map(|minute| format!("2026-03-10 10:{minute:02}:00 192.0.2.1 GET /p{minute} 200 agent\n")).collect();
    let w3c = format!("#Version: 1.0\n#Fields: date time c-ip cs-method cs-uri-stem sc-status cs(User-Agent)\n{w3c}");
    for (row, (text, views, malformed, said)) in [
        (lines("192.0.2.1 - -", " \"198.51.100.7\""), 9, 0, "nginx main (9 of its 9 lines)"),
        (lines("192.0.2.1 - -", " 0.003"), 9, 0, "Combined Log Format with more behind it"),
        (lines("shop.example:443 192.0.2.1 - -", ""), 9, 0, "vhost_combined"),
        (lines("192.0.2.1  -  - ", "  "), 9, 0, "Combined Log Format"),
        (format!("# started\n{combined}"), 9, 1, "Combined Log Format (9 of its 10 lines)"),
        (format!("{}\n{combined}", "\0".repeat(4_000)), 9, 1, "Combined Log Format"),
        (format!("{}\n{combined}", "x".repeat((1 << 20) + 1)), 9, 1, "Combined Log Format"),
        (line(0, "198.51.100.7, 10.0.0.1 - -", "") + &combined, 10, 0, "Combined Log Format"),
        (combined.replace(" 200 ", " - "), 9, 0, "Combined Log Format"),
        (json, 9, 0, "JSON access log"),
        (w3c, 9, 0, "W3C extended log"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = folder.path().join(format!("out-{row}"));
        let outcome = run(text.as_bytes(), &out, &[]);
        assert_eq!(outcome.code, Some(0), "{row}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(&format!("access.log: read as {said}")), "{row}: {}", outcome.stderr);
        let found = tidemill()
            .query(&out, "SELECT sum(views) AS views, count(DISTINCT page) AS pages FROM page_views_by_minute");
        let found: Value = serde_json::from_slice(&found).unwrap();
        assert_eq!((&found["views"], counter(&outcome.json(), "malformed")), (&Value::from(views), malformed), "{row}");
    }
}

#[test]
fn a_format_string_is_taken_from_the_configuration_or_refused_with_its_place() {
    let folder = TempDir::new().unwrap();
    let text = "10/Mar/2026:10:00:00 +0000|192.0.2.1|/p|200\n";
    let format = "log_format own '$time_local|$remote_addr'\n                '|$uri|$status';";
    let out = folder.path().join("out");
    for attempt in ["first", "again"] {
        let outcome = run(text.as_bytes(), &out, &["--log-format", format]);
        assert_eq!(outcome.code, Some(0), "{attempt}: {}", outcome.stderr);
        assert_eq!(counter(&outcome.json(), "accepted"), 1);
    }
    let other = run(text.as_bytes(), &out, &["--format", "combined"]);
    other.assert_refused(&[2], &["was read as", "combined is asked for; leave --format or --log-format away"]);
    for (options, words) in [
        (&["--log-format", "$remote_adr [$time_local] \"$request\""][..], &["character 1", "$remote_addr meant"][..]),
        (&["--log-format", "%h %t"], &["no request"]),
        (&["--log-format", "apache"], &["json-log, w3c, alb"]),
        (&["--log-format", "$request"], &["no time"]),
        (&["--format", "apache"], &["json-log, w3c, alb"]),
        (&["--format", "combined", "--log-format", "%h %t \"%r\""], &["leave one out"]),
    ] {
        run(text.as_bytes(), &folder.path().join("refused"), options).assert_refused(&[2], words);
    }
}

#[test]
fn the_earlier_name_of_messages_is_understood_and_said() {
    let folder = TempDir::new().unwrap();
    let text = lines("192.0.2.1 - -", "");
    let outcome = run(text.as_bytes(), &folder.path().join("old"), &["--log-format", "json"]);
    let said: Vec<Value> = outcome.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        said.iter().any(|line| line["fields"]["message"].as_str().unwrap().contains("is --messages text|json now"))
    );
    let by_its_name = run(text.as_bytes(), &folder.path().join("new"), &["--messages", "json"]).stderr;
    assert!(by_its_name.lines().all(|line| line.starts_with('{')) && !by_its_name.contains("--messages"));
}

#[test]
fn what_is_no_lines_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let event = r#"{"event_id":"e","event_type":"click","user_id":"u","timestamp":1773136800000}"#;
    for (row, (text, what)) in
        [(format!("[\n{event},\n{event}\n]\n"), "a JSON array"), (event.replace(',', ",\n  "), "over several lines")]
            .into_iter()
            .enumerate()
    {
        let outcome = run(text.as_bytes(), &folder.path().join(format!("out-{row}")), &[]);
        outcome.assert_refused(&[3], &["access.log", what, "jq -c"]);
    }
}

#[test]
fn dead_letters_hold_no_address_in_any_writing() {
    let folder = TempDir::new().unwrap();
    let bad = |address: &str| line(0, &format!("{address} - -"), "").replace(" 200 ", " x ");
    let texts = [
        bad("192.0.2.77"),
        bad("dsl-192-0-2-77.dyn.example.net"),
        bad("shop.example:443 ip-192-0-2-77.example"),
        bad("77.2.0.192.in-addr.arpa"),
        bad("c000024d.example.net"),
        "{\"ip\":\"\\u0031\\u0039\\u0032.0.2.77\"}\n{\"ip\":\"192\\u002e0\\u002e2\\u002e77\"}\n".to_owned(),
        "GET /?a=192%2E0%2E2%2E77&b=2001%3Adb8%3A%3A77\n".to_owned(),
    ];
    let wide: Vec<u8> = bad("192.0.2.77").encode_utf16().flat_map(u16::to_be_bytes).collect();
    let all = [texts.concat().into_bytes(), wide].concat();
    for format in ["ndjson", "combined", "json-log"] {
        let out = folder.path().join(format);
        run(&all, &out, &["--format", format]);
        let letters = letters(&out);
        assert!(letters.len() >= 9, "{format}: {}", letters.len());
        for letter in letters {
            let payload = letter["payload"].as_str().expect("these bytes are text").replace('\0', "");
            let decoded = ["\\u0031", "\\u0039", "\\u0032", "\\u002e", "%2E", "%3A"]
                .into_iter()
                .zip(["1", "9", "2", ".", ".", ":"])
                .fold(payload, |text, (escape, plain)| text.replace(escape, plain));
            for clear in ["192.0.2.77", "192-0-2-77", "77.2.0.192", "c000024d", "2001:db8::77"] {
                assert!(!decoded.contains(clear), "{format}: {decoded}");
            }
        }
    }
}
