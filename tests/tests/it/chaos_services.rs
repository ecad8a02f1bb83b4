//! Everything fails in turn while events keep coming: the job, Kafka, ClickHouse, S3 and the network between them; views fail,
//! tables are emptied, passwords change, schemas are registered late.
//!
//! What readers see in ClickHouse never shrinks and never exceeds what was sent, and in the end every place equals the
//! oracle. A topic that is made anew then, with as many messages, is refused. `SEED` and `KILLS` in the environment choose another schedule: `make chaos-services SEED= KILLS=`.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_registry::{EVENT_V1, Registry, Schema, encode};
use tidemill_tests::chaos::{self, Blow, Step, Weather};
use tidemill_tests::corpus;
use tidemill_tests::harness::{Run, Running};
use tidemill_tests::late_registry::LateRegistry;
use tidemill_tests::oracle::Oracle;
use tidemill_tests::services::{Producer, Proxy, Services, pause, wait_until};
use tidemill_tests::stream::Stream;
use tidemill_tests::topics::{self, Topics};

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
    topics: &'a Topics<'a>,
    sent: &'a AtomicUsize,
    /// Has what the real registry has, or lacks a schema for a while.
    registry: LateRegistry,
    /// Events that were sent once more, as Avro.
    repeated: AtomicUsize,
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

    /// An event that was sent before, once more, by a schema of its own; the registry has it when the job says that it waits.
    fn late_schema(&self, running: &mut Running, context: &str) {
        const AGO: usize = 3_000;
        let known = Registry::new(self.services.registry(), None).expect("the address of a running registry");
        let number = self.repeated.fetch_add(1, Ordering::SeqCst);
        let mut text: Value = serde_json::from_str(EVENT_V1).expect("a schema is JSON");
        text["name"] = json!(format!("Event{number}"));
        let text = text.to_string();
        let id = known.register(&format!("late-{number}"), &text).expect("it takes a schema");
        self.registry.lose(id);
        let schema = Schema::parse_str(&text).expect("it is one");
        let lines = self.topics.lines().skip(self.sent.load(Ordering::SeqCst).saturating_sub(AGO));
        let whole = |line: &[u8]| {
            let event: Value = serde_json::from_slice(line).ok()?;
            let is_event = !Oracle::of([line]).answer().0.raw_events.is_empty() && event.get("sdk").is_none();
            if is_event { encode(&schema, id, &event).ok() } else { None }
        };
        let message = lines.into_iter().find_map(whole).expect("some line is an event");
        let waits = |job: &Running| job.said().matches("it is asked for again, and given up").count();
        let before = waits(running);
        let producer = Producer::new(self.services.brokers());
        producer.send(&self.stream.topic("avro"), 0, &message);
        producer.flush();
        wait_until(&format!("{context}: a schema is waited for"), || {
            running.assert_alive(context);
            waits(running) > before
        });
        self.registry.catch_up();
        wait_until(&format!("{context}: its message is read"), || {
            running.assert_alive(context);
            running.said().contains(&format!("schema id {id} is there"))
        });
    }

    /// ClickHouse ends and comes back with this password for the job's user, or with the usual one.
    fn passwords(&self, password: Option<&str>) {
        let file = &self.services.variables()["CLICKHOUSE_PASSWORDS"];
        self.services.kill("clickhouse");
        match password {
            Some(password) => fs::write(file, password).expect("the file can be written"),
            None => fs::remove_file(file).expect("the file can be removed"),
        }
        self.services.restart("clickhouse");
    }

    /// Runs a statement that may be repeated, on a server that may just be ending.
    fn execute(&self, sql: &str) {
        wait_until(sql, || {
            self.revive();
            self.stream.database().try_query(sql).is_ok()
        });
    }

    /// Empties a table and fills it again.
    fn lose(&self, table: &str, workers: usize, context: &str) {
        self.emptied.fetch_add(1, Ordering::SeqCst);
        self.execute(&format!("TRUNCATE TABLE {table}"));
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
                self.execute(&format!(
                    "CREATE MATERIALIZED VIEW IF NOT EXISTS boom ENGINE = Null AS SELECT throwIf(1) AS x FROM {table}"
                ));
                self.refuses(running, &[table, "boom", "mend or drop"], context);
                self.execute("DROP VIEW IF EXISTS boom SYNC");
                self.start(step.workers)
            }
            Blow::EmptyTable(table) => {
                self.get_on(&mut running, context);
                let _ = running.kill_after(std::time::Duration::ZERO);
                self.clear();
                self.lose(table, step.workers, context);
                self.start(step.workers)
            }
            Blow::LateSchema => {
                self.clear();
                self.get_on(&mut running, context);
                self.late_schema(&mut running, context);
                running
            }
            Blow::ChangePassword => {
                self.clear();
                self.get_on(&mut running, context);
                let refusals = |job: &Running| job.said().matches("Code: 516").count();
                let before = refusals(&running);
                self.passwords(Some("changed"));
                wait_until(&format!("{context}: its password is refused"), || {
                    running.assert_alive(context);
                    refusals(&running) > before
                });
                self.passwords(None);
                self.get_on(&mut running, context);
                running
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
    let (seed, kills) = (setting("SEED", 1), setting("KILLS", 10));
    let _repeat = Repeat(seed, kills);
    eprintln!("SEED={seed} KILLS={kills}");
    let services = Services::own("chaos", &["kafka", "clickhouse", "s3", "registry", "toxiproxy"]);
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(LINES_BESIDE + kills * LINES_A_KILL, seed, Rates::within_horizon());
    let proxies = services.proxies();
    let to_clickhouse = proxies.to("clickhouse", services.clickhouse_place());
    let to_s3 = proxies.to("s3", services.s3_place());
    let stream = Stream::new(&tidemill(), &services, "chaos").clickhouse_by(to_clickhouse.place());
    let topics = Topics::deal(vec![(stream.topic("a"), 3), (stream.topic("b"), 3)], &bytes);
    let (oracle, limits) = (topics.oracle(), chaos::limits(&topics));
    topics.create(services.brokers());
    topics::create(services.brokers(), &stream.topic("avro"), 1);
    let registry = LateRegistry::start(services.registry(), []);
    stream.apply();
    let state = match seed % 2 {
        0 => stream.remote_state(),
        _ => folder.path().join("state").to_string_lossy().into_owned(),
    };
    let run = stream
        .run(&state)
        .option(&["--epoch-every", "200ms", "--checkpoint-every", "500ms"])
        .environment("AWS_ENDPOINT_URL", &format!("http://{}", to_s3.place()))
        .environment("SCHEMA_REGISTRY_URL", &registry.url)
        .environment("CLICKHOUSE_USER", "keyed")
        .environment("CLICKHOUSE_PASSWORD", "keyed");
    let sent = AtomicUsize::new(0);
    let (services, topics, sent, repeated) = (&services, &topics, &sent, AtomicUsize::new(0));
    let world = World {
        services,
        to_clickhouse,
        to_s3,
        stream,
        run,
        state,
        topics,
        sent,
        registry,
        repeated,
        emptied: AtomicUsize::new(0),
    };

    let (stop_producer, producer_stops) = channel();
    let (stop_watcher, watcher_stops) = channel();
    let (count, looks) = thread::scope(|scope| {
        // Dropped when a step fails too, so that the scope ends.
        let (stop_producer, stop_watcher) = (stop_producer, stop_watcher);
        let (limits, emptied) = (&limits, &world.emptied);
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
        let duplicates = books.duplicates + world.repeated.load(Ordering::SeqCst) as u64;
        assert_eq!(found, [books.accepted, duplicates, books.malformed, 0], "{line}");
        drop(stop_watcher);
        (count, watcher.join().expect("readers saw only what may be"))
    });
    eprintln!("{count} lines sent, {looks} looks at the tables");
    let context = format!("SEED={seed} KILLS={kills}");
    world.stream.check(topics, &oracle, &topics.counts(count), &context);

    topics.make_anew(services.brokers());
    topics.send(&Producer::new(services.brokers()), 0, count);
    world.run.option(&["--until-end"]).outcome().assert_refused(&[3], &["the topic was made anew since it was read"]);
    world.stream.check(topics, &oracle, &topics.counts(count), &format!("{context}, and topics made anew"));
}
