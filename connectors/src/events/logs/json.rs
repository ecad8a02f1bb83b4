//! Access logs of one JSON object a line, by the names that servers and people give the members.
//!
//! Nested objects are read as one, names joined by points: Caddy has the request inside `request`. Of several members that
//! say the same the first of this list counts; what is not in it is a property under its name.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::events::fields::What;
use crate::events::strict::{Members, what, whole};

use super::line::{Field, LogLine, Name, Text};

/// What members are called, best first.
const NAMES: [(&str, Field); 88] = [
    ("time_iso8601", Field::Time),
    ("@timestamp", Field::Time),
    ("time_local", Field::Time),
    ("timestamp", Field::Time),
    ("StartUTC", Field::Time),
    ("datetime", Field::Time),
    ("date_time", Field::Time),
    ("time", Field::Time),
    ("ts", Field::Time),
    ("msec", Field::Epoch(1)),
    ("date", Field::Time),
    ("remote_addr", Field::Address),
    ("request.client_ip", Field::Address),
    ("client_ip", Field::Address),
    ("request.remote_ip", Field::Address),
    ("remote_ip", Field::Address),
    ("ClientHost", Field::Address),
    ("clientip", Field::Address),
    ("clientIp", Field::Address),
    ("client.ip", Field::Address),
    ("source.ip", Field::Address),
    ("client.address", Field::Address),
    ("source.address", Field::Address),
    ("remote_host", Field::Address),
    ("remoteHost", Field::Address),
    ("remote", Field::Address),
    ("client", Field::Address),
    ("c-ip", Field::Address),
    ("c_ip", Field::Address),
    ("ip", Field::Address),
    ("http_x_forwarded_for", Field::Forwarded),
    ("x_forwarded_for", Field::Forwarded),
    ("request.headers.X-Forwarded-For", Field::Forwarded),
    ("xff", Field::Forwarded),
    ("request", Field::Request),
    ("request_line", Field::Request),
    ("request_method", Field::Method),
    ("request.method", Field::Method),
    ("RequestMethod", Field::Method),
    ("http.request.method", Field::Method),
    ("http_method", Field::Method),
    ("method", Field::Method),
    ("verb", Field::Method),
    ("request_uri", Field::Target),
    ("request.uri", Field::Target),
    ("RequestPath", Field::Target),
    ("url.original", Field::Target),
    ("uri", Field::Target),
    ("url", Field::Target),
    ("url.path", Field::Target),
    ("path", Field::Target),
    ("request_path", Field::Target),
    ("query_string", Field::Query),
    ("url.query", Field::Query),
    ("args", Field::Query),
    ("query", Field::Query),
    ("server_protocol", Field::Protocol),
    ("request.proto", Field::Protocol),
    ("RequestProtocol", Field::Protocol),
    ("http_version", Field::Protocol),
    ("protocol", Field::Protocol),
    ("status", Field::Status),
    ("DownstreamStatus", Field::Status),
    ("http.response.status_code", Field::Status),
    ("response_status", Field::Status),
    ("status_code", Field::Status),
    ("response_code", Field::Status),
    ("response", Field::Status),
    ("code", Field::Status),
    ("body_bytes_sent", Field::Bytes),
    ("DownstreamContentSize", Field::Bytes),
    ("bytes_sent", Field::Bytes),
    ("size", Field::Bytes),
    ("bytes", Field::Bytes),
    ("http_referer", Field::Referrer),
    ("http_referrer", Field::Referrer),
    ("request.headers.Referer", Field::Referrer),
    ("request_Referer", Field::Referrer),
    ("referer", Field::Referrer),
    ("referrer", Field::Referrer),
    ("http_user_agent", Field::Agent),
    ("request.headers.User-Agent", Field::Agent),
    ("request_User-Agent", Field::Agent),
    ("user_agent.original", Field::Agent),
    ("user_agent", Field::Agent),
    ("userAgent", Field::Agent),
    ("agent", Field::Agent),
    ("remote_user", Field::User),
];

/// Names of members that are kept under a shorter one.
const SHORTER: [(&str, &str); 2] = [("request.host", "host"), ("RequestHost", "host")];

/// How deep objects are read as one; what is deeper is kept as it stands.
const DEPTH: usize = 3;
/// The longest name, in bytes, that those of members inside begin with; an object with a longer one is kept as it stands.
const LONGEST_NAME: usize = 256;

/// Reads a line; `None` if it is no JSON object with a time and a request.
pub(super) fn read<'a>(line: &'a str, out: &mut LogLine<'a>) -> Option<&'static str> {
    if !line.starts_with('{') {
        return None;
    }
    let mut found = Vec::new();
    match whole(line) {
        Cow::Borrowed(line) => collect("", Members::read(line).ok()?, 0, &mut found),
        Cow::Owned(mended) => {
            let mut members = Vec::new();
            collect("", Members::read(&mended).ok()?, 0, &mut members);
            found.extend(members.into_iter().map(|member| -> Member<'a> { member.into_owned() }));
        }
    }
    // An event of this pipeline is no line of a log, whatever else it has.
    if ["event_id", "event_type", "user_id"].iter().all(|name| found.iter().any(|member| member.name == *name)) {
        return None;
    }
    found.sort_by_key(|member| member.rank);
    let called =
        if found.iter().any(|member| member.name == "request.uri") { "Caddy's JSON log" } else { "JSON access log" };
    for Member { name, rank, text } in found {
        let field = NAMES.get(rank).map(|(_, field)| field).filter(|field| is_free(field, out));
        // What a member of the list cannot be it may be under its name; what is not known is nothing.
        let taken = field.is_some_and(|field| out.set(field, text.clone()).is_some());
        if !taken {
            let shorter = SHORTER.iter().find(|(long, _)| *long == name).map(|(_, short)| *short);
            out.keep(shorter.map_or(Name::Text(name), Name::from), text);
        }
    }
    let asked = !out.request.is_empty() || !out.path.is_empty();
    (asked && (out.status.is_some() || !out.address.is_empty())).then_some(called)
}

/// Whether nothing better said the same.
fn is_free(field: &Field, out: &LogLine<'_>) -> bool {
    match field {
        Field::Time | Field::Epoch(_) => out.time.is_none(),
        Field::Address => out.address.is_empty(),
        Field::Forwarded => out.forwarded.is_empty(),
        Field::Request => out.request.is_empty(),
        Field::Method => out.method.is_empty() && out.request.is_empty(),
        Field::Target => out.path.is_empty() && out.request.is_empty(),
        Field::Query => out.query.is_none() && out.request.is_empty(),
        Field::Protocol => out.protocol.is_empty() && out.request.is_empty(),
        Field::Status => out.status.is_none(),
        Field::Bytes => out.bytes.is_none(),
        Field::Referrer => out.referrer.is_empty(),
        Field::Agent => out.agent.is_empty(),
        Field::User => out.user.is_empty(),
        _ => true,
    }
}

/// A member with the place of its name in the list.
struct Member<'a> {
    name: Text<'a>,
    rank: usize,
    text: Text<'a>,
}

impl Member<'_> {
    fn into_owned(self) -> Member<'static> {
        let [name, text] = [self.name, self.text].map(|text| Cow::Owned(text.into_owned()));
        Member { name, rank: self.rank, text }
    }
}

fn collect<'a>(prefix: &str, members: Members<'a>, depth: usize, found: &mut Vec<Member<'a>>) {
    for (key, raw) in members.last_wins() {
        let name: Text<'a> = if prefix.is_empty() { key } else { format!("{prefix}.{key}").into() };
        if what(raw) == What::Object && depth < DEPTH && name.len() <= LONGEST_NAME {
            collect(&name, Members::inside(raw), depth + 1, found);
            continue;
        }
        let text = text_of(raw);
        let rank = NAMES.iter().position(|(known, _)| *known == name).unwrap_or(NAMES.len());
        found.push(Member { name, rank, text });
    }
}

/// A value as a text: of a list of one, that one; of what is null, nothing.
fn text_of(raw: &RawValue) -> Text<'_> {
    let text = raw.get();
    match what(raw) {
        What::Null => "".into(),
        What::Text => (&text[1..text.len() - 1]).into(),
        What::Escaped => serde_json::from_str::<String>(text).map_or(Cow::Borrowed(text), Cow::Owned),
        What::Array => match serde_json::from_str::<Vec<String>>(text) {
            Ok(list) if list.len() == 1 => Cow::Owned(list.into_iter().next().unwrap_or_default()),
            _ => text.into(),
        },
        _ => text.into(),
    }
}
