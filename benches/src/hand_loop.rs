//! The rival: what a competent programmer writes for exactly this job, without a framework.
//!
//! One thread, one pass, everything in hash tables in memory; JSON by sonic-rs into borrowed fields. It keeps no state
//! on disk, writes no tables, survives nothing, and knows no watermark: the end of the file is its only moment.
//! Users, pages and tenants are interned, ids are remembered as 128-bit hashes, distinct users as pairs of numbers.

use std::borrow::Cow;
use std::fs::File;
use std::hash::Hash;
use std::io::{self, Read};
use std::path::Path;

use hashbrown::{HashMap, HashSet};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128_with_seed;

const MINUTE: i64 = 60_000;
const GAP: i64 = 30 * MINUTE;
const TIMES: std::ops::RangeInclusive<i64> = 946_684_800_000..=7_258_118_400_000;
const READ: usize = 1 << 20;

/// What the loop found, in the words of the job's `--json` line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Lines that are not white space.
    pub events_read: u64,
    /// Distinct well-formed events.
    pub accepted: u64,
    /// Lines that are no event.
    pub malformed: u64,
    /// Events whose id was seen before.
    pub duplicates: u64,
    /// Rows of `page_views_by_minute`.
    pub page_views_by_minute: u64,
    /// Rows of `errors_by_version_by_minute`.
    pub errors_by_version_by_minute: u64,
    /// Rows of `revenue_by_minute`.
    pub revenue_by_minute: u64,
    /// Rows of `sessions`.
    pub sessions: u64,
    /// Sum of distinct users over the cells of page views, which a shortcut in counting would change.
    pub users_of_pages: u64,
}

/// A JSON text, borrowed where it has no escapes. (`Option<Cow<str>>` would never borrow.)
#[derive(Default)]
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyText;
        impl<'de> Visitor<'de> for AnyText {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(AnyText)
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    event_id: Text<'a>,
    #[serde(borrow)]
    event_type: Text<'a>,
    #[serde(borrow)]
    user_id: Text<'a>,
    timestamp: i64,
    #[serde(borrow, default)]
    tenant: Option<Text<'a>>,
    #[serde(borrow, default)]
    properties: Option<Properties<'a>>,
    #[serde(borrow, default)]
    context: Option<Context<'a>>,
}

#[derive(Deserialize)]
struct Properties<'a> {
    #[serde(borrow, default)]
    page: Option<Text<'a>>,
    #[serde(default)]
    amount_cents: Option<i64>,
    #[serde(borrow, default)]
    currency: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Context<'a> {
    #[serde(borrow, default)]
    app_version: Option<Text<'a>>,
}

impl Event<'_> {
    fn is_well_formed(&self) -> bool {
        let short = |id: &str| !id.is_empty() && id.len() <= 200;
        let properties = self.properties.as_ref();
        short(&self.event_id.0)
            && short(&self.user_id.0)
            && !self.event_type.0.is_empty()
            && TIMES.contains(&self.timestamp)
            && match &*self.event_type.0 {
                "page_view" => properties.is_some_and(|p| p.page.is_some()),
                "purchase" => properties.is_some_and(|p| p.amount_cents.is_some() && p.currency.is_some()),
                _ => true,
            }
    }
}

/// Texts by small numbers.
#[derive(Default)]
struct Interner {
    numbers: HashMap<Box<str>, u32>,
}

impl Interner {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.numbers.len()).expect("fewer than four billion distinct texts");
        self.numbers.insert(text.into(), number);
        number
    }
}

/// A windowed table: a row of `V` for a key and minute.
struct Cells<K, V> {
    numbers: HashMap<(K, i64), u32>,
    rows: Vec<V>,
}

impl<K: Eq + Hash, V: Default> Cells<K, V> {
    fn new() -> Self {
        Cells { numbers: HashMap::new(), rows: Vec::new() }
    }

    fn cell(&mut self, key: K, minute: i64) -> (u32, &mut V) {
        let next = u32::try_from(self.rows.len()).expect("fewer than four billion rows");
        let number = *self.numbers.entry((key, minute)).or_insert(next);
        if number == next {
            self.rows.push(V::default());
        }
        (number, &mut self.rows[number as usize])
    }
}

/// How often, and how many distinct users.
#[derive(Default)]
struct Counted {
    times: u64,
    users: u64,
}

/// A row of `sessions`, events in between included.
struct Session {
    first: i64,
    last: i64,
    events: u64,
}

/// All tables while they fill.
struct Tables {
    answer: Answer,
    seen: HashSet<u128>,
    tenants: Interner,
    users: HashMap<u32, Interner>,
    pages: Interner,
    versions: Interner,
    currencies: Interner,
    page_views: Cells<(u32, u32), Counted>,
    page_users: HashSet<(u32, u32)>,
    errors: Cells<(u32, u32), Counted>,
    error_users: HashSet<(u32, u32)>,
    revenue: Cells<(u32, u32), (u64, i64)>,
    sessions: HashMap<(u32, u32), Vec<Session>>,
}

impl Tables {
    fn new() -> Self {
        Tables {
            answer: Answer::default(),
            seen: HashSet::new(),
            tenants: Interner::default(),
            users: HashMap::new(),
            pages: Interner::default(),
            versions: Interner::default(),
            currencies: Interner::default(),
            page_views: Cells::new(),
            page_users: HashSet::new(),
            errors: Cells::new(),
            error_users: HashSet::new(),
            revenue: Cells::new(),
            sessions: HashMap::new(),
        }
    }

    fn line(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        self.answer.events_read += 1;
        if line.len() > 1 << 20 {
            self.answer.malformed += 1;
            return;
        }
        match sonic_rs::from_slice::<Event<'_>>(line) {
            Ok(event) if event.is_well_formed() => self.event(&event),
            _ => self.answer.malformed += 1,
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        let tenant = self.tenants.number(event.tenant.as_ref().map_or("default", |tenant| &tenant.0));
        if !self.seen.insert(xxh3_128_with_seed(event.event_id.0.as_bytes(), u64::from(tenant))) {
            self.answer.duplicates += 1;
            return;
        }
        self.answer.accepted += 1;
        let user = self.users.entry(tenant).or_default().number(&event.user_id.0);
        let minute = event.timestamp.div_euclid(MINUTE);
        let properties = event.properties.as_ref();
        match &*event.event_type.0 {
            "page_view" => {
                let page = properties.and_then(|p| p.page.as_ref()).expect("a well-formed page view has a page");
                let page = self.pages.number(&page.0);
                count(&mut self.page_views, &mut self.page_users, (tenant, page), minute, user);
            }
            "error" => {
                let version = event.context.as_ref().and_then(|c| c.app_version.as_ref());
                let version = self.versions.number(version.map_or("", |version| &version.0));
                count(&mut self.errors, &mut self.error_users, (tenant, version), minute, user);
            }
            "purchase" => {
                let bought = properties.expect("a well-formed purchase has properties");
                let currency = bought.currency.as_ref().expect("a well-formed purchase has a currency");
                let currency = self.currencies.number(&currency.0);
                let (_, (orders, cents)) = self.revenue.cell((tenant, currency), minute);
                *orders += 1;
                *cents += bought.amount_cents.unwrap_or(0);
            }
            _ => {}
        }
        extend(self.sessions.entry((tenant, user)).or_default(), event.timestamp);
    }

    fn answer(mut self) -> Answer {
        self.answer.page_views_by_minute = self.page_views.rows.len() as u64;
        self.answer.errors_by_version_by_minute = self.errors.rows.len() as u64;
        self.answer.revenue_by_minute = self.revenue.rows.len() as u64;
        self.answer.sessions = self.sessions.values().map(|sessions| sessions.len() as u64).sum();
        self.answer.users_of_pages = self.page_views.rows.iter().map(|row| row.users).sum();
        let counted: u64 = self.page_views.rows.iter().chain(&self.errors.rows).map(|row| row.times).sum();
        let in_sessions: u64 = self.sessions.values().flatten().map(|session| session.events).sum();
        assert!(counted <= in_sessions && in_sessions == self.answer.accepted, "every event is in one session");
        self.answer
    }
}

fn count(
    cells: &mut Cells<(u32, u32), Counted>,
    users: &mut HashSet<(u32, u32)>,
    key: (u32, u32),
    minute: i64,
    user: u32,
) {
    let (number, row) = cells.cell(key, minute);
    row.times += 1;
    row.users += u64::from(users.insert((number, user)));
}

/// Adds an event to a user's sessions, which are in the order of time and may grow together.
fn extend(sessions: &mut Vec<Session>, time: i64) {
    let mut session = Session { first: time, last: time, events: 1 };
    // Most events belong to the last session, so the search starts there.
    let until = sessions.iter().rposition(|s| s.first <= time + GAP).map_or(0, |at| at + 1);
    let from = sessions[..until].iter().rposition(|s| s.last < time - GAP).map_or(0, |at| at + 1);
    for other in &sessions[from..until] {
        session.first = session.first.min(other.first);
        session.last = session.last.max(other.last);
        session.events += other.events;
    }
    if until - from == 1 {
        sessions[from] = session;
    } else {
        sessions.splice(from..until, [session]);
    }
}

/// Reads a plain NDJSON file to its end and computes all tables but the raw archive.
///
/// # Errors
/// When the file cannot be read.
pub fn run(path: &Path) -> io::Result<Answer> {
    let mut file = File::open(path)?;
    let mut tables = Tables::new();
    let mut buffer = vec![0; 2 * READ];
    let mut filled = 0;
    loop {
        if buffer.len() - filled < READ {
            buffer.resize(buffer.len() * 2, 0);
        }
        let read = file.read(&mut buffer[filled..])?;
        if read == 0 {
            break;
        }
        filled += read;
        let mut from = 0;
        while let Some(length) = memchr::memchr(b'\n', &buffer[from..filled]) {
            tables.line(&buffer[from..from + length]);
            from += length + 1;
        }
        buffer.copy_within(from..filled, 0);
        filled -= from;
    }
    tables.line(&buffer[..filled]);
    Ok(tables.answer())
}

#[cfg(test)]
mod tests {
    use tidemill_connectors::generate::{GenerateConfig, Rates, generate};

    use super::*;

    fn sessions(times: &[i64]) -> Vec<(i64, i64, u64)> {
        let mut found = Vec::new();
        times.iter().for_each(|time| extend(&mut found, *time));
        found.iter().map(|s| (s.first, s.last, s.events)).collect()
    }

    #[test]
    fn sessions_grow_split_and_merge_in_any_order() {
        assert_eq!(sessions(&[0, GAP]), [(0, GAP, 2)]);
        assert_eq!(sessions(&[0, GAP + 1]), [(0, 0, 1), (GAP + 1, GAP + 1, 1)]);
        assert_eq!(sessions(&[GAP + 1, 0]), [(0, 0, 1), (GAP + 1, GAP + 1, 1)]);
        assert_eq!(sessions(&[0, 2 * GAP, GAP]), [(0, 2 * GAP, 3)]);
        assert_eq!(
            sessions(&[5 * GAP, 0, 2 * GAP + 5, 3]),
            [(0, 3, 2), (2 * GAP + 5, 2 * GAP + 5, 1), (5 * GAP, 5 * GAP, 1)]
        );
    }

    #[test]
    fn the_loop_counts_what_was_generated() {
        let config = GenerateConfig { rates: Rates::within_horizon(), ..GenerateConfig::new(20_000, 3) };
        let file = tempfile::NamedTempFile::new().unwrap();
        let made = generate(&config, file.as_file()).unwrap();
        let answer = run(file.path()).unwrap();
        assert_eq!(answer.events_read, made.lines - made.blank);
        assert_eq!(answer.accepted, made.events);
        assert_eq!(answer.malformed, made.malformed);
        assert_eq!(answer.duplicates, made.duplicates + made.conflicting);
        assert!(answer.sessions > 0 && answer.users_of_pages > answer.page_views_by_minute, "{answer:?}");
    }
}
