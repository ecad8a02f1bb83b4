//! From a request's body to the texts of its events.
//!
//! What a hostile body can cost is bounded before anything is built from it: its length, its nesting, its events.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// How deep arrays and objects may lie in each other.
pub(crate) const MAX_DEPTH: u32 = 128;

/// Why a body is no batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BatchError {
    /// It is not what it should be; says what is wrong without quoting it.
    Malformed(String),
    /// It has more events than a batch may have.
    TooManyEvents,
}

/// The texts of a body's events: at most `max_events`, at least one.
pub(crate) fn events_of(body: &[u8], max_events: usize) -> Result<Vec<&str>, BatchError> {
    let malformed = |problem: &str| Err(BatchError::Malformed(format!("{problem}; send {{\"events\":[...]}}")));
    let Ok(text) = std::str::from_utf8(body) else {
        return malformed("the body is not UTF-8");
    };
    if !text.trim_ascii_start().starts_with('{') {
        return malformed("the body is not a JSON object");
    }
    if deeper_than(body, MAX_DEPTH) {
        return malformed("the body is nested deeper than 128 levels");
    }
    let batch: Batch<'_> = match serde_json::from_str(text) {
        Ok(batch) => batch,
        Err(error) if error.is_data() => return malformed("the body has no member `events` that is a list"),
        Err(error) => {
            let place = format!("line {}, column {}", error.line(), error.column());
            return malformed(&format!("the body is not JSON: wrong at {place}"));
        }
    };
    match batch.events {
        Events { found, .. } if found.is_empty() => malformed("the batch is empty"),
        Events { left_out, .. } if left_out => Err(BatchError::TooManyEvents),
        Events { found, .. } if found.len() > max_events => Err(BatchError::TooManyEvents),
        Events { found, .. } => Ok(found),
    }
}

/// The `api_key` of a body, if there is one.
pub(crate) fn key_of(body: &[u8]) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Keyed<'a> {
        #[serde(borrow)]
        api_key: Cow<'a, str>,
    }
    serde_json::from_slice::<Keyed<'_>>(body).ok().map(|keyed| keyed.api_key)
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    events: Events<'a>,
}

/// The first events of a list, no more than could ever be taken: a list of millions must not become a vector of millions.
struct Events<'a> {
    found: Vec<&'a str>,
    left_out: bool,
}

/// How many events are looked at, whatever the limit is set to.
pub(crate) const LOOKED_AT: usize = 10_000;

impl<'de: 'a, 'a> Deserialize<'de> for Events<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Events<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut found = Vec::new();
                while let Some(event) = list.next_element::<&RawValue>()? {
                    found.push(event.get());
                    if found.len() == LOOKED_AT {
                        break;
                    }
                }
                let left_out = found.len() == LOOKED_AT && list.next_element::<IgnoredAny>()?.is_some();
                while left_out && list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Events { found, left_out })
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// Whether brackets outside of texts lie deeper in each other than `limit`.
fn deeper_than(json: &[u8], limit: u32) -> bool {
    let (mut depth, mut in_text, mut at) = (0_u32, false, 0);
    while at < json.len() {
        match json[at] {
            b'\\' if in_text => at += 1,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_cut_into_its_events() {
        let events = events_of(br#" {"sent_at":1,"events":[{"a":[1,"]"]} , 7,"x"],"v":{}} "#, 3).unwrap();
        assert_eq!(events, [r#"{"a":[1,"]"]}"#, "7", r#""x""#]);
    }

    #[test]
    fn what_is_no_batch_is_refused_with_the_form_that_is_wanted() {
        for (body, problem) in [
            (&b"\xff\xfe"[..], "not UTF-8"),
            (b"", "not a JSON object"),
            (b"[[]]", "not a JSON object"),
            (b"{\"events\":[", "line 1, column"),
            (b"{\"events\":[]}", "empty"),
            (b"{\"events\":{}}", "no member `events`"),
            (b"{\"event\":[1]}", "no member `events`"),
            (b"{\"events\":[1],\"events\":[2]}", "no member `events`"),
            (b"{\"events\":[1]} x", "not JSON"),
        ] {
            match events_of(body, 10) {
                Err(BatchError::Malformed(said)) => {
                    assert!(said.contains(problem) && said.contains("{\"events\":[...]}"), "{said}");
                }
                other => panic!("{body:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn nesting_and_numbers_of_events_are_limited() {
        let nested = |depth: usize| format!("{{\"events\":[{}{}]}}", "[".repeat(depth - 2), "]".repeat(depth - 2));
        assert!(events_of(nested(128).as_bytes(), 1).is_ok());
        assert!(matches!(events_of(nested(129).as_bytes(), 1), Err(BatchError::Malformed(_))));
        assert!(matches!(events_of(nested(2_000_000).as_bytes(), 1), Err(BatchError::Malformed(_))));
        let many = |events: usize| format!("{{\"events\":[1{}]}}", ",1".repeat(events - 1));
        assert_eq!(events_of(many(2_500).as_bytes(), 2_500).unwrap().len(), 2_500);
        for events in [2_501, LOOKED_AT, LOOKED_AT + 1, LOOKED_AT + 2] {
            assert_eq!(events_of(many(events).as_bytes(), 2_500), Err(BatchError::TooManyEvents));
        }
    }
}
