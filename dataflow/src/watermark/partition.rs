//! How far a partition has come, and what must be seen before its clock jumps.
//!
//! Times that a server's clock vouches for count at once. Without one, time *flows* in natural steps: to a record that is not
//! further ahead than records of this partition usually are apart. Whatever is further ahead waits: it counts when
//! [`COMPANY`] of the last [`WINDOW`] records stand there or beyond, half of them. So a burst of wrong clocks moves nothing,
//! be it at the beginning, where nothing is known yet, and an honest gap holds the clock up no longer than that.

use std::cmp::Reverse;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Watermarks;
use super::block::BlockTimes;
use crate::time::{EventTime, Watermark, millis, minutes};

/// How many of the last records of a partition are looked back on.
const WINDOW: u64 = 512;

/// How many of them must stand behind a jump.
const COMPANY: u64 = 256;

/// A natural step is this many times the usual distance of two records, so that lulls and evenings flow,
const LULLS: u64 = 16;

/// but no longer than this,
const LONGEST_LULL: Duration = minutes(40);

/// unless records are further apart as a rule: then it is this many times that distance.
const RARELY: u64 = 3;

/// How many records of the window that have counted are kept as one.
const AS_ONE: u64 = 64;

/// One of so many of the last records, or fewer, are strays where nothing comes between them and the others.
const FEW: u64 = 16;

/// Records whose times are enough to tell how far apart they usually are.
const ENOUGH: u64 = 8;

/// What a partition's clock is judged by beside its own records.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    /// How far time has come everywhere: from there, too, it flows.
    pub(crate) passed: Watermark,
    /// The clock at which a live epoch was cut: times that no server vouches for do not move a partition beyond it.
    pub(crate) clock: Watermark,
}

impl Bounds {
    fn cap(&self, time: EventTime) -> EventTime {
        self.clock.map_or(time, |clock| time.min(clock))
    }
}

/// How far a partition has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionClock {
    /// The largest event time that counts.
    pub(crate) reached: Watermark,
    /// The latest server's clock that vouched for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Watermark,
    /// The last records, in input order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    window: Vec<Seen>,
}

/// Some records of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
struct Seen {
    first: EventTime,
    /// The smallest of them, as long as they wait.
    low: EventTime,
    high: EventTime,
    records: u64,
    /// They were too far ahead to count.
    waits: bool,
}

/// As checkpoints keep it: the smallest time only where it is not the first, which older ones do not tell.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Kept {
    WithLow(i64, i64, u64, bool, i64),
    Plain(i64, i64, u64, bool),
}

impl From<Kept> for Seen {
    fn from(kept: Kept) -> Self {
        let (first, high, records, waits, low) = match kept {
            Kept::WithLow(first, high, records, waits, low) => (first, high, records, waits, low),
            Kept::Plain(first, high, records, waits) => (first, high, records, waits, first),
        };
        Seen { first: EventTime(first), low: EventTime(low), high: EventTime(high), records, waits }
    }
}

impl From<Seen> for Kept {
    fn from(seen: Seen) -> Self {
        let (first, high, low) = (seen.first.0, seen.high.0, seen.low.0);
        if seen.waits && low != first {
            Kept::WithLow(first, high, seen.records, true, low)
        } else {
            Kept::Plain(first, high, seen.records, seen.waits)
        }
    }
}

/// Records that wait and follow each other in natural steps, as one clock would give them.
struct Track {
    from: EventTime,
    to: EventTime,
    records: u64,
}

impl PartitionClock {
    /// Takes in the next block of the partition; returns how many records were too far ahead to count, those included that
    /// waited so long for company that they are looked back on no longer.
    pub(crate) fn advance(&mut self, block: &BlockTimes, rule: &Watermarks, bounds: &Bounds) -> u64 {
        if let Some(time) = block.vouched {
            self.reached = self.reached.max(Some(time));
            self.server = self.server.max(block.server);
            self.window.push(Seen { first: time, low: time, high: time, records: block.vouched_records, waits: false });
        }
        let known = self.window.len();
        self.window.extend(block.stretches.iter().map(|stretch| Seen {
            first: stretch.first,
            low: stretch.low,
            high: stretch.high,
            records: u64::from(stretch.records),
            waits: true,
        }));
        if self.window.iter().any(|seen| seen.waits) {
            let step = self.step(rule);
            self.flow(known, step, bounds);
            self.jump((step, rule.close()), bounds);
        }
        block.future + self.look_back()
    }

    /// Where a partition begins that has nothing more to say, or gives what is new: at its earliest times. They are all that is
    /// known of it, and what wrong clocks say is later.
    pub(crate) fn begin(&mut self, rule: &Watermarks, bounds: &Bounds, quiet: bool) {
        if self.reached.is_some() {
            return;
        }
        let recent = |track: &Track| bounds.clock.is_some_and(|clock| track.from.plus(rule.max_future_skew) >= clock);
        let earliest = self.tracks((self.step(rule), rule.close()), 0).into_iter().min_by_key(|track| track.from);
        if let Some(track) = earliest.filter(|track| quiet || recent(track)) {
            self.reach(bounds.cap(track.to));
        }
    }

    /// The partition's watermark.
    pub(crate) fn watermark(&self, rule: &Watermarks) -> Watermark {
        self.reached.map(|time| time.minus(rule.out_of_orderness))
    }

    /// Where the partition stands: where it is known to, or else at the earliest time that waits or was seen at its `head`.
    pub(crate) fn position(&self, head: Watermark) -> Watermark {
        let waiting = self.window.iter().filter(|seen| seen.waits).map(|seen| seen.low);
        self.reached.or_else(|| waiting.chain(head).min())
    }

    /// Where the partition's data ends, now that nothing follows: beyond where it is known to have come, what waits for company
    /// counts as long as it follows in natural steps, or is more than a few strays.
    pub(crate) fn last_event(&self) -> Watermark {
        let strays = self.records() / FEW;
        let mut waiting: Vec<&Seen> = self.window.iter().filter(|seen| seen.waits).collect();
        waiting.sort_unstable_by_key(|seen| seen.first);
        let mut left: u64 = waiting.iter().map(|seen| seen.records).sum();
        let mut last = self.reached;
        for seen in waiting {
            if left <= strays && last.is_some_and(|last| seen.first > last.plus(LONGEST_LULL)) {
                break;
            }
            last = last.max(Some(seen.high));
            left -= seen.records;
        }
        last
    }

    /// Takes over where the partition stood when its epoch was bound.
    pub(crate) fn stands_at(&mut self, reached: Watermark) {
        self.reached = reached;
        self.window.iter_mut().filter(|seen| Some(seen.first) <= reached).for_each(|seen| seen.waits = false);
    }

    /// Lets time flow over the records from `known` on.
    fn flow(&mut self, known: usize, step: Duration, bounds: &Bounds) {
        for seen in &mut self.window[known..] {
            let near = self.reached.max(bounds.passed).is_some_and(|base| seen.first <= base.plus(step));
            if !near {
                continue;
            }
            // Where a server's clock is known, only half of all records together know better.
            let server = self.server.filter(|server| self.reached <= Some(*server));
            let time = bounds.cap(server.map_or(seen.high, |server| seen.high.min(server)));
            self.reached = self.reached.max(Some(time));
            seen.waits = false;
        }
    }

    /// Jumps to where enough of the last records stand.
    fn jump(&mut self, step: (Duration, Duration), bounds: &Bounds) {
        let past = self.records().saturating_sub(WINDOW);
        let tracks = self.tracks(step, past);
        // Others beyond lend no company: they may be what went astray, and this what they have passed.
        let confirmed = tracks.iter().filter(|track| track.records >= COMPANY).map(|track| track.to).max();
        if let Some(time) = confirmed {
            self.reach(bounds.cap(time));
        }
        // Records that are too far apart to be one clock's doing still have company.
        let mut waiting: Vec<_> = self.counted(past).filter(|(seen, _)| seen.waits).collect();
        waiting.sort_by_key(|(seen, _)| Reverse(seen.first));
        let mut company = 0;
        let there = waiting.iter().find(|(_, records)| {
            company += records;
            company >= COMPANY
        });
        if let Some(time) = there.map(|(seen, _)| seen.first) {
            self.reach(bounds.cap(time));
        }
    }

    fn reach(&mut self, time: EventTime) {
        self.stands_at(self.reached.max(Some(time)));
    }

    /// The records of the window, in input order, without the first `past`.
    fn counted(&self, mut past: u64) -> impl Iterator<Item = (&Seen, u64)> {
        self.window.iter().map(move |seen| {
            let skipped = past.min(seen.records);
            past -= skipped;
            (seen, seen.records - skipped)
        })
    }

    fn records(&self) -> u64 {
        self.window.iter().map(|seen| seen.records).sum()
    }

    /// Follows what waits in steps, no further back than records are out of order; what stands among the first `past` records of the window lends no company.
    fn tracks(&self, (step, close): (Duration, Duration), past: u64) -> Vec<Track> {
        let mut tracks: Vec<Track> = Vec::new();
        for (seen, records) in self.counted(past).filter(|(seen, _)| seen.waits) {
            let follows = |track: &&mut Track| track.to <= seen.first.plus(close) && seen.first <= track.to.plus(step);
            match tracks.iter_mut().filter(follows).max_by_key(|track| (track.records, Reverse(track.from))) {
                Some(track) => {
                    track.from = track.from.min(seen.first);
                    track.to = track.to.max(seen.high);
                    track.records += records;
                }
                None => tracks.push(Track { from: seen.first, to: seen.high, records }),
            }
        }
        tracks
    }

    /// How far ahead a record may lie without company: by how far apart records usually are.
    ///
    /// Judged by the earlier half of the times in the window, where no clock that is ahead has put any, and there by the
    /// closer of two quarters, so that one gap, or old strays, do not count.
    fn step(&self, rule: &Watermarks) -> Duration {
        let records = self.records();
        let quarters: &[_] = match records {
            COMPANY.. => &[(0, records / 4), (records / 4, records / 2)],
            // Too few to know better where something is known.
            ENOUGH.. if self.reached.is_none() => &[(records / 8, records / 2)],
            _ => return rule.close(),
        };
        let mut times: Vec<(EventTime, u64)> = self.window.iter().map(|seen| (seen.first, seen.records)).collect();
        times.sort_unstable();
        let usual = quarters.iter().map(|(from, to)| distance(&times, *from, *to)).min().unwrap_or_default();
        let lulls = usual.saturating_mul(LULLS).min(millis(LONGEST_LULL).unsigned_abs());
        rule.close().max(Duration::from_millis(lulls.max(usual.saturating_mul(RARELY))))
    }

    /// Forgets what came before the window, and keeps together what counted; gives how many records waited in vain.
    fn look_back(&mut self) -> u64 {
        let mut past = self.records().saturating_sub(WINDOW);
        let mut in_vain = 0;
        let mut kept: Vec<Seen> = Vec::with_capacity(self.window.len());
        for mut seen in self.window.drain(..) {
            let skipped = past.min(seen.records);
            past -= skipped;
            seen.records -= skipped;
            in_vain += if seen.waits { skipped } else { 0 };
            match kept.last_mut() {
                Some(last) if !last.waits && !seen.waits && last.records + seen.records <= AS_ONE => {
                    // A stray or a late one between others does not say when they were.
                    last.first = if last.records < seen.records { seen.first } else { last.first };
                    last.records += seen.records;
                    last.high = last.high.max(seen.high);
                }
                _ if seen.records > 0 => kept.push(seen),
                _ => {}
            }
        }
        self.window = kept;
        in_vain
    }
}

/// The mean distance of two records between two ranks of sorted times, in milliseconds.
fn distance(times: &[(EventTime, u64)], from: u64, to: u64) -> u64 {
    let at = |rank: u64| {
        let mut before = 0;
        times.iter().find_map(|(time, records)| {
            let here = (before >= rank).then_some((before, *time));
            before += records;
            here
        })
    };
    match (at(from), at(to)) {
        (Some((first, begin)), Some((last, end))) if last > first => end.0.abs_diff(begin.0) / (last - first),
        _ => 0,
    }
}
