//! From event times to watermarks: what one block says, what a partition has reached, and `W(e)`.
//!
//! Three pure steps. A worker sums a block up as [`BlockTimes`]; the binder folds the blocks of an epoch, in order,
//! into each partition's [`PartitionClock`]; [`merge`] takes the minimum over partitions. Nothing here depends on
//! which worker saw a block or when (INV-2). The out-of-orderness bound and the clamp on future times follow the
//! Dataflow Model (Akidau et al., 2015) and DESIGN 2.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::{EventTime, Watermark};

/// How watermarks follow event times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// How far behind the largest event time the watermark stays.
    pub out_of_orderness: Duration,
    /// How far ahead of the server's clock (or of its neighbours, without one) an event time may lie and still move it.
    pub max_future_skew: Duration,
    /// How long a live partition must be caught up, without data, before it holds the watermark back no longer.
    pub idle_after: Duration,
}

impl Watermarks {
    /// A watermark `bound` behind the largest event time; future times are clamped at one hour of skew, a live partition
    /// is idle after 30 seconds.
    #[must_use]
    pub fn out_of_order(bound: Duration) -> Self {
        let (max_future_skew, idle_after) = (Duration::from_secs(3_600), Duration::from_secs(30));
        Watermarks { out_of_orderness: bound, max_future_skew, idle_after }
    }

    /// Another time until a live partition counts as idle.
    #[must_use]
    pub fn idle_after(self, span: Duration) -> Self {
        Watermarks { idle_after: span, ..self }
    }

    /// Another bound on future times.
    #[must_use]
    pub fn max_future_skew(self, skew: Duration) -> Self {
        Watermarks { max_future_skew: skew, ..self }
    }
}

/// What the records of one block say about time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockTimes {
    /// The largest time vouched for by a server clock, or by the two records after it.
    confirmed: Watermark,
    /// The largest time of a record without server clock that nobody vouched for.
    lone: Watermark,
    /// The smallest such time above `confirmed`.
    lowest_lone: Watermark,
    /// Records whose time is further ahead of their server time than the skew allows.
    pub future: u64,
}

/// Sums up a block record by record, in input order.
#[derive(Debug)]
pub struct BlockClock {
    skew: Duration,
    times: BlockTimes,
    /// The last two records without a server time, latest last.
    last: [Watermark; 2],
    /// Times that waited for confirmation and did not get it: above what was confirmed when they left `last`.
    unconfirmed: Vec<EventTime>,
}

impl BlockClock {
    /// A clock for one block.
    #[must_use]
    pub fn new(rule: &Watermarks) -> Self {
        BlockClock {
            skew: rule.max_future_skew,
            times: BlockTimes::default(),
            last: [None, None],
            unconfirmed: Vec::new(),
        }
    }

    /// Sees a record.
    #[inline]
    pub fn see(&mut self, time: EventTime, server_time: Watermark) {
        match server_time {
            Some(server) if time > server.plus(self.skew) => self.times.future += 1,
            Some(_) => self.times.confirmed = self.times.confirmed.max(Some(time)),
            None => {
                let [older, newer] = self.last;
                if let Some(older) = older {
                    // A time counts as soon as the two records after it are as late: one stray clock has no such company.
                    let vouched = older.min(newer.unwrap_or(older)).min(time);
                    self.times.confirmed = self.times.confirmed.max(Some(vouched));
                    self.drop_from_window(older);
                }
                self.last = [newer, Some(time)];
            }
        }
    }

    fn drop_from_window(&mut self, time: EventTime) {
        if Some(time) > self.times.confirmed {
            self.unconfirmed.push(time);
        }
    }

    /// The block's summary.
    #[must_use]
    pub fn finish(mut self) -> BlockTimes {
        let mut rest = std::mem::take(&mut self.unconfirmed);
        rest.extend(self.last.iter().flatten());
        rest.sort_unstable();
        // A time within the skew of what is confirmed needs no company, and then vouches for the next one.
        for time in rest {
            match self.times.confirmed {
                Some(known) if time <= known.plus(self.skew) => self.times.confirmed = Some(known.max(time)),
                _ => {
                    self.times.lowest_lone = Some(self.times.lowest_lone.map_or(time, |lowest| lowest.min(time)));
                    self.times.lone = self.times.lone.max(Some(time));
                }
            }
        }
        self.times
    }
}

/// How far a partition has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionClock {
    /// The largest event time that counts.
    pub reached: Watermark,
    /// The last two times that nobody vouched for, latest last, if nothing that counts came after them: blocks of a slow
    /// partition are too small to confirm a jump by themselves.
    #[serde(default)]
    lone: [Watermark; 2],
}

impl PartitionClock {
    /// A clock that goes on from here.
    #[must_use]
    pub fn at(reached: Watermark) -> Self {
        PartitionClock { reached, lone: [None, None] }
    }

    /// Takes in the next block of the partition; returns how many records were too far ahead to count (at least:
    /// unconfirmed jumps of one block count as one).
    pub fn advance(&mut self, block: &BlockTimes, rule: &Watermarks) -> u64 {
        if block.confirmed.is_some() {
            *self = PartitionClock::at(self.reached.max(block.confirmed));
        }
        let mut ahead = block.future;
        let higher = block.lone.filter(|_| block.lone != block.lowest_lone);
        for time in [block.lowest_lone, higher].into_iter().flatten() {
            if let [Some(first), Some(second)] = self.lone {
                // The same rule as within a block.
                self.reached = self.reached.max(Some(first.min(second).min(time)));
            }
            match self.reached {
                Some(reached) if time <= reached.plus(rule.max_future_skew) => {
                    *self = PartitionClock::at(Some(reached.max(time)));
                }
                _ => {
                    self.lone = [self.lone[1], Some(time)];
                    ahead += u64::from(Some(time) == block.lone);
                }
            }
        }
        ahead
    }

    /// The partition's watermark.
    #[must_use]
    pub fn watermark(&self, rule: &Watermarks) -> Watermark {
        self.reached.map(|time| time.minus(rule.out_of_orderness))
    }
}

/// `W(e)`: the minimum over the partitions that count, never behind `before`; `before` when none counts.
#[must_use]
pub fn merge(before: Watermark, partitions: impl IntoIterator<Item = Watermark>) -> Watermark {
    partitions.into_iter().min().map_or(before, |minimum| minimum.max(before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{hours, minutes};

    fn reached(records: &[(i64, Option<i64>)]) -> Option<i64> {
        let rule = Watermarks::out_of_order(minutes(2)).max_future_skew(hours(1));
        let mut clock = BlockClock::new(&rule);
        records.iter().for_each(|(time, server)| clock.see(EventTime(*time), server.map(EventTime)));
        let mut partition = PartitionClock::default();
        partition.advance(&clock.finish(), &rule);
        partition.reached.map(|t| t.0)
    }

    const HOUR: i64 = 3_600_000;

    #[test]
    fn a_time_far_ahead_of_its_server_time_moves_nothing() {
        assert_eq!(reached(&[(1_000, Some(1_010)), (9 * HOUR, Some(1_020)), (1_500, Some(1_600))]), Some(1_500));
    }

    #[test]
    fn one_stray_clock_without_server_time_cannot_end_the_day() {
        assert_eq!(reached(&[(0, None), (1, None), (2, None), (90 * HOUR, None), (3, None), (4, None)]), Some(4));
        assert_eq!(reached(&[(90 * HOUR, None), (1, None), (2, None), (3, None), (4, None)]), Some(4));
    }

    #[test]
    fn a_jump_that_the_next_records_confirm_counts() {
        let records = [(0, None), (1, None), (2, None), (9 * HOUR, None), (9 * HOUR + 1, None), (9 * HOUR + 2, None)];
        assert_eq!(reached(&records), Some(9 * HOUR + 2));
    }

    #[test]
    fn a_lone_time_within_the_skew_of_the_partition_counts() {
        let rule = Watermarks::out_of_order(minutes(2));
        let mut partition = PartitionClock::at(Some(EventTime(0)));
        let mut clock = BlockClock::new(&rule);
        clock.see(EventTime(HOUR), None);
        assert_eq!(partition.advance(&clock.finish(), &rule), 0);
        assert_eq!(partition.watermark(&rule), Some(EventTime(HOUR - 120_000)));
    }

    /// What a partition has reached after blocks of these times, none with a server's clock.
    fn after(blocks: &[&[i64]]) -> Option<i64> {
        let rule = Watermarks::out_of_order(minutes(2));
        let mut partition = PartitionClock::default();
        for block in blocks {
            let mut clock = BlockClock::new(&rule);
            block.iter().for_each(|time| clock.see(EventTime(*time), None));
            partition.advance(&clock.finish(), &rule);
        }
        partition.reached.map(|time| time.0)
    }

    #[test]
    fn blocks_of_single_records_confirm_each_other() {
        assert_eq!(after(&[&[5], &[7]]), None);
        assert_eq!(after(&[&[5], &[7], &[6]]), Some(6));
        assert_eq!(after(&[&[5, 9], &[7]]), Some(7));
        // After a night, too.
        assert_eq!(after(&[&[0, 1, 2], &[9 * HOUR], &[9 * HOUR + 1], &[9 * HOUR + 2]]), Some(9 * HOUR + 2));
    }

    #[test]
    fn a_stray_clock_between_blocks_of_single_records_has_no_company() {
        let stray = 90 * HOUR;
        assert_eq!(after(&[&[0, 1, 2], &[stray], &[3], &[stray], &[4], &[stray], &[5]]), Some(5));
        assert_eq!(after(&[&[stray], &[1], &[2], &[3]]), Some(3));
    }

    #[test]
    fn the_merged_watermark_never_goes_back_and_waits_for_the_unknown() {
        let at = |t| Some(EventTime(t));
        assert_eq!(merge(at(5), [at(9), at(7)]), at(7));
        assert_eq!(merge(at(5), [at(9), at(3)]), at(5));
        assert_eq!(merge(None, [at(9), None]), None);
        assert_eq!(merge(at(5), []), at(5));
    }
}
