//! The rules once more, as slow and plain as they can be: what the tests compare with.

use std::collections::BTreeMap;

use tidemill_dataflow::time::{EventTime, Watermark};

use crate::dedup::{IdRow, Verdict};
use crate::window::session::Interval;

const MINUTE: i64 = 60_000;

/// Deduplication over one map that forgets nothing; expiry is a comparison.
pub(crate) struct NaiveDedup {
    horizon: i64,
    watermark: Watermark,
    seen: BTreeMap<[u64; 2], IdRow>,
}

impl NaiveDedup {
    pub(crate) fn new(horizon: i64) -> Self {
        NaiveDedup { horizon, watermark: None, seen: BTreeMap::new() }
    }

    pub(crate) fn advance(&mut self, watermark: Watermark) {
        self.watermark = self.watermark.max(watermark);
    }

    /// `None`: accepted.
    pub(crate) fn check(&mut self, row: &IdRow) -> Option<Verdict> {
        let oldest = self.watermark.map(|w| w.0 - self.horizon);
        let first_minute = oldest.map(|oldest| oldest.max(0) / MINUTE);
        let live = |seen: &&IdRow| first_minute.is_none_or(|first| seen.ts.max(0) / MINUTE >= first);
        if let Some(before) = self.seen.get(&row.id).filter(live) {
            let same = before.ts == row.ts && before.fingerprint == row.fingerprint;
            return Some(if same { Verdict::Duplicate } else { Verdict::Conflicting });
        }
        if oldest.is_some_and(|oldest| row.ts < oldest) {
            return Some(Verdict::Unverified);
        }
        self.seen.insert(row.id, *row);
        None
    }

    /// How many ids are live.
    pub(crate) fn live(&self) -> usize {
        let first_minute = self.watermark.map(|w| (w.0 - self.horizon).max(0) / MINUTE);
        self.seen.values().filter(|seen| first_minute.is_none_or(|first| seen.ts.max(0) / MINUTE >= first)).count()
    }
}

/// The sessions of one key: all its events sorted, cut where the distance exceeds the gap.
pub(crate) fn sessions(mut times: Vec<i64>, gap: i64) -> Vec<Interval> {
    times.sort_unstable();
    let mut sessions: Vec<Interval> = Vec::new();
    for time in times {
        match sessions.last_mut() {
            Some(session) if time - session.last.0 <= gap => {
                session.last = EventTime(time);
                session.count += 1;
            }
            _ => sessions.push(Interval::at(EventTime(time))),
        }
    }
    sessions
}
