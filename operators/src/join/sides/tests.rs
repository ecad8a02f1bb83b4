//! What a join shows of the records that come too late for it.

use tidemill_dataflow::key::key;
use tidemill_dataflow::testing::{memory, text};
use tidemill_dataflow::time::seconds;

use super::*;
use crate::join::{JoinOps, Within};
use crate::late_lines::shown_as_late;

#[test]
fn late_records_of_both_sides_are_shown_to_those_who_watch() {
    let store = memory();
    let pairs = text("pairs", &store, |(left, right): &(u64, u64)| format!("{left} {right}"));
    let numbers = shown_as_late(&store, ("near", "late"), move |records| {
        let side = |odd| records.clone().filter(move |(_, number)| number % 2 == odd).key_by(|_| key("t", "all"));
        let near = side(0).join_interval("near", side(1), Within::after(seconds(1))).late(Late::Drop);
        near.inner(|left, right| (left.1, right.1)).rows.sink("pairs", pairs());
    });
    assert!([0, 1].into_iter().all(|odd| numbers.iter().any(|number| number % 2 == odd)), "{numbers:?}");
}
