//! OpenTelemetry: what a collector at the other end of `--otlp` gets, and that a run is the same without one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_tests::corpus;

use crate::{counter, free_addresses, tidemill};

/// A request: its path, its head, its body.
type Request = (String, String, Vec<u8>);

/// The other end of the protocol: takes everything.
struct Receiver {
    address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("it listens"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                thread::spawn(move || serve(&stream, &kept));
            }
        });
        Receiver { address, requests }
    }

    fn bodies(&self, path: &str) -> Vec<Vec<u8>> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|(to, _, _)| to == path).map(|(_, _, body)| body.clone()).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let bodies = self.bodies("/v1/traces");
        let scopes = bodies.iter().flat_map(|body| inside(body, &[1, 2, 2]));
        scopes.map(Span::read).collect()
    }

    /// The last value of a metric, added up over its series, and its unit.
    fn metric(&self, name: &str) -> Option<(f64, String)> {
        let bodies = self.bodies("/v1/metrics");
        let mut metrics = bodies.iter().flat_map(|body| inside(body, &[1, 2, 2]));
        let metric = metrics.rfind(|metric| texts(metric, 1) == [name])?;
        // Gauges are field 5, sums field 7; a point has a double in field 4 or an integer in field 6.
        let points: Vec<&[u8]> = [5, 7].iter().flat_map(|kind| inside(metric, &[*kind, 1])).collect();
        let value = |point: &&[u8]| {
            fields(point).into_iter().find_map(|(number, field)| match (number, field) {
                (4, Field::Fixed(bits)) => Some(f64::from_bits(bits)),
                (6, Field::Fixed(bits)) => Some(bits as f64),
                _ => None,
            })
        };
        Some((points.iter().filter_map(value).sum(), texts(metric, 3).concat()))
    }

    /// An attribute of the resource of the first traces.
    fn resource(&self, name: &str) -> Option<String> {
        attributes(inside(self.bodies("/v1/traces").first()?, &[1, 1]).first()?, 1).remove(name)
    }
}

fn serve(stream: &TcpStream, kept: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
            head.push_str(&line.to_ascii_lowercase());
            line.clear();
        }
        let Some(length) = head.lines().find_map(|header| header.strip_prefix("content-length: ")?.trim().parse().ok())
        else {
            return;
        };
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a whole body");
        let path = head.split_whitespace().nth(1).expect("a request line").to_owned();
        kept.lock().unwrap().push((path, head, body));
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A field of a protobuf message.
enum Field<'a> {
    Number(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().expect("a whole number");
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
    }
    value
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => {
                let (fixed, rest) = bytes.split_first_chunk().expect("eight bytes");
                bytes = rest;
                Field::Fixed(u64::from_le_bytes(*fixed))
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)).expect("a length");
                let (inside, rest) = bytes.split_at(length);
                bytes = rest;
                Field::Bytes(inside)
            }
            5 => {
                bytes = &bytes[4..];
                continue;
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

/// The messages at a path of field numbers.
fn inside<'a>(message: &'a [u8], path: &[u64]) -> Vec<&'a [u8]> {
    let Some((next, rest)) = path.split_first() else { return vec![message] };
    let of = |(number, field)| match field {
        Field::Bytes(bytes) if number == *next => Some(bytes),
        _ => None,
    };
    fields(message).into_iter().filter_map(of).flat_map(|bytes| inside(bytes, rest)).collect()
}

fn texts(message: &[u8], number: u64) -> Vec<String> {
    inside(message, &[number]).into_iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
}

/// Attributes by name, as texts.
fn attributes(message: &[u8], number: u64) -> BTreeMap<String, String> {
    let value = |attribute: &[u8]| {
        let value = inside(attribute, &[2]).concat();
        let shown = fields(&value).into_iter().map(|(_, field)| match field {
            Field::Number(whole) | Field::Fixed(whole) => whole.to_string(),
            Field::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        });
        shown.collect::<String>()
    };
    let all = inside(message, &[number]).into_iter();
    all.map(|attribute| (texts(attribute, 1).concat(), value(attribute))).collect()
}

struct Span {
    name: String,
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    from: u64,
    to: u64,
    attributes: BTreeMap<String, String>,
}

impl Span {
    fn read(bytes: &[u8]) -> Span {
        let fixed = |wanted: u64| {
            let of = |(number, field)| match field {
                Field::Fixed(value) if number == wanted => Some(value),
                _ => None,
            };
            fields(bytes).into_iter().find_map(of).expect("a span has a time")
        };
        let part = |number: u64| inside(bytes, &[number]).concat();
        Span {
            name: texts(bytes, 5).concat(),
            trace: part(1),
            id: part(2),
            parent: part(4),
            from: fixed(7),
            to: fixed(8),
            attributes: attributes(bytes, 9),
        }
    }
}

fn input(folder: &TempDir) -> [PathBuf; 1] {
    [corpus::file(folder.path(), "events.ndjson", &corpus::events(5_000, 17, Rates::within_horizon()))]
}

#[test]
fn every_epoch_and_every_checkpoint_is_a_trace_and_the_counters_arrive() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start();
    let run = tidemill().job(&input(&folder), &folder.path().join("out")).workers(2);
    let run = run.option(&["--epoch-bytes", "262144", "--otlp", &receiver.address]);
    let run = run.environment("OTEL_SERVICE_NAME", "shop").environment("OTEL_EXPORTER_OTLP_HEADERS", "x-team=blue");
    let line = run.finish();
    let spans = receiver.spans();
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let epochs = named("epoch");
    assert_eq!(epochs.len() as u64, counter(&line, "epochs"), "{line}");
    assert!(epochs.len() > 2, "{line}");
    for epoch in &epochs {
        let stages: Vec<_> = spans.iter().filter(|span| span.parent == epoch.id).collect();
        let names: Vec<_> = stages.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(names, ["bind", "process", "commit"], "epoch {:?}", epoch.attributes);
        assert!(stages.iter().all(|stage| stage.trace == epoch.trace));
        assert!(stages.windows(2).all(|pair| pair[0].to == pair[1].from), "one stage follows the other");
        assert_eq!((stages[0].from, stages[2].to), (epoch.from, epoch.to));
        assert!(epoch.parent.is_empty());
    }
    assert_eq!(named("checkpoint").len() as u64, counter(&line, "checkpoints"), "{line}");
    for (metric, field) in [("events", "events_read"), ("duplicates", "duplicates"), ("malformed", "malformed")] {
        let (value, _) = receiver.metric(&format!("tidemill.{metric}")).expect("the metric is sent");
        assert_eq!(value, counter(&line, field) as f64, "{metric}");
    }
    let (count, _) = receiver.metric("tidemill.epoch_latency.count").expect("the metric is sent");
    assert_eq!(count, counter(&line, "epochs") as f64);
    assert_eq!(receiver.metric("tidemill.committed").map(|(_, unit)| unit).as_deref(), Some("By"));
    assert_eq!(receiver.resource("service.name").as_deref(), Some("shop"));
    let requests = receiver.requests.lock().unwrap();
    assert!(requests.iter().all(|(_, head, _)| head.contains("x-team: blue")));
    assert!(requests.iter().all(|(_, head, _)| head.contains("content-type: application/x-protobuf")));
}

#[test]
fn a_run_whose_endpoint_is_away_ends_as_without_one_and_says_so_once() {
    let folder = TempDir::new().unwrap();
    let input = input(&folder);
    let plain = tidemill().job(&input, &folder.path().join("plain")).finish();
    let [nobody, _] = free_addresses();
    let run = tidemill().job(&input, &folder.path().join("away")).option(&["--otlp", &format!("http://{nobody}")]);
    let outcome = run.outcome();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let line = outcome.json();
    for field in ["events_read", "accepted", "duplicates", "late", "epochs"] {
        assert_eq!(counter(&line, field), counter(&plain, field), "{field}");
    }
    assert_eq!(line["rows"], plain["rows"]);
    assert_eq!(outcome.stderr.matches("it is tried again").count(), 1, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("spans are lost").count(), 1, "{}", outcome.stderr);
}

#[test]
fn requests_to_the_collector_are_spans_and_its_counters_arrive() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start();
    let [address, _] = free_addresses();
    let log = folder.path().join("log").to_string_lossy().into_owned();
    let environment = BTreeMap::from([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), receiver.address.clone())]);
    let mut collector = tidemill()
        .with_environment(environment)
        .start(&["collect", "--open", "--log", &log, "--listen", &address, "--json"]);
    assert!(collector.until(|_| ureq::get(&format!("http://{address}/readyz")).call().is_ok()));
    let to = format!("http://{address}");
    let sent = tidemill().command(&["generate", "--events", "50", "--seed", "3", "--to", &to, "--json"]);
    assert_eq!(sent.code, Some(0), "{}", sent.stderr);
    collector.signal("TERM");
    let ended = collector.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let books = ended.json();
    let spans = receiver.spans();
    let posts: Vec<_> = spans.iter().filter(|span| span.name == "POST /v1/events").collect();
    assert_eq!(posts.len() as u64, counter(&books, "requests"), "{books}");
    assert!(posts.iter().all(|post| post.attributes["http.response.status_code"] == "200"));
    assert!(posts.iter().all(|post| post.attributes["http.route"] == "/v1/events"));
    let (events, _) = receiver.metric("tidemill.collector.events").expect("the metric is sent");
    assert_eq!(events, (counter(&books, "accepted") + counter(&books, "rejected")) as f64, "{books}");
    assert_eq!(receiver.resource("service.name").as_deref(), Some("tidemill"));
}
