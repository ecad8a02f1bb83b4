//! The rules, by examples and by what no burst of wrong clocks may do.

use proptest::prelude::*;

use super::*;
use crate::time::{EventTime, hours, minutes};

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

fn rule() -> Watermarks {
    Watermarks::out_of_order(minutes(2)).max_future_skew(hours(1))
}

fn block(records: &[(i64, Option<i64>)]) -> BlockTimes {
    let mut clock = BlockClock::new(&rule());
    records.iter().for_each(|(time, server)| clock.see(EventTime(*time), server.map(EventTime)));
    clock.finish()
}

fn unvouched(times: &[i64]) -> BlockTimes {
    block(&times.iter().map(|time| (*time, None)).collect::<Vec<_>>())
}

/// A partition that was read in blocks of so many records, none of which a server vouches for.
fn read(times: &[i64], size: usize) -> PartitionClock {
    let mut partition = PartitionClock::default();
    for block in times.chunks(size) {
        partition.advance(&unvouched(block), &rule(), &Bounds::default());
    }
    partition
}

fn reached(partition: &PartitionClock) -> Option<i64> {
    partition.reached.map(|time| time.0)
}

/// `n` records, so far apart.
fn steady(from: i64, n: i64, apart: i64) -> Vec<i64> {
    (0..n).map(|n| from + n * apart).collect()
}

#[test]
fn a_time_that_a_server_vouches_for_counts_at_once_and_never_beyond_its_clock() {
    for (records, expected) in [
        (vec![(1_000, Some(1_010))], Some(1_000)),
        (vec![(59 * MINUTE, Some(7))], Some(7)),
        (vec![(1_000, Some(1_010)), (9 * HOUR, Some(1_020)), (1_500, Some(1_600))], Some(1_500)),
        (vec![(5, None)], None),
        (vec![(1_000, Some(1_010)), (59 * SECOND, None), (9 * HOUR, None)], Some(1_010)),
    ] {
        let mut partition = PartitionClock::default();
        partition.advance(&block(&records), &rule(), &Bounds::default());
        assert_eq!(reached(&partition), expected, "{records:?}");
    }
    let ahead = block(&[(HOUR + 2, Some(1)), (HOUR + 1, Some(1))]);
    assert_eq!(PartitionClock::default().advance(&ahead, &rule(), &Bounds::default()), 1);
}

#[test]
fn the_data_ends_with_its_last_event_whatever_a_few_strays_say() {
    let honest = steady(0, 2_000, SECOND);
    let with = |more: &[i64]| honest.iter().chain(more).copied().collect::<Vec<_>>();
    let last = 1_999 * SECOND;
    for (name, times, expected) in [
        ("nothing", vec![], None),
        ("one", vec![5], Some(5)),
        ("a few, hours apart", vec![0, HOUR, 3 * HOUR, 9 * HOUR], Some(9 * HOUR)),
        ("many", honest.clone(), Some(last)),
        ("eight strays of another year", with(&[YEAR; 8]), Some(last)),
        ("one stray", with(&[15 * YEAR]), Some(last)),
        ("a last visit after a lull", with(&[last + 39 * MINUTE, last + 70 * MINUTE]), Some(last + 70 * MINUTE)),
        ("a hundred of the next day", with(&steady(DAY, 100, MINUTE)), Some(DAY + 99 * MINUTE)),
        ("and strays", with(&[steady(DAY, 100, MINUTE), vec![YEAR; 8]].concat()), Some(DAY + 99 * MINUTE)),
    ] {
        for size in [7, 512] {
            let mut partition = read(&times, size);
            partition.begin(&rule(), &Bounds::default(), true);
            assert_eq!(partition.last_event().map(|time| time.0), expected, "{name}, in blocks of {size}");
        }
    }
}

#[test]
fn a_partition_begins_where_enough_records_stand_or_at_its_earliest_when_no_more_come() {
    assert_eq!(reached(&read(&steady(0, 255, SECOND), 100)), None);
    assert_eq!(reached(&read(&steady(0, 256, SECOND), 100)), Some(255 * SECOND));
    for (times, expected) in [
        (vec![5], 5),
        (vec![90 * DAY, 5, 7], 7),
        (vec![5, 90 * DAY, 7, 90 * DAY + 1, 90 * DAY + 2], 7),
        (steady(0, 40, HOUR), 39 * HOUR),
        (steady(0, 7, HOUR), 0),
    ] {
        let mut partition = read(&times, 3);
        partition.begin(&rule(), &Bounds::default(), false);
        assert_eq!(partition.reached, None);
        partition.begin(&rule(), &Bounds::default(), true);
        assert_eq!(reached(&partition), Some(expected), "{times:?}");
    }
}

#[test]
fn a_partition_stands_at_its_earliest_record_however_its_blocks_are_cut_and_after_a_restart() {
    for size in [1, 2, 4] {
        let partition = read(&[MINUTE, 10 * SECOND, 90 * DAY, 50 * SECOND], size);
        assert_eq!(partition.position(None), Some(EventTime(10 * SECOND)), "blocks of {size}");
        let kept = serde_json::to_string(&partition).unwrap();
        let restored: PartitionClock = serde_json::from_str(&kept).unwrap();
        assert_eq!(restored.position(None), Some(EventTime(10 * SECOND)), "{kept}");
    }
    let older: PartitionClock = serde_json::from_str(r#"{"reached":null,"window":[[7,9,2,true]]}"#).unwrap();
    assert_eq!(older.position(None), Some(EventTime(7)), "a checkpoint of an older build");
}

#[test]
fn old_strays_at_the_beginning_do_not_hold_a_partition_back() {
    for size in [1, 128, 5_000] {
        let times: Vec<i64> = steady(0, 150, DAY).into_iter().chain(steady(50 * YEAR, 1_000, SECOND)).collect();
        assert_eq!(reached(&read(&times, size)), Some(50 * YEAR + 999 * SECOND), "blocks of {size}");
    }
}

#[test]
fn sparse_and_uneven_streams_flow() {
    for (name, times) in [
        ("every ten minutes", steady(0, 700, 10 * MINUTE)),
        ("every hour", steady(0, 700, HOUR)),
        ("visits of five", (0..1_000).map(|n| n / 5 * 10 * MINUTE + n % 5 * SECOND).collect()),
        ("slower and slower", (0..1_000).map(|n| n * 5 * SECOND + n * n * 60).collect()),
    ] {
        for size in [1, 7, 128, 1_300] {
            assert_eq!(reached(&read(&times, size)), times.last().copied(), "{name} in blocks of {size}");
        }
    }
}

#[test]
fn what_waits_in_vain_is_counted_as_ahead() {
    let mut partition = PartitionClock::default();
    let times = [steady(0, 1_000, SECOND), steady(30 * DAY, 3, 1), steady(1_000 * SECOND, 1_000, SECOND)].concat();
    let ahead: u64 =
        times.chunks(100).map(|block| partition.advance(&unvouched(block), &rule(), &Bounds::default())).sum();
    assert_eq!((ahead, reached(&partition)), (3, Some(1_999 * SECOND)));
}

#[test]
fn a_live_partition_begins_at_the_clock_and_is_not_moved_beyond_it() {
    let clock = 100 * DAY;
    let bounds = Bounds { clock: Some(EventTime(clock)), ..Bounds::default() };
    let begun = |times: &[i64]| {
        let mut partition = PartitionClock::default();
        partition.advance(&unvouched(times), &rule(), &bounds);
        partition.begin(&rule(), &bounds, false);
        reached(&partition)
    };
    assert_eq!(begun(&[clock - 7]), Some(clock - 7));
    assert_eq!(begun(&[clock + 30 * DAY]), Some(clock));
    assert_eq!(begun(&[clock - 3 * DAY]), None, "what waits in a topic is not what happens now");
    assert_eq!(begun(&steady(clock + DAY, 300, SECOND)), Some(clock));
    assert_eq!(begun(&steady(clock - 299 * SECOND, 500, SECOND)), Some(clock));
}

#[test]
fn after_a_night_in_which_time_went_on_by_the_clock_a_record_flows() {
    let mut partition = read(&steady(0, 300, SECOND), 100);
    let night = Bounds { passed: Some(EventTime(9 * HOUR)), clock: Some(EventTime(9 * HOUR + MINUTE)) };
    partition.advance(&unvouched(&[9 * HOUR + 5]), &rule(), &night);
    assert_eq!(reached(&partition), Some(9 * HOUR + 5));
}

#[test]
fn a_file_without_server_times_behind_one_with_them_goes_on() {
    let with: Vec<_> = steady(0, 1_000, SECOND).into_iter().map(|time| (time, Some(time + 20))).collect();
    let mut partition = PartitionClock::default();
    partition.advance(&block(&with), &rule(), &Bounds::default());
    let without = steady(1_000 * SECOND, 2_000, SECOND);
    for times in without.chunks(150) {
        partition.advance(&unvouched(times), &rule(), &Bounds::default());
    }
    assert_eq!(reached(&partition), Some(2_999 * SECOND));
}

#[test]
fn a_clock_of_an_older_checkpoint_goes_on_and_a_new_one_comes_back_as_it_was() {
    let old: PartitionClock = serde_json::from_str(r#"{"reached":5000,"lone":[null,9999999]}"#).unwrap();
    assert_eq!(reached(&old), Some(5_000));
    let times = [steady(0, 300, 10 * MINUTE), steady(YEAR, 100, 7)].concat();
    let clock = read(&times, 90);
    let stored = serde_json::to_string(&clock).unwrap();
    assert_eq!(serde_json::from_str::<PartitionClock>(&stored).unwrap(), clock);
    assert!(stored.len() < 4_000, "{} bytes", stored.len());
}

#[test]
fn the_merged_watermark_never_goes_back_and_waits_for_the_unknown() {
    let at = |t| Some(EventTime(t));
    assert_eq!(merge(at(5), [at(9), at(7)]), at(7));
    assert_eq!(merge(at(5), [at(9), at(3)]), at(5));
    assert_eq!(merge(None, [at(9), None]), None);
    assert_eq!(merge(at(5), []), at(5));
}

/// Honest records, `apart` on the mean and out of order by at most two minutes, among which wrong clocks strew a burst.
#[derive(Clone, Debug)]
struct Bursts {
    records: Vec<(i64, bool)>,
    size: usize,
    apart: i64,
}

fn bursts() -> impl Strategy<Value = Bursts> {
    let aheads = vec![50 * MINUTE, HOUR, 59 * MINUTE, 5 * HOUR, 30 * DAY, YEAR, 10 * YEAR];
    let spacings = vec![0, 50, 500, 3 * SECOND, 10 * SECOND, MINUTE, 10 * MINUTE];
    let shape = (
        (600..3_000_usize, prop::sample::select(spacings), any::<bool>(), any::<bool>()),
        (prop::sample::select(vec![3_usize, 50, 150]), prop::sample::select(aheads)),
        (any::<bool>(), prop::sample::select(vec![0, 1, SECOND, MINUTE]), 0.0..=1.0_f64, 0..=8_usize),
        prop::sample::select(vec![1_usize, 3, 64, 128, 700, 1_300, 10_000]),
        any::<u64>(),
    );
    shape.prop_map(|((n, apart, jitter, uneven), (burst, ahead), (many, drift, place, spread), size, seed)| {
        let mut dice = seed | 1;
        let mut roll = move |below: i64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            i64::try_from(dice >> 33).unwrap() % below.max(1)
        };
        let mut now = 1_700_000_000_000;
        let mut records = Vec::new();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place"
        )]
        let from = (place * n as f64) as usize;
        // The burst comes at once, or one record of it between some of the others.
        let mut sent = 0;
        for record in 0..=n {
            while sent < burst && (record == n || record >= from + sent * spread) {
                let after = i64::try_from(sent).unwrap() * drift;
                let wrong = if many { 50 * MINUTE + roll(ahead - 50 * MINUTE + 1) } else { ahead + after };
                records.push((now + wrong, false));
                sent += 1;
            }
            if record < n {
                now += if uneven { roll(2 * apart + 1) } else { apart };
                records.push((now - if jitter { roll(2 * MINUTE) } else { 0 }, true));
            }
        }
        Bursts { records, size, apart }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_burst_of_wrong_clocks_moves_a_partition_and_none_holds_it_back(
        Bursts { records, size, apart } in bursts(),
    ) {
        let mut partition = PartitionClock::default();
        let mut honest = None;
        for part in records.chunks(size) {
            honest = honest.max(part.iter().filter(|(_, right)| *right).map(|(time, _)| *time).max());
            let times: Vec<i64> = part.iter().map(|(time, _)| *time).collect();
            partition.advance(&unvouched(&times), &rule(), &Bounds::default());
            prop_assert!(reached(&partition) <= honest, "{:?} beyond {honest:?}", reached(&partition));
        }
        // A burst that takes up most of the window hides for a while how far apart records are.
        let after = records.iter().rev().take_while(|(_, right)| *right).count();
        let lag = if after < 800 { 300 } else { 2 };
        let behind = honest.unwrap() - reached(&partition).unwrap();
        prop_assert!(behind <= 4 * MINUTE + lag * apart, "{behind} ms behind the end");
    }

    #[test]
    fn an_honest_gap_of_any_length_is_passed(
        (before, after) in (300..5_000_i64, 600..5_000_i64),
        apart in prop::sample::select(vec![10, 500, 5 * SECOND, 2 * MINUTE, 10 * MINUTE]),
        gap in prop::sample::select(vec![3 * MINUTE, 50 * MINUTE, 10 * HOUR, 30 * DAY, 10 * YEAR]),
        size in prop::sample::select(vec![1_usize, 100, 128, 1_300, 20_000]),
    ) {
        let times = [steady(0, before, apart), steady(before * apart + gap, after, apart)].concat();
        prop_assert_eq!(reached(&read(&times, size)), times.last().copied());
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_third_of_wrong_clocks_without_end_moves_nothing(
        share in 3..10_i64,
        size in prop::sample::select(vec![1_usize, 100, 1_300, 5_000]),
    ) {
        let wrong = |n: i64| n % share == 0;
        let times: Vec<i64> = (0..10_000).map(|n| n * 500 + if wrong(n) { YEAR } else { 0 }).collect();
        let honest = (0..10_000).filter(|n| !wrong(*n)).map(|n| n * 500).max();
        prop_assert_eq!(reached(&read(&times, size)), honest);
    }
}
