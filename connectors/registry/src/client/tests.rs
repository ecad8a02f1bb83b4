use super::*;
use crate::error::ErrorKind;
use crate::scripted_server::ScriptedServer;

const NOTHING: &str = r#"{"schema": "\"null\""}"#;
const ABSENT: &str = r#"{"error_code": 40403, "message": "Schema not found"}"#;
const NO_SUBJECT_YET: &str = r#"{"error_code": 40401, "message": "Subject not found"}"#;

fn registry(server: &ScriptedServer) -> Registry {
    Registry::new(&server.url, None).unwrap()
}

#[test]
fn a_schema_is_asked_for_once() {
    let server = ScriptedServer::start(&[("GET /base/schemas/ids/3", 200, NOTHING)]);
    let registry = Registry::new(&format!("{}/base/", server.url), None).unwrap();
    let first = registry.schema(3).unwrap();
    assert!(Arc::ptr_eq(&first, &registry.schema(3).unwrap()));
    assert_eq!(server.asked(), ["GET /base/schemas/ids/3"]);
}

#[test]
fn credentials_are_shown_to_the_registry_and_to_nobody_else() {
    let server = ScriptedServer::start(&[("GET /subjects", 200, "[]")]);
    let credentials = Credentials { user: "ann".into(), password: "s3cret".into() };
    let registry = Registry::new(&server.url, Some(&credentials)).unwrap();
    assert!(registry.subjects().unwrap().is_empty());
    assert_eq!(server.asked(), ["GET /subjects Basic YW5uOnMzY3JldA=="]);
    assert!(!format!("{credentials:?} {registry:?}").contains("s3cret"));
}

#[test]
fn an_address_that_cannot_work_is_refused_at_once() {
    for (url, problem) in [
        ("localhost:8081", "begin"),
        ("ftp://host", "begin"),
        ("", "parsed"),
        ("http://a b", "parsed"),
        ("http://host/base?x=1", "path"),
        ("http://ann:s3cret@host", "password"),
    ] {
        let error = Registry::new(url, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fatal);
        assert!(error.to_string().contains(problem) && !error.to_string().contains("s3cret"), "{error}");
    }
}

#[test]
fn errors_say_whether_waiting_helps() {
    let server = ScriptedServer::start(&[
        ("GET /schemas/ids/1", 404, ABSENT),
        ("GET /schemas/ids/2", 503, ""),
        ("GET /schemas/ids/3", 429, r#"{"error_code": 429, "message": "too many"}"#),
        ("GET /schemas/ids/4", 401, ""),
        ("GET /schemas/ids/5", 200, "<html>"),
        ("GET /schemas/ids/6", 200, r#"{"schema": "{}", "schemaType": "PROTOBUF"}"#),
        ("GET /schemas/ids/7", 200, r#"{"schema": "{\"type\": \"nope\"}"}"#),
        ("GET /schemas/ids/8", 200, r#"{"schema": "\"null\"", "references": [{"name": "a"}]}"#),
        ("GET /schemas/ids/9", 400, r#"{"error_code": 400, "message": "no"}"#),
    ]);
    let registry = registry(&server);
    let check = |id, kind, words: &str| {
        let error = registry.schema(id).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.is_retryable(), kind == ErrorKind::Retryable);
        assert!(error.to_string().contains(words), "{error}");
    };
    check(1, ErrorKind::Rejected, "schema id 1 is not in the registry");
    check(-1, ErrorKind::Rejected, "schema id -1 is not in the registry");
    check(2, ErrorKind::Retryable, "status 503");
    check(3, ErrorKind::Retryable, "too many");
    check(4, ErrorKind::Fatal, "check its user, password and rights");
    check(5, ErrorKind::Fatal, "does not answer like a schema registry");
    check(6, ErrorKind::Rejected, "it is PROTOBUF, not AVRO");
    check(7, ErrorKind::Rejected, "schema id 7 cannot be read");
    check(8, ErrorKind::Rejected, "refers to schemas of other subjects");
    check(9, ErrorKind::Fatal, "status 400: no");
    // A 404 without the API's code comes from a server that is no registry, or from a wrong path on one.
    check(10, ErrorKind::Fatal, "is the base of its Confluent-compatible API right?");
    assert!(!server.asked().iter().any(|line| line.contains("-1")));
}

#[test]
fn a_closed_port_is_waited_for() {
    let url = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let error = Registry::new(&url, None).unwrap().schema(1).unwrap_err();
    assert!(error.is_retryable());
    assert!(error.to_string().contains(&url), "{error}");
}

#[test]
fn an_answer_that_breaks_off_is_waited_for() {
    for part in ["", "HTTP/1.1 200 OK\r\ncont", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"schema\": \"\\\"nu"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            std::io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
            std::io::Write::write_all(&mut stream, part.as_bytes()).unwrap();
        });
        let error = Registry::new(&url, None).unwrap().schema(1).unwrap_err();
        assert!(error.is_retryable(), "after {part:?}: {error}");
        server.join().unwrap();
    }
}

#[test]
fn the_registrys_own_reasons_come_before_ours() {
    let server = ScriptedServer::start(&[
        ("POST /subjects/a%2Fb/versions", 409, r#"{"error_code": 409, "message": "long"}"#),
        (
            "POST /compatibility/subjects/a%2Fb/versions/latest?verbose=true",
            200,
            r#"{"is_compatible": false, "messages": ["READER_FIELD_MISSING_DEFAULT_VALUE"]}"#,
        ),
    ]);
    let registry = registry(&server);
    let error = registry.register("a/b", "\"null\"").unwrap_err();
    assert_eq!(error.to_string(), "the schema is incompatible with subject a/b: READER_FIELD_MISSING_DEFAULT_VALUE");
    assert_eq!(error.kind(), ErrorKind::Rejected);
    let reasons = vec!["READER_FIELD_MISSING_DEFAULT_VALUE".to_owned()];
    assert_eq!(registry.check("a/b", "\"null\"").unwrap(), Compatibility::Incompatible(reasons));
}

#[test]
fn a_subject_without_schemas_takes_any() {
    let server = ScriptedServer::start(&[
        ("POST /compatibility/subjects/s/versions/latest?verbose=true", 404, NO_SUBJECT_YET),
        ("GET /subjects/s/versions/latest", 404, NO_SUBJECT_YET),
    ]);
    let registry = registry(&server);
    assert_eq!(registry.check("s", "\"null\"").unwrap(), Compatibility::Compatible);
    assert_eq!(registry.latest("s").unwrap(), None);
}
