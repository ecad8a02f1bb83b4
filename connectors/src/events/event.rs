//! The analytics event: a compact record of spans into the text of its block.
//!
//! A thousand events share one block by reference count; reading a column is a slice. Texts that group or
//! count (tenant, user, page, currency) carry their hash from the moment they were read.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tidemill_dataflow::hash::{hash64, hash128};
use tidemill_dataflow::key::HashedText;
use tidemill_dataflow::time::EventTime;

use super::DEFAULT_TENANT;
use super::block_text::{BlockText, Span};
use super::extra;
use crate::dead_letters::mask_addresses;

/// What the tables look for in an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// `page_view`: has a page.
    PageView,
    /// `purchase`: has an amount and a currency.
    Purchase,
    /// `error`: may have an app version.
    Error,
    /// Every other type; kept in raw events and sessions.
    Other,
}

/// Whether the line holds something that neither a column nor the quick form of `extra` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    None,
    Some,
}

/// Where an event's id comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdOrigin {
    /// The sender chose it: the same id again is the same event.
    Sender,
    /// It was made of a place in a file, which no other line has: it cannot repeat.
    Place,
}

/// One event. Cheap to clone; holds its whole block in memory as long as it lives.
#[derive(Clone)]
pub struct Event {
    pub(super) text: Arc<BlockText>,
    pub(super) timestamp: EventTime,
    pub(super) server_time: Option<EventTime>,
    pub(super) amount_cents: Option<i64>,
    pub(super) tenant_hash: u64,
    pub(super) user_hash: u64,
    /// Hash of the page of a page view, of the currency of a purchase.
    pub(super) kind_hash: u64,
    pub(super) fingerprint: u32,
    pub(super) line: Span,
    pub(super) event_id: Span,
    pub(super) event_type: Span,
    pub(super) user: Span,
    pub(super) tenant: Span,
    pub(super) session_id: Span,
    pub(super) page: Span,
    pub(super) currency: Span,
    pub(super) app_version: Span,
    pub(super) os: Span,
    pub(super) screen_resolution: Span,
    pub(super) locale: Span,
    pub(super) country: Span,
    pub(super) city: Span,
    pub(super) properties: Span,
    /// JSON texts as in the line, quotes included.
    pub(super) client_time: Span,
    pub(super) ip: Span,
    pub(super) kind: EventKind,
    pub(super) misfit: Misfit,
    pub(super) id_origin: IdOrigin,
}

impl Event {
    /// The tenant, `default` where the event names none.
    #[must_use]
    #[inline]
    pub fn tenant(&self) -> HashedText<'_> {
        HashedText { text: self.optional(self.tenant).unwrap_or(DEFAULT_TENANT), hash: self.tenant_hash }
    }

    /// `user_id`.
    #[must_use]
    #[inline]
    pub fn user(&self) -> HashedText<'_> {
        HashedText { text: self.text.text(self.user), hash: self.user_hash }
    }

    /// `event_id`, unique within the tenant.
    #[must_use]
    pub fn event_id(&self) -> &str {
        self.text.text(self.event_id)
    }

    /// Where `event_id` comes from; what came from a place needs no deduplication.
    #[must_use]
    #[inline]
    pub fn id_origin(&self) -> IdOrigin {
        self.id_origin
    }

    /// `event_type`.
    #[must_use]
    pub fn event_type(&self) -> &str {
        self.text.text(self.event_type)
    }

    /// What `event_type` means to the tables.
    #[must_use]
    #[inline]
    pub fn kind(&self) -> EventKind {
        self.kind
    }

    /// When it happened, as the client says; within the years 1970 to 9999.
    #[must_use]
    #[inline]
    pub fn timestamp(&self) -> EventTime {
        self.timestamp
    }

    /// When the collector took it; `None` where it is absent or no time.
    #[must_use]
    #[inline]
    pub fn server_time(&self) -> Option<EventTime> {
        self.server_time
    }

    /// The 128-bit id of (tenant, `event_id`) by which duplicates are found.
    #[must_use]
    #[inline]
    pub fn id(&self) -> u128 {
        hash128(self.event_id().as_bytes(), self.tenant_hash)
    }

    /// Hash of what the client said: timestamp, type, user, session, properties, context, client time and unknown
    /// fields as they stand in the line. What a collector adds (`server_time`, `ip`, `geo`) does not count, so a retry
    /// that was enriched again has the same fingerprint.
    #[must_use]
    #[inline]
    pub fn fingerprint(&self) -> u32 {
        self.fingerprint
    }

    /// `properties.page`, of whatever event has one.
    #[must_use]
    #[inline]
    pub fn page(&self) -> Option<HashedText<'_>> {
        self.hashed(self.page, EventKind::PageView)
    }

    /// `properties.currency`, of whatever event has one.
    #[must_use]
    #[inline]
    pub fn currency(&self) -> Option<HashedText<'_>> {
        self.hashed(self.currency, EventKind::Purchase)
    }

    /// `properties.amount_cents`, if it is an integer of at most 10^15 either way.
    #[must_use]
    #[inline]
    pub fn amount_cents(&self) -> Option<i64> {
        self.amount_cents
    }

    /// `session_id`.
    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        self.optional(self.session_id)
    }

    /// `context.app_version`; `http-<status>` of a failed request in a web server log.
    #[must_use]
    pub fn app_version(&self) -> Option<&str> {
        self.optional(self.app_version)
    }

    /// `context.os`.
    #[must_use]
    pub fn os(&self) -> Option<&str> {
        self.optional(self.os)
    }

    /// `context.screen_resolution`.
    #[must_use]
    pub fn screen_resolution(&self) -> Option<&str> {
        self.optional(self.screen_resolution)
    }

    /// `context.locale`.
    #[must_use]
    pub fn locale(&self) -> Option<&str> {
        self.optional(self.locale)
    }

    /// `geo.country`.
    #[must_use]
    pub fn country(&self) -> Option<&str> {
        self.optional(self.country)
    }

    /// `geo.city`.
    #[must_use]
    pub fn city(&self) -> Option<&str> {
        self.optional(self.city)
    }

    /// `properties`, the JSON object as it stands in the line; `None` where it is absent or no object.
    #[must_use]
    pub fn properties(&self) -> Option<&str> {
        self.optional(self.properties)
    }

    /// Everything that has no column, as the text of a JSON object: unknown fields, `client_time`, `ip` (a clear address
    /// masked), unknown members of `context` and `geo` inside objects of these names, and values of a type that their
    /// column cannot hold. Members keep the order of the line. `None` if there is nothing.
    #[must_use]
    pub fn extra(&self) -> Option<String> {
        match self.misfit {
            Misfit::Some => extra::from_line(self.text.text(self.line), self.server_time.is_some()),
            Misfit::None => {
                let members = [("client_time", self.client_time), ("ip", self.ip)]
                    .map(|(name, span)| (span.start(), name, self.optional(span)));
                extra::from_members(members)
            }
        }
    }

    /// The event as operators may see it: a JSON object of what tells events apart, addresses in it masked as in a dead
    /// letter. Long `properties` are left out.
    #[must_use]
    pub fn sample(&self) -> String {
        let sample = Sample {
            tenant: self.tenant().text,
            event_id: self.event_id(),
            event_type: self.event_type(),
            user_id: self.user().text,
            session_id: self.session_id(),
            app_version: self.app_version(),
            timestamp: self.timestamp.0,
            server_time: self.server_time.map(|time| time.0),
        };
        let mut text = serde_json::to_string(&sample).expect("texts and numbers can always be written as JSON");
        if let Some(properties) = self.properties().filter(|properties| properties.len() <= SAMPLED_PROPERTIES) {
            text.truncate(text.len() - 1);
            text.push_str(",\"properties\":");
            text.push_str(properties);
            text.push('}');
        }
        match mask_addresses(text.as_bytes()) {
            Cow::Borrowed(_) => text,
            Cow::Owned(masked) => String::from_utf8_lossy(&masked).into_owned(),
        }
    }

    #[inline]
    fn optional(&self, span: Span) -> Option<&str> {
        if span.is_none() { None } else { Some(self.text.text(span)) }
    }

    #[inline]
    fn hashed(&self, span: Span, hashed_for: EventKind) -> Option<HashedText<'_>> {
        let text = self.optional(span)?;
        let hash = if self.kind == hashed_for { self.kind_hash } else { hash64(text.as_bytes()) };
        Some(HashedText { text, hash })
    }
}

/// Bytes of `properties` at most that a sample holds.
const SAMPLED_PROPERTIES: usize = 512;

/// What a sample says of an event.
#[derive(Serialize)]
struct Sample<'a> {
    tenant: &'a str,
    event_id: &'a str,
    event_type: &'a str,
    user_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_version: Option<&'a str>,
    timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_time: Option<i64>,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("tenant", &self.tenant().text)
            .field("event_id", &self.event_id())
            .field("event_type", &self.event_type())
            .field("user_id", &self.user().text)
            .field("timestamp", &self.timestamp.0)
            .finish_non_exhaustive()
    }
}
