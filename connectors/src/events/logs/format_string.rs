//! Format strings of nginx and Apache, as people copy them from their configuration.
//!
//! `log_format main '$remote_addr - ...' '...';` and `LogFormat "%h %l %u ..." combined` are taken with their name, quotes,
//! line breaks and semicolon, and so is what stands in the quotes.

use super::layout::{Layout, Problem, Token};
use super::line::Field;
use super::{apache, nginx};

/// Whether a text is a format string, and no format's name.
pub(in crate::events) fn is_format(text: &str) -> bool {
    text.contains(['$', '%'])
}

/// Compiles a format string.
pub(super) fn compile(text: &str) -> Result<Layout, Problem> {
    let inside = unquoted(text)?;
    let tokens = match inside.of_nginx {
        true => nginx::tokens(&inside.text)?,
        false => apache::tokens(&inside.text)?,
    };
    let tokens = told_apart(&tokens);
    let layout = Layout::new(text, tokens)?;
    check(&layout, inside.of_nginx)?;
    Ok(layout)
}

/// What stands in the quotes of a directive.
struct Inside {
    text: String,
    of_nginx: bool,
}

fn unquoted(given: &str) -> Result<Inside, Problem> {
    let text = given.trim().trim_start_matches('\u{feff}');
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if first == "log_format" {
        let (_name, rest) = rest.trim_start().split_once(char::is_whitespace).unwrap_or(("", ""));
        let rest = rest.trim_start();
        let rest = match rest.strip_prefix("escape=") {
            Some(rest) => rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start()),
            None => rest,
        };
        return Ok(Inside { text: joined(rest)?, of_nginx: true });
    }
    if first.eq_ignore_ascii_case("LogFormat") || first.eq_ignore_ascii_case("CustomLog") {
        let start =
            rest.find('"').ok_or_else(|| Problem(format!("{first} has no format in quotes; give all of the line")))?;
        return Ok(Inside { text: first_quoted(&rest[start..])?, of_nginx: false });
    }
    let of_nginx = has_variable(text);
    let text = match text.strip_prefix('\'') {
        Some(_) => joined(text)?,
        // What was copied from within an Apache directive has its quotes escaped.
        None if !of_nginx => whole_quoted(text).unwrap_or_else(|| text.to_owned()).replace("\\\"", "\""),
        None => text.trim_end_matches(';').to_owned(),
    };
    if of_nginx || text.contains('%') {
        return Ok(Inside { text, of_nginx });
    }
    Err(Problem("there is no variable in it; write nginx's ($remote_addr) or Apache's (%h)".to_owned()))
}

fn has_variable(text: &str) -> bool {
    text.match_indices('$').any(|(at, _)| {
        text[at + 1..].starts_with(|next: char| next.is_ascii_alphabetic() || next == '{' || next == '_')
    })
}

/// The texts of several quoted pieces, as nginx joins them; what is in no quotes up to the semicolon.
fn joined(text: &str) -> Result<String, Problem> {
    let mut out = String::new();
    let mut rest = text.trim_start();
    while let Some(quote) = rest.chars().next().filter(|first| *first != ';') {
        if quote == '#' {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
            continue;
        }
        if quote != '\'' && quote != '"' {
            let end = rest.find(';').unwrap_or(rest.len());
            out.push_str(rest[..end].trim_end());
            break;
        }
        let mut escaped = false;
        let mut end = None;
        for (at, next) in rest.char_indices().skip(1) {
            match next {
                _ if escaped => {
                    if !matches!(next, '\'' | '"' | '\\') {
                        out.push('\\');
                    }
                    out.push(next);
                    escaped = false;
                }
                '\\' => escaped = true,
                _ if next == quote => {
                    end = Some(at + 1);
                    break;
                }
                _ => out.push(next),
            }
        }
        let end = end.ok_or_else(|| Problem(format!("a quote {quote} is not closed; give the whole directive")))?;
        rest = rest[end..].trim_start();
    }
    Ok(out)
}

/// The inside of the quoted text that `text` begins with, escapes undone.
fn first_quoted(text: &str) -> Result<String, Problem> {
    let mut out = String::new();
    let mut escaped = false;
    for next in text.chars().skip(1) {
        match next {
            _ if escaped => {
                match next {
                    '"' | '\\' => {}
                    't' => {
                        out.push('\t');
                        escaped = false;
                        continue;
                    }
                    _ => out.push('\\'),
                }
                out.push(next);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Ok(out),
            _ => out.push(next),
        }
    }
    Err(Problem("a quote \" is not closed; give all of the line".to_owned()))
}

/// The inside of a text that is one quoted text, with nothing but a name behind it.
fn whole_quoted(text: &str) -> Option<String> {
    let inside = text.strip_prefix('"').filter(|inside| inside.contains("\\\""))?;
    let end = inside.rfind('"')?;
    let name = &inside[end + 1..];
    (!inside[..end].ends_with('\\') && !name.contains(['%', '"'])).then(|| inside[..end].to_owned())
}

/// Of fields that say the same the first counts; the others are properties under their names.
fn told_apart(tokens: &[Token]) -> Vec<Token> {
    let has = |wanted: &[Field]| {
        tokens.iter().any(|token| matches!(token, Token::Field(field, ..) if wanted.contains(field)))
    };
    let (has_request, has_target) = (has(&[Field::Request]), has(&[Field::Target]));
    let first = tokens.iter().find_map(|token| if let Token::Field(field, ..) = token { Some(field) } else { None });
    let led = first == Some(&Field::Forwarded) && has(&[Field::Address]);
    let mut seen: Vec<Field> = Vec::new();
    let is_time = |field: &Field| matches!(field, Field::Time | Field::Epoch(_) | Field::Stamp(_));
    let mut out = Vec::with_capacity(tokens.len());
    for token in tokens {
        let Token::Field(field, place, name) = token.clone() else {
            out.push(token.clone());
            continue;
        };
        // What a proxy says of the client in front of its own address is the client.
        let field = match field {
            Field::Forwarded if led && seen.is_empty() => Field::Address,
            Field::Address if led => Field::Proxy,
            field => field,
        };
        let of_request = matches!(field, Field::Method | Field::Target | Field::Path | Field::Query | Field::Protocol)
            && has_request;
        let of_target = matches!(field, Field::Path | Field::Query) && has_target;
        let again = seen.contains(&field) || is_time(&field) && seen.iter().any(is_time);
        let own = !matches!(field, Field::Other(_) | Field::Skip);
        let field = match own && (of_request || of_target || again) {
            true => Field::Other(property(&name).into()),
            false => field,
        };
        seen.push(field.clone());
        out.push(Token::Field(field, place, name));
    }
    out
}

/// A variable's name as a property's.
fn property(variable: &str) -> String {
    let name: String = variable.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).collect();
    match name.as_str() {
        // Names of properties that are made of the request.
        "status" | "request" => format!("{name}_again"),
        _ => name.to_ascii_lowercase(),
    }
}

/// A format without a time, or without anything that was asked for, makes no events.
fn check(layout: &Layout, of_nginx: bool) -> Result<(), Problem> {
    let has = |wanted: fn(&Field) -> bool| layout.fields().any(wanted);
    if !has(|field| matches!(field, Field::Time | Field::Epoch(_) | Field::Stamp(_))) {
        let remedy = if of_nginx { "$time_local, $time_iso8601 or $msec" } else { "%t" };
        return Err(Problem(format!("there is no time in it ({remedy}): without one no line is an event")));
    }
    if !has(|field| matches!(field, Field::Request | Field::Target | Field::Path)) {
        let remedy = if of_nginx { "$request, $request_uri or $uri" } else { "%r or %U" };
        return Err(Problem(format!("there is no request in it ({remedy}): without one no line is a page view")));
    }
    Ok(())
}
