//! How long after an event is sent it is visible in ClickHouse, at half of full load, with exactly-once on.
//!
//! ```text
//! latency [--rate N] [--seconds N] [--backlog N] [--workers N] [--epoch-every TIME]      or: make latency
//! ```
//! Full load is what a run over a backlog reaches; without `--rate`, half of it is sent. Events stand in a schedule of
//! ticks and carry their tick as timestamp, so an event that is sent late counts from when it was due. An event is
//! visible once `progress` says so: then every table has it. The services are those that variables name, or are started.

use std::env;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_tests::harness::{Running, Tidemill};
use tidemill_tests::pace::{Histogram, Line, Schedule, TICK, now, stored_lines};
use tidemill_tests::services::{Producer, Services, pause, wait_until};
use tidemill_tests::stream::Stream;
use tidemill_tests::topics;

const PARTITIONS: usize = 8;
/// Seconds at the beginning that do not count.
const WARM_UP: u64 = 5;
/// How often readers look.
const LOOK: Duration = Duration::from_millis(20);

struct Settings {
    rate: Option<u64>,
    seconds: u64,
    backlog: u64,
    workers: u64,
    epoch_every: String,
}

fn main() -> ExitCode {
    let Some(settings) = settings() else {
        eprintln!("latency: give --rate N, --seconds N, --backlog N, --workers N or --epoch-every TIME");
        return ExitCode::from(2);
    };
    let text = measure(&settings);
    if std::io::stdout().write_all(text.as_bytes()).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn settings() -> Option<Settings> {
    let mut settings =
        Settings { rate: None, seconds: 30, backlog: 2_000_000, workers: 2, epoch_every: "1s".to_owned() };
    let mut rest = env::args().skip(1);
    while let Some(option) = rest.next() {
        let value = rest.next()?;
        let number = value.parse::<u64>().ok().filter(|number| *number > 0);
        match option.as_str() {
            "--rate" => settings.rate = Some(number?),
            "--seconds" => settings.seconds = number?,
            "--backlog" => settings.backlog = number?,
            "--workers" => settings.workers = number?,
            "--epoch-every" => settings.epoch_every = value,
            _ => return None,
        }
    }
    Some(settings)
}

/// Sends event `number` of the schedule.
fn send(producer: &Producer, topic: &str, lines: &[Line], number: u64, time: &[u8]) {
    let at = usize::try_from(number).expect("numbers of events are small");
    let partition = i32::try_from(at % PARTITIONS).expect("there are few partitions");
    let mut line = Vec::new();
    lines[at % lines.len()].write(&mut line, number, time);
    producer.send(topic, partition, &line);
}

/// Events a second of a run over a backlog, start and end included.
fn full_speed(tidemill: &Tidemill, services: &Services, lines: &[Line], settings: &Settings) -> u64 {
    let (stream, folder) = begin(tidemill, services, "full");
    let producer = Producer::new(services.brokers());
    for number in 0..settings.backlog {
        send(&producer, &stream.topic("all"), lines, number, now().to_string().as_bytes());
    }
    producer.flush();
    let run = run(tidemill, services, &stream, &folder).option(&["--until-end"]);
    let line = run.workers(usize::try_from(settings.workers).unwrap_or(1)).finish();
    stream.database().drop_all();
    let seconds = line["seconds"].as_f64().expect("the --json line has a duration");
    settings.backlog * 1_000 / u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(u64::MAX).max(1)
}

fn begin(tidemill: &Tidemill, services: &Services, what: &str) -> (Stream, TempDir) {
    let stream = Stream::new(tidemill, services, what);
    topics::create(services.brokers(), &stream.topic("all"), 8);
    stream.apply();
    (stream, TempDir::new().expect("a temporary folder"))
}

/// From the topic to ClickHouse alone.
fn run(tidemill: &Tidemill, services: &Services, stream: &Stream, folder: &TempDir) -> tidemill_tests::harness::Run {
    let state = folder.path().join("state");
    let tidemill = tidemill.clone().with_environment(services.environment());
    tidemill.stream(&stream.source(), &[stream.database().address()], &state.to_string_lossy())
}

/// Sends everything in time; gives by how many milliseconds it was late at worst.
fn produce(brokers: &str, topic: &str, lines: &[Line], schedule: &Schedule, ticks: u64) -> i64 {
    let producer = Producer::new(brokers);
    let mut latest = 0;
    for tick in 0..ticks {
        let due = schedule.start + i64::try_from(tick).expect("few ticks") * TICK;
        let early = due - now();
        if let Ok(millis @ 1..) = u64::try_from(early) {
            pause(Duration::from_millis(millis));
        }
        latest = latest.max(-early);
        let time = due.to_string();
        for number in schedule.due(tick)..schedule.due(tick + 1) {
            send(&producer, topic, lines, number, time.as_bytes());
        }
    }
    producer.flush();
    latest
}

/// Looks at `progress` until all is visible, or `over`; adds what became visible since the last look.
fn watch(
    stream: &Stream,
    schedule: &Schedule,
    total: u64,
    histogram: &mut Histogram,
    running: &mut Running,
    over: &AtomicBool,
) {
    let counted_from = schedule.due(WARM_UP * 1_000 / TICK.unsigned_abs());
    let partitions = PARTITIONS as u64;
    let mut seen = [0_u64; PARTITIONS];
    while seen.iter().sum::<u64>() < total {
        assert!(!over.load(Ordering::Relaxed), "the producer ended with an error");
        running.assert_alive("the live run");
        let rows = stream.database().query("SELECT file, lines FROM progress");
        let at = now();
        for row in rows.split(|byte| *byte == b'\n').filter(|row| !row.is_empty()) {
            let row: Value = serde_json::from_slice(row).expect("an answer in JSON");
            let (Some(file), Some(lines)) = (row["file"].as_str(), row["lines"].as_u64()) else { panic!("{row}") };
            let id = file.rsplit('/').next().and_then(|id| id.parse::<usize>().ok()).expect("a partition is TOPIC/ID");
            for nth in seen[id]..lines {
                let number = nth * partitions + id as u64;
                if number >= counted_from {
                    histogram.add(at - schedule.time(number), 1);
                }
            }
            seen[id] = seen[id].max(lines);
        }
        pause(LOOK);
    }
}

fn measure(settings: &Settings) -> String {
    let services = Services::shared();
    let tidemill = Tidemill::to_be_measured();
    let lines = stored_lines();
    let full = full_speed(&tidemill, services, &lines, settings);
    let rate = settings.rate.unwrap_or(full / 2);
    eprintln!("full load: {full} events/s; now {rate} events/s for {} s", settings.seconds);

    let (stream, folder) = begin(&tidemill, services, "latency");
    let live = run(&tidemill, services, &stream, &folder).option(&["--epoch-every", &settings.epoch_every]);
    let mut running = live.workers(usize::try_from(settings.workers).unwrap_or(1)).start();
    // Connecting takes a moment that says nothing about events.
    wait_until("the run has begun", || {
        running.assert_alive("the live run");
        stream.database().try_numbers("SELECT count() > 0 FROM tidemill_writers") == Ok(vec![1])
    });
    let schedule = Schedule { start: now() + 500, rate };
    let ticks = (WARM_UP + settings.seconds) * 1_000 / TICK.unsigned_abs();
    let total = schedule.due(ticks);
    let mut histogram = Histogram::default();
    let (topic, over) = (stream.topic("all"), AtomicBool::new(false));
    let behind = thread::scope(|scope| {
        let producer = scope.spawn(|| {
            let failed = OnPanic(&over);
            let behind = produce(services.brokers(), &topic, &lines, &schedule, ticks);
            drop(failed);
            behind
        });
        watch(&stream, &schedule, total, &mut histogram, &mut running, &over);
        producer.join().expect("everything was sent")
    });
    let rows = stream.database().try_numbers("SELECT count() FROM raw_events").expect("the tables are there");
    assert_eq!(rows, [total], "what progress shows is there");
    running.signal("TERM");
    let ended = running.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let line = ended.json();
    assert_eq!(line["accepted"].as_u64(), Some(total), "{line}");
    stream.database().drop_all();
    let [p50, p90, p99] = [500, 900, 990].map(|share| histogram.within(share));
    let most = histogram.most();
    format!(
        "{}\n| events/s | of full load | s | workers | an epoch | p50 ms | p90 ms | p99 ms | max ms | sent late by at most ms | CPU s/M |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n\
         | {rate} | {} % of {full} | {} | {} | {} | {p50} | {p90} | {p99} | {most} | {behind} | {:.2} |\n",
        histogram.bars(),
        rate * 100 / full,
        settings.seconds,
        settings.workers,
        settings.epoch_every,
        line["cpu_seconds"].as_f64().unwrap_or(0.0) / (total as f64 / 1e6),
    )
}

/// Tells those who wait that a thread will not come.
struct OnPanic<'a>(&'a AtomicBool);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
