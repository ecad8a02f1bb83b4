//! W3C Extended Log File Format, as IIS and CloudFront write it: fields as the last `#Fields:` line names them.

use std::borrow::Cow;
use std::sync::Arc;

use crate::events::MAX_LINE_BYTES;

use super::line::{Field, LogLine, Text};
use super::text::{quoted, skip_space, trimmed, word};

/// What lines mean behind a directive, until the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    /// The `#Fields` line as it stands in the file.
    line: Arc<str>,
    fields: Arc<[Field]>,
    /// The date of lines that have none of their own.
    date: Arc<str>,
}

/// The longest directive that is heeded.
const LONGEST: usize = 8 << 10;

/// Whether a line is a directive, and no record.
pub(super) fn is_directive(line: &str) -> bool {
    line.starts_with('#')
}

/// A whole line, if it is a directive to a decoder too: what is too long or no text is a dead letter.
fn directive(line: &[u8]) -> Option<&str> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let may_be = line.len() <= MAX_LINE_BYTES && memchr::memchr(b'#', line).is_some();
    let text = trimmed(std::str::from_utf8(line).ok().filter(|_| may_be)?);
    Some(text).filter(|text| is_directive(text))
}

impl Directives {
    /// What a directive changes; `None` if that is nothing that records depend on.
    pub(crate) fn changed_by(&self, line: &str) -> Option<Directives> {
        let (name, value) = line.strip_prefix('#')?.split_once(':')?;
        // What is kept of a file is bounded: a longer line names no fields, and no date.
        let is_kept = line.len() <= LONGEST;
        let (line, value) = if is_kept { (line, value.trim()) } else { ("#Fields:", "") };
        if name.eq_ignore_ascii_case("fields") {
            let fields = value.split_ascii_whitespace().map(field).collect();
            return Some(Directives { line: line.into(), fields, date: Arc::clone(&self.date) });
        }
        if name.eq_ignore_ascii_case("date") {
            let date = value.split([' ', '\t', 'T']).next().unwrap_or_default();
            return Some(Directives { date: date.into(), ..self.clone() });
        }
        None
    }

    /// Whether a line is one that the headers of such logs have.
    pub(crate) fn are_named_by(line: &str) -> bool {
        const NAMES: [&str; 7] = ["version", "fields", "software", "start-date", "end-date", "date", "remark"];
        let name = trimmed(line).strip_prefix('#').and_then(|rest| rest.split_once(':')).map(|(name, _)| name);
        name.is_some_and(|name| NAMES.iter().any(|known| name.eq_ignore_ascii_case(known)))
    }

    /// The directives that make the same again.
    pub(crate) fn text(&self) -> String {
        format!("#Date: {}\n{}", self.date, self.line)
    }

    /// What directives say, one a line.
    pub(crate) fn of(text: &str) -> Directives {
        let changed = |before: Directives, line: &str| before.changed_by(line).unwrap_or(before);
        text.lines().fold(Directives::default(), changed)
    }

    /// What is in force behind some whole lines; `None` if that is what was before.
    pub(crate) fn behind(&self, lines: &[u8]) -> Option<Directives> {
        let mut changed: Option<Directives> = None;
        for line in lines.split_inclusive(|byte| *byte == b'\n').filter_map(directive) {
            changed = changed.as_ref().unwrap_or(self).changed_by(line).or(changed);
        }
        changed.filter(|changed| changed != self)
    }

    /// Reads a record; `None` if it does not match the fields in force.
    pub(super) fn read<'a>(&self, line: &'a str, out: &mut LogLine<'a>) -> Option<&'static str> {
        let mut rest = line;
        for field in &*self.fields {
            rest = skip_space(rest);
            let (value, behind) = if rest.starts_with('"') { quoted(rest, None)? } else { word(rest)? };
            out.set(field, decoded(field, value))?;
            rest = behind;
        }
        if out.date.is_empty() {
            // The line is older than the text of the directive, so its date is put together here.
            out.time = super::time::of_date_and_clock(&self.date, out.clock);
        }
        let asked = !out.path.is_empty() || !out.request.is_empty();
        (asked && !self.fields.is_empty() && skip_space(rest).is_empty()).then_some("W3C extended log")
    }
}

fn field(name: &str) -> Field {
    match name.to_ascii_lowercase().as_str() {
        "date" => Field::Date,
        "time" => Field::Clock,
        "c-ip" => Field::Address,
        "cs-username" => Field::User,
        "cs-method" => Field::Method,
        "cs-uri" => Field::Target,
        "cs-uri-stem" => Field::Path,
        "cs-uri-query" => Field::Query,
        "cs-version" | "cs-protocol-version" => Field::Protocol,
        "sc-status" => Field::Status,
        "sc-bytes" => Field::Bytes,
        "cs(user-agent)" => Field::Agent,
        "cs(referer)" => Field::Referrer,
        "x-forwarded-for" | "cs(x-forwarded-for)" => Field::Forwarded,
        lower => Field::Other(lower.into()),
    }
}

/// Agents and referrers without the percent signs of CloudFront and, in agents, the plus signs of IIS for spaces.
fn decoded<'a>(field: &Field, value: &'a str) -> Text<'a> {
    let is_agent = *field == Field::Agent;
    if !is_agent && *field != Field::Referrer || !value.contains(['%', '+']) {
        return value.into();
    }
    let mut text: Text<'a> = value.into();
    // CloudFront encoded the percent sign too for some years.
    for _ in 0..2 {
        if is_agent && text.contains('%') {
            text = percent_decoded(&text).map_or(text, Cow::Owned);
        }
    }
    if is_agent && text.contains('+') && !text.contains(' ') {
        text = text.replace('+', " ").into();
    }
    text
}

/// `None` if what comes out is no text.
fn percent_decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}
