//! Everything that is published is read, once, in the order of each partition, however blocks are cut.

use tidemill_embedded_log::{LogConfig, LogSource, Start};

use crate::log::*;

#[test]
fn any_block_limit_gives_what_was_appended_and_the_same_digests() {
    let log = Log::new();
    log.load("t", 4, 0..4_000);
    let source = log.until_end("t");
    let mut positions = Vec::new();
    for limit in [1, 777, 64 << 10, 4 << 20] {
        let mut reading = opened(&source, &[]);
        assert!(reading.reader.bounded() && reading.reader.over_when_finished());
        let read = reading.read_to_the_end(limit);
        for partition in 0..4_u64 {
            let name = format!("t/{partition}");
            assert_eq!(read[&name].ids, ids((0..4_000).filter(|id| id % 4 == partition)), "limit {limit}");
            assert_eq!(read[&name].letters, []);
        }
        let position = |number| reading.reader.position(number);
        positions.push((0..4).map(position).collect::<Vec<_>>());
    }
    assert!(positions.iter().all(|other| *other == positions[0]), "{positions:?}");
    assert_eq!((positions[0][0].offset, positions[0][0].lines), (1_000, 1_000));
}

#[test]
fn reading_goes_on_where_it_was_recorded() {
    let log = Log::new();
    log.load("t", 2, 0..200);
    let mut first = opened(&log.live("t"), &[]);
    let before = first.until(0, (2_000, None), |_, read| read.ids.len() >= 20).unwrap();
    let recorded = first.bindings();
    drop(first);
    log.load("t", 2, 200..300);
    let mut second = opened(&log.until_end("t"), &recorded);
    let mut read = second.read_to_the_end(1 << 20);
    let mut all = before.ids;
    all.append(&mut read.get_mut("t/0").unwrap().ids);
    assert_eq!(all, ids((0..300).filter(|id| id % 2 == 0)));
    let mut whole = opened(&log.until_end("t"), &[]);
    whole.read_to_the_end(1 << 20);
    assert_eq!(whole.bindings(), second.bindings(), "the digest went on from its text");
}

#[test]
fn a_replay_reads_the_recorded_range_and_nothing_behind_it() {
    let log = Log::new();
    log.load("t", 1, 0..100);
    let source = log.live("t");
    let mut first = opened(&source, &[]);
    first.until(0, (3_000, None), |_, read| read.ids.len() >= 30).unwrap();
    let end = first.reader.position(0);
    let mut again = opened(&source, &[]);
    let read = again.until(0, (100, Some(end.offset)), |r, _| r.reader.position(0).offset >= end.offset).unwrap();
    assert_eq!(read.ids, ids(0..end.offset));
    assert_eq!(again.reader.position(0).digest, end.digest);
    assert!(again.reader.read(0, 1_000, Some(end.offset)).unwrap().is_none());
    // Bound after the checkpoint: handed back without a digest, and read again from where it began.
    let mut recorded = first.bindings();
    (recorded[0].end, recorded[0].lines, recorded[0].digest) = (0, 0, String::new());
    recorded[0].detail["start"] = 5.into();
    let mut from_start = opened(&source, &recorded);
    let bound_again = from_start.until(0, (100, Some(10)), |r, _| r.reader.position(0).offset >= 10).unwrap();
    assert_eq!(bound_again.ids, ids(5..10));
}

#[test]
fn a_source_until_offsets_stops_there_reads_no_other_partition_and_goes_on_in_a_later_run() {
    let log = Log::new();
    log.load("t", 3, 0..300);
    let ends = [("t/0".to_owned(), 10), ("t/1".to_owned(), 1_000)].into();
    let mut reading = opened(&log.live("t").until_offsets(ends), &[]);
    assert!(reading.reader.bounded() && !reading.reader.over_when_finished());
    let read = reading.read_to_the_end(500);
    assert_eq!(read["t/0"].ids, ids((0..30).filter(|id| id % 3 == 0)));
    assert_eq!(read["t/1"].ids.len(), 100, "no further than it goes");
    assert_eq!(read["t/2"].ids.len(), 0);
    let later_ends = [("t/0".to_owned(), 20), ("t/1".to_owned(), 50)].into();
    let mut later = opened(&log.live("t").until_offsets(later_ends), &reading.bindings());
    let read_later = later.read_to_the_end(500);
    assert_eq!(read_later["t/0"].ids, ids((30..60).filter(|id| id % 3 == 0)));
    assert_eq!(read_later["t/1"].ids.len(), 0, "what was read is not taken back");
}

#[test]
fn an_end_that_was_decided_at_the_start_does_not_move() {
    let log = Log::new();
    log.load("t", 1, 0..10);
    let mut reading = opened(&log.until_end("t"), &[]);
    log.load("t", 1, 10..20);
    assert_eq!(reading.read_to_the_end(1 << 20)["t/0"].ids, ids(0..10));
    assert!(reading.reader.position(0).finished);
}

#[test]
fn a_broken_record_is_a_dead_letter_with_its_offset() {
    let log = Log::new();
    let pretty = event(7).replace(',', ",\n");
    log.append("t", 0, &[b"{}", pretty.as_bytes(), b"", b"\0\0\0\0\x07avro", b"\xff"]);
    let read = opened(&log.until_end("t"), &[]).read_to_the_end(1 << 20);
    assert_eq!(read["t/0"].ids, ["e7"]);
    let offsets: Vec<u64> = read["t/0"].letters.iter().map(|(offset, _)| *offset).collect();
    assert_eq!(offsets, [0, 2, 3, 4]);
}

#[test]
fn a_start_is_earliest_latest_or_a_time() {
    let log = Log::new();
    log.load("t", 2, 0..400);
    let first = |start: Start| {
        let config = LogConfig { start, ..log.config("t") };
        let reading = opened(&LogSource::new(config), &[]);
        [reading.reader.position(0).offset, reading.reader.position(1).offset]
    };
    assert_eq!(first(Start::Earliest), [0, 0]);
    assert_eq!(first(Start::Latest), [200, 200]);
    assert_eq!(first(Start::Time(0)), [0, 0]);
    // Hundreds of events were appended at once, at the time of the first one.
    assert_eq!(first(Start::Time(101)), [100, 100]);
    assert_eq!(first(Start::Time(300)), [150, 150]);
    assert_eq!(first(Start::Time(301)), [200, 200]);
}
