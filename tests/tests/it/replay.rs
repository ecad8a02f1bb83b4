//! Tables built anew, from the topics and from the archive: equal to the live ones, and put in their place.

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;
use tidemill_tests::harness::{Outcome, Run, Running};
use tidemill_tests::oracle::Oracle;
use tidemill_tests::services::{Producer, Services, wait_until};
use tidemill_tests::stream::Stream;
use tidemill_tests::topics::Topics;

use crate::{stop, tidemill};

/// What the rebuilt tables are called behind the live ones' names.
const SUFFIX: &str = "_anew";

/// A live pipeline of one test.
struct Live<'a> {
    stream: Stream,
    topics: Topics<'a>,
    oracle: Oracle,
    producer: Producer,
    run: Run,
    state: String,
}

impl<'a> Live<'a> {
    fn new(services: &Services, stream: Stream, bytes: &'a [u8], state: String) -> Live<'a> {
        let topics = Topics::deal(vec![(stream.topic("all"), 4)], bytes);
        topics.create(services.brokers());
        stream.apply();
        let run = stream.run(&state).option(&["--epoch-every", "200ms", "--checkpoint-every", "500ms"]);
        Live { oracle: topics.oracle(), producer: Producer::new(services.brokers()), stream, topics, run, state }
    }

    /// Sends the lines from `from` to before `until`, and waits until they are visible.
    fn send(&self, running: &mut Running, from: usize, until: usize) {
        self.topics.send(&self.producer, from, until);
        self.producer.flush();
        let accepted = self.oracle.answer_of_prefix(&self.topics.counts(until)).1.accepted;
        self.stream.until_visible(accepted, || running.assert_alive("the live run"));
    }

    #[track_caller]
    fn check(&self, sent: usize, context: &str) {
        self.stream.check(&self.topics, &self.oracle, &self.topics.counts(sent), context);
    }

    fn replay(&self, from: &str, options: &[&str]) -> Outcome {
        let to = self.stream.database().address();
        let arguments = ["replay", "--from", from, "--state", &self.state, "--to", &to, "--into", SUFFIX];
        self.stream.tidemill().command(&[&arguments[..], &["--workers", "2"], options].concat())
    }

    /// A replay that must succeed; gives what it said.
    #[track_caller]
    fn replayed(&self, from: &str, options: &[&str]) -> String {
        let done = self.replay(from, options);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        assert_eq!(done.code, Some(0), "{said}{}", done.stderr);
        said
    }

    /// How many rows a table has.
    fn count(&self, table: &str) -> u64 {
        self.stream.database().try_numbers(&format!("SELECT count() FROM {table}")).unwrap()[0]
    }
}

/// Checks that every table was compared, and none found different.
#[track_caller]
fn assert_compared(said: &str, tables: &[&str]) {
    assert!(said.contains("all tables are equal") && !said.contains("DIFFERENT"), "{said}");
    for table in tables {
        let compared = said.lines().any(|line| line.starts_with(&format!("{table} ")) && line.ends_with(" equal"));
        assert!(compared, "{table} was not compared: {said}");
    }
}

const ALL: [&str; 5] =
    ["page_views_by_minute", "errors_by_version_by_minute", "revenue_by_minute", "sessions", "raw_events"];

#[test]
fn a_replay_of_the_topics_equals_the_live_tables_and_takes_their_place_while_the_live_run_rests() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let stream = Stream::new(&tidemill(), services, "replay");
    let bytes = corpus::events(20_000, 21, Rates::within_horizon());
    let state = folder.path().join("state").to_string_lossy().into_owned();
    let live = Live::new(services, stream, &bytes, state);
    let (half, most, all) = (live.topics.len() / 2, 3 * live.topics.len() / 4, live.topics.len());
    let from = live.stream.source();

    let mut running = live.run.workers(2).start();
    live.send(&mut running, 0, half);
    // Rows are visible a moment before their epoch is committed in the log; progress comes after that.
    wait_until("an epoch is committed", || live.stream.epochs() > 0);
    let said = live.replayed(&from, &[]);
    assert!(said.contains("rebuilt through epoch"), "beside a live run: {said}");
    live.send(&mut running, half, most);
    stop(running);
    assert_compared(&live.replayed(&from, &[]), &ALL);
    live.check(most, "a replay beside them changed the live tables");

    let before = live.count("raw_events");
    let swapped = live.replayed(&from, &["--swap"]);
    assert_compared(&swapped, &ALL);
    assert!(swapped.contains("exchanged"), "{swapped}");
    live.check(most, "exchanged");
    live.replay(&from, &["--swap"]).assert_refused(&[3], &[SUFFIX, "another suffix"]);

    let mut again = live.run.workers(1).start();
    live.send(&mut again, most, all);
    stop(again);
    live.check(all, "the live run goes on in the exchanged tables");
    assert_eq!(live.count(&format!("raw_events{SUFFIX}")), before, "what was live rests under the other name");
    live.stream.database().drop_all();
}

#[test]
fn a_replay_of_the_archive_equals_the_live_tables_and_one_with_a_row_too_many_is_refused() {
    let services = Services::shared();
    let stream = Stream::new(&tidemill(), services, "archive");
    let bytes = corpus::events(20_000, 22, Rates::within_horizon());
    let state = stream.remote_state();
    let live = Live::new(services, stream, &bytes, state);
    let all = live.topics.len();
    let mut running = live.run.workers(2).start();
    live.send(&mut running, 0, all);
    stop(running);
    let lake = live.stream.lake().to_string_lossy().into_owned();
    assert_compared(&live.replayed(&lake, &[]), &ALL);

    let row = |sign: i32| {
        let columns = "(tenant, window_start, currency, orders, amount_cents)";
        let values = format!("('default', '2026-03-01 00:10:00.000', 'XTS', {sign}, {sign})");
        let done = live
            .stream
            .database()
            .query(&format!("INSERT INTO revenue_by_minute{SUFFIX}_data {columns} VALUES {values}"));
        assert!(done.is_empty());
    };
    row(1);
    let words = ["revenue_by_minute differs in 2026-03-01", "XTS", "0 times live and 1 times rebuilt"];
    live.replay(&lake, &[]).assert_refused(&[3], &words);
    live.replay(&lake, &["--swap"]).assert_refused(&[3], &words);
    live.check(all, "nothing was exchanged");

    row(-1);
    assert!(live.replayed(&lake, &["--swap"]).contains("exchanged"));
    live.check(all, "exchanged");
    live.stream.database().drop_all();
}

#[test]
fn a_run_over_topics_is_repeated_in_its_recorded_cuts_and_equals_its_bucket() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let stream = Stream::new(&tidemill(), services, "repeat");
    let bytes = corpus::events(10_000, 23, Rates::within_horizon());
    let state = stream.remote_state();
    let live = Live::new(services, stream, &bytes, state);
    let (half, all) = (live.topics.len() / 2, live.topics.len());
    let mut running = live.run.workers(2).start();
    live.send(&mut running, 0, half);
    live.send(&mut running, half, all);
    stop(running);
    let (tidemill, lake, repeated) = (live.stream.tidemill(), live.stream.lake(), folder.path().join("repeated"));
    let out = repeated.to_str().unwrap();
    let from = live.stream.source();
    let replay = |options: &[&str]| {
        tidemill.command(&[&["replay", "--bindings", &live.state, "--out", out][..], options].concat())
    };
    replay(&[]).assert_refused(&[2], &["--from"]);
    let done = replay(&["--from", &from]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let compared = tidemill.command(&["diff", lake.to_str().unwrap(), out]);
    assert_eq!(compared.code, Some(0), "{}{}", String::from_utf8_lossy(&compared.stdout), compared.stderr);
    tidemill.tables(lake).assert_equal(&tidemill.tables(&repeated), "repeated");
    live.check(all, "the live tables are as they were");
    live.stream.database().drop_all();
}
