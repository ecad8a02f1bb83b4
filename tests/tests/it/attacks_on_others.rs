//! Clients that hold what all have together: connections, memory, answers. Others are served all the same.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tidemill_http::ApiKeys;
use tidemill_tests::corpus;
use tidemill_tests::harness::Running;

use crate::attacks::{BASE_BYTES, ask, ask_on, free_address, ready, stop, tables, watched_run};
use crate::tidemill;

/// Connections of a server here, or a few more than that.
const MANY: usize = 70;

/// A connection from an address of this machine.
fn connect_from(ip: &str, to: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 0).into()).unwrap();
    socket.connect(&to.parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.into()
}

/// The status of a post of one event from an address, with a key.
fn post_from(ip: &str, to: &str, key: &str) -> u16 {
    let event = json!({"events": [{"event_id": "e", "event_type": "click", "user_id": "u",
        "timestamp": 1_767_225_600_000_i64, "properties": {}}]});
    post(connect_from(ip, to), &format!("x-api-key: {key}"), event.to_string().as_bytes()).0
}

fn post(mut stream: TcpStream, headers: &str, body: &[u8]) -> (u16, String) {
    let length = body.len();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut answer = String::new();
    // One that is turned away at once may find its connection closed.
    let _ = stream.write_all(&[head.as_bytes(), body].concat()).and_then(|()| stream.read_to_string(&mut answer));
    (answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default(), answer)
}

/// A collector that two tenants may send to.
fn collector(folder: &TempDir, options: &[&str]) -> (String, Running) {
    let lines = ["one", "two"].map(|name| ApiKeys::line(name, name).unwrap() + "\n").concat();
    let keys = corpus::file(folder.path(), "keys", lines.as_bytes());
    let (log, address) = (folder.path().join("log"), free_address("127.0.0.1"));
    let collect = ["collect", "--log", log.to_str().unwrap(), "--listen", &address, "--keys", keys.to_str().unwrap()];
    let mut collector = tidemill().start(&[&collect[..], options].concat());
    ready(&mut collector, &address);
    (address, collector)
}

/// The query server, the server of a run, and a collector: where each answers, and its process.
fn all_three(folder: &TempDir) -> [(String, Running); 3] {
    let (data, served) = (tables(folder.path()), free_address("127.0.0.1"));
    let mut server = tidemill().start(&["serve", "--data", &data, "--listen", &served, "--connections", "64"]);
    ready(&mut server, &served);
    let (watched, mut run) = watched_run(folder.path(), &[]);
    ready(&mut run, &watched);
    [(served, server), (watched, run), collector(folder, &["--connections", "64"])]
}

#[test]
fn an_address_that_sends_a_byte_now_and_then_leaves_others_their_connections() {
    let folder = TempDir::new().unwrap();
    let (address, mut collector) = collector(&folder, &["--connections", "64"]);
    let head = "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: one\r\ncontent-length: 1000\r\n\r\n";
    let mut slow: Vec<TcpStream> = (0..MANY).map(|_| TcpStream::connect(&address).unwrap()).collect();
    for stream in &mut slow {
        // Those that made room for later ones are closed.
        let _ = stream.write_all(head.as_bytes());
    }
    let trickle = |streams: &mut Vec<TcpStream>| streams.iter_mut().for_each(|stream| drop(stream.write(b" ")));
    // Half of the connections are busy with its bodies: it is told to come again, and nobody else is.
    assert!(collector.until(|_| {
        trickle(&mut slow);
        post_from("127.0.0.1", &address, "one") == 503
    }));
    for _ in 0..20 {
        trickle(&mut slow);
        assert_eq!(post_from("127.0.0.2", &address, "two"), 200);
        assert_eq!(post_from("127.0.0.3", &address, "one"), 200);
    }
    drop(slow);
    assert!(collector.until(|_| post_from("127.0.0.1", &address, "one") == 200), "once it lets go");
    stop(collector);
}

/// Asks again and again and reads nothing, until no more can be asked.
fn clogged(to: &str, path: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // With little room on this side it does not take long.
    socket.set_recv_buffer_size(8 << 10).unwrap();
    socket.set_send_buffer_size(8 << 10).unwrap();
    socket.connect(&to.parse::<SocketAddr>().unwrap().into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let asked = format!("GET {path} HTTP/1.1\r\nhost: {to}\r\n\r\n").repeat(200);
    while stream.write_all(asked.as_bytes()).is_ok() {}
    stream
}

/// Waits until the other side has closed a connection, without reading what it sent.
fn closed(mut stream: TcpStream) {
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    while !matches!(stream.write(b"x"), Err(error) if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
    {
    }
}

#[test]
fn an_address_that_reads_no_answers_leaves_others_theirs_and_is_let_go_of() {
    let folder = TempDir::new().unwrap();
    let [(served, mut server), (watched, mut run), (collected, mut collector)] = all_three(&folder);
    let servers = [(&served, "/assets/js/tiles.js"), (&watched, "/ops.js"), (&collected, "/metrics")];
    thread::scope(|scope| {
        let clogs: Vec<_> = servers
            .iter()
            .flat_map(|(address, path)| (0..MANY / 2).map(move |_| scope.spawn(move || clogged(address, path))))
            .collect();
        let clogs: Vec<TcpStream> = clogs.into_iter().map(|clog| clog.join().unwrap()).collect();
        for (address, path) in servers {
            for _ in 0..5 {
                let (status, _) = ask_on(connect_from("127.0.0.2", address), address, path, &[]);
                assert_eq!(status, 200, "{address}{path}");
            }
        }
        clogs.into_iter().for_each(closed);
    });
    for (process, name) in [(&mut server, "serve"), (&mut run, "run"), (&mut collector, "collect")] {
        process.assert_alive(name);
        let held = process.resident_bytes();
        assert!(held < BASE_BYTES, "{name} holds {held} bytes");
    }
    for (address, path) in servers {
        assert_eq!(ask(address, path, &[]).0, 200, "{address}{path}");
    }
    for process in [server, run, collector] {
        stop(process);
    }
}

#[test]
fn heads_that_come_a_byte_at_a_time_stop_nobody() {
    let folder = TempDir::new().unwrap();
    let [(served, mut server), (watched, mut run), (collected, mut collector)] = all_three(&folder);
    let servers = [&served, &watched, &collected];
    let connect = |address: &&String| TcpStream::connect(address.as_str()).unwrap();
    let mut slow: Vec<TcpStream> =
        servers.iter().flat_map(|address| (0..MANY).map(move |_| connect(address))).collect();
    for byte in b"GET /healthz HTTP/1.1\r\nx: y" {
        slow.iter_mut().for_each(|stream| drop(stream.write(&[*byte])));
        for address in servers {
            assert_eq!(ask(address, "/healthz", &[]).0, 200, "{address}");
        }
    }
    // The servers let go of all of them, without an answer or with 408.
    for stream in &mut slow {
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
    for (process, name) in [(&mut server, "serve"), (&mut run, "run"), (&mut collector, "collect")] {
        process.assert_alive(name);
    }
    for process in [server, run, collector] {
        stop(process);
    }
}

#[test]
fn four_bytes_of_zstd_that_are_held_open_cost_four_bytes() {
    let folder = TempDir::new().unwrap();
    let (address, mut collector) = collector(&folder, &["--memory-budget", "16MiB"]);
    let head = "POST /v1/events HTTP/1.1\r\nhost: x\r\nx-api-key: one\r\ncontent-encoding: zstd\r\ncontent-length: 9000000\r\n\r\n";
    let held: Vec<TcpStream> = (0..33)
        .map(|_| {
            let mut stream = connect_from("127.0.0.1", &address);
            stream.write_all(&[head.as_bytes(), &[0x28, 0xb5, 0x2f, 0xfd]].concat()).unwrap();
            stream
        })
        .collect();
    assert!(collector.until(|_| ask(&address, "/metrics", &[]).1.contains("in_flight_bytes 135168\n")), "33 x 4 KiB");
    for (ip, key) in [("127.0.0.1", "one"), ("127.0.0.1", "two"), ("127.0.0.2", "one"), ("127.0.0.2", "two")] {
        assert_eq!(post_from(ip, &address, key), 200, "{ip} {key}");
    }
    assert!(collector.resident_bytes() < BASE_BYTES);
    drop(held);
    stop(collector);
}

#[test]
fn names_of_pages_of_a_megabyte_are_no_names() {
    const NAMES: usize = 400;
    let folder = TempDir::new().unwrap();
    let event = |id: usize, page: &str| {
        json!({"event_id": format!("e{id}"), "event_type": "page_view", "user_id": "u",
            "timestamp": 1_767_225_600_000_i64, "server_time": 1_767_225_600_000_i64, "properties": {"page": page}})
    };
    let long = "p".repeat(950_000);
    let (address, mut collector) = collector(&folder, &["--memory-budget", "64MiB"]);
    let batch = json!({"events": (0..10).map(|id| event(id, &long)).collect::<Vec<_>>()}).to_string();
    let packed = zstd::encode_all(batch.as_bytes(), 3).unwrap();
    for _ in 0..NAMES / 10 {
        let (status, answer) =
            post(connect_from("127.0.0.1", &address), "x-api-key: one\r\ncontent-encoding: zstd", &packed);
        assert_eq!(
            (status, answer.matches("\"status\":\"rejected\"").count()),
            (200, 10),
            "{}",
            &answer[..answer.len().min(500)]
        );
        assert!(collector.resident_bytes() < BASE_BYTES, "{}", collector.resident_bytes());
    }
    assert_eq!(post_from("127.0.0.1", &address, "two"), 200);
    collector.assert_alive("after all of them");
    stop(collector);

    // In files they become no rows either.
    let lines: String = (0..NAMES).map(|id| format!("{}\n", event(id, &long))).collect();
    let lines = lines + &format!("{}\n", event(NAMES, "/"));
    let out = folder.path().join("out");
    let done = tidemill().job(&[corpus::file(folder.path(), "long.ndjson", lines.as_bytes())], &out).finish();
    assert_eq!((&done["malformed"], &done["accepted"]), (&json!(NAMES), &json!(1)), "{done}");
    let served = free_address("127.0.0.1");
    let mut server = tidemill().start(&["serve", "--data", out.to_str().unwrap(), "--listen", &served]);
    ready(&mut server, &served);
    let (status, answer) = ask(&served, "/api/v1/top?by=page&metric=views&limit=1000", &[]);
    assert!(status == 200 && answer.len() < 1_000, "{status} {}", answer.len());
    assert!(server.resident_bytes() < BASE_BYTES);
    stop(server);
}
