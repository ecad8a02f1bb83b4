//! Decodes web server logs (Common and Combined Log Format) to events.
//!
//! A user is a pseudonym: keyed BLAKE3 over address and agent, so that without the key nobody finds the address
//! again, and it stands nowhere else in the event. An event's id is made of the file and the line's offset in it: two equal
//! lines are two events, and no id can come twice ([`IdOrigin::Place`]).

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;

use tidemill_dataflow::hash::{hash64, hash128};
use tidemill_dataflow::source::{Block, DeadLetter, Decode, Decoded};

use crate::dead_letters::mask_addresses;

use super::block_text::{SideText, Span};
use super::event::{Event, EventKind, IdOrigin, Misfit};
use super::extra::push_text;
use super::lines::{TextBlock, apart, is_blank, line_end, set_aside};
use super::log_line::LogLine;

/// The key that makes users of web server logs from addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey([u8; 32]);

impl HashKey {
    /// The key derived from a secret text.
    #[must_use]
    pub fn from_secret(secret: &str) -> HashKey {
        HashKey(blake3::derive_key("tidemill 2025 web server log users", secret.as_bytes()))
    }

    /// A short mark by which another key is noticed; it tells nothing of the key but whether it is this one.
    pub(crate) fn mark(&self) -> String {
        let mark = blake3::keyed_hash(&self.0, b"mark").to_hex();
        mark[..8].to_owned()
    }

    /// The first 64 bits of the keyed hash of address, a zero byte and agent, in hexadecimal digits.
    fn user(&self, address: &str, agent: &str, out: &mut String) {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(address.as_bytes()).update(&[0]).update(agent.as_bytes());
        out.push_str(&hasher.finalize().to_hex()[..16]);
    }
}

/// The key of everybody who sets none: addresses can then be found again by trying them all.
impl Default for HashKey {
    fn default() -> Self {
        HashKey::from_secret("tidemill: no TIDEMILL_HASH_KEY was set")
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// Decodes blocks of log lines of one file. What does not match the format is a dead letter with its address masked.
#[derive(Clone, Debug)]
pub struct CombinedDecoder {
    file: u128,
    key: HashKey,
}

impl CombinedDecoder {
    /// A decoder for the file of this name, which becomes part of every event id.
    #[must_use]
    pub fn new(file: &str, key: HashKey) -> CombinedDecoder {
        CombinedDecoder { file: hash128(file.as_bytes(), 0), key }
    }

    fn event(&self, block: &TextBlock, side: &mut SideText, texts: &Texts, start: usize, line: &LogLine<'_>) -> Event {
        let raw = block.text.raw();
        let event_id = side.add(|out| {
            let mut place = [0; 24];
            place[..16].copy_from_slice(&self.file.to_le_bytes());
            place[16..].copy_from_slice(&(block.offset + start as u64).to_le_bytes());
            write!(out, "{:032x}", hash128(&place, 0)).expect("a String takes all that is written");
        });
        let user = side.add(|out| self.key.user(line.address, line.agent, out));
        let request = line.request();
        let (kind, event_type) = match request {
            _ if line.status >= 500 => (EventKind::Error, texts.error),
            Some(request) if request.method == "GET" && line.status < 400 => match request.is_asset() {
                true => (EventKind::Other, texts.asset),
                false => (EventKind::PageView, texts.page_view),
            },
            _ => (EventKind::Other, texts.other),
        };
        let page = match request {
            Some(request) if kind == EventKind::PageView => span_in(raw, request.path),
            _ => Span::NONE,
        };
        let app_version = match kind {
            EventKind::Error => side.add(|out| {
                out.push_str("http-");
                out.push_str(line.status_text);
            }),
            _ => Span::NONE,
        };
        let properties = side.add(|out| write_properties(line, out));
        let fingerprint = hash64(&raw.as_bytes()[start..line_end(raw.as_bytes(), start)]);
        #[expect(clippy::cast_possible_truncation, reason = "32 of 64 well-mixed bits are what is wanted")]
        let fingerprint = fingerprint as u32;
        Event {
            timestamp: line.time,
            server_time: None,
            amount_cents: None,
            tenant_hash: side.default_tenant_hash(),
            user_hash: hash64(side.text(&block.text, user).as_bytes()),
            kind_hash: hash64(side.text(&block.text, page).as_bytes()),
            fingerprint,
            line: Span::NONE,
            event_id,
            event_type,
            user,
            tenant: Span::NONE,
            session_id: Span::NONE,
            page,
            currency: Span::NONE,
            app_version,
            os: Span::NONE,
            screen_resolution: Span::NONE,
            locale: Span::NONE,
            country: Span::NONE,
            city: Span::NONE,
            properties,
            client_time: Span::NONE,
            ip: Span::NONE,
            kind,
            misfit: Misfit::None,
            id_origin: IdOrigin::Place,
            text: Arc::clone(&block.text),
        }
    }
}

impl Decode for CombinedDecoder {
    type Record = Event;

    fn decode(&mut self, block: Block, out: &mut Decoded<Event>) {
        let block = TextBlock::new(block, mask_log_line, &mut out.malformed);
        let broken = !out.malformed.is_empty();
        let mut side = SideText::new(block.text.raw().len());
        let texts = Texts::new(&mut side);
        let raw = block.text.raw();
        let (mut start, mut row) = (0, 0);
        while start < raw.len() {
            let end = line_end(raw.as_bytes(), start);
            let content = block.content(raw.as_bytes(), start..end);
            if let Some(reason) = block.over_long(content) {
                out.malformed.push(block.letter(row, reason, content));
            } else if let Some(line) = LogLine::parse(&raw[start..start + content.len()]) {
                out.records.push(self.event(&block, &mut side, &texts, start, &line));
            } else if !is_blank(content) {
                let reason = "not a line of the Common or Combined Log Format".into();
                out.malformed.push(block.letter(row, reason, content));
            }
            start = end + 1;
            row += 1;
        }
        block.text.finish(side);
        if broken {
            out.malformed.sort_by_key(|letter| letter.line);
        }
    }

    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        Ok(apart(&block))
    }

    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        set_aside(block, &reason, mask_log_line)
    }
}

/// The event types, once a block.
struct Texts {
    page_view: Span,
    asset: Span,
    error: Span,
    other: Span,
}

impl Texts {
    fn new(side: &mut SideText) -> Texts {
        let mut add = |text: &str| side.add(|out| out.push_str(text));
        Texts { page_view: add("page_view"), asset: add("asset"), error: add("error"), other: add("other") }
    }
}

/// Everything of a line but the address, the agent and the time; what the server did not know is left out.
fn write_properties(line: &LogLine<'_>, out: &mut String) {
    let known = |text| Some(text).filter(|text| !matches!(*text, "" | "-"));
    let request = line.request();
    let whole = if request.is_none() { Some(line.request) } else { None };
    let numbers = [("status", Some(u64::from(line.status))), ("bytes", line.bytes)];
    let before = [
        ("method", request.map(|r| r.method)),
        ("path", request.map(|r| r.path)),
        ("query", request.and_then(|r| r.query)),
        ("protocol", request.map(|r| r.protocol)),
        ("request", whole),
    ];
    let mut separator = '{';
    let mut push = |name: &str, write: &mut dyn FnMut(&mut String)| {
        out.push(separator);
        separator = ',';
        push_text(out, name);
        out.push(':');
        write(out);
    };
    for (name, text) in before {
        if let Some(text) = text {
            push(name, &mut |to| push_text(to, text));
        }
    }
    for (name, number) in numbers {
        if let Some(number) = number {
            push(name, &mut |to| write!(to, "{number}").expect("a String takes all that is written"));
        }
    }
    for (name, text) in [("referrer", known(line.referrer)), ("user", known(line.user))] {
        if let Some(text) = text {
            push(name, &mut |to| push_text(to, text));
        }
    }
    out.push('}');
}

/// The span of a piece that was sliced from `raw`.
#[expect(clippy::cast_possible_truncation, reason = "a block is shorter than 4 GiB, which BlockText checks")]
fn span_in(raw: &str, piece: &str) -> Span {
    Span::new((piece.as_ptr().addr() - raw.as_ptr().addr()) as u32, piece.len() as u32)
}

/// Masks addresses, and a host name in the address's place down to its last two parts.
fn mask_log_line(line: &[u8]) -> Cow<'_, [u8]> {
    let masked = mask_addresses(line);
    let host = masked.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_name = host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        && host.iter().any(u8::is_ascii_alphabetic)
        && !host.ends_with(b".x");
    let dots = host.iter().filter(|byte| **byte == b'.').count();
    if !is_name || dots == 0 {
        return masked;
    }
    // A name of two parts loses its first, a longer one all but its last two.
    let keep = if dots == 1 { 1 } else { 2 };
    let cut = host.len() - host.rsplit(|byte| *byte == b'.').take(keep).map(|part| part.len() + 1).sum::<usize>();
    let mut out = b"x".to_vec();
    out.extend_from_slice(&masked[cut..]);
    Cow::Owned(out)
}
