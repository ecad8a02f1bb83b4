//! The server over a real socket, the metrics text by the rules of the format, the JSON against a recorded one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;

use tidemill_connectors::files::FilesConfig;
use tidemill_connectors::generate::{GenerateConfig, Rates as Oddities, generate};
use tidemill_dataflow::runtime::{self, RunContext, RunOptions, StopHandle};
use tidemill_dataflow::status::{
    Cause, Checkpoint, Checkpoints, Counts, EpochLatency, Epochs, LatencyHistogram, LeftOut, Operator, Partition,
    Process, Rates, Reason, Samples, SetAside, Sink, State as RunState, Totals, Waiting, Worker, Working,
};
use tidemill_log::Store;
use tidemill_log::testing::MemoryStore;

use super::*;
use crate::io::{AnalyticsIo, DeadLetters, EventSource, SinkTarget};

/// A snapshot in which every field says something.
fn full() -> Snapshot {
    let at = |seconds: i64| Moment(1_767_225_600_000 + seconds * 1_000);
    let working = |epoch, seconds| Some(Working { epoch, since: at(seconds) });
    let events = Operator {
        id: "events".into(),
        kind: "source, watermark 120 s behind".into(),
        records_in: 1_001,
        records_out: 1_000,
        closed: Some(9),
        at: vec![Worker { worker: 0, closed: Some(9), working: working(10, 58) }],
        ..Operator::default()
    };
    let sessions = Operator {
        id: "user_sessions".into(),
        kind: "window session, gap 1800000 ms".into(),
        inputs: vec![0],
        records_in: 1_000,
        records_out: 40,
        state_bytes: 5_000,
        state_entries: 20,
        stored_bytes: 1_500,
        closed: Some(8),
        at: vec![Worker { worker: 0, closed: Some(8), working: None }],
        sink: None,
    };
    let table = Operator {
        id: "sessions".into(),
        kind: "sink sessions".into(),
        inputs: vec![1],
        records_in: 40,
        records_out: 30,
        closed: Some(6),
        sink: Some(Sink { opened: true, writing: working(7, 50), since: at(50) }),
        ..Operator::default()
    };
    let partition = |name: &str, lag_records| Partition {
        name: name.into(),
        offset: 500,
        records: 500,
        watermark: Some(at(-120)),
        idle: false,
        finished: false,
        lag_records,
        advanced: at(59),
        turned: at(0),
    };
    let idle = Partition { idle: true, watermark: None, ..partition("events.\"odd\\name\"/1\n", None) };
    let aside = |operator: &str, from: Option<&str>| SetAside {
        operator: operator.into(),
        partition: from.map(str::to_owned),
        event_time: at(-600),
        payload: "{\"event_id\":\"e1\"}".into(),
    };
    let all = [("events/read", 1_001), ("events/malformed", 1), ("unique_events/duplicates", 7), ("views/late", 2)];
    Snapshot {
        pipeline: "web_analytics".into(),
        run: 3,
        workers: 1,
        processes: 2,
        state: RunState::Running,
        unrecorded: false,
        started: Some(at(0)),
        epoch: Epochs {
            read: 10,
            bound: 9,
            committed: 6,
            committed_at: Some(at(49)),
            oldest_in_flight: working(7, 48),
        },
        watermark: Some(at(-180)),
        closed: false,
        lag_seconds: Some(240.5),
        rates: Rates { events_per_second: 100.5, bytes_per_second: 40_000.0 },
        committed: Totals { epochs: 6, bytes: 400_000 },
        epoch_latency_ms: EpochLatency { p50: Some(300), p99: Some(900) },
        checkpoint: Checkpoints {
            epoch: Some(5),
            age_seconds: Some(11.0),
            bytes: 1_500,
            taken: 1,
            history: vec![Checkpoint { epoch: 5, at: at(49), added_bytes: 700, bytes: 1_500, duration_ms: 40 }],
        },
        partitions: vec![partition("events.click/0", Some(12)), idle],
        operators: vec![events, sessions, table],
        counts: Counts {
            events: 1_001,
            late: 2,
            duplicate: 7,
            conflicting: 1,
            malformed: 1,
            quarantined: 0,
            unverified: 0,
            lost: 10,
            all: all.map(|(name, n)| (name.to_owned(), n)).into(),
        },
        accepted_loss: vec!["events.click/0:7-16".into()],
        samples: Samples {
            malformed: vec![LeftOut {
                partition: "events.click/0".into(),
                line: 17,
                reason: "event_id is missing".into(),
                payload: "{\"user_id\":\"<script>\"}".into(),
            }],
            late: vec![aside("views", Some("events.click/0"))],
            conflicting: vec![aside("unique_events", None)],
            unverified: vec![],
        },
        why_open: vec![Reason {
            cause: Cause::Sink,
            name: "sessions".into(),
            since: at(50),
            holds: true,
            sentence: "Sink `sessions` has been writing epoch 7 for 10 s".into(),
        }],
        waiting: Some(Waiting { epoch: 11, since: at(58) }),
        in_flight_bytes: 90_000,
        memory_budget: 268_435_456,
        peers: vec![Process { process: 1, heard: at(59), heartbeat_age_seconds: 1.5 }],
    }
}

#[test]
fn the_json_of_the_status_is_the_recorded_one() {
    let pretty = serde_json::to_string_pretty(&full()).unwrap();
    assert_eq!(pretty, include_str!("status.json").trim_end(), "others read these fields: add, never rename");
}

/// Families by name: type, unit, and sample lines without comments.
fn families(text: &str) -> Vec<(String, String, Option<String>, Vec<String>)> {
    let mut families: Vec<(String, String, Option<String>, Vec<String>)> = Vec::new();
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                families.push((name.into(), kind.into(), None, Vec::new()));
            }
            (Some("#"), Some("UNIT"), Some(name), Some(unit)) => {
                let family = families.last_mut().unwrap();
                assert_eq!(family.0, name);
                family.2 = Some(unit.into());
            }
            (Some("#"), Some("HELP" | "EOF"), ..) => {}
            _ => families.last_mut().expect("a sample follows its type").3.push(line.into()),
        }
    }
    families
}

#[test]
fn metrics_follow_the_conventions_and_no_name_is_there_twice() {
    let buckets = std::array::from_fn(|n| n as u64);
    let text = metrics::render(full(), LatencyHistogram { buckets, count: 78, sum: 99.5 }).unwrap();
    assert!(text.ends_with("# EOF\n"));
    let families = families(&text);
    let names: BTreeSet<&str> = families.iter().map(|family| family.0.as_str()).collect();
    assert_eq!(names.len(), families.len(), "a name is there twice");
    let mut series = BTreeSet::new();
    for (name, kind, unit, samples) in &families {
        assert!(name.starts_with("tidemill_"), "{name}");
        let base_units = ["_seconds", "_bytes"];
        let said = base_units.iter().find(|ending| name.ends_with(*ending)).map(|ending| ending[1..].to_owned());
        assert_eq!(unit, &said, "{name}");
        assert!(!name.ends_with("_total"), "the format adds it: {name}");
        for sample in samples {
            let (named, value) = sample.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{sample}");
            assert!(series.insert(named.to_owned()), "{named} is there twice");
            let rest = named.split('{').next().unwrap().strip_prefix(name.as_str()).expect("a sample of its family");
            match kind.as_str() {
                "counter" => assert_eq!(rest, "_total"),
                "gauge" => assert_eq!(rest, ""),
                "histogram" => assert!(["_sum", "_count", "_bucket"].contains(&rest), "{sample}"),
                other => panic!("{name} is a {other}"),
            }
        }
    }
    for expected in [
        "tidemill_events_total 1001",
        "tidemill_late_total 2",
        "tidemill_epoch_latency_seconds_bucket{le=\"+Inf\"} 78",
        "tidemill_epoch_latency_seconds_count 78",
        "tidemill_partition_lag_records{partition=\"events.click/0\"} 12",
        "tidemill_partition_offset{partition=\"events.\\\"odd\\\\name\\\"/1\\n\"} 500",
        "tidemill_records_total{operator=\"user_sessions\",direction=\"in\"} 1000",
        "tidemill_state_bytes{operator=\"user_sessions\"} 5000",
        "tidemill_watermark_timestamp_seconds 1767225420.0",
        "tidemill_checkpoint_age_seconds 11.0",
        "tidemill_peer_heartbeat_age_seconds{process=\"1\"} 1.5",
    ] {
        assert!(text.lines().any(|line| line == expected), "{expected} is missing from\n{text}");
    }
    assert!(text.contains("tidemill_held_back_seconds{cause=\"sink\",name=\"sessions\"}"), "{text}");
}

#[test]
fn what_is_unknown_is_left_out_of_the_metrics() {
    let mut snapshot = Snapshot { watermark: Some(Moment(60_000)), closed: true, ..Snapshot::default() };
    let text = metrics::render(snapshot.clone(), LatencyHistogram::default()).unwrap();
    assert!(!text.contains("tidemill_watermark_timestamp_seconds "), "nothing is waited for: {text}");
    assert!(!text.contains("tidemill_checkpoint_age_seconds "), "{text}");
    snapshot.watermark = None;
    assert_eq!(metrics::render(snapshot, LatencyHistogram::default()).unwrap(), text);
}

fn get_from(address: SocketAddr, path: &str, host: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, head.to_ascii_lowercase(), body.to_owned())
}

fn serve() -> (Ops, SocketAddr) {
    let ops =
        Ops::start(&OpsOptions::new("127.0.0.1:0".parse().unwrap()), Arc::new(Status::new("web_analytics"))).unwrap();
    let address = ops.address();
    (ops, address)
}

#[test]
fn every_address_answers_with_its_type_and_says_what_a_browser_may_do() {
    let (_ops, address) = serve();
    for (path, code, kind) in [
        ("/", 200, "text/html"),
        ("/ops.js", 200, "text/javascript"),
        ("/ops.css", 200, "text/css"),
        ("/metrics", 200, "application/openmetrics-text"),
        ("/healthz", 200, "text/plain"),
        ("/readyz", 503, "text/plain"),
        ("/api/status", 200, "application/json"),
        ("/nowhere", 404, ""),
    ] {
        let (found, head, _) = get_from(address, path, "localhost");
        assert_eq!(found, code, "{path}");
        assert!(kind.is_empty() || head.contains(&format!("content-type: {kind}")), "{path}: {head}");
        for header in ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff", "no-referrer"]
        {
            assert!(head.contains(header), "{path} lacks {header}: {head}");
        }
    }
    let (_, _, body) = get_from(address, "/api/status", &address.to_string());
    let status: serde_json::Value = serde_json::from_str(body.trim()).unwrap();
    assert_eq!(status["pipeline"], "web_analytics");
    assert_eq!(status["state"], "starting");
}

#[test]
fn the_page_asks_nobody_but_its_own_process() {
    for text in [PAGE, SCRIPT, STYLE] {
        let elsewhere =
            text.split(['"', '\'', '(']).find(|part| part.starts_with("http") && !part.contains("w3.org/2000/svg"));
        assert_eq!(elsewhere, None);
        assert!(!text.contains("innerHTML") && !text.contains(" style=") && !text.contains("onclick"));
    }
}

#[test]
fn a_loopback_address_answers_to_no_other_name() {
    let (_ops, address) = serve();
    for (host, status) in [("evil.example", 421), ("localhost:9464", 200), ("127.0.0.1", 200)] {
        assert_eq!(get_from(address, "/api/status", host).0, status, "{host}");
    }
}

/// A status line of a request with a key, if one is given.
fn asked_with(address: SocketAddr, path: &str, header: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[test]
fn where_keys_are_asked_for_only_one_for_all_tenants_sees_the_run() {
    let keys = ApiKeys::from_list("KEYS", "all=*,one=shop").unwrap();
    let options = OpsOptions { keys, ..OpsOptions::new("127.0.0.1:0".parse().unwrap()) };
    let ops = Ops::start(&options, Arc::new(Status::new("web_analytics"))).unwrap();
    // `x:all` as a browser sends a password.
    for (header, secret) in [
        ("", 401),
        ("x-api-key: wrong\r\n", 401),
        ("authorization: Bearer one\r\n", 403),
        ("authorization: Bearer all\r\n", 200),
        ("x-api-key: all\r\n", 200),
        ("authorization: Basic eDphbGw=\r\n", 200),
    ] {
        for path in ["/metrics", "/api/status"] {
            let (status, answer) = asked_with(ops.address(), path, header);
            assert_eq!(status, secret, "{path} {header}");
            assert_eq!(answer.contains("www-authenticate: Basic"), secret == 401, "{answer}");
        }
        for (path, open) in [("/", 200), ("/ops.js", 200), ("/healthz", 200), ("/readyz", 503)] {
            let (status, answer) = asked_with(ops.address(), path, header);
            assert_eq!(status, open, "{path} {header}");
            let why = answer.ends_with("\r\n\r\nnot ready\n");
            assert_eq!(why, path == "/readyz" && secret != 200, "{answer}");
        }
    }
}

#[test]
fn no_password_of_an_address_is_shown() {
    let mut snapshot = full();
    snapshot.partitions[0].name = "http://me:hunter2@host/events".into();
    snapshot.why_open[0].sentence = "waiting for clickhouse://me:hunter2@db:8123/x".into();
    let text = json(&snapshot);
    assert!(!text.contains("hunter2") && text.contains("clickhouse://(hidden)@db:8123/x"), "{text}");
    assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
}

#[test]
fn a_server_that_was_dropped_gives_its_address_back() {
    let (ops, address) = serve();
    let _half = TcpStream::connect(address).unwrap();
    drop(ops);
    let again = Ops::start(&OpsOptions::new(address), Arc::default()).unwrap();
    assert_eq!(get_from(again.address(), "/healthz", "localhost").0, 200);
}

#[test]
fn the_status_and_the_metrics_of_a_run_are_those_of_its_report() {
    let folder = tempfile::TempDir::new().unwrap();
    let input = folder.path().join("events.ndjson");
    let mut events = std::fs::File::create(&input).unwrap();
    // Some of every kind that is set aside.
    let rates = Oddities { conflicting: 5_000, late: 50_000, very_late: 20_000, ..Oddities::default() };
    let made = generate(&GenerateConfig { rates, ..GenerateConfig::new(3_000, 5) }, &mut events).unwrap();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let files = FilesConfig { paths: vec![input], ..FilesConfig::default() };
    let targets = vec![SinkTarget::Lake(Arc::clone(&store))];
    let pipeline = crate::built_in().remove(0);
    let io =
        AnalyticsIo::new(pipeline.clone(), EventSource::files(files), targets, DeadLetters::Files(Arc::clone(&store)));
    let status = Arc::new(Status::new("web_analytics"));
    let ops = Ops::start(&OpsOptions::new("127.0.0.1:0".parse().unwrap()), Arc::clone(&status)).unwrap();
    let (maintenance, observers) = (io.maintenance(tidemill_tables::Retention::FOREVER), Vec::new());
    let warn = Box::new(|warning: &str| panic!("{warning}"));
    let context = RunContext { store, maintenance, observers, status, place: None, warn };
    let options = RunOptions { workers: 2, epoch_bytes: 256 << 10, ..RunOptions::default() };
    let report = runtime::run(pipeline.on(io), &options, context, &StopHandle::default()).unwrap();

    let (_, _, body) = get_from(ops.address(), "/api/status", "localhost");
    let shown: serde_json::Value = serde_json::from_str(body.trim()).unwrap();
    let counts: BTreeMap<String, u64> = serde_json::from_value(shown["counts"]["all"].clone()).unwrap();
    assert_eq!(&counts, report.state.counts());
    assert_eq!(shown["counts"]["events"], made.lines);
    assert_eq!(shown["counts"]["malformed"], made.malformed);
    assert_eq!(shown["epoch"]["committed"].as_u64(), report.state.committed());
    let operators = shown["operators"].as_array().unwrap();
    let operator = |id: &str| operators.iter().find(|o| o["id"] == id).unwrap_or_else(|| panic!("{id} in {body}"));
    assert_eq!(operator("unique_events")["records_in"], made.lines - made.malformed);
    assert_eq!(operator("raw_events")["records_out"], counts["unique_events/accepted"]);
    assert_eq!(operator("user_sessions")["records_in"], counts["unique_events/accepted"]);
    assert!(operator("user_sessions")["state_bytes"].as_u64().unwrap() > 0);
    let samples = shown["samples"]["malformed"].as_array().unwrap();
    assert_eq!(samples.len() as u64, made.malformed.min(10));
    for (kind, counter) in [("late", "late"), ("conflicting", "conflicting"), ("unverified", "unverified")] {
        let shown_of_kind = shown["samples"][kind].as_array().unwrap();
        let counted = shown["counts"][counter].as_u64().unwrap();
        assert!(counted > 0, "the input has none that is {kind}");
        assert_eq!(shown_of_kind.len() as u64, counted.min(10), "{kind}");
        for sample in shown_of_kind {
            assert!(sample["partition"].as_str().unwrap().contains("events.ndjson"), "{sample}");
            assert!(sample["payload"].as_str().unwrap().contains("\"event_id\":\""), "{sample}");
        }
    }

    let (_, _, text) = get_from(ops.address(), "/metrics", "localhost");
    let total = format!("tidemill_events_total {}", made.lines);
    assert!(text.lines().any(|line| line == total), "{total} is not in {text}");
}
