//! Tumbling windows against a map of all records.

use std::rc::Rc;

use proptest::prelude::*;
use tidemill_dataflow::key::key;
use tidemill_dataflow::keyed::{Emit, ShardLogic};
use tidemill_dataflow::time::{EpochTime, minutes};

use super::*;
use crate::aggregate::{Count, count};
use crate::window::laws::{check_deltas, script};

proptest! {
    #[test]
    fn an_epoch_gives_each_window_and_key_once_with_all_its_records(
        script in script(90), workers in prop::collection::vec(1u32..5, 8), width in 1i64..40,
        policy in prop::sample::select(vec![Late::Correct, Late::Side, Late::Drop]),
    ) {
        let windows = Tumbling::of(Duration::from_millis(width.unsigned_abs())).late(policy);
        check_deltas(&windows, (width, width), &script, &workers);
    }

    #[test]
    fn the_rows_of_an_epoch_come_by_window_and_key(views in prop::collection::vec((0u8..4, -5_000i64..5_000), 0..200)) {
        let (windows, aggregate) = (Tumbling::of(Duration::from_secs(1)), Rc::new(count()));
        let mut combiner = WindowCombiner::new(&windows, Rc::clone(&aggregate));
        for (page, time) in &views {
            combiner.add(key("t", format!("/{page}").as_str()), EventTime(*time), &());
        }
        let (mut out, clocks) = (Emit::default(), EpochTime { epoch: 1, before: None, after: None });
        MergeLogic::<(), Count>::new(&windows, aggregate).close_epoch(clocks, combiner.drain(0, 1), &mut out);
        prop_assert!(combiner.is_empty());
        prop_assert!(out.records.is_sorted_by(|a, b| (a.start, &a.key) < (b.start, &b.key)));
        prop_assert_eq!(out.records.iter().map(|row| row.value).sum::<i64>(), views.len() as i64);
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
