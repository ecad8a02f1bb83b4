//! The laws of [`PerKey`], on a small logic whose every result shows what it saw.

use proptest::prelude::*;

use super::*;
use crate::batch::Order;
use crate::key_group::owner;
use crate::time::Epoch;

/// Keeps the sum of a key until event time has moved `IDLE` past the last record, then gives it and forgets the key.
struct SumUntilIdle;

const IDLE: i64 = 50;

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Sum {
    total: i64,
    last: i64,
    marks: Vec<i64>,
}

/// (key, epoch, records seen, total after, whether the key was forgotten)
type Given = (String, Epoch, usize, i64, bool);

impl KeyedLogic for SumUntilIdle {
    type In = (i64, i64);
    type State = Sum;
    type Out = Given;
    const STATE_VERSION: u32 = 1;

    fn on_epoch(
        &self,
        key: &OwnedKey,
        state: &mut Sum,
        records: &mut Vec<(i64, i64)>,
        time: EpochTime,
        out: &mut Emit<Given>,
    ) -> Keep {
        for &(at, value) in records.iter() {
            state.total += value;
            state.last = state.last.max(at);
            state.marks.push(at);
        }
        let idle = time.after >= Some(EventTime(state.last + IDLE));
        out.give((key.texts().1.into_owned(), time.epoch, records.len(), state.total, idle));
        if idle { Keep::Remove } else { Keep::Keep }
    }

    fn deadline(&self, state: &Sum) -> Option<EventTime> {
        Some(EventTime(state.last + IDLE))
    }

    fn heap_bytes(&self, state: &Sum) -> usize {
        state.marks.capacity() * size_of::<i64>()
    }
}

/// The records of an epoch (key number, event time, value) and the watermark after it.
type Script = Vec<(Vec<(u8, i64, i64)>, Option<i64>)>;

/// One worker each over its part of the key groups.
struct Workers(Vec<PerKey<SumUntilIdle>>);

impl Workers {
    fn new(count: u32) -> Self {
        Workers((0..count).map(|_| PerKey::new(SumUntilIdle)).collect())
    }

    fn run(&mut self, script: &Script, first: Epoch, mut before: Watermark) -> (Vec<Given>, Watermark) {
        let workers = u32::try_from(self.0.len()).unwrap();
        let mut given = Vec::new();
        for (epoch, (records, after)) in (first..).zip(script) {
            let after = after.map(EventTime).max(before);
            let mut chunks: Vec<_> =
                (0..workers).map(|dest| Chunk { dest, from: 0, order: Order::default(), rows: Vec::new() }).collect();
            for &(number, at, value) in records {
                let owned = key("t", format!("k{number}").as_str()).to_owned();
                chunks[owner(group_of(owned.hash()), workers) as usize].rows.push((owned, (at, value)));
            }
            for (logic, chunk) in self.0.iter_mut().zip(chunks) {
                let mut out = Emit::default();
                logic.close_epoch(EpochTime { epoch, before, after }, vec![chunk], &mut out);
                given.extend(out.records);
            }
            before = after;
        }
        given.sort();
        (given, before)
    }

    fn changes(&mut self) -> Vec<Section> {
        self.0.iter_mut().filter_map(PerKey::changes).flat_map(|changes| (changes.encode)()).collect()
    }

    fn restored(count: u32, pieces: &[Vec<Section>], watermark: Watermark) -> Self {
        let mut workers = Workers::new(count);
        for section in pieces.iter().flatten() {
            let at = owner(section.group, count) as usize;
            workers.0[at].restore(section.group, &section.bytes).unwrap();
        }
        workers.0.iter_mut().for_each(|logic| logic.restored(watermark));
        workers
    }

    /// Every key with its state, sorted.
    fn contents(&self) -> Vec<(OwnedKey, Sum)> {
        let slots = self.0.iter().flat_map(|logic| logic.slots.iter().flatten());
        let mut all: Vec<_> = slots.map(|slot| (slot.key.clone(), slot.state.clone())).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

fn fold_all(pieces: &[Vec<Section>], oldest: bool) -> Vec<Section> {
    let mut groups: BTreeMap<KeyGroup, Vec<&[u8]>> = BTreeMap::new();
    for section in pieces.iter().flatten() {
        groups.entry(section.group).or_default().push(&section.bytes);
    }
    let fold = |sections: &[&[u8]]| PerKey::<SumUntilIdle>::fold(sections, None, oldest).unwrap();
    groups.into_iter().map(|(group, sections)| Section { group, bytes: fold(&sections) }).collect()
}

fn script(epochs: usize) -> impl Strategy<Value = Script> {
    let record = (0u8..6, 0i64..400, -5i64..5);
    let epoch = (prop::collection::vec(record, 0..6), prop::option::of(0i64..500));
    prop::collection::vec(epoch, 0..epochs)
}

proptest! {
    #[test]
    fn a_restored_logic_goes_on_like_one_that_never_stopped(
        parts in prop::collection::vec(script(5), 1..5), rest in script(8), workers in 1u32..5, then in 1u32..5,
    ) {
        let mut straight = Workers::new(workers);
        let mut pieces = Vec::new();
        let (mut epoch, mut watermark) = (1, None);
        for part in &parts {
            watermark = straight.run(part, epoch, watermark).1;
            epoch += part.len() as u64;
            pieces.push(straight.changes());
        }
        let mut restored = Workers::restored(then, &pieces, watermark);
        let mut folded = Workers::restored(then, &[fold_all(&pieces, true)], watermark);
        let in_two = fold_all(&[fold_all(&pieces[..1], true), fold_all(&pieces[1..], false)], true);
        let mut refolded = Workers::restored(then, &[in_two], watermark);
        prop_assert_eq!(straight.contents(), restored.contents());
        prop_assert_eq!(straight.contents(), folded.contents());
        prop_assert_eq!(straight.contents(), refolded.contents());
        let expected = straight.run(&rest, epoch, watermark);
        prop_assert_eq!(&expected, &restored.run(&rest, epoch, watermark));
        prop_assert_eq!(&expected, &folded.run(&rest, epoch, watermark));
        prop_assert_eq!(&expected, &refolded.run(&rest, epoch, watermark));
        // What is written after a restore goes on top of what was there before it.
        pieces.push(restored.changes());
        prop_assert_eq!(straight.contents(), Workers::restored(workers, &pieces, expected.1).contents());
    }

    #[test]
    fn workers_do_not_change_what_is_given(all in script(20), workers in 2u32..6) {
        prop_assert_eq!(Workers::new(1).run(&all, 1, None), Workers::new(workers).run(&all, 1, None));
    }

    #[test]
    fn a_deadline_fires_in_the_first_epoch_that_reaches_it_and_only_there(all in script(20)) {
        let (given, _) = Workers::new(1).run(&all, 1, None);
        prop_assert_eq!(given, naive(&all));
    }
}

/// The same rule over one map, looking at every key in every epoch.
fn naive(script: &Script) -> Vec<Given> {
    let mut keys: BTreeMap<u8, Sum> = BTreeMap::new();
    let mut given = Vec::new();
    let mut after = None;
    for (epoch, (records, watermark)) in (1..).zip(script) {
        after = after.max(*watermark);
        let mut seen: BTreeMap<u8, usize> = BTreeMap::new();
        for &(number, at, value) in records {
            let state = keys.entry(number).or_default();
            state.total += value;
            state.last = state.last.max(at);
            *seen.entry(number).or_default() += 1;
        }
        keys.retain(|number, state| {
            let idle = after >= Some(state.last + IDLE);
            let count = seen.get(number).copied().unwrap_or(0);
            if idle || count > 0 {
                given.push((format!("k{number}"), epoch, count, state.total, idle));
            }
            !idle
        });
    }
    given.sort();
    given
}

#[test]
fn nothing_changed_is_no_piece() {
    let mut workers = Workers::new(1);
    workers.run(&vec![(vec![(1, 10, 1)], None)], 1, None);
    assert_eq!(workers.changes().len(), 1);
    workers.run(&vec![(vec![], None)], 2, None);
    assert!(workers.0[0].changes().is_none());
}

#[test]
fn a_key_that_was_never_stored_leaves_no_tombstone() {
    let mut workers = Workers::new(1);
    workers.run(&vec![(vec![(1, 10, 1)], Some(1_000))], 1, None);
    assert!(workers.0[0].changes().is_none());
    assert_eq!(workers.0[0].size().entries, 0);
    assert_eq!(workers.0[0].heap_bytes, 0);
}

#[test]
fn torn_sections_are_refused() {
    let mut workers = Workers::new(1);
    workers.run(&vec![(vec![(1, 10, 1), (1, 20, 2)], None)], 1, None);
    let section = workers.changes().remove(0);
    for cut in 1..section.bytes.len() {
        assert!(PerKey::new(SumUntilIdle).restore(section.group, &section.bytes[..cut]).is_err(), "cut at {cut}");
    }
    let error = PerKey::new(SumUntilIdle).restore(section.group.wrapping_add(1), &section.bytes).unwrap_err();
    assert!(error.to_string().contains("not of group"), "{error}");
}
