//! What state costs: bytes in memory and in snapshots of an id and of a session, and how long handing out a snapshot
//! stops a worker.
//!
//! The workload goes through the rules themselves, one worker, without a dataflow around them: epochs of the job's
//! default size, a snapshot every few epochs. What is encoded is what the checkpoint of a real run stores.

use std::fmt::{self, Write};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use tidemill_connectors::events::{Event, NdjsonDecoder};
use tidemill_dataflow::batch::Order;
use tidemill_dataflow::key::key;
use tidemill_dataflow::keyed::{Chunk, Emit, PerKey, ShardLogic};
use tidemill_dataflow::source::{Block, Decode, Decoded};
use tidemill_dataflow::time::{EpochTime, EventTime, Watermark, hours, minutes};
use tidemill_operators::dedup::{DedupLogic, IdRow};
use tidemill_operators::window::session::{Session, SessionCombiner, SessionLogic};

use crate::rounds::BenchError;
use crate::usage;

const EPOCH: usize = 32 << 20;
const EPOCHS_A_SNAPSHOT: u64 = 2;

/// What one operator's state cost.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Most entries at the end of an epoch, and the heap bytes they took then.
    pub entries: u64,
    /// See `entries`.
    pub bytes: u64,
    /// Encoded bytes of all snapshots.
    pub stored_bytes: u64,
    /// Entries that were new or changed in an epoch, summed over those that a snapshot stored.
    pub changed: u64,
    /// The same for the epochs since the last snapshot.
    waiting: u64,
    /// Seconds in which the worker stood still for a snapshot, each.
    pub stalls: Vec<f64>,
}

impl Cost {
    fn epoch(&mut self, logic: &mut impl ShardLogic, changed: u64, epoch: u64) {
        let size = logic.size();
        if size.entries > self.entries {
            (self.entries, self.bytes) = (size.entries, size.bytes);
        }
        self.waiting += changed;
        if epoch.is_multiple_of(EPOCHS_A_SNAPSHOT) {
            self.changed += std::mem::take(&mut self.waiting);
            let start = usage::now();
            let changes = logic.changes();
            self.stalls.push(start.elapsed().as_secs_f64());
            let sections = changes.map(|changes| (changes.encode)()).unwrap_or_default();
            self.stored_bytes += sections.iter().map(|section| section.bytes.len() as u64).sum::<u64>();
        }
    }

    /// One line: bytes an entry in memory, bytes stored a changed entry, stalls.
    ///
    /// # Errors
    /// When `out` takes no more.
    pub fn write(&self, name: &str, out: &mut impl Write) -> fmt::Result {
        let per = |bytes: u64, entries: u64| bytes as f64 / entries.max(1) as f64;
        let mut stalls = self.stalls.clone();
        stalls.sort_by(f64::total_cmp);
        let stall = |quantile: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into a short list")]
            let at = (stalls.len().saturating_sub(1) as f64 * quantile).round() as usize;
            stalls.get(at).copied().unwrap_or(0.0) * 1e3
        };
        writeln!(
            out,
            "{name}: {:.1} bytes each in memory ({} at most), {:.1} bytes stored for each of {} changed, \
             stall of a snapshot p50 {:.3} ms, p99 {:.3} ms",
            per(self.bytes, self.entries),
            self.entries,
            per(self.stored_bytes, self.changed),
            self.changed,
            stall(0.5),
            stall(0.99),
        )
    }
}

/// Costs of the dedup ids and of the sessions of a plain NDJSON file.
///
/// # Errors
/// When the file cannot be read.
pub fn costs(path: &Path) -> Result<(Cost, Cost), BenchError> {
    let failed = |source| BenchError::Io { what: format!("reading {}", path.display()), source };
    let mut file = File::open(path).map_err(failed)?;
    let mut dedup = DedupLogic::new(hours(1));
    let rule = Session::with_gap(minutes(30));
    let mut combiner = SessionCombiner::new(&rule);
    let mut sessions = PerKey::new(SessionLogic::new(rule));
    let (mut ids_cost, mut sessions_cost) = (Cost::default(), Cost::default());
    let (mut largest, mut before) = (None::<EventTime>, None);
    let (mut carry, mut offset) = (Vec::new(), 0);
    for epoch in 1.. {
        let Some(events) = next_epoch(&mut file, &mut carry, &mut offset).map_err(failed)? else { break };
        for event in &events {
            let skewed = event.server_time().is_some_and(|server| event.timestamp() > server.plus(hours(1)));
            if !skewed {
                largest = largest.max(Some(event.timestamp()));
            }
        }
        let after: Watermark = largest.map(|time| time.minus(minutes(2)));
        let time = EpochTime { epoch, before, after };
        let rows = (0..).zip(&events).map(|(at, e)| IdRow::new(e.id(), e.timestamp(), e.fingerprint(), at)).collect();
        let chunk = Chunk { dest: 0, from: 0, order: Order::default(), rows };
        let mut verdicts = Emit::default();
        dedup.close_epoch(time, vec![chunk], &mut verdicts);
        let excepted: usize = verdicts.records.iter().map(|verdicts| verdicts.exceptions.len()).sum();
        ids_cost.epoch(&mut dedup, (events.len() - excepted) as u64, epoch);
        events.iter().for_each(|event| combiner.add(key(event.tenant(), event.user()), event.timestamp()));
        let keys = combiner.len() as u64;
        sessions.close_epoch(time, combiner.drain(0, 1), &mut Emit::default());
        sessions_cost.epoch(&mut sessions, keys, epoch);
        before = after;
    }
    Ok((ids_cost, sessions_cost))
}

/// The events of the next epoch's bytes, cut at the end of a line; `None` at the end of the file.
fn next_epoch(file: &mut File, carry: &mut Vec<u8>, offset: &mut u64) -> std::io::Result<Option<Vec<Event>>> {
    let mut bytes = std::mem::take(carry);
    file.take((EPOCH - bytes.len().min(EPOCH)) as u64).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let whole = memchr::memrchr(b'\n', &bytes).map_or(bytes.len(), |end| end + 1);
    *carry = bytes.split_off(whole);
    let mut decoded = Decoded::default();
    let block = Block { partition: 0, offset: *offset, first_line: 1, bytes, skipped: 0 };
    *offset += whole as u64;
    NdjsonDecoder::default().decode(block, &mut decoded);
    Ok(Some(decoded.records))
}
