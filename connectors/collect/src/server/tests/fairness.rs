//! Who holds much, or holds it for long, does not stop others.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;

use tidemill_http::{ApiKeys, Descriptors};

use super::client::try_answer;
use super::*;
use crate::body::tests::wide;

const ZSTD: (&str, &str) = ("content-encoding", "zstd");

fn shares(memory: u64) -> Rig {
    Rig::start(|config| {
        config.limits.memory = memory;
        config.keys = ApiKeys::from_list("KEYS", "hog=one,other=two").unwrap();
        config.trusted_proxies = crate::TrustedProxies::new(vec!["127.0.0.0/8".parse().unwrap()]);
    })
}

impl Rig {
    /// Begins a post that is never finished.
    fn begin(&self, headers: &str, sent: &[u8]) -> TcpStream {
        let mut stream = self.connect();
        let head = format!("POST /v1/events HTTP/1.1\r\nhost: test\r\n{headers}\r\n");
        stream.write_all(&[head.as_bytes(), sent].concat()).unwrap();
        stream
    }

    fn status_of(&self, key: &str, address: &str) -> u16 {
        self.post_with(&[("x-api-key", key), ("x-forwarded-for", address)], batch(&["e"]).as_bytes()).status
    }
}

#[test]
fn tiny_posts_that_are_held_open_cost_what_came_of_them_whatever_they_announce() {
    const OPEN: usize = 500;
    // Both ends of each are in this process.
    let _ = Descriptors::raised();
    let rig = shares(8 << 20);
    let announced = [wide(b"")[..6].to_vec(), zstd::encode_all(&b"{}"[..], 3).unwrap()[..6].to_vec()];
    let headers = "x-api-key: hog\r\ncontent-encoding: zstd\r\ntransfer-encoding: chunked\r\n";
    let chunk = |bytes: &[u8]| [b"6\r\n", bytes, b"\r\n"].concat();
    let open: Vec<TcpStream> = (0..OPEN).map(|number| rig.begin(headers, &chunk(&announced[number % 2]))).collect();
    let held = format!("tidemill_collector_in_flight_bytes {}\n", OPEN * 4_096);
    while !rig.get("/metrics").body.contains(&held) {}
    for key in ["hog", "other"] {
        assert_eq!(rig.status_of(key, "192.0.2.1"), 200);
        let packed = zstd::encode_all(batch(&["e"]).as_bytes(), 3).unwrap();
        assert_eq!(rig.post_with(&[("x-api-key", key), ZSTD], &packed).status, 200);
    }
    drop(open);
    rig.stop();
}

#[test]
fn a_frame_that_asks_for_the_largest_window_is_read_in_the_memory_of_its_text() {
    // An eighth of one such window.
    let rig = shares(1 << 20);
    for _ in 0..40 {
        let sent = wide(batch(&["e"]).as_bytes());
        assert_eq!(rig.post_with(&[("x-api-key", "hog"), ZSTD], &sent).status, 200);
    }
    assert!(rig.collector.peak_memory() < 64 << 10, "{}", rig.collector.peak_memory());
    rig.stop();
}

#[test]
fn who_holds_bodies_open_leaves_room_for_others() {
    // Of 12 half megabytes that are never finished, not all are let in: from one address half of the memory is, with one
    // key four fifths.
    for (many_addresses, others) in [
        (false, [("hog", "198.51.100.7"), ("other", "198.51.100.7")]),
        (true, [("other", "198.51.100.7"), ("other", "2001:db8::1")]),
    ] {
        let rig = shares(4 << 20);
        let open: Vec<TcpStream> = (0..12)
            .map(|number| {
                let address = if many_addresses { number } else { 0 };
                let headers =
                    format!("x-api-key: hog\r\nx-forwarded-for: 192.0.2.{address}\r\ncontent-length: 600000\r\n");
                rig.begin(&headers, &vec![b' '; 512 << 10])
            })
            .collect();
        thread::scope(|scope| {
            let answers: Vec<_> = open
                .iter()
                .map(|stream| {
                    let mut stream = stream.try_clone().unwrap();
                    scope.spawn(move || try_answer(&mut stream))
                })
                .collect();
            while answers.iter().filter(|answer| answer.is_finished()).count() < 5 {
                thread::yield_now();
            }
            for (key, address) in others {
                assert_eq!(rig.status_of(key, address), 200, "{key} {address}");
            }
            for stream in &open {
                // The end of those that still wait, and nothing to those that were answered.
                let _ = stream.shutdown(Shutdown::Both);
            }
            for refused in answers.into_iter().filter_map(|answer| answer.join().unwrap()) {
                refused.assert_refused(503, "under way");
            }
        });
        rig.stop();
    }
}
