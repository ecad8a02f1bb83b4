//! W3C Extended Log File Format, as IIS and CloudFront write it: fields as the last `#Fields:` line names them.

use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::events::MAX_LINE_BYTES;
use crate::events::lines::unterminated;

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
    let line = unterminated(line);
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

/// Agents without the percent signs of CloudFront and the plus signs of IIS for spaces; all other texts as they stand.
fn decoded<'a>(field: &Field, value: &'a str) -> Text<'a> {
    let mut text: Text<'a> = value.into();
    if *field != Field::Agent {
        return text;
    }
    // CloudFront encoded the percent sign too for some years. What comes out as no text is left.
    for _ in 0..2 {
        if text.contains('%')
            && let Ok(plain) = percent_decode_str(&text).decode_utf8()
        {
            text = plain.into_owned().into();
        }
    }
    if text.contains('+') && !text.contains(' ') {
        text = text.replace('+', " ").into();
    }
    text
}
