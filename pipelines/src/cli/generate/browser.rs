//! What a browser makes of generated lines: events without the collector's fields, in batches by user.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use memchr::memmem;
use serde::de::IgnoredAny;

/// How long a browser holds back an event to send it with others.
const HELD_FOR: Duration = Duration::from_secs(1);
/// A batch is sent when it has this many bytes, whatever its number of events.
const BATCH_BYTES: usize = 512 << 10;

/// A user's events on their way: each is the JSON text that stands in the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) user: Vec<u8>,
    pub(super) events: Vec<Vec<u8>>,
}

/// The events that browsers hold back.
#[derive(Debug)]
pub(super) struct Browsers {
    batch: usize,
    held: BTreeMap<Vec<u8>, Held>,
    /// Users in the order in which their batches are due; a batch that left before is passed over.
    due: VecDeque<(Duration, u64, Vec<u8>)>,
    begun: u64,
}

#[derive(Debug)]
struct Held {
    number: u64,
    bytes: usize,
    events: Vec<Vec<u8>>,
}

impl Browsers {
    /// Browsers that send when they have `batch` events, or a second after the first of them.
    pub(super) fn new(batch: usize) -> Browsers {
        Browsers { batch: batch.max(1), held: BTreeMap::new(), due: VecDeque::new(), begun: 0 }
    }

    /// Takes a generated line at `now`; gives its user's batch when that is full.
    pub(super) fn take(&mut self, line: &[u8], now: Duration) -> Option<Batch> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return None;
        }
        let user = super::user_of(line).unwrap_or(b"").to_owned();
        let event = as_sent(line).into_owned();
        let held = self.held.entry(user.clone()).or_insert_with(|| {
            self.begun += 1;
            self.due.push_back((now + HELD_FOR, self.begun, user.clone()));
            Held { number: self.begun, bytes: 0, events: Vec::new() }
        });
        held.bytes += event.len();
        held.events.push(event);
        if held.events.len() < self.batch && held.bytes < BATCH_BYTES {
            return None;
        }
        self.held.remove(&user).map(|full| Batch { user, events: full.events })
    }

    /// The next batch that has been held back long enough at `now`.
    pub(super) fn due(&mut self, now: Duration) -> Option<Batch> {
        while self.due.front().is_some_and(|(due, ..)| *due <= now) {
            let (_, number, user) = self.due.pop_front().expect("it was looked at just now");
            if self.held.get(&user).is_some_and(|held| held.number == number) {
                return self.held.remove(&user).map(|held| Batch { user, events: held.events });
            }
        }
        None
    }

    /// Any batch that is held back, for the end.
    pub(super) fn last(&mut self) -> Option<Batch> {
        self.held.pop_first().map(|(user, held)| Batch { user, events: held.events })
    }
}

/// The event as a browser would send it: without what the collector adds. What is no JSON becomes a text, which the
/// collector rejects by itself instead of with its whole batch.
fn as_sent(line: &[u8]) -> Cow<'_, [u8]> {
    let text = String::from_utf8_lossy(line);
    if std::str::from_utf8(line).is_err() || serde_json::from_str::<IgnoredAny>(&text).is_err() {
        return serde_json::Value::from(text).to_string().into_bytes().into();
    }
    // In the usual layout the collector's fields are the last ones. A quote inside a text is escaped, so this finds keys.
    let ours = memmem::rfind(line, b",\"server_time\":").or_else(|| memmem::rfind(line, b",\"ip\":\""));
    match ours {
        Some(at) if line.starts_with(b"{\"") => [&line[..at], b"}"].concat().into(),
        _ => line.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(user: &str, id: u32) -> Vec<u8> {
        format!("{{\"event_id\":\"{id}\",\"user_id\":\"{user}\",\"server_time\":7,\"ip\":\"ab\",\"geo\":{{}}}}\r")
            .into_bytes()
    }

    fn sent(user: &str, id: u32) -> Vec<u8> {
        format!("{{\"event_id\":\"{id}\",\"user_id\":\"{user}\"}}").into_bytes()
    }

    #[test]
    fn a_users_events_leave_together_when_they_are_enough_or_old_enough() {
        let mut browsers = Browsers::new(2);
        let at = Duration::from_millis;
        assert_eq!(browsers.take(&line("a", 1), at(0)), None);
        assert_eq!(browsers.take(&line("b", 2), at(10)), None);
        assert_eq!(browsers.take(b" \t", at(10)), None);
        let batch = |user: &str, events: Vec<Vec<u8>>| Some(Batch { user: user.into(), events });
        assert_eq!(browsers.take(&line("a", 3), at(20)), batch("a", vec![sent("a", 1), sent("a", 3)]));
        assert_eq!(browsers.take(&line("a", 4), at(30)), None);
        assert_eq!(browsers.due(at(1_009)), None, "the first batch of a left before");
        assert_eq!(browsers.due(at(1_010)), batch("b", vec![sent("b", 2)]));
        assert_eq!(browsers.due(at(1_029)), None);
        assert_eq!(browsers.last(), batch("a", vec![sent("a", 4)]));
        assert_eq!(browsers.last(), None);
    }

    #[test]
    fn what_is_no_json_is_sent_as_a_text() {
        for (line, event) in [
            (&b"{\"a\":1} trailing"[..], &br#""{\"a\":1} trailing""#[..]),
            (b"GET / HTTP/1.1", b"\"GET / HTTP/1.1\""),
            (b"[1]", b"[1]"),
            (b"{\"a\":\"\xff\"}", "\"{\\\"a\\\":\\\"\u{fffd}\\\"}\"".as_bytes()),
        ] {
            assert_eq!(String::from_utf8_lossy(&as_sent(line)), String::from_utf8_lossy(event));
        }
    }
}
