//! ClickHouse tables that lose rows under a run that goes on: nothing is silently missing, and all of it comes back.

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::Outcome;
use tidemill_tests::services::{Producer, Services, wait_until};
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

impl Live<'_> {
    fn run(&self) -> Outcome {
        let options = ["--until-end", "--epoch-bytes", "65536"];
        self.stream.run(&self.state).option(&options).outcome()
    }

    fn refill(&self, from: &str) -> Outcome {
        let to = self.stream.database().address();
        self.stream.tidemill().command(&["tables", "refill", "--from", from, "--state", &self.state, "--to", &to])
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
    let live = Live { stream: &stream, state: folder.path().join("state").to_string_lossy().into_owned() };
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
    let live = Live { stream: &stream, state: folder.path().join("state").to_string_lossy().into_owned() };
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
    let live = Live { stream: &stream, state: folder.path().join("state").to_string_lossy().into_owned() };
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
