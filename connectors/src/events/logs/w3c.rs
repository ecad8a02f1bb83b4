//! W3C Extended Log File Format, as IIS and CloudFront write it: fields as the last `#Fields:` line names them.

use std::borrow::Cow;
use std::sync::Arc;

use super::line::{Field, LogLine, Text};
use super::text::{quoted, skip_space, word};

/// What lines mean behind a directive, until the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directives {
    /// The `#Fields` line as it stands in the file.
    line: Box<str>,
    fields: Vec<Field>,
    /// The date of lines that have none of their own.
    date: Arc<str>,
}

/// Whether a line is a directive, and no record.
pub(super) fn is_directive(line: &str) -> bool {
    line.starts_with('#')
}

impl Directives {
    /// What a directive changes; `None` if that is nothing that records depend on.
    pub(crate) fn changed_by(&self, line: &str) -> Option<Directives> {
        let (name, value) = line.strip_prefix('#')?.split_once(':')?;
        let value = value.trim();
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

    /// The directives that make the same again.
    pub(crate) fn text(&self) -> String {
        format!("#Date: {}\n{}", self.date, self.line)
    }

    /// What directives say, one a line.
    pub(crate) fn of(text: &str) -> Directives {
        let changed = |before: Directives, line: &str| before.changed_by(line).unwrap_or(before);
        text.lines().fold(Directives::default(), changed)
    }

    /// Every change in some whole lines, with the offset of the line behind it.
    pub(crate) fn changes(&self, lines: &[u8]) -> Vec<(u64, Directives)> {
        let mut changes: Vec<(u64, Directives)> = Vec::new();
        let mut offset = 0;
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            offset += line.len() as u64;
            if !line.starts_with(b"#") {
                continue;
            }
            let before = changes.last().map_or(self, |(_, directives)| directives);
            if let Some(changed) = std::str::from_utf8(line).ok().and_then(|line| before.changed_by(line.trim_end())) {
                changes.push((offset, changed));
            }
        }
        changes
    }

    /// Reads a record; `None` if it does not match the fields in force.
    pub(super) fn read<'a>(&self, line: &'a str, out: &mut LogLine<'a>) -> Option<&'static str> {
        let mut rest = line;
        for field in &self.fields {
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
