//! What pipelines over the collector's events begin with: their event times, and each of them once.

use tidemill_connectors::events::{Event, IdOrigin};

use crate::io::AnalyticsIo;
use crate::prelude::*;

/// The events, each once within an hour of event time; the watermark is two minutes behind.
///
/// Lines that are no events go to the dead letters, and operators of the system see samples of what is set aside. What is
/// too old to be told from a duplicate is [`Deduplicated::unverified`]: it is the pipeline's to write somewhere (INV-6).
pub fn unique_events<'s>(flow: &Flow<'s>, io: &AnalyticsIo) -> Deduplicated<'s, Event> {
    let events = flow
        .source("events", io.events())
        .malformed_to("dead_letters", io.dead_letters())
        .event_time(Event::timestamp, Event::server_time, Watermarks::out_of_order(minutes(2)))
        .shown(Event::sample);
    io.acted_out(events).dedup("unique_events", identity, Horizon::event_time(hours(1)))
}

/// Events of one tenant with the same `event_id` are one event; a retry may differ in what the collector added to it.
/// Lines of web server logs are all different, however late they come.
fn identity(event: &Event) -> Option<Identity> {
    let sent = event.id_origin() == IdOrigin::Sender;
    sent.then(|| Identity { id: event.id(), fingerprint: event.fingerprint() })
}
