//! What the tables show.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tidemill_clickhouse::{Change, Retention, apply, diff};
use tidemill_tables::web_analytics;

use crate::database::{Database, first_run, write};
use crate::rows::{DAY, MINUTE, NEW_YEAR, events, page_views, sessions};

#[test]
fn tables_are_made_once_and_found_as_they_have_to_be() {
    let database = Database::unused();
    let missing = diff(&database.target).unwrap();
    assert!(missing[0].text.contains("is missing") && missing[0].remedy.starts_with("CREATE DATABASE"), "{missing:?}");
    let changes = apply(&database.target, Retention::default()).unwrap();
    assert!(changes.contains(&Change::Created("page_views_by_minute".to_owned())), "{changes:?}");
    assert_eq!(diff(&database.target).unwrap(), []);
    assert_eq!(apply(&database.target, Retention::default()).unwrap(), []);
    assert_eq!(database.ask("SELECT * FROM sessions UNION ALL SELECT * FROM sessions"), Vec::<String>::new());
}

#[test]
fn retention_is_adjusted_and_counts_from_arrival() {
    let database = Database::with_tables();
    let ttl = |table: &str| {
        let definition = database.one(&format!(
            "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = '{table}'"
        ));
        definition.split_once(" TTL ").map(|(_, rest)| rest.split(" SETTINGS").next().unwrap().to_owned())
    };
    assert_eq!(ttl("raw_events_data").unwrap(), "inserted_at + toIntervalDay(90)");
    assert_eq!(ttl("page_views_by_day_data").unwrap(), "inserted_at + toIntervalDay(730)");
    let changes = apply(&database.target, Retention { raw_days: 7, rollup_days: 0 }).unwrap();
    assert!(changes.iter().all(|change| matches!(change, Change::Altered { .. })), "{changes:?}");
    assert_eq!(ttl("raw_events_data").unwrap(), "inserted_at + toIntervalDay(7)");
    assert_eq!(ttl("page_views_by_day_data"), None);
    assert_eq!(apply(&database.target, Retention { raw_days: 7, rollup_days: 0 }).unwrap(), []);
    // Events of long ago stay: they have only just arrived.
    let spec = web_analytics::raw_events();
    write(&mut database.writer(&spec, &first_run("i")), 1, vec![events(&[("old".to_owned(), 0)])]);
    database.run("OPTIMIZE TABLE raw_events_data FINAL");
    assert_eq!(database.one("SELECT count() FROM raw_events"), "1");
}

#[test]
fn views_have_the_columns_of_the_engine_contract() {
    let database = Database::with_tables();
    let columns = |view: &str| {
        let sql = format!(
            "SELECT groupArray(concat(name, ' ', type)) FROM (SELECT * FROM system.columns WHERE database = currentDatabase() AND table = '{view}' ORDER BY position)"
        );
        database.one(&sql).replace("\\'", "'").replace('\'', "")
    };
    assert_eq!(
        columns("page_views_by_minute"),
        "[tenant String,window_start DateTime64(3, UTC),page String,views Int64,users Int64]".replace("\\", "")
    );
    assert_eq!(
        columns("sessions"),
        "[tenant String,user_id String,first_event DateTime64(3, UTC),last_event DateTime64(3, UTC),event_count Int64]"
    );
    assert_eq!(
        columns("progress"),
        "[tenant Nullable(String),epoch Int64,complete_through Nullable(DateTime64(3, UTC)),file String,lines Int64]"
    );
    for spec in web_analytics::all() {
        let names: Vec<String> = spec.query_schema().fields().iter().map(|field| field.name().clone()).collect();
        let sql = format!(
            "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{}' ORDER BY position",
            spec.name
        );
        assert_eq!(database.ask(&sql), names);
    }
}

#[test]
fn every_value_of_an_event_comes_back() {
    let database = Database::with_tables();
    let spec = web_analytics::raw_events();
    let end_of_time = 253_402_300_799_999;
    let rows = [("a".to_owned(), -1), ("b".to_owned(), NEW_YEAR + 1), ("c".to_owned(), end_of_time)];
    write(&mut database.writer(&spec, &first_run("i")), 1, vec![events(&rows)]);
    assert_eq!(
        database.ask("SELECT event_id, toUnixTimestamp64Milli(timestamp), server_time, session_id, os, page, properties FROM raw_events ORDER BY event_id"),
        rows.iter().map(|(id, ms)| format!("{id}\t{ms}\t\\N\t\\N\tLinux\t/a\\tb\\'\\\\\t{{\"page\":\"/\"}}")).collect::<Vec<_>>()
    );
    assert_eq!(database.one("SELECT timestamp FROM raw_events WHERE event_id = 'c'"), "9999-12-31 23:59:59.999");
}

#[test]
fn days_add_up_what_their_minutes_say() {
    let database = Database::with_tables();
    let spec = web_analytics::page_views_by_minute();
    let mut table = database.writer(&spec, &first_run("i"));
    let users: Vec<u64> = (0..1000).map(|user| user * 7919).collect();
    write(
        &mut table,
        1,
        vec![page_views(&[
            ("t", NEW_YEAR, "/", 600, users[..600].to_vec()),
            ("t", NEW_YEAR + MINUTE, "/", 500, users[500..].to_vec()),
            ("t", NEW_YEAR + DAY, "/", 2, vec![1, 2]),
        ])],
    );
    write(
        &mut table,
        2,
        vec![page_views(&[("t", NEW_YEAR + 2 * MINUTE, "/", -100, vec![]), ("t", NEW_YEAR + DAY, "/", -2, vec![])])],
    );
    let days = database.ask(
        "SELECT tenant, day, page, views, users, abs(users_approx - users) <= 20 FROM page_views_by_day ORDER BY day",
    );
    assert_eq!(days, ["t\t2024-01-01\t/\t1000\t1000\t1", "t\t2024-01-02\t/\t0\t2\t1"]);
    assert_eq!(
        database.one("SELECT views, users FROM page_views_by_minute WHERE window_start = '2024-01-01 00:02:00'"),
        "-100\t0"
    );
}

/// Epochs of page views: minute, page, views, users.
type ViewEpochs = Vec<Vec<(i64, u8, i64, Vec<u64>)>>;
/// Epochs of sessions: user, count, sign.
type SessionEpochs = Vec<Vec<(u8, i64, i8)>>;

fn view_epochs() -> impl Strategy<Value = ViewEpochs> {
    let row = (0_i64..90, 0_u8..3, -2_i64..3, prop::collection::vec(0_u64..6, 0..4));
    prop::collection::vec(prop::collection::vec(row, 0..12), 1..5)
}

fn session_epochs() -> impl Strategy<Value = SessionEpochs> {
    let sign = prop::sample::select(vec![-1_i8, 1]);
    prop::collection::vec(prop::collection::vec((0_u8..3, 1_i64..4, sign), 0..12), 1..5)
}

#[test]
fn views_show_what_a_plain_fold_of_all_rows_shows_before_and_after_merges() {
    let (views, signed) = (web_analytics::page_views_by_minute(), web_analytics::sessions());
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(6) });
    let check = |(view_epochs, session_epochs): (ViewEpochs, SessionEpochs)| {
        let database = Database::with_tables();
        // One month after the other, so that rows of one insert meet several partitions.
        let minute = |at: i64| NEW_YEAR + at * 9 * DAY;
        let mut folded: BTreeMap<(i64, u8), (i64, BTreeSet<u64>)> = BTreeMap::new();
        let mut table = database.writer(&views, &first_run("i"));
        for (epoch, rows) in view_epochs.iter().enumerate() {
            let mut batch = Vec::new();
            for (at, page, count, users) in rows {
                let cell = folded.entry((minute(*at), *page)).or_default();
                cell.0 += count;
                cell.1.extend(users.iter().copied());
                batch.push(("t", minute(*at), ["/a", "/b", "/c"][usize::from(*page)], *count, users.clone()));
            }
            write(&mut table, epoch as u64 + 1, vec![page_views(&batch)]);
        }
        let mut signs: BTreeMap<(u8, i64), i64> = BTreeMap::new();
        let mut signed_table = database.writer(&signed, &first_run("i"));
        for (epoch, rows) in session_epochs.iter().enumerate() {
            let mut batch = Vec::new();
            for (user, count, sign) in rows {
                *signs.entry((*user, *count)).or_default() += i64::from(*sign);
                batch.push((["x", "y", "z"][usize::from(*user)], NEW_YEAR, NEW_YEAR + count, *count, *sign));
            }
            write(&mut signed_table, epoch as u64 + 1, vec![sessions(&batch)]);
        }
        let expected_views: Vec<String> = folded
            .iter()
            .filter(|(_, (count, users))| *count != 0 || !users.is_empty())
            .map(|((at, page), (count, users))| {
                format!("{at}\t{}\t{count}\t{}", ["/a", "/b", "/c"][usize::from(*page)], users.len())
            })
            .collect();
        let expected_sessions: Vec<String> = signs
            .iter()
            .filter(|(_, net)| **net > 0)
            .map(|((user, count), _)| format!("{}\t{count}", ["x", "y", "z"][usize::from(*user)]))
            .collect();
        for merged in [false, true] {
            if merged {
                database.run("OPTIMIZE TABLE page_views_by_minute_data FINAL");
                database.run("OPTIMIZE TABLE sessions_data FINAL");
            }
            let shown = database.ask("SELECT toUnixTimestamp64Milli(window_start) AS at, page, views, users FROM page_views_by_minute ORDER BY at, page");
            prop_assert_eq!(&shown, &expected_views);
            let open = database.ask("SELECT user_id, event_count FROM sessions ORDER BY ALL");
            prop_assert_eq!(&open, &expected_sessions);
        }
        Ok(())
    };
    runner.run(&(view_epochs(), session_epochs()), check).unwrap();
}
