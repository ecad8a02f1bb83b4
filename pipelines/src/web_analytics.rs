//! `web_analytics`: the seed's main job. Page views, sessions, errors and revenue, deduplicated and exact, and the archive.

use tidemill_connectors::events::{Event, EventKind};

use crate::io::AnalyticsIo;
use crate::prelude::*;

/// Declares the pipeline; called once per worker, and once dry.
pub fn web_analytics(flow: &Flow<'_>, io: &AnalyticsIo) {
    let events = flow
        .source("events", io.events())
        .malformed_to("dead_letters", io.dead_letters())
        .event_time(Event::timestamp, Event::server_time, Watermarks::out_of_order(minutes(2)))
        .shown(Event::sample);
    let events = io.acted_out(events).dedup("unique_events", identity, Horizon::event_time(hours(1)));

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

/// Events of one tenant with the same `event_id` are one event; a retry may differ in what the collector added to it.
pub(crate) fn identity(event: &Event) -> Identity {
    Identity { id: event.id(), fingerprint: event.fingerprint() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_dataflow::runtime::{self, RunOptions};

    #[test]
    fn the_plan_is_the_one_that_checkpoints_were_written_by() {
        let pipeline = crate::built_in().remove(0);
        let io = AnalyticsIo::nowhere(pipeline.clone());
        let plan = runtime::plan(&pipeline.on(io), &RunOptions::default()).unwrap();
        let golden = include_str!("web_analytics.plan");
        assert_eq!(plan.to_string(), golden, "a change here changes what restores: say so in the CHANGELOG");
    }
}
