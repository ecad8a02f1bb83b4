//! What the records of one block say about time, summed up by the worker that decodes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Watermarks;
use crate::time::{EventTime, Watermark, millis};

/// Records of a stretch at most: so many that a block has few stretches, so few that their order is that of the records.
const RECORDS: u32 = 64;

/// How many of the last stretches a record is compared with: a stray between its neighbours does not part them.
const OPEN: usize = 4;

/// What the records of one block say about time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockTimes {
    /// The largest time that a server's clock vouches for: the record's own, or that clock's where it is earlier.
    pub(super) vouched: Watermark,
    /// The latest of those clocks.
    pub(super) server: Watermark,
    /// How many records have such a time.
    pub(super) vouched_records: u64,
    /// The times that nobody vouches for, in input order.
    pub(super) stretches: Vec<Stretch>,
    /// Records whose time is further ahead of their server time than the skew allows.
    pub future: u64,
}

/// Some records of a block that came one soon after the other, with times close to that of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stretch {
    pub(super) first: EventTime,
    /// The smallest of them: where a partition stands of which nothing else is known.
    pub(super) low: EventTime,
    pub(super) high: EventTime,
    pub(super) records: u32,
}

/// Sums up a block record by record, in input order.
#[derive(Debug)]
pub struct BlockClock {
    skew: Duration,
    /// How far a record of a stretch may lie from the first one, in milliseconds.
    reach: u64,
    times: BlockTimes,
    /// The stretch that took the last record.
    last: usize,
}

impl BlockClock {
    /// A clock for one block.
    #[must_use]
    pub fn new(rule: &Watermarks) -> Self {
        let (skew, reach) = (rule.max_future_skew, millis(rule.close()).unsigned_abs());
        BlockClock { skew, reach, times: BlockTimes::default(), last: 0 }
    }

    /// Sees a record.
    #[inline]
    pub fn see(&mut self, time: EventTime, server_time: Watermark) {
        match server_time {
            Some(server) if time > server.plus(self.skew) => self.times.future += 1,
            Some(server) => {
                self.times.vouched = self.times.vouched.max(Some(time.min(server)));
                self.times.server = self.times.server.max(server_time);
                self.times.vouched_records += 1;
            }
            None => match self.times.stretches.get_mut(self.last) {
                Some(stretch) if stretch.takes(time, self.reach) => stretch.take(time),
                _ => self.look_further(time),
            },
        }
    }

    /// Takes a record that does not go on where the last one was.
    fn look_further(&mut self, time: EventTime) {
        let stretches = &mut self.times.stretches;
        let open = (0..stretches.len()).rev().take(OPEN).find(|at| stretches[*at].takes(time, self.reach));
        self.last = open.unwrap_or(stretches.len());
        match open {
            Some(at) => stretches[at].take(time),
            None => stretches.push(Stretch { first: time, low: time, high: time, records: 1 }),
        }
    }

    /// The block's summary.
    #[must_use]
    pub fn finish(self) -> BlockTimes {
        self.times
    }
}

impl Stretch {
    #[inline]
    fn takes(&self, time: EventTime, reach: u64) -> bool {
        self.records < RECORDS && time.0.abs_diff(self.first.0) <= reach
    }

    #[inline]
    fn take(&mut self, time: EventTime) {
        self.records += 1;
        self.low = self.low.min(time);
        self.high = self.high.max(time);
    }
}
