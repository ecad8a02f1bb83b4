//! What becomes of records that come too late for a view: each is given, counted, and some are shown.

use serde::{Deserialize, Serialize};
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::key;
use tidemill_dataflow::testing::{Ends, Script, Simulation, memory, text};
use tidemill_dataflow::time::{EventTime, seconds};
use tidemill_dataflow::watermark::Watermarks;

use super::super::{Change, IncrementalOps, KeyedRows, Retain};
use crate::late_lines::shown_as_late;

/// Who read how much of a meter.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Reading {
    at: i64,
    meter: u8,
}

/// Three partitions of a reading a second, one in eleven up to a minute late.
fn readings() -> Script<Reading> {
    let reading = |p: i64, n: i64| {
        let late = if n % 11 == 5 { n % 7 * 9_000 } else { 0 };
        let at = n * 1_000 + p - late;
        (EventTime(at), Reading { at, meter: u8::try_from((n + p) % 5).unwrap() })
    };
    (0..3).fold(Script::new(), |script, p| {
        script.partition((0..12).map(|step| (step * 20..(step + 1) * 20).map(move |n| reading(p, n))))
    })
}

fn meters(flow: &Flow<'_>, ends: &Ends<Reading>) {
    let rule = Watermarks::out_of_order(seconds(5));
    let readings = flow.source("readings", ends.records()).event_time(|r: &Reading| EventTime(r.at), |_| None, rule);
    for (id, expired, retain) in [
        ("recent", "late_for_recent", Retain::last(seconds(20))),
        ("kept", "late_for_kept", Retain::at_least(seconds(20))),
    ] {
        let view = readings.clone().key_by(|r| key("t", i64::from(r.meter))).incremental(
            id,
            retain,
            |r| Change::insert((r.meter, ())),
            |rows| rows.count_by_key(),
        );
        let late = view.expired();
        view.changes().sink(id_of(id), ends.sums(id, |c: &Change<(u8, i64)>| (format!("{:?}", c.row), c.diff)));
        late.sink(id_of(expired), ends.sums(expired, |r: &Reading| (format!("{r:?}"), 1)));
    }
    readings.sink("all_readings", ends.sums("all", |r: &Reading| (format!("{r:?}"), 1)));
}

/// The sink of a table.
fn id_of(table: &str) -> &'static str {
    match table {
        "recent" => "recent_table",
        "kept" => "kept_table",
        "late_for_recent" => "late_for_recent_table",
        _ => "late_for_kept_table",
    }
}

#[test]
fn what_comes_too_late_for_a_view_is_given_and_counted_and_its_own_after_any_crash() {
    Simulation::new().repeats_itself(&readings(), meters);
    let outcome = Simulation::new().run(1, &readings(), meters);
    for id in ["recent", "kept"] {
        let late = outcome.tables.rows(&format!("late_for_{id}"));
        assert!(!late.is_empty(), "{id}");
        assert_eq!(outcome.counts[&format!("{id}/expired")].cast_signed(), late.values().sum::<i64>());
    }
}

#[test]
fn records_that_come_too_late_for_a_view_are_shown_to_those_who_watch() {
    let store = memory();
    let latest = text("latest", &store, |change: &Change<u64>| format!("{} {}", change.diff, change.row));
    shown_as_late(&store, ("last_minute", "expired"), move |records| {
        let view = records.key_by(|_| key("t", "all")).incremental(
            "last_minute",
            Retain::last(seconds(60)),
            |(_, number)| Change::insert(*number),
            |numbers| numbers,
        );
        view.changes().sink("latest", latest());
    });
}
