//! `funnel`: of each tenant's users who viewed in an hour, those who clicked, and purchased, within an hour of the view.

use tidemill_connectors::events::Event;

use crate::events::unique_events;
use crate::io::AnalyticsIo;
use crate::prelude::*;

/// A step counts if it does not come before the one that precedes it here.
const STEPS: [&str; 3] = ["page_view", "click", "purchase"];

fn step(event: &Event) -> Option<usize> {
    STEPS.iter().position(|step| *step == event.event_type())
}

/// Declares the pipeline; a row is `tenant, hour, step, users`. It is final when the watermark is three hours past its
/// hour's start: steps follow for two, and no event comes more than one behind the watermark.
pub fn funnel(flow: &Flow<'_>, io: &AnalyticsIo) {
    let events = unique_events(flow, io);
    events.unverified.sink("unverified_events", io.archive("funnel_unverified_events"));
    let taken = |e: &Event| {
        let user = (e.tenant().text.to_owned(), e.user().text.to_owned());
        Change::insert((user, (e.timestamp(), step(e).unwrap_or(0))))
    };
    let by_user = events.unique.filter(|e| step(e).is_some()).key_by(|e| key(e.tenant(), e.user()));
    let users = by_user.incremental("user_steps", Retain::at_least(hours(3)), taken, |steps| {
        let reached = steps.follow(hours(1)).flat_map(|((tenant, user), (time, last))| {
            let hour = time.window_start(3_600_000);
            (0..=last).map(move |step| ((tenant.clone(), hour, STEPS[step].to_owned()), user.clone()))
        });
        reached.distinct().count_by_key().map(|((tenant, hour, step), n)| (tenant, hour, step, n))
    });
    users.frozen_after(|(_, hour, ..)| *hour, hours(3)).sink("funnel", io.changes("funnel"));
}
