//! The rows of the job's tables as plain structs, read from `tidemill query --format ndjson`, and their comparison.

use std::fmt::{Debug, Write};

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error};
use serde_json::Value;

/// Milliseconds since 1970, printed by the job as RFC 3339 with milliseconds and `Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

impl Debug for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

impl Time {
    /// Reads exactly `YYYY-MM-DDThh:mm:ss.mmmZ`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Time> {
        let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        if shape != "0000-00-00T00:00:00.000Z" {
            return None;
        }
        let part = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
        let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
        // Days by counting from March, so that the leap day is the last of a year.
        let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
        let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
        let seconds = ((days * 24 + part(11, 13)?) * 60 + part(14, 16)?) * 60 + part(17, 19)?;
        Some(Time(seconds * 1_000 + part(20, 23)?))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Time::parse(&text).ok_or_else(|| D::Error::custom(format!("{text} is no RFC 3339 time in milliseconds and Z")))
    }
}

/// A row of `page_views_by_minute`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[expect(missing_docs, reason = "columns are described with the tables")]
pub struct PageViews {
    pub tenant: String,
    pub window_start: Time,
    pub page: String,
    pub views: i64,
    pub users: i64,
}

/// A row of `errors_by_version_by_minute`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[expect(missing_docs, reason = "columns are described with the tables")]
pub struct Errors {
    pub tenant: String,
    pub window_start: Time,
    pub app_version: String,
    pub errors: i64,
    pub users: i64,
}

/// A row of `revenue_by_minute`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[expect(missing_docs, reason = "columns are described with the tables")]
pub struct Revenue {
    pub tenant: String,
    pub window_start: Time,
    pub currency: String,
    pub orders: i64,
    pub amount_cents: i64,
}

/// A row of `sessions`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[expect(missing_docs, reason = "columns are described with the tables")]
pub struct Session {
    pub tenant: String,
    pub user_id: String,
    pub first_event: Time,
    pub last_event: Time,
    pub event_count: i64,
}

/// A row of `raw_events` or `unverified_events`, without `extra`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[expect(missing_docs, reason = "columns are described with the tables")]
pub struct RawEvent {
    pub tenant: String,
    pub event_id: String,
    pub event_type: String,
    pub user_id: String,
    pub session_id: Option<String>,
    pub timestamp: Time,
    pub server_time: Option<Time>,
    pub app_version: Option<String>,
    pub os: Option<String>,
    pub screen_resolution: Option<String>,
    pub locale: Option<String>,
    pub country: Option<String>,
    pub city: Option<String>,
    pub page: Option<String>,
    /// JSON text in its canonical form.
    #[serde(deserialize_with = "canonical_text")]
    pub properties: Option<String>,
}

/// A row of `progress`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[expect(missing_docs, reason = "columns are described with the tables")]
pub struct Progress {
    pub epoch: i64,
    pub complete_through: Option<Time>,
    pub file: String,
    pub lines: i64,
}

fn canonical_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| serde_json::from_str(&text).map(|value| canonical(&value)).map_err(D::Error::custom)).transpose()
}

/// JSON text that is equal for equal values: keys sorted, no white space.
#[must_use]
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            let inside =
                members.iter().map(|(key, inner)| format!("{}:{}", Value::from(key.as_str()), canonical(inner)));
            format!("{{{}}}", inside.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

/// All tables at one commit, each sorted by its columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields carry the names of the tables")]
pub struct Tables {
    pub page_views: Vec<PageViews>,
    pub errors: Vec<Errors>,
    pub revenue: Vec<Revenue>,
    pub sessions: Vec<Session>,
    pub raw_events: Vec<RawEvent>,
}

/// The tables' names on the command line, with the columns that are compared.
pub const QUERIES: [(&str, &str); 5] = [
    ("page_views_by_minute", "tenant, window_start, page, views, users"),
    ("errors_by_version_by_minute", "tenant, window_start, app_version, errors, users"),
    ("revenue_by_minute", "tenant, window_start, currency, orders, amount_cents"),
    ("sessions", "tenant, user_id, first_event, last_event, event_count"),
    ("raw_events", RAW_COLUMNS),
];

/// The columns of `raw_events` and `unverified_events` that are compared.
pub const RAW_COLUMNS: &str = "tenant, event_id, event_type, user_id, session_id, timestamp, server_time, app_version, \
                               os, screen_resolution, locale, country, city, page, properties";

impl Tables {
    /// Reads all tables with `rows`, which answers a query by lines of JSON.
    pub fn read(mut rows: impl FnMut(&str) -> Vec<u8>) -> Tables {
        let mut answers = QUERIES.iter().map(|(table, columns)| rows(&format!("SELECT {columns} FROM {table}")));
        let mut next = || answers.next().expect("one answer a query");
        Tables {
            page_views: sorted(&next()),
            errors: sorted(&next()),
            revenue: sorted(&next()),
            sessions: sorted(&next()),
            raw_events: sorted(&next()),
        }
    }

    /// The same tables without what depends on which copy of an event was read first.
    #[must_use]
    pub fn without_server_times(mut self) -> Tables {
        self.raw_events.iter_mut().for_each(|event| event.server_time = None);
        self.raw_events.sort_unstable();
        self
    }

    /// The same tables without the raw archive, for runs that switched it off.
    #[must_use]
    pub fn without_raw_events(mut self) -> Tables {
        self.raw_events.clear();
        self
    }

    /// Panics with the first differences if `found` is not equal to these tables.
    #[track_caller]
    pub fn assert_equal(&self, found: &Tables, context: &str) {
        let report = [
            differences("page_views_by_minute", &self.page_views, &found.page_views),
            differences("errors_by_version_by_minute", &self.errors, &found.errors),
            differences("revenue_by_minute", &self.revenue, &found.revenue),
            differences("sessions", &self.sessions, &found.sessions),
            differences("raw_events", &self.raw_events, &found.raw_events),
        ]
        .concat();
        assert!(report.is_empty(), "{context}: the tables are not those of the oracle\n{report}");
    }
}

/// Parses lines of JSON to sorted rows.
///
/// # Panics
/// On a line that is no such row, quoting it.
#[must_use]
pub fn sorted<T: DeserializeOwned + Ord>(ndjson: &[u8]) -> Vec<T> {
    let lines = ndjson.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut rows: Vec<T> = lines
        .map(|line| {
            serde_json::from_slice(line).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(line)))
        })
        .collect();
    rows.sort_unstable();
    rows
}

/// A report of what stands on only one side of two sorted tables; empty if nothing does.
fn differences<T: Ord + Debug>(name: &str, expected: &[T], found: &[T]) -> String {
    let (mut missing, mut extra) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (expected.iter().peekable(), found.iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => break,
            (Some(a), Some(b)) if a == b => {
                left.next();
                right.next();
            }
            (Some(a), b) if b.is_none_or(|b| a < b) => missing.extend(left.next()),
            _ => extra.extend(right.next()),
        }
    }
    let mut report = String::new();
    if !missing.is_empty() || !extra.is_empty() {
        let (less, more) = (missing.len(), extra.len());
        writeln!(report, "{name}: {less} rows are missing, {more} are not in the oracle").expect("a String takes it");
        let shown = missing.iter().take(3).map(|row| ('-', row)).chain(extra.iter().take(3).map(|row| ('+', row)));
        for (sign, row) in shown {
            writeln!(report, "  {sign} {row:?}").expect("a String takes it");
        }
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_strictly() {
        for (text, millis) in [
            ("1970-01-01T00:00:00.000Z", Some(0)),
            ("2000-02-29T12:34:56.789Z", Some(951_827_696_789)),
            ("9999-12-31T23:59:59.999Z", Some(253_402_300_799_999)),
            ("2026-03-01T00:00:00Z", None),
            ("2026-03-01T00:00:00.000", None),
            ("2026-03-01 00:00:00.000Z", None),
        ] {
            assert_eq!(Time::parse(text), millis.map(Time), "{text}");
        }
    }

    #[test]
    fn differences_name_what_stands_on_one_side_only() {
        assert_eq!(differences("t", &[1, 2, 2, 3], &[1, 2, 2, 3]), "");
        let report = differences("t", &[1, 2, 2, 3], &[2, 3, 4]);
        assert_eq!(report, "t: 2 rows are missing, 1 are not in the oracle\n  - 1\n  - 2\n  + 4\n");
    }
}
