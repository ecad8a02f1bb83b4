//! Steps without state, deduplication and sessions in whole runs: on any number of workers, through crashes and rescales, in
//! other orders.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tidemill_dataflow::flow::Flow;
use tidemill_dataflow::hash::hash128;
use tidemill_dataflow::key::key;
use tidemill_dataflow::testing::{Ends, Script, Simulation};
use tidemill_dataflow::time::{EventTime, hours, minutes, seconds};
use tidemill_dataflow::watermark::Watermarks;

use super::{Horizon, Identity, KeyedStreamOps, StreamOps, session_summary};
use crate::window::session::{Session, SessionChange};

const MINUTE: i64 = 60_000;

/// The number of a visit, and of its user.
type Visit = (u32, u8);
type Timed = (EventTime, Visit);

fn identity((_, (id, _)): &Timed) -> Identity {
    Identity { id: hash128(&id.to_le_bytes(), 0), fingerprint: 0 }
}

fn pipeline(flow: &Flow<'_>, ends: &Ends<Visit>) {
    let rule = Watermarks::out_of_order(minutes(2));
    let visits = flow.source("visits", ends.source()).event_time(|(time, _): &Timed| *time, |_| None, rule);
    let number = |n: &u32| (n.to_string(), 1);
    let shown = |(_, (id, _)): &Timed| (id.to_string(), 1);

    let even = visits.clone().filter(|(_, (id, _))| id.is_multiple_of(2)).map(|(_, (id, _))| *id);
    even.sink("even_table", ends.sums("even", number));
    let halves = visits.clone().untimed().filter_map(|(_, (id, _))| id.is_multiple_of(2).then_some(id / 2));
    halves.sink("halves_table", ends.sums("halves", number));
    let digits = visits.clone().untimed().flat_map(|(_, (id, _))| [id % 10, id / 10 % 10]);
    digits.sink("digits_table", ends.sums("digits", number));
    let (of_one, others) = visits.clone().split(|(_, (_, user))| *user == 0);
    of_one.clone().sink("first_table", ends.sums("first", shown));
    others.clone().sink("others_table", ends.sums("others", shown));
    of_one.union(others).sink("both_table", ends.sums("both", shown));
    let [zero, one, more] = visits.clone().branch(|(_, (_, user))| usize::from(*user));
    zero.sink("zero_table", ends.sums("zero", shown));
    one.sink("one_table", ends.sums("one", shown));
    more.sink("more_table", ends.sums("more", shown));

    let with_even_ids = |visit: &Timed| visit.1.0.is_multiple_of(2).then(|| identity(visit));
    let some_judged = visits.clone().dedup("unique_even", with_even_ids, Horizon::event_time(hours(1)));
    some_judged.unique.sink("odd_and_unique_table", ends.sums("odd_and_unique", shown));
    let judged = visits.dedup("unique", identity, Horizon::event_time(hours(1)));
    judged.unverified.sink("unverified_table", ends.sums("unverified", shown));
    judged.unique.clone().sink("unique_table", ends.sums("unique", shown));
    let sessions = judged
        .unique
        .key_by(|(_, (_, user))| key("t", ["a", "b", "c", "d"][usize::from(*user)]))
        .window("sessions", Session::with_gap(minutes(1)).correctable_for(hours(1)))
        .aggregate(session_summary());
    sessions.sink(
        "sessions_table",
        ends.sums("sessions", |s: &SessionChange| {
            let SessionChange { key, first, last, count, sign } = s;
            (format!("{} {}..{} {count}", key.texts().1, first.0, last.0), i64::from(*sign))
        }),
    );
}

/// Two partitions of some steps: an id comes at one time by one user, however often.
fn visits() -> impl Strategy<Value = Vec<Vec<Vec<Timed>>>> {
    let visit = (0u32..40).prop_map(|id| {
        let time = i64::from(id) * MINUTE / 2 + i64::from(id * id % 17) * 1_000;
        (EventTime(time), (id, u8::try_from(id * 7 % 4).unwrap()))
    });
    let step = prop::collection::vec(visit, 1..6);
    prop::collection::vec(prop::collection::vec(step, 1..6), 2)
}

fn script(partitions: &[Vec<Vec<Timed>>]) -> Script<Visit> {
    partitions.iter().fold(Script::new(), |script, steps| script.partition(steps.clone()))
}

fn numbers(ids: impl IntoIterator<Item = u32>) -> BTreeMap<String, i64> {
    let mut counted = BTreeMap::new();
    ids.into_iter().for_each(|id| *counted.entry(id.to_string()).or_default() += 1);
    counted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn whatever_the_order_the_workers_and_the_crashes_every_table_is_that_of_all_visits(
        partitions in visits(), seed in 0u64..1_000,
    ) {
        let simulation = Simulation::new().seeds(seed..seed + 2);
        let script = script(&partitions);
        simulation.repeats_itself(&script, pipeline);
        simulation.clone().disorder(seconds(90)).agrees_with_a_batch(&script, pipeline);

        let all: Vec<_> = partitions.iter().flatten().flatten().map(|(_, visit)| *visit).collect();
        let ids = |keep: fn(u8) -> bool| numbers(all.iter().filter(|(_, user)| keep(*user)).map(|(id, _)| *id));
        let tables = simulation.run(seed, &script, pipeline).tables;
        let even = || all.iter().map(|(id, _)| *id).filter(|id| id % 2 == 0);
        prop_assert_eq!(tables.rows("even"), numbers(even()));
        prop_assert_eq!(tables.rows("halves"), numbers(even().map(|id| id / 2)));
        prop_assert_eq!(tables.rows("digits"), numbers(all.iter().flat_map(|(id, _)| [id % 10, id / 10 % 10])));
        prop_assert_eq!(tables.rows("first"), ids(|user| user == 0));
        prop_assert_eq!(tables.rows("others"), ids(|user| user != 0));
        prop_assert_eq!(tables.rows("both"), ids(|_| true));
        prop_assert_eq!(tables.rows("zero"), ids(|user| user == 0));
        prop_assert_eq!(tables.rows("one"), ids(|user| user == 1));
        prop_assert_eq!(tables.rows("more"), ids(|user| user > 1));
        let unique: BTreeSet<_> = all.iter().map(|(id, _)| *id).collect();
        // A record without an identity is never taken for another one.
        let odd = all.iter().map(|(id, _)| *id).filter(|id| id % 2 == 1);
        let even_once = unique.iter().copied().filter(|id| id % 2 == 0);
        prop_assert_eq!(tables.rows("odd_and_unique"), numbers(odd.chain(even_once)));
        prop_assert_eq!(tables.rows("unique"), numbers(unique));
        prop_assert_eq!(tables.rows("unverified"), BTreeMap::new());
    }
}
