//! The topics of the log. They are a fixed list: a name never comes from a client.

use tidemill_connectors::events::EventKind;

/// A topic that the collector writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// `events.page_view`
    PageView,
    /// `events.click`
    Click,
    /// `events.purchase`
    Purchase,
    /// `events.error`
    Error,
    /// `events.other`: every type that has no topic of its own.
    Other,
}

impl Topic {
    /// All topics, in the order of their numbers.
    pub const ALL: [Topic; 5] = [Topic::PageView, Topic::Click, Topic::Purchase, Topic::Error, Topic::Other];

    /// The topic of events of a type.
    #[must_use]
    pub fn of(kind: EventKind, event_type: &str) -> Topic {
        match kind {
            EventKind::PageView => Topic::PageView,
            EventKind::Purchase => Topic::Purchase,
            EventKind::Error => Topic::Error,
            EventKind::Other if event_type == "click" => Topic::Click,
            EventKind::Other => Topic::Other,
        }
    }

    /// Its name in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Topic::PageView => "events.page_view",
            Topic::Click => "events.click",
            Topic::Purchase => "events.purchase",
            Topic::Error => "events.error",
            Topic::Other => "events.other",
        }
    }

    /// Its place in [`Topic::ALL`].
    #[must_use]
    pub fn number(self) -> usize {
        self as usize
    }
}
