//! The client and the decoder against a real registry, at `SCHEMA_REGISTRY_URL`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tidemill_registry::{
    AvroEvents, Compatibility, CompatibilityLevel, EVENT_V1, EVENT_V2, ErrorKind, Registry, RegistryError, Schema,
    encode,
};

fn address() -> String {
    std::env::var("SCHEMA_REGISTRY_URL")
        .expect("SCHEMA_REGISTRY_URL must name a schema registry: run `make services`, then source the file it names")
}

fn registry() -> Arc<Registry> {
    Arc::new(Registry::new(&address(), None).unwrap())
}

fn new_subject(registry: &Registry) -> String {
    let subject = format!("events.it-{:016x}-value", rand::random_range(0..u64::MAX));
    registry.set_compatibility(&subject, CompatibilityLevel::Backward).unwrap();
    subject
}

fn event(n: i64) -> Value {
    json!({
        "event_id": format!("e{n}"), "event_type": "page_view", "user_id": "u1", "session_id": "s1",
        "timestamp": 1_772_323_199_916 + n, "client_time": "2026-02-28T23:59:59.916",
        "properties": {"page": "/日本語/ガイド", "load_ms": 228, "tags": ["a", null, {"b": 1.5}]},
        "context": {"app_version": "4.12.0", "os": "Android 13"}, "server_time": 1_772_323_200_002_i64,
        "ip": "71c81bc9", "geo": {"country": "IN", "city": "Mumbai"}, "tenant": "acme",
    })
}

fn decoded(events: &AvroEvents, message: &[u8]) -> Value {
    events.prepare(message).unwrap();
    let mut line = Vec::new();
    events.to_json(message, &mut line).unwrap();
    serde_json::from_slice(&line).unwrap()
}

/// Subject with version 1 and, after it, version 2; the two ids.
fn evolved(registry: &Registry) -> (String, i32, i32) {
    let subject = new_subject(registry);
    let first = registry.register(&subject, EVENT_V1).unwrap();
    assert_eq!(registry.check(&subject, EVENT_V2).unwrap(), Compatibility::Compatible);
    let second = registry.register(&subject, EVENT_V2).unwrap();
    (subject, first, second)
}

#[test]
fn events_of_both_versions_are_read_as_they_were_written() {
    let registry = registry();
    let (subject, first, second) = evolved(&registry);
    assert_ne!(first, second);
    assert_eq!(registry.register(&subject, EVENT_V2).unwrap(), second, "registering again changes nothing");
    let latest = registry.latest(&subject).unwrap().unwrap();
    assert_eq!((latest.id, latest.version), (second, 2));
    assert!(registry.subjects().unwrap().contains(&subject));

    let events = AvroEvents::new(Arc::clone(&registry));
    let older = event(1);
    let mut newer = event(2);
    newer["sdk"] = json!({"name": "web", "build": [7, 1]});
    let by_id = |id| registry.schema(id).unwrap();
    let written = [
        (encode(&by_id(first), first, &older).unwrap(), &older),
        (encode(&by_id(second), second, &older).unwrap(), &older),
        (encode(&by_id(second), second, &newer).unwrap(), &newer),
    ];
    for (message, event) in &written {
        assert_eq!(&decoded(&events, message), *event);
    }
    assert!(encode(&by_id(first), first, &newer).is_err(), "version 1 has no place for sdk");
}

#[test]
fn an_incompatible_change_is_refused_with_the_reason_in_words() {
    let registry = registry();
    let (subject, _, second) = evolved(&registry);
    let mut required: Value = serde_json::from_str(EVENT_V2).unwrap();
    required["fields"].as_array_mut().unwrap().push(json!({"name": "consent", "type": "string"}));
    let required = required.to_string();

    let Err(RegistryError::Incompatible { subject: named, reasons }) = registry.register(&subject, &required) else {
        panic!("a new member without a default cannot be read from old events");
    };
    assert_eq!(named, subject);
    let words = reasons.join("\n");
    assert!(words.contains("'consent'") && words.contains("default value"), "{words}");
    let Compatibility::Incompatible(checked) = registry.check(&subject, &required).unwrap() else {
        panic!("the check says what registering says");
    };
    assert!(checked.join("\n").contains("'consent'"));

    let retyped = EVENT_V2.replace(r#""name": "user_id", "type": "string""#, r#""name": "user_id", "type": "long""#);
    let error = registry.register(&subject, &retyped).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert!(error.to_string().contains(&subject) && error.to_string().contains("'user_id'"), "{error}");
    assert_eq!(registry.latest(&subject).unwrap().unwrap().id, second, "nothing was registered");
}

#[test]
fn what_is_no_schema_is_refused() {
    let registry = registry();
    let subject = new_subject(&registry);
    let error = registry.register(&subject, r#"{"type": "nope"}"#).unwrap_err();
    assert!(matches!(error, RegistryError::Invalid { .. }), "{error}");
    assert_eq!(registry.latest(&subject).unwrap(), None);
}

#[test]
fn an_unknown_id_may_come_and_a_wrong_base_is_fatal() {
    let registry = registry();
    let message = encode(&Schema::parse_str(EVENT_V1).unwrap(), i32::MAX, &event(1)).unwrap();
    let events = AvroEvents::new(Arc::clone(&registry));
    let error = events.prepare(&message).unwrap_err();
    assert!(matches!(error, RegistryError::UnknownSchema { id: i32::MAX }), "{error}");
    let reason = events.to_json(&message, &mut Vec::new()).unwrap_err();
    assert_eq!(reason, format!("schema id {} is not in the registry", i32::MAX));

    let elsewhere = Arc::new(Registry::new(&format!("{}/elsewhere", address()), None).unwrap());
    let wrong = AvroEvents::new(elsewhere).prepare(&message).unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Fatal, "{wrong}");
}

#[test]
fn a_known_schema_outlives_its_registry() {
    let direct = registry();
    let (_, first, second) = evolved(&direct);
    let relay = Relay::start();
    let relayed = Arc::new(Registry::new(&relay.url, None).unwrap());
    let events = AvroEvents::new(Arc::clone(&relayed));
    let message = |id| encode(&direct.schema(id).unwrap(), id, &event(1)).unwrap();
    assert_eq!(decoded(&events, &message(first)), event(1));

    relay.cut();
    assert_eq!(decoded(&events, &message(first)), event(1));
    assert!(Arc::ptr_eq(&relayed.schema(first).unwrap(), &relayed.schema(first).unwrap()));
    assert!(events.prepare(&message(second)).unwrap_err().is_retryable());
}

/// A door to the real registry that can be shut.
struct Relay {
    url: String,
    port: std::net::SocketAddr,
    open: Arc<Mutex<Option<Vec<TcpStream>>>>,
    door: thread::JoinHandle<()>,
}

impl Relay {
    fn start() -> Self {
        let address = address();
        let rest = address.strip_prefix("http://").expect("the local registry speaks http");
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap();
        let open = Arc::new(Mutex::new(Some(Vec::new())));
        let (host, url, behind_door) = (host.to_owned(), format!("http://{port}/{path}"), Arc::clone(&open));
        let door = thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                let mut connections = behind_door.lock().unwrap();
                let Some(connections) = connections.as_mut() else { return };
                let far = TcpStream::connect(&host).unwrap();
                connections.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
                for (mut from, mut to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    thread::spawn(move || io::copy(&mut from, &mut to));
                }
            }
        });
        Self { url, port, open, door }
    }

    /// Closes the port and all connections through it.
    fn cut(self) {
        for connection in self.open.lock().unwrap().take().unwrap() {
            // A connection that its other end has closed before is as closed as it should be.
            let _ = connection.shutdown(Shutdown::Both);
        }
        // The door sees that it is shut when somebody knocks.
        drop(TcpStream::connect(self.port).unwrap());
        self.door.join().unwrap();
    }
}
