//! What each operator costs per record as part of a pipeline: whole runs over lines in memory on one worker, with the
//! exchange, the state and the log. The first is a pipeline of a source alone, to be taken off the others.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde::{Deserialize, Serialize};
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::hash::hash128;
use tidemill_dataflow::key::{KeyRef, OwnedKey, key};
use tidemill_dataflow::runtime::{RunOptions, StopHandle, run};
use tidemill_dataflow::stream::{KeyedStream, TimedStream};
use tidemill_dataflow::testing::{Lines, context, memory, text};
use tidemill_dataflow::time::{EventTime, hours, minutes, seconds};
use tidemill_dataflow::watermark::Watermarks;
use tidemill_operators::aggregate::count;
use tidemill_operators::incremental::{Change, IncrementalOps, KeyedRows, Retain};
use tidemill_operators::join::{JoinOps, Within};
use tidemill_operators::process::{Context, Process, ProcessOps};
use tidemill_operators::stream::{Horizon, Identity, KeyedStreamOps, StreamOps, session_summary};
use tidemill_operators::window::hopping::Hopping;
use tidemill_operators::window::session::Session;
use tidemill_operators::window::tumbling::{Late, Tumbling};

/// Three hours of event time of 3,000 users on 200 pages, half a minute out of order.
const VISITS: i64 = 200_000;
const SPAN: i64 = 3 * 3_600_000;
const USERS: u64 = 3_000;
const PAGES: u64 = 200;

/// Who looked at what; every fourth is a purchase, for which the joins look for a view.
#[derive(Clone, Serialize, Deserialize)]
struct Visit {
    time: EventTime,
    id: u64,
    user: i64,
    page: String,
}

impl Visit {
    fn bought(&self) -> bool {
        self.id.is_multiple_of(4)
    }
}

fn lines() -> Lines<Visit> {
    let line = |n: i64| {
        let mixed =
            (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 8;
        let time = n * SPAN / VISITS - (mixed % 30_000).cast_signed();
        // Low numbers come more often, as pages and users do.
        let skewed = |of: u64, by: u64| (mixed / by) % of * ((mixed / by / of) % of) / of;
        format!("{} {n} {} /page/{}\n", time.max(0), skewed(USERS, 7), skewed(PAGES, 11))
    };
    let parse = |text: &str| {
        let mut parts = text.split(' ');
        let (time, id) = (EventTime(parts.next()?.parse().ok()?), parts.next()?.parse().ok()?);
        Some(Visit { time, id, user: parts.next()?.parse().ok()?, page: parts.next()?.to_owned() })
    };
    Lines::new([(1..=VISITS).map(line).collect::<String>()], parse)
}

type Visits<'s> = TimedStream<'s, Visit>;

/// What a pipeline does with visits, by name.
type Flows = (&'static str, fn(Visits<'_>));

fn of_user(visit: &Visit) -> KeyRef<'_> {
    key("shop", visit.user)
}

fn by_user(visits: Visits<'_>) -> KeyedStream<'_, Visit> {
    visits.key_by(of_user)
}

fn by_page(visits: Visits<'_>) -> KeyedStream<'_, Visit> {
    visits.key_by(|visit| key("shop", visit.page.as_str()))
}

/// Views and purchases, both by user.
fn sides(visits: Visits<'_>) -> (KeyedStream<'_, Visit>, KeyedStream<'_, Visit>) {
    let (purchases, views) = visits.split(Visit::bought);
    (by_user(purchases), by_user(views))
}

/// Tells who was away for ten minutes: a timer for each record.
struct Away;

impl Process for Away {
    type In = Visit;
    type State = EventTime;
    type Out = (u64, EventTime);
    const STATE_VERSION: u32 = 1;

    fn on_record(&self, _: &OwnedKey, last: &mut EventTime, visit: Visit, ctx: &mut Context<'_, Self::Out>) {
        ctx.cancel_timer(last.plus(minutes(10)));
        *last = visit.time.max(*last);
        ctx.set_timer(last.plus(minutes(10)));
    }

    fn on_timer(&self, _: &OwnedKey, last: &mut EventTime, time: EventTime, ctx: &mut Context<'_, Self::Out>) {
        ctx.emit((last.0.cast_unsigned(), time));
        ctx.forget();
    }
}

/// The pipelines; what they give is looked at and not written.
const FLOWS: [Flows; 18] = [
    ("source", |visits| drop(visits.inspect(|_| ()))),
    ("dedup", |visits| {
        let identity = |visit: &Visit| Identity { id: hash128(&visit.id.to_le_bytes(), 0), fingerprint: 0 };
        drop(visits.dedup("unique", identity, Horizon::event_time(hours(1))).unique.inspect(|_| ()));
    }),
    ("window_tumbling", |visits| {
        drop(by_page(visits).window("counts", Tumbling::of(minutes(1))).aggregate(count()).inspect(|_| ()));
    }),
    ("window_hopping_10_steps", |visits| {
        let windows = Hopping::of(minutes(10)).every(minutes(1));
        drop(by_page(visits).window("counts", windows).aggregate(count()).inspect(|_| ()));
    }),
    ("upserts", |visits| {
        let windows = by_page(visits).window("counts", Tumbling::of(minutes(1)).late(Late::Drop));
        drop(windows.upserts(hours(1)).aggregate(count()).inspect(|_| ()));
    }),
    ("once_closed", |visits| {
        let windows = by_page(visits).window("counts", Tumbling::of(minutes(1)).late(Late::Drop));
        drop(windows.once_closed().aggregate(count()).inspect(|_| ()));
    }),
    ("top_k", |visits| {
        let windows = visits.key_by(|_| key("shop", "all")).window("top", Tumbling::of(minutes(1)).late(Late::Drop));
        drop(windows.top_k(10, |visit| visit.page.as_bytes(), minutes(10)).inspect(|_| ()));
    }),
    ("window_session", |visits| {
        let sessions = by_user(visits).window("sessions", Session::with_gap(minutes(10)));
        drop(sessions.aggregate(session_summary()).inspect(|_| ()));
    }),
    ("join_window_inner", |visits| {
        let (purchases, views) = sides(visits);
        let joined = purchases.join_window("pairs", views, Tumbling::of(minutes(1)).late(Late::Drop));
        drop(joined.inner(|bought, seen| (bought.id, seen.id)).rows.inspect(|_| ()));
    }),
    ("join_window_left_outer", |visits| {
        let (purchases, views) = sides(visits);
        let joined = purchases.join_window("pairs", views, Tumbling::of(minutes(1)).late(Late::Drop));
        drop(joined.left_outer(|bought, seen| (bought.id, seen.map(|seen| seen.id))).rows.inspect(|_| ()));
    }),
    ("join_window_full_outer", |visits| {
        let (purchases, views) = sides(visits);
        let joined = purchases.join_window("pairs", views, Tumbling::of(minutes(1)).late(Late::Drop));
        let ids = |bought: Option<&Visit>, seen: Option<&Visit>| (bought.map(|b| b.id), seen.map(|s| s.id));
        drop(joined.full_outer(ids).rows.inspect(|_| ()));
    }),
    ("join_interval_inner", |visits| {
        let (purchases, views) = sides(visits);
        let joined = purchases.join_interval("pairs", views, Within::before(minutes(1))).late(Late::Drop);
        drop(joined.inner(|bought, seen| (bought.id, seen.id)).rows.inspect(|_| ()));
    }),
    ("join_interval_left_outer", |visits| {
        let (purchases, views) = sides(visits);
        let joined = purchases.join_interval("pairs", views, Within::before(minutes(1))).late(Late::Drop);
        drop(joined.left_outer(|bought, seen| (bought.id, seen.map(|seen| seen.id))).rows.inspect(|_| ()));
    }),
    ("lookup_corrected", |visits| {
        let (purchases, views) = sides(visits);
        let found = purchases.lookup("seen", views, |seen| Some(seen.page.clone())).late(Late::Drop);
        drop(found.corrected(|bought, page| (bought.id, page.cloned())).rows.inspect(|_| ()));
    }),
    ("lookup_once_closed", |visits| {
        let (purchases, views) = sides(visits);
        let found = purchases.lookup("seen", views, |seen| Some(seen.page.clone())).late(Late::Drop);
        drop(found.once_closed(|bought, page| (bought.id, page.cloned())).rows.inspect(|_| ()));
    }),
    ("process", |visits| drop(by_user(visits).process("away", Away).inspect(|_| ()))),
    ("process_records", |visits| {
        let every_tenth = |_: &OwnedKey, seen: &mut u64, visit: Visit, ctx: &mut Context<'_, u64>| {
            *seen += 1;
            if seen.is_multiple_of(10) {
                ctx.emit(visit.id);
            }
        };
        drop(by_user(visits).process_records::<1, u64, _>("tenth", every_tenth).inspect(|_| ()));
    }),
    ("incremental_top_10", |visits| {
        let viewed = |visit: &Visit| Change::insert((0u64, visit.page.clone()));
        let ranked = by_page(visits).incremental("ranked", Retain::last(hours(1)), viewed, |rows| rows.top_k(10));
        drop(ranked.changes().inspect(|_| ()));
    }),
];

fn flows(criterion: &mut Criterion) {
    let lines = lines();
    let mut group = criterion.benchmark_group("flows");
    group.throughput(Throughput::Elements(VISITS.cast_unsigned())).sample_size(10);
    for (name, flow) in FLOWS {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let (lines, store) = (lines.clone(), memory());
                let nothing = text("nothing", &store, |_: &Visit| String::new());
                let pipeline = move |of: &Flow<'_>| {
                    let rule = Watermarks::out_of_order(seconds(30));
                    let visits = of.source("visits", lines.clone()).event_time(|v: &Visit| v.time, |_| None, rule);
                    flow(visits.clone());
                    visits.filter(|_| false).sink("nothing", nothing());
                };
                // Epochs of about ten thousand records, and a checkpoint at the end.
                let options = RunOptions { workers: 1, epoch_bytes: 256 * 1024, ..RunOptions::default() };
                run(pipeline, &options, context(&store), &StopHandle::default()).expect("the run ends")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, flows);
criterion_main!(benches);
