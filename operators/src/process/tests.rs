//! A process whose records are commands, against the plain rule over a map of all keys.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tidemill_dataflow::hash::hash64;
use tidemill_dataflow::key::key;
use tidemill_dataflow::time::Watermark;

use super::*;
use crate::shards::Shards;

/// What a record tells the process to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Command {
    /// Doubles the total and adds: order shows.
    Add(i64),
    /// Sets a timer so far from the record's time.
    Set(i64),
    Cancel(i64),
    /// From now on a timer that fires sets another one so much later, until the total is zero.
    Every(i64),
    Forget,
}

struct Obedient;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    total: i64,
    period: i64,
}

/// Key, whether a timer fired, its time or the record's, the total after, whether late, W(e-1).
type Told = (String, bool, i64, i64, bool, Watermark);

impl Process for Obedient {
    type In = Command;
    type State = Memory;
    type Out = Told;
    const STATE_VERSION: u32 = 1;

    fn on_record(&self, key: &OwnedKey, memory: &mut Memory, command: Command, ctx: &mut Context<'_, Told>) {
        let at = |offset: i64| EventTime(ctx.time().0 + offset);
        match command {
            Command::Add(n) => memory.total = (2 * memory.total + n) % 1_000,
            Command::Set(offset) => ctx.set_timer(at(offset)),
            Command::Cancel(offset) => ctx.cancel_timer(at(offset)),
            Command::Every(period) => memory.period = period,
            Command::Forget => ctx.forget(),
        }
        ctx.emit((key.texts().1.into(), false, ctx.time().0, memory.total, ctx.is_late(), ctx.watermark()));
    }

    fn on_timer(&self, key: &OwnedKey, memory: &mut Memory, at: EventTime, ctx: &mut Context<'_, Told>) {
        memory.total /= 2;
        ctx.emit((key.texts().1.into(), true, at.0, memory.total, ctx.is_late(), ctx.watermark()));
        if memory.total != 0 {
            ctx.set_timer(EventTime(at.0 + memory.period));
        }
    }
}

/// The commands of an epoch (key, time, command) and the watermark after it.
type Script = Vec<(Vec<(u8, i64, Command)>, i64)>;

fn script() -> impl Strategy<Value = Script> {
    let command = prop_oneof![
        4 => (-5i64..6).prop_map(Command::Add),
        3 => (-40i64..90).prop_map(Command::Set),
        1 => (-40i64..90).prop_map(Command::Cancel),
        1 => (-3i64..30).prop_map(Command::Every),
        1 => Just(Command::Forget),
    ];
    let record = (0u8..3, -60i64..60, command);
    prop::collection::vec((prop::collection::vec(record, 0..7), 0i64..60), 1..14).prop_map(|steps| {
        let mut before = 1_000;
        let step = |(records, moves): (Vec<_>, i64)| {
            let at = before;
            before += moves;
            (records.into_iter().map(|(key, offset, what)| (key, at + offset, what)).collect(), before)
        };
        steps.into_iter().map(step).collect()
    })
}

fn obedient() -> PerKey<ProcessLogic<Obedient>> {
    PerKey::new(ProcessLogic::new(Obedient))
}

fn shards(workers: u32) -> Shards<PerKey<ProcessLogic<Obedient>>> {
    Shards::new(workers, obedient)
}

fn rows(records: &[(u8, i64, Command)]) -> Vec<(OwnedKey, (EventTime, Command))> {
    let key = |number: u8| key("t", format!("k{number}").as_str()).to_owned();
    records.iter().map(|&(number, time, command)| (key(number), (EventTime(time), command))).collect()
}

/// Rows of one key stay in the order in which they were given.
fn by_key(mut told: Vec<Told>) -> Vec<Told> {
    told.sort_by(|a, b| a.0.cmp(&b.0));
    told
}

#[derive(Default)]
struct Naive {
    keys: BTreeMap<u8, (i64, i64, Vec<i64>)>,
    refused: u64,
}

impl Naive {
    fn epoch(&mut self, records: &[(u8, i64, Command)], before: Option<i64>, after: i64) -> Vec<Told> {
        let mut told = Vec::new();
        for number in 0..3 {
            let (total, period, timers) = self.keys.entry(number).or_default();
            let mut own: Vec<_> = records.iter().filter(|record| record.0 == number).collect();
            own.sort_by_key(|(_, time, command)| (*time, postcard::to_stdvec(command).unwrap()));
            let name = format!("k{number}");
            for &&(_, time, command) in &own {
                let mut shown = *total;
                match command {
                    Command::Add(n) => (*total, shown) = ((2 * *total + n) % 1_000, (2 * *total + n) % 1_000),
                    Command::Set(offset) => timers.push(time + offset),
                    Command::Cancel(offset) => timers.retain(|timer| *timer != time + offset),
                    Command::Every(length) => *period = length,
                    Command::Forget => (*total, *period, *timers) = (0, 0, vec![]),
                }
                let late = before.is_some_and(|before| time < before);
                told.push((name.clone(), false, time, shown, late, before.map(EventTime)));
            }
            while let Some(&at) = timers.iter().min().filter(|at| **at <= after) {
                timers.retain(|timer| *timer != at);
                *total /= 2;
                told.push((name.clone(), true, at, *total, false, before.map(EventTime)));
                if *total != 0 && *period > 0 {
                    timers.push(at + *period);
                } else if *total != 0 {
                    self.refused += 1;
                }
            }
        }
        told
    }

    fn live(&self) -> usize {
        let nothing =
            |(total, period, timers): &&(i64, i64, Vec<i64>)| *total == 0 && *period == 0 && timers.is_empty();
        self.keys.values().filter(|kept| !nothing(kept)).count()
    }
}

proptest! {
    #[test]
    fn records_come_in_order_and_timers_fire_once_in_order_on_any_workers_after_any_restore(
        script in script(), workers in prop::collection::vec(1u32..5, 6),
    ) {
        let (mut straight, mut again, mut moving) = (shards(1), shards(1), shards(workers[0]));
        let mut naive = Naive::default();
        let (mut before, mut refused) = (None, 0);
        for (at, (records, after)) in script.iter().enumerate() {
            let mut shuffled = records.clone();
            shuffled.sort_by_key(|record| hash64(format!("{record:?} {at}").as_bytes()));
            let one = straight.close(&rows(records), Some(EventTime(*after)));
            let other = moving.close(&rows(&shuffled), Some(EventTime(*after)));
            prop_assert_eq!(&one.counts, &other.counts);
            refused += one.counts.get("timers_refused").copied().unwrap_or(0);
            let told = by_key(one.records);
            let replayed = again.close(&rows(records), Some(EventTime(*after)));
            prop_assert_eq!(&told, &by_key(replayed.records), "replay of epoch {}", at);
            prop_assert_eq!(&told, &by_key(other.records), "epoch {}", at);
            prop_assert_eq!(told, naive.epoch(records, before, *after), "epoch {}", at);
            prop_assert_eq!(moving.entries(), naive.live() as u64);
            before = Some(*after);
            if workers[at % workers.len()].is_multiple_of(2) {
                moving = moving.moved(workers[(at + 1) % workers.len()], obedient, at % 3 == 0);
            }
        }
        prop_assert_eq!(refused, naive.refused);
    }
}

fn run(shards: &mut Shards<PerKey<ProcessLogic<Obedient>>>, records: &[(u8, i64, Command)], after: i64) -> Emit<Told> {
    shards.close(&rows(records), Some(EventTime(after)))
}

fn fired(told: &Emit<Told>) -> Vec<i64> {
    told.records.iter().filter(|told| told.1).map(|told| told.2).collect()
}

#[test]
fn a_timer_set_in_the_past_fires_in_the_same_closing_after_the_records() {
    let mut shards = shards(1);
    run(&mut shards, &[], 1_000);
    let told = run(&mut shards, &[(0, 500, Command::Set(-400)), (0, 501, Command::Add(7))], 1_000);
    let kinds: Vec<_> = told.records.iter().map(|told| (told.1, told.2, told.4)).collect();
    assert_eq!(kinds, [(false, 500, true), (false, 501, true), (true, 100, false)]);
    assert_eq!(told.counts["late"], 2);
}

#[test]
fn a_timer_that_sets_timers_fires_them_up_to_the_watermark_and_refuses_those_that_are_not_later() {
    let mut shards = shards(1);
    let start = [(0, 0, Command::Add(800)), (0, 0, Command::Every(10)), (0, 0, Command::Set(5))];
    assert_eq!(fired(&run(&mut shards, &start, 30)), [5, 15, 25]);
    let told = run(&mut shards, &[(0, 31, Command::Every(0))], 100);
    assert_eq!((fired(&told), told.counts["timers_refused"]), (vec![35], 1));
}

#[test]
fn at_the_end_of_time_every_timer_fires_once_and_firing_ends() {
    let mut shards = shards(1);
    let start =
        [(0, 0, Command::Add(800)), (0, 0, Command::Every(10)), (0, 0, Command::Set(5)), (0, 0, Command::Set(50))];
    let told = run(&mut shards, &start, i64::MAX);
    assert_eq!((fired(&told), told.counts["timers_refused"]), (vec![5, 50], 2));
}

#[test]
fn a_key_without_state_and_timers_takes_no_memory() {
    let mut shards = shards(1);
    run(&mut shards, &[(0, 0, Command::Add(1)), (1, 0, Command::Set(5)), (2, 0, Command::Add(0))], 1);
    assert_eq!(shards.entries(), 2);
    run(&mut shards, &[(0, 2, Command::Forget)], 5);
    assert_eq!(shards.entries(), 0);
}

/// The same process when it counted in 32 bits.
struct Before;

impl Process for Before {
    type In = Command;
    type State = i32;
    type Out = Told;
    const STATE_VERSION: u32 = 0;

    fn on_record(&self, _: &OwnedKey, total: &mut i32, command: Command, ctx: &mut Context<'_, Told>) {
        match command {
            Command::Set(offset) => ctx.set_timer(EventTime(offset)),
            _ => *total += 1,
        }
    }
}

struct Now;

impl Process for Now {
    type In = Command;
    type State = i64;
    type Out = i64;
    const STATE_VERSION: u32 = 1;
    const OLDEST_VERSION: u32 = 0;

    fn on_record(&self, _: &OwnedKey, _: &mut i64, _: Command, _: &mut Context<'_, i64>) {}

    fn on_timer(&self, _: &OwnedKey, total: &mut i64, at: EventTime, ctx: &mut Context<'_, i64>) {
        ctx.emit(*total * 1_000 + at.0);
    }

    fn upgrade(_version: u32, stored: StoredState<'_>) -> Result<Kept<i64>, DecodeError> {
        Ok(stored.read::<Kept<i32>>()?.map(i64::from))
    }
}

#[test]
fn an_upgraded_state_keeps_its_timers() {
    let owned = key("t", "a").to_owned();
    let (mut kept, mut out) = (Kept::default(), Emit::default());
    let clocks = |after| EpochTime { epoch: 1, before: None, after: Some(EventTime(after)) };
    let mut records = vec![(EventTime(0), Command::Set(50)), (EventTime(1), Command::Forget)];
    ProcessLogic::new(Before).on_epoch(&owned, &mut kept, &mut records, clocks(10), &mut out);
    let bytes = postcard::to_stdvec(&kept).unwrap();
    let mut upgraded = <ProcessLogic<Now> as KeyedLogic>::upgrade(0, StoredState::new(&bytes)).unwrap();
    let mut given = Emit::default();
    ProcessLogic::new(Now).on_epoch(&owned, &mut upgraded, &mut vec![], clocks(50), &mut given);
    assert_eq!(given.records, [1_050]);
    let refused = <ProcessLogic<Before> as KeyedLogic>::upgrade(7, StoredState::new(&bytes)).unwrap_err();
    assert!(refused.to_string().contains("does not read version 7"), "{refused}");
}
