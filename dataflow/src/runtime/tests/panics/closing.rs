//! Records at which a keyed operator panics when it closes an epoch: found among those of their key, in one start all of an
//! epoch, and nothing of them is left in the state.

use proptest::prelude::*;

use super::*;
use crate::testing::attempt_processes;

/// Adds up the numbers of a key. Half of a number is in the state when it panics.
struct Sums(Arc<BTreeSet<i64>>);

impl KeyedLogic for Sums {
    type In = i64;
    type State = (i64, i64);
    type Out = (String, i64, i64);
    const STATE_VERSION: u32 = 1;

    fn on_epoch(
        &self,
        key: &OwnedKey,
        (count, sum): &mut (i64, i64),
        numbers: &mut Vec<i64>,
        _: EpochTime,
        out: &mut Emit<Self::Out>,
    ) -> Keep {
        let name = key.texts().1.into_owned();
        if *count > 0 {
            out.give((name.clone(), *sum + *count, -1));
        }
        for number in numbers.iter() {
            *count += 1;
            assert!(!self.0.contains(number), "poison at {number}");
            *sum += number;
        }
        out.give((name, *sum + *count, 1));
        Keep::Keep
    }

    fn deadline(&self, _: &(i64, i64)) -> Option<EventTime> {
        None
    }

    fn heap_bytes(&self, _: &(i64, i64)) -> usize {
        0
    }
}

const KEYS: i64 = 7;

fn number((_, text): &Record) -> i64 {
    text.split('-').next().unwrap().parse().unwrap()
}

/// About 240 KiB in two partitions, numbered from 0 and from 10 000.
fn numbers() -> Lines {
    let line = |n: i64, p: i64| format!("{} {}-{:060}\n", n * 500 + p * 100_000, n + p * 10_000, 0);
    of_partitions((0..2).map(|p| (0..1_600).map(|n| line(n, p)).collect::<String>().into_bytes()).collect())
}

/// The sums by key; `filter` panics at some numbers, the keyed operator at others.
fn sums(lines: &Lines, store: &Arc<dyn Store>, filter: &[i64], close: &[i64]) -> impl Build + Clone + use<> {
    let (lines, store) = (lines.clone(), Arc::clone(store));
    let filtered: BTreeSet<i64> = filter.iter().copied().collect();
    let closed: Arc<BTreeSet<i64>> = Arc::new(close.iter().copied().collect());
    move |flow: &Flow<'_>| {
        let filtered = filtered.clone();
        let stream = flow
            .source("lines", lines.clone())
            .malformed_to("dead_letters", letters(&store))
            .event_time(|record: &Record| record.0, |_| None, Watermarks::out_of_order(minutes(2)))
            .filter(move |record| {
                assert!(!filtered.contains(&number(record)), "poison at {}", number(record));
                true
            });
        let node = stream.record("sums", "sums by key".into());
        let chunks = stream.route("by_key", |batch, peers| {
            let chunk = |dest| Chunk { dest, from: peers.me, order: batch.order, rows: Vec::new() };
            let mut chunks: Vec<_> = (0..peers.workers).map(chunk).collect();
            batch.for_each(|record| {
                let owned = key("t", format!("k{}", number(record) % KEYS).as_str()).to_owned();
                chunks[owner(group_of(owned.hash()), peers.workers) as usize].rows.push((owned, number(record)));
            });
            chunks
        });
        keyed(flow, ("sums", node), chunks, PerKey::new(Sums(Arc::clone(&closed)))).sink("sums_table", table(&store));
    }
}

/// Runs until all is read; how often it was started.
fn starts(mut attempt: impl FnMut() -> Result<RunReport, RunError>) -> (u32, RunReport) {
    for starts in 1..20 {
        match attempt() {
            Ok(report) => return (starts, report),
            Err(RunError::WorkerPanicked(sentence)) => {
                assert!(sentence.contains("poison at") && sentence.contains("the next start"), "{sentence}");
            }
            // The other process panicked.
            Err(RunError::Peer(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it panics again and again");
}

/// That sums and letters are those of the input without the numbers that panic.
fn check(lines: &Lines, store: &Arc<dyn Store>, bad: &[i64], context: &str) {
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    for line in lines.partitions.iter().flat_map(|partition| std::str::from_utf8(partition).unwrap().lines()) {
        let n = number(&(EventTime(0), line.split_once(' ').unwrap().1.to_owned()));
        if !bad.contains(&n) {
            *expected.entry(format!("k{}", n % KEYS)).or_default() += n + 1;
        }
    }
    assert_eq!(visible(store), expected, "{context}");
    let letter = |line: &String| number(&(EventTime(0), line.rsplit(' ').next().unwrap().to_owned()));
    let found: BTreeSet<i64> = lines_of(store, "letters").iter().map(letter).collect();
    assert_eq!(found, bad.iter().copied().collect(), "{context}");
    assert_eq!(lines_of(store, "letters").len(), bad.len(), "{context}");
}

/// Runs on these workers, in several epochs; how often it was started.
fn starts_on(workers: u32, filter: &[i64], close: &[i64]) -> u32 {
    starts_with(&options(workers), filter, close)
}

fn starts_with(options: &RunOptions, filter: &[i64], close: &[i64]) -> u32 {
    let (lines, store, workers) = (numbers(), memory(), options.workers);
    let build = sums(&lines, &store, filter, close);
    let (starts, report) = starts(|| run(build.clone(), options, context(&store), &StopHandle::default()));
    let context = format!("{workers} workers, {filter:?}, {close:?}");
    check(&lines, &store, &[filter, close].concat(), &context);
    let counted = report.state.counts().get("lines/quarantined").copied().unwrap_or(0);
    assert_eq!(counted, (filter.len() + close.len()) as u64, "{context}");
    let known = &report.state.seal().unwrap().quarantined;
    let names = |operator: &str| known.iter().filter(|record| record.reason.contains(operator)).count();
    assert_eq!(
        (names("in sums twice: poison at"), names("in filter twice: ")),
        (close.len(), filter.len()),
        "{context}"
    );
    starts
}

#[test]
fn a_panic_in_a_keyed_operator_sets_its_record_aside() {
    for workers in 1..=3 {
        for bad in [0, 20, 1_599, 10_700] {
            assert_eq!(starts_on(workers, &[], &[bad]), 3, "{bad}");
        }
    }
}

#[test]
fn any_number_of_records_of_an_epoch_that_panic_cost_three_starts() {
    let all_of_a_key: Vec<i64> = (0..200).filter(|n| n % KEYS == 3).collect();
    let every_fifth: Vec<i64> = (0..200).step_by(5).collect();
    for workers in 1..=2 {
        for close in [&[3, 10, 17][..], &[4, 5, 6], &all_of_a_key, &every_fifth] {
            assert_eq!(starts_on(workers, &[], close), 3);
        }
        // Wherever they panic: also without any keyed operator, and where one that does meets those that another has.
        assert_eq!(starts_on(workers, &every_fifth, &[]), 3);
        assert_eq!(starts_on(workers, &[7, 14, 16], &[21, 22, 30, 150]), 3);
    }
}

#[test]
fn a_record_that_panics_a_keyed_operator_of_another_process_is_set_aside() {
    let (lines, store, bad) = (numbers(), memory(), [5, 60, 61, 10_007]);
    let build = sums(&lines, &store, &[], &bad);
    let (starts, _) = starts(|| attempt_processes(&build, &store, 2, 1));
    assert!(starts <= 5, "{starts}");
    check(&lines, &store, &bad, "two processes");
}

#[test]
fn a_crash_at_any_step_while_records_are_looked_for_loses_and_doubles_nothing() {
    let (lines, bad) = (numbers(), [9, 16, 30, 10_500]);
    for step in (10..130).step_by(9) {
        let store = memory();
        for attempt in 0..3 {
            let dying = dying_at(&store, step + attempt);
            let build = sums(&lines, &dying, &[], &bad);
            // However it ends: by the panic, by the crash, or well.
            let _ = run(build, &options(1 + (step % 2) as u32), context(&dying), &StopHandle::default());
        }
        let build = sums(&lines, &store, &[], &bad);
        starts(|| testing::attempt(&build, &store, 2));
        check(&lines, &store, &bad, &format!("crash at step {step}"));
    }
}

fn apart(filter: &BTreeSet<i64>, close: &BTreeSet<i64>) -> (Vec<i64>, Vec<i64>) {
    (filter.difference(close).copied().collect(), close.iter().copied().collect())
}

/// Numbers of both partitions.
fn bad(most: usize) -> impl Strategy<Value = BTreeSet<i64>> {
    prop::collection::btree_set(prop_oneof![0_i64..1_600, 10_000_i64..11_600], 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn the_result_is_that_of_the_input_without_the_records_that_panic(
        filter in bad(4),
        close in bad(12),
        workers in prop::sample::select(vec![1_u32, 2, 4]),
    ) {
        let (filter, close) = apart(&filter, &close);
        starts_on(workers, &filter, &close);
    }

    #[test]
    fn three_starts_are_enough_for_all_records_of_an_epoch_wherever_they_are(
        filter in bad(20),
        close in bad(40),
        workers in prop::sample::select(vec![1_u32, 2, 4]),
    ) {
        let (filter, close) = apart(&filter, &close);
        let options = RunOptions { epoch_bytes: 1 << 20, ..options(workers) };
        let starts = starts_with(&options, &filter, &close);
        prop_assert_eq!(starts, if filter.is_empty() && close.is_empty() { 1 } else { 3 });
    }
}
