//! ClickHouse tables that lose rows under a run that goes on: nothing is silently missing, and all of it comes back.

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::Outcome;
use tidemill_tests::services::{Producer, Services, delete_before, wait_until};
use tidemill_tests::stream::Stream;
use tidemill_tests::topics::Topics;

use crate::tidemill;

/// What somebody does to the tables of a run that is stopped.
const HARMS: [&[&str]; 4] = [
    &["TRUNCATE TABLE page_views_by_minute_data"],
    &["DROP TABLE page_views_by_day_data SYNC", "DROP TABLE sessions_data SYNC"],
    &["TRUNCATE TABLE raw_events_data", "TRUNCATE TABLE revenue_by_minute_data"],
    &["DROP DATABASE {database} SYNC"],
];

struct Live<'a> {
    stream: &'a Stream,
    state: String,
}

impl<'a> Live<'a> {
    fn new(stream: &'a Stream, folder: &TempDir) -> Live<'a> {
        Live { stream, state: folder.path().join("state").to_string_lossy().into_owned() }
    }

    fn run(&self) -> Outcome {
        let options = ["--until-end", "--epoch-bytes", "65536"];
        self.stream.run(&self.state).option(&options).outcome()
    }

    fn refill(&self, from: &str) -> Outcome {
        self.tables(&["refill", "--from", from])
    }

    /// `tidemill tables` with what names this run.
    fn tables(&self, arguments: &[&str]) -> Outcome {
        let to = self.stream.database().address();
        let places = ["--state", &self.state, "--to", &to];
        self.stream.tidemill().command(&[&["tables"], arguments, &places].concat())
    }

    /// How many tables have a name like this.
    fn tables_like(&self, pattern: &str) -> u64 {
        let sql = "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name LIKE";
        self.stream.database().try_numbers(&format!("{sql} '{pattern}'")).expect("the server counts")[0]
    }
}

#[track_caller]
fn nothing_lost(live: &Live<'_>) {
    let done = live.refill(&live.stream.source());
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(said.contains("no table lost anything"), "{said}{}", done.stderr);
}

#[test]
fn tables_that_were_emptied_or_made_anew_are_refused_and_filled_again_exactly() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let stream = Stream::new(&tidemill(), services, "lost");
    let bytes = corpus::events(12_000, 31, Rates::within_horizon());
    let topics = Topics::deal(vec![(stream.topic("all"), 3)], &bytes);
    topics.create(services.brokers());
    let oracle = topics.oracle();
    stream.apply();
    let live = Live::new(&stream, &folder);
    let producer = Producer::new(services.brokers());
    let share = topics.len() / (HARMS.len() + 1);
    let mut sent = 0;
    let mut more = || {
        topics.send(&producer, sent, sent + share);
        producer.flush();
        sent += share;
        sent
    };
    let first = more();
    assert_eq!(live.run().code, Some(0));
    stream.check(&topics, &oracle, &topics.counts(first), "before anything happened");
    nothing_lost(&live);
    for harm in HARMS {
        for statement in harm {
            stream.database().run(&statement.replace("{database}", stream.database().name()));
        }
        stream.apply();
        let count = more();
        live.run().assert_refused(&[3], &["tidemill tables refill"]);
        let done = live.refill(&stream.source());
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let gone_on = live.run();
        assert_eq!(gone_on.code, Some(0), "{}", gone_on.stderr);
        stream.check(&topics, &oracle, &topics.counts(count), &harm.join("; "));
        nothing_lost(&live);
    }
    stream.database().drop_all();
}

#[test]
fn tables_emptied_after_a_kill_are_filled_again_from_the_lake_and_what_was_in_flight_counts_once() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let stream = Stream::new(&tidemill(), services, "lost_in_flight");
    let bytes = corpus::events(20_000, 32, Rates::within_horizon());
    let topics = Topics::deal(vec![(stream.topic("all"), 2)], &bytes);
    topics.create(services.brokers());
    let producer = Producer::new(services.brokers());
    topics.send(&producer, 0, topics.len());
    producer.flush();
    stream.apply();
    let live = Live::new(&stream, &folder);
    let mut running = stream.run(&live.state).option(&["--until-end", "--epoch-bytes", "65536"]).start();
    wait_until("some epochs are committed", || {
        running.assert_alive("the run that is killed");
        stream.epochs() > 3
    });
    running.signal("KILL");
    let _ = running.wait();
    for table in ["page_views_by_minute_data", "page_views_by_day_data", "sessions_data", "raw_events_data"] {
        stream.database().run(&format!("TRUNCATE TABLE {table}"));
    }
    live.run().assert_refused(&[3], &["was emptied", "tidemill tables refill"]);
    let done = live.refill(&stream.lake().to_string_lossy());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let gone_on = live.run();
    assert_eq!(gone_on.code, Some(0), "{}", gone_on.stderr);
    stream.check(&topics, &topics.oracle(), &topics.counts(topics.len()), "after the kill");
    stream.database().drop_all();
}

#[test]
fn a_refill_that_was_killed_goes_on_and_leaves_nothing_behind() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let stream = Stream::new(&tidemill(), services, "refill_killed");
    let bytes = corpus::events(12_000, 34, Rates::within_horizon());
    let topics = Topics::deal(vec![(stream.topic("all"), 2)], &bytes);
    topics.create(services.brokers());
    let producer = Producer::new(services.brokers());
    topics.send(&producer, 0, topics.len());
    producer.flush();
    stream.apply();
    let live = Live::new(&stream, &folder);
    assert_eq!(live.run().code, Some(0));
    let (from, to) = (stream.source(), stream.database().address());
    let arguments = ["tables", "refill", "--from", &from, "--state", &live.state, "--to", &to];
    // With tables that are there when it goes on, and without any.
    for harm in [&["SELECT 1"][..], &["DROP DATABASE {database} SYNC"]] {
        stream.database().run("TRUNCATE TABLE sessions_data");
        let mut killed = stream.tidemill().start(&arguments);
        killed.until(|_| {
        let rows = "SELECT sum(total_rows) FROM system.tables WHERE database = currentDatabase() AND name LIKE '%\\_refill\\_%'";
        stream.database().try_numbers(rows).is_ok_and(|rows| rows.iter().any(|rows| *rows > 0))
    });
        killed.signal("KILL");
        let _ = killed.wait();
        live.run().assert_refused(&[3], &["sessions_data", "was emptied"]);
        harm.iter().for_each(|sql| stream.database().run(&sql.replace("{database}", stream.database().name())));
        stream.apply();
        let done = live.refill(&from);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert_eq!(live.tables_like("%_refill_%"), 0);
        assert_eq!(live.tables_like("%_lost_%"), 0);
        assert_eq!(live.run().code, Some(0));
        stream.check(&topics, &topics.oracle(), &topics.counts(topics.len()), &harm.join("; "));
        nothing_lost(&live);
    }
    stream.database().drop_all();
}

#[test]
fn a_refill_that_cannot_read_all_again_changes_nothing_unless_it_is_told_to() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let stream = Stream::new(&tidemill(), services, "refill_short");
    let bytes = corpus::events(6_000, 35, Rates::within_horizon());
    let topics = Topics::deal(vec![(stream.topic("all"), 1)], &bytes);
    topics.create(services.brokers());
    let producer = Producer::new(services.brokers());
    topics.send(&producer, 0, topics.len());
    producer.flush();
    stream.apply();
    let live = Live::new(&stream, &folder);
    assert_eq!(live.run().code, Some(0));
    let views = |table: &str| stream.database().try_numbers(&format!("SELECT sum(views) FROM {table}")).unwrap();
    let whole = views("page_views_by_day");
    stream.database().run("TRUNCATE TABLE page_views_by_minute_data");

    // Read in another way than the run did it; a right one afterwards is not the worse for it.
    let otherwise = live.tables(&["refill", "--from", &stream.source(), "--oldest", "2026-06-01"]);
    otherwise.assert_refused(&[3], &["was bound with watermark"]);
    assert_eq!(live.tables_like("%_refill_%"), 0);
    let done = live.refill(&stream.source());
    assert_eq!((done.code, views("page_views_by_minute")), (Some(0), whole.clone()), "{}", done.stderr);
    delete_before(services.brokers(), (&stream.topic("all"), 0), 1_000);
    stream.database().run("TRUNCATE TABLE page_views_by_minute_data");

    // Neither the table that lost nothing nor the other one is touched.
    live.refill(&stream.source()).assert_refused(&[3], &["offset 0 is wanted", "reads again from where the run began"]);
    assert_eq!((views("page_views_by_minute"), views("page_views_by_day")), (vec![0], whole.clone()));
    let foreign = live.tables(&["refill", "funnel", "--from", &stream.source()]);
    assert!(foreign.code != Some(0), "another pipeline fills nothing: {}", foreign.stderr);
    live.refill(&folder.path().join("nothing_there").to_string_lossy()).assert_refused(&[3], &["no tables of a run"]);
    let other = folder.path().join("other");
    tidemill().job(&[corpus::file(folder.path(), "a.ndjson", &bytes)], &other).finish();
    live.refill(&other.to_string_lossy()).assert_refused(&[3], &["their log is another one", "nothing was changed"]);

    // Of the table that lost something, and of nothing else, what is left comes back.
    let what_is_left = live.tables(&["refill", "--from", &stream.source(), "--incomplete"]);
    assert_eq!(what_is_left.code, Some(0), "{}", what_is_left.stderr);
    assert!(views("page_views_by_minute")[0] > 0 && views("page_views_by_minute") < whole);
    assert_eq!(views("page_views_by_day"), whole);
    assert_eq!(live.run().code, Some(0));

    // From the lake all of it does, and what was there is kept.
    let lake = stream.lake().to_string_lossy().into_owned();
    let filled = live.tables(&["refill", "--from", &lake, "--table", "page_views_by_minute"]);
    assert_eq!(filled.code, Some(0), "{}", filled.stderr);
    assert_eq!((views("page_views_by_minute"), views("page_views_by_day")), (whole.clone(), whole));
    assert_eq!(live.tables_like("%_lost_%"), 2, "by minute and by day");
    stream.check(&topics, &topics.oracle(), &topics.counts(topics.len()), "from the lake");
    stream.database().drop_all();
}

#[test]
fn a_table_that_was_emptied_on_purpose_is_accepted_and_the_run_goes_on() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let stream = Stream::new(&tidemill(), services, "accepted");
    let bytes = corpus::events(3_000, 36, Rates::within_horizon());
    let topics = Topics::deal(vec![(stream.topic("all"), 1)], &bytes);
    topics.create(services.brokers());
    let producer = Producer::new(services.brokers());
    topics.send(&producer, 0, topics.len() / 2);
    producer.flush();
    stream.apply();
    let live = Live::new(&stream, &folder);
    assert_eq!(live.run().code, Some(0));
    let rows = || stream.database().try_numbers("SELECT count() FROM raw_events").unwrap()[0];
    let before = rows();
    stream.database().run("TRUNCATE TABLE raw_events_data");
    live.run().assert_refused(&[3], &["raw_events_data", "tidemill tables accept"]);
    live.tables(&["accept", "--table", "nothing"]).assert_refused(&[2], &["the run of pipeline web_analytics writes"]);
    let accepted = live.tables(&["accept", "--table", "raw_events"]);
    assert_eq!(accepted.code, Some(0), "{}", accepted.stderr);
    topics.send(&producer, topics.len() / 2, topics.len());
    producer.flush();
    assert_eq!(live.run().code, Some(0));
    let (_, books) = topics.oracle().answer();
    assert_eq!(rows(), books.accepted - before);
    stream.database().drop_all();
}

#[test]
fn a_view_of_a_user_that_fails_stops_the_run_with_its_name_and_costs_nothing_once_it_is_gone() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let stream = Stream::new(&tidemill(), services, "users_view");
    let bytes = corpus::events(5_000, 33, Rates::within_horizon());
    let topics = Topics::deal(vec![(stream.topic("all"), 2)], &bytes);
    topics.create(services.brokers());
    let producer = Producer::new(services.brokers());
    topics.send(&producer, 0, topics.len());
    producer.flush();
    stream.apply();
    let live = Live::new(&stream, &folder);
    for table in ["page_views_by_minute_data", "raw_events_data", "sessions_data"] {
        stream.database().run(&format!(
            "CREATE MATERIALIZED VIEW boom ENGINE = Null AS SELECT throwIf(cityHash64(tenant, _row) >= 0) AS x FROM \
             (SELECT tenant, rowNumberInAllBlocks() AS _row FROM {table}) WHERE _row = 40"
        ));
        live.run().assert_refused(&[3], &[table, "boom", "mend or drop", "Code: 395"]);
        stream.database().run("DROP VIEW boom");
    }
    let done = live.run();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    stream.check(&topics, &topics.oracle(), &topics.counts(topics.len()), "after views that failed");
    stream.database().drop_all();
}
