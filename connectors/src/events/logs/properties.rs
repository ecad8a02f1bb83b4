//! What of a line is kept beside the columns: everything but the client's address, the agent and the time.

use std::borrow::Cow;
use std::fmt::Write;

use crate::dead_letters::mask_addresses;
use crate::events::push_text;

use super::line::{LogLine, Request};

/// Writes the properties as a JSON object; what the server did not know is left out, and addresses are masked where they are
/// no part of the request.
pub(super) fn write(line: &LogLine<'_>, request: Option<Request<'_>>, out: &mut String) {
    let known = |text| Some(text).filter(|text| !matches!(*text, "" | "-"));
    let whole = Some(&*line.request).filter(|text| request.is_none() && !text.is_empty());
    let mut members = Members { out, separator: '{' };
    for (name, text) in [
        ("method", request.and_then(|r| known(r.method))),
        ("path", request.map(|r| r.path)),
        ("query", request.and_then(|r| r.query)),
        ("protocol", request.and_then(|r| known(r.protocol))),
        ("request", whole),
    ] {
        if let Some(text) = text {
            members.text(name, text);
        }
    }
    for (name, number) in [("status", line.status.map(u64::from)), ("bytes", line.bytes)] {
        if let Some(number) = number {
            members.number(name, number);
        }
    }
    for (name, text) in [("referrer", known(&line.referrer)), ("user", known(&line.user))] {
        if let Some(text) = text {
            members.text(name, text);
        }
    }
    if !line.forwarded.is_empty() {
        members.other("forwarded_for", &line.forwarded);
    }
    for (name, text) in &line.others {
        members.other(name, text);
    }
    members.end();
}

/// An object while it is written.
struct Members<'a> {
    out: &'a mut String,
    separator: char,
}

impl Members<'_> {
    fn name(&mut self, name: &str) {
        self.out.push(self.separator);
        self.separator = ',';
        push_text(self.out, name);
        self.out.push(':');
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        push_text(self.out, text);
    }

    fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        write!(self.out, "{number}").expect("a String takes all that is written");
    }

    /// A text that is written as a number where it is one, else with its addresses masked.
    fn other(&mut self, name: &str, text: &str) {
        if is_number(text) {
            self.name(name);
            self.out.push_str(text);
            return;
        }
        match mask_addresses(text.as_bytes()) {
            Cow::Borrowed(_) => self.text(name, text),
            Cow::Owned(masked) => self.text(name, &String::from_utf8_lossy(&masked)),
        }
    }

    fn end(self) {
        self.out.push_str(if self.separator == '{' { "{}" } else { "}" });
    }
}

/// Whether a text is a number as JSON writes it and every reader can hold it.
fn is_number(text: &str) -> bool {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.len() <= 15 && digits(whole) && digits(fraction) && (whole == "0" || !whole.starts_with('0'))
}

#[cfg(test)]
mod tests {
    use super::is_number;

    #[test]
    fn only_what_json_calls_a_number_is_one() {
        for (text, number) in [
            ("0", true),
            ("12", true),
            ("0.003", true),
            ("10.50", true),
            ("007", false),
            ("", false),
            (".5", false),
            ("5.", false),
            ("1e9", false),
            ("-1", false),
            ("1.2.3", false),
            ("1234567890123456", false),
        ] {
            assert_eq!(is_number(text), number, "{text}");
        }
    }
}
