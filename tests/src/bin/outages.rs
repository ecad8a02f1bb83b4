//! Kafka, ClickHouse and S3 are away for a while, one after the other, while events keep coming.
//!
//! ```text
//! outages [--seconds N] [--rate N] [--budget-mib N] [--seed N]      or: make outages
//! ```
//! The run must wait, say once what for, and go on by itself; its memory stays within the budget and a constant; in the
//! end every place equals the oracle. Services are its own; log and state are on S3, so that nothing works without it.

use std::collections::BTreeMap;
use std::env;
use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use tidemill_connectors::generate::Rates;
use tidemill_tests::harness::{Running, Tidemill};
use tidemill_tests::services::{Services, pause, wait_until};
use tidemill_tests::stream::Stream;
use tidemill_tests::topics::Topics;
use tidemill_tests::{chaos, corpus};

const SERVICES: [&str; 3] = ["kafka", "clickhouse", "s3"];
/// Beside the budget: the program, the clients' buffers, and the state of all operators, which this load keeps small.
const BESIDE_THE_BUDGET: u64 = 640 << 20;
/// Peace before an outage, and what an outage is allowed to last longer than it does.
const PEACE: Duration = Duration::from_secs(10);

struct Settings {
    seconds: u64,
    rate: usize,
    budget_mib: u64,
    seed: u64,
}

fn main() -> ExitCode {
    let Some(settings) = settings() else {
        eprintln!("outages: give --seconds N, --rate N, --budget-mib N or --seed N");
        return ExitCode::from(2);
    };
    let text = measure(&settings);
    if std::io::stdout().write_all(text.as_bytes()).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn settings() -> Option<Settings> {
    let mut settings = Settings { seconds: 60, rate: 3_000, budget_mib: 32, seed: 1 };
    let mut rest = env::args().skip(1);
    while let Some(option) = rest.next() {
        let number = rest.next()?.parse::<u64>().ok()?;
        match option.as_str() {
            "--seconds" => settings.seconds = number,
            "--rate" => settings.rate = usize::try_from(number).ok()?,
            "--budget-mib" => settings.budget_mib = number,
            "--seed" => settings.seed = number,
            _ => return None,
        }
    }
    Some(settings)
}

/// What the run warned of since it had said so many bytes: each sentence up to its reason, and how often.
fn warnings(said: &str, before: usize) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for line in said[before..].lines() {
        if let Some((_, sentence)) = line.split_once("WARN ") {
            let end = sentence.find(" (").or_else(|| sentence.rfind(": ")).unwrap_or(sentence.len());
            *found.entry(sentence[..end].trim().to_owned()).or_insert(0) += 1;
        }
    }
    found
}

/// What is over once the run has taken up its work.
fn get_on(stream: &Stream, running: &mut Running, context: &str) {
    let before = stream.epochs();
    wait_until(&format!("{context}: the run gets on"), || {
        running.assert_alive(context);
        // A commit may still have been on its way; the next one is new.
        stream.epochs() > before + 1
    });
}

/// One outage; gives its row of the table.
fn outage(
    name: &str,
    services: &Services,
    stream: &Stream,
    running: &mut Running,
    sent: &AtomicUsize,
    settings: &Settings,
) -> String {
    get_on(stream, running, &format!("before {name} goes"));
    pause(PEACE);
    let (said, lines, peak) = (running.said().len(), sent.load(Ordering::SeqCst), running.resident_bytes());
    eprintln!("{name} is away for {} s", settings.seconds);
    services.kill(name);
    let mut most = peak;
    for _ in 0..settings.seconds * 10 {
        pause(Duration::from_millis(100));
        most = most.max(running.resident_bytes());
        running.assert_alive(&format!("while {name} is away"));
    }
    let during = sent.load(Ordering::SeqCst) - lines;
    services.restart(name);
    get_on(stream, running, &format!("after {name} came back"));
    let told = warnings(&running.said(), said);
    assert!(!told.is_empty(), "nothing was said about {name}: {}", running.said());
    for (sentence, times) in &told {
        assert_eq!(*times, 1, "{name}: said {times} times: {sentence}\n{}", running.said());
    }
    let told: Vec<&str> = told.keys().map(String::as_str).collect();
    format!("| {name} | {} | {during} | {} | {} | {} |\n", settings.seconds, peak >> 20, most >> 20, told.join("; "))
}

fn measure(settings: &Settings) -> String {
    let services = Services::own("outages", &SERVICES);
    let tidemill = Tidemill::to_be_measured();
    let stream = Stream::new(&tidemill, &services, "outages");
    // Longer than it takes, so that the load does not end before the last outage.
    let lines = (settings.seconds + 90) * 3 * settings.rate as u64;
    let bytes = corpus::events(lines, settings.seed, Rates::within_horizon());
    let topics = Topics::deal(vec![(stream.topic("a"), 3), (stream.topic("b"), 3)], &bytes);
    topics.create(services.brokers());
    stream.apply();
    let budget = format!("{}MiB", settings.budget_mib);
    let epoch = (settings.budget_mib << 18).to_string();
    let run =
        stream.run(&stream.remote_state()).option(&["--memory-budget", &budget, "--epoch-bytes", &epoch]).workers(2);

    let sent = AtomicUsize::new(0);
    let (stop_producer, producer_stops) = channel();
    let mut table = String::from(
        "| service | s away | events sent meanwhile | MB before | MB at most | said |\n|---|---:|---:|---:|---:|---|\n",
    );
    let (count, peak) = thread::scope(|scope| {
        // Dropped when something fails too, so that the scope ends.
        let stop_producer = stop_producer;
        let (topics, sent) = (&topics, &sent);
        let brokers = services.brokers();
        let producer = scope.spawn(move || chaos::produce(topics, brokers, settings.rate, sent, &producer_stops));
        let mut running = run.start();
        for name in SERVICES {
            table.push_str(&outage(name, &services, &stream, &mut running, sent, settings));
        }
        drop(stop_producer);
        let count = producer.join().expect("the producer sent everything");
        running.signal("TERM");
        let stopped = running.wait();
        assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
        (count, stopped.json()["peak_memory_bytes"].as_u64().expect("the --json line has a peak"))
    });
    assert!(count < topics.len(), "the load ended before the last outage did");
    run.option(&["--until-end"]).finish();
    stream.check(&topics, &topics.oracle(), &topics.counts(count), "after all outages");
    let limit = (settings.budget_mib << 20) + BESIDE_THE_BUDGET;
    assert!(peak <= limit, "{} MB were resident at the peak, {} are allowed", peak >> 20, limit >> 20);
    table.push_str(&format!(
        "\n{count} events at {} a second; every place equals the oracle. Peak {} MB: a budget of {} and {} beside it are \
         allowed.\n",
        settings.rate,
        peak >> 20,
        settings.budget_mib,
        BESIDE_THE_BUDGET >> 20
    ));
    table
}
