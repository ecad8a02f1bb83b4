//! Writes that come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::TryRecvError;

use tidemill_clickhouse::ChunkLimits;
use tidemill_dataflow::sink::SinkStart;
use tidemill_tables::web_analytics;

use crate::database::{Database, first_run, later_run, try_write, write};
use crate::rows::{DAY, MINUTE, NEW_YEAR, events, page_views, sessions};

const SMALL: ChunkLimits = ChunkLimits { rows: 3, bytes: 1 << 20, days: 2 };

#[test]
fn an_epoch_written_again_counts_once_in_every_table() {
    let database = Database::with_tables();
    let views = vec![page_views(&[("t", NEW_YEAR, "/", 1, vec![1]), ("t", NEW_YEAR + 40 * DAY, "/", 2, vec![2, 3])])];
    let changes = vec![sessions(&[("u", 0, 1, 2, 1), ("v", 0, 1, 2, 1)])];
    let raw = vec![events(&[("a".to_owned(), NEW_YEAR), ("b".to_owned(), NEW_YEAR + DAY)])];
    // The first run dies before its commit, the second one writes the epoch again, and so does a straggler.
    for start in [first_run("i"), later_run("i", 2, 0, 1), later_run("i", 1, 0, 1)] {
        write(&mut database.writer(&web_analytics::page_views_by_minute(), &start), 1, views.clone());
        write(&mut database.writer(&web_analytics::sessions(), &start), 1, changes.clone());
        write(&mut database.writer(&web_analytics::raw_events(), &start), 1, raw.clone());
    }
    assert_eq!(database.one("SELECT sum(views), sum(users), count() FROM page_views_by_minute"), "3\t3\t2");
    assert_eq!(database.one("SELECT sum(views), sum(users), count() FROM page_views_by_day"), "3\t3\t2");
    assert_eq!(database.one("SELECT count(), sum(sign) FROM sessions_data"), "2\t2");
    assert_eq!(database.one("SELECT count() FROM raw_events"), "2");
}

#[test]
fn the_same_rows_in_another_epoch_count_again() {
    let database = Database::with_tables();
    let mut table = database.writer(&web_analytics::page_views_by_minute(), &first_run("i"));
    for epoch in 1..=3 {
        write(&mut table, epoch, vec![page_views(&[("t", NEW_YEAR, "/", 1, vec![1])])]);
    }
    assert_eq!(database.one("SELECT views, users FROM page_views_by_minute"), "3\t1");
}

#[test]
fn an_epoch_that_arrived_in_part_is_completed() {
    let spec = web_analytics::page_views_by_minute();
    let rows: Vec<_> =
        (0..14_i64).map(|at| ("t", NEW_YEAR + at % 5 * 40 * DAY + at * MINUTE, "/", 1 + at, vec![1, 2])).collect();
    let batch = page_views(&rows);
    let mut written = 0;
    // The run is fenced after each number of writes in turn: the rest of the epoch never leaves it.
    for allowed in 0.. {
        let database = Database::with_tables();
        let left = Arc::new(AtomicU64::new(u64::MAX));
        let counted = Arc::clone(&left);
        let fence = move || {
            let stopped =
                counted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |calls| calls.checked_sub(1)).is_err();
            if stopped { Err("a later run has begun".into()) } else { Ok(()) }
        };
        let mut table = database.limited(&spec, &SinkStart { fence: Arc::new(fence), ..first_run("i") }, SMALL);
        left.store(allowed, Ordering::SeqCst);
        let ended = try_write(&mut table, 1, vec![batch.clone()]);
        let mut again = database.limited(&spec, &later_run("i", 2, 0, 1), SMALL);
        write(&mut again, 1, vec![batch.clone()]);
        assert_eq!(database.one("SELECT sum(views), sum(users), count() FROM page_views_by_minute"), "105\t28\t14");
        assert_eq!(database.one("SELECT sum(views), count() FROM page_views_by_day"), "105\t5");
        written = allowed;
        match ended {
            Ok(()) => break,
            Err(error) => assert_eq!(error.to_string(), "a later run has begun"),
        }
    }
    assert!(written >= 5, "an epoch of {} rows was cut into {written} inserts", rows.len());
}

#[test]
fn late_rows_of_hundreds_of_days_arrive_once() {
    let database = Database::with_tables();
    let spec = web_analytics::raw_events();
    let rows: Vec<_> = (0..500_i64).map(|at| (format!("e{at}"), NEW_YEAR - at % 250 * DAY)).collect();
    for start in [first_run("i"), later_run("i", 2, 0, 1)] {
        write(&mut database.writer(&spec, &start), 1, vec![events(&rows)]);
    }
    assert_eq!(database.one("SELECT count(), uniqExact(event_id) FROM raw_events"), "500\t500");
    let parts = "SELECT uniqExact(partition) FROM system.parts WHERE database = currentDatabase() AND table = 'raw_events_data'";
    assert_eq!(database.one(parts), "250");
}

#[test]
fn the_window_grows_before_an_epoch_that_needs_more() {
    let database = Database::with_tables();
    database.run("ALTER TABLE raw_events_data MODIFY SETTING non_replicated_deduplication_window = 300");
    let spec = web_analytics::raw_events();
    let rows =
        |epoch: i64| -> Vec<_> { (0..200_i64).map(|at| (format!("e{epoch}-{at}"), NEW_YEAR + at * DAY)).collect() };
    for start in [first_run("i"), later_run("i", 2, 0, 3)] {
        let mut table = database.writer(&spec, &start);
        for epoch in 1..=3 {
            write(&mut table, epoch as u64, vec![events(&rows(epoch))]);
        }
    }
    assert_eq!(database.one("SELECT count() FROM raw_events"), "600");
    let definition = database
        .one("SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = 'raw_events_data'");
    assert!(!definition.contains("window = 300"), "{definition}");
}

#[test]
fn rows_that_cancel_out_are_not_sent() {
    let database = Database::with_tables();
    let mut table = database.writer(&web_analytics::sessions(), &first_run("i"));
    write(&mut table, 1, vec![sessions(&[("u", 0, 1, 2, 1), ("u", 0, 1, 2, -1)])]);
    write(&mut table, 2, Vec::new());
    assert_eq!(database.one("SELECT count() FROM sessions_data"), "0");
}

#[test]
fn events_in_sessions_never_shrink_while_a_session_grows() {
    let database = Database::with_tables();
    let mut table = database.writer(&web_analytics::sessions(), &first_run("i"));
    let users: Vec<String> = (0..50).map(|user| format!("u{user}")).collect();
    let seen = std::thread::scope(|scope| {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let watched = &database;
        let reader = scope.spawn(move || {
            let mut seen: Vec<u64> = Vec::new();
            while stopped.try_recv() == Err(TryRecvError::Empty) {
                seen.push(watched.one("SELECT sum(event_count) FROM sessions").parse().unwrap());
            }
            seen
        });
        for epoch in 1..=30_i64 {
            let grown = |count: i64, sign: i8| {
                users.iter().map(move |user| (user.as_str(), 0, count, count, sign)).collect::<Vec<_>>()
            };
            let mut rows = grown(epoch, 1);
            if epoch > 1 {
                rows.extend(grown(epoch - 1, -1));
            }
            write(&mut table, epoch as u64, vec![sessions(&rows)]);
        }
        drop(stop);
        reader.join().unwrap()
    });
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(database.one("SELECT sum(event_count), count() FROM sessions"), "1500\t50");
}
