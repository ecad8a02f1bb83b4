//! The strict way to read an event: `serde_json` decides what is JSON.
//!
//! It takes what the [`scanner`](super::scanner) leaves over: odd but valid lines, and all broken ones. Of a key given
//! twice the last value counts. A `\u` escape that is half of a surrogate pair (a text that was cut in the middle of an
//! emoji) stands for no character, and no reader of the tables could take it: who reads such a line reads [`whole`] of it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use tidemill_dataflow::hash::hash64;

use super::fields::{Fields, Slot, What, slot};
use super::scanner::hex4;

/// Why a line that does not begin like an object is malformed.
pub(crate) const NOT_AN_OBJECT: &str = "not a JSON object";

/// The members of an object in the order of the text, keys given twice included.
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    members.push((key, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Members<'a> {
    /// Reads one JSON object that is all of `text`; says what is wrong without quoting any of it.
    pub(super) fn read(text: &'a str) -> Result<Self, String> {
        if !text.trim_ascii_start().starts_with('{') {
            return Err(NOT_AN_OBJECT.into());
        }
        let members: Self = serde_json::from_str(text).map_err(|error| {
            let problem = if error.is_eof() { "it ends early" } else { "wrong" };
            format!("not a JSON object: {problem} at byte {}", error.column())
        })?;
        if matches!(whole(text), Cow::Owned(_)) {
            return Err("not a JSON object: half of a surrogate pair".into());
        }
        Ok(members)
    }

    /// The members of an object inside a text that was read already.
    pub(super) fn inside(value: &'a RawValue) -> Self {
        serde_json::from_str(value.get()).expect("a raw value is valid JSON and this one is an object")
    }

    /// The last value of each key, at the place where it stands.
    pub(super) fn last_wins(self) -> Vec<(Cow<'a, str>, &'a RawValue)> {
        let mut last: BTreeMap<Cow<'a, str>, usize> = BTreeMap::new();
        for (row, (key, _)) in self.0.iter().enumerate() {
            last.insert(key.clone(), row);
        }
        let mut row = 0;
        let mut members = self.0;
        members.retain(|(key, _)| {
            row += 1;
            last.get(key) == Some(&(row - 1))
        });
        members
    }
}

/// A key, escapes resolved, and its value as it stands in the text.
pub type Member<'a> = (Cow<'a, str>, &'a RawValue);

/// The members of a JSON object, the last value of each key; none if the text is no object, or is not [`whole`].
#[must_use]
pub fn members_of(object: &str) -> Option<Vec<Member<'_>>> {
    Members::read(object).ok().map(Members::last_wins)
}

/// What kind of value a raw value is.
pub(super) fn what(raw: &RawValue) -> What {
    let text = raw.get();
    match text.as_bytes()[0] {
        b'"' if text.contains('\\') => What::Escaped,
        b'"' => What::Text,
        b'{' => What::Object,
        b'[' => What::Array,
        b't' | b'f' => What::Bool,
        b'n' => What::Null,
        _ if text.contains(['.', 'e', 'E']) => What::Fraction,
        _ => What::Integer,
    }
}

/// Reads the line of a block that starts at offset `base` of it.
pub(super) fn read(line: &str, base: usize, fields: &mut Fields) -> Result<(), String> {
    let place = |raw: &RawValue| -> Slot {
        let start = base + (raw.get().as_ptr().addr() - line.as_ptr().addr());
        slot(start, start + raw.get().len(), what(raw))
    };
    for (key, raw) in Members::read(line)?.last_wins() {
        let found = place(raw);
        match &*key {
            "event_id" => fields.event_id = found,
            "event_type" => fields.event_type = found,
            "user_id" => fields.user_id = found,
            "session_id" => fields.session_id = found,
            "timestamp" => fields.timestamp = found,
            "client_time" => fields.client_time = found,
            "server_time" => fields.server_time = found,
            "ip" => fields.ip = found,
            "tenant" => fields.tenant = found,
            "properties" | "context" | "geo" => {
                let members = if found.what == What::Object { Members::inside(raw).last_wins() } else { Vec::new() };
                let members = members.into_iter().map(|(name, inner)| (name, place(inner)));
                match &*key {
                    "properties" => fields.take_properties(found, members),
                    "context" => fields.take_context(found, members),
                    _ => fields.take_geo(found, members),
                }
            }
            _ => fields.add_unknown(hash64(key.as_bytes()), raw.get().as_bytes()),
        }
    }
    Ok(())
}

impl Fields {
    fn take_properties<'a>(&mut self, found: Slot, members: impl Iterator<Item = (Cow<'a, str>, Slot)>) {
        self.properties = found;
        for (key, inner) in members {
            match &*key {
                "page" => self.page = inner,
                "amount_cents" => self.amount_cents = inner,
                "currency" => self.currency = inner,
                _ => {}
            }
        }
    }

    fn take_context<'a>(&mut self, found: Slot, members: impl Iterator<Item = (Cow<'a, str>, Slot)>) {
        self.context = found;
        for (key, inner) in members {
            match &*key {
                "app_version" => self.app_version = inner,
                "os" => self.os = inner,
                "screen_resolution" => self.screen_resolution = inner,
                "locale" => self.locale = inner,
                _ => self.unknown_inside = true,
            }
        }
    }

    fn take_geo<'a>(&mut self, found: Slot, members: impl Iterator<Item = (Cow<'a, str>, Slot)>) {
        self.geo = found;
        for (key, inner) in members {
            match &*key {
                "country" => self.country = inner,
                "city" => self.city = inner,
                _ => self.unknown_inside = true,
            }
        }
    }
}

/// The JSON text with U+FFFD, the replacement character, for every `\u` escape that is half of a surrogate pair alone; of the
/// same length, and as it is where there is none. What is no JSON stays none.
#[must_use]
pub fn whole(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut mended: Option<String> = None;
    let mut at = 0;
    // A backslash may be the last byte of what is no JSON.
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        let escape = at + found;
        at = escape + 2;
        if bytes.get(escape + 1) != Some(&b'u') {
            continue;
        }
        let follows = || bytes.get(escape + 6..escape + 8) == Some(b"\\u");
        match hex4(bytes, at) {
            Some(0xd800..0xdc00) if follows() && matches!(hex4(bytes, escape + 8), Some(0xdc00..0xe000)) => at += 10,
            Some(0xd800..0xe000) => {
                mended.get_or_insert_with(|| json.to_owned()).replace_range(escape + 2..escape + 6, "fffd");
                at += 4;
            }
            Some(_) => at += 4,
            None => {}
        }
    }
    mended.map_or(Cow::Borrowed(json), Cow::Owned)
}
