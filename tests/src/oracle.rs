//! The naive oracle: parse every line, keep the first of each id, sort, sum up. No epoch, no watermark, no state.
//!
//! It shares nothing with the job, and holds only for inputs within the dedup horizon (nothing unverified).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use crate::rows::{Errors, PageViews, RawEvent, Revenue, Session, Tables, Time, canonical};

const MINUTE: i64 = 60_000;
const GAP: i64 = 30 * MINUTE;
const TIMES: std::ops::RangeInclusive<i64> = 946_684_800_000..=7_258_118_400_000;
const MOST_CENTS: u64 = 1_000_000_000_000_000;
/// The longest texts that columns take.
const LONGEST: [(&str, usize); 11] = [
    ("event_type", 200),
    ("tenant", 200),
    ("session_id", 200),
    ("properties.page", 8_192),
    ("properties.currency", 32),
    ("context.app_version", 200),
    ("context.os", 200),
    ("context.screen_resolution", 200),
    ("context.locale", 200),
    ("geo.country", 200),
    ("geo.city", 200),
];

/// What became of the lines, in the words of the `--json` line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields carry the names of the --json line")]
pub struct Books {
    pub events_read: u64,
    pub accepted: u64,
    pub malformed: u64,
    pub duplicates: u64,
    pub conflicting_duplicates: u64,
}

/// One parsed line.
struct Line {
    /// From 1, as dead letters count.
    number: u64,
    /// None for a malformed line.
    event: Option<Event>,
}

#[derive(Clone)]
struct Event {
    row: RawEvent,
    currency: String,
    amount: i64,
    /// The client's own data as canonical JSON.
    said: String,
}

/// Input files, parsed once and asked for the answer over any prefix.
pub struct Oracle {
    files: Vec<Vec<Line>>,
}

impl Oracle {
    /// Parses NDJSON files, in their order.
    #[must_use]
    pub fn of<'a>(files: impl IntoIterator<Item = &'a [u8]>) -> Oracle {
        Oracle { files: files.into_iter().map(parse).collect() }
    }

    /// The answer over everything.
    #[must_use]
    pub fn answer(&self) -> (Tables, Books) {
        self.answer_of_prefix(&vec![u64::MAX; self.files.len()])
    }

    /// The answer over the first so many physical lines of each file.
    #[must_use]
    pub fn answer_of_prefix(&self, lines: &[u64]) -> (Tables, Books) {
        let mut books = Books::default();
        let mut first: HashMap<(&str, &str), &Event> = HashMap::new();
        let mut accepted = Vec::new();
        for (file, prefix) in self.files.iter().zip(lines) {
            for line in file.iter().take_while(|line| line.number <= *prefix) {
                books.events_read += 1;
                let Some(event) = &line.event else {
                    books.malformed += 1;
                    continue;
                };
                let id = (event.row.tenant.as_str(), event.row.event_id.as_str());
                if let Some(original) = first.get(&id) {
                    books.duplicates += 1;
                    books.conflicting_duplicates += u64::from(original.said != event.said);
                } else {
                    first.insert(id, event);
                    accepted.push(event);
                }
            }
        }
        books.accepted = accepted.len() as u64;
        (tables(&accepted), books)
    }

    /// The line numbers of malformed lines of a file.
    #[must_use]
    pub fn malformed_lines(&self, file: usize) -> BTreeSet<u64> {
        self.files[file].iter().filter(|line| line.event.is_none()).map(|line| line.number).collect()
    }
}

fn parse(bytes: &[u8]) -> Vec<Line> {
    let mut lines = Vec::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
            lines.push(Line { number: at as u64 + 1, event: event(line) });
        }
    }
    lines
}

/// The event of a line, unless it is malformed.
fn event(line: &[u8]) -> Option<Event> {
    if line.len() > 1 << 20 {
        return None;
    }
    let whole: Value = serde_json::from_slice(line).ok()?;
    let mut object = whole.as_object()?.clone();
    let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let required = |key: &str| text(key).filter(|value| !value.is_empty());
    let short = |id: &String| id.len() <= 200;
    if LONGEST.iter().any(|(path, bytes)| {
        let found = path.split('.').try_fold(&whole, |value, key| value.get(key));
        found.and_then(Value::as_str).is_some_and(|value| value.len() > *bytes)
    }) {
        return None;
    }
    let inside = |outer: &str, key: &str| object.get(outer).and_then(|o| o.get(key)).and_then(Value::as_str);
    let owned = |outer: &str, key: &str| inside(outer, key).map(str::to_owned);
    let time = |key: &str| object.get(key).and_then(Value::as_i64).filter(|t| TIMES.contains(t)).map(Time);
    let properties = object.get("properties").filter(|value| value.is_object());
    let row = RawEvent {
        tenant: text("tenant").filter(|tenant| !tenant.is_empty()).unwrap_or_else(|| "default".to_owned()),
        event_id: required("event_id").filter(short)?,
        event_type: required("event_type")?,
        user_id: required("user_id").filter(short)?,
        session_id: text("session_id"),
        timestamp: time("timestamp")?,
        server_time: time("server_time"),
        app_version: owned("context", "app_version"),
        os: owned("context", "os"),
        screen_resolution: owned("context", "screen_resolution"),
        locale: owned("context", "locale"),
        country: owned("geo", "country"),
        city: owned("geo", "city"),
        page: owned("properties", "page"),
        properties: properties.map(canonical),
    };
    let (mut currency, mut amount) = (String::new(), 0);
    match row.event_type.as_str() {
        "page_view" if row.page.is_none() => return None,
        "purchase" => {
            amount = properties?.get("amount_cents")?.as_i64().filter(|cents| cents.unsigned_abs() <= MOST_CENTS)?;
            currency = inside("properties", "currency")?.to_owned();
        }
        _ => {}
    }
    for added in ["server_time", "ip", "geo", "tenant"] {
        object.remove(added);
    }
    Some(Event { row, currency, amount, said: canonical(&Value::Object(object)) })
}

fn tables(accepted: &[&Event]) -> Tables {
    let mut page_views: BTreeMap<_, (i64, HashSet<&str>)> = BTreeMap::new();
    let mut failures: BTreeMap<_, (i64, HashSet<&str>)> = BTreeMap::new();
    let mut revenue: BTreeMap<_, (i64, i64)> = BTreeMap::new();
    let mut times_of: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for event in accepted {
        let row = &event.row;
        let (tenant, user) = (row.tenant.as_str(), row.user_id.as_str());
        let minute = Time(row.timestamp.0 - row.timestamp.0.rem_euclid(MINUTE));
        times_of.entry((tenant, user)).or_default().push(row.timestamp.0);
        match row.event_type.as_str() {
            "page_view" => {
                let page = row.page.as_deref().expect("checked when it was parsed");
                let cell = page_views.entry((tenant, minute, page)).or_default();
                cell.0 += 1;
                cell.1.insert(user);
            }
            "error" => {
                let cell = failures.entry((tenant, minute, row.app_version.as_deref().unwrap_or(""))).or_default();
                cell.0 += 1;
                cell.1.insert(user);
            }
            "purchase" => {
                let cell = revenue.entry((tenant, minute, event.currency.as_str())).or_default();
                cell.0 += 1;
                cell.1 += event.amount;
            }
            _ => {}
        }
    }
    let count = |users: HashSet<&str>| i64::try_from(users.len()).expect("fewer users than that");
    let mut raw_events: Vec<RawEvent> = accepted.iter().map(|event| event.row.clone()).collect();
    raw_events.sort_unstable();
    Tables {
        page_views: page_views
            .into_iter()
            .map(|((tenant, window_start, page), (views, users))| PageViews {
                tenant: tenant.to_owned(),
                window_start,
                page: page.to_owned(),
                views,
                users: count(users),
            })
            .collect(),
        errors: failures
            .into_iter()
            .map(|((tenant, window_start, version), (errors, users))| Errors {
                tenant: tenant.to_owned(),
                window_start,
                app_version: version.to_owned(),
                errors,
                users: count(users),
            })
            .collect(),
        revenue: revenue
            .into_iter()
            .map(|((tenant, window_start, currency), (orders, amount_cents))| Revenue {
                tenant: tenant.to_owned(),
                window_start,
                currency: currency.to_owned(),
                orders,
                amount_cents,
            })
            .collect(),
        sessions: times_of.into_iter().flat_map(|((tenant, user), times)| sessions(tenant, user, times)).collect(),
        raw_events,
    }
}

fn sessions(tenant: &str, user: &str, mut times: Vec<i64>) -> Vec<Session> {
    times.sort_unstable();
    times
        .chunk_by(|earlier, later| later - earlier <= GAP)
        .map(|session| Session {
            tenant: tenant.to_owned(),
            user_id: user.to_owned(),
            first_event: Time(session[0]),
            last_event: Time(session[session.len() - 1]),
            event_count: i64::try_from(session.len()).expect("fewer events than that"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tidemill_connectors::generate::{GenerateConfig, Rates, generate};

    use super::*;

    #[test]
    fn it_counts_what_the_generator_says_it_made() {
        let config =
            GenerateConfig { rates: Rates::within_horizon(), oversized_lines: 1, ..GenerateConfig::new(20_000, 17) };
        let mut bytes = Vec::new();
        let made = generate(&config, &mut bytes).unwrap();
        let (tables, books) = Oracle::of([bytes.as_slice()]).answer();
        let expected = Books {
            events_read: made.lines - made.blank,
            accepted: made.events,
            malformed: made.malformed,
            duplicates: made.duplicates + made.conflicting,
            conflicting_duplicates: made.conflicting,
        };
        assert_eq!(books, expected);
        assert_eq!(tables.raw_events.len() as u64, made.events);
        assert_eq!(tables.sessions.iter().map(|s| s.event_count).sum::<i64>(), 20_000);
    }

    #[test]
    fn a_gap_of_exactly_thirty_minutes_does_not_end_a_session() {
        let counts = |times: Vec<i64>| sessions("t", "u", times).iter().map(|s| s.event_count).collect::<Vec<_>>();
        assert_eq!(counts(vec![GAP, 0]), [2]);
        assert_eq!(counts(vec![0, GAP + 1]), [1, 1]);
    }

    #[test]
    fn every_kind_of_malformed_line_is_refused() {
        let good = r#"{"event_id":"e","event_type":"click","user_id":"u","timestamp":946684800000}"#;
        assert!(event(good.as_bytes()).is_some());
        for (from, to) in [
            (r#""e""#, r#""""#),
            (r#""e""#, "null"),
            (r#""u""#, "1"),
            (":946684800000}", ":-1}"),
            (":946684800000}", ":946684800000.0}"),
            (":946684800000}", ":946684799999}"),
            (":946684800000}", ":946684800}"),
            (":946684800000}", ":7258118400001}"),
            (r#""click""#, r#""page_view""#),
            (r#""click""#, r#""purchase""#),
            ("}", &*format!(r#","properties":{{"page":"{}"}}}}"#, "p".repeat(8_193))),
            ("}", &*format!(r#","properties":{{"currency":"{}"}}}}"#, "c".repeat(33))),
            ("}", &*format!(r#","context":{{"app_version":"{}"}}}}"#, "v".repeat(201))),
            (r#""click""#, &*format!("\"{}\"", "t".repeat(201))),
            ("}", "} x"),
        ] {
            assert!(event(good.replace(from, to).as_bytes()).is_none(), "{from} -> {to}");
        }
    }
}
