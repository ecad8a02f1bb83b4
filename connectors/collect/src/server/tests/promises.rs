use std::fs;
use std::io::Write;
use std::thread;

use tidemill_connectors::events::Bounds;

use super::*;
use crate::geo;

#[test]
fn what_is_answered_with_ok_is_stored_with_the_servers_fields() {
    let rig = Rig::start(|_| ());
    let mut sent = event("e1");
    sent["ip"] = "203.0.113.9".into();
    sent["tenant"] = "theirs".into();
    sent["server_time"] = 1.into();
    sent["geo"] = json!({"country": "XX"});
    sent["build"] = 17.into();
    let answer = rig.post(&json!({ "events": [sent, 7, event("e2")] }).to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    let results = json!([
        {"event_id": "e1", "status": "ok"},
        {"event_id": null, "status": "rejected", "reason": "not a JSON object"},
        {"event_id": "e2", "status": "ok"},
    ]);
    assert_eq!(answer.json(), json!({"accepted": 2, "rejected": 1, "results": results}));

    let mut synced = rig.log.synced();
    synced.sort_by(|one, other| one.value.cmp(&other.value));
    let stored: Value = serde_json::from_str(&synced[0].value).unwrap();
    let ip = stored["ip"].as_str().unwrap();
    assert!(ip.len() == 16 && ip.bytes().all(|byte| byte.is_ascii_hexdigit()), "{ip}");
    let mut expected = event("e1");
    expected["build"] = 17.into();
    expected["server_time"] = NOW.into();
    expected["ip"] = ip.into();
    expected["tenant"] = "default".into();
    assert_eq!(stored, expected);
    assert_eq!((synced[0].topic, &*synced[0].key), ("events.page_view", "user of e1"));
    assert_eq!(synced[0].time_ms, NOW);
    let books = rig.stop();
    assert_eq!((books.requests, books.accepted, books.rejected), (1, 2, 1));
    assert_eq!(books.rejected_by_reason["not_an_object"], 1);
    assert_eq!(books.to_string(), "1 requests, 2 events accepted, 1 rejected (not_an_object 1)");
}

#[test]
fn what_is_no_time_or_too_much_is_rejected_in_the_words_of_a_dead_letter() {
    let rig = Rig::start(|_| ());
    let at = |time: Value| {
        let mut event = event("e");
        event["timestamp"] = time;
        event.to_string()
    };
    let paid = |cents: i64| {
        let mut event = event("e");
        event["event_type"] = "purchase".into();
        event["properties"] = json!({"amount_cents": cents, "currency": "EUR"});
        event.to_string()
    };
    let older = "is before 2000-01-01; --oldest 1970-01-01 takes older ones";
    let cases = [
        (at(json!("2026-03-10T10:00:00.250+01:00")), None),
        (at(json!(1_773_136_800)), Some("timestamp 1773136800 looks like seconds; milliseconds are needed".to_owned())),
        (at(json!(60_000)), Some(format!("timestamp 60000 {older}"))),
        (at(json!("1999-12-31T23:59:59Z")), Some(format!("timestamp 1999-12-31T23:59:59.000Z {older}"))),
        (at(json!(253_402_300_740_000_i64)), Some("timestamp 253402300740000 is after 2200-01-01".to_owned())),
        (paid(1_000_000_000_000_000), None),
        (paid(i64::MAX), Some(format!("properties.amount_cents {} is beyond 10^15 cents", i64::MAX))),
        (event("e").to_string().replace("user of e", r"cut \ud83d"), None),
    ];
    let events: Vec<&str> = cases.iter().map(|(event, _)| &**event).collect();
    let answer = rig.post(&format!("{{\"events\":[{}]}}", events.join(","))).json();
    for (result, (event, reason)) in answer["results"].as_array().unwrap().iter().zip(&cases) {
        assert_eq!(result.get("reason").and_then(Value::as_str), reason.as_deref(), "{event}: {result}");
    }
    let stored: Vec<Value> = rig.log.synced().iter().map(|line| serde_json::from_str(&line.value).unwrap()).collect();
    assert_eq!(stored.len(), 3);
    assert!(stored.iter().any(|event| event["user_id"] == "cut \u{fffd}"), "{stored:?}");
    rig.stop();

    let old = Rig::start(|config| config.bounds = Bounds::since("1970-01-01".parse().unwrap()));
    assert_eq!(old.post(&format!("{{\"events\":[{}]}}", at(json!(60_000)))).json()["accepted"], 1);
    old.stop();
}

#[test]
fn events_go_to_the_topic_of_their_type_and_the_partition_of_their_user() {
    let rig = Rig::start(|_| ());
    let kinds = ["page_view", "click", "purchase", "error", "scroll", "events.page_view"];
    let events: Vec<Value> = kinds
        .iter()
        .flat_map(|kind| (0..20).map(move |user| (kind, user)))
        .map(|(kind, user)| {
            let properties = json!({"page": "/", "amount_cents": 5, "currency": "EUR"});
            json!({"event_id": format!("{kind}/{user}"), "event_type": kind, "user_id": format!("u{user}"),
                "timestamp": NOW, "properties": properties})
        })
        .collect();
    assert_eq!(rig.post(&json!({ "events": events }).to_string()).json()["accepted"], 120);
    let synced = rig.log.synced();
    for stored in &synced {
        let line: Value = serde_json::from_str(&stored.value).unwrap();
        let expected = match line["event_type"].as_str().unwrap() {
            known @ ("page_view" | "click" | "purchase" | "error") => format!("events.{known}"),
            _ => "events.other".to_owned(),
        };
        assert_eq!(stored.topic, expected);
        let same_user = synced.iter().filter(|other| other.key == stored.key);
        assert!(same_user.into_iter().all(|other| other.partition == stored.partition), "a user has one partition");
    }
    assert!((0..2).all(|partition| synced.iter().any(|stored| stored.partition == partition)));
    rig.stop();
}

#[test]
fn nothing_is_acknowledged_before_it_is_synced_and_many_share_a_sync() {
    let rig = Rig::start(|_| ());
    rig.log.hold();
    thread::scope(|scope| {
        let first = scope.spawn(|| rig.post(&batch(&["first"])));
        rig.log.until_waiting();
        assert!(!first.is_finished(), "it is appended and not synced");
        let others: Vec<_> = (0..8)
            .map(|number| {
                let rig = &rig;
                scope.spawn(move || rig.post(&batch(&[&format!("other {number}")])))
            })
            .collect();
        // All of them wait in the queue, each with memory of its own.
        while rig.get("/metrics").body.matches("tidemill_collector_connections 10\n").count() == 0 {}
        assert!(others.iter().all(|other| !other.is_finished()));
        rig.log.release();
        assert!(others.into_iter().chain([first]).all(|post| post.join().unwrap().status == 200));
    });
    assert_eq!(rig.log.synced().len(), 9);
    assert!(rig.log.syncs() <= 9);
    rig.stop();
}

#[test]
fn a_log_that_fails_is_opened_anew_and_clients_come_again() {
    let log = MemoryLog::default();
    let rig = Rig::on(log.clone(), |_| ());
    log.fail(1, 2);
    let refused = rig.post(&batch(&["e1"]));
    refused.assert_refused(503, "same event ids");
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(log.synced().is_empty());
    // Until the log is open again nobody is promised anything; what was refused is sent again until it is taken.
    let mut refusals = 0;
    while rig.post(&batch(&["e1"])).status != 200 {
        refusals += 1;
    }
    assert_eq!(rig.get("/readyz").status, 200);
    assert_eq!(log.synced().len(), 1);
    let books = rig.stop();
    assert_eq!((books.log_failures, books.answers[&503]), (1, refusals + 1));
    assert_eq!(books.accepted, 1, "what was not acknowledged is not in the books");
}

#[test]
fn a_collector_without_its_log_is_alive_and_not_ready() {
    let log = MemoryLog::default();
    let rig = Rig::on(log.clone(), |_| ());
    assert_eq!(rig.get("/readyz").status, 200);
    log.fail(1, u32::MAX);
    rig.post(&batch(&["e1"])).assert_refused(503, "");
    assert_eq!((rig.get("/readyz").status, rig.get("/healthz").status), (503, 200));
    rig.post(&batch(&["e1"])).assert_refused(503, "takes no events now");
    assert!(rig.get("/metrics").body.contains("tidemill_collector_ready 0\n"));
    rig.stop();
}

#[test]
fn a_stop_finishes_what_is_under_way() {
    let rig = Rig::start(|_| ());
    rig.log.hold();
    let books = thread::scope(|scope| {
        let under_way = {
            let (address, body) = (rig.collector.address(), batch(&["e1"]));
            scope.spawn(move || post_to(address, &body))
        };
        rig.log.until_waiting();
        rig.collector.stop_handle().stop();
        while std::net::TcpStream::connect(rig.collector.address()).is_ok() {
            thread::yield_now();
        }
        rig.log.release();
        assert_eq!(under_way.join().unwrap(), 200);
        rig.stop()
    });
    assert_eq!((books.requests, books.accepted), (1, 1));
}

fn post_to(address: std::net::SocketAddr, body: &str) -> u16 {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let head = format!("POST /v1/events HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    client::answer(&mut stream).status
}

#[test]
fn browsers_may_post_and_beacons_need_no_preflight() {
    let rig = Rig::start(|config| {
        config.keys = tidemill_http::ApiKeys::from_list("KEYS", "pub=shop").unwrap();
        config.allow_origin = "https://shop.example".into();
    });
    let preflight = [
        ("origin", "https://shop.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type,x-api-key"),
    ];
    let allowed = rig.request("OPTIONS", "/v1/events", &preflight, b"");
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.headers["access-control-allow-origin"], "https://shop.example");
    assert_eq!(allowed.headers["access-control-allow-methods"], "POST");
    assert!(allowed.headers["access-control-allow-headers"].contains("x-api-key"));

    let beacon = [("content-type", "text/plain;charset=UTF-8"), ("origin", "https://shop.example")];
    let body = keys::keyed("pub", &["e1"]);
    rig.request("POST", "/v1/events?v=1&key=pub", &beacon, body.as_bytes()).assert_refused(400, "`api_key` beside");
    let sent = rig.request("POST", "/v1/events?v=1", &beacon, body.as_bytes());
    assert_eq!(sent.status, 200, "{sent:?}");
    assert_eq!(sent.headers["access-control-allow-origin"], "https://shop.example");
    let stored: Value = serde_json::from_str(&rig.log.synced()[0].value).unwrap();
    assert_eq!(stored["tenant"], "shop");
    rig.stop();
}

#[test]
fn an_address_becomes_a_place_and_a_hash_and_stands_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let places = folder.path().join("city.mmdb");
    fs::write(&places, geo::tests::database([81, 2, 69], "GB", "London")).unwrap();
    let rig = Rig::start(|config| {
        config.geo = Some(places);
        config.trusted_proxies = crate::TrustedProxies::new(vec!["127.0.0.0/8".parse().unwrap()]);
    });
    let post = |forwarded: &str, id: &str| {
        let answer = rig.post_with(&[("x-forwarded-for", forwarded)], batch(&[id]).as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    post("81.2.69.160", "e1");
    post("192.0.2.7, 81.2.69.160, 127.0.0.1", "e2");
    post("192.0.2.7", "e3");
    rig.clock.now_ms.store(NOW + 86_400_000, Ordering::Relaxed);
    post("192.0.2.7", "e4");
    let synced = rig.log.synced();
    let lines: Vec<Value> = synced.iter().map(|stored| serde_json::from_str(&stored.value).unwrap()).collect();
    assert_eq!(lines[0]["geo"], json!({"country": "GB", "city": "London"}));
    assert_eq!((&lines[1]["geo"], &lines[1]["ip"]), (&lines[0]["geo"], &lines[0]["ip"]));
    assert_eq!(lines[2].get("geo"), None, "where the database knows nothing, nothing is said");
    assert_ne!(lines[2]["ip"], lines[0]["ip"]);
    assert_ne!(lines[3]["ip"], lines[2]["ip"], "on another day an address has another hash");
    assert!(synced.iter().all(|stored| !stored.value.contains("81.2.69") && !stored.value.contains("192.0.2")));
    rig.stop();
}

#[test]
fn counters_have_names_and_units_as_prometheus_wants_them() {
    let rig = Rig::start(|_| ());
    rig.post(&json!({ "events": [event("e1"), {}] }).to_string());
    let metrics = rig.get("/metrics");
    assert!(metrics.headers["content-type"].starts_with("application/openmetrics-text"));
    for line in [
        "tidemill_collector_events_total{result=\"accepted\"} 1",
        "tidemill_collector_events_total{result=\"rejected\"} 1",
        "tidemill_collector_rejected_events_total{reason=\"event_id\"} 1",
        "tidemill_collector_rejected_events_total{reason=\"forbidden_id\"} 0",
        "tidemill_collector_requests_total{code=\"200\"} 1",
        "tidemill_collector_request_seconds_count 1",
        "tidemill_collector_commit_seconds_count 1",
        "tidemill_collector_ready 1",
    ] {
        assert!(metrics.body.lines().any(|found| found == line), "{line} is not in {}", metrics.body);
    }
    rig.stop();
}
