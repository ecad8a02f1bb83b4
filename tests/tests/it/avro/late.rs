//! A registry that is behind its producers, or that nobody named: messages are waited with, then dead letters with a word.

use serde_json::json;
use tempfile::TempDir;
use tidemill_registry::{EVENT_V1, Registry, Schema, encode};
use tidemill_tests::late_registry::LateRegistry;
use tidemill_tests::live;
use tidemill_tests::services::{Producer, Services, wait_until};
use tidemill_tests::stream::Stream;
use tidemill_tests::topics;

use crate::{counter, tidemill};

/// Partition 0 has ten events of Avro, 1 has ten of JSON.
struct Mixed {
    stream: Stream,
    topic: String,
    id: i32,
    state: TempDir,
}

impl Mixed {
    fn new(what: &str) -> Mixed {
        let services = Services::shared();
        let stream = Stream::new(&tidemill(), services, "avro");
        let topic = stream.topic(what);
        let id =
            Registry::new(services.registry(), None).unwrap().register(&format!("{topic}-value"), EVENT_V1).unwrap();
        topics::create(services.brokers(), &topic, 2);
        stream.apply();
        let mixed = Mixed { stream, topic, id, state: TempDir::new().unwrap() };
        mixed.produce("a");
        mixed
    }

    fn produce(&self, run: &str) {
        let producer = Producer::new(Services::shared().brokers());
        let schema = Schema::parse_str(EVENT_V1).unwrap();
        for at in 0..10 {
            let event = |of: &str| {
                let id = format!("{run}-{of}-{at}");
                json!({"event_id": id, "event_type": "click", "user_id": "u", "timestamp": 1_772_323_200_000_i64 + at})
            };
            producer.send(&self.topic, 0, &encode(&schema, self.id, &event("avro")).unwrap());
            producer.send(&self.topic, 1, event("json").to_string().as_bytes());
        }
        producer.flush();
    }

    fn run(&self, registry: &str, wait: &str) -> tidemill_tests::harness::Run {
        let run = self.stream.run(&self.state.path().to_string_lossy()).option(&["--epoch-every", "100ms"]);
        run.environment("SCHEMA_REGISTRY_URL", registry).environment("SCHEMA_REGISTRY_WAIT", wait)
    }

    /// How many dead letters the run has committed.
    fn letters(&self) -> u64 {
        let counts = live::counts(self.state.path());
        counts.iter().filter(|(name, _)| name.ends_with("/malformed")).map(|(_, n)| n).sum()
    }

    fn visible(&self) -> Vec<u64> {
        self.stream.database().try_numbers("SELECT count() FROM raw_events").unwrap_or_default()
    }
}

#[test]
fn messages_whose_schema_is_registered_late_wait_while_other_partitions_go_on() {
    let mixed = Mixed::new("late");
    let registry = LateRegistry::start(Services::shared().registry(), [mixed.id]);
    let mut run = mixed.run(&registry.url, "5m").start();
    mixed.stream.until_visible(10, || run.assert_alive("the other partition is read"));
    let said = run.said();
    assert_eq!(said.matches("is asked for again, and given up after 300s").count(), 1, "{said}");
    registry.catch_up();
    mixed.stream.until_visible(20, || run.assert_alive("the schema is there"));
    assert!(run.said().contains(&format!("schema id {} is there", mixed.id)), "{}", run.said());
    run.signal("TERM");
    let line = run.wait().json();
    assert_eq!((counter(&line, "accepted"), counter(&line, "malformed")), (20, 0), "{line}");
    mixed.stream.database().drop_all();
}

#[test]
fn messages_of_a_schema_that_does_not_come_are_dead_letters_until_it_does_and_stay_so_after_a_crash() {
    let mixed = Mixed::new("never");
    let registry = LateRegistry::start(Services::shared().registry(), [mixed.id]);
    // Bound epochs stay uncommitted at the kill as often as not: no checkpoint is written before.
    let run = || mixed.run(&registry.url, "1s").option(&["--checkpoint-every", "1h"]);
    let mut first = run().start();
    let word = format!("messages of schema id {} are dead letters from", mixed.id);
    mixed.stream.until_visible(10, || first.assert_alive("the other partition is read"));
    wait_until("the id is given up", || {
        first.assert_alive("it waits for the schema");
        first.said().contains(&word)
    });
    assert_eq!(first.said().matches(&word).count(), 1, "{}", first.said());
    wait_until("dead letters are there", || first.said().contains(&word) && mixed.letters() == 10);
    first.signal("KILL");
    drop(first.wait());
    registry.catch_up();
    mixed.produce("b");
    let mut second = run().start();
    mixed.stream.until_visible(30, || second.assert_alive("later messages are read"));
    second.signal("TERM");
    let line = second.wait().json();
    assert_eq!((counter(&line, "accepted"), counter(&line, "malformed")), (30, 10), "{line}");
    let expected: Vec<_> = (0..10).map(|offset| (mixed.topic.clone(), 0, offset)).collect();
    assert_eq!(mixed.stream.dead_letters(), expected);

    // Put back, each once, whoever asks for it how often.
    let letters = mixed.stream.published("");
    let from = format!("kafka://{}/{letters}", Services::shared().brokers());
    let command = |what: &[&str]| {
        let done = mixed.stream.tidemill().command(&[&["dead-letters"][..], what, &["--from", &from]].concat());
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let listed = command(&["list", "--reason", "was not in the registry"]);
    assert_eq!((listed.lines().count(), listed.matches("(put back)").count()), (10, 0), "{listed}");
    assert_eq!(command(&["replay", "--reason", "something else"]), "0 put back, 0 were before, 0 cannot be\n");
    assert_eq!(
        command(&["replay", "--reason", "was not in the registry"]),
        "10 put back, 0 were before, 0 cannot be\n"
    );
    assert_eq!(command(&["replay"]), "0 put back, 10 were before, 0 cannot be\n");
    assert_eq!(command(&["list"]).matches("(put back)").count(), 10);
    let all = run().option(&["--until-end"]).finish();
    assert_eq!((counter(&all, "accepted"), counter(&all, "malformed")), (40, 10), "{all}");
    assert_eq!(mixed.visible(), [40]);
    mixed.stream.database().drop_all();
}

#[test]
fn avro_without_a_registry_waits_for_somebody_to_name_one() {
    let mixed = Mixed::new("unset");
    let mut run = mixed.run("", "5m").start();
    mixed.stream.until_visible(10, || run.assert_alive("the other partition is read"));
    assert_eq!(run.said().matches("SCHEMA_REGISTRY_URL is not set").count(), 1, "{}", run.said());
    run.signal("TERM");
    let line = run.wait().json();
    assert_eq!((counter(&line, "accepted"), counter(&line, "malformed")), (10, 0), "{line}");
    let rest = mixed.run(Services::shared().registry(), "5m").option(&["--until-end"]).finish();
    assert_eq!(counter(&rest, "malformed"), 0, "{rest}");
    assert_eq!(mixed.visible(), [20]);
    mixed.stream.database().drop_all();
}

#[test]
fn a_schema_that_cannot_be_used_is_said_and_its_messages_are_dead_letters_at_once() {
    let mixed = Mixed::new("unusable");
    let services = Services::shared();
    let registry = Registry::new(services.registry(), None).unwrap();
    let number = registry.register(&format!("{}-number", mixed.topic), r#"{"type": "long"}"#).unwrap();
    let producer = Producer::new(services.brokers());
    producer.send(&mixed.topic, 0, &[&[0][..], &number.to_be_bytes(), &[2]].concat());
    producer.flush();
    let outcome = mixed.run(services.registry(), "5m").option(&["--until-end"]).outcome();
    let line = outcome.json();
    assert_eq!((counter(&line, "accepted"), counter(&line, "malformed")), (20, 1), "{line}");
    let word = format!("schema id {number} cannot be read: its outermost type is no record");
    let said = outcome.stderr.lines().filter(|said| said.contains(&word) && said.contains("WARN")).count();
    assert_eq!(said, 1, "{}", outcome.stderr);
    mixed.stream.database().drop_all();
}
