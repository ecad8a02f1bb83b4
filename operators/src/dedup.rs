//! Deduplication by id: of the rows with one id within the horizon, the first counts.
//!
//! "First" is the earlier epoch, then the smaller (partition, offset, row) (INV-2). An id leaves memory when the
//! watermark passes its time bucket's horizon; a row older than that whose id is not in memory cannot be judged and is
//! [`Verdict::Unverified`], so that no row is dropped on a guess (INV-6). Only ids travel to the worker that owns them;
//! the verdicts travel back to where the records are, and what goes on is counted there. A record without an id of its own
//! (a line of a log: its place in the file cannot repeat) is not judged at all.
//!
//! Two different event ids with one 128-bit hash would count as duplicates; among n ids within a horizon that happens
//! with probability n^2 / 2^129. Two rows with one id and different content read as plain duplicates with probability
//! 2^-32 (the fingerprint).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::batch::Order;
use tidemill_dataflow::key_group::{KeyGroup, group_of, owner};
use tidemill_dataflow::keyed::{Changes, Chunk, DecodeError, Emit, ShardLogic, StateSize};
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark};

mod clusters;
mod section;
mod table;

pub use table::DedupTable;
use table::{Expiry, Seen};

/// What deduplication must know of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRow {
    /// High and low half of the 128-bit id; the high half's top byte is the key group.
    pub id: [u64; 2],
    /// Event time in milliseconds.
    pub ts: i64,
    /// A hash of the record's content.
    pub fingerprint: u32,
    /// Its row number in the block.
    pub row: u32,
}

impl IdRow {
    /// The row of a record with this id.
    #[must_use]
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the id is cut into halves")]
    pub fn new(id: u128, time: EventTime, fingerprint: u32, row: u32) -> Self {
        IdRow { id: [(id >> 64) as u64, id as u64], ts: time.0, fingerprint, row }
    }
}

/// Why a row is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Verdict {
    /// A row with this id, time and content was accepted before.
    Duplicate,
    /// A row with this id was accepted before, with another time or content.
    Conflicting,
    /// The row is older than the horizon and its id is not in memory.
    Unverified,
}

/// The verdicts of one owner on the rows of one block; rows that are not named are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// The worker that has the block.
    pub dest: u32,
    /// The block.
    pub order: Order,
    /// Row numbers, ascending, and what each is.
    pub exceptions: Vec<(u32, Verdict)>,
}

/// Parts a block's rows by the worker that owns their ids; workers that own none get no chunk.
#[must_use]
pub fn partition_ids(
    order: Order,
    from: u32,
    workers: u32,
    rows: impl IntoIterator<Item = IdRow>,
) -> Vec<Chunk<IdRow>> {
    let mut chunks: Vec<_> = (0..workers).map(|dest| Chunk { dest, from, order, rows: Vec::new() }).collect();
    for row in rows {
        chunks[owner(group_of(row.id[0]), workers) as usize].rows.push(row);
    }
    chunks.retain(|chunk| !chunk.rows.is_empty());
    chunks
}

/// How far behind the watermark unverified rows were, by counters: each up to so many milliseconds, the last without end.
pub const UNVERIFIED_AGES: [(&str, i64); 4] = [
    ("unverified_up_to_2h", 2 * HOUR),
    ("unverified_up_to_1d", 24 * HOUR),
    ("unverified_up_to_7d", 7 * 24 * HOUR),
    ("unverified_older", i64::MAX),
];
const HOUR: i64 = 3_600_000;

/// The place in [`UNVERIFIED_AGES`] of a row of this time.
fn age_of(ts: i64, watermark: Watermark) -> usize {
    let age = watermark.map_or(0, |watermark| watermark.0.saturating_sub(ts));
    UNVERIFIED_AGES.iter().position(|(_, most)| age <= *most).unwrap_or(UNVERIFIED_AGES.len() - 1)
}

/// New ids are kept in blocks of this many until the next snapshot, so that no long list is ever copied.
const BLOCK: usize = 8_192;

/// Deduplication over the key groups of one worker. Sections are version 1.
pub struct DedupLogic {
    table: DedupTable,
    /// Ids accepted since the last snapshot; `None` where there are no snapshots.
    fresh: Option<Fresh>,
    /// Stored ids until the watermark they are judged against is known.
    stored: Vec<Seen>,
}

impl DedupLogic {
    /// Remembers ids for `horizon` of event time; new ids wait in memory (24 bytes each) for the next snapshot.
    #[must_use]
    pub fn new(horizon: Duration) -> Self {
        DedupLogic { table: DedupTable::new(horizon), fresh: Some(Fresh::default()), stored: Vec::new() }
    }

    /// The same where no snapshot is ever taken: new ids do not wait for one.
    #[must_use]
    pub fn without_snapshots(horizon: Duration) -> Self {
        DedupLogic { fresh: None, ..DedupLogic::new(horizon) }
    }

    /// Bytes of the new ids that wait for the next snapshot; not part of [`ShardLogic::size`].
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        let blocks = self.fresh.iter().flat_map(|fresh| &fresh.blocks);
        blocks.map(|block| (block.ids.capacity() * size_of::<Seen>()) as u64).sum()
    }
}

impl ShardLogic for DedupLogic {
    type In = IdRow;
    type Out = Verdicts;
    const STATE_VERSION: u32 = 1;
    const STATEFUL: bool = true;

    fn close_epoch(&mut self, time: EpochTime, input: Vec<Chunk<IdRow>>, out: &mut Emit<Verdicts>) {
        self.table.advance(time.before);
        let (mut duplicates, mut conflicting, mut unverified) = (0, 0, 0);
        let mut ages = [0; UNVERIFIED_AGES.len()];
        for chunk in input {
            debug_assert!(chunk.rows.is_sorted_by(|a, b| a.row < b.row), "the rows of a block come in its order");
            let mut exceptions = Vec::new();
            let verdict = |row: &IdRow, verdict| {
                match verdict {
                    Verdict::Duplicate => duplicates += 1,
                    Verdict::Conflicting => (duplicates, conflicting) = (duplicates + 1, conflicting + 1),
                    Verdict::Unverified => {
                        unverified += 1;
                        ages[age_of(row.ts, time.before)] += 1;
                    }
                }
                exceptions.push((row.row, verdict));
            };
            match &mut self.fresh {
                Some(fresh) => self.table.check_new(&chunk.rows, verdict, |seen| fresh.push(seen)),
                None => self.table.check_new(&chunk.rows, verdict, |_| {}),
            }
            if !exceptions.is_empty() {
                out.give(Verdicts { dest: chunk.from, order: chunk.order, exceptions });
            }
        }
        out.count("duplicates", duplicates);
        out.count("conflicting_duplicates", conflicting);
        out.count("unverified", unverified);
        UNVERIFIED_AGES.iter().zip(ages).for_each(|((name, _), n)| out.count(name, n));
        if let (Some(fresh), Some(floor)) = (&mut self.fresh, self.table.expiry().floor(time.after)) {
            fresh.forget(self.table.expiry(), floor);
        }
    }

    fn changes(&mut self) -> Option<Changes> {
        let Fresh { blocks, floor, .. } = std::mem::take(self.fresh.as_mut()?);
        let latest = blocks.iter().map(|block| block.latest).max()?;
        let expiry = self.table.expiry();
        let expires = expiry.end(latest);
        Some(Changes { encode: Box::new(move || section::encode(expiry, floor, &blocks)), expires })
    }

    fn restore(&mut self, group: KeyGroup, section: &[u8]) -> Result<(), DecodeError> {
        if !section.is_empty() {
            section::decode(group, section, |seen| self.stored.push(seen))?;
        }
        Ok(())
    }

    fn restored(&mut self, watermark: Watermark) {
        self.table.advance(watermark);
        for seen in std::mem::take(&mut self.stored) {
            self.table.insert(&seen);
        }
    }

    fn fold(sections: &[&[u8]], low: Watermark, _oldest: bool) -> Result<Vec<u8>, DecodeError> {
        let written: Vec<&[u8]> = sections.iter().copied().filter(|section| !section.is_empty()).collect();
        section::fold(&written, low)
    }

    /// The ids that are live, and the bytes of table and far maps. Ids that wait for a snapshot are in both already;
    /// the copy that waits is [`DedupLogic::waiting_bytes`].
    fn size(&self) -> StateSize {
        StateSize { entries: self.table.len(), bytes: self.table.bytes() }
    }
}

/// New ids on their way into a snapshot. Those that expire before it is taken never reach it.
#[derive(Default)]
struct Fresh {
    blocks: Vec<FreshBlock>,
    /// An emptied block, to be filled again.
    spare: Option<Vec<Seen>>,
    /// Ids in buckets below this one have expired.
    floor: u32,
}

struct FreshBlock {
    ids: Vec<Seen>,
    /// The latest minute among them.
    latest: u32,
}

impl Fresh {
    #[inline]
    fn push(&mut self, seen: Seen) {
        match self.blocks.last_mut() {
            Some(block) if block.ids.len() < BLOCK => {
                block.latest = block.latest.max(seen.minute);
                block.ids.push(seen);
            }
            _ => {
                let mut ids = self.spare.take().unwrap_or_else(|| Vec::with_capacity(BLOCK));
                ids.push(seen);
                self.blocks.push(FreshBlock { ids, latest: seen.minute });
            }
        }
    }

    /// Drops the blocks that hold nothing but expired ids: input is roughly in order of time, so that is most of them.
    fn forget(&mut self, expiry: Expiry, floor: u32) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        let expired = |block: &mut FreshBlock| expiry.bucket(block.latest) < floor;
        if let Some(FreshBlock { mut ids, .. }) = self.blocks.extract_if(.., expired).last() {
            ids.clear();
            self.spare = Some(ids);
        }
    }
}

#[cfg(test)]
mod tests;
