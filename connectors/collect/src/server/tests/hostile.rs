use std::io::Write;
use std::time::Duration;

use super::client::{answer, try_answer};
use super::*;
use crate::body::tests::gzip;
use tidemill_http::ApiKeys;

#[test]
fn every_hostile_request_gets_its_status_and_harms_nobody_else() {
    let rig = Rig::start(|config| {
        config.keys = ApiKeys::from_list("KEYS", "right=shop").unwrap();
    });
    const JSON: (&str, &str) = ("content-type", "application/json");
    const KEY: (&str, &str) = ("x-api-key", "right");
    let good = batch(&["e"]).into_bytes();
    let nested = |depth: usize| format!("{{\"events\":[{}{}]}}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
    let unicode = [&b"{\"events\":[\""[..], &[0xff, 0xfe], b"\"]}"].concat();
    let many = format!("{{\"events\":[7{}]}}", ",7".repeat(2_500)).into_bytes();
    let half = gzip(&good)[..20].to_vec();
    let bomb = gzip(&vec![b' '; 200 << 20]);
    let large = vec![b' '; (10 << 20) + 1];
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], u16, &'a str);
    let cases: [Case<'_>; 18] = [
        ("no key", &[JSON], &good, 401, "X-API-Key"),
        ("wrong key", &[JSON, ("x-api-key", "wrong")], &good, 401, "wrong"),
        ("wrong bearer", &[JSON, ("authorization", "Bearer wrong")], &good, 401, "wrong"),
        ("basic", &[JSON, ("authorization", "Basic right")], &good, 401, "wrong"),
        ("form", &[KEY, ("content-type", "application/x-www-form-urlencoded")], &good, 415, "application/json"),
        ("brotli", &[KEY, JSON, ("content-encoding", "br")], &good, 415, "gzip"),
        ("two packings", &[KEY, JSON, ("content-encoding", "gzip, gzip")], &good, 415, "gzip"),
        ("no batch", &[KEY, JSON], b"", 400, "events"),
        ("empty batch", &[KEY, JSON], b"{\"events\":[]}", 400, "empty"),
        ("a list", &[KEY, JSON], b"[]", 400, "not a JSON object"),
        ("half a batch", &[KEY, JSON], &good[..good.len() / 2], 400, "not JSON"),
        ("deep", &[KEY, JSON], &nested(200), 400, "nested"),
        ("very deep", &[KEY, JSON], &nested(4_000_000), 400, "nested"),
        ("not UTF-8", &[KEY, JSON], &unicode, 400, "UTF-8"),
        ("half a gzip", &[KEY, JSON, ("content-encoding", "gzip")], &half, 400, "packed"),
        ("a bomb", &[KEY, JSON, ("content-encoding", "gzip")], &bomb, 413, "10485760 bytes"),
        ("too many events", &[KEY, JSON], &many, 413, "2500 events"),
        ("too long", &[KEY, JSON], &large, 413, "10485760 bytes"),
    ];
    for (name, headers, body, status, words) in cases {
        let answer = rig.post_with(headers, body);
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        answer.assert_refused(status, words);
    }
    assert_eq!(rig.request("GET", "/v1/events", &[KEY], b"").status, 405);
    rig.get("/v1/event").assert_refused(404, "/v1/events");
    for headers in [&[KEY, JSON][..], &[("authorization", "bearer right"), JSON]] {
        assert_eq!(rig.post_with(headers, &good).status, 200);
    }
    let packed = rig.post_with(&[KEY, JSON, ("content-encoding", "gzip")], &gzip(&good));
    assert_eq!(packed.status, 200, "{packed:?}");
    let zstd = zstd::encode_all(&good[..], 3).unwrap();
    assert_eq!(rig.post_with(&[KEY, JSON, ("content-encoding", "zstd")], &zstd).status, 200);
    assert_eq!(rig.log.synced().len(), 4);
    assert!(rig.collector.peak_memory() < 64 << 20);
    rig.stop();
}

#[test]
fn heads_that_are_too_large_or_no_http_are_refused() {
    let rig = Rig::start(|_| ());
    let long = format!("GET /healthz HTTP/1.1\r\nhost: test\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
    let many = format!("GET /healthz HTTP/1.1\r\nhost: test\r\n{}\r\n", "x: y\r\n".repeat(100));
    for (head, status) in [(long, 431), (many, 431), ("nonsense\r\n\r\n".to_owned(), 400)] {
        let mut stream = rig.connect();
        let _ = stream.write_all(head.as_bytes());
        assert_eq!(answer(&mut stream).status, status);
    }
    rig.stop();
}

#[test]
fn a_body_of_unknown_length_is_cut_off_at_the_limit() {
    let rig = Rig::start(|_| ());
    let mut stream = rig.connect();
    let head = b"POST /v1/events HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head).unwrap();
    let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
    while stream.write_all(&chunk).is_ok() {}
    // The refusal was sent before the connection was closed; whether it is still there to be read depends on the system.
    if let Some(answer) = try_answer(&mut stream) {
        answer.assert_refused(413, "10485760 bytes");
    }
    assert_eq!(rig.post(&batch(&["e"])).status, 200);
    let books = rig.stop();
    assert_eq!(books.answers[&413], 1);
}

#[test]
fn slow_heads_and_slow_bodies_are_not_waited_for() {
    let rig = Rig::start(|config| {
        config.limits.front.header_timeout = Duration::from_millis(200);
        config.limits.body_pause = Duration::from_millis(200);
    });
    let mut slow_head = rig.connect();
    slow_head.write_all(b"POST /v1/events HTTP/1.1\r\nhost: te").unwrap();
    let refused = answer(&mut slow_head);
    assert_eq!(refused.status, 408);
    refused.assert_refused(408, "head");

    let mut slow_body = rig.connect();
    slow_body.write_all(b"POST /v1/events HTTP/1.1\r\nhost: test\r\ncontent-length: 50\r\n\r\n{\"ev").unwrap();
    answer(&mut slow_body).assert_refused(408, "slowly");
    assert!(try_answer(&mut slow_body).is_none(), "and the connection is closed");

    let mut silent = rig.connect();
    assert!(try_answer(&mut silent).is_none(), "a connection on which nothing happens is closed without a word");
    rig.stop();
}

#[test]
fn a_body_that_trickles_for_ever_is_not_waited_for() {
    let rig = Rig::start(|config| {
        config.limits.body_pause = Duration::from_secs(60);
        config.limits.body_timeout = Duration::from_millis(300);
    });
    let mut too_long = rig.connect();
    too_long.write_all(b"POST /v1/events HTTP/1.1\r\nhost: test\r\ncontent-length: 100000000\r\n\r\n").unwrap();
    answer(&mut too_long).assert_refused(413, "10485760");
    let mut trickle = rig.connect();
    trickle.write_all(b"POST /v1/events HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\n").unwrap();
    trickle.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    // It is answered while it writes, or finds the connection closed.
    while trickle.write_all(b" ").is_ok() {
        if let Some(refused) = try_answer(&mut trickle) {
            refused.assert_refused(408, "slowly");
            break;
        }
    }
    let books = rig.stop();
    assert_eq!(books.answers[&408], 1);
}

#[test]
fn a_client_that_reads_no_answers_is_cut_off() {
    let rig = Rig::start(|config| config.limits.front.write_timeout = Duration::from_millis(200));
    let mut reader_of_nothing = rig.connect();
    let request = b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n".repeat(100);
    // Its requests fill every buffer on the way, and then its connection is gone.
    while reader_of_nothing.write_all(&request).is_ok() {}
    while !rig.get("/metrics").body.contains("tidemill_collector_connections 1\n") {}
    rig.stop();
}
