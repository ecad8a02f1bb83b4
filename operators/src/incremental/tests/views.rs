//! Two views as a pipeline has them, over events of a web shop, and what each should show, recomputed from all events.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidemill_dataflow::hash::hash128;
use tidemill_dataflow::key::key;
use tidemill_dataflow::stream::{Stream, TimedStream};
use tidemill_dataflow::time::{EventTime, Watermark, hours, minutes};

use super::super::{Change, IncrementalOps, KeyedRows, Retain, StepRows};
use crate::aggregate::count;
use crate::stream::{Horizon, Identity, KeyedStreamOps, StreamOps};
use crate::window::tumbling::{Late, Tumbling, WindowRow};

pub(super) const MINUTE: i64 = 60_000;
pub(super) const HOUR: i64 = 60 * MINUTE;

/// What a user does, in the order of the funnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    Viewed,
    Clicked,
    Purchased,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) time: i64,
    pub(super) id: u32,
    pub(super) tenant: String,
    pub(super) user: String,
    pub(super) page: String,
    pub(super) step: Step,
}

pub(super) fn unique<'s>(events: TimedStream<'s, Event>) -> TimedStream<'s, Event> {
    let identity = |e: &Event| Identity { id: hash128(&e.id.to_le_bytes(), 0), fingerprint: 0 };
    events.dedup("unique", identity, Horizon::event_time(hours(1))).unique
}

/// A tenant, a page, its rank and views, and its latest minute with a view.
pub(super) type TopPage = (String, String, i64, i64, EventTime);

/// The three most viewed pages per tenant of the 60 minutes that end with the watermark's.
pub(super) fn top_pages<'s>(events: TimedStream<'s, Event>) -> Stream<'s, Change<TopPage>> {
    let viewed = |minute: &WindowRow<i64>| {
        let (tenant, page) = minute.key.texts();
        Change::by(minute.value, ((tenant.into_owned(), page.into_owned()), minute.start))
    };
    events
        .filter(|e| e.step == Step::Viewed)
        .key_by(|e| key(e.tenant.as_str(), e.page.as_str()))
        .window("views_per_minute", Tumbling::of(minutes(1)).late(Late::Correct))
        .aggregate(count())
        .with_event_time(|minute| minute.start)
        .key_by(|minute| minute.key.as_ref())
        .incremental("top_pages", Retain::last(hours(1)), viewed, |views| {
            let last_view = views.clone().reduce(|_, at, out| out.extend(at.last().map(|(minute, _)| (**minute, 1))));
            let ranked = views.map(|(page, _)| page).top_k(3);
            let ranked = ranked.map(|(tenant, of)| ((tenant, of.item), (i64::from(of.rank), of.score)));
            ranked.join(last_view).map(|((tenant, page), ((rank, n), at))| (tenant, page, rank, n, at))
        })
        .changes()
}

/// A tenant, the hour of a view, the step that was reached, and by how many users.
pub(super) type Users = (String, EventTime, usize, i64);

/// Changes, and those that came too late: users who viewed in an hour, of them those who clicked within an hour of a view, and purchased after such a click.
pub(super) fn funnel<'s>(events: TimedStream<'s, Event>) -> (Stream<'s, Change<Users>>, Stream<'s, Change<Users>>) {
    let taken = |e: &Event| Change::insert(((e.tenant.clone(), e.user.clone()), (EventTime(e.time), e.step as usize)));
    events
        .key_by(|e| key(e.tenant.as_str(), e.user.as_str()))
        .incremental("funnel", Retain::at_least(hours(3)), taken, |steps| {
            let reached = steps.follow(hours(1)).flat_map(|((tenant, user), (time, last))| {
                (0..=last).map(move |step| ((tenant.clone(), time.window_start(HOUR), step), user.clone()))
            });
            reached.distinct().count_by_key().map(|((tenant, hour, step), users)| (tenant, hour, step, users))
        })
        .frozen_after_and_late(|(_, hour, ..)| *hour, hours(3))
}

/// What `top_pages` should show.
pub(super) fn naive_top_pages(events: &[&Event], watermark: Watermark) -> BTreeSet<TopPage> {
    let Some(watermark) = watermark else { return BTreeSet::new() };
    let minute = watermark.0.div_euclid(MINUTE);
    let mut tenants: BTreeMap<&str, BTreeMap<&str, (i64, i64)>> = BTreeMap::new();
    for event in events.iter().filter(|e| e.step == Step::Viewed) {
        let at = event.time.div_euclid(MINUTE);
        if (minute - 59..=minute).contains(&at) {
            let (views, last) = tenants.entry(&event.tenant).or_default().entry(&event.page).or_insert((0, at));
            (*views, *last) = (*views + 1, at.max(*last));
        }
    }
    let ranked = |(tenant, pages): (&str, BTreeMap<&str, (i64, i64)>)| {
        let mut pages: Vec<_> = pages.into_iter().map(|(page, (views, last))| (-views, page, last)).collect();
        pages.sort_unstable();
        let row = |(rank, (n, page, last)): (i64, (i64, &str, i64))| {
            (tenant.to_owned(), page.to_owned(), rank, -n, EventTime(last * MINUTE))
        };
        (1..).zip(pages).take(3).map(row).collect::<Vec<_>>()
    };
    tenants.into_iter().flat_map(ranked).collect()
}

/// What `funnel` should show: of all events, however long ago.
pub(super) fn naive_funnel(events: &[&Event]) -> BTreeSet<Users> {
    let mut users: BTreeMap<(String, EventTime, usize), BTreeSet<String>> = BTreeMap::new();
    let mut add = |view: &'_ Event, step: Step| {
        let hour = EventTime(view.time.div_euclid(HOUR) * HOUR);
        users.entry((view.tenant.clone(), hour, step as usize)).or_default().insert(view.user.clone());
    };
    let of = |step: Step, like: &Event, from: i64, until: i64| {
        let (tenant, user) = (like.tenant.clone(), like.user.clone());
        events
            .iter()
            .filter(move |e| e.step == step && e.tenant == tenant && e.user == user && (from..=until).contains(&e.time))
    };
    for view in events.iter().filter(|e| e.step == Step::Viewed) {
        add(view, Step::Viewed);
        for click in of(Step::Clicked, view, view.time, view.time + HOUR) {
            add(view, Step::Clicked);
            for _ in of(Step::Purchased, view, click.time, view.time + HOUR) {
                add(view, Step::Purchased);
            }
        }
    }
    users.into_iter().map(|((tenant, hour, step), who)| (tenant, hour, step, who.len() as i64)).collect()
}
