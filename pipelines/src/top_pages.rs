//! `top_pages`: the ten most viewed pages of each tenant in the 60 minutes that end with the watermark's, always current.

use tidemill_connectors::events::EventKind;

use crate::events::unique_events;
use crate::io::AnalyticsIo;
use crate::prelude::*;

/// Declares the pipeline; a row is `tenant, page, rank, views, last_view`, the last being its latest minute with a view.
pub fn top_pages(flow: &Flow<'_>, io: &AnalyticsIo) {
    let events = unique_events(flow, io);
    events.unverified.sink("unverified_events", io.archive("top_pages_unverified_events"));
    let views_per_minute = events
        .unique
        .filter(|e| e.kind() == EventKind::PageView)
        .key_by(|e| key(e.tenant(), e.page().unwrap_or_else(|| HashedText::new(""))))
        .window("views_per_minute", Tumbling::of(minutes(1)).late(Late::Correct))
        .aggregate(count());
    let viewed = |minute: &WindowRow<i64>| {
        let (tenant, page) = minute.key.texts();
        Change::by(minute.value, ((tenant.into_owned(), page.into_owned()), minute.start))
    };
    views_per_minute
        .with_event_time(|minute| minute.start)
        .key_by(|minute| minute.key.as_ref())
        .incremental("ranked_pages", Retain::last(hours(1)), viewed, |views| {
            let last_view = views.clone().reduce(|_, at, out| out.extend(at.last().map(|(minute, _)| (**minute, 1))));
            let ranked = views.map(|(page, _)| page).top_k(10);
            let ranked = ranked.map(|(tenant, of)| ((tenant, of.item), (i64::from(of.rank), of.score)));
            ranked.join(last_view).map(|((tenant, page), ((rank, n), at))| (tenant, page, rank, n, at))
        })
        .changes()
        .sink("top_pages", io.changes("top_pages"));
}
