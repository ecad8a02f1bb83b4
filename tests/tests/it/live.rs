//! Whatever dies while events arrive over HTTP: what was acknowledged is in the tables once, and readers see no step back.
//!
//! `SEED`, `KILLS`, `RATE` (events a second) and `ASLEEP` (seconds at most) in the environment choose another schedule:
//! `make chaos-live SEED= KILLS=`.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_tests::harness::Running;
use tidemill_tests::live::{Blow, EventLog, Step, Who, committed, places, schedule, signal, watch};
use tidemill_tests::oracle::Oracle;
use tidemill_tests::services::{pause, wait_until};

use crate::{assert_books_balance, counter, setting, stop, tidemill};

/// Says how to repeat a schedule that failed, and what it was.
struct Repeat {
    seed: u64,
    steps: Vec<Step>,
    options: String,
}

impl Drop for Repeat {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("repeat it: make chaos-live SEED={} {}", self.seed, self.options);
            for (at, step) in self.steps.iter().enumerate() {
                eprintln!("step {}: {step:?}", at + 1);
            }
        }
    }
}

/// Everything but who sends.
struct World {
    log: EventLog,
    folder: PathBuf,
    address: String,
    collector: Running,
    run: Running,
}

impl World {
    fn new(folder: PathBuf) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        drop(listener);
        let log = EventLog::new(folder.join("log"));
        let collector = collector(&folder, &address);
        let run = run(&folder, &log, (2, 2));
        World { log, folder, address, collector, run }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The number of whoever is hit; one that is about to be started again is waited for.
    fn pid(&mut self, who: Who, context: &str) -> u32 {
        let place = match who {
            Who::Collector => return self.collector.pid(),
            Who::Supervisor => return self.run.pid(),
            Who::Worker(place) => place,
        };
        let mut processes = Vec::new();
        let run = &mut self.run;
        wait_until(&format!("{context}: the run has processes"), || {
            run.assert_alive(context);
            processes = places(run.pid());
            !processes.is_empty()
        });
        processes[place % processes.len()].1
    }

    fn take(&mut self, step: &Step, context: &str) {
        pause(step.before);
        self.collector.assert_alive(context);
        self.run.assert_alive(context);
        match step.blow {
            Blow::Kill(who) => {
                signal(self.pid(who, context), "KILL");
                match who {
                    // Its supervisor sees to it.
                    Who::Worker(_) => {}
                    Who::Supervisor => self.run = run(&self.folder, &self.log, step.shape),
                    Who::Collector => {
                        // Nobody else writes to the log before it is gone.
                        assert!(!self.collector.until(|_| false), "it waits for the end");
                        self.collector = collector(&self.folder, &self.address);
                    }
                }
            }
            Blow::Sleep(who, span) => {
                let pid = self.pid(who, context);
                signal(pid, "STOP");
                pause(span);
                signal(pid, "CONT");
            }
            Blow::Rescale => {
                self.run.signal("TERM");
                let _ = self.run.until(|_| false);
                self.run = run(&self.folder, &self.log, step.shape);
            }
        }
    }
}

fn collector(folder: &Path, address: &str) -> Running {
    let log = folder.join("log");
    let log = log.to_str().expect("a path in UTF-8");
    let mut collector =
        tidemill().start(&["collect", "--open", "--log", log, "--listen", address, "--partitions", "2", "--json"]);
    let url = format!("http://{address}/readyz");
    assert!(collector.until(|_| ureq::get(&url).call().is_ok()), "the collector: {}", collector.said());
    collector
}

fn run(folder: &Path, log: &EventLog, (processes, workers): (u32, usize)) -> Running {
    let (data, from) = (folder.join("data"), log.address());
    let (processes, workers) = (processes.to_string(), workers.to_string());
    let places = ["run", "web_analytics", "--from", &from, "--out", data.to_str().expect("a path in UTF-8")];
    let pace = ["--epoch-every", "200ms", "--checkpoint-every", "1s", "--json"];
    let shape = ["--processes", &processes, "--workers", &workers, "--supervise"];
    tidemill().start(&[&places[..], &pace, &shape].concat())
}

#[test]
fn every_acknowledged_event_is_counted_once_whoever_dies_while_events_arrive() {
    let (seed, kills) = (setting("SEED", 1), setting("KILLS", 20));
    let (rate, asleep) = (setting("RATE", 600), setting("ASLEEP", 6));
    let steps = schedule(seed, kills, Duration::from_secs(asleep));
    let options = format!("KILLS={kills} RATE={rate} ASLEEP={asleep}");
    eprintln!("SEED={seed} {options}");
    let repeat = Repeat { seed, steps, options };

    let folder = TempDir::new().unwrap();
    let mut world = World::new(folder.path().to_owned());
    let acked = folder.path().join("acked");
    let (to, speed, seed) = (format!("http://{}", world.address), rate.to_string(), seed.to_string());
    let fleet = ["generate", "--to", &to, "--rate", &speed, "--seed", &seed, "--within-horizon", "--json"];
    let acked_to = ["--acked", acked.to_str().expect("a path in UTF-8")];
    let mut generator = tidemill().start(&[&fleet[..], &acked_to].concat());

    let (stop_watcher, watcher_stops) = channel();
    let (sent, looks) = thread::scope(|scope| {
        // Dropped when a step fails too, so that the scope ends.
        let stop_watcher = stop_watcher;
        let (data, log) = (world.data(), world.log.clone());
        let watcher = scope.spawn(move || watch(&data, &log, &watcher_stops));
        for (at, step) in repeat.steps.iter().enumerate() {
            let context = format!("step {} of {kills}: {step:?}", at + 1);
            eprintln!("{context}");
            world.take(step, &context);
            generator.assert_alive(&context);
            assert!(!watcher.is_finished(), "{context}: a reader saw what may not be");
        }
        generator.signal("TERM");
        let done = generator.wait();
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let stored = world.log.records();
        let written = world.data();
        wait_until(&format!("{stored} events are committed"), || {
            world.run.assert_alive("the run after the last step");
            committed(&written) == stored
        });
        drop(stop_watcher);
        (done.json(), watcher.join().expect("readers saw only what may be"))
    });
    let World { log, collector, run, .. } = world;
    let line = stop(run).json();
    collector.signal("TERM");
    assert_eq!(collector.wait().code, Some(0), "the collector ends well");
    eprintln!("sent {sent}\nread {line}\n{} looks at the tables, the last {:?}", looks.0, looks.1);
    check(&folder.path().join("data"), &log, &acked, &sent, &line);
    assert!(looks.0 > 0, "nobody looked");
}

/// Compares what was acknowledged, the log and the tables.
#[track_caller]
fn check(data: &Path, log: &EventLog, acked: &Path, sent: &Value, line: &Value) {
    assert_books_balance(line);
    let tables = tidemill().tables(data);
    let lines = log.lines_as_read(&tables);
    let (expected, books) = Oracle::of([lines.as_slice()]).answer();
    assert_eq!(counter(line, "events_read"), log.records(), "{line}");
    assert_eq!((counter(line, "accepted"), counter(line, "malformed")), (books.accepted, 0), "{line}");
    let mut copies: BTreeMap<String, u32> = BTreeMap::new();
    for event in tables.raw_events.iter().chain(&tidemill().unverified(data)) {
        *copies.entry(event.event_id.clone()).or_default() += 1;
    }
    let acked = fs::read_to_string(acked).expect("what was acknowledged");
    assert_eq!(acked.lines().count() as u64, counter(sent, "accepted"), "{sent}");
    for event in acked.lines() {
        let id = serde_json::from_str::<Value>(event).expect("an event")["event_id"].as_str().map(str::to_owned);
        let found = id.and_then(|id| copies.get(&id).copied()).unwrap_or(0);
        assert_eq!(found, 1, "{event} was acknowledged and is in the tables {found} times");
    }
    assert_eq!(counter(line, "unverified"), 0, "{line}");
    expected.assert_equal(&tables, "the tables over the whole log");
}
