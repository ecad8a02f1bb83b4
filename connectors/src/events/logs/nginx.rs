//! nginx's variables.

use super::layout::{Problem, Token};
use super::line::Field;

/// What each variable means that is no property under its own name.
const KNOWN: [(&str, Field); 22] = [
    ("remote_addr", Field::Address),
    ("http_x_forwarded_for", Field::Forwarded),
    ("proxy_add_x_forwarded_for", Field::Forwarded),
    ("http_x_real_ip", Field::Forwarded),
    ("http_cf_connecting_ip", Field::Forwarded),
    ("http_true_client_ip", Field::Forwarded),
    ("remote_user", Field::User),
    ("time_local", Field::Time),
    ("time_iso8601", Field::Time),
    ("msec", Field::Epoch(1)),
    ("request", Field::Request),
    ("request_method", Field::Method),
    ("request_uri", Field::Target),
    ("uri", Field::Path),
    ("document_uri", Field::Path),
    ("args", Field::Query),
    ("query_string", Field::Query),
    ("server_protocol", Field::Protocol),
    ("status", Field::Status),
    ("body_bytes_sent", Field::Bytes),
    ("http_referer", Field::Referrer),
    ("http_user_agent", Field::Agent),
];

/// What a variable means.
pub(super) fn field(name: &str) -> Field {
    let known = KNOWN.into_iter().find(|(known, _)| *known == name);
    known.map_or_else(|| Field::Other(name.into()), |(_, field)| field)
}

/// The parts of a format.
pub(super) fn tokens(format: &str) -> Result<Vec<Token>, Problem> {
    let mut tokens = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find('$') {
        if at > 0 {
            tokens.push(Token::Text(rest[..at].to_owned()));
        }
        let place = place(format, rest, at);
        let behind = &rest[at + 1..];
        let (name, whole) = match behind.strip_prefix('{') {
            Some(inside) => {
                let end = inside
                    .find('}')
                    .ok_or_else(|| Problem(format!("at character {place}: ${{ is not closed by }}")))?;
                (&inside[..end], end + 2)
            }
            None => {
                let end = behind.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(behind.len());
                (&behind[..end], end)
            }
        };
        if name.is_empty() {
            return Err(Problem(format!(
                "at character {place}: $ without a name; write a variable such as $remote_addr"
            )));
        }
        if let Some(meant) = mistyped(name, format) {
            return Err(Problem(format!("at character {place}: ${name} is no variable of nginx; is ${meant} meant?")));
        }
        tokens.push(Token::Field(field(name), place, format!("${name}")));
        rest = &behind[whole..];
    }
    if !rest.is_empty() {
        tokens.push(Token::Text(rest.to_owned()));
    }
    Ok(tokens)
}

/// The place in a format, in characters from 1.
pub(super) fn place(format: &str, rest: &str, at: usize) -> usize {
    format[..format.len() - rest.len() + at].chars().count() + 1
}

/// The variable that one is meant to be from which it differs by one letter, unless that stands in the format as well.
fn mistyped(name: &str, format: &str) -> Option<&'static str> {
    // Names that people give variables of their own are like these.
    const NOT_MEANT: [&str; 3] = ["request", "request_uri", "document_uri"];
    if KNOWN.iter().any(|(known, _)| *known == name) {
        return None;
    }
    KNOWN.iter().map(|(known, _)| *known).find(|known| {
        known.len() >= 6
            && !NOT_MEANT.contains(known)
            && one_apart(name, known)
            && !format.contains(&format!("${known}"))
    })
}

/// Whether two names differ by one letter that is missing, too many, wrong, or changed places with its neighbour.
fn one_apart(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same..], &b[same..]);
    match (a, b) {
        ([], [_]) | ([_], []) => true,
        ([_, a @ ..], [_, b @ ..]) if a == b => true,
        ([_, rest @ ..], b) if rest == b => true,
        (a, [_, rest @ ..]) if rest == a => true,
        ([x, y, a @ ..], [v, w, b @ ..]) => x == w && y == v && a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_apart_is_a_typo() {
        for (a, b, apart) in [
            ("remote_adr", "remote_addr", true),
            ("remote_adddr", "remote_addr", true),
            ("remote_sddr", "remote_addr", true),
            ("reomte_addr", "remote_addr", true),
            ("remote_addr", "remote_addr", false),
            ("remote_port", "remote_addr", false),
            ("", "a", true),
        ] {
            assert_eq!(one_apart(a, b), apart, "{a}");
        }
    }
}
