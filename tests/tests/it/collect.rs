//! The collector as a process: what it acknowledged is in the log, whatever happens to it.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tidemill_connectors::events::NdjsonDecoder;
use tidemill_dataflow::source::{Block, Decode, Decoded};
use tidemill_embedded_log::LogReader;
use tidemill_tests::harness::Running;

use super::{root, tidemill};

const TOPICS: [&str; 5] = ["events.page_view", "events.click", "events.purchase", "events.error", "events.other"];
const PARTITIONS: u32 = 2;
/// What a collector needs besides the memory of requests: its binary, its threads, what the allocator keeps.
const BASE_BYTES: u64 = 128 << 20;

/// An address that is free now, so that a collector can be started on it again and again.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it listens").to_string()
}

/// A collector that lets everybody in.
fn start(log: &Path, address: &str, options: &[&str]) -> Running {
    start_with(log, address, &[&["--open"], options].concat())
}

fn start_with(log: &Path, address: &str, options: &[&str]) -> Running {
    let log = log.to_str().expect("a path in UTF-8");
    let partitions = PARTITIONS.to_string();
    let arguments = ["collect", "--log", log, "--listen", address, "--partitions", &partitions, "--json"];
    let mut collector = tidemill().start(&[&arguments, options].concat());
    assert!(collector.until(|_| get(address, "/readyz").is_some_and(|answer| answer.contains(" 200 "))));
    collector
}

/// The whole answer to a GET; none if nobody listens.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// How many records readers see; none before the topics are there.
fn records(log: &Path) -> u64 {
    let partitions = TOPICS.iter().flat_map(|topic| (0..PARTITIONS).map(move |partition| (topic, partition)));
    partitions.filter_map(|(topic, partition)| LogReader::open(log, topic, partition).ok()?.end().ok()).sum()
}

/// All lines of the log.
fn lines(log: &Path) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    for topic in TOPICS {
        for partition in 0..PARTITIONS {
            let mut reader = LogReader::open(log, topic, partition).expect("the topic is there");
            while let Some((_, record)) = reader.next().expect("what was published can be read") {
                lines.push(record.value.to_vec());
            }
        }
    }
    lines
}

/// Puts the beginning of a batch behind the last one of every partition, as a crash in the middle of a write does.
fn tear(log: &Path, round: u64) {
    for topic in TOPICS {
        for partition in 0..PARTITIONS {
            let Some(segment) = last_segment(&log.join(topic).join(partition.to_string())) else { continue };
            let bytes = fs::read(&segment).expect("a segment");
            let half = match round % 3 {
                0 => bytes[..bytes.len().min(31)].to_vec(),
                1 => bytes[..bytes.len() * 2 / 3].to_vec(),
                _ => vec![0; 4_096],
            };
            let mut file = OpenOptions::new().append(true).open(&segment).expect("a segment");
            file.write_all(&half).expect("room for a torn tail");
        }
    }
}

fn last_segment(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).expect("the partition's folder").flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "log")).max()
}

/// An event without what the server sets.
fn as_sent(line: &[u8]) -> Value {
    let mut event: Value = serde_json::from_slice(line).expect("a line is JSON");
    let members = event.as_object_mut().expect("a line is an object");
    for member in ["server_time", "ip", "geo", "tenant"] {
        members.remove(member);
    }
    event
}

#[test]
fn every_acknowledged_event_is_in_the_log_after_kills_and_torn_tails() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (log, acked) = (folder.path().join("log"), folder.path().join("acked"));
    let address = free_address();
    let mut collector = start(&log, &address, &[]);
    let (to, file) = (format!("http://{address}"), acked.to_str().expect("a path in UTF-8"));
    let options = ["--events", "12000", "--rate", "3000", "--connections", "4", "--acked", file, "--json"];
    let mut generator = tidemill().start(&[&["generate", "--to", &to][..], &options].concat());
    for round in 0..3 {
        // Kills come in the middle of traffic: a thousand events more are stored, and more are to come.
        let before = records(&log);
        assert!(generator.until(|_| records(&log) > before + 1_000), "the generator ended too early");
        collector.signal("KILL");
        assert_eq!(collector.wait().code, None);
        tear(&log, round);
        collector = start(&log, &address, &[]);
    }
    let done = generator.wait();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let books = done.json();
    let count = |name: &str| books[name].as_u64().unwrap_or_else(|| panic!("{name} in {books}"));
    assert_eq!(count("sent"), count("accepted") + count("rejected"), "{books}");
    assert_eq!(count("given_up"), 0, "{books}");
    assert!(count("accepted") >= 12_000 && count("retried_batches") > 0, "{books}");

    collector.signal("TERM");
    let stopped = collector.wait();
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    let last_life = stopped.json();
    assert!(last_life["requests"].as_u64().is_some_and(|requests| requests > 0), "{last_life}");

    let stored = lines(&log);
    let mut by_id: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in &stored {
        let event = as_sent(line);
        let id = event["event_id"].as_str().expect("an id").to_owned();
        by_id.entry(id).or_default().push(event);
    }
    let acked = fs::read_to_string(&acked).expect("what was acknowledged");
    assert_eq!(acked.lines().count() as u64, count("accepted"));
    for line in acked.lines() {
        let sent = as_sent(line.as_bytes());
        let id = sent["event_id"].as_str().expect("an id");
        let found = by_id.get(id).is_some_and(|same_id| same_id.contains(&sent));
        assert!(found, "{line} was acknowledged and is not in the log");
    }
    let bytes = stored.join(&b"\n"[..]);
    let mut decoded = Decoded::default();
    NdjsonDecoder::default().decode(Block { partition: 0, offset: 0, first_line: 1, bytes, skipped: 0 }, &mut decoded);
    assert_eq!((decoded.records.len(), decoded.malformed.len()), (stored.len(), 0), "the log holds nothing but events");
}

#[test]
fn memory_stays_bounded_when_many_send_large_bodies_and_never_finish() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let address = free_address();
    let budget: u64 = 32 << 20;
    let mut collector = start(folder.path(), &address, &["--memory-budget", &budget.to_string()]);
    let head = "POST /v1/events HTTP/1.1\r\nhost: test\r\ncontent-length: 10000000\r\n\r\n";
    let clients: Vec<_> = (0..48)
        .map(|_| {
            let address = address.clone();
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).expect("the collector listens");
                stream.set_read_timeout(Some(Duration::from_secs(300))).expect("a timeout");
                // Whoever is refused may find the connection closed.
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&[b' '; 9_000_000])).ok();
                let mut answer = [0; 12];
                stream.read_exact(&mut answer).ok().map(|()| String::from_utf8_lossy(&answer).into_owned())
            })
        })
        .collect();
    // One body has room in the half that one address gets; the others are sent away, and it when it stops coming.
    let mut most = 0;
    assert!(collector.until(|pid| {
        most = most.max(tidemill_tests::harness::resident_bytes(pid));
        clients.iter().all(thread::JoinHandle::is_finished)
    }));
    assert!(most < budget + BASE_BYTES, "{most} bytes resident");
    let mut answers = BTreeMap::new();
    for client in clients {
        *answers.entry(client.join().expect("a client does not panic")).or_insert(0) += 1;
    }
    assert!(answers.contains_key(&Some("HTTP/1.1 503".to_owned())), "{answers:?}");
    assert!(answers.contains_key(&Some("HTTP/1.1 408".to_owned())), "{answers:?}");
    collector.signal("TERM");
    assert_eq!(collector.wait().code, Some(0));
}

#[test]
fn a_collector_that_cannot_start_says_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("log");
    let address = free_address();
    let collector = start(&log, &address, &[]);
    let path = log.to_str().expect("a path in UTF-8");
    let refused = |arguments: &[&str], code: i32, words: &[&str]| {
        tidemill().command(&[&["collect", "--open", "--log"], arguments].concat()).assert_refused(&[code], words);
    };
    refused(&[path, "--listen", "127.0.0.1:0"], 3, &["has a writer already", "lock"]);
    let other = folder.path().join("other");
    let other = other.to_str().expect("a path in UTF-8");
    refused(&[other, "--listen", &address], 1, &["cannot listen", "--listen"]);
    refused(&[other, "--listen", "127.0.0.1:0", "--tls-cert", "/cert.pem"], 2, &["--tls-key"]);
    refused(&[other, "--tls-cert", "/no/cert.pem", "--tls-key", "/no/key.pem"], 2, &["/no/cert.pem", "PEM"]);
    refused(&[other, "--listen", "127.0.0.1:0", "--trusted-proxies", "here"], 2, &["10.0.0.0/8"]);
    collector.signal("TERM");
    assert_eq!(collector.wait().code, Some(0));
    refused(&[path, "--listen", "127.0.0.1:0", "--partitions", "7"], 3, &["partitions"]);
}

/// The status of a post of one event.
fn post(address: &str, key: Option<&str>) -> u16 {
    let request = ureq::post(format!("http://{address}/v1/events"));
    let request = request.config().http_status_as_error(false).build();
    let request = match key {
        Some(key) => request.header("x-api-key", key),
        None => request,
    };
    let batch = r#"{"events":[{"event_id":"e","event_type":"click","user_id":"u","timestamp":1767225600000}]}"#;
    request.send(batch).expect("it answers").status().as_u16()
}

#[test]
fn a_collector_starts_with_keys_or_with_the_word_that_it_is_open() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let keys = folder.path().join("keys");
    let keys = keys.to_str().expect("a path in UTF-8");
    let log = folder.path().join("log");
    let log = log.to_str().expect("a path in UTF-8");
    let refused = |variable: Option<&str>, options: &[&str], words: &[&str]| {
        let set = variable.map(|value| ("TIDEMILL_API_KEYS".to_owned(), value.to_owned()));
        let collector = tidemill().with_environment(set.into_iter().collect());
        let arguments = ["collect", "--log", log, "--listen", "127.0.0.1:0"];
        collector.command(&[&arguments, options].concat()).assert_refused(&[2], words);
    };
    refused(None, &[], &["tidemill keys", "--keys", "TIDEMILL_API_KEYS", "--open"]);
    refused(Some(""), &[], &["TIDEMILL_API_KEYS", "names no key", "--open"]);
    refused(Some("hunter2=shop"), &["--open"], &["TIDEMILL_API_KEYS is set", "--open"]);
    refused(Some("hunter2=*"), &[], &["one tenant"]);
    refused(None, &["--open", "--keys", keys], &["--open", "--keys"]);
    refused(None, &["--keys", keys], &["cannot read the keys", keys]);
    for (text, words) in [("only-a-key\n", ["line 1", "hash"]), ("# none yet\n", ["names no key", "--open"])] {
        fs::write(keys, text).expect("a small file");
        refused(None, &["--keys", keys], &words);
    }
    assert!(!Path::new(log).exists(), "nothing was begun");
}

#[test]
fn a_key_is_made_shown_once_and_lets_in_also_where_the_collector_runs_already() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("keys");
    let file = file.to_str().expect("a path in UTF-8");
    let make = |options: &[&str]| {
        let made = tidemill().command(&[&["keys", "--tenant", "shop"], options].concat());
        assert_eq!(made.code, Some(0), "{}", made.stderr);
        String::from_utf8(made.stdout).expect("a key is text")
    };
    let first = make(&["--file", file]);
    let (address, log) = (free_address(), folder.path().join("log"));
    let mut collector = start_with(&log, &address, &["--keys", file]);
    assert_eq!((post(&address, Some(first.trim())), post(&address, None)), (200, 401));
    let second = make(&["--file", file]);
    assert!(collector.until(|_| post(&address, Some(second.trim())) == 200));
    collector.signal("TERM");
    let stopped = collector.wait();
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    let kept = fs::read_to_string(file).expect("the file of keys");
    for key in [first.trim(), second.trim()] {
        assert!(key.starts_with("tm_") && !key.contains('\n') && !kept.contains(key) && !stopped.stderr.contains(key));
    }
    assert_eq!(kept.lines().filter(|line| line.ends_with(" shop")).count(), 2);
    // Without a file, the line is printed behind the key.
    let printed = make(&[]);
    let (key, line) = printed.trim_end().split_once('\n').expect("a key and its line");
    assert!(key.starts_with("tm_") && line.starts_with("blake3:") && line.ends_with(" shop"), "{printed}");
    tidemill().command(&["keys", "--tenant", "a b"]).assert_refused(&[2], &["a tenant has letters"]);
}

#[test]
fn a_collector_with_a_certificate_speaks_https_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| {
        let path = root().join("tests/tests/it/certificate").join(name);
        path.to_str().expect("a path in UTF-8").to_owned()
    });
    let (address, log) = (free_address(), folder.path().join("log"));
    let log = log.to_str().expect("a path in UTF-8");
    let arguments = ["collect", "--open", "--log", log, "--listen", &address];
    let mut collector = tidemill().start(&[&arguments[..], &["--tls-cert", &certificate, "--tls-key", &key]].concat());
    // The certificate is one that nobody vouches for.
    let any = ureq::tls::TlsConfig::builder().disable_verification(true).build();
    let client: ureq::Agent = ureq::Agent::config_builder().tls_config(any).build().into();
    assert!(
        collector.until(|_| client.get(format!("https://{address}/readyz")).call().is_ok()),
        "{}",
        collector.said()
    );
    assert!(get(&address, "/readyz").is_none_or(|answer| !answer.contains("200")));
    collector.signal("TERM");
    let stopped = collector.wait();
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    assert!(stopped.stderr.contains(&format!("collecting on https://{address}")), "{}", stopped.stderr);
    let swapped = [&arguments[..], &["--tls-cert", &key, "--tls-key", &certificate]].concat();
    tidemill().command(&swapped).assert_refused(&[2], &["private key", "PEM"]);
}

#[test]
fn passwords_in_addresses_are_in_no_message() {
    let given_up = ["generate", "--to", "http://me:hunter2@127.0.0.1:1", "--events", "1", "--give-up", "1ms"];
    let outcome = tidemill().command(&given_up);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("1 given up") && !outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    for arguments in [
        &["run", "--from", "http://me:hunter2@host/?token=hunter2", "--out", "/tmp/none"][..],
        &["run", "--from", "kafka://me:hunter2@127.0.0.1:1?topics=", "--out", "/tmp/none"],
        &["run", "--to", "clickhouse://me:hunter2@", "--state", "/tmp/none", "--input", "none"],
        &["query", "--data", "s4://me:hunter2@bucket", "SELECT 1"],
        &["serve", "--data", "/tmp/none", "--status", "ftp://me:hunter2@host"],
        &["collect", "--listen", "http://me:hunter2@host"],
    ] {
        let said = tidemill().command(arguments);
        assert!(said.code.is_some_and(|code| code > 0), "{arguments:?}: {}", said.stderr);
        assert!(
            !said.stderr.contains("hunter2") && !said.stdout.windows(7).any(|it| it == b"hunter2"),
            "{}",
            said.stderr
        );
    }
}
