//! The order in which a logic that is sensitive to order sees a key's records of an epoch: by event time, then by bytes.
//!
//! It depends on the records alone, never on how they arrived or on how many workers there are (INV-2).

use serde::Serialize;

use crate::time::EventTime;

/// The bytes as which a record travels and is stored: what breaks ties.
///
/// # Panics
/// If the record does not serialize: it is made of plain data, without maps or sequences of unknown length.
#[must_use]
pub fn encoded<R: Serialize>(record: &R) -> Vec<u8> {
    postcard::to_stdvec(record).expect("what travels between workers always serializes into a growing vector")
}

/// Sorts records by (event time, encoded bytes). Only records of the same time are encoded.
pub fn in_order<R: Serialize>(records: &mut [(EventTime, R)]) {
    records.sort_by_key(|(time, _)| *time);
    for tied in records.chunk_by_mut(|a, b| a.0 == b.0).filter(|tied| tied.len() > 1) {
        tied.sort_by_cached_key(|(_, record)| encoded(record));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_arrival_gives_the_same_order(
            records in prop::collection::vec((0i64..4, "[ab]{0,3}"), 0..12).prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
        ) {
            let timed = |all: Vec<(i64, String)>| all.into_iter().map(|(t, s)| (EventTime(t), s)).collect::<Vec<_>>();
            let (mut one, mut other) = (timed(records.0), timed(records.1));
            in_order(&mut one);
            in_order(&mut other);
            prop_assert!(one.is_sorted_by_key(|(time, text)| (*time, encoded(text))));
            prop_assert_eq!(one, other);
        }
    }
}
