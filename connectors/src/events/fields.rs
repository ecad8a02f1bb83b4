//! Where the members of an event's line stand, before anything is judged; and the judgement.
//!
//! Both readers of JSON, the [`scanner`](super::scanner) and the [`strict`](super::strict) one, fill the same
//! [`Fields`]; what is an event and what is malformed is decided here alone, so the two cannot differ in it.

use std::ops::Range;
use std::sync::Arc;

use tidemill_dataflow::hash::{hash64, mix};
use tidemill_dataflow::time::EventTime;
use tidemill_tables::calendar::{Instant, NoInstant};

use super::block_text::{BlockText, SideText, Span};
use super::bounds::{Bounds, too_long};
use super::event::{Event, EventKind, IdOrigin, Misfit};
use super::{DEFAULT_TENANT, MAX_CURRENCY_BYTES, MAX_ID_BYTES, MAX_NAME_BYTES, MAX_PAGE_BYTES};

/// What stands at a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum What {
    /// The key does not occur.
    #[default]
    Absent,
    Null,
    Bool,
    /// A number without fraction and exponent.
    Integer,
    /// A number with a fraction or an exponent.
    Fraction,
    /// A string without backslashes.
    Text,
    /// A string with backslashes.
    Escaped,
    Object,
    Array,
}

/// A value as it stands in the block, quotes included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) what: What,
}

impl Slot {
    #[inline(always)]
    pub(super) fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }

    fn span(self) -> Span {
        if self.what == What::Absent { Span::NONE } else { Span::new(self.start, self.end - self.start) }
    }

    /// Whether the value has no place in its column: there, not null, and no text.
    fn misfits_text(self) -> bool {
        !matches!(self.what, What::Absent | What::Null | What::Text | What::Escaped)
    }
}

/// A slot from offsets in a block, which is shorter than 4 GiB.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "a block is shorter than 4 GiB, which BlockText checks")]
pub(super) fn slot(start: usize, end: usize, what: What) -> Slot {
    Slot { start: start as u32, end: end as u32, what }
}

/// Where the members of one line stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) event_id: Slot,
    pub(super) event_type: Slot,
    pub(super) user_id: Slot,
    pub(super) session_id: Slot,
    pub(super) timestamp: Slot,
    pub(super) client_time: Slot,
    pub(super) server_time: Slot,
    pub(super) ip: Slot,
    pub(super) tenant: Slot,
    pub(super) properties: Slot,
    pub(super) page: Slot,
    pub(super) amount_cents: Slot,
    pub(super) currency: Slot,
    pub(super) context: Slot,
    pub(super) app_version: Slot,
    pub(super) os: Slot,
    pub(super) screen_resolution: Slot,
    pub(super) locale: Slot,
    pub(super) geo: Slot,
    pub(super) country: Slot,
    pub(super) city: Slot,
    /// Unknown members at the top.
    pub(super) unknown: bool,
    /// Unknown members of `context` or `geo`.
    pub(super) unknown_inside: bool,
    /// The fold of all unknown members at the top, whatever their order.
    pub(super) unknown_hash: u64,
}

/// What judging needs besides the fields.
pub(super) struct Judge<'a> {
    pub(super) text: &'a Arc<BlockText>,
    pub(super) side: &'a mut SideText,
    pub(super) bounds: Bounds,
}

impl Judge<'_> {
    /// The event that stands at `line`, or why there is none.
    pub(super) fn event(&mut self, fields: &Fields, line: Span) -> Result<Event, String> {
        let event_id = self.required(fields.event_id, "event_id")?;
        let event_type = self.required(fields.event_type, "event_type")?;
        let user = self.required(fields.user_id, "user_id")?;
        at_most(event_id, MAX_ID_BYTES, "event_id")?;
        at_most(user, MAX_ID_BYTES, "user_id")?;
        self.bounds.check_length(event_type.len(), MAX_NAME_BYTES, "event_type")?;
        let timestamp = self.timestamp(fields.timestamp)?;
        let tenant = match fields.tenant.what {
            // An empty text, two quotes, names none.
            What::Text | What::Escaped if fields.tenant.end - fields.tenant.start > 2 => {
                self.name(fields.tenant, "tenant")?
            }
            _ => Span::NONE,
        };
        let kind = match self.bytes(event_type) {
            b"page_view" => EventKind::PageView,
            b"purchase" => EventKind::Purchase,
            b"error" => EventKind::Error,
            _ => EventKind::Other,
        };
        let amount_cents = self.integer(fields.amount_cents).filter(|cents| self.bounds.hold_cents(*cents));
        self.check_kind(kind, fields, amount_cents)?;

        let page = self.within(fields.page, MAX_PAGE_BYTES, "properties.page")?;
        let currency = self.within(fields.currency, MAX_CURRENCY_BYTES, "properties.currency")?;
        let kind_hash = match kind {
            EventKind::PageView => hash64(self.bytes(page)),
            EventKind::Purchase => hash64(self.bytes(currency)),
            EventKind::Error | EventKind::Other => 0,
        };
        let user_hash = hash64(self.bytes(user));
        let server_time = self.server_time(fields.server_time);
        Ok(Event {
            timestamp,
            server_time,
            amount_cents,
            tenant_hash: if tenant.is_none() { self.side.default_tenant_hash() } else { hash64(self.bytes(tenant)) },
            user_hash,
            kind_hash,
            fingerprint: self.fingerprint(fields, timestamp, event_type, user_hash),
            line,
            event_id,
            event_type,
            user,
            tenant,
            session_id: self.name(fields.session_id, "session_id")?,
            page,
            currency,
            app_version: self.name(fields.app_version, "context.app_version")?,
            os: self.name(fields.os, "context.os")?,
            screen_resolution: self.name(fields.screen_resolution, "context.screen_resolution")?,
            locale: self.name(fields.locale, "context.locale")?,
            country: self.name(fields.country, "geo.country")?,
            city: self.name(fields.city, "geo.city")?,
            properties: if fields.properties.what == What::Object { fields.properties.span() } else { Span::NONE },
            client_time: fields.client_time.span(),
            ip: fields.ip.span(),
            kind,
            misfit: fields.misfit(server_time.is_some()),
            id_origin: IdOrigin::Sender,
            text: Arc::clone(self.text),
        })
    }

    /// Hash of what the client itself said: the event without what a collector adds (server time, address, place).
    fn fingerprint(&self, fields: &Fields, timestamp: EventTime, event_type: Span, user_hash: u64) -> u32 {
        let raw = self.text.raw().as_bytes();
        let mut fold = mix(timestamp.0.cast_unsigned(), user_hash);
        fold = mix(fold, hash64(self.bytes(event_type)));
        for part in [fields.session_id, fields.properties, fields.context, fields.client_time] {
            fold = mix(fold, if part.what == What::Absent { 0 } else { hash64(&raw[part.range()]) });
        }
        let fold = mix(fold, fields.unknown_hash);
        #[expect(clippy::cast_possible_truncation, reason = "32 of 64 well-mixed bits are what is wanted")]
        let fingerprint = (fold ^ fold >> 32) as u32;
        fingerprint
    }

    fn bytes(&self, span: Span) -> &[u8] {
        self.side.text(self.text, span).as_bytes()
    }

    fn required(&mut self, found: Slot, name: &str) -> Result<Span, String> {
        match found.what {
            What::Absent => Err(format!("{name} is missing")),
            What::Null => Err(format!("{name} is null")),
            What::Text if found.end - found.start == 2 => Err(format!("{name} is empty")),
            What::Text | What::Escaped => Ok(self.optional(found)),
            _ => Err(format!("{name} is not a text")),
        }
    }

    /// The span of a text, unescaped; none for everything else.
    #[inline]
    fn optional(&mut self, found: Slot) -> Span {
        match found.what {
            What::Text => Span::new(found.start + 1, found.end - found.start - 2),
            What::Escaped => self.side.unescape(&self.text.raw()[found.start as usize + 1..found.end as usize - 1]),
            _ => Span::NONE,
        }
    }

    /// The same of a text that has at most `limit` bytes.
    #[inline]
    fn within(&mut self, found: Slot, limit: u32, member: &str) -> Result<Span, String> {
        let span = self.optional(found);
        if !span.is_none() {
            self.bounds.check_length(span.len(), limit, member)?;
        }
        Ok(span)
    }

    #[inline]
    fn name(&mut self, found: Slot, member: &str) -> Result<Span, String> {
        self.within(found, MAX_NAME_BYTES, member)
    }

    fn integer(&self, found: Slot) -> Option<i64> {
        if found.what != What::Integer {
            return None;
        }
        let digits = &self.text.raw().as_bytes()[found.range()];
        // Up to 18 digits fit whatever they are, which is where every usual number ends.
        if digits.len() <= 18 && digits[0] != b'-' {
            let (high, rest) =
                digits.split_first_chunk::<8>().map_or((0, digits), |(eight, rest)| (number8(*eight), rest));
            return Some(rest.iter().fold(high, |n, digit| n * 10 + i64::from(digit - b'0')));
        }
        self.text.raw()[found.range()].parse().ok()
    }

    fn timestamp(&mut self, found: Slot) -> Result<EventTime, String> {
        match found.what {
            What::Integer => match self.integer(found).map(EventTime) {
                Some(time) if self.bounds.hold(time) => Ok(time),
                _ => Err(self.bounds.number_refused(&self.text.raw()[found.range()], &self.shown(found))),
            },
            What::Text | What::Escaped => {
                let text = self.optional(found);
                let text = self.side.text(self.text, text);
                let time = text.parse::<Instant>().map_err(|problem| text_refused(text, problem))?;
                self.bounds.check(EventTime(time.0))
            }
            What::Absent => Err("timestamp is missing".into()),
            What::Null => Err("timestamp is null".into()),
            What::Fraction => Err(self.bounds.number_refused(&self.text.raw()[found.range()], &self.shown(found))),
            _ => Err("timestamp is neither an integer nor a text".into()),
        }
    }

    fn server_time(&mut self, found: Slot) -> Option<EventTime> {
        let time = match found.what {
            What::Integer => self.integer(found)?,
            What::Text | What::Escaped => {
                let text = self.optional(found);
                self.side.text(self.text, text).parse::<Instant>().ok()?.0
            }
            _ => return None,
        };
        Some(EventTime(time)).filter(|time| self.bounds.hold(*time))
    }

    /// A number's own text, cut where it is absurdly long.
    fn shown(&self, found: Slot) -> String {
        let raw = &self.text.raw()[found.range()];
        if raw.len() <= 40 { raw.to_owned() } else { format!("{}...", &raw[..40]) }
    }

    fn check_kind(&self, kind: EventKind, fields: &Fields, amount_cents: Option<i64>) -> Result<(), String> {
        if !matches!(kind, EventKind::PageView | EventKind::Purchase) {
            return Ok(());
        }
        let kind_name = if kind == EventKind::PageView { "page_view" } else { "purchase" };
        match fields.properties.what {
            What::Object => {}
            What::Absent => return Err(format!("properties of a {kind_name} are missing")),
            What::Null => return Err(format!("properties of a {kind_name} are null")),
            _ => return Err(format!("properties of a {kind_name} are not an object")),
        }
        if kind == EventKind::PageView {
            return text_property(fields.page, "page");
        }
        match fields.amount_cents.what {
            What::Absent => Err("properties.amount_cents is missing".into()),
            What::Null => Err("properties.amount_cents is null".into()),
            What::Integer if amount_cents.is_none() => {
                Err(format!("properties.amount_cents {} is beyond 10^15 cents", self.shown(fields.amount_cents)))
            }
            What::Integer => text_property(fields.currency, "currency"),
            What::Fraction => {
                Err(format!("properties.amount_cents {} is not an integer", self.shown(fields.amount_cents)))
            }
            _ => Err("properties.amount_cents is not an integer".into()),
        }
    }
}

/// Eight decimal digits at once: pairs, then fours, then all, each by one multiplication.
fn number8(digits: [u8; 8]) -> i64 {
    let ones = u64::from_le_bytes(digits) & 0x0f0f_0f0f_0f0f_0f0f;
    let pairs = (ones.wrapping_mul(10 << 8 | 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100 << 16 | 1) >> 16) & 0x0000_ffff_0000_ffff;
    (fours.wrapping_mul(10_000 << 32 | 1) >> 32).cast_signed()
}

fn text_property(found: Slot, name: &str) -> Result<(), String> {
    match found.what {
        What::Text | What::Escaped => Ok(()),
        What::Absent => Err(format!("properties.{name} is missing")),
        What::Null => Err(format!("properties.{name} is null")),
        _ => Err(format!("properties.{name} is not a text")),
    }
}

fn at_most(span: Span, limit: u32, name: &str) -> Result<(), String> {
    if span.len() > limit { Err(too_long(name, limit)) } else { Ok(()) }
}

impl Fields {
    /// Whether the line holds more than columns, `client_time` and `ip` can show.
    fn misfit(&self, server_time_fits: bool) -> Misfit {
        let inside = |what: What| !matches!(what, What::Absent | What::Null | What::Object);
        let misfits = self.unknown
            || self.unknown_inside
            || inside(self.properties.what)
            || inside(self.context.what)
            || inside(self.geo.what)
            || !(server_time_fits || matches!(self.server_time.what, What::Absent | What::Null))
            || self.session_id.misfits_text()
            || self.tenant.misfits_text()
            || self.app_version.misfits_text()
            || self.os.misfits_text()
            || self.screen_resolution.misfits_text()
            || self.locale.misfits_text()
            || self.country.misfits_text()
            || self.city.misfits_text();
        if misfits { Misfit::Some } else { Misfit::None }
    }
}

/// Why a text is no time.
#[cold]
fn text_refused(text: &str, problem: NoInstant) -> String {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return "timestamp is a number in quotes; write it without them".into();
    }
    format!("timestamp is {problem}")
}

/// The hash of [`DEFAULT_TENANT`].
pub(super) fn default_tenant_hash() -> u64 {
    hash64(DEFAULT_TENANT.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::number8;

    #[test]
    fn eight_digits_are_their_number() {
        for n in [0, 1, 12_345_678, 90_000_009, 99_999_999, 10_203_040] {
            let text = format!("{n:08}");
            assert_eq!(number8(*text.as_bytes().first_chunk().unwrap()), n);
        }
    }
}
