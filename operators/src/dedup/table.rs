//! The rule of deduplication by id, exact within a horizon of event time.
//!
//! An id is live while its time bucket is not below the bucket of `W(e-1) - horizon`; that is decided at every look-up,
//! so when expired ids are swept away cannot change an answer (INV-2). Ids whose bucket the compact table cannot tell
//! (a clock far ahead, or no watermark yet) wait in an exact map per group until the floor reaches them.

use std::time::Duration;

use hashbrown::HashTable;
use tidemill_dataflow::hash::mix;
use tidemill_dataflow::key_group::{KEY_GROUPS, KeyGroup, group_of};
use tidemill_dataflow::time::{EventTime, Watermark, millis};

use super::clusters::{Clusters, Found, LIVE_BUCKETS, STALE_BUCKETS};
use super::{IdRow, Verdict};

const MINUTE: i64 = 60_000;

/// The longest horizon that buckets of one minute serve; longer ones get wider buckets.
const HORIZON_OF_ONE_MINUTE_BUCKETS: i64 = 60 * MINUTE;

/// After how many buckets every group has been swept; a slot is told from a live one for longer than that.
const SWEEP_EVERY: u32 = 64;
const _: () = assert!(SWEEP_EVERY < STALE_BUCKETS, "a group is swept before its tags come round");

/// How many rows are handled at a time: enough for their reads of memory to overlap.
const ROWS_AT_A_TIME: usize = 16;

/// When ids expire: the horizon and the time bucket that follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Expiry {
    /// The horizon in milliseconds.
    pub(super) horizon: i64,
    /// Width of a bucket in minutes; 1 for horizons up to an hour.
    width: u32,
}

impl Expiry {
    pub(super) fn new(horizon: i64) -> Self {
        let horizon = horizon.max(0);
        let width = horizon.div_euclid(HORIZON_OF_ONE_MINUTE_BUCKETS)
            + i64::from(horizon.rem_euclid(HORIZON_OF_ONE_MINUTE_BUCKETS) > 0);
        Expiry { horizon, width: u32::try_from(width.max(1)).unwrap_or(u32::MAX) }
    }

    /// The first bucket that is live under a watermark.
    pub(super) fn floor(self, watermark: Watermark) -> Option<u32> {
        watermark.map(|w| self.bucket(minute_of(w.0.saturating_sub(self.horizon))))
    }

    #[inline]
    pub(super) fn bucket(self, minute: u32) -> u32 {
        if self.width == 1 { minute } else { minute / self.width }
    }

    /// The watermark from which on no id of this minute or an earlier one is live; `None` for the end of time.
    pub(super) fn end(self, minute: u32) -> Option<EventTime> {
        let end = (i64::from(self.bucket(minute)) + 1) * i64::from(self.width) * MINUTE;
        (end / MINUTE < i64::from(u32::MAX)).then(|| EventTime(end.saturating_add(self.horizon)))
    }
}

/// The minute of an event time. Times before 1970 count as its first minute, those after the year 10135 as the last.
#[inline]
pub(super) fn minute_of(time: i64) -> u32 {
    u32::try_from(time.max(0) / MINUTE).unwrap_or(u32::MAX)
}

/// What is kept, and stored, of an accepted id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) id: [u64; 2],
    pub(super) minute: u32,
    /// Of payload and timestamp together.
    pub(super) fingerprint: u32,
}

impl Seen {
    #[inline]
    pub(super) fn of(row: &IdRow) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "a fingerprint is 32 bits of a hash")]
        let fingerprint = (mix(u64::from(row.fingerprint), row.ts.cast_unsigned()) >> 16) as u32;
        Seen { id: row.id, minute: minute_of(row.ts), fingerprint }
    }

    pub(super) fn group(&self) -> KeyGroup {
        group_of(self.id[0])
    }
}

#[derive(Default)]
struct Group {
    table: Clusters,
    /// Ids whose bucket is not in the table's range.
    far: HashTable<Seen>,
    /// The earliest bucket in `far`, or one before it.
    nearest: u32,
}

/// The exact id table of one worker: bounded by the horizon, at most 32 bytes an id on average.
pub struct DedupTable {
    expiry: Expiry,
    /// `W(e-1) - horizon`: what is older and not in the table cannot be judged.
    oldest: Option<i64>,
    /// The first live bucket.
    floor: Option<u32>,
    /// One for every key group, by the top byte of the id.
    groups: Vec<Group>,
    /// How many ids each live bucket has in the tables, by bucket modulo 256; and their sum.
    live: Box<[u64; 256]>,
    live_total: u64,
    far_total: u64,
}

impl DedupTable {
    /// An empty table that remembers ids for `horizon` of event time.
    #[must_use]
    pub fn new(horizon: Duration) -> Self {
        DedupTable {
            expiry: Expiry::new(millis(horizon)),
            oldest: None,
            floor: None,
            groups: (0..KEY_GROUPS).map(|_| Group::default()).collect(),
            live: Box::new([0; 256]),
            live_total: 0,
            far_total: 0,
        }
    }

    pub(super) fn expiry(&self) -> Expiry {
        self.expiry
    }

    /// Sets the watermark that the following rows are judged against; one that is not later changes nothing.
    pub fn advance(&mut self, watermark: Watermark) {
        let (Some(watermark), Some(floor)) = (watermark, self.expiry.floor(watermark)) else { return };
        let oldest = watermark.0.saturating_sub(self.expiry.horizon);
        self.oldest = Some(self.oldest.map_or(oldest, |before| before.max(oldest)));
        match self.floor {
            None => {
                self.floor = Some(floor);
                (0..self.groups.len()).for_each(|group| self.admit(group, floor));
            }
            Some(before) if before < floor => self.raise(before, floor),
            Some(_) => {}
        }
    }

    /// Moves the floor up: forgets the buckets below it, sweeps the groups whose turn it is, lets far ids in.
    fn raise(&mut self, before: u32, floor: u32) {
        for bucket in before..floor.min(before.saturating_add(LIVE_BUCKETS)) {
            self.live_total -= std::mem::take(&mut self.live[usize::from(tag_of(bucket))]);
        }
        let (tag_before, passed) = (tag_of(before), floor - before);
        for (number, group) in (0u32..).zip(&mut self.groups) {
            let turn = |bucket: u32| (u64::from(bucket) + u64::from(number)) / u64::from(SWEEP_EVERY);
            if turn(before) < turn(floor) {
                let keeps = |tag: u8| (passed..LIVE_BUCKETS).contains(&u32::from(tag.wrapping_sub(tag_before)));
                group.table.sweep(keeps, phase_of(number as usize));
            }
        }
        self.floor = Some(floor);
        (0..self.groups.len()).for_each(|group| self.admit(group, floor));
    }

    /// Moves the far ids of a group that the floor has reached into its table, and drops those below it.
    fn admit(&mut self, number: usize, floor: u32) {
        let expiry = self.expiry;
        let group = &mut self.groups[number];
        let end = floor.saturating_add(LIVE_BUCKETS);
        if group.far.is_empty() || group.nearest >= end {
            return;
        }
        let mut reached: Vec<Seen> = group.far.extract_if(|seen| expiry.bucket(seen.minute) < end).collect();
        group.nearest = group.far.iter().map(|seen| expiry.bucket(seen.minute)).min().unwrap_or(u32::MAX);
        group.far.shrink_to(group.far.len() * 2, |seen| seen.id[1]);
        self.far_total -= reached.len() as u64;
        reached.retain(|seen| expiry.bucket(seen.minute) >= floor);
        for seen in reached {
            self.insert(&seen);
        }
    }

    /// The verdict on each row but the accepted ones, whose ids are in the table from then on.
    /// Of two rows with the same id the earlier in `rows` is accepted.
    pub fn check(&mut self, rows: &[IdRow], verdict: impl FnMut(&IdRow, Verdict)) {
        self.check_new(rows, verdict, |_| {});
    }

    /// Like `check`; calls `accepted` with every id that is new.
    pub(super) fn check_new(
        &mut self,
        rows: &[IdRow],
        mut verdict: impl FnMut(&IdRow, Verdict),
        mut accepted: impl FnMut(Seen),
    ) {
        for some in rows.chunks(ROWS_AT_A_TIME) {
            let touched = some.iter().fold(0, |sum, row| sum ^ self.group(row.id).table.touch(row.id));
            std::hint::black_box(touched);
            for row in some {
                let seen = Seen::of(row);
                match self.judge(&seen, row.ts) {
                    Some(other) => verdict(row, other),
                    None => accepted(seen),
                }
            }
        }
    }

    #[inline]
    fn group(&self, id: [u64; 2]) -> &Group {
        &self.groups[usize::from(group_of(id[0]))]
    }

    /// The verdict on one row; `None` if it is accepted, and then its id is in the table.
    #[inline]
    fn judge(&mut self, seen: &Seen, ts: i64) -> Option<Verdict> {
        let number = usize::from(seen.group());
        let group = &mut self.groups[number];
        let against =
            |stored: u32| Some(if stored == seen.fingerprint { Verdict::Duplicate } else { Verdict::Conflicting });
        let floor = self.floor.unwrap_or(0);
        let vacancy = match group.table.find(seen.id, tag_of(floor)) {
            Found::Live(stored) => return against(stored),
            Found::Absent(vacancy) => vacancy,
        };
        if !group.far.is_empty()
            && let Some(stored) = group.far.find(seen.id[1], |other| other.id == seen.id)
        {
            return against(stored.fingerprint);
        }
        if self.oldest.is_some_and(|oldest| ts < oldest) {
            return Some(Verdict::Unverified);
        }
        let bucket = self.expiry.bucket(seen.minute);
        if self.floor.is_some() && bucket.wrapping_sub(floor) < LIVE_BUCKETS {
            let tag = tag_of(bucket);
            group.table.insert(vacancy, seen.id, seen.fingerprint, tag, tag_of(floor), phase_of(number));
            self.live[usize::from(tag)] += 1;
            self.live_total += 1;
        } else {
            self.insert_far(*seen);
        }
        None
    }

    /// Puts an id that was stored into the table or the far map; below the floor it is left out.
    pub(super) fn insert(&mut self, seen: &Seen) {
        let bucket = self.expiry.bucket(seen.minute);
        let number = usize::from(seen.group());
        match self.floor {
            Some(floor) if bucket < floor => {}
            Some(floor) if bucket - floor < LIVE_BUCKETS => {
                let table = &mut self.groups[number].table;
                if let Found::Absent(vacancy) = table.find(seen.id, tag_of(floor)) {
                    let tag = tag_of(bucket);
                    table.insert(vacancy, seen.id, seen.fingerprint, tag, tag_of(floor), phase_of(number));
                    self.live[usize::from(tag)] += 1;
                    self.live_total += 1;
                }
            }
            _ => self.insert_far(*seen),
        }
    }

    fn insert_far(&mut self, seen: Seen) {
        let bucket = self.expiry.bucket(seen.minute);
        let group = &mut self.groups[usize::from(seen.group())];
        group.nearest = if group.far.is_empty() { bucket } else { group.nearest.min(bucket) };
        group.far.insert_unique(seen.id[1], seen, |other| other.id[1]);
        self.far_total += 1;
    }

    /// How many ids are live.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.live_total + self.far_total
    }

    /// Whether no id is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of heap of tables and far maps.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let of = |group: &Group| group.table.bytes() + group.far.allocation_size();
        (self.groups.iter().map(of).sum::<usize>() + self.groups.len() * size_of::<Group>()) as u64
    }
}

/// A bucket modulo 256.
#[inline]
fn tag_of(bucket: u32) -> u8 {
    bucket.to_le_bytes()[0]
}

/// Groups grow their tables at eight different sizes.
#[inline]
fn phase_of(group: usize) -> usize {
    group / 32
}
