//! What a server does to a writer beside being away: it refuses a part, runs views of users, loses tables.

use std::collections::BTreeSet;
use std::time::Duration;

use tidemill_clickhouse::{
    ClickHouseTable, ProgressWriter, Target, accept, apply, diff, exchange, left_over, make_beside, missing,
    plan_exchange,
};
use tidemill_dataflow::sink::{CommitObserver, TableWriter};
use tidemill_dataflow::verdict::{Judged, Verdict};
use tidemill_log::with_causes;
use tidemill_tables::{Retention, TableSpec, web_analytics};

use crate::database::{Database, first_run, later_run, try_write, write};
use crate::operation::commit;
use crate::rows::{DAY, MINUTE, NEW_YEAR, events, page_views, sessions};

const BAD: &str = "/bad";

/// Views of 2,000 pages, one of which is bad.
fn views() -> Vec<arrow::array::RecordBatch> {
    let pages: Vec<String> = (0..2_000).map(|at| format!("/{at}")).collect();
    let row = |(at, page): (usize, &String)| {
        let page: &str = if at == 1_234 { BAD } else { page };
        ("t", NEW_YEAR + at as i64 * MINUTE, page.to_owned(), 1, vec![at as u64])
    };
    let rows: Vec<_> = pages.iter().enumerate().map(row).collect();
    let rows: Vec<_> = rows.iter().map(|(t, at, page, n, users)| (*t, *at, page.as_str(), *n, users.clone())).collect();
    vec![page_views(&rows)]
}

fn sums(database: &Database) -> [String; 2] {
    ["page_views_by_minute", "page_views_by_day"].map(|view| database.one(&format!("SELECT sum(views) FROM {view}")))
}

#[test]
fn a_row_that_one_table_refuses_is_in_none_of_them_and_the_others_are_there_once() {
    for table in ["page_views_by_minute_data", "page_views_by_day_data"] {
        let database = Database::with_tables();
        let spec = web_analytics::page_views_by_minute();
        database.run(&format!("ALTER TABLE {table} ADD CONSTRAINT no_bad_page CHECK page != '{BAD}'"));
        // The first run dies before its commit; the next one meets no constraint any more.
        write(&mut database.writer(&spec, &first_run("i")), 1, views());
        write(&mut database.writer(&spec, &later_run("i", 2, 0, 1)), 1, views());
        database.run(&format!("ALTER TABLE {table} DROP CONSTRAINT no_bad_page"));
        write(&mut database.writer(&spec, &later_run("i", 3, 0, 1)), 1, views());
        assert_eq!(sums(&database), ["1999", "1999"], "{table}");
        assert_eq!(database.one("SELECT count(), any(reason) LIKE '%no_bad_page%' FROM rejected_rows"), "1\t1");
    }
}

#[test]
fn a_constraint_that_comes_while_an_epoch_is_written_doubles_nothing() {
    let database = Database::with_tables();
    let spec = web_analytics::page_views_by_minute();
    let mut table = database.writer(&spec, &first_run("i"));
    database.run(&format!("ALTER TABLE page_views_by_minute_data ADD CONSTRAINT late CHECK page != '{BAD}'"));
    write(&mut table, 1, views());
    assert_eq!(sums(&database), ["1999", "1999"]);
    // A column that the server computes, and cannot for one row.
    database.run("ALTER TABLE page_views_by_minute_data DROP CONSTRAINT late");
    database.run(&format!(
        "ALTER TABLE page_views_by_minute_data ADD COLUMN checked UInt8 MATERIALIZED throwIf(page = '{BAD}')"
    ));
    write(&mut table, 2, views());
    assert_eq!(sums(&database), ["3998", "3998"]);
    assert_eq!(database.one("SELECT count() FROM rejected_rows"), "2");
    // One that the second table refuses, when the first has the row: it is in both or the run stops.
    database.run(&format!("ALTER TABLE page_views_by_day_data ADD CONSTRAINT later CHECK page != '{BAD}'"));
    database.run("ALTER TABLE page_views_by_minute_data DROP COLUMN checked");
    let mut late = database.writer(&spec, &later_run("i", 2, 2, 2));
    database.run("ALTER TABLE page_views_by_day_data DROP CONSTRAINT later");
    write(&mut late, 3, views());
    let mut unaware = database.writer(&spec, &later_run("i", 3, 3, 3));
    database.run(&format!("ALTER TABLE page_views_by_day_data ADD CONSTRAINT later CHECK page != '{BAD}'"));
    let error = try_write(&mut unaware, 4, views()).unwrap_err();
    assert!(error.to_string().contains("page_views_by_day_data"), "{error}");
    // The next run does not set aside what the first table has.
    let mut next = database.writer(&spec, &later_run("i", 4, 3, 4));
    let doubtful = try_write(&mut next, 4, views()).unwrap_err();
    assert_eq!(Judged::of(&doubtful), Verdict::Refused, "{doubtful}");
    let doubtful = doubtful.to_string();
    assert!(doubtful.contains("was altered while epoch 4 was written") && doubtful.contains(BAD), "{doubtful}");
    database.run("ALTER TABLE page_views_by_day_data DROP CONSTRAINT later");
    write(&mut database.writer(&spec, &later_run("i", 5, 3, 4)), 4, views());
    assert_eq!(sums(&database), ["7998", "7998"]);
}

#[test]
fn a_users_view_that_fails_stops_the_writer_and_nothing_is_doubled() {
    for table in ["page_views_by_minute_data", "page_views_by_day_data"] {
        let database = Database::with_tables();
        let spec = web_analytics::page_views_by_minute();
        database.run("CREATE TABLE mine (page String, views Int64) ENGINE = MergeTree ORDER BY page SETTINGS non_replicated_deduplication_window = 1000");
        database.run(&format!(
            "CREATE MATERIALIZED VIEW boom TO mine AS SELECT page, toInt64(views) + throwIf(page = '{BAD}') AS views FROM {table}"
        ));
        for run in 1..=2 {
            let mut writer = database.writer(&spec, &later_run("i", run, 0, 1));
            let error = try_write(&mut writer, 1, views()).unwrap_err();
            let message = with_causes(&*error);
            for part in
                [table, "mend or drop boom", &format!("\"page\":\"{BAD}\""), "Code: 395", "while pushing to view"]
            {
                assert!(message.contains(part), "{part}: {message}");
            }
        }
        database.run(&format!("ALTER TABLE boom MODIFY QUERY SELECT page, toInt64(views) AS views FROM {table}"));
        for run in 3..=4 {
            write(&mut database.writer(&spec, &later_run("i", run, 0, 1)), 1, views());
        }
        assert_eq!(sums(&database), ["2000", "2000"], "{table}");
        assert_eq!(database.one("SELECT sum(views) FROM mine"), "2000", "{table}");
        assert_eq!(database.ask("SHOW TABLES LIKE '%dry_view%'"), Vec::<String>::new());
    }
}

#[test]
fn a_view_that_fails_behind_events_or_sessions_doubles_neither() {
    let database = Database::with_tables();
    let (raw, changes) = (web_analytics::raw_events(), web_analytics::sessions());
    let rows: Vec<_> = (0..1_000_i64).map(|at| (format!("e{at}"), NEW_YEAR + at)).collect();
    database.run(
        "CREATE MATERIALIZED VIEW boom ENGINE = Null AS SELECT throwIf(event_id = 'e777') AS x FROM raw_events_data",
    );
    database
        .run("CREATE MATERIALIZED VIEW bang ENGINE = Null AS SELECT throwIf(user_id = 'u7') AS x FROM sessions_data");
    let users: Vec<String> = (0..97).map(|user| format!("u{user}")).collect();
    let seen: Vec<_> = users.iter().map(|user| (user.as_str(), 0, 1, 1, 1)).collect();
    for run in 1..=2 {
        let start = later_run("i", run, 0, 1);
        let error = try_write(&mut database.writer(&raw, &start), 1, vec![events(&rows)]).unwrap_err();
        assert!(error.to_string().contains("e777"), "{error}");
        let second = try_write(&mut database.writer(&changes, &start), 1, vec![sessions(&seen)]).unwrap_err();
        assert!(second.to_string().contains("u7"), "{second}");
    }
    database.run("DROP VIEW boom");
    database.run("DROP VIEW bang");
    write(&mut database.writer(&raw, &later_run("i", 3, 0, 1)), 1, vec![events(&rows)]);
    write(&mut database.writer(&changes, &later_run("i", 3, 0, 1)), 1, vec![sessions(&seen)]);
    assert_eq!(database.one("SELECT count() FROM raw_events"), "1000");
    assert_eq!(database.one("SELECT count() FROM sessions"), "97");
}

#[test]
fn a_profile_of_a_user_changes_no_row() {
    let database = Database::with_tables();
    // The user `odd` of the test server; elsewhere the default one, who proves nothing.
    let as_given = std::env::var("CLICKHOUSE_USER").ok();
    let odd = as_given.is_none().then(|| "odd".to_owned());
    let password = odd.clone().or_else(|| std::env::var("CLICKHOUSE_PASSWORD").ok());
    let target = Target::parse(&database.target.to_string(), odd.or(as_given), password).unwrap();
    let spec = web_analytics::page_views_by_minute();
    for run in 1..=2 {
        let mut table = ClickHouseTable::new(target.clone(), spec.clone(), "web");
        table.open(&later_run("i", run, 0, 1)).unwrap();
        write(&mut table, 1, views());
    }
    assert_eq!(sums(&database), ["2000", "2000"]);
    assert_eq!(database.one("SELECT sum(users) FROM page_views_by_minute"), "2000");
}

#[test]
fn a_user_who_may_not_write_is_told_so_by_the_servers_own_words() {
    let database = Database::with_tables();
    if std::env::var_os("CLICKHOUSE_USER").is_some() {
        // The users are those of the test server.
        return;
    }
    for (user, password, words) in
        [("odd", "wrong", "Code: 516"), ("nobody", "", "Code: 516"), ("reading", "reading", "Code: 164")]
    {
        let address = database.target.to_string();
        let target = Target::parse(&address, Some(user.to_owned()), Some(password.to_owned())).unwrap();
        let mut table = ClickHouseTable::new(target, web_analytics::sessions(), "web");
        let error = table.open(&first_run("i")).unwrap_err();
        assert_eq!(Judged::of(&error), Verdict::Denied, "{error}");
        let message = with_causes(&*error);
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_table_that_lost_its_rows_is_refused_at_the_start_and_while_it_is_written() {
    for loss in ["TRUNCATE TABLE page_views_by_day_data", "DROP TABLE page_views_by_day_data SYNC"] {
        let database = Database::with_tables();
        let spec = web_analytics::page_views_by_minute();
        let row = |at: i64| vec![page_views(&[("t", NEW_YEAR + at * MINUTE, "/", 1, vec![1])])];
        let open = |start| {
            let mut table = ClickHouseTable::new(database.target.clone(), spec.clone(), "web");
            table = table.looking_every(Duration::ZERO);
            table.open(&start).unwrap();
            table
        };
        let mut table = open(first_run("i"));
        write(&mut table, 1, row(1));
        write(&mut table, 2, row(2));
        let all = [spec.clone()];
        assert_eq!(missing(&database.target, &all, "i").unwrap(), BTreeSet::new());
        database.run(loss);
        apply(&database.target, Retention::default()).unwrap();
        let said = |message: &str| {
            let what = if loss.starts_with("DROP") { "was made anew" } else { "was emptied" };
            for part in ["page_views_by_day_data", what, "tidemill tables refill", "--table page_views_by_minute`"] {
                assert!(message.contains(part), "{part}: {message}");
            }
        };
        // Rows that come afterwards do not hide it.
        said(&try_write(&mut table, 3, row(3)).unwrap_err().to_string());
        said(&database.refusal(&spec, &later_run("i", 2, 2, 3)));
        let mut progress = ProgressWriter::new(database.target.clone(), "web").watching(&all);
        progress = progress.looking_every(Duration::ZERO);
        said(&progress.committed(&commit(3, 5)).unwrap_err().to_string());
        let lost = BTreeSet::from(["page_views_by_day_data".to_owned()]);
        assert_eq!(missing(&database.target, &all, "i").unwrap(), lost);

        // What a replay built takes its place, and the writer goes on.
        make_beside(&database.target, &all, "_again").unwrap();
        let both = [row(1), row(2)].concat();
        write(&mut database.rebuilding(&spec, "_again", &first_run("replay")), 1, both);
        let mut plan = plan_exchange(&database.target, &all, "_again", ("web", "i", 2)).unwrap();
        plan.retain(|one| lost.contains(&one.live));
        plan[0].kept = Some("what_was_there".to_owned());
        for _ in 0..2 {
            exchange(&database.target, &plan).unwrap();
        }
        // Epoch 3 went into an emptied table before anybody looked, or did not.
        let held = database.one("SELECT count() FROM what_was_there");
        let left = if held == "0" { Vec::new() } else { vec!["what_was_there".to_owned()] };
        assert_eq!(left_over(&database.target, &plan).unwrap(), left, "{held}");
        assert_eq!(missing(&database.target, &all, "i").unwrap(), BTreeSet::new());
        write(&mut open(later_run("i", 3, 2, 3)), 3, row(3));
        assert_eq!(sums(&database), ["3", "3"], "{loss}");
    }
}

#[test]
fn tables_with_the_rows_of_another_run_are_not_filled_again() {
    let database = Database::with_tables();
    let spec = two_epochs(&database);
    let specs = std::slice::from_ref(&spec);
    let foreign = missing(&database.target, specs, "j").unwrap_err().to_string();
    for part in ["of instance i", "that of instance j", "nothing was changed"] {
        assert!(foreign.contains(part), "{part}: {foreign}");
    }
    for table in ["page_views_by_minute_data", "page_views_by_day_data"] {
        database.run(&format!("TRUNCATE TABLE {table}"));
    }
    assert_eq!(missing(&database.target, specs, "j").unwrap().len(), 2);
}

#[test]
fn a_database_made_anew_under_a_state_that_goes_on_is_refused() {
    let database = Database::with_tables();
    let spec = web_analytics::sessions();
    write(&mut database.writer(&spec, &first_run("i")), 1, vec![sessions(&[("u", 0, 1, 1, 1)])]);
    database.run(&format!("DROP DATABASE {} SYNC", database.target.database()));
    apply(&database.target, Retention::default()).unwrap();
    let message = database.refusal(&spec, &later_run("i", 2, 1, 1));
    for part in ["sessions in database", "is empty", "committed epochs through 1", "tidemill tables refill web"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    // What never committed anything loses nothing.
    write(&mut database.writer(&spec, &later_run("i", 2, 0, 1)), 1, vec![sessions(&[("u", 0, 1, 1, 1)])]);
}

#[test]
fn merges_alterations_and_expiry_are_no_loss() {
    let database = Database::with_tables();
    let (views, changes) = (web_analytics::page_views_by_minute(), web_analytics::sessions());
    let open = |spec: &TableSpec, start| {
        let mut table =
            ClickHouseTable::new(database.target.clone(), spec.clone(), "web").looking_every(Duration::ZERO);
        table.open(&start).unwrap();
        table
    };
    let (mut page_table, mut session_table) = (open(&views, first_run("i")), open(&changes, first_run("i")));
    for epoch in 1..=20_i64 {
        // One key that is updated each time, and a session that grows.
        write(&mut page_table, epoch as u64, vec![page_views(&[("t", NEW_YEAR, "/", 1, vec![1])])]);
        let grown = [("u", 0, epoch, epoch, 1), ("u", 0, epoch - 1, epoch - 1, -1)];
        write(&mut session_table, epoch as u64, vec![sessions(&grown[..if epoch == 1 { 1 } else { 2 }])]);
        if epoch % 5 == 0 {
            for table in ["page_views_by_minute_data", "page_views_by_day_data", "sessions_data"] {
                database.run(&format!("OPTIMIZE TABLE {table} FINAL"));
            }
        }
    }
    database.run("ALTER TABLE page_views_by_minute_data DELETE WHERE page = '/none' SETTINGS mutations_sync = 2");
    // The newest rows of the only partition.
    write(&mut page_table, 21, vec![page_views(&[("t", NEW_YEAR, "/last", 1, vec![1])])]);
    for table in ["page_views_by_minute_data", "page_views_by_day_data"] {
        database.run(&format!("ALTER TABLE {table} DELETE WHERE page = '/last' SETTINGS mutations_sync = 2"));
    }
    database.run("RENAME TABLE sessions_data TO elsewhere, elsewhere TO sessions_data");
    write(
        &mut open(&views, later_run("i", 2, 21, 22)),
        22,
        vec![page_views(&[("t", NEW_YEAR + DAY, "/", 1, vec![1])])],
    );
    write(&mut open(&changes, later_run("i", 2, 20, 20)), 21, vec![sessions(&[("v", 0, 1, 1, 1)])]);
    assert_eq!(sums(&database), ["21", "21"]);
    assert_eq!(database.one("SELECT sum(event_count) FROM sessions"), "21");
}

#[test]
fn what_version_2_wrote_through_goes_and_a_users_view_on_it_is_named() {
    let database = Database::with_tables();
    // One of a user, which only has such a name.
    database.run("CREATE TABLE page_views_by_day_mv (page String) ENGINE = MergeTree ORDER BY page");
    database.run("INSERT INTO page_views_by_day_mv VALUES ('/mine')");
    let version = "COMMENT 'tidemill tables, version 2'";
    database.run(&format!("CREATE TABLE page_views_by_minute_in (page String, views Int64) ENGINE = Null {version}"));
    database.run(&format!(
        "CREATE MATERIALIZED VIEW page_views_by_minute_mv ENGINE = Null AS SELECT page FROM page_views_by_minute_in {version}"
    ));
    database.run("CREATE MATERIALIZED VIEW mine ENGINE = Null AS SELECT page FROM page_views_by_minute_in");
    let spec = web_analytics::page_views_by_minute();
    let message = database.refusal(&spec, &first_run("i"));
    assert!(message.contains("view mine reads page_views_by_minute_in, which is written to no more"), "{message}");
    assert!(apply(&database.target, Retention::default()).is_err(), "a view of a user is the user's to mend");
    database.run("DROP VIEW mine");
    let changes: Vec<String> =
        apply(&database.target, Retention::default()).unwrap().iter().map(ToString::to_string).collect();
    assert!(changes.contains(&"dropped page_views_by_minute_in, which held no rows".to_owned()), "{changes:?}");
    assert_eq!(diff(&database.target).unwrap(), []);
    assert_eq!(database.one("SELECT count() FROM page_views_by_day_mv"), "1");
    database.writer(&spec, &first_run("i"));
}

/// Two epochs of two partitions, committed; what follows is open.
fn two_epochs(database: &Database) -> TableSpec {
    let spec = web_analytics::page_views_by_minute();
    let mut table = database.writer(&spec, &first_run("i"));
    for (epoch, day) in [(1, 0), (2, 40)] {
        write(&mut table, epoch, vec![page_views(&[("t", NEW_YEAR + day * DAY, "/", 1, vec![1])])]);
    }
    database.writer(&spec, &later_run("i", 2, 2, 2));
    spec
}

#[test]
fn rows_that_were_deleted_or_moved_are_refused_until_somebody_accepts_the_table_as_it_is() {
    for harm in [
        &["DELETE FROM page_views_by_minute_data WHERE 1"][..],
        &["ALTER TABLE page_views_by_minute_data DELETE WHERE 1 SETTINGS mutations_sync = 2"],
        &[
            "ALTER TABLE page_views_by_minute_data DETACH PARTITION ALL",
            "ALTER TABLE page_views_by_minute_data ATTACH PARTITION 202401",
            "ALTER TABLE page_views_by_minute_data ATTACH PARTITION 202402",
        ],
    ] {
        let database = Database::with_tables();
        let spec = two_epochs(&database);
        harm.iter().for_each(|statement| database.run(statement));
        let message = database.refusal(&spec, &later_run("i", 3, 2, 2));
        for part in
            ["page_views_by_minute_data", "was emptied", "tidemill tables refill web", "tidemill tables accept web"]
        {
            assert!(message.contains(part), "{part}: {message}");
        }
        let specs = std::slice::from_ref(&spec);
        let foreign = accept(&database.target, specs, ("web", "j", 2)).unwrap_err();
        assert!(foreign.to_string().contains("instance i"), "{foreign}");
        accept(&database.target, specs, ("web", "i", 2)).unwrap();
        write(
            &mut database.writer(&spec, &later_run("i", 4, 2, 2)),
            3,
            vec![page_views(&[("t", NEW_YEAR, "/", 1, vec![1])])],
        );
        assert_eq!(database.one("SELECT sum(views) FROM page_views_by_day"), "3", "{harm:?}");
    }
}

#[test]
fn a_partition_that_was_detached_and_attached_is_refused_while_an_epoch_may_come_again() {
    let database = Database::with_tables();
    let spec = two_epochs(&database);
    database.run("ALTER TABLE page_views_by_minute_data DETACH PARTITION 202402");
    database.run("ALTER TABLE page_views_by_minute_data ATTACH PARTITION 202402");
    let message = database.refusal(&spec, &later_run("i", 3, 1, 2));
    assert!(message.contains("could count twice"), "{message}");
    database.writer(&spec, &later_run("i", 3, 2, 2));
}

#[test]
fn what_a_killed_run_left_of_its_tries_refuses_nothing() {
    let database = Database::with_tables();
    let spec = web_analytics::page_views_by_minute();
    let (left, comment) = ("page_views_by_minute_data_dry_1", "COMMENT 'tidemill tries rows here'");
    database.run(&format!("CREATE TABLE {left}_read AS page_views_by_minute_data ENGINE = Null {comment}"));
    database.run(&format!(
        "CREATE MATERIALIZED VIEW {left}_read_view_0 ENGINE = Null AS SELECT throwIf(page = '{BAD}') AS x FROM {left}_read {comment}"
    ));
    database.run(&format!("CREATE TABLE {left} AS page_views_by_minute_data ENGINE = Null {comment}"));
    // One of a user stays.
    database.run("CREATE TABLE page_views_by_minute_data_dry_0 (x Int64) ENGINE = Null");
    database.run("ALTER TABLE page_views_by_minute_data ADD CONSTRAINT some CHECK page != '/777'");
    write(&mut database.writer(&spec, &later_run("i", 2, 0, 0)), 1, views());
    assert_eq!(sums(&database), ["1999", "1999"]);
    assert_eq!(database.ask("SHOW TABLES LIKE '%_dry_%'"), ["page_views_by_minute_data_dry_0"]);
}

#[test]
fn what_stands_behind_a_table_and_cannot_take_rows_stops_the_run_as_refused() {
    let spec = web_analytics::page_views_by_minute();
    let refused = |database: &Database, words: &[&str]| {
        let mut table = database.writer(&spec, &first_run("i"));
        let error = try_write(&mut table, 1, views()).unwrap_err();
        assert_eq!(Judged::of(&error), Verdict::Refused, "{error}");
        let message = with_causes(&*error);
        for part in words {
            assert!(message.contains(part), "{part}: {message}");
        }
    };
    // A view whose target is gone.
    let database = Database::with_tables();
    database.run("CREATE TABLE mine (page String) ENGINE = MergeTree ORDER BY page");
    database.run("CREATE MATERIALIZED VIEW feed TO mine AS SELECT page FROM page_views_by_minute_data");
    database.run("DROP TABLE mine SYNC");
    refused(&database, &["mend or drop feed", "page_views_by_minute_data"]);
    database.run("DROP VIEW feed");
    write(&mut database.writer(&spec, &later_run("i", 2, 0, 1)), 1, views());
    assert_eq!(sums(&database), ["2000", "2000"]);
}

#[test]
fn what_readers_see_is_no_matter_of_a_run_that_goes_on() {
    let database = Database::with_tables();
    let spec = web_analytics::page_views_by_minute();
    let mut table = ClickHouseTable::new(database.target.clone(), spec, "web").looking_every(Duration::ZERO);
    table.open(&first_run("i")).unwrap();
    write(&mut table, 1, views());
    database.run("DROP VIEW page_views_by_minute");
    write(&mut table, 2, views());
    apply(&database.target, Retention::default()).unwrap();
    assert_eq!(sums(&database), ["4000", "4000"]);
}

#[test]
fn a_table_beside_another_one_is_what_its_owner_made_of_that() {
    let database = Database::with_tables();
    let spec = web_analytics::page_views_by_minute();
    for change in [
        "MODIFY SETTING non_replicated_deduplication_window = 77777, merge_with_ttl_timeout = 7200",
        "MODIFY TTL inserted_at + toIntervalDay(17)",
        "ADD CONSTRAINT named CHECK page != ''",
        "ADD COLUMN note String DEFAULT page",
    ] {
        database.run(&format!("ALTER TABLE page_views_by_minute_data {change}"));
    }
    make_beside(&database.target, &[spec], "_again").unwrap();
    let definition = |name: &str| {
        let sql = format!(
            "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = '{name}'"
        );
        let query = database.one(&sql);
        query.split_once('(').unwrap().1.replace("allow_dimensions_outside_sorting_key = 1, ", "")
    };
    let live = definition("page_views_by_minute_data");
    assert!(live.contains("toIntervalDay(17)") && live.contains("77777"), "{live}");
    assert_eq!(definition("page_views_by_minute_again_data"), live);
}
