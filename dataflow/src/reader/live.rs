//! Cutting a source that never ends: by the clock, by size, and so that skew between partitions never becomes state.
//!
//! What the clock decided is recorded with the epoch: where it ends, who was idle, how long all were silent. A replay
//! repeats that at any speed (INV-2). The clock that measures idleness stands still while the engine itself holds
//! the source back, so a slow sink makes no partition idle.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::{BLOCK, Halt, LOOK_EVERY, Partition, Reader, SLIVER};
use crate::bind::EpochCut;
use crate::runtime::RunError;
use crate::source::SourceError;
use crate::time::{Epoch, EventTime, Watermark, millis};

/// A partition further ahead in event time than this of one that has more to read waits for it.
const DRIFT: Duration = Duration::from_secs(600);

/// How often time goes on while all partitions are idle.
const SILENT_EVERY: Duration = Duration::from_secs(5);

/// Between two looks at partitions that had nothing.
const LULL: Duration = Duration::from_millis(10);

/// Measures time but for the spans in which the engine held the source back: what is read may wait for a worker.
struct Awake {
    passed: Duration,
    seen: Instant,
}

#[expect(clippy::disallowed_methods, reason = "live epochs are cut by the clock; what it decided is recorded")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "what a live epoch's times are held against; it is recorded")]
fn wall_clock() -> EventTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    EventTime(millis(since))
}

impl Awake {
    fn new() -> Self {
        Awake { passed: Duration::ZERO, seen: now() }
    }

    /// The time awake so far.
    fn tick(&mut self) -> Duration {
        let seen = now();
        self.passed += seen - self.seen;
        self.seen = seen;
        self.passed
    }

    /// What passed since the last look does not count.
    fn skip(&mut self) {
        self.seen = now();
    }
}

/// Since when each partition has been caught up and silent.
#[derive(Debug, Default, PartialEq)]
struct Silence(Vec<Option<Duration>>);

impl Silence {
    fn seen(&mut self, partition: usize, read: bool, caught_up: bool, awake: Duration) {
        if self.0.len() <= partition {
            self.0.resize(partition + 1, None);
        }
        let since = &mut self.0[partition];
        match (read, caught_up) {
            (false, true) => *since = since.or(Some(awake)),
            _ => *since = None,
        }
    }

    fn idle(&self, partition: usize, awake: Duration, after: Duration) -> bool {
        self.0.get(partition).copied().flatten().is_some_and(|since| awake.saturating_sub(since) >= after)
    }

    /// How long all partitions have been silent, if all are.
    fn of_all(&self, awake: Duration) -> Option<Duration> {
        let last = self.0.iter().copied().try_fold(Duration::ZERO, |last, since| Some(last.max(since?)))?;
        (!self.0.is_empty()).then(|| awake.saturating_sub(last))
    }
}

/// Which partitions wait because they are too far ahead of others that have more to read.
fn held_back(positions: &[Watermark], caught_up: &[bool]) -> Vec<bool> {
    let behind = positions.iter().zip(caught_up).filter(|(_, caught_up)| !**caught_up).filter_map(|(at, _)| *at).min();
    let ahead = |at: &Watermark| matches!((behind, at), (Some(behind), Some(at)) if *at > behind.plus(DRIFT));
    positions.iter().map(ahead).collect()
}

impl Reader {
    /// Reads on from `epoch` until the run is asked to stop.
    pub(super) fn read_live(&mut self, mut epoch: Epoch) -> Result<(), Halt> {
        let (mut awake, mut silence, mut silent) = (Awake::new(), Silence::default(), Duration::ZERO);
        loop {
            epoch += 1;
            self.wait_for_room(epoch, |reader| reader.look_around())?;
            awake.skip();
            let cut = self.live_epoch(epoch, &mut awake, &mut silence, &mut silent)?;
            let last = cut.last;
            self.end_epoch(cut);
            if last {
                return Ok(());
            }
        }
    }

    /// While the engine holds the source back: what is new in it, and how much waits by now.
    fn look_around(&mut self) -> Result<(), Halt> {
        if self.reader.discover()? {
            self.take_in_partitions(0)?;
        }
        self.show_lags();
        Ok(())
    }

    fn show_lags(&self) {
        for number in self.numbers() {
            self.show_lag(number, &self.reader.position(number));
        }
    }

    fn live_epoch(
        &mut self,
        epoch: Epoch,
        awake: &mut Awake,
        silence: &mut Silence,
        silent: &mut Duration,
    ) -> Result<EpochCut, Halt> {
        let begun = now();
        let mut looked = begun;
        let mut read = vec![0_u64; self.partitions.len()];
        let mut budget = self.config.epoch_bytes;
        let mut round = usize::try_from(epoch).unwrap_or_default();
        let (stopping, silent_now) = loop {
            if self.reader.discover()? {
                self.take_in_partitions(0)?;
            }
            read.resize(self.partitions.len(), 0);
            let passed = awake.tick();
            let came = match self.read_round(epoch, round, &mut budget, &mut read) {
                // What comes next is gone. What came before is kept, so that a start may go on behind it.
                Err(Halt::Failed(error @ SourceError::Missing { .. })) => {
                    self.shared.ends_with(RunError::Source(error));
                    break (true, None);
                }
                came => came?,
            };
            round = round.wrapping_add(1);
            awake.skip();
            let changed = self.judge_idleness(&read, silence, passed);
            let silent_now = if self.partitions.iter().all(|p| p.idle) { silence.of_all(passed) } else { None };
            let goes_on = silent_now.is_some_and(|now| now >= *silent + SILENT_EVERY || now < *silent);
            let any = changed || goes_on || self.partitions.iter().any(|p| p.new) || read.iter().any(|n| *n > 0);
            if self.shared.failed() {
                return Err(Halt::Abandoned);
            }
            if self.shared.stopping() {
                break (true, silent_now);
            }
            if budget < SLIVER || (any && begun.elapsed() >= self.config.epoch_every) {
                break (false, silent_now);
            }
            if looked.elapsed() >= LOOK_EVERY {
                looked = now();
                self.show_lags();
            }
            if came == 0 {
                self.reader.wait(LULL)?;
            }
        };
        *silent = silent_now.unwrap_or_default();
        let cut = self.live_cut(epoch, &read, silent_now, stopping);
        self.in_flight.push((epoch, self.config.epoch_bytes.saturating_sub(budget)));
        Ok(cut)
    }

    /// Takes from every partition that need not wait a block of what is there; gives the bytes. Each round begins with
    /// another partition, so that a small epoch does not leave the last ones out for ever.
    fn read_round(&mut self, epoch: Epoch, round: usize, budget: &mut u64, read: &mut [u64]) -> Result<u64, Halt> {
        let known = self.shared.latest_positions();
        let position = |(n, p): (usize, &Partition)| known.get(n).copied().flatten().or(p.head);
        let positions: Vec<Watermark> = self.partitions.iter().enumerate().map(position).collect();
        let numbers = self.numbers();
        let caught_up: Vec<bool> = numbers.clone().map(|number| self.reader.position(number).caught_up).collect();
        let held = held_back(&positions, &caught_up);
        let mut came = 0;
        let begin = round % self.partitions.len().max(1);
        let all_from_there = numbers.clone().skip(begin).chain(numbers.take(begin));
        for number in all_from_there.filter(|number| !held[*number as usize]) {
            if *budget < SLIVER {
                break;
            }
            let limit = usize::try_from(*budget).unwrap_or(BLOCK).min(BLOCK);
            if let Some(bytes) = self.try_pass_on(epoch, number, limit, None)? {
                read[number as usize] += bytes;
                *budget = budget.saturating_sub(bytes);
                came += bytes;
            }
        }
        Ok(came)
    }

    /// Whether a partition became idle, or spoke again.
    fn judge_idleness(&mut self, read: &[u64], silence: &mut Silence, awake: Duration) -> bool {
        let mut changed = false;
        for (index, partition) in self.numbers().zip(&mut self.partitions) {
            let number = index as usize;
            silence.seen(number, read[number] > 0, self.reader.position(index).caught_up, awake);
            let idle = silence.idle(number, awake, self.config.idle_after);
            changed |= partition.idle != idle;
            partition.idle = idle;
        }
        changed
    }

    fn live_cut(&mut self, epoch: Epoch, read: &[u64], silent: Option<Duration>, stopping: bool) -> EpochCut {
        let mut cut = EpochCut::new(epoch);
        cut.last = stopping;
        cut.silent_for = silent.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
        let moved = read.iter().any(|n| *n > 0) || self.partitions.iter().any(|p| p.new) || cut.silent_for.is_some();
        if moved || !stopping {
            cut.clock = Some(wall_clock());
            let live = json!({ "silent_for": cut.silent_for, "clock": cut.clock });
            // All of them where one moved: who is idle is part of what the epoch decides.
            cut.partitions =
                self.numbers().map(|number| self.cut_of(number, read[number as usize], Some(live.clone()))).collect();
        }
        cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_partition_is_idle_once_it_was_caught_up_and_silent_for_long_enough() {
        let mut silence = Silence::default();
        silence.seen(0, true, true, SECOND);
        silence.seen(0, false, true, 2 * SECOND);
        silence.seen(0, false, true, 31 * SECOND);
        assert!(!silence.idle(0, 31 * SECOND, 30 * SECOND));
        assert!(silence.idle(0, 32 * SECOND, 30 * SECOND));
        silence.seen(0, true, true, 33 * SECOND);
        assert!(!silence.idle(0, 99 * SECOND, 30 * SECOND));
    }

    #[test]
    fn an_outage_is_not_idleness() {
        let mut silence = Silence::default();
        silence.seen(0, false, true, SECOND);
        silence.seen(0, false, false, 20 * SECOND);
        silence.seen(0, false, true, 40 * SECOND);
        assert!(!silence.idle(0, 60 * SECOND, 30 * SECOND));
    }

    #[test]
    fn all_are_silent_since_the_last_of_them_was() {
        let mut silence = Silence::default();
        assert_eq!(silence.of_all(SECOND), None);
        silence.seen(0, false, true, SECOND);
        silence.seen(1, false, true, 5 * SECOND);
        assert_eq!(silence.of_all(9 * SECOND), Some(4 * SECOND));
        silence.seen(1, true, true, 9 * SECOND);
        assert_eq!(silence.of_all(9 * SECOND), None);
    }

    #[test]
    fn a_partition_far_ahead_waits_for_one_that_has_more_to_read_and_for_no_other() {
        let at = |minutes: i64| Some(EventTime(minutes * 60_000));
        assert_eq!(held_back(&[at(0), at(11), at(10), None], &[false; 4]), [false, true, false, false]);
        assert_eq!(held_back(&[at(0), at(11)], &[true, false]), [false, false]);
    }
}
