//! The kept rows against a plain list of them: any number of workers, a snapshot and a restore anywhere.

use proptest::prelude::*;
use tidemill_dataflow::key::key;
use tidemill_dataflow::keyed::PerKey;

use super::*;
use crate::shards::Shards;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
type Logic = PerKey<Keeping<u8>>;

/// A record: its key, event time, row and how often it is inserted or retracted.
type Record = (usize, i64, u8, i64);

/// Epochs of records around the watermark, and how far it moves in each.
fn script() -> impl Strategy<Value = Vec<(Vec<Record>, i64)>> {
    let record = (0..NAMES.len(), -70i64..40, 0u8..3, prop::sample::select(vec![1, 1, 1, 2, -1]));
    let epoch = (prop::collection::vec(record, 0..8), prop_oneof![2 => Just(0), 5 => 0i64..30, 1 => 0i64..200]);
    prop::collection::vec(epoch, 1..20).prop_map(|mut epochs| {
        let mut before = 1_000;
        for (records, moves) in &mut epochs {
            records.iter_mut().for_each(|(_, time, ..)| *time += before);
            before += *moves;
            *moves = before;
        }
        epochs
    })
}

struct Workers(Shards<Logic>);

impl Workers {
    fn new(count: u32, retain: Retain) -> Self {
        Workers(Shards::new(count, || PerKey::new(Keeping::new(retain))))
    }

    /// Gives the changes, and how many records came too late.
    fn close(&mut self, records: &[Record], after: i64) -> (Vec<Change<u8>>, u64) {
        let owned = |(name, at, row, diff): &Record| {
            (key("t", NAMES[*name]).to_owned(), (EventTime(*at), Change::by(*diff, *row)))
        };
        let rows: Vec<_> = records.iter().map(owned).collect();
        let out = self.0.close(&rows, Some(EventTime(after)));
        (out.records, out.counts.get("expired").copied().unwrap_or(0))
    }
}

/// The rows of `records` that are in the collection after an epoch, if the watermark was `before` and is `after`.
fn naive(records: &[Record], retain: Retain, before: i64, after: i64) -> BTreeMap<u8, i64> {
    let mut rows = BTreeMap::new();
    for (_, at, row, diff) in records {
        let is_in = match retain.0 {
            Span::Last(span) => (after - span + 1..=after).contains(at),
            Span::AtLeast(span) => at + span > before,
            Span::Forever => true,
        };
        *rows.entry(*row).or_default() += if is_in { *diff } else { 0 };
    }
    rows.retain(|_, n| *n != 0);
    rows
}

fn add(rows: &mut BTreeMap<u8, i64>, changes: impl IntoIterator<Item = Change<u8>>) {
    for Change { row, diff } in changes {
        *rows.entry(row).or_default() += diff;
    }
    rows.retain(|_, n| *n != 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_collection_is_a_function_of_what_was_read_and_of_the_watermark(
        epochs in script(), workers in 1u32..5, (stop, other) in (0usize..20, 1u32..5), fold in any::<bool>(),
        retain in prop::sample::select(vec![Retain(Span::Last(50)), Retain(Span::AtLeast(50)), Retain(Span::Forever)]),
    ) {
        let (mut shards, mut before) = (Workers::new(workers, retain), 1_000);
        let (mut read, mut shown) = (Vec::new(), BTreeMap::new());
        shards.close(&[], before);
        for (number, (records, after)) in epochs.iter().enumerate() {
            let (given, expired) = shards.close(records, *after);
            let (late, kept): (Vec<Record>, Vec<Record>) =
                records.iter().partition(|(_, at, ..)| retain.leaves(EventTime(*at)) <= EventTime(before));
            prop_assert_eq!(expired, late.len() as u64);
            // What comes in after its time is over changes nothing, also where it retracts.
            read.extend(kept);
            add(&mut shown, given);
            prop_assert_eq!(&shown, &naive(&read, retain, before, *after), "epoch {}", number);
            before = *after;
            if number % 3 == 0 {
                shards.0.snapshot();
            }
            if number == stop {
                shards = Workers(shards.0.moved(other, || PerKey::new(Keeping::new(retain)), fold));
                let mut refed = BTreeMap::new();
                add(&mut refed, shards.0.refeed());
                prop_assert_eq!(&refed, &shown, "what is fed again after epoch {}", number);
            }
        }
        // Time goes on without records: nothing stays that has an end.
        if retain != Retain::forever() {
            for moves in [1_000, 2_000] {
                before += moves;
                add(&mut shown, shards.close(&[], before).0);
            }
            prop_assert!(shown.is_empty());
            prop_assert_eq!(shards.0.entries(), 0);
        }
    }
}

#[test]
fn a_row_that_is_taken_back_in_its_own_epoch_was_never_there() {
    let mut shards = Workers::new(1, Retain::forever());
    let (given, _) = shards.close(&[(0, 5, 1, 1), (0, 5, 1, -1)], 0);
    assert!(given.is_empty() && shards.0.entries() == 0);
}
