use apache_avro::Schema;
use serde_json::json;

use super::*;
use crate::scripted_server::ScriptedServer;
use crate::{EVENT_V1, encode};

const ABSENT: &str = r#"{"error_code": 40403, "message": "Schema not found"}"#;

fn events(server: &ScriptedServer) -> AvroEvents {
    AvroEvents::new(Arc::new(Registry::new(&server.url, None).unwrap()))
}

fn framed(id: i32) -> Vec<u8> {
    let event = json!({"event_id": "e", "event_type": "t", "user_id": "u", "timestamp": 5});
    encode(&Schema::parse_str(EVENT_V1).unwrap(), id, &event).unwrap()
}

fn reason(events: &AvroEvents, message: &[u8]) -> String {
    events.to_json(message, &mut Vec::new()).unwrap_err()
}

#[test]
fn an_id_that_the_registry_lacks_is_asked_for_again_and_read_once_it_is_there() {
    let server = ScriptedServer::start(&[("GET /schemas/ids/17", 404, ABSENT)]);
    let late = events(&server);
    for _ in 0..2 {
        assert!(matches!(late.prepare(&framed(17)), Err(RegistryError::UnknownSchema { id: 17 })));
    }
    assert_eq!(reason(&late, &framed(17)), "schema id 17 is not in the registry");
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_schema_of_no_events_makes_messages_malformed() {
    let server = ScriptedServer::start(&[
        ("GET /schemas/ids/1", 200, r#"{"schema": "\"string\""}"#),
        ("GET /schemas/ids/2", 200, r#"{"schema": "{}", "schemaType": "JSON"}"#),
    ]);
    let events = events(&server);
    for id in [1, 2] {
        assert!(matches!(events.prepare(&framed(id)), Ok(Prepared::Unusable(why)) if why.contains("cannot be read")));
        assert_eq!(events.prepare(&framed(id)).unwrap(), Prepared::Known, "it is said once");
    }
    assert!(reason(&events, &framed(1)).starts_with("schema id 1 cannot be read: its outermost type"));
    assert!(reason(&events, &framed(2)).starts_with("schema id 2 cannot be read: it is JSON"));
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn an_outage_is_told_apart_from_an_unknown_id_and_not_remembered() {
    let server = ScriptedServer::start(&[("GET /schemas/ids/1", 503, "")]);
    let events = events(&server);
    assert!(events.prepare(&framed(1)).unwrap_err().is_retryable());
    assert!(events.prepare(&framed(1)).unwrap_err().is_retryable());
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn what_is_not_framed_is_malformed_without_a_question() {
    let server = ScriptedServer::start(&[]);
    let events = events(&server);
    for message in [&b""[..], b"{\"a\":1}", b"\0\0\0\0", b"\x01\0\0\0\x07x"] {
        assert_eq!(schema_id(message), None);
        events.prepare(message).unwrap();
        assert_eq!(reason(&events, message), "the message is not Avro in Confluent framing");
    }
    assert!(server.asked().is_empty());
}

#[test]
fn invented_ids_are_not_remembered() {
    let server = ScriptedServer::start(&[]);
    let events = events(&server);
    // Negative ids are refused without a question, so that this takes no time.
    for id in i32::MIN..i32::MIN + 100 {
        assert!(events.prepare(&framed_as(id)).is_err());
        assert_eq!(reason(&events, &framed_as(id)), format!("schema id {id} is not in the registry"));
    }
    assert!(events.found.read().unwrap().is_empty() && events.asked.answers.lock().unwrap().is_empty());
}

#[test]
fn a_registry_that_hangs_holds_nobody_up_and_its_answer_is_taken_when_it_comes() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let events = AvroEvents::new(Arc::new(Registry::new(&url, None).unwrap()));
    let error = events.prepare(&framed(3)).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("no answer within 2s"), "{error}");
    assert!(events.prepare(&framed(3)).is_err());
    assert_eq!(events.asked.answers.lock().unwrap().len(), 1, "one question is under way");
}

fn framed_as(id: i32) -> [u8; 5] {
    let mut message = [0; 5];
    message[1..].copy_from_slice(&id.to_be_bytes());
    message
}
