//! A stream that is split: every record is on exactly one side, whatever the number of workers.

use super::*;

type Line = (EventTime, String);

/// The sides of a split and of a branch, and of a split of what a filter left.
const SIDES: [&str; 7] = ["even", "odd", "third_0", "third_1", "third_2", "small_even", "small_odd"];

fn number(line: &Line) -> i64 {
    line.0.0
}

fn sides(store: &Arc<dyn Store>, workers: u32) -> Vec<Vec<i64>> {
    let lines: Vec<_> = (0..900_i64).map(|n| format!("{n} {:060}\n", n % 7)).collect();
    let partitions = lines.chunks(300).map(|part| part.concat().into_bytes()).collect();
    let seen: Arc<Mutex<BTreeMap<&'static str, Vec<i64>>>> = Arc::default();
    let look = {
        let seen = Arc::clone(&seen);
        move |side: &'static str| {
            let seen = Arc::clone(&seen);
            move |line: &Line| seen.lock().unwrap().entry(side).or_default().push(number(line))
        }
    };
    let build = move |flow: &Flow<'_>| {
        let rule = Watermarks::out_of_order(minutes(2));
        let source = of_partitions(Vec::clone(&partitions));
        let all = flow.source("lines", source).event_time(|line: &Line| line.0, |_| None, rule);
        let (even, odd) = all.clone().split(|line| number(line) % 2 == 0);
        let [first, second, others] = all.clone().branch(|line| usize::try_from(number(line) % 5).unwrap());
        let (small_even, small_odd) =
            all.untimed().filter(|line| number(line) < 10).split(|line| number(line) % 2 == 0);
        let timed = [even, odd, first, second, others].map(|side| side.untimed());
        for (side, stream) in SIDES.into_iter().zip(timed.into_iter().chain([small_even, small_odd])) {
            let _ = stream.inspect(look(side));
        }
    };
    run(build, &options(workers), context(store), &StopHandle::default()).unwrap();
    let mut seen = seen.lock().unwrap();
    let take = |side| {
        let mut numbers = seen.remove(side).unwrap();
        numbers.sort_unstable();
        numbers
    };
    SIDES.into_iter().map(take).collect()
}

#[test]
fn every_record_is_on_exactly_one_side() {
    let of = |keep: fn(&i64) -> bool| (0..900).filter(keep).collect::<Vec<_>>();
    let expected = vec![
        of(|n| n % 2 == 0),
        of(|n| n % 2 == 1),
        of(|n| n % 5 == 0),
        of(|n| n % 5 == 1),
        of(|n| n % 5 >= 2),
        vec![0, 2, 4, 6, 8],
        vec![1, 3, 5, 7, 9],
    ];
    for workers in [1, 2, 4] {
        assert_eq!(sides(&memory(), workers), expected, "{workers} workers");
    }
}
