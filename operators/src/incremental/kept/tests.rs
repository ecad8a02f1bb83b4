//! The kept rows against a plain list of insertions: any number of workers, a snapshot and a restore anywhere.

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
    let record = (0..NAMES.len(), -70i64..40, 0u8..3, prop::sample::select(vec![1, 1, 1, 2, -1, -1, -2]));
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

    /// Gives the changes, and how many retractions met nothing.
    fn close(&mut self, records: &[Record], after: i64) -> (Vec<Change<u8>>, u64) {
        let owned = |(name, at, row, diff): &Record| {
            (key("t", NAMES[*name]).to_owned(), (EventTime(*at), Change::by(*diff, *row)))
        };
        let rows: Vec<_> = records.iter().map(owned).collect();
        let out = self.0.close(&rows, Some(EventTime(after)));
        (out.records, out.counts.get("unmatched").copied().unwrap_or(0))
    }
}

/// The insertions that are kept, and the retractions that wait for theirs, one by one: key, row and event time.
struct Naive {
    retain: Retain,
    kept: Vec<(usize, u8, i64)>,
    waiting: Vec<(usize, u8, i64)>,
}

impl Naive {
    /// The rows of the collection after an epoch of records whose time is not over, and how many retractions ended that met
    /// nothing.
    fn close(&mut self, records: &[Record], before: i64, after: i64) -> (BTreeMap<u8, i64>, u64) {
        let Naive { retain, kept, waiting: retractions } = self;
        let mut unmatched = 0;
        let mut let_go = |all: &mut Vec<(usize, u8, i64)>, under: i64| {
            let was = all.len();
            all.retain(|(.., at)| !retain.is_over(EventTime(*at), Some(EventTime(under))));
            unmatched += (was - all.len()) as u64;
        };
        let_go(retractions, before);
        kept.retain(|(.., at)| !retain.is_over(EventTime(*at), Some(EventTime(before))));
        for (name, at, row, diff) in records {
            let side = if *diff > 0 { &mut *kept } else { &mut *retractions };
            side.extend(std::iter::repeat_n((*name, *row, *at), usize::try_from(diff.unsigned_abs()).unwrap()));
        }
        let missed = |all: &mut Vec<_>, at: Option<usize>| at.map(|at| all.swap_remove(at)).is_none();
        retractions.retain(|back| {
            let own_time = kept.iter().position(|one| one == back);
            missed(kept, own_time)
        });
        retractions.sort_by_key(|(.., at)| *at);
        retractions.retain(|(name, row, _)| {
            let same = |(_, (n, r, _)): &(usize, &(usize, u8, i64))| (n, r) == (name, row);
            let oldest = kept.iter().enumerate().filter(same).min_by_key(|(_, (.., at))| *at).map(|(at, _)| at);
            missed(kept, oldest)
        });
        let mut rows = BTreeMap::new();
        for (_, row, at) in kept {
            let is_in = match retain.0 {
                Span::Last(span) => (after - span + 1..=after).contains(at),
                Span::AtLeast(_) | Span::Forever => true,
            };
            *rows.entry(*row).or_default() += i64::from(is_in);
        }
        rows.retain(|_, n| *n != 0);
        if matches!(retain.0, Span::Last(_)) {
            let_go(retractions, after);
        }
        (rows, unmatched)
    }
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
        let (mut naive, mut shown) = (Naive { retain, kept: Vec::new(), waiting: Vec::new() }, BTreeMap::new());
        shards.close(&[], before);
        for (number, (records, after)) in epochs.iter().enumerate() {
            // Who sends them leaves out those whose time is over.
            let in_time = |(_, at, ..): &&Record| !retain.is_over(EventTime(*at), Some(EventTime(before)));
            let records: Vec<Record> = records.iter().filter(in_time).copied().collect();
            let (given, unmatched) = shards.close(&records, *after);
            add(&mut shown, given);
            let wanted = naive.close(&records, before, *after);
            prop_assert_eq!((&shown, unmatched), (&wanted.0, wanted.1), "epoch {}", number);
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

/// An epoch of one key: the records (event time, row, how often), the watermark after them, and what is in the collection
/// then.
type Epoch<'a> = (&'a [(i64, u8, i64)], i64, &'a [(u8, i64)]);

fn follows(retain: Retain, epochs: &[Epoch<'_>]) -> Workers {
    let (mut workers, mut shown) = (Workers::new(1, retain), BTreeMap::new());
    workers.close(&[], -1_000);
    for (records, after, wanted) in epochs {
        let records: Vec<Record> = records.iter().map(|(at, row, diff)| (0, *at, *row, *diff)).collect();
        add(&mut shown, workers.close(&records, *after).0);
        assert_eq!(shown, wanted.iter().copied().collect(), "at {after}");
    }
    workers
}

#[test]
fn a_retraction_of_another_time_takes_back_its_insertion_and_nothing_is_kept() {
    let forever = follows(Retain::forever(), &[(&[(1, 7, 1)], 1, &[(7, 1)]), (&[(2, 7, -1)], 2, &[])]);
    assert_eq!(forever.0.entries(), 0);
    let last = Retain(Span::Last(10));
    // Asserted at 0, taken back at 5, asserted again at 6.
    let again = [(0, 7, 1), (5, 7, -1), (6, 7, 1)];
    follows(last, &[(&again, 6, &[(7, 1)]), (&[], 12, &[(7, 1)]), (&[], 16, &[])]);
    let gone = follows(last, &[(&[(0, 7, 1)], 0, &[(7, 1)]), (&[(5, 7, -1)], 3, &[]), (&[], 12, &[])]);
    assert_eq!(gone.0.entries(), 0);
}

#[test]
fn of_equal_rows_a_retraction_takes_the_one_of_its_time_else_the_oldest() {
    let two: &[_] = &[(0, 7, 1), (5, 7, 1)];
    let last = Retain(Span::Last(10));
    follows(last, &[(two, 5, &[(7, 2)]), (&[(5, 7, -1)], 5, &[(7, 1)]), (&[], 10, &[])]);
    follows(last, &[(two, 5, &[(7, 2)]), (&[(4, 7, -1)], 5, &[(7, 1)]), (&[], 10, &[(7, 1)]), (&[], 15, &[])]);
    // One that waits for its time is taken back before it comes in.
    follows(last, &[(&[(9, 7, 1)], 5, &[]), (&[(4, 7, -1)], 5, &[]), (&[], 10, &[])]);
}

#[test]
fn a_retraction_that_comes_first_waits_for_its_insertion_and_shows_nowhere() {
    for retain in [Retain(Span::Last(10)), Retain(Span::AtLeast(10)), Retain::forever()] {
        // Of its own time, and of another one.
        for time in [3, 4] {
            let first = follows(retain, &[(&[(3, 7, -1)], 5, &[]), (&[(time, 7, 1)], 5, &[])]);
            assert_eq!(first.0.entries(), 0, "{retain}, inserted at {time}");
        }
    }
}

#[test]
fn a_retraction_that_meets_nothing_is_counted_when_its_time_is_over_and_counts_against_nothing() {
    let mut workers = Workers::new(2, Retain(Span::Last(10)));
    workers.close(&[], -1_000);
    // There is one of the row, and one of another key.
    let (given, unmatched) = workers.close(&[(0, 3, 7, -3), (0, 2, 7, 1), (1, 3, 7, 1)], 5);
    assert_eq!((given, unmatched), (vec![Change::insert(7)], 0));
    assert_eq!(workers.close(&[], 13).1, 2);
    assert_eq!(workers.close(&[(0, 12, 7, 1)], 13), (vec![Change::insert(7)], 0));
}
