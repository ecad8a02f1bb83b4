//! Tumbling windows against a map of all records.

use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::prelude::*;
use tidemill_dataflow::key::key;
use tidemill_dataflow::keyed::{Chunk, Emit, ShardLogic};
use tidemill_dataflow::time::{EpochTime, minutes, seconds};

use super::*;
use crate::aggregate::{Aggregate, Hashes, count, distinct, sum};

#[derive(Clone, Copy, Debug)]
struct View {
    page: u8,
    user: u8,
    time: i64,
}

fn aggregate() -> impl Aggregate<View, Partial = (i64, i64, Hashes)> {
    (count(), sum(|v: &View| i64::from(v.user)), distinct(|v: &View| u64::from(v.user)))
}

const CLOCKS: EpochTime = EpochTime { epoch: 1, before: None, after: None };

type Row = WindowRow<(i64, i64, Hashes)>;

/// One epoch on some workers: record `n` is read by worker `n % readers`.
fn epoch(views: &[View], readers: u32, width: Duration) -> Vec<Row> {
    let aggregate = Rc::new(aggregate());
    let mut chunks: BTreeMap<u32, Vec<Chunk<Row>>> = BTreeMap::new();
    for reader in 0..readers {
        let mut combiner = WindowCombiner::new(&Tumbling::of(width), Rc::clone(&aggregate));
        for view in views.iter().skip(reader as usize).step_by(readers as usize) {
            combiner.add(key("t", format!("/{}", view.page).as_str()), EventTime(view.time), view);
        }
        combiner.drain(reader, readers).into_iter().for_each(|chunk| chunks.entry(chunk.dest).or_default().push(chunk));
        assert!(combiner.is_empty());
    }
    let mut rows = Vec::new();
    for input in chunks.into_values() {
        let mut out = Emit::default();
        MergeLogic::new(&Tumbling::of(width), Rc::clone(&aggregate)).close_epoch(CLOCKS, input, &mut out);
        assert!(out.records.is_sorted_by(|a, b| (a.start, &a.key) < (b.start, &b.key)));
        rows.append(&mut out.records);
    }
    rows.sort_by(|a, b| (a.start, &a.key).cmp(&(b.start, &b.key)));
    rows
}

proptest! {
    #[test]
    fn an_epoch_gives_each_window_and_key_once_with_all_its_records(
        views in prop::collection::vec((0u8..4, 0u8..9, -5_000i64..5_000), 0..200), readers in 1u32..5,
    ) {
        let views: Vec<_> = views.into_iter().map(|(page, user, time)| View { page, user, time }).collect();
        let mut expected: BTreeMap<(i64, String), (i64, i64, Vec<u64>)> = BTreeMap::new();
        for view in &views {
            let cell = expected.entry((view.time.div_euclid(1_000) * 1_000, format!("/{}", view.page))).or_default();
            cell.0 += 1;
            cell.1 += i64::from(view.user);
            cell.2.push(u64::from(view.user));
            cell.2.sort_unstable();
            cell.2.dedup();
        }
        let rows = epoch(&views, readers, seconds(1));
        prop_assert_eq!(&rows, &epoch(&views, 1, seconds(1)));
        let given: Vec<_> = rows
            .into_iter()
            .map(|row| ((row.start.0, row.key.texts().1.into_owned()), (row.value.0, row.value.1, row.value.2.0)))
            .collect();
        prop_assert_eq!(given, expected.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_record_is_late_once_the_watermark_is_at_the_end_of_its_window() {
    let windows = Tumbling::of(minutes(1));
    let late = |before| windows.is_late(EventTime(59_999), before);
    assert!(!late(None));
    assert!(!late(Some(EventTime(59_999))));
    assert!(late(Some(EventTime(60_000))));
    assert!(!windows.is_late(EventTime(60_000), Some(EventTime(60_000))));
}

#[test]
fn a_width_of_zero_is_refused_and_says_what_to_do() {
    let error = Tumbling::of(Duration::ZERO).validate().unwrap_err().to_string();
    assert!(error.contains("0 ms") && error.contains("give it another duration"), "{error}");
    assert!(Tumbling::of(Duration::MAX).validate().is_err());
    assert!(Tumbling::of(minutes(1)).late(Late::Side).validate().is_ok());
}

#[test]
fn a_combiner_starts_each_epoch_empty() {
    let mut combiner = WindowCombiner::new(&Tumbling::of(minutes(1)), Rc::new(count()));
    for _ in 0..2 {
        combiner.add(key("t", "a"), EventTime(5), &());
        combiner.add(key("t", "a"), EventTime(59_999), &());
        assert_eq!(combiner.len(), 1);
        let chunks = combiner.drain(0, 1);
        assert_eq!(chunks[0].rows[0].value, 2);
    }
    assert!(combiner.drain(0, 1).is_empty());
}
