use std::io::Write;
use std::thread;

use super::client::{Answer, try_answer};
use super::*;

fn posting<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    rig: &'scope Rig,
    body: &'scope str,
) -> thread::ScopedJoinHandle<'scope, Answer> {
    scope.spawn(move || rig.post(body))
}

#[test]
fn a_queue_that_is_full_sends_clients_away_with_advice() {
    let rig = Rig::start(|config| config.limits.queue = 1);
    rig.log.hold();
    thread::scope(|scope| {
        let first = posting(scope, &rig, Box::leak(batch(&["a"]).into_boxed_str()));
        rig.log.until_waiting();
        let others = ["b", "c", "d"].map(|id| posting(scope, &rig, Box::leak(batch(&[id]).into_boxed_str())));
        // One of the three finds room in the queue; the other two are answered while the log still hangs.
        while others.iter().filter(|other| other.is_finished()).count() < 2 {
            thread::yield_now();
        }
        rig.log.release();
        let answers = others.map(|other| other.join().unwrap());
        assert_eq!(first.join().unwrap().status, 200);
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
        for refused in answers.iter().filter(|answer| answer.status != 200) {
            refused.assert_refused(503, "behind");
            assert_eq!(refused.headers["retry-after"], "1");
        }
    });
    assert_eq!(rig.log.synced().len(), 2);
    rig.stop();
}

#[test]
fn requests_share_one_memory_budget_and_give_it_back() {
    let limit = 8 << 20;
    let rig = Rig::start(|config| config.limits.memory = limit);
    let mut large = event("large");
    large["note"] = "x".repeat(1_000_000).into();
    let body: &str = Box::leak(json!({ "events": [large] }).to_string().into_boxed_str());
    rig.log.hold();
    thread::scope(|scope| {
        let posts: Vec<_> = (0..24).map(|_| posting(scope, &rig, body)).collect();
        // One address gets half, where no more than four lines of a megabyte have room; all others are answered while the
        // log still hangs.
        while posts.iter().filter(|post| post.is_finished()).count() < 16 {
            thread::yield_now();
        }
        rig.log.release();
        let answers: Vec<Answer> = posts.into_iter().map(|post| post.join().unwrap()).collect();
        let stored = answers.iter().filter(|answer| answer.status == 200).count();
        assert!(stored > 0);
        assert_eq!(stored, rig.log.synced().len());
        for refused in answers.iter().filter(|answer| answer.status != 200) {
            refused.assert_refused(503, "under way");
            assert_eq!(refused.headers["retry-after"], "1");
        }
    });
    assert!(rig.collector.peak_memory() <= limit);
    assert!(rig.get("/metrics").body.contains("tidemill_collector_in_flight_bytes 0\n"), "all of it is given back");
    assert_eq!(rig.post(body).status, 200);
    rig.stop();
}

#[test]
fn a_key_that_sends_too_much_waits_and_others_do_not() {
    let rig = Rig::start(|config| {
        config.keys = tidemill_http::ApiKeys::from_list("KEYS", "a=one,b=two").unwrap();
        config.rate_limit = Some(2);
    });
    let post = |key: &str| rig.post_with(&[("x-api-key", key)], batch(&["1", "2", "3"]).as_bytes());
    assert_eq!(post("a").status, 200);
    let refused = post("a");
    refused.assert_refused(429, "later");
    assert_eq!(refused.headers["retry-after"], "2");
    assert_eq!(post("b").status, 200);
    rig.clock.uptime_ms.store(1_000, Ordering::Relaxed);
    assert_eq!(post("a").status, 200);
    rig.stop();
}

#[test]
fn idle_connections_make_room_and_an_address_is_busy_on_half_of_them() {
    let rig = Rig::start(|config| config.limits.front.connections = 4);
    let idle: Vec<_> = (0..8).map(|_| rig.connect()).collect();
    let served = rig.connect_and_get().expect("idle connections stop nobody");
    assert_eq!(served.status, 200);
    drop(idle);
    let mut bodies = [rig.connect(), rig.connect()];
    for body in &mut bodies {
        body.write_all(b"POST /v1/events HTTP/1.1\r\nhost: test\r\ncontent-length: 50\r\n\r\n{").unwrap();
    }
    let turned_away = loop {
        // Until both heads were read.
        if let Some(answer) = rig.connect_and_get().filter(|answer| answer.status != 200) {
            break answer;
        }
        for body in &mut bodies {
            if body.write_all(b" ").is_err() {
                *body = rig.connect();
                body.write_all(b"POST /v1/events HTTP/1.1\r\nhost: test\r\ncontent-length: 50\r\n\r\n{").unwrap();
            }
        }
    };
    turned_away.assert_refused(503, "of this address");
    drop(bodies);
    while rig.connect_and_get().is_none_or(|answer| answer.status != 200) {}
    rig.stop();
}

impl Rig {
    fn connect_and_get(&self) -> Option<Answer> {
        let mut stream = self.connect();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").ok()?;
        try_answer(&mut stream)
    }
}
