//! The product under load: collector, embedded log, pipeline, tables and query API, each a process on this machine.
//!
//! ```text
//! bench-live [--seconds N] [--connections N] [--batch N] [--workers N] [--epoch-every TIME] [--rate N]  or: make bench-live
//! ```
//! First as fast as the collector accepts, until all is visible in the query API, beside a run over the same events from
//! files. Then, at half of that rate (or at `--rate`), how long after its acknowledgement an event is visible: batches
//! stand in a schedule, and a look at the API after each commit says how far every partition of the log is in the tables.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_tests::harness::{Running, Tidemill};
use tidemill_tests::live::EventLog;
use tidemill_tests::pace::{Histogram, Line, Schedule, TICK, now, sent_lines};
use tidemill_tests::services::pause;
use ureq::Agent;

/// Seconds at the beginning that do not count for freshness.
const WARM_UP: u64 = 5;
/// How often one looks who is still there.
const LOOK: Duration = Duration::from_millis(100);
/// What is put off is tried again after this.
const COME_AGAIN: Duration = Duration::from_millis(20);

struct Settings {
    seconds: u64,
    connections: u64,
    batch: u64,
    workers: u64,
    epoch_every: String,
    rate: Option<u64>,
}

fn main() -> ExitCode {
    let Some(settings) = settings() else {
        eprintln!(
            "bench-live: give --seconds N, --connections N, --batch N, --workers N, --epoch-every TIME or --rate N"
        );
        return ExitCode::from(2);
    };
    let text = measure(&settings);
    if std::io::stdout().write_all(text.as_bytes()).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn settings() -> Option<Settings> {
    let mut settings =
        Settings { seconds: 30, connections: 16, batch: 100, workers: 2, epoch_every: "1s".to_owned(), rate: None };
    let mut rest = env::args().skip(1);
    while let Some(option) = rest.next() {
        let value = rest.next()?;
        let number = value.parse::<u64>().ok().filter(|number| *number > 0);
        match option.as_str() {
            "--seconds" => settings.seconds = number?,
            "--connections" => settings.connections = number?,
            "--batch" => settings.batch = number?,
            "--workers" => settings.workers = number?,
            "--epoch-every" => settings.epoch_every = value,
            "--rate" => settings.rate = Some(number?),
            _ => return None,
        }
    }
    Some(settings)
}

fn measure(settings: &Settings) -> String {
    let tidemill = Tidemill::to_be_measured();
    let lines = sent_lines();
    let full = full_load(&tidemill, &lines, settings);
    let rate = settings.rate.unwrap_or(full.visible_per_second / 2);
    eprintln!("full load: {} events/s; now {rate} events/s for {} s", full.visible_per_second, settings.seconds);
    let fresh = freshness(&tidemill, &lines, settings, rate);
    let Settings { seconds, connections, batch, workers, epoch_every, .. } = settings;
    let mut text = format!(
        "{workers} workers, epochs of {epoch_every}, {connections} connections, batches of {batch}\n\n\
         | for {seconds} s as fast as the collector accepts | events/s |\n|---|---:|\n\
         | accepted, while it is sent | {} |\n| visible, from the first event sent to the last one seen | {} |\n\
         | the same events from files | {} |\n| visible, of the file rate | {:.2} |\n\n\
         accepted to visible, at {rate} events/s ({} % of full load), {} events:\n",
        full.accepted_per_second,
        full.visible_per_second,
        full.files_per_second,
        full.visible_per_second as f64 / full.files_per_second as f64,
        rate * 100 / full.visible_per_second,
        fresh.accepted.total(),
    );
    text.push_str(&fresh.accepted.bars());
    text.push_str("\n| | p50 ms | p90 ms | p99 ms | max ms |\n|---|---:|---:|---:|---:|\n");
    for (name, histogram) in [("accepted to visible", &fresh.accepted), ("due to visible", &fresh.due)] {
        let [p50, p90, p99] = [500, 900, 990].map(|share| histogram.within(share));
        writeln!(text, "| {name} | {p50} | {p90} | {p99} | {} |", histogram.most()).expect("a String takes all");
    }
    text
}

/// The product, running.
struct Live {
    folder: TempDir,
    log: EventLog,
    collector: Running,
    run: Running,
    serve: Running,
    events: String,
    api: String,
}

impl Live {
    fn start(tidemill: &Tidemill, settings: &Settings) -> Live {
        let folder = TempDir::new().expect("a temporary folder");
        let (log, data) = (folder.path().join("log"), folder.path().join("data"));
        let text = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        let [events, api] = free_addresses();
        let collect = ["collect", "--open", "--log", &text(&log), "--listen", &events, "--json"];
        let mut collector = tidemill.start(&collect);
        assert!(collector.until(|_| ready(&events)), "the collector: {}", collector.said());
        let (from, workers) = (format!("log://{}", log.display()), settings.workers.to_string());
        let places = ["run", "web_analytics", "--from", &from, "--out", &text(&data), "--json"];
        let pace = ["--workers", &workers, "--epoch-every", &settings.epoch_every];
        let run = tidemill.start(&[&places[..], &pace].concat());
        let mut serve = tidemill.start(&["serve", "--data", &text(&data), "--listen", &api]);
        assert!(serve.until(|_| ready(&api)), "the query API: {}", serve.said());
        let log = EventLog::new(log);
        Live { folder, log, collector, run, serve, events: format!("http://{events}/v1/events"), api }
    }

    /// Looks after each commit how much of every partition is visible, until that is as much as `total` says at last.
    fn watch(&mut self, total: &AtomicU64) -> Vec<Look> {
        let commits = commits(&self.api);
        let agent = agent();
        let mut looks: Vec<Look> = Vec::new();
        loop {
            if commits.recv_timeout(LOOK).is_ok() {
                looks.push(Look::now(&agent, &self.api));
            }
            if looks.last().is_some_and(|look| look.visible() >= total.load(Ordering::Acquire)) {
                return looks;
            }
            self.collector.assert_alive("the collector");
            self.run.assert_alive("the run");
            self.serve.assert_alive("the query API");
        }
    }

    /// Ends it; checks that everybody counted `total` events.
    fn end(self, total: u64) -> (TempDir, EventLog) {
        let rows = sql(&agent(), &self.api, "SELECT count(*) FROM raw_events");
        assert_eq!(rows["rows"][0][0].as_u64(), Some(total), "{rows}");
        let counted = |running: Running, name: &str| {
            running.signal("TERM");
            let ended = running.wait();
            assert_eq!(ended.code, Some(0), "{name}: {}", ended.stderr);
            assert_eq!(ended.json()["accepted"].as_u64(), Some(total), "{name}: {}", ended.json());
        };
        counted(self.collector, "the collector");
        counted(self.run, "the run");
        (self.folder, self.log)
    }
}

fn free_addresses<const N: usize>() -> [String; N] {
    // All are held until all are known, so that they differ.
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("it listens").to_string())
}

fn ready(address: &str) -> bool {
    ureq::get(format!("http://{address}/readyz")).call().is_ok()
}

fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).max_idle_connections_per_host(1).build().new_agent()
}

/// Word of each commit as the query API gives it, for as long as that runs.
fn commits(api: &str) -> Receiver<()> {
    let (sender, receiver) = channel();
    let url = format!("http://{api}/api/v1/changes");
    thread::spawn(move || {
        let answer = ureq::get(url).call().expect("the query API tells of commits");
        for line in BufReader::new(answer.into_body().into_reader()).lines() {
            // It ends with the server, and nobody listens after the measurement.
            let Ok(line) = line else { return };
            if line.starts_with("event:") && sender.send(()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn sql(agent: &Agent, api: &str, sql: &str) -> Value {
    let answer = agent.get(format!("http://{api}/api/v1/sql")).query("q", sql).call().expect("the query API answers");
    let text = answer.into_body().read_to_string().expect("an answer in UTF-8");
    let mut value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(value.get("data").is_some(), "{sql}: {text}");
    value["data"].take()
}

/// What was visible at a moment.
struct Look {
    at: i64,
    /// Events of each partition.
    partitions: BTreeMap<String, u64>,
}

impl Look {
    fn now(agent: &Agent, api: &str) -> Look {
        let data = sql(agent, api, "SELECT file, lines FROM progress");
        let at = now();
        let row = |row: &Value| Some((row[0].as_str()?.to_owned(), row[1].as_u64()?));
        let rows = data["rows"].as_array().expect("an answer has rows");
        Look { at, partitions: rows.iter().map(|cells| row(cells).expect("a name and a number")).collect() }
    }

    fn visible(&self) -> u64 {
        self.partitions.values().sum()
    }
}

/// A connection that posts batches.
struct Connection<'a> {
    agent: Agent,
    url: &'a str,
    lines: &'a [Line],
    body: Vec<u8>,
}

impl<'a> Connection<'a> {
    fn new(url: &'a str, lines: &'a [Line]) -> Connection<'a> {
        Connection { agent: agent(), url, lines, body: Vec::new() }
    }

    /// Posts the events from number `first` on, until they are accepted.
    fn post(&mut self, first: u64, events: u64, time: i64) {
        let time = time.to_string();
        self.body.clear();
        self.body.extend_from_slice(b"{\"events\":[");
        for number in first..first + events {
            let line = usize::try_from(number).expect("numbers of events are small") % self.lines.len();
            self.lines[line].write(&mut self.body, number, time.as_bytes());
            self.body.push(b',');
        }
        self.body.pop();
        self.body.extend_from_slice(b"]}");
        loop {
            let request = self.agent.post(self.url).header("content-type", "application/json");
            let answer = request.send(&self.body[..]).expect("the collector answers");
            let status = answer.status().as_u16();
            let text = answer.into_body().read_to_string().expect("an answer in UTF-8");
            match status {
                200 if text.starts_with(&format!("{{\"accepted\":{events},\"rejected\":0,")) => return,
                429 | 503 => pause(COME_AGAIN),
                _ => panic!("the collector answered {status}: {text}"),
            }
        }
    }
}

/// Events a second.
struct FullLoad {
    accepted_per_second: u64,
    visible_per_second: u64,
    files_per_second: u64,
}

fn per_second(events: u64, millis: i64) -> u64 {
    events * 1_000 / millis.unsigned_abs().max(1)
}

fn full_load(tidemill: &Tidemill, lines: &[Line], settings: &Settings) -> FullLoad {
    let mut live = Live::start(tidemill, settings);
    let (url, start) = (live.events.clone(), now());
    let end = start + i64::try_from(settings.seconds * 1_000).expect("a short time");
    let (next, total) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let (accepted_by, looks) = thread::scope(|scope| {
        let flood = |_| {
            scope.spawn(|| {
                let mut connection = Connection::new(&url, lines);
                while now() < end {
                    connection.post(next.fetch_add(settings.batch, Ordering::Relaxed), settings.batch, now());
                }
            })
        };
        let senders: Vec<_> = (0..settings.connections).map(flood).collect();
        let sending = scope.spawn(|| {
            for sender in senders {
                sender.join().expect("everything was sent");
            }
            let accepted_by = now();
            total.store(next.load(Ordering::Relaxed), Ordering::Release);
            accepted_by
        });
        let looks = live.watch(&total);
        (sending.join().expect("everything was sent"), looks)
    });
    let total = total.into_inner();
    let seen_by = looks.last().expect("it was seen").at;
    let (folder, log) = live.end(total);
    let files = write_files(&log, folder.path());
    let out = folder.path().join("from-files");
    let job = tidemill.job(&files, &out).workers(usize::try_from(settings.workers).expect("few workers"));
    let line = job.finish();
    assert_eq!(line["accepted"].as_u64(), Some(total), "{line}");
    let seconds = line["seconds"].as_f64().expect("the --json line has a duration");
    FullLoad {
        accepted_per_second: per_second(total, accepted_by - start),
        visible_per_second: per_second(total, seen_by - start),
        files_per_second: total * 1_000
            / u64::try_from(Duration::from_secs_f64(seconds).as_millis()).unwrap_or(1).max(1),
    }
}

/// The log as files, one for each partition that holds anything.
fn write_files(log: &EventLog, folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<(PathBuf, BufWriter<File>)> = Vec::new();
    log.for_each(|partition, _, value| {
        let path = folder.join(format!("{}.ndjson", partition.replace('/', "-")));
        if files.last().is_none_or(|(last, _)| *last != path) {
            let file = BufWriter::with_capacity(1 << 20, File::create(&path).expect("a file among the temporary ones"));
            files.push((path, file));
        }
        let (_, file) = files.last_mut().expect("it was added");
        file.write_all(value).and_then(|()| file.write_all(b"\n")).expect("there is room for the events");
    });
    let finish = |(path, mut file): (PathBuf, BufWriter<File>)| {
        file.flush().expect("there is room for the events");
        path
    };
    files.into_iter().map(finish).collect()
}

/// How long events took to be visible.
#[derive(Default)]
struct Freshness {
    /// From the answer to their batch.
    accepted: Histogram,
    /// From when they were due: what an overload delays counts too.
    due: Histogram,
}

fn freshness(tidemill: &Tidemill, lines: &[Line], settings: &Settings, rate: u64) -> Freshness {
    let mut live = Live::start(tidemill, settings);
    let schedule = Schedule { start: now() + 500, rate };
    let ticks = (WARM_UP + settings.seconds) * 1_000 / TICK.unsigned_abs();
    let batches = schedule.due(ticks) / settings.batch;
    let due = |batch: u64| schedule.time((batch + 1) * settings.batch - 1);
    let (url, next, total) = (live.events.clone(), AtomicU64::new(0), AtomicU64::new(batches * settings.batch));
    let (mut accepted, looks) = thread::scope(|scope| {
        let in_time = |_| {
            scope.spawn(|| {
                let mut connection = Connection::new(&url, lines);
                let mut accepted = Vec::new();
                loop {
                    let batch = next.fetch_add(1, Ordering::Relaxed);
                    if batch >= batches {
                        return accepted;
                    }
                    let early = due(batch) - now();
                    if let Ok(millis @ 1..) = u64::try_from(early) {
                        pause(Duration::from_millis(millis));
                    }
                    connection.post(batch * settings.batch, settings.batch, due(batch));
                    accepted.push((batch, now()));
                }
            })
        };
        let senders: Vec<_> = (0..settings.connections).map(in_time).collect();
        let looks = live.watch(&total);
        let join = |sender: thread::ScopedJoinHandle<'_, Vec<(u64, i64)>>| sender.join().expect("everything was sent");
        (senders.into_iter().flat_map(join).collect::<Vec<_>>(), looks)
    });
    accepted.sort_unstable();
    let (_folder, log) = live.end(batches * settings.batch);
    let counted_from = schedule.due(WARM_UP * 1_000 / TICK.unsigned_abs());
    let mut freshness = Freshness::default();
    // Offsets of a partition rise, and so do the looks that saw them.
    let (mut name, mut look) = (String::new(), 0);
    log.for_each(|partition, offset, event| {
        if name != partition {
            (name, look) = (partition.to_owned(), 0);
        }
        while looks[look].partitions.get(partition).is_none_or(|visible| *visible <= offset) {
            look += 1;
        }
        let number = Line::number(event).expect("the collector keeps ids as they are");
        if number >= counted_from {
            let batch = number / settings.batch;
            let at = usize::try_from(batch).expect("few batches");
            freshness.accepted.add(looks[look].at - accepted[at].1, 1);
            freshness.due.add(looks[look].at - due(batch), 1);
        }
    });
    freshness
}
