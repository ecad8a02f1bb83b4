//! A set of tables rebuilt beside the live one.

use tidemill_clickhouse::{
    Partition, ProgressWriter, Retention, apply_tables, diff_tables, digest, drop_tables, exchange, first_difference,
    plan_exchange, suffixed,
};
use tidemill_dataflow::sink::{CommitObserver, SinkStart};
use tidemill_tables::web_analytics;

use crate::database::{Database, first_run, later_run, write};
use crate::operation::commit;
use crate::rows::{DAY, MINUTE, NEW_YEAR, events, page_views, sessions};

#[test]
fn equal_tables_have_equal_digests_and_the_first_difference_is_named() {
    let database = Database::with_tables();
    let live = [web_analytics::page_views_by_minute(), web_analytics::sessions(), web_analytics::raw_events()];
    let rebuilt = live.clone().map(|spec| suffixed(&spec, "_again"));
    apply_tables(&database.target, &rebuilt, Retention::default()).unwrap();
    assert_eq!(diff_tables(&database.target, &rebuilt).unwrap(), []);
    let views: Vec<_> =
        (0..9_i64).map(|at| ("t", NEW_YEAR + at / 3 * DAY + at * MINUTE, "/", at + 1, vec![at as u64])).collect();
    let page_table = &live[0];
    // The same rows, cut into other epochs.
    let mut live_table = database.writer(page_table, &first_run("live"));
    for (epoch, row) in views.iter().enumerate() {
        write(&mut live_table, epoch as u64 + 1, vec![page_views(std::slice::from_ref(row))]);
    }
    let mut table = database.rebuilding(page_table, "_again", &first_run("replay"));
    write(&mut table, 1, vec![page_views(&views)]);
    let by = "toDate(window_start)";
    let of = |view: &str| digest(&database.target, view, by).unwrap();
    let days = of("page_views_by_minute");
    assert_eq!(
        days.iter().map(|day| (day.partition.as_str(), day.rows)).collect::<Vec<_>>(),
        [("2024-01-01", 3), ("2024-01-02", 3), ("2024-01-03", 3)]
    );
    assert_eq!(days, of("page_views_by_minute_again"));
    let first = |within| {
        first_difference(&database.target, "page_views_by_minute", "page_views_by_minute_again", within).unwrap()
    };
    assert_eq!(first(None), None);

    write(&mut table, 2, vec![page_views(&[("t", NEW_YEAR + DAY + 3 * MINUTE, "/", 1, vec![])])]);
    let differing: Vec<String> = of("page_views_by_minute_again")
        .into_iter()
        .filter(|day| !days.contains(day))
        .map(|day| day.partition)
        .collect();
    assert_eq!(differing, ["2024-01-02"]);
    let within = Partition { by: by.to_owned(), value: differing[0].clone() };
    let row = first(Some(&within)).unwrap();
    assert_eq!((row.in_first, row.in_second, row.row["views"].as_i64()), (1, 0, Some(4)));
    assert_eq!(row.row["window_start"], "2024-01-02 00:03:00.000");
    assert_eq!(first(Some(&Partition { value: "2024-01-01".to_owned(), by: by.to_owned() })), None);

    // A row that is there twice, with NULLs in it.
    let rows = |n: usize| vec![events(&vec![("a".to_owned(), NEW_YEAR); n])];
    write(&mut database.writer(&live[2], &first_run("live")), 1, rows(1));
    write(&mut database.rebuilding(&live[2], "_again", &first_run("replay")), 1, rows(3));
    let twice = first_difference(&database.target, "raw_events", "raw_events_again", None).unwrap().unwrap();
    assert_eq!((twice.in_first, twice.in_second), (1, 3));
    let error = digest(&database.target, "no_such_view", "1").unwrap_err();
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("no_such_view"), "{error:?}");
}

#[test]
fn an_exchange_puts_the_rebuilt_rows_in_place_once_and_the_writer_goes_on() {
    let database = Database::with_tables();
    let live = [web_analytics::page_views_by_minute(), web_analytics::sessions()];
    let rebuilt = live.clone().map(|spec| suffixed(&spec, "_again"));
    apply_tables(&database.target, &rebuilt, Retention::default()).unwrap();
    write(
        &mut database.writer(&live[0], &first_run("live")),
        1,
        vec![page_views(&[("t", NEW_YEAR, "/wrong", 1, vec![1])])],
    );
    write(&mut database.writer(&live[1], &first_run("live")), 1, vec![sessions(&[("wrong", 0, 1, 1, 1)])]);
    write(
        &mut database.rebuilding(&live[0], "_again", &first_run("replay")),
        1,
        vec![page_views(&[("t", NEW_YEAR, "/right", 1, vec![1])])],
    );
    write(
        &mut database.rebuilding(&live[1], "_again", &first_run("replay")),
        1,
        vec![sessions(&[("right", 0, 1, 1, 1)])],
    );

    let writer = ("web", "live", 1);
    let plan = plan_exchange(&database.target, &live, "_again", writer).unwrap();
    assert_eq!(plan.len(), 3);
    let stored = serde_json::to_string(&plan).unwrap();
    // Interrupted after one table, then carried out from what was stored, then asked for again.
    exchange(&database.target, &plan[..1]).unwrap();
    let restored: Vec<_> = serde_json::from_str(&stored).unwrap();
    for _ in 0..2 {
        exchange(&database.target, &restored).unwrap();
        assert_eq!(database.one("SELECT page FROM page_views_by_minute"), "/right");
        assert_eq!(database.one("SELECT page FROM page_views_by_day"), "/right");
        assert_eq!(database.one("SELECT user_id FROM sessions"), "right");
        assert_eq!(database.one("SELECT page FROM page_views_by_minute_again"), "/wrong");
    }
    // The live writer goes on behind the floor.
    write(
        &mut database.writer(&live[0], &later_run("live", 2, 1, 1)),
        2,
        vec![page_views(&[("t", NEW_YEAR, "/right", 4, vec![2])])],
    );
    assert_eq!(database.one("SELECT page, views, users FROM page_views_by_minute"), "/right\t5\t2");
    assert_eq!(database.one("SELECT page, views FROM page_views_by_day"), "/right\t5");
    drop_tables(&database.target, &rebuilt).unwrap();
    assert_eq!(
        database.ask("SELECT name FROM system.tables WHERE database = currentDatabase() AND name LIKE '%again%'"),
        Vec::<String>::new()
    );
    assert_eq!(diff_tables(&database.target, &live).unwrap(), []);
    assert!(plan_exchange(&database.target, &live, "_again", writer).is_err());
}

#[test]
fn a_replay_leaves_the_progress_of_the_live_tables_alone() {
    let database = Database::with_tables();
    let live = web_analytics::sessions();
    let rebuilt = suffixed(&live, "_again");
    apply_tables(&database.target, std::slice::from_ref(&rebuilt), Retention::default()).unwrap();
    database.writer(&live, &first_run("live"));
    ProgressWriter::new(database.target.clone(), "web").committed(&commit(50, 5)).unwrap();
    // The replay has a log of its own, with other epochs; it is killed and goes on.
    let replay = |start: &SinkStart| database.rebuilding(&live, "_again", start);
    write(&mut replay(&first_run("replay")), 1, vec![sessions(&[("u", 0, 1, 1, 1)])]);
    replay(&later_run("replay", 2, 1, 1));
    assert_eq!(database.one("SELECT max(epoch) FROM progress"), "50");
}
