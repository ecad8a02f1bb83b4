//! Whose keys are taken, and where they may stand.

use std::io::Write;

use tidemill_http::ApiKeys;

use super::client::answer;
use super::*;
use crate::CollectError;
use crate::body::tests::gzip;

/// A batch that holds its key.
pub(super) fn keyed(key: &str, ids: &[&str]) -> String {
    json!({ "api_key": key, "events": ids.iter().map(|id| event(id)).collect::<Vec<_>>() }).to_string()
}

/// The same, filled up to so many bytes.
fn keyed_of(bytes: usize) -> String {
    let body = keyed("right", &["e"]);
    let filling = " ".repeat(bytes - body.len());
    format!("{body}{filling}")
}

#[test]
fn a_key_in_the_body_counts_where_no_header_has_one_and_the_body_is_as_small_as_a_beacon() {
    let rig = Rig::start(|config| config.keys = ApiKeys::from_list("KEYS", "right=shop").unwrap());
    const WRONG: (&str, &str) = ("x-api-key", "wrong");
    const GZIP: (&str, &str) = ("content-encoding", "gzip");
    let packed = gzip(keyed("right", &["e1"]).as_bytes());
    for (headers, body) in
        [(&[][..], keyed("right", &["e0"]).into_bytes()), (&[GZIP], packed), (&[], keyed_of(64 << 10).into_bytes())]
    {
        let taken = rig.post_with(headers, &body);
        assert_eq!(taken.status, 200, "{taken:?}");
    }
    let number = keyed("right", &["e"]).replace("\"right\"", "7");
    let twice = keyed("right", &["e"]).replacen('{', "{\"api_key\":\"right\",", 1);
    for (name, headers, body) in [
        ("a wrong key", &[][..], keyed("wrong", &["e"]).into_bytes()),
        ("no text", &[], number.into_bytes()),
        ("two keys", &[], twice.into_bytes()),
        ("no JSON", &[], b"right".to_vec()),
        ("nothing", &[], Vec::new()),
        ("another header", &[WRONG], keyed("right", &["e"]).into_bytes()),
        ("too long", &[], keyed_of((64 << 10) + 1).into_bytes()),
        ("too long when unpacked", &[GZIP], gzip(keyed_of(1 << 20).as_bytes())),
    ] {
        let refused = rig.post_with(headers, &body);
        assert_eq!(refused.status, 401, "{name}: {refused:?}");
        refused.assert_refused(401, "`api_key` beside `events`");
    }
    let mut waiting = rig.connect();
    waiting
        .write_all(b"POST /v1/events HTTP/1.1\r\nhost: test\r\nx-api-key: wrong\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n")
        .unwrap();
    answer(&mut waiting).assert_refused(401, "wrong");
    let stored = rig.log.synced();
    assert_eq!(stored.len(), 3);
    assert!(stored.iter().all(|line| line.value.contains("\"tenant\":\"shop\"") && !line.value.contains("right")));
    rig.stop();
}

#[test]
fn whoever_may_send_without_a_key_may_send_one_all_the_same() {
    let rig = Rig::start(|_| ());
    assert_eq!(rig.post(&keyed("any", &["e1"])).status, 200);
    assert_eq!(rig.post_with(&[("x-api-key", "any")], batch(&["e2"]).as_bytes()).status, 200);
    assert!(rig.log.synced().iter().all(|line| line.value.contains("\"tenant\":\"default\"")));
    rig.stop();
}

#[test]
fn keys_come_and_go_with_their_lines_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let line = |key: &str| ApiKeys::line(key, "shop").unwrap();
    std::fs::write(&file, line("old")).unwrap();
    let rig = Rig::start(|config| config.keys = ApiKeys::from_file(&file).unwrap());
    let status = |key: &str| rig.post_with(&[("x-api-key", key)], batch(&["e"]).as_bytes()).status;
    assert_eq!((status("old"), status("new")), (200, 401));
    std::fs::write(&file, format!("{}\n{}\n", line("old"), line("new"))).unwrap();
    while status("new") != 200 {}
    std::fs::write(&file, line("new")).unwrap();
    while status("old") != 401 {}
    // A key for all tenants is none of a sender's, also when it comes late.
    let readers = ApiKeys::line("reader", "*").unwrap();
    std::fs::write(&file, format!("{}\n{}\n{readers}\n", line("new"), line("late"))).unwrap();
    while status("late") != 200 {}
    assert_eq!(status("reader"), 401);
    rig.stop();
}

#[test]
fn a_key_for_all_tenants_starts_no_collector() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = CollectConfig::new("127.0.0.1:0".parse().unwrap(), folder.path().join("salts"), 2);
    config.keys = ApiKeys::from_list("KEYS", "a=one,b=*").unwrap();
    let clock = Arc::new(Clock { now_ms: NOW.into(), uptime_ms: 0.into() });
    let refused = Collector::start(&config, Box::new(MemoryLog::default()), clock).err();
    assert!(matches!(&refused, Some(CollectError::Usage(why)) if why.contains("one tenant")), "{refused:?}");
}
