//! Why is this window still open: real runs say in `/api/status` who holds results back, and since when.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_embedded_log::produce::produce_lines;
use tidemill_tests::corpus;
use tidemill_tests::harness::{Running, Tidemill};
use tidemill_tests::live::{EventLog, committed, signal};
use tidemill_tests::services::{Database, Services, unique, wait_until};
use ureq::Agent;

use crate::{free_addresses, stop, tidemill};

/// A run that is watched over HTTP.
struct Watched {
    run: Running,
    address: String,
}

impl Watched {
    /// Starts a live run over `log` with these options, and waits until it serves its status.
    fn start(tidemill: &Tidemill, log: &EventLog, options: &[&str]) -> Watched {
        let from = log.address();
        let pace = ["--epoch-every", "200ms", "--checkpoint-every", "500ms", "--json", "--ops", "127.0.0.1:0"];
        let mut run = tidemill.start(&[&["run", "web_analytics", "--from", &from][..], &pace, options].concat());
        let mut address = None;
        wait_until("it says where its status is", || {
            run.assert_alive("it serves its status");
            let said = run.said();
            let whole_lines = said.rsplit_once('\n').map_or("", |(lines, _)| lines);
            address = whole_lines.lines().find_map(|line| Some(line.strip_prefix("ops ")?.to_owned()));
            address.is_some()
        });
        Watched { run, address: address.expect("it was waited for") }
    }

    fn get(&self, path: &str) -> String {
        let mut answer = Agent::new_with_defaults().get(format!("{}/{path}", self.address)).call().unwrap();
        answer.body_mut().read_to_string().unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.get("api/status")).unwrap()
    }

    /// Waits until the status is as it should be.
    #[track_caller]
    fn until(&mut self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        wait_until(what, || {
            self.run.assert_alive(&format!("{what}: {last:#}"));
            last = self.status();
            holds(&last)
        });
        last
    }

    /// Waits until something holds results back, and who that is; gives the status.
    #[track_caller]
    fn until_held(&mut self, by: &[(&str, &str)]) -> Value {
        self.until(&format!("{by:?} is told"), |status| {
            let told = held(status);
            by.iter().all(|(cause, name)| told.contains(&(*cause, *name)))
        })
    }
}

/// Cause and name of all that holds results back.
fn held(status: &Value) -> Vec<(&str, &str)> {
    let reasons = status["why_open"].as_array().expect("reasons");
    let holding = reasons.iter().filter(|reason| reason["holds"] == true);
    holding
        .map(|reason| (reason["cause"].as_str().expect("a cause"), reason["name"].as_str().expect("a name")))
        .collect()
}

/// The reason of this cause and name.
fn reason<'a>(status: &'a Value, cause: &str, name: &str) -> &'a Value {
    let reasons = status["why_open"].as_array().expect("reasons");
    let found = reasons.iter().find(|reason| reason["cause"] == cause && reason["name"] == name);
    found.unwrap_or_else(|| panic!("{cause} {name} is not told: {status:#}"))
}

/// A log with events of all types in two partitions each.
fn stored(folder: &Path) -> EventLog {
    let log = EventLog::new(folder.join("log"));
    append(&log, 1);
    log
}

fn append(log: &EventLog, seed: u64) {
    let (to, seed) = (format!("{}?partitions=2", log.address()), seed.to_string());
    let options = ["--events", "2000", "--span", "10m", "--within-horizon", "--seed", &seed];
    let made = tidemill().command(&[&["generate", "--to", &to][..], &options].concat());
    assert_eq!(made.code, Some(0), "{}", made.stderr);
}

fn partition<'a>(status: &'a Value, name: &str) -> &'a Value {
    let found = status["partitions"].as_array().expect("partitions").iter().find(|p| p["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is not shown: {status:#}"))
}

#[test]
fn a_silent_partition_that_holds_the_watermark_is_named_until_it_speaks() {
    let folder = TempDir::new().unwrap();
    let (root, out) = (folder.path().join("log"), folder.path().join("out"));
    let bytes = corpus::events(2_000, 51, Rates::within_horizon());
    let lines = corpus::lines(&bytes);
    let store = |to: u32| produce_lines(&root, "events.all", 2, lines.iter().copied(), 0, |_, _| to).unwrap();
    store(0);
    let log = EventLog::new(&root);
    let mut watched = Watched::start(&tidemill(), &log, &["--out", out.to_str().unwrap()]);
    let status = watched.until_held(&[("partition", "events.all/1")]);
    assert_eq!(held(&status), [("partition", "events.all/1")], "{status:#}");
    let told = reason(&status, "partition", "events.all/1");
    assert_eq!(told["since"], partition(&status, "events.all/1")["advanced"]);
    assert!(told["since"].as_str() >= status["started"].as_str(), "{status:#}");
    assert!(told["sentence"].as_str().unwrap().contains("will count as idle"), "{told}");
    assert_eq!(status["watermark"], Value::Null, "nothing is complete while one partition has told no time");
    for name in ["events.all/0", "events.all/1"] {
        assert_eq!(partition(&status, name)["lag_records"], 0, "{name} was read to its end");
    }
    // The same lines again: duplicates tell the time as well.
    store(1);
    let moved = watched.until("the watermark moves", |now| now["watermark"].is_string());
    assert!(!held(&moved).contains(&("partition", "events.all/1")), "{moved:#}");
    let _ = stop(watched.run);
}

#[test]
fn a_stopped_process_is_named_by_the_others_and_since_when() {
    let folder = TempDir::new().unwrap();
    let (log, out) = (stored(folder.path()), folder.path().join("out"));
    let secret = [("TIDEMILL_CLUSTER_TOKEN".to_owned(), "a long secret".to_owned())];
    let tidemill = tidemill().with_environment(secret.into());
    for stopped in [1, 0] {
        let hosts = free_addresses().join(",");
        let process = |index: &str| {
            let place = ["--hosts", &hosts, "--process-index", index, "--out", out.to_str().unwrap()];
            Watched::start(&tidemill, &log, &place)
        };
        let mut processes = vec![process("0"), process("1")];
        processes[0].until("all is committed", |status| {
            status["state"] == "running" && status["counts"]["events"] == log.records()
        });
        let silent = processes.remove(stopped);
        let mut other = processes.remove(0);
        let calm = other.until("they hear of each other", |now| now["peers"][0]["heard"].is_string());
        // Which word is the last that is heard of a process that stops is up to the system; no earlier one is.
        let before = &calm["peers"][0]["heard"];
        signal(silent.run.pid(), "STOP");
        let name = format!("process {stopped}");
        let status = other.until_held(&[("process", &name)]);
        let told = reason(&status, "process", &name);
        assert_eq!(status["why_open"][0], *told, "it is the first to look at: {status:#}");
        assert_eq!(told["since"], status["peers"][0]["heard"]);
        assert!(told["since"].as_str() >= before.as_str(), "{before} was heard before: {told}");
        assert!(told["sentence"].as_str().unwrap().contains("has not answered for"), "{told}");
        signal(silent.run.pid(), "KILL");
        other.run.wait().assert_refused(&[1], &[&format!("{name} is lost")]);
    }
}

/// Where a run keeps its state, and which of its tables it writes to ClickHouse.
fn places<'a>(to: &'a str, state: &'a Path, left_out: &[&'a str]) -> Vec<&'a str> {
    let mut options = vec!["--to", to, "--state", state.to_str().expect("a path of the test")];
    left_out.iter().for_each(|sink| options.extend(["--disable-sink", sink]));
    options
}

#[test]
fn a_sink_whose_server_accepts_and_never_answers_is_named_before_anything_is_committed() {
    let folder = TempDir::new().unwrap();
    let (log, state) = (stored(folder.path()), folder.path().join("state"));
    // The system accepts connections for it; nobody ever reads them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("clickhouse://{}/nobody", silent.local_addr().unwrap());
    let left_out = ["page_views_by_minute", "errors_by_version_by_minute", "raw_events", "unverified_events"];
    let mut watched = Watched::start(&tidemill(), &log, &places(&to, &state, &left_out));
    let status = watched.until_held(&[("sink", "sessions"), ("sink", "revenue_by_minute")]);
    assert_eq!(status["state"], "starting");
    let sinks: BTreeSet<_> = held(&status).into_iter().filter(|(cause, _)| *cause == "sink").collect();
    assert_eq!(sinks, BTreeSet::from([("sink", "sessions"), ("sink", "revenue_by_minute")]), "{status:#}");
    for (cause, name) in sinks {
        let told = reason(&status, cause, name);
        assert!(told["since"].as_str() >= status["started"].as_str(), "{status:#}");
        assert!(told["sentence"].as_str().unwrap().contains("is not open after"), "{told}");
    }
    assert_eq!(committed(&state), 0);
}

#[test]
fn a_sink_that_hangs_in_a_write_is_named_until_it_goes_on() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let (log, state) = (stored(folder.path()), folder.path().join("state"));
    let name = unique("why_open");
    let database = Database::new(services.clickhouse_place(), &name);
    let made = tidemill().command(&["tables", "apply", "--to", &database.address()]);
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let proxy = services.proxies().to(&name, services.clickhouse_place());
    let to = database.address_by(proxy.place());
    let left_out = ["page_views_by_minute", "errors_by_version_by_minute", "revenue_by_minute", "raw_events"];
    let left_out = [&left_out[..], &["unverified_events"]].concat();
    let mut watched = Watched::start(&tidemill(), &log, &places(&to, &state, &left_out));
    let all = |status: &Value| status["state"] == "running" && status["counts"]["events"] == log.records();
    let calm = watched.until("all is committed", all);
    proxy.hang();
    append(&log, 2);
    let status = watched.until_held(&[("sink", "sessions")]);
    let sinks = held(&status).into_iter().filter(|(cause, _)| *cause == "sink");
    assert_eq!(sinks.collect::<Vec<_>>(), [("sink", "sessions")], "{status:#}");
    let told = reason(&status, "sink", "sessions");
    assert_eq!(status["why_open"][0], *told, "it is the first to look at: {status:#}");
    let operators = status["operators"].as_array().unwrap();
    let sink = operators.iter().find(|operator| operator["id"] == "sessions").expect("an operator of the plan");
    assert_eq!(told["since"], sink["sink"]["writing"]["since"]);
    assert!(told["since"].as_str() >= calm["epoch"]["committed_at"].as_str(), "{status:#}");
    // What comes meanwhile is known to wait, though nobody reads it.
    let lag = |now: &Value| {
        let lags = now["partitions"].as_array().unwrap().iter().map(|p| p["lag_records"].as_u64());
        lags.sum::<Option<u64>>()
    };
    let mut seeds = 3..;
    watched.until("events are known to wait", |now| {
        append(&log, seeds.next().expect("there is always another"));
        lag(now).is_some_and(|lag| lag > 0)
    });
    let metrics = watched.get("metrics");
    let waits = |line: &str| line.starts_with("tidemill_partition_lag_records{") && !line.ends_with(" 0");
    assert!(metrics.lines().any(waits), "{metrics}");
    // The answers that came meanwhile are lost with their connections.
    proxy.cut();
    proxy.heal();
    let after = watched.until("all is committed", all);
    assert!(held(&after).iter().all(|(cause, _)| *cause != "sink"), "{after:#}");
    watched.until("nothing waits", |now| lag(now) == Some(0));
    let _ = stop(watched.run);
    database.drop_all();
}
