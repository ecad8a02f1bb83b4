//! Avro events through the registry: versions side by side in one topic, and a change that would break readers refused.

mod late;

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_registry::{CompatibilityLevel, EVENT_V1, EVENT_V2, Registry, Schema, encode};
use tidemill_tests::corpus;
use tidemill_tests::harness::Outcome;
use tidemill_tests::oracle::Oracle;
use tidemill_tests::services::{Producer, Services};
use tidemill_tests::stream::Stream;
use tidemill_tests::topics;

use crate::{assert_books_balance, counter, tidemill};

/// A subject whose versions have to understand each other, and the command that works on it.
struct Subject<'a> {
    stream: &'a Stream,
    name: String,
    folder: TempDir,
}

impl<'a> Subject<'a> {
    fn new(stream: &'a Stream, topic: &str) -> Subject<'a> {
        let name = format!("{topic}-value");
        let registry = Registry::new(Services::shared().registry(), None).unwrap();
        registry.set_compatibility(&name, CompatibilityLevel::Backward).unwrap();
        Subject { stream, name, folder: TempDir::new().unwrap() }
    }

    fn file(&self, schema: &str) -> PathBuf {
        corpus::file(self.folder.path(), "schema.avsc", schema.as_bytes())
    }

    fn command(&self, what: &str, schema: &str) -> Outcome {
        let file = self.file(schema);
        self.stream.tidemill().command(&["schema", what, "--subject", &self.name, &file.to_string_lossy()])
    }

    /// Registers a version; gives the id that messages name.
    fn register(&self, schema: &str) -> i32 {
        let done = self.command("register", schema);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let id = said.trim().rsplit(' ').next().and_then(|id| id.parse().ok());
        id.unwrap_or_else(|| panic!("{said} names no id"))
    }
}

#[test]
fn events_of_two_versions_and_plain_json_in_one_topic_all_count() {
    let services = Services::shared();
    let stream = Stream::new(&tidemill(), services, "avro");
    let topic = stream.topic("mixed");
    let subject = Subject::new(&stream, &topic);
    let (first, second) = (subject.register(EVENT_V1), subject.register(EVENT_V2));
    assert_ne!(first, second);
    let schemas = [EVENT_V1, EVENT_V2].map(|schema| Schema::parse_str(schema).unwrap());

    let bytes = corpus::events(3_000, 33, Rates { malformed: 0, ..Rates::clean() });
    // One line of the corpus is over-long, and no event.
    let lines: Vec<&[u8]> = corpus::lines(&bytes).into_iter().filter(|line| line.len() < 10_000).collect();
    topics::create(services.brokers(), &topic, 1);
    let producer = Producer::new(services.brokers());
    let mut with_sdk = 0;
    for (at, line) in lines.iter().enumerate() {
        let mut event: Value = serde_json::from_slice(line).unwrap();
        // Some generated events have a member that no version knows.
        let sdk = event.as_object_mut().unwrap().remove("sdk");
        let message = match at % 3 {
            0 => encode(&schemas[0], first, &event).unwrap(),
            1 => {
                event["sdk"] = json!({"name": "web", "build": [7, 1]});
                with_sdk += 1;
                encode(&schemas[1], second, &event).unwrap()
            }
            _ => {
                with_sdk += u64::from(sdk.is_some());
                line.to_vec()
            }
        };
        producer.send(&topic, 0, &message);
    }
    let small = json!({"event_id": "e", "event_type": "click", "user_id": "u", "timestamp": 1});
    let unknown = encode(&schemas[0], i32::MAX, &small).unwrap();
    producer.send(&topic, 0, &unknown);
    producer.flush();
    stream.apply();
    let state = TempDir::new().unwrap();
    let run = stream.run(&state.path().to_string_lossy()).option(&["--until-end"]).workers(2);
    let line = run.environment("SCHEMA_REGISTRY_WAIT", "1s").finish();

    assert_books_balance(&line);
    assert_eq!((counter(&line, "accepted"), counter(&line, "malformed")), (3_000, 1), "{line}");
    let text = corpus::joined(lines.iter().copied());
    let (expected, _) = Oracle::of([text.as_slice()]).answer();
    expected.assert_equal(&stream.database().tables(), "ClickHouse");
    expected.assert_equal(&stream.tidemill().tables(stream.lake()), "S3");
    let kept = stream.database().try_numbers("SELECT count() FROM raw_events WHERE extra LIKE '%\"sdk\"%'");
    assert_eq!(kept, Ok(vec![with_sdk]), "what version 2 added is kept");
    assert_eq!(stream.dead_letters(), [(topic, 0, lines.len() as u64)]);
    stream.database().drop_all();
}

#[test]
fn a_change_that_breaks_readers_is_refused_with_the_reason() {
    let services = Services::shared();
    let stream = Stream::new(&tidemill(), services, "avro");
    let subject = Subject::new(&stream, &stream.topic("refused"));
    subject.register(EVENT_V1);
    let mut required: Value = serde_json::from_str(EVENT_V2).unwrap();
    required["fields"].as_array_mut().unwrap().push(json!({"name": "consent", "type": "string"}));
    for what in ["check", "register"] {
        subject.command(what, &required.to_string()).assert_refused(&[3], &["consent", "default"]);
    }
    assert_eq!(subject.command("check", EVENT_V2).code, Some(0));
    let nowhere = stream.tidemill().clone().with_environment([("SCHEMA_REGISTRY_URL".into(), String::new())].into());
    let file = subject.file(EVENT_V2);
    let outcome = nowhere.command(&["schema", "check", "--subject", "s", &file.to_string_lossy()]);
    outcome.assert_refused(&[2], &["SCHEMA_REGISTRY_URL"]);
}
