//! Everything fails in turn while events keep coming: the job, Kafka, ClickHouse, S3 and the network between them.
//!
//! What readers see in ClickHouse never shrinks and never exceeds what was sent, and in the end every place equals the
//! oracle. `SEED` and `KILLS` in the environment choose another schedule: `make chaos-services SEED= KILLS=`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::chaos::{self, Blow, Step, Weather};
use tidemill_tests::corpus;
use tidemill_tests::harness::{Run, Running};
use tidemill_tests::services::{Proxy, Services, pause, wait_until};
use tidemill_tests::stream::Stream;
use tidemill_tests::topics::Topics;

use crate::{counter, setting, tidemill};

/// Lines a second.
const RATE: usize = 1_000;
/// Lines for each kill, and some more: they last longer than the schedule does.
const LINES_A_KILL: u64 = 12_000;
const LINES_BESIDE: u64 = 30_000;

/// Says how to repeat a schedule that failed.
struct Repeat(u64, u64);

impl Drop for Repeat {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("repeat it: make chaos-services SEED={} KILLS={}", self.0, self.1);
        }
    }
}

/// The world of a schedule.
struct World<'a> {
    services: &'a Services,
    to_clickhouse: Proxy,
    to_s3: Proxy,
    stream: Stream,
    run: Run,
    state: String,
    /// Counted up before a table is emptied, and again when it is filled.
    emptied: AtomicUsize,
}

impl World<'_> {
    fn start(&self, workers: usize) -> Running {
        self.run.workers(workers).start()
    }

    /// Waits until ClickHouse shows a later epoch than now.
    fn get_on(&self, running: &mut Running, context: &str) {
        let before = self.stream.epochs();
        let mut looks = 0;
        wait_until(&format!("{context}: the job gets on"), || {
            running.assert_alive(context);
            looks += 1;
            if looks % 100 == 0 {
                self.revive();
            }
            self.stream.epochs() > before
        });
    }

    fn change(&self, weather: Weather, at_clickhouse: bool) {
        let way = if at_clickhouse { &self.to_clickhouse } else { &self.to_s3 };
        match weather {
            Weather::Fair => {}
            Weather::Delay(millis) => way.delay(millis),
            Weather::SlowClose(millis) => way.close_slowly(millis),
            Weather::ShortAnswers(bytes) => way.limit_answers(bytes),
            Weather::ShortRequests(bytes) => way.limit_requests(bytes),
            Weather::Cut => way.cut(),
        }
    }

    fn clear(&self) {
        self.to_clickhouse.heal();
        self.to_s3.heal();
        self.revive();
    }

    /// ClickHouse in a library ends, with "Broken pipe", where a request breaks off just as it answers. A server would be
    /// started again by what watches over it.
    fn revive(&self) {
        self.services.revive("clickhouse");
    }

    /// Waits until the job stops by itself with exit code 3 and a sentence that has all of `words`.
    fn refuses(&self, mut running: Running, words: &[&str], context: &str) {
        let mut looks = 0;
        running.until(|_| {
            looks += 1;
            if looks % 100 == 0 {
                self.revive();
            }
            false
        });
        eprintln!("{context}: it stops");
        running.wait().assert_refused(&[3], words);
    }

    /// Empties a table and fills it again.
    fn lose(&self, table: &str, workers: usize, context: &str) {
        self.emptied.fetch_add(1, Ordering::SeqCst);
        self.stream.database().run(&format!("TRUNCATE TABLE {table}"));
        self.refuses(self.start(workers), &[table, "tidemill tables refill"], context);
        let (from, to) = (self.stream.source(), self.stream.database().address());
        let refill = ["tables", "refill", "--from", &from, "--state", &self.state, "--to", &to];
        let done = self.stream.tidemill().command(&refill);
        assert_eq!(done.code, Some(0), "{context}: {}", done.stderr);
        self.emptied.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes one step; gives the job that runs after it.
    fn take(&self, step: &Step, mut running: Running, context: &str) -> Running {
        pause(step.before);
        running.assert_alive(context);
        self.change(step.weather, step.at_clickhouse);
        pause(step.lasts);
        running.assert_alive(context);
        if step.weather.is_blocking() && matches!(step.blow, Blow::SleepRun | Blow::EmptyTable(_)) {
            self.clear();
        }
        let after = match step.blow {
            Blow::KillRun => {
                assert!(
                    running.kill_after(std::time::Duration::ZERO).is_none(),
                    "{context}: it ended before it was killed"
                );
                if step.weather.is_blocking() {
                    self.clear();
                }
                self.start(step.workers)
            }
            Blow::SleepRun => {
                // A run that has not begun would begin when it wakes, and rightly so.
                self.get_on(&mut running, context);
                running.signal("STOP");
                let mut next = self.run.option(&["--take-over"]).workers(step.workers).start();
                self.get_on(&mut next, context);
                running.signal("CONT");
                let sleeper = running.wait();
                assert_eq!(sleeper.code, Some(4), "{context}: the run that slept: {}", sleeper.stderr);
                next
            }
            Blow::FailView(table) => {
                self.clear();
                let sql = format!("CREATE MATERIALIZED VIEW boom ENGINE = Null AS SELECT throwIf(1) AS x FROM {table}");
                self.stream.database().run(&sql);
                self.refuses(running, &[table, "boom", "mend or drop"], context);
                self.stream.database().run("DROP VIEW boom SYNC");
                self.start(step.workers)
            }
            Blow::EmptyTable(table) => {
                self.get_on(&mut running, context);
                let _ = running.kill_after(std::time::Duration::ZERO);
                self.clear();
                self.lose(table, step.workers, context);
                self.start(step.workers)
            }
            Blow::KillService(name) => {
                self.services.kill(name);
                pause(step.away);
                self.services.restart(name);
                running.assert_alive(context);
                running
            }
        };
        self.clear();
        after
    }
}

#[test]
fn nothing_is_lost_or_doubled_at_any_moment_whoever_is_killed() {
    let (seed, kills) = (setting("SEED", 1), setting("KILLS", 8));
    let _repeat = Repeat(seed, kills);
    eprintln!("SEED={seed} KILLS={kills}");
    let services = Services::own("chaos", &["kafka", "clickhouse", "s3", "toxiproxy"]);
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(LINES_BESIDE + kills * LINES_A_KILL, seed, Rates::within_horizon());
    let proxies = services.proxies();
    let to_clickhouse = proxies.to("clickhouse", services.clickhouse_place());
    let to_s3 = proxies.to("s3", services.s3_place());
    let stream = Stream::new(&tidemill(), &services, "chaos").clickhouse_by(to_clickhouse.place());
    let topics = Topics::deal(vec![(stream.topic("a"), 3), (stream.topic("b"), 3)], &bytes);
    let (oracle, limits) = (topics.oracle(), chaos::limits(&topics));
    topics.create(services.brokers());
    stream.apply();
    let state = match seed % 2 {
        0 => stream.remote_state(),
        _ => folder.path().join("state").to_string_lossy().into_owned(),
    };
    let run = stream
        .run(&state)
        .option(&["--epoch-every", "200ms", "--checkpoint-every", "500ms"])
        .environment("AWS_ENDPOINT_URL", &format!("http://{}", to_s3.place()));
    let world = World { services: &services, to_clickhouse, to_s3, stream, run, state, emptied: AtomicUsize::new(0) };

    let sent = AtomicUsize::new(0);
    let (stop_producer, producer_stops) = channel();
    let (stop_watcher, watcher_stops) = channel();
    let (count, looks) = thread::scope(|scope| {
        // Dropped when a step fails too, so that the scope ends.
        let (stop_producer, stop_watcher) = (stop_producer, stop_watcher);
        let (topics, limits, sent, emptied) = (&topics, &limits, &sent, &world.emptied);
        let (brokers, database) = (services.brokers(), world.stream.database());
        let producer = scope.spawn(move || chaos::produce(topics, brokers, RATE, sent, &producer_stops));
        let watcher = scope.spawn(move || chaos::watch(database, limits, (sent, emptied), &watcher_stops));
        let mut running = world.start(2);
        for (at, step) in chaos::schedule(seed, kills).iter().enumerate() {
            let context = format!("SEED={seed} step {} of {kills}: {step:?}", at + 1);
            eprintln!("{context}");
            running = world.take(step, running, &context);
            assert!(!watcher.is_finished(), "{context}: a reader saw what may not be");
        }
        world.get_on(&mut running, "after the last step");
        running.signal("TERM");
        let stopped = running.wait();
        assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
        drop(stop_producer);
        let count = producer.join().expect("the producer sent everything");
        let line = world.run.option(&["--until-end"]).workers(2).finish();
        let books = oracle.answer_of_prefix(&topics.counts(count)).1;
        let found = ["accepted", "duplicates", "malformed", "unverified"].map(|name| counter(&line, name));
        assert_eq!(found, [books.accepted, books.duplicates, books.malformed, 0], "{line}");
        drop(stop_watcher);
        (count, watcher.join().expect("readers saw only what may be"))
    });
    eprintln!("{count} lines sent, {looks} looks at the tables");
    world.stream.check(&topics, &oracle, &topics.counts(count), &format!("SEED={seed} KILLS={kills}"));
}
