//! Records that retention took before they were read: refused, and gone on without where somebody accepts exactly that.

use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tidemill_embedded_log::{LogOptions, Record, Retention, TopicWriter};
use tidemill_tests::services::{Producer, Services, delete_before};
use tidemill_tests::stream::Stream;
use tidemill_tests::topics;

use crate::{counter, tidemill};

fn event(number: u64) -> String {
    let (id, time) = (format!("e{number}"), 1_772_323_200_000_u64 + number);
    json!({"event_id": id, "event_type": "click", "user_id": "u", "timestamp": time}).to_string()
}

/// A topic of one partition, and a run over it.
struct Short {
    stream: Stream,
    topic: String,
    state: TempDir,
}

impl Short {
    fn new(what: &str) -> Short {
        let services = Services::shared();
        let stream = Stream::new(&tidemill(), services, "loss");
        let topic = stream.topic(what);
        topics::create(services.brokers(), &topic, 1);
        stream.apply();
        Short { stream, topic, state: TempDir::new().unwrap() }
    }

    fn produce(&self, numbers: std::ops::Range<u64>) {
        let producer = Producer::new(Services::shared().brokers());
        for at in numbers {
            producer.send(&self.topic, 0, event(at).as_bytes());
        }
        producer.flush();
    }

    fn run(&self, options: &[&str]) -> tidemill_tests::harness::Run {
        self.stream.run(&self.state.path().to_string_lossy()).option(&["--epoch-every", "100ms"]).option(options)
    }

    /// Offsets 100 to 199 are produced and gone; the run has read all before.
    fn overtaken(what: &str) -> Short {
        let short = Short::new(what);
        short.produce(0..100);
        short.run(&["--until-end"]).finish();
        short.produce(100..300);
        delete_before(Services::shared().brokers(), (&short.topic, 0), 200);
        short
    }

    fn range(&self, range: &str) -> String {
        format!("{}/0:{range}", self.topic)
    }
}

#[test]
fn a_run_goes_on_without_what_retention_took_where_exactly_that_is_accepted() {
    let short = Short::overtaken("gone");
    let exact = short.range("100-199");
    short.run(&["--until-end"]).outcome().assert_refused(&[3], &["retention", &format!("give --accept-loss {exact}")]);
    // More or less than is gone, and what is none of it, is not accepted.
    for (wrong, word) in [("90-199", "read up to offset 100"), ("100-150", "100-199"), ("100-250", "100-199")] {
        let outcome = short.run(&["--until-end", "--accept-loss", &short.range(wrong)]).outcome();
        outcome.assert_refused(&[3], &[word]);
    }
    let elsewhere = short.run(&["--until-end", "--accept-loss", "nowhere/0:1-2"]).outcome();
    elsewhere.assert_refused(&[3], &["nowhere/0:1-2", "no run over this state"]);

    let accept = ["--until-end", "--accept-loss", &exact];
    let line = short.run(&accept).finish();
    assert_eq!((counter(&line, "accepted"), counter(&line, "lost")), (200, 100), "{line}");
    let shown =
        short.stream.tidemill().command(&["checkpoints", "show", "--data", short.state.path().to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&format!("accepted loss {exact} (100 records)")));
    // What was accepted stays so, with the option or without it, and the books stay what they are.
    short.produce(300..350);
    for options in [&accept[..], &["--until-end"]] {
        let again = short.run(options).finish();
        assert_eq!((counter(&again, "accepted"), counter(&again, "lost")), (250, 100), "{again}");
    }
    assert_eq!(short.stream.database().try_numbers("SELECT count() FROM raw_events"), Ok(vec![250]));
    short.stream.database().drop_all();
}

#[test]
fn a_table_behind_an_accepted_loss_is_filled_again_from_the_lake_and_from_no_topic_that_lacks_records() {
    let short = Short::overtaken("refilled");
    let exact = short.range("100-199");
    short.run(&["--until-end", "--accept-loss", &exact]).finish();
    let rows = || short.stream.database().try_numbers("SELECT count() FROM raw_events").unwrap();
    short.stream.database().run("TRUNCATE TABLE raw_events_data");
    let (state, to) = (short.state.path().to_string_lossy(), short.stream.database().address());
    let refill = |from: &str| {
        short.stream.tidemill().command(&["tables", "refill", "--from", from, "--state", &state, "--to", &to])
    };
    refill(&short.stream.source())
        .assert_refused(&[3], &["offset 0 is wanted", "reads again from where the run began"]);
    assert_eq!(rows(), [0]);
    let done = refill(&short.stream.lake().to_string_lossy());
    assert_eq!((done.code, rows()), (Some(0), vec![200]), "{}", done.stderr);
    short.produce(300..350);
    let line = short.run(&["--until-end"]).finish();
    assert_eq!((counter(&line, "accepted"), rows()), (250, vec![250]), "{line}");
    short.stream.database().drop_all();
}

#[test]
fn a_crash_before_the_first_checkpoint_behind_a_loss_forgets_nothing_of_it() {
    let short = Short::overtaken("crash");
    let exact = short.range("100-199");
    // No checkpoint is written but at an orderly end.
    let mut run = short.run(&["--checkpoint-every", "1h", "--accept-loss", &exact]).start();
    short.stream.until_visible(200, || run.assert_alive("it goes on behind the loss"));
    run.signal("KILL");
    drop(run.wait());
    let line = short.run(&["--until-end"]).finish();
    assert_eq!((counter(&line, "accepted"), counter(&line, "lost")), (200, 100), "{line}");
    assert_eq!(short.stream.database().try_numbers("SELECT count() FROM raw_events"), Ok(vec![200]));
    short.stream.database().drop_all();
}

#[test]
fn what_bound_epochs_need_is_not_given_up() {
    let short = Short::new("bound");
    short.produce(0..100);
    let mut run = short.run(&["--checkpoint-every", "1h"]).start();
    short.stream.until_visible(100, || run.assert_alive("it reads"));
    run.signal("KILL");
    drop(run.wait());
    short.produce(100..300);
    delete_before(Services::shared().brokers(), (&short.topic, 0), 200);
    for range in ["0-199", "100-199"] {
        let outcome = short.run(&["--until-end", "--accept-loss", &short.range(range)]).outcome();
        assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
        let word = if range == "0-199" { "read up to offset 100" } else { "cannot be repeated without these records" };
        assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
    }
    assert_eq!(short.stream.database().try_numbers("SELECT count() FROM raw_events"), Ok(vec![100]));
    short.stream.database().drop_all();
}

#[test]
fn a_live_run_that_retention_overtakes_ends_at_a_checkpoint_so_that_its_loss_can_be_accepted() {
    let short = Short::new("live");
    short.produce(0..100);
    let mut run = short.run(&["--checkpoint-every", "1h"]).start();
    short.stream.until_visible(100, || run.assert_alive("it reads"));
    // It does not see what comes while it is stopped.
    run.signal("STOP");
    short.produce(100..300);
    delete_before(Services::shared().brokers(), (&short.topic, 0), 200);
    run.signal("CONT");
    // A broker that answered just before the stop has sent them all the same: then nothing is lost.
    let all = || short.stream.database().try_numbers("SELECT count() FROM raw_events") == Ok(vec![300]);
    if run.until(|_| all()) {
        crate::stop(run);
    } else {
        run.wait().assert_refused(&[3], &["--accept-loss", &short.range("100-199")]);
        let line = short.run(&["--until-end", "--accept-loss", &short.range("100-199")]).finish();
        assert_eq!((counter(&line, "accepted"), counter(&line, "lost")), (200, 100), "{line}");
    }
    short.stream.database().drop_all();
}

#[test]
fn what_the_embedded_log_has_deleted_can_be_accepted_too() {
    let folder = TempDir::new().unwrap();
    let (log, out) = (folder.path().join("log"), folder.path().join("out"));
    let options = LogOptions { segment_bytes: 1, retention: Retention { age: Some(Duration::ZERO), bytes: None } };
    let write = |numbers: std::ops::Range<u64>, keep_from: u64| {
        let mut writer = TopicWriter::open(&log, "events.click", 1, &options).unwrap();
        for number in numbers {
            writer.append(0, &[Record { key: b"", value: event(number).as_bytes(), time_ms: 0 }]).unwrap();
            writer.sync().unwrap();
        }
        writer.retain(1, &|_| keep_from).unwrap();
    };
    let from = format!("log://{}", log.display());
    let run = |more: &[&str]| {
        let places = ["run", "web_analytics", "--from", &from, "--out", out.to_str().unwrap(), "--until-end", "--json"];
        tidemill().command(&[&places[..], more].concat())
    };
    write(0..10, 0);
    assert_eq!(counter(&run(&[]).json(), "accepted"), 10);
    write(10..30, 20);
    run(&[]).assert_refused(&[3], &["retention", "give --accept-loss events.click/0:10-19"]);
    run(&["--accept-loss", "events.click/0:10-15"]).assert_refused(&[3], &["events.click/0:10-19"]);
    let line = run(&["--accept-loss", "events.click/0:10-19"]).json();
    assert_eq!((counter(&line, "accepted"), counter(&line, "lost")), (20, 10), "{line}");
    assert_eq!(counter(&run(&[]).json(), "lost"), 10);
}
