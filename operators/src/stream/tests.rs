//! Pipelines of several operators, as authors chain them: what they say when they are wrong, and how they change.

use std::time::Duration;

use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::key::key;
use tidemill_dataflow::runtime::{self, Build, RunErrorKind, RunOptions};
use tidemill_dataflow::testing::{Lines, attempt, by_epoch, memory, text};
use tidemill_dataflow::time::{hours, minutes};
use tidemill_dataflow::watermark::Watermarks;

use super::*;
use crate::aggregate::count;
use crate::window::tumbling::{Late, Tumbling};

#[derive(Clone, Debug)]
struct Visit {
    at: i64,
    id: u128,
    user: String,
}

/// A visit of a line `<time> <id> <user>`.
fn visit(line: &str) -> Option<Visit> {
    let mut parts = line.split(' ');
    let (at, id) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(Visit { at, id, user: parts.next()?.to_owned() })
}

/// Visits from number `from` on: 500 ms apart, every fifth is the one of three minutes before again.
fn visits(numbers: std::ops::Range<i64>) -> String {
    let line = |n: i64| {
        let id = if n % 5 == 4 { (n - 361).max(0) } else { n };
        format!("{} {id} user-{:040}\n", n * 500, n * n % 23)
    };
    numbers.map(line).collect()
}

fn input(to: i64) -> Lines<Visit> {
    Lines::new([visits(0..to)], visit)
}

fn events<'s>(flow: &Flow<'s>, lines: &Lines<Visit>, id: &'static str) -> TimedStream<'s, Visit> {
    let rule = Watermarks::out_of_order(Duration::from_secs(10));
    flow.source(id, lines.clone()).event_time(|visit: &Visit| EventTime(visit.at), |_| None, rule)
}

fn identity(visit: &Visit) -> Identity {
    Identity { id: visit.id.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835), fingerprint: 0 }
}

/// Sessions and counts by minute of deduplicated visits, under the first ids or, renamed, under others.
fn pipeline(
    lines: &Lines<Visit>,
    store: &std::sync::Arc<dyn tidemill_dataflow::testing::Store>,
    renamed: bool,
) -> impl Build + Clone {
    let lines = lines.clone();
    let sessions_table = text("sessions", store, |change: &SessionChange| format!("{change:?}"));
    let minutes_table = text("minutes", store, |row: &crate::window::tumbling::WindowRow<i64>| format!("{row:?}"));
    move |flow: &Flow<'_>| {
        let unique = if renamed {
            let events = events(flow, &lines, "all_visits").renamed_from("visits");
            events.dedup("unique_visits", identity, Horizon::event_time(hours(1))).renamed_from("unique").unique
        } else {
            let events = events(flow, &lines, "visits");
            events.dedup("unique", identity, Horizon::event_time(hours(1))).unique
        };
        let by_user = || unique.clone().key_by(|visit: &Visit| key("t", visit.user.as_str()));
        let gap = Session::with_gap(Duration::from_secs(20));
        let sessions = if renamed {
            by_user().window("user_sessions", gap).aggregate(session_summary()).renamed_from("sessions_of_users")
        } else {
            by_user().window("sessions_of_users", gap).aggregate(session_summary())
        };
        sessions.sink("sessions", sessions_table());
        let tumbling = Tumbling::of(minutes(1)).late(Late::Correct);
        let per_minute = by_user().window(if renamed { "by_minute" } else { "minutes" }, tumbling).aggregate(count());
        let per_minute = if renamed { per_minute.renamed_from("minutes") } else { per_minute };
        per_minute.sink("minutes_table", minutes_table());
    }
}

#[test]
fn a_pipeline_of_which_everything_was_renamed_goes_on_as_if_nothing_was() {
    let (half, all) = (input(3_000), input(6_000));
    let (kept, renamed) = (memory(), memory());
    attempt(&pipeline(&half, &kept, false), &kept, 2).unwrap();
    attempt(&pipeline(&all, &kept, false), &kept, 2).unwrap();
    attempt(&pipeline(&half, &renamed, false), &renamed, 3).unwrap();
    let report = attempt(&pipeline(&all, &renamed, true), &renamed, 1).unwrap();
    for table in ["sessions", "minutes"] {
        let rows = by_epoch(&kept, table);
        assert!(rows.len() > 2, "{rows:?}");
        assert_eq!(by_epoch(&renamed, table), rows, "{table}");
    }
    let duplicates = report.state.counts()["unique_visits/duplicates"];
    assert!(duplicates > 300, "{duplicates} were known from before");
}

#[test]
fn a_window_of_another_kind_does_not_take_the_state_of_a_dedup() {
    let store = memory();
    attempt(&pipeline(&input(2_000), &store, false), &store, 2).unwrap();
    let (lines, table) = (input(4_000), text("sessions", &store, |change: &SessionChange| format!("{change:?}")));
    let changed = move |flow: &Flow<'_>| {
        let keyed = events(flow, &lines, "visits").key_by(|visit: &Visit| key("t", visit.user.as_str()));
        let sessions = keyed.window("unique", Session::with_gap(minutes(1))).aggregate(session_summary());
        sessions.sink("sessions", table());
    };
    let error = attempt(&changed, &store, 2).unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::Refused);
    let said = error.to_string();
    let sentences = [
        "`unique` was `dedup, horizon 3600 s of event time` and is `window session, gap 60000 ms`",
        "`sessions_of_users` has state (version 1) in the checkpoint and is not in the plan",
    ];
    assert!(sentences.iter().all(|sentence| said.contains(sentence)), "{said}");
}

#[test]
fn wrong_windows_and_ids_are_reported_with_the_lines_where_they_are_written() {
    let lines = input(10);
    let store = memory();
    let table = text("sessions", &store, |change: &SessionChange| format!("{change:?}"));
    let mistaken = move |flow: &Flow<'_>| {
        let unique = events(flow, &lines, "visits").dedup("Unique", identity, Horizon::event_time(hours(1))).unique;
        let by_user = || unique.clone().key_by(|visit: &Visit| key("t", visit.user.as_str()));
        by_user()
            .window("short", Session::with_gap(Duration::ZERO))
            .aggregate(session_summary())
            .sink("sessions", table());
        let _unused = by_user().window("narrow", Tumbling::of(Duration::ZERO)).aggregate(count());
        let _unfinished = by_user().window("later", Tumbling::of(minutes(1)));
    };
    let error = runtime::plan(&mistaken, &RunOptions::default()).unwrap_err();
    let (said, source) = (error.to_string(), include_str!("tests.rs"));
    for (sentence, written) in [
        ("`Unique` is no id", ".dedup(\"Unique\""),
        ("`short`: ", ".window(\"short\""),
        ("`narrow`: ", ".window(\"narrow\""),
        ("what `narrow` gives is never used", ".window(\"narrow\""),
        ("`later` is begun and never finished", ".window(\"later\""),
    ] {
        let line = said.lines().find(|line| line.contains(sentence)).unwrap_or_else(|| panic!("{sentence}: {said}"));
        let place = line.split_once(": ").unwrap().0;
        let (file, number) = place.rsplit_once(':').unwrap();
        assert!(file.ends_with("operators/src/stream/tests.rs"), "{line}");
        let found = source.lines().nth(number.parse::<usize>().unwrap() - 1).unwrap();
        assert!(found.contains(written), "{line}: {found}");
    }
    assert_eq!(said.lines().count(), 5, "{said}");
}
