//! What a writer refuses, and what the server refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tidemill_clickhouse::{ClickHouseTable, ProgressWriter, Retention, Target, apply_tables, diff};
use tidemill_dataflow::sink::{CommitObserver, SinkStart, TableWriter};
use tidemill_tables::{TableSpec, web_analytics};

use crate::database::{Database, first_run, later_run, try_write, write};
use crate::operation::commit;
use crate::rows::{DAY, NEW_YEAR, events, page_views};

#[test]
fn refused_rows_are_kept_and_the_others_arrive() {
    let database = Database::with_tables();
    let spec = web_analytics::page_views_by_minute();
    database.run("ALTER TABLE page_views_by_minute_data ADD CONSTRAINT short CHECK length(page) < 10");
    let long = "/a long path";
    let pages = ["/", long, "/b", "/c", "/d", long, "/e"];
    let rows: Vec<_> =
        pages.iter().zip(0_i64..).map(|(page, at)| ("t", NEW_YEAR + at * DAY, *page, 1, vec![7])).collect();
    for start in [first_run("i"), later_run("i", 2, 0, 1)] {
        write(&mut database.writer(&spec, &start), 1, vec![page_views(&rows)]);
    }
    assert_eq!(database.one("SELECT sum(views), count() FROM page_views_by_minute"), "5\t5");
    assert_eq!(database.one("SELECT sum(views), count() FROM page_views_by_day"), "5\t5");
    let kept = database.ask("SELECT tenant, `table`, epoch, JSONExtractString(row, 'page'), JSONExtractString(row, 'window_start'), reason LIKE '%short%' FROM rejected_rows ORDER BY row");
    let row = |day: &str| format!("t\tpage_views_by_minute\t1\t{long}\t{day}T00:00:00.000Z\t1");
    assert_eq!(kept, [row("2024-01-02"), row("2024-01-06")]);
    // The pipeline goes on.
    write(
        &mut database.writer(&spec, &later_run("i", 3, 1, 1)),
        2,
        vec![page_views(&[("t", NEW_YEAR, "/", 1, vec![8])])],
    );
    assert_eq!(database.one("SELECT sum(views), sum(users) FROM page_views_by_minute"), "6\t6");
}

#[test]
fn everything_that_is_wrong_is_said_in_one_message() {
    let database = Database::with_tables();
    database.run("ALTER TABLE raw_events_data DROP COLUMN city, MODIFY COLUMN os Nullable(UInt64)");
    database.run("ALTER TABLE raw_events_data RESET SETTING non_replicated_deduplication_window");
    database.run("DROP VIEW raw_events");
    let message = database.refusal(&web_analytics::raw_events(), &first_run("i"));
    for part in [
        "raw_events_data has no column city Nullable(String)",
        "column os of raw_events_data is Nullable(UInt64), not Nullable(String)",
        "raw_events_data remembers no tokens",
        "view raw_events is missing",
        "`tidemill tables apply`",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let remedies: Vec<String> =
        diff(&database.target).unwrap().into_iter().map(|difference| difference.remedy).collect();
    assert!(
        remedies.iter().any(|remedy| remedy.starts_with("ALTER TABLE raw_events_data MODIFY SETTING")),
        "{remedies:?}"
    );
    // Other tables are as they were.
    database.writer(&web_analytics::sessions(), &first_run("i"));
}

#[test]
fn tables_in_another_order_or_engine_are_refused() {
    let database = Database::with_tables();
    database.run("DROP TABLE sessions_data SYNC");
    database.run("CREATE TABLE sessions_data (tenant String, user_id String, first_event DateTime64(3, 'UTC'), last_event DateTime64(3, 'UTC'), event_count Int64, sign Int64) ENGINE = SummingMergeTree(sign) ORDER BY (tenant, user_id) SETTINGS non_replicated_deduplication_window = 10000");
    let message = database.refusal(&web_analytics::sessions(), &first_run("i"));
    assert!(message.contains("is ordered by (tenant, user_id), not"), "{message}");
    assert!(message.contains("is partitioned by (), not (cityHash64"), "{message}");
    database.run("DROP TABLE sessions_data SYNC");
    database.run("CREATE TABLE sessions_data (a Int64) ENGINE = Log");
    let second = database.refusal(&web_analytics::sessions(), &first_run("i"));
    assert!(second.contains("has engine Log, not SummingMergeTree"), "{second}");
}

#[test]
fn a_window_too_small_for_what_is_in_flight_is_refused_with_the_statement() {
    let database = Database::with_tables();
    database.run("ALTER TABLE page_views_by_day_data MODIFY SETTING non_replicated_deduplication_window = 5");
    let message = database.refusal(&web_analytics::page_views_by_minute(), &first_run("i"));
    assert!(message.contains("remember 5 tokens, the epochs in flight may have 270"), "{message}");
    assert!(
        message
            .contains("ALTER TABLE page_views_by_day_data MODIFY SETTING non_replicated_deduplication_window = 10000"),
        "{message}"
    );
}

#[test]
fn a_table_that_changes_while_it_is_written_stops_the_run() {
    let database = Database::with_tables();
    let spec = web_analytics::raw_events();
    let mut table = database.writer(&spec, &first_run("i"));
    let rows = || vec![events(&[("a".to_owned(), NEW_YEAR)])];
    write(&mut table, 1, rows());
    for (change, part) in [
        (
            "ALTER TABLE raw_events_data MODIFY COLUMN os Nullable(UInt64)",
            "column os of raw_events_data is Nullable(UInt64)",
        ),
        ("ALTER TABLE raw_events_data DROP COLUMN city", "no column city"),
        ("RENAME TABLE raw_events_data TO elsewhere", "table raw_events_data is missing"),
    ] {
        if part.contains("os") {
            database.run("TRUNCATE TABLE raw_events_data");
        }
        database.run(change);
        let message = try_write(&mut table, 2, rows()).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("tidemill tables diff"), "{message}");
    }
}

#[test]
fn rows_of_another_instance_are_left_alone() {
    let database = Database::with_tables();
    let spec = web_analytics::page_views_by_minute();
    // Nothing written yet: the table can be taken.
    database.writer(&spec, &first_run("never-wrote"));
    write(&mut database.writer(&spec, &first_run("old")), 1, vec![page_views(&[("t", NEW_YEAR, "/", 1, vec![1])])]);
    let message = database.refusal(&spec, &first_run("new"));
    for part in ["instance old", "instance new", "--state", "empty the tables"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    database.writer(&spec, &later_run("old", 2, 1, 1));
    database.run("TRUNCATE TABLE page_views_by_minute_data");
    assert!(database.refusal(&spec, &first_run("new")).contains("instance old"));
    database.run("TRUNCATE TABLE page_views_by_day_data");
    database.writer(&spec, &first_run("new"));
    // Rows that nobody answers for.
    database.run("INSERT INTO sessions_data VALUES ('t', 'u', 0, 1, 1, 1)");
    let second = database.refusal(&web_analytics::sessions(), &first_run("new"));
    assert!(second.contains("nobody noted the writer"), "{second}");
}

#[test]
fn a_table_taken_over_is_noticed_by_its_former_writer() {
    let database = Database::with_tables();
    let spec = web_analytics::page_views_by_minute();
    let mut former = database.writer(&spec, &first_run("former"));
    database.writer(&spec, &first_run("next"));
    let rows = || vec![page_views(&[("t", NEW_YEAR, "/", 1, vec![1])])];
    let message = (1..=200).find_map(|epoch| try_write(&mut former, epoch, rows()).err()).unwrap().to_string();
    assert!(message.contains("instance next"), "{message}");
}

#[test]
fn a_state_older_than_the_tables_is_refused() {
    let database = Database::with_tables();
    let spec = web_analytics::page_views_by_minute();
    let rows = || vec![page_views(&[("t", NEW_YEAR, "/", 1, vec![1])])];
    write(&mut database.writer(&spec, &first_run("i")), 1, rows());
    ProgressWriter::new(database.target.clone(), "web").committed(&commit(10, 5)).unwrap();
    let message = database.refusal(&spec, &later_run("i", 2, 8, 9));
    assert!(message.contains("epochs through 10") && message.contains("only through 9"), "{message}");
    database.writer(&spec, &later_run("i", 2, 10, 10));
    // Without progress the writer's own notes tell, more coarsely.
    write(&mut database.writer(&spec, &later_run("i", 2, 10, 10)), 100, rows());
    let second = database.refusal(&spec, &later_run("i", 3, 20, 22));
    assert!(second.contains("epochs through 100"), "{second}");
}

#[test]
fn tables_of_every_pipeline_are_held_against_the_progress() {
    let database = Database::with_tables();
    let spec = TableSpec { name: "depots".to_owned(), ..web_analytics::sessions() };
    apply_tables(&database.target, std::slice::from_ref(&spec), Retention::default()).unwrap();
    database.writer(&spec, &first_run("i"));
    ProgressWriter::new(database.target.clone(), "web").committed(&commit(10, 5)).unwrap();
    let message = database.refusal(&spec, &later_run("i", 2, 8, 9));
    assert!(message.contains("epochs through 10") && message.contains("only through 9"), "{message}");
    // A log that begins anew begins its progress anew, whatever the tables are called.
    database.writer(&spec, &first_run("j"));
    assert_eq!(database.one("SELECT count() FROM progress_data"), "0");
}

#[test]
fn a_server_that_is_away_is_waited_for_until_the_run_ends() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = Target::parse(&format!("clickhouse://{closed}/any"), None, None).unwrap();
    let asked = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&asked);
    let fence = move || if counted.fetch_add(1, Ordering::SeqCst) < 3 { Ok(()) } else { Err("stopped".into()) };
    let mut table = ClickHouseTable::new(target, web_analytics::sessions(), "web");
    let error = table.open(&SinkStart { fence: Arc::new(fence), ..first_run("i") }).unwrap_err();
    assert_eq!((error.to_string().as_str(), asked.load(Ordering::SeqCst)), ("stopped", 4));
}

#[test]
fn a_database_that_is_missing_is_named() {
    let database = Database::unused();
    let message = database.refusal(&web_analytics::sessions(), &first_run("i"));
    assert!(message.contains(database.target.database()) && message.contains("sessions_data is missing"), "{message}");
}
