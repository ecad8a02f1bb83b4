//! Which events of a batch are taken, and the lines that they become. Pure: no clock, no I/O.
//!
//! What an event is, the engine's own decoder decides, on the very line that is stored: so whatever is accepted here is
//! an event wherever the log is read, and never a dead letter. Beyond the engine's rules, ids that stand for nobody are
//! refused: one user called `anonymous` is the hottest key of all and one endless session, and of all events with the id
//! `null` only the first would count.
//!
//! The server's fields (`server_time`, `ip`, `geo`, `tenant`) are set here, whatever the client says they are. All other
//! members stay as they stand in the batch.

use std::ops::Range;

use serde_json::value::RawValue;
use tidemill_connectors::events::{Bounds, Event, MAX_ID_BYTES, MAX_LINE_BYTES, NdjsonDecoder, members_of, whole};
use tidemill_dataflow::source::{Block, Decode, Decoded};

use crate::geo::Place;
use crate::topic::Topic;

/// The members that a client cannot set.
const OF_THE_SERVER: [&str; 4] = ["server_time", "ip", "geo", "tenant"];

/// Ids that stand for nobody, in lower case.
const FORBIDDEN_IDS: [&str; 32] = [
    "0",
    "-1",
    "null",
    "(null)",
    "none",
    "nil",
    "undefined",
    "unknown",
    "anonymous",
    "anon",
    "guest",
    "user",
    "visitor",
    "true",
    "false",
    "nan",
    "[]",
    "{}",
    "\"\"",
    "''",
    "-",
    "[object object]",
    "id",
    "user_id",
    "userid",
    "distinct_id",
    "distinctid",
    "email",
    "not_authenticated",
    "n/a",
    "00000000-0000-0000-0000-000000000000",
    "00000000000000000000000000000000",
];

/// Why an event was rejected, coarsely: the label of counters and the line in the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectKind {
    /// It is not a JSON object.
    NotAnObject,
    /// `event_id` is missing, or no text, or empty.
    EventId,
    /// `event_type` is missing, or no text, or empty.
    EventType,
    /// `user_id` is missing, or no text, or empty.
    UserId,
    /// `timestamp` is missing, or no time.
    Timestamp,
    /// The properties lack what the event's type needs.
    Properties,
    /// An id that stands for nobody.
    ForbiddenId,
    /// The event, or one of its ids or names, is too long.
    TooLong,
}

impl RejectKind {
    /// All kinds.
    pub const ALL: [RejectKind; 8] = [
        RejectKind::NotAnObject,
        RejectKind::EventId,
        RejectKind::EventType,
        RejectKind::UserId,
        RejectKind::Timestamp,
        RejectKind::Properties,
        RejectKind::ForbiddenId,
        RejectKind::TooLong,
    ];

    /// Its name in counters and books.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            RejectKind::NotAnObject => "not_an_object",
            RejectKind::EventId => "event_id",
            RejectKind::EventType => "event_type",
            RejectKind::UserId => "user_id",
            RejectKind::Timestamp => "timestamp",
            RejectKind::Properties => "properties",
            RejectKind::ForbiddenId => "forbidden_id",
            RejectKind::TooLong => "too_long",
        }
    }

    /// The kind of a reason in the engine's words.
    fn of_reason(reason: &str) -> RejectKind {
        if reason.contains("is longer than") {
            return RejectKind::TooLong;
        }
        match reason.split([' ', '.']).next() {
            Some("event_id") => RejectKind::EventId,
            Some("event_type") => RejectKind::EventType,
            Some("user_id") => RejectKind::UserId,
            Some("timestamp") => RejectKind::Timestamp,
            Some("properties") => RejectKind::Properties,
            _ => RejectKind::NotAnObject,
        }
    }
}

/// An event that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reject {
    pub(crate) kind: RejectKind,
    pub(crate) reason: String,
}

impl Reject {
    fn of_reason(reason: String) -> Reject {
        Reject { kind: RejectKind::of_reason(&reason), reason }
    }

    fn too_long() -> Reject {
        Reject { kind: RejectKind::TooLong, reason: format!("the event is longer than {MAX_LINE_BYTES} bytes") }
    }
}

/// What became of one event, with its id as far as it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) event_id: Option<String>,
    pub(crate) rejected: Option<Reject>,
}

/// An event that was taken: where its line and its key stand in [`Admitted::text`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) topic: Topic,
    /// Hash of the user, by which the partition is chosen.
    pub(crate) user_hash: u64,
    pub(crate) value: Range<usize>,
    pub(crate) key: Range<usize>,
}

/// A batch after admission.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    pub(crate) text: Vec<u8>,
    pub(crate) lines: Vec<Line>,
    /// One for each event, in order.
    pub(crate) verdicts: Vec<Verdict>,
}

/// What the server says of all events of a request, as JSON members.
pub(crate) fn server_members(server_time: i64, address_hash: &str, place: Option<&Place<'_>>, tenant: &str) -> String {
    let mut members = format!("\"server_time\":{server_time},\"ip\":\"{address_hash}\"");
    if let Some(place) = place {
        members.push_str(",\"geo\":{");
        let known = [("country", place.country), ("city", place.city)];
        for (at, (name, text)) in known.into_iter().filter_map(|(name, text)| Some((name, text?))).enumerate() {
            members.push_str(if at > 0 { ",\"" } else { "\"" });
            members.push_str(name);
            members.push_str("\":");
            push_text(&mut members, text);
        }
        members.push('}');
    }
    members.push_str(",\"tenant\":");
    push_text(&mut members, tenant);
    members
}

/// How many bytes [`admit`] holds at most at one time beside the batch itself: the lines twice, once as they are decoded.
pub(crate) fn bytes_needed(events: &[&str], server_members: &str) -> usize {
    2 * text_bytes(events, server_members)
}

/// The most that the lines and keys of a batch take.
fn text_bytes(events: &[&str], server_members: &str) -> usize {
    // What the server adds to an event with its comma, brace and newline.
    let added = server_members.len() + 3;
    let key = |event: &str| event.len().min(MAX_ID_BYTES as usize);
    events.iter().map(|event| event.len().min(MAX_LINE_BYTES) + added + key(event)).sum()
}

/// Judges the events of a batch and writes the lines of those that are taken.
pub(crate) fn admit(events: &[&str], server_members: &str, bounds: Bounds) -> Admitted {
    let text = Vec::with_capacity(text_bytes(events, server_members));
    let mut admitted = Admitted { text, ..Admitted::default() };
    // Which event each line belongs to, and where the line starts.
    let mut rows = Vec::with_capacity(events.len());
    for (number, event) in events.iter().enumerate() {
        let start = admitted.text.len();
        let mut verdict = Verdict { event_id: None, rejected: None };
        match write_line(event, server_members, &mut admitted.text, &mut verdict.event_id) {
            Ok(()) => rows.push((number, start..admitted.text.len() - 1)),
            Err(reject) => {
                admitted.text.truncate(start);
                verdict.rejected = Some(reject);
            }
        }
        admitted.verdicts.push(verdict);
    }

    let decoded = decode(admitted.text.clone(), bounds);
    let mut records = decoded.records.iter();
    let mut malformed = decoded.malformed.into_iter().peekable();
    admitted.lines.reserve_exact(decoded.records.len());
    for (row, (number, value)) in rows.into_iter().enumerate() {
        let judged = match malformed.next_if(|letter| letter.line == row as u64 + 1) {
            Some(letter) => Err(Reject::of_reason(letter.reason)),
            None => judge(records.next().expect("a line that is not blank is an event or a dead letter")),
        };
        match judged {
            Ok((topic, event)) => {
                let key = admitted.text.len();
                admitted.text.extend_from_slice(event.user().text.as_bytes());
                let key = key..admitted.text.len();
                admitted.lines.push(Line { topic, user_hash: event.user().hash, value, key });
                admitted.verdicts[number].event_id = Some(event.event_id().to_owned());
            }
            Err(reject) => admitted.verdicts[number].rejected = Some(reject),
        }
    }
    admitted
}

/// Appends the line of an event with its newline; takes its id for the answer on the way.
fn write_line(event: &str, server_members: &str, text: &mut Vec<u8>, id: &mut Option<String>) -> Result<(), Reject> {
    if event.len() > MAX_LINE_BYTES {
        return Err(Reject::too_long());
    }
    // Only a text with half of a surrogate pair differs from what is whole of it.
    let event = &*whole(event);
    let Some(members) = members_of(event) else {
        return Err(not_an_object(event));
    };
    text.push(b'{');
    for (key, value) in members {
        if OF_THE_SERVER.contains(&&*key) {
            continue;
        }
        if key == "event_id" {
            *id = echo(value);
        }
        push_json_text(text, &key);
        text.push(b':');
        push_on_one_line(text, value.get().as_bytes());
        text.push(b',');
    }
    text.extend_from_slice(server_members.as_bytes());
    text.extend_from_slice(b"}\n");
    Ok(())
}

/// Why a text is no object, in the engine's words.
#[cold]
fn not_an_object(event: &str) -> Reject {
    let mut line = Vec::with_capacity(event.len());
    push_on_one_line(&mut line, event.as_bytes());
    let letter = decode(line, Bounds::default()).malformed.pop();
    Reject::of_reason(letter.map_or_else(|| "not a JSON object".to_owned(), |letter| letter.reason))
}

/// What the engine will make of these lines.
fn decode(lines: Vec<u8>, bounds: Bounds) -> Decoded<Event> {
    let mut decoded = Decoded::default();
    NdjsonDecoder::within(bounds)
        .decode(Block { partition: 0, offset: 0, first_line: 1, bytes: lines, skipped: 0 }, &mut decoded);
    decoded
}

/// The collector's own rules, for what is an event.
fn judge(event: &Event) -> Result<(Topic, &Event), Reject> {
    let forbidden = |name: &str, id: &str| Reject {
        kind: RejectKind::ForbiddenId,
        reason: format!(
            "{name} `{}` stands for nobody; give each its own, a random one per device if need be",
            id.trim()
        ),
    };
    if stands_for_nobody(event.event_id()) {
        return Err(forbidden("event_id", event.event_id()));
    }
    if stands_for_nobody(event.user().text) {
        return Err(forbidden("user_id", event.user().text));
    }
    Ok((Topic::of(event.kind(), event.event_type()), event))
}

fn stands_for_nobody(id: &str) -> bool {
    let id = id.trim();
    id.is_empty() || FORBIDDEN_IDS.iter().any(|forbidden| id.eq_ignore_ascii_case(forbidden))
}

/// An id for the answer of an event that may yet be rejected.
fn echo(value: &RawValue) -> Option<String> {
    let raw = value.get();
    serde_json::from_str::<String>(raw).ok().filter(|id| id.len() <= MAX_ID_BYTES as usize)
}

/// Appends JSON with its line breaks, which can only stand between tokens, as spaces.
fn push_on_one_line(text: &mut Vec<u8>, json: &[u8]) {
    let start = text.len();
    text.extend_from_slice(json);
    for byte in &mut text[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

fn push_json_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a text is always JSON, and memory takes it");
}

fn push_text(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("a text is always JSON"));
}

#[cfg(test)]
mod tests;
