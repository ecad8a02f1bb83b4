//! Servers and clients that mean harm: what a request costs is its own loss.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tidemill_http::{ApiKeys, Descriptors};
use tidemill_tests::corpus;
use tidemill_tests::harness::{Running, Tidemill, resident_bytes};
use tidemill_tests::live::children;

use crate::tidemill;

/// What a statement may take here, and what a process takes beside it.
const SQL_MEMORY: u64 = 192 << 20;
pub(crate) const BASE_BYTES: u64 = 256 << 20;

pub(crate) fn free_address(ip: &str) -> String {
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap().to_string()
}

/// An answer: the status and the body.
pub(crate) fn ask(address: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    ask_on(TcpStream::connect(address).unwrap(), address, path, headers)
}

/// The same on a connection that is there; the status is 0 where it was closed without an answer.
pub(crate) fn ask_on(mut stream: TcpStream, address: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n");
    let mut answer = String::new();
    let said = stream.write_all(head.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
    assert!(said.is_ok() || answer.is_empty(), "{path}: half an answer: {said:?}");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn sql(address: &str, statement: &str) -> (u16, String) {
    let escaped: String = statement.bytes().map(|byte| format!("%{byte:02x}")).collect();
    ask(address, &format!("/api/v1/sql?q={escaped}"), &[])
}

pub(crate) fn tables(folder: &Path) -> String {
    let out = folder.join("out");
    let line = json!({"event_id": "e", "event_type": "page_view", "user_id": "u", "timestamp": 1_767_225_600_000_i64,
        "server_time": 1_767_225_600_000_i64, "properties": {"page": "/"}});
    tidemill().job(&[corpus::file(folder, "events.ndjson", format!("{line}\n").as_bytes())], &out).finish();
    out.to_str().unwrap().to_owned()
}

pub(crate) fn stop(running: Running) {
    running.signal("TERM");
    let outcome = running.wait();
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
}

/// Waits until it answers.
pub(crate) fn ready(server: &mut Running, address: &str) {
    let up = || TcpStream::connect(address).is_ok() && ask(address, "/healthz", &[]).0 == 200;
    assert!(server.until(|_| up()), "{}", server.said());
}

/// A run that waits for events, and where its operators look.
pub(crate) fn watched_run(folder: &Path, options: &[&str]) -> (String, Running) {
    let (from, out) = (format!("log://{}", folder.join("watched").display()), folder.join("watching"));
    let watched = free_address("127.0.0.1");
    let run = ["run", "web_analytics", "--from", &from, "--out", out.to_str().unwrap(), "--ops", &watched];
    let running = tidemill().start(&[&run[..], options].concat());
    (watched, running)
}

/// A command that may have 1,024 descriptors and no more.
fn start_with_few_descriptors(arguments: &[&str]) -> Running {
    let binary = tidemill().binary().to_str().unwrap().to_owned();
    let all = [&["-c", "ulimit -n 1024 && exec \"$0\" \"$@\"", &binary], arguments].concat();
    Tidemill::new("/bin/sh").start(&all)
}

#[test]
fn a_hostile_statement_ends_nothing_but_itself() {
    let folder = TempDir::new().unwrap();
    let (data, address) = (tables(folder.path()), free_address("127.0.0.1"));
    let memory = SQL_MEMORY.to_string();
    let options = ["--data", &data, "--listen", &address, "--timeout", "2s", "--sql-memory", &memory];
    let mut server = tidemill().start(&[&["serve"], &options[..]].concat());
    ready(&mut server, &address);
    assert_eq!(sql(&address, "SELECT sum(views) FROM page_views_by_minute").0, 200);
    let doubled: String = (1..28).map(|n| format!(", a{n} AS (SELECT x.n FROM a{} x, a{} y)", n - 1, n - 1)).collect();
    let statements: &[(&str, &[u16])] = &[
        (&format!("SELECT {}1{}", "(".repeat(650), ")".repeat(650)), &[400]),
        (&format!("SELECT 1{}", "+1".repeat(3_000)), &[400]),
        (&format!("SELECT 1{}", "+1".repeat(490)), &[200]),
        (&format!("SELECT {}1", "-".repeat(1_400)), &[200, 400]),
        (&format!("SELECT true{}", " OR true".repeat(480)), &[200]),
        (&format!("SELECT {}", vec!["repeat('x', 10000000)"; 200].join(" || ")), &[400, 408]),
        ("SELECT length(repeat(repeat('x', 100000), 100000))", &[400]),
        ("SELECT length(repeat('x', 2000000000))", &[400]),
        ("SELECT length(lpad('a', 2000000000, 'b'))", &[400]),
        ("SELECT length(rpad('a', 2000000000, 'b'))", &[400]),
        ("SELECT length(replace(repeat('x', 1000000), 'x', repeat('y', 10000)))", &[400]),
        ("SELECT length(string_agg(repeat('x', 1000000), ',')) FROM (SELECT unnest(range(0, 1000000)))", &[400, 408]),
        ("SELECT array_length(array_repeat(1, 2000000000))", &[400, 408]),
        ("SELECT array_length(array_repeat(array_repeat(array_repeat(1, 10000), 10000), 10000))", &[400, 408]),
        (&format!("SELECT {}1{}", "[".repeat(45), "]".repeat(45)), &[200, 400]),
        (&format!("SELECT {}1{}", "[".repeat(450), "]".repeat(450)), &[400]),
        ("SELECT array_length(range(0, 4000000000))", &[400, 408]),
        ("SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))", &[408]),
        ("SELECT count(*) FROM (SELECT unnest(range(0, 1000000000000)))", &[400, 408]),
        ("SELECT regexp_like(repeat('a', 100000), '(((a{100}){100}){100}){100}')", &[400, 408]),
        (
            "SELECT count(DISTINCT a + b) FROM (SELECT unnest(range(0, 100000)) AS a), (SELECT unnest(range(0, 100000)) AS b)",
            &[400, 408],
        ),
        ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r", &[400, 408]),
        (
            "WITH RECURSIVE r AS (SELECT repeat('x', 1000) AS t UNION ALL SELECT t || t FROM r) SELECT count(t) FROM r",
            &[400, 408],
        ),
        (&format!("SELECT count(*) FROM sessions WHERE 1 IN (0{})", ",0".repeat(1_200)), &[200, 400]),
        (&format!("SELECT length('{}')", "[".repeat(2_500)), &[200]),
        (&format!("WITH a0 AS (SELECT 1 AS n){doubled} SELECT count(*) FROM a27"), &[400, 408]),
    ];
    for (statement, expected) in statements {
        let (status, body) = sql(&address, statement);
        let beginning: String = statement.chars().take(60).collect();
        assert!(expected.contains(&status), "{beginning}: {status} {body}");
        server.assert_alive(&beginning);
        let held = server.resident_bytes();
        assert!(held < BASE_BYTES, "{beginning}: the server holds {held} bytes");
        for worker in children(server.pid()) {
            let taken = resident_bytes(worker);
            assert!(taken < BASE_BYTES + SQL_MEMORY, "{beginning}: a worker holds {taken} bytes");
        }
        assert_eq!(sql(&address, "SELECT 1").0, 200, "after {beginning}");
    }
    stop(server);
}

#[test]
fn statements_that_never_end_leave_other_questions_their_threads() {
    let folder = TempDir::new().unwrap();
    let (data, address) = (tables(folder.path()), free_address("127.0.0.1"));
    let options = ["--data", &data, "--listen", &address, "--timeout", "4s", "--sql-workers", "2"];
    let mut server = tidemill().start(&[&["serve"], &options[..]].concat());
    ready(&mut server, &address);
    let endless = "SELECT levenshtein(repeat('a', 3000000), repeat('b', 3000000))";
    thread::scope(|scope| {
        let asked: Vec<_> = (0..2).map(|_| scope.spawn(|| sql(&address, endless))).collect();
        let busy = || ask(&address, "/healthz", &[]).1.contains("no process for SQL is free");
        assert!(server.until(|_| busy()), "the server says that both are answering");
        assert_eq!(ask(&address, "/api/v1/totals", &[]).0, 200);
        for answer in asked {
            let (status, body) = answer.join().unwrap();
            assert_eq!(status, 408, "{body}");
        }
    });
    assert_eq!(sql(&address, "SELECT 1").0, 200);
    // Whoever leaves takes the statement along.
    let mut left = TcpStream::connect(&address).unwrap();
    let escaped: String = endless.bytes().map(|byte| format!("%{byte:02x}")).collect();
    write!(left, "GET /api/v1/sql?q={escaped} HTTP/1.1\r\nhost: {address}\r\n\r\n").unwrap();
    assert!(server.until(|_| ask(&address, "/metrics", &[]).1.contains("in_flight 1")));
    drop(left);
    assert!(server.until(|_| ask(&address, "/metrics", &[]).1.contains("in_flight 0")));
    stop(server);
}

#[test]
fn a_page_of_another_site_asks_no_server_of_ours() {
    let folder = TempDir::new().unwrap();
    let (data, address) = (tables(folder.path()), free_address("127.0.0.1"));
    let mut server = tidemill().start(&["serve", "--data", &data, "--listen", &address]);
    ready(&mut server, &address);
    let (watched, mut run) = watched_run(folder.path(), &[]);
    ready(&mut run, &watched);
    for headers in [
        [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")],
        [("origin", "https://evil.example"), ("accept", "*/*")],
        [("origin", "null"), ("accept", "*/*")],
    ] {
        assert_eq!(ask(&address, "/api/v1/sql?q=SELECT%201", &headers).0, 403, "{headers:?}");
        assert_eq!(ask(&watched, "/api/status", &headers).0, 403, "{headers:?}");
    }
    assert_eq!(ask(&watched, "/api/status", &[("sec-fetch-site", "same-origin")]).0, 200);
    stop(run);
    assert_eq!(ask(&address, "/api/v1/sql?q=SELECT%201", &[("sec-fetch-site", "same-origin")]).0, 200);
    stop(server);
}

#[test]
fn sql_is_off_where_strangers_come_and_nobody_is_asked_for_a_key() {
    let folder = TempDir::new().unwrap();
    let data = tables(folder.path());
    let address = free_address("0.0.0.0");
    let mut server = tidemill().start(&["serve", "--data", &data, "--listen", &address]);
    ready(&mut server, &address);
    let (status, body) = sql(&address, "SELECT 1");
    assert!(status == 403 && body.contains("--keys"), "{status} {body}");
    assert_eq!(ask(&address, "/api/v1/totals", &[]).0, 200);
    stop(server);

    let keys = corpus::file(
        folder.path(),
        "keys",
        format!("{}\n{}\n", ApiKeys::line("all", "*").unwrap(), ApiKeys::line("one", "default").unwrap()).as_bytes(),
    );
    let mut guarded =
        tidemill().start(&["serve", "--data", &data, "--listen", &address, "--keys", keys.to_str().unwrap()]);
    ready(&mut guarded, &address);
    for (path, key, expected) in [
        ("/api/v1/totals", None, 401),
        ("/api/v1/totals", Some("wrong"), 401),
        ("/api/v1/totals", Some("one"), 200),
        ("/api/v1/totals?tenant=default", Some("one"), 200),
        ("/api/v1/totals?tenant=other", Some("one"), 403),
        ("/api/v1/totals?tenant=other", Some("all"), 200),
        ("/api/v1/sql?q=SELECT%201", Some("one"), 403),
        ("/api/v1/sql?q=SELECT%201", Some("all"), 200),
        ("/metrics", None, 401),
        ("/", None, 200),
    ] {
        let headers: Vec<_> = key.map(|key| ("x-api-key", key)).into_iter().collect();
        let answer = ask(&address, path, &headers);
        assert_eq!(answer.0, expected, "{path} {key:?}: {}", answer.1);
    }
    // The file is read again without a restart.
    std::fs::write(&keys, format!("{}\n", ApiKeys::line("new", "*").unwrap())).unwrap();
    let known = |key| ask(&address, "/api/v1/totals", &[("x-api-key", key)]).0;
    assert!(guarded.until(|_| known("new") == 200));
    assert_eq!(known("all"), 401);
    stop(guarded);
}

#[test]
fn a_thousand_idle_connections_stop_nothing() {
    assert!(Descriptors::raised().connections(4_000) > 2_000, "this test needs 4,000 descriptors of its own");
    let folder = TempDir::new().unwrap();
    let (data, served) = (tables(folder.path()), free_address("127.0.0.1"));
    let (log, collected) = (folder.path().join("log"), free_address("127.0.0.1"));
    let mut collector =
        start_with_few_descriptors(&["collect", "--open", "--log", log.to_str().unwrap(), "--listen", &collected]);
    let mut server = start_with_few_descriptors(&["serve", "--data", &data, "--listen", &served]);
    ready(&mut collector, &collected);
    ready(&mut server, &served);
    let from = format!("log://{}", log.display());
    let (out, watched) = (folder.path().join("live"), free_address("127.0.0.1"));
    let mut run = start_with_few_descriptors(&[
        "run",
        "web_analytics",
        "--from",
        &from,
        "--out",
        out.to_str().unwrap(),
        "--ops",
        &watched,
        "--epoch-every",
        "200ms",
    ]);
    ready(&mut run, &watched);
    for address in [&served, &collected, &watched] {
        let idle: Vec<TcpStream> = (0..1_020).filter_map(|_| TcpStream::connect(address).ok()).collect();
        assert!(idle.len() > 900, "{} connections", idle.len());
        for _ in 0..20 {
            assert_eq!(ask(address, "/healthz", &[]).0, 200, "{address} with {} idle connections", idle.len());
        }
        for (n, process) in [&mut server, &mut collector, &mut run].into_iter().enumerate() {
            process.assert_alive(&format!("process {n}"));
        }
        // The log takes events, and the run commits them, while the connections are there.
        let event = json!({"events": [{"event_id": address, "event_type": "page_view", "user_id": "u",
            "timestamp": 1_767_225_600_000_i64, "properties": {"page": "/"}}]});
        let posted = ureq::post(format!("http://{collected}/v1/events")).send(event.to_string()).unwrap();
        assert_eq!(posted.status().as_u16(), 200);
        drop(idle);
    }
    let counted = || tidemill().try_query(&out, "SELECT count(*) AS n FROM raw_events").unwrap_or_default();
    assert!(run.until(|_| String::from_utf8_lossy(&counted()).contains('3')), "{}", run.said());
    for process in [server, collector, run] {
        stop(process);
    }
}

#[test]
fn an_endless_body_and_an_endless_head_are_let_go_of() {
    let folder = TempDir::new().unwrap();
    let (data, address) = (tables(folder.path()), free_address("127.0.0.1"));
    let mut server = tidemill().start(&["serve", "--data", &data, "--listen", &address]);
    ready(&mut server, &address);
    for beginning in
        ["GET /api/v1/totals HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n", "GET / HTTP/1.1\r\n"]
    {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(beginning.as_bytes()).unwrap();
        let piece = if beginning.contains("chunked") {
            "10000\r\n".to_owned() + &"x".repeat(65_536) + "\r\n"
        } else {
            format!("x: {}\r\n", "y".repeat(60_000))
        };
        // Until the server closes: a write fails.
        while stream.write_all(piece.as_bytes()).is_ok() {}
        server.assert_alive(beginning);
        assert!(server.resident_bytes() < BASE_BYTES);
    }
    assert_eq!(ask(&address, "/api/v1/totals", &[]).0, 200);
    stop(server);
}
