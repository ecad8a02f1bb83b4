//! Brokers that hang, refuse, or are met in the wrong manner: the run ends with the right words, or waits, and loses nothing.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tidemill_connectors::generate::Rates;
use tidemill_kafka::KafkaConfig;
use tidemill_kafka::produce::read_committed;
use tidemill_tests::corpus;
use tidemill_tests::harness::{Outcome, Run, Running};
use tidemill_tests::published;
use tidemill_tests::services::{Producer, Services, delete_topic, read_lines, unique, wait_until};
use tidemill_tests::topics::{self, Topics};

use crate::{assert_books_balance, counter, free_addresses, stop, tidemill};

/// A run over `topic` into topics that begin with `prefix`, with its state in `folder`.
fn run_of(brokers: &str, topic: &str, prefix: &str, folder: &Path) -> Run {
    let (from, to) = (format!("kafka://{brokers}?topics={topic}"), format!("kafka://{brokers}/{prefix}"));
    tidemill().stream(&from, &[to], folder.join("state").to_str().unwrap()).option(&["--epoch-every", "100ms"])
}

/// Waits until a published topic has messages.
fn until_published(running: &mut Running, brokers: &str, topic: &str) {
    wait_until(&format!("{topic} has messages"), || {
        running.assert_alive("until something is published");
        KafkaConfig::at(brokers)
            .ok()
            .and_then(|config| read_committed(&config, topic).ok())
            .is_some_and(|messages| !messages.is_empty())
    });
}

/// Checks that the command failed, and that the words are in its last sentence.
#[track_caller]
fn assert_ends_with(refused: &Outcome, what: &str, words: &str) {
    assert!(refused.code.is_some_and(|code| code != 0), "{what}: {}", refused.stderr);
    let last = refused.stderr.trim_end().lines().last().unwrap_or_default();
    assert!(last.contains(words), "{what}: {}", refused.stderr);
}

#[test]
fn a_run_whose_broker_hangs_ends_when_it_is_asked_to_and_the_next_one_loses_and_doubles_nothing() {
    let services = Services::own("kafka_hangs", &["kafka"]);
    let folder = TempDir::new().unwrap();
    let bytes = corpus::events(40_000, 151, Rates::within_horizon());
    let topics = Topics::deal(vec![("events.hang".into(), 2)], &bytes);
    let brokers = services.brokers();
    topics.create(brokers);
    let producer = Producer::new(brokers);
    topics.send(&producer, 0, topics.len() / 2);
    producer.flush();
    let run = run_of(brokers, "events.hang", "out.", folder.path());
    let mut running = run.start();
    until_published(&mut running, brokers, "out.revenue_by_minute");
    topics.send(&producer, topics.len() / 2, topics.len());
    producer.flush();
    services.pause("kafka");
    // What is read is written now, or is about to be.
    tidemill_tests::services::pause(std::time::Duration::from_secs(2));
    running.signal("TERM");
    let stopped = running.wait();
    services.resume("kafka");
    assert!(stopped.code == Some(0) || stopped.stderr.contains("stopped at once"), "{}", stopped.stderr);
    drop(producer);

    let line = run.option(&["--until-end"]).finish();
    assert_books_balance(&line);
    let oracle = topics.oracle();
    let (expected, books) = oracle.answer();
    assert_eq!(counter(&line, "accepted"), books.accepted, "{line}");
    let folded = published::fold(|table| read_lines(brokers, &format!("out.{table}")));
    published::part(&expected).assert_equal(&published::tables(&folded), "after the hang");
}

#[test]
fn what_arrives_after_a_run_at_the_latest_message_is_ready_is_read_although_it_is_killed_before() {
    let services = Services::shared();
    for start in ["latest", "timestamp:4102444800000"] {
        let folder = TempDir::new().unwrap();
        let topic = unique("latest");
        topics::create(services.brokers(), &topic, 3);
        let (old, new) =
            (corpus::events(500, 1, Rates::within_horizon()), corpus::events(20, 2, Rates::within_horizon()));
        let send = |bytes: &[u8]| {
            let producer = Producer::new(services.brokers());
            for (at, line) in corpus::lines(bytes).iter().enumerate() {
                producer.send(&topic, i32::try_from(at % 3).unwrap(), line);
            }
            producer.flush();
        };
        send(&old);
        let [ops, _] = free_addresses();
        let out = folder.path().join("out");
        let from = format!("kafka://{}?topics={topic}&start={start}", services.brokers());
        let places = ["run", "web_analytics", "--from", &from, "--out", out.to_str().unwrap(), "--json"];
        let mut running = tidemill().start(&[&places[..], &["--ops", &ops]].concat());
        let ready = format!("http://{ops}/readyz");
        assert!(running.until(|_| ureq::get(&ready).call().is_ok()), "{}", running.said());
        running.signal("KILL");
        assert_eq!(running.wait().code, None);
        send(&new);
        let line = tidemill().command(&[&places[..], &["--until-end"]].concat()).json();
        assert_eq!(counter(&line, "events_read"), corpus::lines(&new).len() as u64, "{start}: {line}");
    }
}

#[test]
fn wrong_credentials_and_wrong_manners_are_named_at_once_in_the_last_sentence() {
    let services = Services::own("kafka_secure", &["kafka-secure"]);
    let at = |name: &str| services.variables()[name].clone();
    let [plain, tls, sasl, ca] =
        ["KAFKA_SECURE_BROKERS", "KAFKA_SECURE_TLS", "KAFKA_SECURE_SASL", "KAFKA_SECURE_CA"].map(at);
    // The broker may be one that an earlier run of this test left.
    let (topic, prefix) = (unique("events"), unique("out"));
    topics::create(&plain, &topic, 1);
    let folder = TempDir::new().unwrap();
    let events = corpus::file(folder.path(), "a.ndjson", &corpus::events(200, 3, Rates::within_horizon()));
    let other_ca = folder.path().join("other.pem");
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"])
        .args(["-keyout", "/dev/null", "-out"])
        .arg(&other_ca)
        .output();
    assert!(made.is_ok_and(|made| made.status.success()), "openssl makes a certificate");
    let by = |protocol: &str, rest: &str| format!("security.protocol={protocol}&{rest}");
    let user =
        |name: &str, password: &str| format!("sasl.mechanism=PLAIN&sasl.username={name}&sasl.password={password}");
    let localhost = format!("localhost:{}", tls.rsplit(':').next().unwrap());
    let trusted = by("ssl", &format!("ssl.ca.location={ca}"));
    let cases: [(&str, &str, String, &str); 9] = [
        ("a wrong password", &sasl, by("sasl_plaintext", &user("writer", "wrong")), "Invalid username or password"),
        (
            "another mechanism",
            &sasl,
            by("sasl_plaintext", "sasl.mechanism=SCRAM-SHA-256&sasl.username=w&sasl.password=x"),
            "Unsupported SASL mechanism",
        ),
        (
            "another CA",
            &tls,
            by("ssl", &format!("ssl.ca.location={}", other_ca.display())),
            "certificate verify failed",
        ),
        ("another host's name", &localhost, trusted.clone(), "certificate verify failed"),
        ("plain to TLS", &tls, String::new(), "speaks TLS there, and security.protocol is plaintext"),
        ("TLS to plain", &plain, trusted, "speaks without TLS and without passwords there"),
        ("plain to passwords", &sasl, String::new(), "asks for a password (PLAIN)"),
        ("passwords to plain", &plain, by("sasl_plaintext", &user("writer", "x")), "SASL"),
        ("no rights", &sasl, by("sasl_plaintext", &user("nobody", "nobody-secret")), "let this user describe it"),
    ];
    for (what, place, settings, words) in cases {
        let out = folder.path().join(what.replace(' ', "-"));
        let from = format!("kafka://{place}?topics={topic}&{settings}");
        let places = ["run", "web_analytics", "--from", &from, "--out", out.to_str().unwrap()];
        assert_ends_with(&tidemill().command(&places), what, words);
        if what == "no rights" {
            continue;
        }
        let state = folder.path().join(format!("{}-sink", what.replace(' ', "-")));
        let to = format!("kafka://{place}/{prefix}?{settings}");
        let input = ["run", "web_analytics", "--input", events.to_str().unwrap(), "--to", &to];
        let refused = tidemill().command(&[&input[..], &["--state", state.to_str().unwrap()]].concat());
        assert_ends_with(&refused, &format!("{what}, sink"), words);
    }

    // A user who may begin transactions and not write, with topics that are there.
    for table in ["sessions", "errors_by_version_by_minute", "revenue_by_minute", "dead_letters"] {
        topics::create(&plain, &format!("{prefix}{table}"), 1);
    }
    let to = format!("kafka://{sasl}/{prefix}?{}", by("sasl_plaintext", &user("reader", "reader-secret")));
    let state = folder.path().join("no-writing");
    let input = ["run", "web_analytics", "--input", events.to_str().unwrap(), "--drain", "--to", &to];
    let refused = tidemill().command(&[&input[..], &["--state", state.to_str().unwrap()]].concat());
    assert_ends_with(&refused, "no writing", "uthorization failed");

    a_password_that_was_accepted_is_waited_for(&services, folder.path());
}

/// The broker comes back with another password, and then with the one that the run has.
fn a_password_that_was_accepted_is_waited_for(services: &Services, folder: &Path) {
    let at = |name: &str| services.variables()[name].clone();
    let [plain, sasl, passwords] = ["KAFKA_SECURE_BROKERS", "KAFKA_SECURE_SASL", "KAFKA_SECURE_PASSWORDS"].map(at);
    let (topic, prefix) = (unique("events"), unique("changed"));
    topics::create(&plain, &topic, 1);
    let bytes = corpus::events(300, 4, Rates::within_horizon());
    let lines = corpus::lines(&bytes);
    let send = |from: usize, until: usize| {
        let producer = Producer::new(&plain);
        lines[from..until].iter().for_each(|line| producer.send(&topic, 0, line));
        producer.flush();
    };
    send(0, 100);
    let settings =
        "security.protocol=sasl_plaintext&sasl.mechanism=PLAIN&sasl.username=writer&sasl.password=writer-secret";
    let from = format!("kafka://{sasl}?topics={topic}&{settings}");
    let to = format!("kafka://{sasl}/{prefix}?{settings}");
    let run = tidemill().stream(&from, &[to], folder.join("changed").to_str().unwrap());
    let mut running = run.option(&["--epoch-every", "100ms"]).start();
    until_published(&mut running, &plain, &format!("{prefix}revenue_by_minute"));
    services.kill("kafka-secure");
    fs::write(&passwords, "writer changed\n").unwrap();
    services.restart("kafka-secure");
    send(100, 200);
    wait_until("the run says that its password is refused", || {
        running.assert_alive("its password is refused");
        running.said().contains("refuses the credentials that it took before")
    });
    services.kill("kafka-secure");
    fs::remove_file(&passwords).unwrap();
    services.restart("kafka-secure");
    send(200, lines.len());
    wait_until("all is read", || {
        running.assert_alive("its password is accepted again");
        let state = folder.join("changed");
        tidemill().command(&["query", "--data", state.to_str().unwrap(), "SELECT 1"]).code.is_some()
            && running.said().contains("answers again")
    });
    let stopped = stop(running);
    let rest = run.option(&["--until-end"]).finish();
    // Whoever sends while the broker dies may send twice.
    let there = read_committed(&KafkaConfig::at(&plain).unwrap(), &topic).unwrap().len();
    assert_eq!(counter(&rest, "events_read"), there as u64, "{rest} after {}", stopped.stderr);
    let oracle = Topics::deal(vec![(topic.clone(), 1)], &bytes).oracle();
    assert_eq!(counter(&rest, "accepted"), oracle.answer().1.accepted, "{rest} after {}", stopped.stderr);
}

#[test]
fn a_sink_topic_that_is_deleted_between_two_runs_is_refused_until_somebody_accepts_it() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let (topic, prefix) = (unique("between"), unique("out"));
    topics::create(services.brokers(), &topic, 1);
    let bytes = corpus::events(2_000, 7, Rates::within_horizon());
    let lines = corpus::lines(&bytes);
    let send = |some: &[&[u8]]| {
        let producer = Producer::new(services.brokers());
        some.iter().for_each(|line| producer.send(&topic, 0, line));
        producer.flush();
    };
    let run = |options: &[&str]| {
        run_of(services.brokers(), &topic, &prefix, folder.path()).option(&["--until-end"]).option(options)
    };
    send(&lines[..1_000]);
    run(&[]).finish();
    run(&[]).finish();
    send(&lines[1_000..]);
    let sink = format!("{prefix}revenue_by_minute");
    delete_topic(services.brokers(), &sink);
    let missing = run(&[]).outcome();
    assert_ends_with(&missing, "a missing topic", &format!("{sink}: the topic is not on Kafka"));
    assert!(missing.stderr.contains(&format!("--accept-topic {sink}")), "{}", missing.stderr);
    topics::create(services.brokers(), &sink, 1);
    let anew = run(&[]).outcome();
    assert_eq!(anew.code, Some(3), "{}", anew.stderr);
    assert_ends_with(&anew, "another topic", &format!("{sink}: the topic was made anew since this run wrote to it"));
    assert_eq!(read_lines(services.brokers(), &sink).len(), 0, "nothing is written to it");
    let line = run(&["--accept-topic", &sink]).finish();
    assert_books_balance(&line);
    assert_ne!(read_lines(services.brokers(), &sink).len(), 0);
    run(&[]).finish();
}

#[test]
fn a_sink_topic_that_is_deleted_while_it_is_written_ends_the_run_with_its_name() {
    let services = Services::shared();
    let folder = TempDir::new().unwrap();
    let (topic, prefix) = (unique("deleted"), unique("out"));
    topics::create(services.brokers(), &topic, 1);
    let bytes = corpus::events(20_000, 5, Rates::within_horizon());
    let lines = corpus::lines(&bytes);
    let producer = Producer::new(services.brokers());
    lines[..5_000].iter().for_each(|line| producer.send(&topic, 0, line));
    producer.flush();
    let mut running = run_of(services.brokers(), &topic, &prefix, folder.path()).start();
    let sink = format!("{prefix}revenue_by_minute");
    until_published(&mut running, services.brokers(), &sink);
    delete_topic(services.brokers(), &sink);
    lines[5_000..].iter().for_each(|line| producer.send(&topic, 0, line));
    producer.flush();
    let refused = running.wait();
    assert_ends_with(&refused, "a deleted topic", &format!("{sink}: the topic is not on Kafka"));
}
