//! What an epoch contains, decided once: partitions, ends and `W(e)` (INV-1, INV-2).
//!
//! [`BindState`] is the pure half of the binder: it folds the reports of an epoch, in input order, into the clocks of the
//! partitions and says what to record. Replaying the same epochs gives the same bindings; the driver compares.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemill_log::{Binding, PartitionBinding, PartitionStatus};

use crate::batch::Order;
use crate::source::DeadLetter;
use crate::time::{Epoch, EventTime, Watermark};
use crate::watermark::{BlockTimes, Bounds, PartitionClock, Watermarks, merge};

/// What a worker says of a block that it decoded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BlockReport {
    pub(crate) order: Order,
    pub(crate) times: BlockTimes,
    pub(crate) records: u64,
    pub(crate) malformed: Vec<DeadLetter>,
    /// Records that are set aside because they panic.
    pub(crate) quarantined: Vec<DeadLetter>,
}

impl BlockReport {
    /// Of a block that nothing is known of yet.
    pub(crate) fn new(order: Order) -> Self {
        let (malformed, quarantined) = (Vec::new(), Vec::new());
        BlockReport { order, times: BlockTimes::default(), records: 0, malformed, quarantined }
    }

    /// Everything that was read.
    fn read(&self) -> u64 {
        self.records + (self.malformed.len() + self.quarantined.len()) as u64
    }
}

impl Report {
    /// Lines of a block: records and what could not become one.
    pub(crate) fn lines(&self) -> usize {
        match self {
            Report::Block(block) => usize::try_from(block.read()).unwrap_or(usize::MAX),
            Report::Cut(_) => 0,
        }
    }
}

/// Where the reader cut one partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PartitionCut {
    pub(crate) partition: u32,
    pub(crate) name: String,
    /// JSON text: what the connector and the cut rule want back at a replay.
    pub(crate) detail: String,
    /// The estimate of the earliest event time ahead, for a partition that was never read.
    pub(crate) head: Watermark,
    pub(crate) end: u64,
    pub(crate) lines: u64,
    pub(crate) digest: String,
    pub(crate) finished: bool,
    /// Live, caught up and silent for so long that it does not hold the watermark back.
    pub(crate) idle: bool,
}

/// How the reader cut an epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochCut {
    pub(crate) epoch: Epoch,
    /// The partitions that are new or moved, or became idle or active.
    pub(crate) partitions: Vec<PartitionCut>,
    /// How long all partitions have been idle, in milliseconds, when they are: time goes on without events.
    pub(crate) silent_for: Option<u64>,
    /// The clock at which a live epoch was cut: no time that a server's clock does not vouch for is beyond it.
    pub(crate) clock: Watermark,
    /// In the replay of an epoch that a live source was cut into: the partitions' watermarks as they were recorded. They
    /// depended on how the records came, block by block.
    pub(crate) recorded: Vec<(u32, Watermark)>,
    /// In such a replay, `W(e)` as it was recorded; see [`Self::recorded`].
    pub(crate) watermark: Watermark,
    /// In the repetition of another run's epoch: `W(e)` as that run bound it.
    pub(crate) repeats: Option<Watermark>,
    /// No epoch follows in this run.
    pub(crate) last: bool,
    /// All partitions are at their end.
    pub(crate) ended: bool,
    /// The end of time was declared.
    pub(crate) drained: bool,
}

impl EpochCut {
    /// An epoch that contains nothing yet.
    pub(crate) fn new(epoch: Epoch) -> Self {
        let (partitions, recorded) = (Vec::new(), Vec::new());
        let (silent_for, clock, watermark, repeats) = (None, None, None, None);
        let (last, ended, drained) = (false, false, false);
        EpochCut { epoch, partitions, silent_for, clock, recorded, watermark, repeats, last, ended, drained }
    }
}

/// A worker's or the reader's part of what an epoch contains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Report {
    Block(BlockReport),
    Cut(EpochCut),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Partition {
    name: String,
    detail: String,
    clock: PartitionClock,
    head: Watermark,
    end: u64,
    lines: u64,
    digest: String,
    finished: bool,
    /// Missing in checkpoints that are older than the field.
    #[serde(default)]
    idle: bool,
}

/// The source's state: what a checkpoint keeps of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BindState {
    partitions: Vec<Partition>,
    watermark: Watermark,
    /// Positions one epoch before: what the next epoch is cut by.
    positions_before: Vec<Watermark>,
}

/// What follows from an epoch's reports.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) binding: Binding,
    pub(crate) before: Watermark,
    pub(crate) after: Watermark,
    /// In input order, with the partition's name.
    pub(crate) malformed: Vec<(String, DeadLetter)>,
    /// In input order, with the partition's name: what panics.
    pub(crate) quarantined: Vec<(String, DeadLetter)>,
    pub(crate) read: u64,
    /// Records too far ahead of their clock to move a watermark.
    pub(crate) future: u64,
    /// See [`EpochCut::repeats`].
    pub(crate) repeats: Option<Watermark>,
    pub(crate) last: bool,
    pub(crate) drained: bool,
    /// With the end of time: where the data ends.
    pub(crate) last_event: Watermark,
}

impl BindState {
    /// `W` as of the last epoch bound.
    pub(crate) fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// Where each partition stands in event time: what the next but one epoch is cut by.
    pub(crate) fn positions(&self) -> Vec<Watermark> {
        self.partitions.iter().map(|p| p.clock.position(p.head)).collect()
    }

    /// The same one epoch earlier.
    pub(crate) fn positions_before(&self) -> Vec<Watermark> {
        self.positions_before.clone()
    }

    /// Folds the reports of one epoch.
    ///
    /// # Panics
    /// If the reader's cut is missing: the engine delivers exactly one an epoch.
    pub(crate) fn bind(&mut self, epoch: Epoch, reports: Vec<Report>, rule: &Watermarks) -> Bound {
        let mut blocks = Vec::with_capacity(reports.len());
        let mut cut = None;
        for report in reports {
            match report {
                Report::Block(block) => blocks.push(block),
                Report::Cut(found) => cut = Some(found),
            }
        }
        let cut = cut.expect("every epoch has the cut that the reader ended it with");
        blocks.sort_unstable_by_key(|block| block.order);

        self.positions_before = self.positions();
        let old: Vec<(bool, u64)> = self.partitions.iter().map(|p| (p.finished, p.end)).collect();
        for moved in &cut.partitions {
            self.apply_cut(moved);
        }
        let before = self.watermark;
        let bounds = Bounds { passed: before.map(|time| time.plus(rule.out_of_orderness)), clock: cut.clock };
        let (mut malformed, mut quarantined, mut read, mut future) = (Vec::new(), Vec::new(), 0, 0);
        for block in blocks {
            let partition = &mut self.partitions[block.order.partition as usize];
            future += partition.clock.advance(&block.times, rule, &bounds);
            read += block.read();
            malformed.extend(block.malformed.into_iter().map(|letter| (partition.name.clone(), letter)));
            quarantined.extend(block.quarantined.into_iter().map(|letter| (partition.name.clone(), letter)));
        }
        for partition in &mut self.partitions {
            partition.clock.begin(rule, &bounds, partition.finished || partition.idle);
        }
        for (number, watermark) in &cut.recorded {
            let reached = watermark.map(|time| time.plus(rule.out_of_orderness));
            self.partitions[*number as usize].clock.stands_at(reached);
        }
        // A partition leaves the minimum in the epoch after the one in which it ended, so that its own last windows
        // are known to be complete. One that is found to be still at its end has left long ago.
        let watermarks = self.partitions.iter().enumerate().filter(|(index, p)| {
            let ended_now = || old.get(*index).is_none_or(|(finished, end)| !finished || p.end > *end);
            !p.idle && (!p.finished || (p.clock.reached.is_some() && ended_now()))
        });
        let counted: Vec<&Partition> = watermarks.map(|(_, p)| p).collect();
        let held = |p: &&Partition| p.clock.position(p.head).map(|time| time.minus(rule.out_of_orderness));
        // What only waits, or stands at a head, holds time back and never moves it.
        let known = counted.iter().any(|p| p.clock.reached.is_some());
        let merged = if known { merge(before, counted.iter().map(held)) } else { before };
        // Without events anywhere time goes on by the clock from where the events left it: at its pace, not to its hour, so
        // that a backfill of last year's events may pause without all that follows being late.
        let silent = cut.silent_for.map(Duration::from_millis);
        let furthest = self.partitions.iter().filter_map(|p| p.clock.watermark(rule)).max();
        let merged = match (silent, furthest) {
            (Some(silent), Some(furthest)) => {
                let clock = cut.clock.map_or(EventTime::MAX, |clock| clock.minus(rule.out_of_orderness));
                merge(before, [Some(furthest.plus(silent).min(clock))])
            }
            _ => merged,
        };
        let merged = if cut.recorded.is_empty() { merged } else { merge(before, [cut.watermark]) };
        // An epoch that took nothing (a stop) says nothing about time: a stopped run goes on like one that was not.
        if !cut.partitions.is_empty() {
            self.watermark = merged;
        }
        if cut.drained {
            self.watermark = Some(EventTime::MAX);
        }
        let partitions = cut.partitions.iter().map(|moved| self.recorded(moved.partition, rule)).collect();
        let watermark = self.watermark.map(|t| t.0);
        Bound {
            binding: Binding { epoch, watermark, partitions, last: cut.ended, checkpoint: false },
            before,
            after: self.watermark,
            malformed,
            quarantined,
            read,
            future,
            repeats: cut.repeats,
            last: cut.last,
            drained: cut.drained,
            last_event: self.partitions.iter().filter_map(|p| p.clock.last_event()).max().filter(|_| cut.drained),
        }
    }

    fn apply_cut(&mut self, cut: &PartitionCut) {
        let index = cut.partition as usize;
        if index == self.partitions.len() {
            let (name, head) = (cut.name.clone(), cut.head);
            let (clock, detail, digest) = (PartitionClock::default(), String::new(), String::new());
            let (end, lines, finished, idle) = (0, 0, false, false);
            self.partitions.push(Partition { name, detail, clock, head, end, lines, digest, finished, idle });
        }
        let partition = &mut self.partitions[index];
        partition.detail.clone_from(&cut.detail);
        partition.end = cut.end;
        partition.lines = cut.lines;
        partition.digest.clone_from(&cut.digest);
        partition.finished = cut.finished;
        partition.idle = cut.idle;
    }

    fn recorded(&self, number: u32, rule: &Watermarks) -> PartitionBinding {
        let partition = &self.partitions[number as usize];
        PartitionBinding {
            partition: number,
            name: partition.name.clone(),
            end: partition.end,
            lines: partition.lines,
            digest: partition.digest.clone(),
            watermark: partition.clock.watermark(rule).map(|t| t.0),
            status: match (partition.finished, partition.idle) {
                (true, _) => PartitionStatus::Finished,
                (false, true) => PartitionStatus::Idle,
                (false, false) => PartitionStatus::Active,
            },
            detail: serde_json::from_str(&partition.detail).unwrap_or(Value::Null),
        }
    }

    /// All partitions as of the last epoch bound: where a source is opened.
    pub(crate) fn bindings(&self, rule: &Watermarks) -> Vec<PartitionBinding> {
        (0..self.partitions.len()).map(|p| self.recorded(u32::try_from(p).expect("few partitions"), rule)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::minutes;
    use crate::watermark::BlockClock;

    fn block(partition: u32, times: &[i64], rule: &Watermarks) -> Report {
        let mut clock = BlockClock::new(rule);
        times.iter().for_each(|t| clock.see(EventTime(*t), Some(EventTime(*t))));
        let order = Order { partition, offset: 0 };
        let records = times.len() as u64;
        Report::Block(BlockReport { times: clock.finish(), records, ..BlockReport::new(order) })
    }

    fn cut(epoch: Epoch, partitions: &[(u32, Option<i64>, bool)]) -> Report {
        let moved = |(partition, head, finished): &(u32, Option<i64>, bool)| PartitionCut {
            partition: *partition,
            name: format!("file-{partition}"),
            detail: "null".into(),
            head: head.map(EventTime),
            end: epoch * 100,
            lines: epoch,
            digest: String::new(),
            finished: *finished,
            idle: false,
        };
        let partitions = partitions.iter().map(moved).collect();
        Report::Cut(EpochCut { partitions, ..EpochCut::new(epoch) })
    }

    const MINUTE: i64 = 60_000;

    #[test]
    fn a_live_epoch_replayed_in_other_blocks_gives_the_same_binding() {
        let rule = Watermarks::out_of_order(minutes(2));
        let ended = || cut(2, &[(0, None, false), (1, None, false)]);
        let many: Vec<i64> = (0..300).map(|n| 10 * MINUTE + n).collect();
        let first = vec![of_devices(0, &many, &rule), cut(1, &[(0, None, false), (1, Some(0), false)])];
        for (live, again) in [
            (vec![vec![5 * MINUTE], vec![4 * MINUTE]], vec![vec![5 * MINUTE, 4 * MINUTE]]),
            (vec![many.clone()], vec![many[..200].to_vec(), many[200..].to_vec()]),
        ] {
            let epoch = |blocks: &[Vec<i64>], last: Report| {
                let blocks = blocks.iter().map(|times| of_devices(1, times, &rule));
                blocks.chain([last]).collect::<Vec<_>>()
            };
            let (mut lived, mut replayed) = (BindState::default(), BindState::default());
            for state in [&mut lived, &mut replayed] {
                state.bind(1, first.clone(), &rule);
            }
            let bound = lived.bind(2, epoch(&live, ended()), &rule);
            let told = match ended() {
                Report::Cut(cut) => Report::Cut(EpochCut {
                    recorded: bound
                        .binding
                        .partitions
                        .iter()
                        .map(|p| (p.partition, p.watermark.map(EventTime)))
                        .collect(),
                    watermark: bound.binding.watermark.map(EventTime),
                    ..cut
                }),
                block @ Report::Block(_) => block,
            };
            // What the clock of the partition makes of other blocks need not be what it made of these.
            for blocks in [&again, &vec![vec![7 * MINUTE]]] {
                let rebound = replayed.clone().bind(2, epoch(blocks, told.clone()), &rule);
                assert_eq!(rebound.binding, bound.binding, "{blocks:?}");
                assert_eq!(rebound.after, bound.after, "{blocks:?}");
            }
        }
    }

    #[test]
    fn an_unread_partition_holds_the_watermark_at_its_head() {
        let rule = Watermarks::out_of_order(minutes(2));
        let mut state = BindState::default();
        let reports = vec![
            block(0, &[100 * MINUTE], &rule),
            cut(1, &[(0, Some(90 * MINUTE), false), (1, Some(30 * MINUTE), false)]),
        ];
        let bound = state.bind(1, reports, &rule);
        assert_eq!(bound.after, Some(EventTime(28 * MINUTE)));
        assert_eq!(state.positions(), [Some(EventTime(100 * MINUTE)), Some(EventTime(30 * MINUTE))]);
    }

    #[test]
    fn a_finished_partition_leaves_the_minimum_one_epoch_later_and_the_last_one_stays() {
        let rule = Watermarks::out_of_order(minutes(2));
        let mut state = BindState::default();
        let first = vec![
            block(0, &[10 * MINUTE], &rule),
            block(1, &[50 * MINUTE], &rule),
            cut(1, &[(0, None, true), (1, None, false)]),
        ];
        assert_eq!(state.bind(1, first, &rule).after, Some(EventTime(8 * MINUTE)));
        let second = vec![block(1, &[60 * MINUTE], &rule), cut(2, &[(1, None, true)])];
        assert_eq!(state.bind(2, second, &rule).after, Some(EventTime(58 * MINUTE)));
        let nothing = vec![cut(3, &[])];
        assert_eq!(state.bind(3, nothing, &rule).after, Some(EventTime(58 * MINUTE)));
    }

    #[test]
    fn a_finished_partition_looked_at_again_after_a_restart_does_not_hold_the_watermark_back() {
        let rule = Watermarks::out_of_order(minutes(2));
        let mut state = BindState::default();
        state.bind(1, vec![block(0, &[10 * MINUTE], &rule), ended(1, 0)], &rule);
        let (mut again, same_end) = (ended(2, 0), 100);
        if let Report::Cut(cut) = &mut again {
            cut.partitions[0].end = same_end;
            let second = PartitionCut { partition: 1, finished: false, end: 7, ..cut.partitions[0].clone() };
            cut.partitions.push(second);
        }
        let bound = state.bind(2, vec![block(1, &[70 * MINUTE], &rule), again], &rule);
        assert_eq!(bound.after, Some(EventTime(68 * MINUTE)));
    }

    fn ended(epoch: Epoch, partition: u32) -> Report {
        cut(epoch, &[(partition, None, true)])
    }

    fn silent(epoch: Epoch, idle: [bool; 2], silent_for: Option<u64>) -> Report {
        let mut report = cut(epoch, &[(0, None, false), (1, None, false)]);
        if let Report::Cut(cut) = &mut report {
            cut.partitions.iter_mut().zip(idle).for_each(|(partition, idle)| partition.idle = idle);
            cut.silent_for = silent_for;
        }
        report
    }

    #[test]
    fn an_idle_partition_does_not_hold_the_watermark_back_until_it_speaks_again() {
        let rule = Watermarks::out_of_order(minutes(2));
        let mut state = BindState::default();
        let first = vec![block(0, &[10 * MINUTE], &rule), block(1, &[50 * MINUTE], &rule)];
        let both = |reports: Vec<Report>, cut| reports.into_iter().chain([cut]).collect::<Vec<_>>();
        assert_eq!(state.bind(1, both(first, silent(1, [false; 2], None)), &rule).after, Some(EventTime(8 * MINUTE)));
        let idle = state.bind(2, vec![silent(2, [true, false], None)], &rule);
        assert_eq!(idle.after, Some(EventTime(48 * MINUTE)));
        assert_eq!(idle.binding.partitions[0].status, PartitionStatus::Idle);
        let again = both(vec![block(0, &[11 * MINUTE], &rule)], silent(3, [false; 2], None));
        assert_eq!(state.bind(3, again, &rule).after, Some(EventTime(48 * MINUTE)), "it never goes back");
    }

    #[test]
    fn when_all_are_idle_time_goes_on_from_where_the_events_left_it() {
        let rule = Watermarks::out_of_order(minutes(2));
        let mut state = BindState::default();
        let first = vec![
            block(0, &[10 * MINUTE], &rule),
            block(1, &[50 * MINUTE], &rule),
            cut(1, &[(0, None, false), (1, None, false)]),
        ];
        state.bind(1, first, &rule);
        let silent = vec![silent(2, [true; 2], Some(90_000))];
        assert_eq!(state.bind(2, silent, &rule).after, Some(EventTime(48 * MINUTE + 90_000)));
    }

    /// A block whose times nobody vouches for.
    fn of_devices(partition: u32, times: &[i64], rule: &Watermarks) -> Report {
        let mut clock = BlockClock::new(rule);
        times.iter().for_each(|t| clock.see(EventTime(*t), None));
        let order = Order { partition, offset: 0 };
        Report::Block(BlockReport { times: clock.finish(), ..BlockReport::new(order) })
    }

    #[test]
    fn a_live_epoch_is_complete_no_further_than_the_clock_at_which_it_was_cut() {
        let rule = Watermarks::out_of_order(minutes(2));
        let at = |report: Report, clock: i64| match report {
            Report::Cut(cut) => Report::Cut(EpochCut { clock: Some(EventTime(clock)), ..cut }),
            block @ Report::Block(_) => block,
        };
        let mut state = BindState::default();
        let ahead: Vec<i64> = (0..300).map(|n| 100 * MINUTE + n).collect();
        let first = vec![of_devices(0, &ahead, &rule), at(cut(1, &[(0, None, false)]), 50 * MINUTE)];
        assert_eq!(state.bind(1, first, &rule).after, Some(EventTime(48 * MINUTE)));
        let silent_at = |epoch, clock, silent| {
            let mut report = at(cut(epoch, &[(0, None, false)]), clock);
            if let Report::Cut(cut) = &mut report {
                cut.partitions[0].idle = true;
                cut.silent_for = Some(silent);
            }
            report
        };
        let silent = state.bind(2, vec![silent_at(2, 51 * MINUTE, 30_000)], &rule);
        assert_eq!(silent.after, Some(EventTime(48 * MINUTE + 30_000)), "it goes on at the clock's pace");
        let later = state.bind(3, vec![silent_at(3, 51 * MINUTE, 9_000_000)], &rule);
        assert_eq!(later.after, Some(EventTime(49 * MINUTE)), "and not beyond it");
    }

    #[test]
    fn a_night_in_which_time_went_on_by_the_clock_is_no_jump_for_what_follows() {
        let rule = Watermarks::out_of_order(minutes(2));
        let mut state = BindState::default();
        let evening: Vec<i64> = (0..300).map(|n| n * 1_000).collect();
        state.bind(1, vec![of_devices(0, &evening, &rule), cut(1, &[(0, None, false)])], &rule);
        let mut night = cut(2, &[(0, None, false)]);
        if let Report::Cut(cut) = &mut night {
            cut.partitions[0].idle = true;
            cut.silent_for = Some(600 * 60_000);
        }
        state.bind(2, vec![night], &rule);
        let morning = 605 * MINUTE;
        let bound = state.bind(3, vec![of_devices(0, &[morning], &rule), cut(3, &[(0, None, false)])], &rule);
        assert_eq!(bound.after, Some(EventTime(morning - 2 * MINUTE)));
    }

    #[test]
    fn what_only_stands_at_a_head_holds_time_back_and_never_moves_it() {
        let rule = Watermarks::out_of_order(minutes(2));
        let mut state = BindState::default();
        assert_eq!(state.bind(1, vec![cut(1, &[(0, Some(9_000 * MINUTE), false)])], &rule).after, None);
        let few = vec![of_devices(0, &[30 * MINUTE], &rule), cut(2, &[(0, None, false)])];
        assert_eq!(state.bind(2, few, &rule).after, None);
        assert_eq!(state.positions(), [Some(EventTime(30 * MINUTE))], "what was read tells more than the head");
        let other = vec![block(1, &[90 * MINUTE], &rule), cut(3, &[(1, None, false)])];
        assert_eq!(state.bind(3, other, &rule).after, Some(EventTime(28 * MINUTE)));
        assert_eq!(state.bind(4, vec![cut(4, &[(0, None, true)])], &rule).after, Some(EventTime(28 * MINUTE)));
        let on = vec![block(1, &[91 * MINUTE], &rule), cut(5, &[(1, None, false)])];
        assert_eq!(state.bind(5, on, &rule).after, Some(EventTime(89 * MINUTE)));
    }

    #[test]
    fn an_epoch_that_took_nothing_leaves_the_watermark() {
        let rule = Watermarks::out_of_order(minutes(2));
        let mut state = BindState::default();
        let reports = vec![
            block(0, &[10 * MINUTE], &rule),
            block(1, &[50 * MINUTE], &rule),
            cut(1, &[(0, None, true), (1, None, false)]),
        ];
        state.bind(1, reports, &rule);
        assert_eq!(state.bind(2, vec![cut(2, &[])], &rule).after, Some(EventTime(8 * MINUTE)));
    }

    #[test]
    fn the_order_in_which_reports_arrive_changes_nothing() {
        let rule = Watermarks::out_of_order(minutes(2));
        let reports = |swap: bool| {
            let (a, b) = (block(0, &[MINUTE], &rule), block(1, &[3 * MINUTE], &rule));
            let cut = cut(1, &[(0, None, false), (1, None, false)]);
            if swap { vec![cut, b, a] } else { vec![a, b, cut] }
        };
        let (mut one, mut two) = (BindState::default(), BindState::default());
        one.bind(1, reports(false), &rule);
        two.bind(1, reports(true), &rule);
        assert_eq!(one, two);
    }
}
