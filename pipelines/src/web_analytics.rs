//! `web_analytics`: the seed's main job. Page views, sessions, errors and revenue, deduplicated and exact, and the archive.

use tidemill_connectors::events::{Event, EventKind};

use crate::events::unique_events;
use crate::io::AnalyticsIo;
use crate::prelude::*;

/// Declares the pipeline; called once per worker, and once dry.
pub fn web_analytics(flow: &Flow<'_>, io: &AnalyticsIo) {
    let events = unique_events(flow, io);

    events
        .unique
        .clone()
        .filter(|e| e.kind() == EventKind::PageView)
        .key_by(|e| key(e.tenant(), e.page().unwrap_or_else(|| HashedText::new(""))))
        .window("views_per_minute", Tumbling::of(minutes(1)).late(Late::Correct))
        .aggregate((count(), distinct(|e: &Event| e.user().hash)))
        .sink("page_views_by_minute", io.windows("page_views_by_minute"));

    events
        .unique
        .clone()
        .filter(|e| e.kind() == EventKind::Error)
        .key_by(|e| key(e.tenant(), e.app_version().unwrap_or("")))
        .window("errors_per_minute", Tumbling::of(minutes(1)).late(Late::Correct))
        .aggregate((count(), distinct(|e: &Event| e.user().hash)))
        .sink("errors_by_version_by_minute", io.windows("errors_by_version_by_minute"));

    events
        .unique
        .clone()
        .filter(|e| e.kind() == EventKind::Purchase)
        .key_by(|e| key(e.tenant(), e.currency().unwrap_or_else(|| HashedText::new(""))))
        .window("revenue_per_minute", Tumbling::of(minutes(1)).late(Late::Correct))
        .aggregate((count(), sum(|e: &Event| e.amount_cents().unwrap_or(0))))
        .sink("revenue_by_minute", io.windows("revenue_by_minute"));

    events
        .unique
        .clone()
        .key_by(|e| key(e.tenant(), e.user()))
        .window("user_sessions", Session::with_gap(minutes(30)).correctable_for(hours(1)))
        .aggregate(session_summary())
        .sink("sessions", io.sessions("sessions"));

    events.unique.sink("raw_events", io.archive("raw_events"));
    events.unverified.sink("unverified_events", io.archive("unverified_events"));
}
