//! A live source: news, silence, new topics, and what a power cut took back for a while.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::log::*;

const LONG: Duration = Duration::from_secs(600);

#[test]
fn a_partition_that_was_read_to_its_end_is_caught_up_until_something_is_published() {
    let log = Log::new();
    log.load("t", 1, 0..10);
    let mut reading = opened(&log.live("t"), &[]);
    assert!(!reading.reader.bounded() && !reading.reader.position(0).caught_up);
    let read = reading.until(0, (1 << 20, None), |_, read| read.ids.len() == 10).unwrap();
    assert_eq!(read.ids, ids(0..10));
    reading.until(0, (1 << 20, None), |r, _| r.reader.position(0).caught_up).unwrap();
    assert!(!reading.reader.position(0).finished);
    log.load("t", 1, 10..12);
    let one = reading.until(0, (1, None), |_, seen| seen.ids.len() == 1).unwrap();
    assert_eq!(one.ids, ["e10"]);
    assert!(!reading.reader.position(0).caught_up);
}

#[test]
fn what_waits_in_a_partition_is_told_whether_or_not_it_is_read() {
    let log = Log::new();
    log.load("t", 2, 0..10);
    let mut reading = opened(&log.live("t"), &[]);
    let lags = |of: &Reading| [of.reader.lag(0), of.reader.lag(1)];
    assert_eq!(lags(&reading), [Some(5), Some(5)]);
    reading.until(0, (1, None), |_, read| read.ids.len() == 2).unwrap();
    assert_eq!(lags(&reading), [Some(3), Some(5)]);
    reading.until(0, (1 << 20, None), |r, _| r.reader.position(0).caught_up).unwrap();
    assert_eq!(lags(&reading), [Some(0), Some(5)]);
    log.load("t", 2, 10..14);
    reading.reader.wait(Duration::from_millis(1)).unwrap();
    assert_eq!(lags(&reading), [Some(2), Some(7)], "nothing was read since");
    // What a run that ends will not read does not wait for it.
    let ending = opened(&log.until_end("t"), &[]);
    log.load("t", 2, 14..20);
    assert_eq!(lags(&ending), [Some(7), Some(7)]);
}

#[test]
fn a_wait_ends_when_something_is_published_where_nothing_was_left() {
    let log = Log::new();
    log.load("t", 2, 0..4);
    let mut reading = opened(&log.live("t"), &[]);
    for partition in 0..2 {
        reading.until(partition, (1 << 20, None), |r, _| r.reader.position(partition).caught_up).unwrap();
    }
    // Far longer than the test may take: it ends by what is published or not at all.
    thread::scope(|scope| {
        scope.spawn(|| log.load("t", 2, 4..5));
        reading.reader.wait(LONG).unwrap();
    });
    let read = reading.until(0, (1 << 20, None), |_, read| !read.ids.is_empty()).unwrap();
    assert_eq!(read.ids, ["e4"]);
}

#[test]
fn new_topics_are_found_while_reading_and_numbered_behind_the_others() {
    let log = Log::new();
    log.make("events.b", 1);
    log.load("events.b", 1, 0..5);
    let source = log.live("events.*");
    let mut reading = opened(&source, &[]);
    log.load("events.a", 2, 5..9);
    log.load("other", 1, 0..9);
    for _ in 0..10_000 {
        if reading.reader.discover().unwrap() {
            break;
        }
        reading.reader.wait(Duration::from_millis(5)).unwrap();
    }
    let expected = ["events.b/0", "events.a/0", "events.a/1"];
    assert_eq!(reading.names(), expected);
    let read = reading.until(1, (1 << 20, None), |_, read| read.ids.len() == 2).unwrap();
    assert_eq!(read.ids, ["e5", "e7"], "what appears later is read from its beginning");
    // The numbers stay when the source is opened again.
    let recorded = reading.bindings();
    drop(reading);
    assert_eq!(opened(&source, &recorded).names(), expected);
}

#[test]
fn what_a_power_cut_took_back_from_the_published_end_is_waited_for_and_then_read_as_it_was() {
    let log = Log::new();
    log.load("t", 1, 0..10);
    let published = log.root().join("t/published");
    let before = fs::read(&published).unwrap();
    log.load("t", 1, 10..20);
    let source = log.live("t");
    let mut first = opened(&source, &[]);
    first.until(0, (1 << 20, None), |_, read| read.ids.len() == 20).unwrap();
    let recorded = first.bindings();
    drop(first);
    fs::write(&published, before).unwrap();
    // Bound and not checkpointed: replayed up to where it was bound.
    let mut replay = opened(&source, &[]);
    assert!(replay.reader.read(0, 1 << 20, Some(20)).unwrap().is_none(), "a full block or nothing");
    let mut on = opened(&source, &recorded);
    assert!(on.reader.read(0, 1 << 20, None).unwrap().is_none());
    log.load("t", 1, 20..21);
    let read = replay.until(0, (1 << 20, Some(20)), |r, _| r.reader.position(0).offset == 20).unwrap();
    assert_eq!(read.ids, ids(0..20));
    assert_eq!(replay.reader.position(0).digest, recorded[0].digest);
    assert_eq!(on.until(0, (1 << 20, None), |_, seen| !seen.ids.is_empty()).unwrap().ids, ["e20"]);
}
