//! Apache's directives.

use super::layout::{Problem, Token};
use super::line::Field;
use super::nginx::place;
use super::strftime::Stamp;

/// The parts of a format.
pub(super) fn tokens(format: &str) -> Result<Vec<Token>, Problem> {
    let mut tokens = Vec::new();
    let mut text = String::new();
    // Times may be put together from several directives.
    let mut time: Option<Time> = None;
    let has_bytes = format.contains("%b") || format.contains("%B");
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        let place = place(format, rest, at);
        let directive = Directive::read(&rest[at + 1..], place)?;
        rest = &rest[at + 1 + directive.length..];
        if directive.letter == '%' {
            text.push('%');
            continue;
        }
        let whole = directive.whole();
        if directive.letter == 't' && directive.parameter.is_some() {
            let between = std::mem::take(&mut text);
            let part = pattern(directive.parameter.unwrap_or_default());
            match &mut time {
                Some(time) => {
                    time.pattern.push_str(&between.replace('%', "%%"));
                    time.pattern.push_str(&part);
                }
                None => {
                    push_text(&mut tokens, between);
                    time = Some(Time { pattern: part, place, whole });
                }
            }
            continue;
        }
        end_time(&mut tokens, time.take())?;
        let between = std::mem::take(&mut text);
        match directive.letter {
            't' => {
                push_text(&mut tokens, between + "[");
                tokens.push(Token::Field(Field::Time, place, whole));
                text.push(']');
            }
            _ => {
                push_text(&mut tokens, between);
                tokens.push(Token::Field(directive.field(has_bytes)?, place, whole));
            }
        }
    }
    end_time(&mut tokens, time.take())?;
    text.push_str(rest);
    push_text(&mut tokens, text);
    Ok(tokens)
}

fn push_text(tokens: &mut Vec<Token>, text: String) {
    match tokens.last_mut() {
        _ if text.is_empty() => {}
        Some(Token::Text(before)) => before.push_str(&text),
        _ => tokens.push(Token::Text(text)),
    }
}

/// A time that is put together.
struct Time {
    pattern: String,
    place: usize,
    whole: String,
}

fn end_time(tokens: &mut Vec<Token>, time: Option<Time>) -> Result<(), Problem> {
    let Some(Time { pattern, place, whole, .. }) = time else { return Ok(()) };
    let field = match pattern.as_str() {
        "%s" => Field::Epoch(1),
        "%s%3f" => Field::Epoch(1_000),
        "%s%6f" => Field::Epoch(1_000_000),
        "%Y-%m-%dT%H:%M:%S%z" | "%FT%T%z" | "%d/%b/%Y:%H:%M:%S %z" | "%d/%b/%Y:%T %z" => Field::Time,
        _ => {
            let stamp = Stamp::new(&pattern).ok_or_else(|| {
                Problem(format!("at character {place}: {whole} is no format of strftime; correct it, or use %t"))
            })?;
            if !stamp.has_date() {
                return Err(Problem(format!(
                    "at character {place}: {whole} has no date, so no line would have a time; add %Y-%m-%d, or use %t"
                )));
            }
            Field::Stamp(stamp)
        }
    };
    tokens.push(Token::Field(field, place, whole));
    Ok(())
}

/// What stands in `%{..}t`, in the words of strftime.
fn pattern(parameter: &str) -> String {
    let parameter = parameter.strip_prefix("begin:").or_else(|| parameter.strip_prefix("end:")).unwrap_or(parameter);
    match parameter {
        "sec" => "%s".to_owned(),
        "msec" => "%s%3f".to_owned(),
        "usec" => "%s%6f".to_owned(),
        "msec_frac" => "%3f".to_owned(),
        "usec_frac" => "%6f".to_owned(),
        _ => parameter.to_owned(),
    }
}

/// `%`, modifiers, a parameter in braces, a letter.
struct Directive<'a> {
    parameter: Option<&'a str>,
    letter: char,
    /// Bytes behind the percent sign.
    length: usize,
    place: usize,
}

impl<'a> Directive<'a> {
    fn read(text: &'a str, place: usize) -> Result<Self, Problem> {
        let modifier = |c: char| matches!(c, '<' | '>' | '!' | ',') || c.is_ascii_digit();
        let mut rest = text.trim_start_matches(modifier);
        let mut parameter = None;
        if let Some(inside) = rest.strip_prefix('{') {
            let end =
                inside.find('}').ok_or_else(|| Problem(format!("at character {place}: %{{ is not closed by }}")))?;
            parameter = Some(&inside[..end]);
            rest = inside[end + 1..].trim_start_matches(modifier);
        }
        // `%^ti` and `%^to` are of trailers, `%^FB` and `%^FU` of first bytes.
        let (rest, marks) = match rest.strip_prefix('^') {
            Some(behind) if behind.starts_with('t') => (&behind[1..], 2),
            Some(behind) if behind.starts_with("FB") || behind.starts_with("FU") => (behind, 1),
            _ => (rest, 0),
        };
        let Some(letter) = rest.chars().next() else {
            return Err(Problem(format!(
                "at character {place}: % without a letter; write a directive such as %h, or %% for a %"
            )));
        };
        let length = text.len() - rest.len() + if marks == 1 { 2 } else { letter.len_utf8() };
        Ok(Directive { parameter, letter, length, place })
    }

    fn whole(&self) -> String {
        match self.parameter {
            Some(parameter) => format!("%{{{parameter}}}{}", self.letter),
            None => format!("%{}", self.letter),
        }
    }

    fn field(&self, has_bytes: bool) -> Result<Field, Problem> {
        let named = |kind: &str| {
            let name = self.parameter.unwrap_or_default().to_ascii_lowercase().replace('-', "_");
            Field::Other(format!("{kind}_{name}").into())
        };
        let other = |name: &str| Field::Other(name.into());
        Ok(match (self.letter, self.parameter) {
            ('h', None) | ('a', None) => Field::Address,
            ('a' | 'h', Some("c")) => other("peer"),
            ('A', _) => other("local_address"),
            ('l', None) => Field::Skip,
            ('u', None) => Field::User,
            ('r', None) => Field::Request,
            ('m', None) => Field::Method,
            ('U', None) => Field::Path,
            ('q', None) => Field::Query,
            ('H', None) => Field::Protocol,
            ('s', None) => Field::Status,
            ('b' | 'B', None) => Field::Bytes,
            ('O', None) if !has_bytes => Field::Bytes,
            ('O', None) => other("bytes_sent"),
            ('I', None) => other("bytes_received"),
            ('S', None) => other("bytes_transferred"),
            ('v' | 'V', None) => other("host"),
            ('p', None | Some("canonical" | "local")) => other("port"),
            ('p', Some("remote")) => other("remote_port"),
            ('D', None) | ('T', Some("us")) => other("request_time_us"),
            ('T', Some("ms")) => other("request_time_ms"),
            ('T', None | Some("s")) => other("request_time"),
            ('f', None) => other("file"),
            ('F', None) => other("first_byte_time"),
            ('k', None) => other("keepalive_requests"),
            ('L', _) => other("log_id"),
            ('P', _) => other("process"),
            ('R', None) => other("handler"),
            ('X', None) => other("connection_status"),
            ('i', Some(header)) => match header.to_ascii_lowercase().as_str() {
                "referer" => Field::Referrer,
                "user-agent" => Field::Agent,
                "x-forwarded-for" | "x-real-ip" | "cf-connecting-ip" | "true-client-ip" => Field::Forwarded,
                _ => named("http"),
            },
            ('o', Some(_)) => named("sent_http"),
            ('C', Some(_)) => named("cookie"),
            ('e', Some(_)) => named("env"),
            ('n', Some(_)) => named("note"),
            ('x', Some(_)) => named("ssl"),
            _ => {
                let (place, whole) = (self.place, self.whole());
                return Err(Problem(format!(
                    "at character {place}: {whole} is no directive of Apache; see the list of mod_log_config, or write %% for a %"
                )));
            }
        })
    }
}
