//! What an event holds beyond its columns, as the text of a JSON object.
//!
//! Values stay as they stand in the line (INV-6: nothing disappears), but for a clear IP address in `ip`, which is masked.

use serde_json::value::RawValue;

use crate::dead_letters::mask_addresses;

use super::fields::What;
use super::strict::{Members, what};

/// The object of a few members that have no column: place in the line, name, JSON text.
pub(super) fn from_members(mut members: [(u32, &str, Option<&str>); 2]) -> Option<String> {
    members.sort_unstable_by_key(|(start, ..)| *start);
    let mut object = Object::default();
    for (_, name, raw) in members {
        if let Some(raw) = raw {
            object.add(name, raw);
        }
    }
    object.finish()
}

/// The object of everything in a valid event's line that has no column; its `server_time` may have one.
pub(super) fn from_line(line: &str, has_server_time: bool) -> Option<String> {
    let members = Members::read(line).expect("the line of an event was read before").last_wins();
    let mut object = Object::default();
    for (key, raw) in members {
        let kind = what(raw);
        match &*key {
            "event_id" | "event_type" | "user_id" | "timestamp" => {}
            "server_time" if has_server_time => {}
            "properties" if kind == What::Object => {}
            "session_id" | "tenant" if is_text(kind) => {}
            "server_time" | "properties" | "session_id" | "tenant" | "context" | "geo" if kind == What::Null => {}
            "context" if kind == What::Object => {
                object.add_inside(&key, raw, &["app_version", "os", "screen_resolution", "locale"]);
            }
            "geo" if kind == What::Object => object.add_inside(&key, raw, &["country", "city"]),
            _ => object.add(&key, raw.get()),
        }
    }
    object.finish()
}

fn is_text(kind: What) -> bool {
    matches!(kind, What::Text | What::Escaped)
}

/// An object's text while it grows.
#[derive(Default)]
struct Object {
    text: String,
}

impl Object {
    fn add(&mut self, name: &str, raw: &str) {
        if name == "ip" { self.push(name, &masked(raw)) } else { self.push(name, raw) }
    }

    fn push(&mut self, name: &str, raw: &str) {
        self.text.push(if self.text.is_empty() { '{' } else { ',' });
        push_text(&mut self.text, name);
        self.text.push(':');
        self.text.push_str(raw);
    }

    /// Adds the members of an object that are not columns, nor null under a column's name.
    fn add_inside(&mut self, name: &str, raw: &RawValue, columns: &[&str]) {
        let mut inside = Object::default();
        for (key, value) in Members::inside(raw).last_wins() {
            let kind = what(value);
            if !(columns.contains(&&*key) && (is_text(kind) || kind == What::Null)) {
                inside.push(&key, value.get());
            }
        }
        if let Some(text) = inside.finish() {
            self.push(name, &text);
        }
    }

    fn finish(mut self) -> Option<String> {
        if self.text.is_empty() {
            return None;
        }
        self.text.push('}');
        Some(self.text)
    }
}

/// A JSON value with every address in it masked, also one that is written with escapes.
fn masked(raw: &str) -> String {
    let mut plain = None;
    if raw.contains('\\')
        && let Ok(text) = serde_json::from_str::<String>(raw)
    {
        let mut again = String::new();
        push_text(&mut again, &text);
        plain = Some(again);
    }
    let plain = plain.as_deref().unwrap_or(raw);
    String::from_utf8_lossy(&mask_addresses(plain.as_bytes())).into_owned()
}

/// Appends a text as a JSON string.
pub(crate) fn push_text(out: &mut String, text: &str) {
    out.push('"');
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[from..at]);
        if escape.is_empty() {
            out.push_str("\\u00");
            out.push(char::from(b'0' + (byte >> 4)));
            out.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
        } else {
            out.push_str(escape);
        }
        from = at + 1;
    }
    out.push_str(&text[from..]);
    out.push('"');
}
