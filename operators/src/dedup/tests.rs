//! Deduplication against its oracle, across epochs, snapshots, folds, restores and other worker counts.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemill_dataflow::keyed::Section;
use tidemill_dataflow::time::{hours, minutes};

use super::*;
use crate::oracle::NaiveDedup;

const MINUTE: i64 = 60_000;

/// One epoch: rows of (id, time, fingerprint) and how far the watermark moves before it, in milliseconds.
#[derive(Clone, Debug)]
struct Epoch {
    moves: Option<i64>,
    rows: Vec<(u8, i64, u32)>,
}

fn id_of(number: u8) -> u128 {
    tidemill_dataflow::hash::hash128(&[number], 1)
}

/// Epochs whose rows are around the watermark, far behind and far ahead of it; now and then the watermark jumps.
fn epochs() -> impl Strategy<Value = Vec<Epoch>> {
    let near = -70 * MINUTE..70 * MINUTE;
    let offset = prop_oneof![8 => near, 1 => -400 * MINUTE..0, 1 => 0..600 * MINUTE];
    let row = (0u8..40, offset, 0u32..2);
    let moves = prop_oneof![
        6 => Just(Some(0)), 12 => (0..5 * MINUTE).prop_map(Some), 3 => (0..80 * MINUTE).prop_map(Some),
        1 => (0..700 * MINUTE).prop_map(Some), 1 => Just(None),
    ];
    let epoch = (moves, prop::collection::vec(row, 0..12)).prop_map(|(moves, rows)| Epoch { moves, rows });
    prop::collection::vec(epoch, 1..60)
}

/// The epochs with absolute times: (watermark before, rows).
fn absolute(epochs: &[Epoch]) -> Vec<(Watermark, Vec<IdRow>)> {
    let (mut now, mut known) = (500 * MINUTE, false);
    let mut all = Vec::new();
    for epoch in epochs {
        known |= epoch.moves.is_some();
        now += epoch.moves.unwrap_or(0);
        let row = |(row, &(id, offset, fingerprint)): (u32, &(u8, i64, u32))| {
            // Times repeat, so that plain duplicates are as likely as conflicting ones.
            IdRow::new(id_of(id), EventTime((now + offset) / (10 * MINUTE) * (10 * MINUTE)), fingerprint, row)
        };
        all.push((known.then_some(EventTime(now)), (0..).zip(&epoch.rows).map(row).collect()));
    }
    all
}

/// One logic for each of some workers.
struct Workers(Vec<DedupLogic>);

impl Workers {
    fn new(count: u32, horizon: Duration) -> Self {
        Workers((0..count).map(|_| DedupLogic::new(horizon)).collect())
    }

    fn close(&mut self, before: Watermark, rows: &[IdRow]) -> BTreeMap<u32, Verdict> {
        let count = u32::try_from(self.0.len()).unwrap();
        let mut verdicts = BTreeMap::new();
        for chunk in partition_ids(Order::default(), 7, count, rows.iter().copied()) {
            let dest = chunk.dest as usize;
            let mut out = Emit::default();
            self.0[dest].close_epoch(EpochTime { epoch: 1, before, after: None }, vec![chunk], &mut out);
            let of = |name| out.counts.get(name).copied().unwrap_or(0);
            let excepted: usize = out.records.iter().map(|block| block.exceptions.len()).sum();
            assert_eq!(of("duplicates") + of("unverified"), excepted as u64);
            assert_eq!(UNVERIFIED_AGES.iter().map(|(name, _)| of(name)).sum::<u64>(), of("unverified"));
            for given in out.records {
                assert_eq!(given.dest, 7);
                assert!(given.exceptions.is_sorted_by(|a, b| a.0 < b.0));
                verdicts.extend(given.exceptions);
            }
        }
        verdicts
    }

    fn changes(&mut self) -> (Vec<Section>, Option<EventTime>) {
        let mut sections = Vec::new();
        let mut expires = Some(EventTime(i64::MIN));
        for changes in self.0.iter_mut().filter_map(DedupLogic::changes) {
            expires = expires.zip(changes.expires).map(|(a, b)| a.max(b));
            sections.extend((changes.encode)());
        }
        (sections, expires)
    }

    fn restored(count: u32, horizon: Duration, pieces: &[Vec<Section>], watermark: Watermark) -> Self {
        let mut workers = Workers::new(count, horizon);
        for section in pieces.iter().flatten() {
            let at = owner(section.group, count) as usize;
            workers.0[at].restore(section.group, &section.bytes).unwrap();
        }
        workers.0.iter_mut().for_each(|logic| logic.restored(watermark));
        workers
    }

    fn live(&self) -> u64 {
        self.0.iter().map(|logic| logic.size().entries).sum()
    }
}

fn fold(pieces: &[Vec<Section>], low: Watermark) -> Vec<Section> {
    let mut groups: BTreeMap<u8, Vec<&[u8]>> = BTreeMap::new();
    pieces.iter().flatten().for_each(|section| groups.entry(section.group).or_default().push(&section.bytes));
    let bytes = |sections: &Vec<&[u8]>| DedupLogic::fold(sections, low, true).unwrap();
    groups.iter().map(|(&group, sections)| Section { group, bytes: bytes(sections) }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn verdicts_are_those_of_a_map_that_forgets_nothing(
        epochs in epochs(), horizon in prop::sample::select(vec![0, 10 * MINUTE, 60 * MINUTE]), workers in 1u32..5,
    ) {
        let span = Duration::from_millis(horizon.unsigned_abs());
        let (mut logic, mut oracle) = (Workers::new(workers, span), NaiveDedup::new(horizon));
        for (before, rows) in absolute(&epochs) {
            oracle.advance(before);
            let expected: BTreeMap<_, _> =
                rows.iter().filter_map(|row| oracle.check(row).map(|verdict| (row.row, verdict))).collect();
            logic.0.iter_mut().for_each(|logic| logic.table.advance(before));
            prop_assert_eq!(logic.close(before, &rows), expected);
            prop_assert_eq!(logic.live(), oracle.live() as u64);
        }
    }

    #[test]
    fn a_restored_logic_goes_on_like_one_that_never_stopped(
        epochs in epochs(), stop in 0usize..60, every in 1usize..10, workers in 1u32..5, then in 1u32..5,
        hours in 1u64..30,
    ) {
        let all = absolute(&epochs);
        let stop = stop.min(all.len() - 1);
        let span = tidemill_dataflow::time::hours(hours);
        let mut straight = Workers::new(workers, span);
        let mut pieces = Vec::new();
        for (at, (before, rows)) in all[..stop].iter().enumerate() {
            straight.close(*before, rows);
            if at % every == 0 || at + 1 == stop {
                pieces.push(straight.changes());
            }
        }
        let watermark = all[stop].0;
        // A piece that says that it has expired can be dropped whole.
        pieces.retain(|(_, expires)| expires.is_none_or(|expires| watermark < Some(expires)));
        let pieces: Vec<_> = pieces.into_iter().map(|(sections, _)| sections).collect();
        let mut restored = Workers::restored(then, span, &pieces, watermark);
        let mut folded = Workers::restored(then, span, &[fold(&pieces, watermark)], watermark);
        let low = watermark.map(|w| w.minus(minutes(30)));
        let (old, new) = pieces.split_at(pieces.len() / 2);
        let twice = fold(&[fold(old, low), fold(new, low)], low);
        let mut refolded = Workers::restored(then, span, &[twice], watermark);
        for (before, rows) in &all[stop..] {
            let expected = straight.close(*before, rows);
            prop_assert_eq!(&expected, &restored.close(*before, rows));
            prop_assert_eq!(&expected, &folded.close(*before, rows));
            prop_assert_eq!(&expected, &refolded.close(*before, rows));
        }
    }
}

fn verdicts(logic: &mut DedupLogic, before: Watermark, rows: &[(u8, i64, u32)]) -> Vec<(u32, Verdict)> {
    let row = |(row, &(id, ts, fingerprint)): (u32, &(u8, i64, u32))| IdRow {
        row,
        ..IdRow::new(id_of(id), EventTime(ts), fingerprint, 0)
    };
    let chunk = Chunk { dest: 0, from: 0, order: Order::default(), rows: (0..).zip(rows).map(row).collect() };
    let mut out = Emit::default();
    logic.close_epoch(EpochTime { epoch: 1, before, after: None }, vec![chunk], &mut out);
    out.records.into_iter().flat_map(|given| given.exceptions).collect()
}

#[test]
fn the_first_row_of_an_id_counts_and_the_others_say_why_not() {
    let mut logic = DedupLogic::new(hours(1));
    let given = verdicts(&mut logic, None, &[(1, 5, 0), (1, 5, 0), (1, 5, 1), (1, 6, 0), (2, 5, 0)]);
    assert_eq!(given, [(1, Verdict::Duplicate), (2, Verdict::Conflicting), (3, Verdict::Conflicting)]);
    assert!(verdicts(&mut logic, None, &[(3, 5, 0)]).is_empty(), "a chunk without exceptions gives nothing");
}

#[test]
fn beyond_the_horizon_only_what_is_in_memory_can_be_judged() {
    let hour = 60 * MINUTE;
    let mut logic = DedupLogic::new(hours(1));
    let known = Some(EventTime(3 * hour + 30_000));
    assert!(verdicts(&mut logic, Some(EventTime(2 * hour)), &[(1, 2 * hour, 0)]).is_empty());
    // Its minute still reaches into the horizon, although its time does not: it is in memory, so it is known.
    assert_eq!(
        verdicts(&mut logic, known, &[(1, 2 * hour, 0), (2, 2 * hour, 0)]),
        [(0, Verdict::Duplicate), (1, Verdict::Unverified)]
    );
    let later = Some(EventTime(3 * hour + MINUTE));
    assert_eq!(verdicts(&mut logic, later, &[(1, 2 * hour, 0)]), [(0, Verdict::Unverified)]);
    assert_eq!(logic.size().entries, 0);
}

#[test]
fn a_far_future_id_is_exact_and_moves_in_when_its_time_comes() {
    let hour = 60 * MINUTE;
    let mut logic = DedupLogic::new(hours(1));
    let start = 100 * hour;
    assert!(verdicts(&mut logic, Some(EventTime(start)), &[(1, start + 900 * hour, 0)]).is_empty());
    for now in (0..=901).map(|passed| start + passed * hour) {
        let expected = [(0, Verdict::Duplicate)];
        assert_eq!(verdicts(&mut logic, Some(EventTime(now)), &[(1, start + 900 * hour, 0)]), expected, "{now}");
    }
    let end = Some(EventTime(start + 901 * hour + MINUTE));
    assert_eq!(verdicts(&mut logic, end, &[(1, start + 900 * hour, 0)]), [(0, Verdict::Unverified)]);
}

#[test]
fn an_id_takes_at_most_32_bytes_in_memory_and_20_when_stored() {
    let mut logic = DedupLogic::new(hours(1));
    let known = Some(EventTime(0));
    let rows: Vec<_> = (0..300_000u32)
        .map(|n| IdRow::new(tidemill_dataflow::hash::hash128(&n.to_le_bytes(), 0), EventTime(i64::from(n)), n, n))
        .collect();
    let chunk = Chunk { dest: 0, from: 0, order: Order::default(), rows };
    logic.close_epoch(EpochTime { epoch: 1, before: known, after: known }, vec![chunk], &mut Emit::default());
    let size = logic.size();
    assert_eq!(size.entries, 300_000);
    assert!(size.bytes <= 32 * size.entries, "{} bytes an id", size.bytes as f64 / size.entries as f64);
    let changes = logic.changes().unwrap();
    assert_eq!(changes.expires, Some(EventTime(300_000 + 60 * MINUTE)));
    let stored: usize = (changes.encode)().iter().map(|section| section.bytes.len()).sum();
    assert!(stored < 300_000 * 21, "{stored} bytes");
    assert!(logic.changes().is_none());
    assert_eq!(logic.waiting_bytes(), 0);
}

#[test]
fn without_snapshots_nothing_waits_for_one() {
    let mut logic = DedupLogic::without_snapshots(hours(1));
    verdicts(&mut logic, None, &[(1, 5, 0)]);
    assert!(logic.changes().is_none());
}

#[test]
fn unverified_rows_are_counted_by_how_far_behind_the_watermark_they_were() {
    let mut logic = DedupLogic::new(hours(1));
    let now = 100 * 24 * HOUR;
    let ages = [HOUR + 1, 2 * HOUR, 2 * HOUR + 1, 24 * HOUR, 7 * 24 * HOUR, 7 * 24 * HOUR + 1, now];
    let rows = (0..).zip(ages).map(|(row, age)| IdRow::new(u128::from(row), EventTime(now - age), 0, row)).collect();
    let chunk = Chunk { dest: 0, from: 0, order: Order::default(), rows };
    let mut out = Emit::default();
    let before = Some(EventTime(now));
    logic.close_epoch(EpochTime { epoch: 1, before, after: before }, vec![chunk], &mut out);
    let of = |name| out.counts.get(name).copied().unwrap_or(0);
    assert_eq!(of("unverified"), 7);
    assert_eq!(UNVERIFIED_AGES.map(|(name, _)| of(name)), [2, 2, 1, 2]);
}
