//! What a line of any log says, borrowed from it, and what a field's text means.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Deref;
use std::sync::Arc;

use tidemill_dataflow::time::EventTime;

use super::strftime::Stamp;
use super::text::number;
use super::time;

/// A text from a line: a piece of it, or made of one with escapes.
pub(in crate::events) type Text<'a> = Cow<'a, str>;

/// A property's name: a format's, or one that stands in the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::events) enum Name<'a> {
    Shared(Arc<str>),
    Text(Text<'a>),
}

impl Deref for Name<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Name::Shared(name) => name,
            Name::Text(name) => name,
        }
    }
}

impl<'a> From<&'a str> for Name<'a> {
    fn from(name: &'a str) -> Self {
        Name::Text(name.into())
    }
}

/// What a field of a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// Whoever sent the request; of several, the first is the client.
    Address,
    /// A proxy's address behind the client's; the client's where that is not known.
    Proxy,
    /// The same as a proxy says it: a property, and the client where nothing better is known.
    Forwarded,
    User,
    Agent,
    Referrer,
    /// A time with its date, of any kind that can be told.
    Time,
    /// A number since 1970 that counts so many units a second.
    Epoch(i64),
    /// A time in a format of its own.
    Stamp(Stamp),
    /// A time in two fields, in UTC.
    Date,
    Clock,
    /// `GET /a?b=c HTTP/1.1`.
    Request,
    Method,
    /// Path and query.
    Target,
    Path,
    Query,
    Protocol,
    Status,
    Bytes,
    /// Kept as a property of this name.
    Other(Arc<str>),
    Skip,
}

/// What a line says. Texts that the server did not know are empty.
#[derive(Debug, Default)]
pub(in crate::events) struct LogLine<'a> {
    pub(in crate::events) time: Option<EventTime>,
    pub(super) address: Text<'a>,
    pub(super) forwarded: Text<'a>,
    pub(super) user: Text<'a>,
    pub(super) agent: Text<'a>,
    pub(super) referrer: Text<'a>,
    pub(super) request: Text<'a>,
    pub(super) method: Text<'a>,
    pub(super) path: Text<'a>,
    pub(super) query: Option<Text<'a>>,
    pub(super) protocol: Text<'a>,
    pub(super) status: Option<u16>,
    pub(super) bytes: Option<u64>,
    /// What has no place of its own, by name.
    pub(super) others: Vec<(Name<'a>, Text<'a>)>,
    /// The names of `others`, where there are more than [`SEARCHED`].
    names: Option<HashSet<String>>,
    pub(super) date: &'a str,
    pub(super) clock: &'a str,
}

/// A request taken apart; what is not known is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    pub(super) protocol: &'a str,
}

/// The names of properties that are not `others`.
const NAMES: [&str; 10] =
    ["method", "path", "query", "protocol", "request", "status", "bytes", "referrer", "user", "forwarded_for"];

/// Among so many names one is looked for without an index.
const SEARCHED: usize = 32;

impl<'a> LogLine<'a> {
    /// Makes room for the next line.
    pub(super) fn clear(&mut self) {
        let mut others = std::mem::take(&mut self.others);
        others.clear();
        *self = LogLine { others, ..LogLine::default() };
    }

    /// Takes a field's text; `None` if it cannot be what the field is.
    pub(super) fn set(&mut self, field: &Field, text: Text<'a>) -> Option<()> {
        // An agent that is not known is one of those that tell users apart.
        if is_unknown(&text) && *field != Field::Agent {
            return Some(());
        }
        match field {
            Field::Address => take(&mut self.address, client_of(text)),
            Field::Proxy if self.address.is_empty() => self.address = client_of(text),
            Field::Proxy => {
                self.keep("proxy".into(), text);
            }
            Field::Forwarded => take(&mut self.forwarded, text),
            Field::User => take(&mut self.user, text),
            Field::Agent => take(&mut self.agent, text),
            Field::Referrer => take(&mut self.referrer, text),
            Field::Time => self.time = Some(time::parse(&text)?),
            Field::Epoch(per_second) => self.time = Some(time::epoch(&text, Some(*per_second))?),
            Field::Date => self.date = borrowed(&text)?,
            Field::Clock => self.clock = borrowed(&text)?,
            Field::Request => take(&mut self.request, text),
            Field::Method => take(&mut self.method, text),
            Field::Target => self.set_target(text),
            Field::Path => take(&mut self.path, text),
            Field::Query => self.query = Some(without_mark(text)),
            Field::Protocol => take(&mut self.protocol, text),
            Field::Status => self.status = Some(status(&text)?),
            Field::Bytes => self.bytes = Some(number(&text)?),
            Field::Stamp(stamp) => self.time = Some(stamp.parse(&text)?),
            Field::Other(name) => {
                self.keep(Name::Shared(Arc::clone(name)), text);
            }
            Field::Skip => {}
        }
        Some(())
    }

    fn set_target(&mut self, target: Text<'a>) {
        let (path, query) = match target {
            Cow::Borrowed(target) => {
                let (path, query) = split_target(target);
                (path.into(), query.map(Cow::Borrowed))
            }
            Cow::Owned(target) => {
                let (path, query) = split_target(&target);
                (path.to_owned().into(), query.map(|query| query.to_owned().into()))
            }
        };
        (self.path, self.query) = (path, query);
    }

    /// Keeps a text under its name, unless the server did not know it; gives whether the name was free.
    pub(super) fn keep(&mut self, name: Name<'a>, text: Text<'a>) -> bool {
        if is_unknown(&text) {
            return true;
        }
        let free = !NAMES.contains(&&*name) && self.is_free(&name);
        if free {
            self.others.push((name, text));
        }
        free
    }

    /// Whether no other text has the name, which the caller then gives it.
    fn is_free(&mut self, name: &str) -> bool {
        if self.others.len() < SEARCHED {
            return self.others.iter().all(|(other, _)| **other != *name);
        }
        let others = &self.others;
        let names = self.names.get_or_insert_with(|| others.iter().map(|(other, _)| (**other).to_owned()).collect());
        names.insert(name.to_owned())
    }

    /// The line as it stands when all of its fields were taken; `None` if it has no time.
    pub(super) fn finish(&mut self) -> Option<()> {
        if self.time.is_none() && !self.date.is_empty() {
            self.time = time::of_date_and_clock(self.date, self.clock);
        }
        if self.address.is_empty() && !self.forwarded.is_empty() {
            self.address = client_of(self.forwarded.clone());
        }
        self.time.map(|_| ())
    }

    /// The request's parts; of a whole request `None` for anything but `METHOD TARGET PROTOCOL`.
    ///
    /// A target with spaces in it, which no client may send but some do, reaches to the last one.
    pub(super) fn parts(&self) -> Option<Request<'_>> {
        if self.request.is_empty() {
            let query = self.query.as_deref();
            let parts = Request { method: &self.method, path: &self.path, query, protocol: &self.protocol };
            return (!self.path.is_empty()).then_some(parts);
        }
        let (method, rest) = self.request.split_once(' ')?;
        let (target, protocol) = rest.rsplit_once(' ')?;
        let is_method = !method.is_empty() && method.bytes().all(|b| b.is_ascii_graphic());
        if !is_method || target.is_empty() || !protocol.starts_with("HTTP/") {
            return None;
        }
        let (path, query) = split_target(target);
        Some(Request { method, path, query, protocol })
    }
}

impl Request<'_> {
    /// Whether the path names something that a page is made of, by its extension in any case.
    pub(super) fn is_asset(&self) -> bool {
        const ASSETS: [&str; 19] = [
            "css", "js", "mjs", "map", "png", "jpg", "jpeg", "gif", "svg", "ico", "webp", "avif", "woff", "woff2",
            "ttf", "eot", "mp4", "webm", "mp3",
        ];
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').is_some_and(|(_, extension)| ASSETS.iter().any(|a| a.eq_ignore_ascii_case(extension)))
    }
}

/// Whether the server says that it does not know.
fn is_unknown(text: &str) -> bool {
    matches!(text, "" | "-")
}

/// The first that is known counts.
fn take<'a>(place: &mut Text<'a>, text: Text<'a>) {
    if place.is_empty() {
        *place = text;
    }
}

fn borrowed<'a>(text: &Text<'a>) -> Option<&'a str> {
    match text {
        Cow::Borrowed(text) => Some(text),
        Cow::Owned(_) => None,
    }
}

fn split_target(target: &str) -> (&str, Option<&str>) {
    match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    }
}

fn without_mark(query: Text<'_>) -> Text<'_> {
    match query {
        Cow::Borrowed(query) => query.strip_prefix('?').unwrap_or(query).into(),
        Cow::Owned(query) => query.strip_prefix('?').map(str::to_owned).unwrap_or(query).into(),
    }
}

/// Three digits.
pub(super) fn status(text: &str) -> Option<u16> {
    if text.len() == 3 { u16::try_from(number(text)?).ok() } else { None }
}

/// The client of a list of addresses, without brackets and port.
pub(super) fn client_of(text: Text<'_>) -> Text<'_> {
    match text {
        Cow::Borrowed(text) => client(text).into(),
        Cow::Owned(text) => client(&text).to_owned().into(),
    }
}

fn client(list: &str) -> &str {
    // Most are one address of IPv4, which is longer than any word for none.
    if list.len() > "unknown".len() && memchr::memchr3(b',', b':', b'[', list.as_bytes()).is_none() {
        return list;
    }
    let known = |address: &&str| !matches!(*address, "" | "-" | "unknown" | "unix:");
    let address = list.split(',').map(str::trim).find(known).unwrap_or_default();
    if let Some((inside, _)) = address.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return inside;
    }
    match address.split_once(':') {
        // Of an IPv6 address nobody knows which colon would be the port's.
        Some((host, port))
            if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && host.contains('.') =>
        {
            host
        }
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_of_a_list_is_the_client() {
        for (list, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("198.51.100.7, 10.0.0.1", "198.51.100.7"),
            ("unknown, 198.51.100.7,10.0.0.1", "198.51.100.7"),
            ("-", ""),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("host.example", "host.example"),
            ("unix:", ""),
        ] {
            assert_eq!(client_of(list.into()), expected, "{list}");
        }
    }

    #[test]
    fn odd_requests_have_no_parts() {
        for (request, parts) in [
            ("GET /a HTTP/1.1", true),
            (r"\x16\x03\x01", false),
            ("GET /", false),
            ("GET / FTP", false),
            ("GET /a b HTTP/1.0", true),
            ("GET  HTTP/1.0", false),
            ("* * HTTP/1.1", true),
        ] {
            let line = LogLine { request: request.into(), ..LogLine::default() };
            assert_eq!(line.parts().is_some(), parts, "{request}");
        }
        let line = LogLine { request: "GET /a?b=c HTTP/1.1".into(), ..LogLine::default() };
        let request = Request { method: "GET", path: "/a", query: Some("b=c"), protocol: "HTTP/1.1" };
        assert_eq!(line.parts(), Some(request));
    }

    #[test]
    fn assets_are_told_by_the_extension_of_the_last_part() {
        for (path, asset) in [
            ("/a.css", true),
            ("/A.PNG", true),
            ("/a.tar.woff2", true),
            ("/a.css/", false),
            ("/a.css/b", false),
            ("/a.html", false),
            ("/css", false),
            ("/a.", false),
        ] {
            let request = Request { method: "GET", path, query: None, protocol: "HTTP/1.1" };
            assert_eq!(request.is_asset(), asset, "{path}");
        }
    }
}
