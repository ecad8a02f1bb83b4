//! The lines of Common and Combined Log Format and of what servers make of them, by one tolerant reader.
//!
//! `[host[:port]] address ident user [time] "request" status bytes ["referrer" "agent" [anything]]`. nginx's packaged `main`
//! has the forwarded address behind the agent, others have times of the request, cookies and more there: what is known is
//! kept by name, the rest as one text. A line is judged by itself, so a file in which the format changed is read whole.

use std::net::IpAddr;

use tidemill_dataflow::time::EventTime;

use super::line::{LogLine, Text, client_of, status};
use super::text::{is_space, number, quoted, skip_space, word};
use super::time;

// What people call the lines.
const COMMON: &str = "Common Log Format";
const COMBINED: &str = "Combined Log Format";
const MAIN: &str = "nginx main";
const VHOST: &str = "vhost_combined";
const MORE: &str = "Combined Log Format with more behind it";

/// Bytes in which a time's closing bracket is looked for.
const LONGEST_TIME: usize = 48;
/// How many collectors of logs may each have put something in front of a line.
const PREFIXES: usize = 4;

/// Reads a line without its terminator; `None` if it does not match.
/// `vhost`: it begins with the host, whatever it looks like.
pub(super) fn read<'a>(line: &'a str, vhost: bool, out: &mut LogLine<'a>) -> Option<&'static str> {
    let (front, time, rest) = split_at_time(line)?;
    out.time = Some(time);
    let with_host = read_front(front, vhost, out)?;
    let (request, rest) = quoted(skip_space(rest), None)?;
    out.request = request.into();
    let (code, rest) = word(skip_space(rest))?;
    if code != "-" {
        out.status = Some(status(code)?);
    }
    let (bytes, rest) = word(skip_space(rest))?;
    if bytes != "-" {
        out.bytes = Some(number(bytes)?);
    }
    let rest = skip_space(rest);
    if rest.is_empty() {
        return Some(if with_host { VHOST } else { COMMON });
    }
    let rest = if rest.starts_with('"') {
        let (referrer, behind) = quoted(rest, None)?;
        let (agent, behind) = quoted(skip_space(behind), None)?;
        (out.referrer, out.agent) = (known(referrer).into(), agent.into());
        skip_space(behind)
    } else {
        rest
    };
    match rest.is_empty() {
        true if with_host => Some(VHOST),
        true => Some(COMBINED),
        false => read_behind(rest, out),
    }
}

/// The line before its time in brackets, the time, and what follows. A bracket in front of it may be an address's.
fn split_at_time(line: &str) -> Option<(&str, EventTime, &str)> {
    let mut from = 0;
    loop {
        let open = from + memchr::memchr(b'[', line.as_bytes().get(from..)?)?;
        let inside = &line[open + 1..];
        let shown = &inside.as_bytes()[..inside.len().min(LONGEST_TIME)];
        if let Some(close) = memchr::memchr(b']', shown)
            && let Some(time) = time::parse(&inside[..close])
        {
            return Some((&line[..open], time, &inside[close + 1..]));
        }
        from = open + 1;
    }
}

/// Reads host, address and user; gives whether there was a host.
fn read_front<'a>(front: &'a str, vhost: bool, out: &mut LogLine<'a>) -> Option<bool> {
    let mut front = skip_space(front);
    let mut prefixes = 0;
    loop {
        let (first, behind) = word(front)?;
        let rest = skip_space(behind);
        let second = word(rest).map_or("", |(second, _)| second);
        if vhost {
            return read_host(first, rest, out).map(|()| true);
        }
        if matches!(second, "" | "-") || first.ends_with(',') || second.starts_with(',') {
            return read_client(front, out).map(|()| false);
        }
        if is_address(second) && is_address(first) {
            // What a proxy says stands before the proxy's own address.
            out.address = client_of(first.into());
            out.keep("proxy".into(), second.into());
            read_user(&rest[second.len()..], out);
            return Some(false);
        }
        let hosted = names_host(first, second, rest);
        if prefixes < PREFIXES
            && let Some(at) = behind_prefix(front, hosted)
        {
            out.keep("prefix".into(), front[..at].trim_end_matches([' ', '\t', ':', '|']).into());
            front = &front[at..];
            prefixes += 1;
            continue;
        }
        return match hosted {
            true => read_host(first, rest, out).map(|()| true),
            false => read_client(front, out).map(|()| false),
        };
    }
}

/// Where the client stands behind what a collector of logs put in front: `Mar 10 10:00:00 web nginx: `, `web-1 | `,
/// `2026-03-10T10:00:00Z stdout F `. The user is what the client says, so nothing in it may count: a mark stands before any
/// address, or right behind one (a collector's host). `hosted`: the line may begin with a host and a client by name.
fn behind_prefix(front: &str, hosted: bool) -> Option<usize> {
    let mut at = 0;
    let mut words = Vec::new();
    while let Some((one, behind)) = word(skip_space(&front[at..])) {
        words.push((front.len() - behind.len() - one.len(), one));
        at = front.len() - behind.len();
    }
    let address = words.iter().position(|(_, one)| is_address(&client_of((*one).into())));
    let is_named = hosted && words.get(2).is_some_and(|(_, ident)| *ident == "-");
    let user = if is_named { 2 } else { address.map_or(words.len(), |row| row + 2) };
    let mark = |(_, one): &(usize, &str)| *one == "|" || one.ends_with(':') && !is_address(one);
    let marked = words.iter().take(user).position(mark);
    let client = match marked {
        Some(row) => row + 1,
        None => address.filter(|row| *row < user)?,
    };
    // Ident and user follow an address; the second word is a host's client.
    (client > 0 && (marked.is_some() || client > 1) && client + 2 < words.len()).then(|| words[client].0)
}

/// Reads `host` or `host:port` and the client behind it.
fn read_host<'a>(first: &'a str, rest: &'a str, out: &mut LogLine<'a>) -> Option<()> {
    let (host, port) = match first.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
        _ => (first, ""),
    };
    out.keep("host".into(), host.into());
    out.keep("port".into(), port.into());
    read_client(rest, out)
}

/// Whether the first word is the host that was asked, and the second the client.
fn names_host(first: &str, second: &str, rest: &str) -> bool {
    if is_address(second.trim_end_matches(',')) {
        return true;
    }
    // Addresses may be host names; then there is a port behind the first, or an ident and a user behind the second.
    let has_port = first.rsplit_once(':').is_some_and(|(host, port)| !host.contains(':') && number(port).is_some());
    let words = rest.split([' ', '\t']).filter(|word| !word.is_empty()).count();
    words >= 3 && second.contains('.') && (has_port || first.contains('.'))
}

/// Reads `address ident user`, where the address may be a list and the user may have spaces.
fn read_client<'a>(front: &'a str, out: &mut LogLine<'a>) -> Option<()> {
    let (mut address, mut rest) = word(front)?;
    while address.ends_with(',') || skip_space(rest).starts_with(',') {
        let Some((_, behind)) = word(skip_space(rest)) else { break };
        address = &front[..front.len() - behind.len()];
        rest = behind;
    }
    if address.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    out.address = match client_of(address.into()) {
        client if client.is_empty() => address.into(),
        client => client,
    };
    read_user(rest, out);
    Some(())
}

/// Reads `ident user`.
fn read_user<'a>(rest: &'a str, out: &mut LogLine<'a>) {
    let (ident, user) = word(skip_space(rest)).unwrap_or_default();
    out.user = known(user.trim_matches([' ', '\t'])).into();
    out.keep("ident".into(), ident.into());
}

fn is_address(text: &str) -> bool {
    let text = text.trim_matches(['[', ']']);
    text.contains(['.', ':']) && text.parse::<IpAddr>().is_ok()
}

/// Reads what stands behind the agent, or behind the bytes of a Common line.
fn read_behind<'a>(all: &'a str, out: &mut LogLine<'a>) -> Option<&'static str> {
    let mut rest = all.trim_end_matches([' ', '\t']);
    let mut unnamed: Option<Text<'a>> = None;
    let mut fields = 0;
    while !rest.is_empty() {
        let (text, value, behind) = match quoted(rest, None) {
            Some((inside, behind)) => (&rest[..rest.len() - behind.len()], inside, behind),
            None => {
                let (text, behind) = bare(rest)?;
                (text, text, behind)
            }
        };
        if !(value.is_empty() || value == "-" || keep_known(text, value, out)) {
            unnamed = Some(match unnamed {
                None => text.into(),
                Some(joined) => {
                    let mut joined = joined.into_owned();
                    joined.push(' ');
                    joined.push_str(text);
                    joined.into()
                }
            });
        }
        fields += 1;
        rest = skip_space(behind);
    }
    if let Some(text) = unnamed {
        out.keep("rest".into(), text);
    }
    let only_forwarded = fields == 1 && (!out.forwarded.is_empty() || rest_is_unknown(all));
    Some(if only_forwarded { MAIN } else { MORE })
}

fn rest_is_unknown(all: &str) -> bool {
    all.starts_with("\"-\"") || all.starts_with("\"\"")
}

/// A word that may have a quoted value in it, as in `rt="0.003 0.002"`; `None` if a quote in it is not closed.
fn bare(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| is_space(byte) || byte == b'"').unwrap_or(text.len());
    if text.as_bytes().get(end) != Some(&b'"') {
        return Some(text.split_at(end));
    }
    let (_, behind) = quoted(&text[end..], None)?;
    Some(text.split_at(text.len() - behind.len()))
}

/// Keeps a field behind the agent whose meaning can be told; gives whether it could.
fn keep_known<'a>(text: &'a str, value: &'a str, out: &mut LogLine<'a>) -> bool {
    if let Some((name, named)) = text.split_once('=')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
    {
        let inside = named.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')).unwrap_or(named);
        return out.keep(name.into(), inside.into());
    }
    if text.starts_with('"') && out.forwarded.is_empty() && is_addresses(value) {
        out.forwarded = value.into();
        return true;
    }
    if is_decimal(value) {
        return out.keep("request_time".into(), value.into()) || out.keep("upstream_time".into(), value.into());
    }
    false
}

fn is_addresses(text: &str) -> bool {
    text.split(',').all(|address| {
        let address = address.trim();
        address == "unknown" || client_of(address.into()).parse::<IpAddr>().is_ok()
    })
}

/// Digits on both sides of a point.
fn is_decimal(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('.').is_some_and(|(whole, fraction)| digits(whole) && digits(fraction))
}

fn known(text: &str) -> &str {
    if text == "-" { "" } else { text }
}
