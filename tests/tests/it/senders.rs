//! JSON as senders write it, from the file to the answer of a query: times, money, texts that were cut.

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemill_tests::corpus;

use crate::dead_letters::letters;
use crate::{counter, tidemill};

/// 2026-03-10T10:00:00Z.
const TEN: i64 = 1_773_136_800_000;

fn view(id: u32, time: impl Into<Value>) -> String {
    let mut event = json!({"event_id": format!("e{id}"), "event_type": "page_view", "user_id": "u"});
    event["timestamp"] = time.into();
    event["properties"] = json!({"page": "/"});
    event.to_string()
}

fn purchase(id: u32, cents: i64) -> String {
    json!({
        "event_id": format!("p{id}"), "event_type": "purchase", "user_id": "u", "timestamp": TEN,
        "properties": {"amount_cents": cents, "currency": "EUR"},
    })
    .to_string()
}

fn rows(answer: &[u8]) -> Vec<Value> {
    let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

#[test]
fn times_are_read_in_every_form_and_refused_in_every_other_unit() {
    let folder = TempDir::new().unwrap();
    let lines = [
        view(0, TEN),
        view(1, "2026-03-10T11:00:00.250+01:00"),
        view(2, TEN / 1_000),
        view(3, TEN * 1_000),
        view(4, TEN * 1_000_000),
        view(5, 253_402_300_740_000_i64),
        view(6, 60_000),
        view(7, "2026-03-10T10:00:00"),
        view(1, TEN + 250),
        view(8, TEN).replace("\"/\"", r#""/","title":"cut \ud83d""#),
    ];
    let input = [corpus::file(folder.path(), "a.ndjson", lines.join("\n").as_bytes())];
    let out = folder.path().join("out");
    let line = tidemill().job(&input, &out).finish();
    let counts = ["accepted", "malformed", "duplicates", "conflicting_duplicates"].map(|name| counter(&line, name));
    assert_eq!(counts, [3, 6, 1, 0], "{line}");
    let mut found = letters(&out);
    found.sort_by_key(|letter| letter["line"].as_u64());
    let reasons = ["seconds", "microseconds", "nanoseconds", "after 2200", "--oldest 1970-01-01", "offset"];
    for (letter, word) in found.iter().zip(reasons) {
        assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains(word)), "{letter}, not {word}");
    }
    let days =
        "SELECT date_trunc('day', window_start) AS day, sum(views) AS views FROM page_views_by_minute GROUP BY 1";
    assert_eq!(rows(&tidemill().query(&out, days)), [json!({"day": "2026-03-10T00:00:00.000Z", "views": 3})]);
    let title = rows(&tidemill().query(&out, "SELECT properties FROM raw_events WHERE event_id = 'e8'"));
    let properties: Value = serde_json::from_str(title[0]["properties"].as_str().unwrap()).unwrap();
    assert_eq!(properties["title"], "cut \u{fffd}");
}

#[test]
fn an_older_oldest_day_takes_what_is_read_from_then_on() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, id: u32| {
        corpus::file(folder.path(), name, format!("{}\n{}\n", view(id, 60_000), view(id + 1, TEN)).as_bytes())
    };
    let (first, second) = (file("a.ndjson", 0), file("b.ndjson", 2));
    let out = folder.path().join("out");
    let line = tidemill().job(std::slice::from_ref(&first), &out).finish();
    assert_eq!((counter(&line, "accepted"), counter(&line, "malformed")), (1, 1));
    let both = tidemill().job(&[first, second], &out).option(&["--oldest", "1970-01-01"]).outcome();
    assert_eq!(both.code, Some(0), "{}", both.stderr);
    assert!(both.stderr.contains("oldest 1970-01-01"), "the change is said: {}", both.stderr);
    let counted = rows(&tidemill().query(&out, "SELECT count(*) AS n FROM raw_events"));
    let unverified = rows(&tidemill().query(&out, "SELECT count(*) AS n FROM unverified_events"));
    assert_eq!(counted[0]["n"].as_u64().unwrap() + unverified[0]["n"].as_u64().unwrap(), 3);
    let wrong = tidemill().command(&["run", "web_analytics", "--input", "x", "--out", "y", "--oldest", "1969-12-31"]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.stderr);
}

#[test]
fn sums_beyond_64_bits_are_stored_and_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let most = 1_000_000_000_000_000;
    let mut lines: Vec<String> = (0..10_000).map(|id| purchase(id, most)).collect();
    lines.push(purchase(10_000, most + 1));
    lines.push(view(0, TEN + 60_000));
    let input = [corpus::file(folder.path(), "a.ndjson", lines.join("\n").as_bytes())];
    let places = ["small", "large"].map(|name| folder.path().join(name));
    for (out, epochs) in places.iter().zip(["64KiB", "32MiB"]) {
        let line = tidemill().job(&input, out).workers(2).option(&["--epoch-bytes", epochs]).finish();
        assert_eq!((counter(&line, "accepted"), counter(&line, "malformed")), (10_001, 1), "{line}");
        for refused in
            ["SELECT amount_cents FROM revenue_by_minute", "SELECT sum(amount_cents) FROM stored.revenue_by_minute"]
        {
            let failed = tidemill().try_query(out, refused).unwrap_err();
            assert!(failed.stderr.contains("is 10000000000000000000, beyond 64 bits"), "{refused}: {}", failed.stderr);
        }
        let sum = "SELECT sum(CAST(amount_cents AS DECIMAL(38, 0))) AS cents, sum(orders) AS orders FROM stored.revenue_by_minute";
        let answer = String::from_utf8(tidemill().query(out, sum)).unwrap();
        assert_eq!(answer.trim(), r#"{"cents":10000000000000000000,"orders":10000}"#);
        assert_eq!(rows(&tidemill().query(out, "SELECT orders FROM revenue_by_minute")), [json!({"orders": 10_000})]);
    }
    let [small, large] = places.each_ref().map(|place| place.to_str().unwrap());
    let compared = tidemill().command(&["diff", small, large]);
    assert_eq!(compared.code, Some(0), "{}{}", String::from_utf8_lossy(&compared.stdout), compared.stderr);
}
