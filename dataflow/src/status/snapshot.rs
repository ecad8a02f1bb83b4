//! The board at one moment, as plain data: what `/api/status` prints, and what [`why_open`](super::why_open) judges.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use arrow::temporal_conversions::date64_to_datetime;
use serde::{Serialize, Serializer};

use super::why_open::Reason;
use crate::source::DeadLetter;
use crate::time::Epoch;

/// A time for people: milliseconds since 1970, in JSON and in print RFC 3339 in UTC with milliseconds. A later one
/// than four digits of a year allow is written as the latest of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub i64,
);

/// 9999-12-31T23:59:59.999Z and 0000-01-01T00:00:00Z.
const LATEST: i64 = 253_402_300_799_999;
const EARLIEST: i64 = -62_167_219_200_000;

impl Moment {
    /// The wall clock.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "times are shown to people and reach no result")]
    pub fn now() -> Moment {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Moment(i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX))
    }

    /// The day, counted from 1970.
    #[must_use]
    pub fn day(self) -> i64 {
        self.0.div_euclid(86_400_000)
    }

    /// How long ago `earlier` was; nothing for what lies ahead.
    #[must_use]
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = date64_to_datetime(self.0.clamp(EARLIEST, LATEST)).expect("years 0 to 9999 have a calendar");
        write!(f, "{}", time.format("%Y-%m-%dT%H:%M:%S%.3fZ"))
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How far a run's life has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// State is being restored, or a sink is not open yet.
    #[default]
    Starting,
    /// Epochs are read and committed.
    Running,
    /// It was asked to stop, or its input ended: what is in flight is being committed.
    Stopping,
}

/// Everything that a process knows about its run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Snapshot {
    /// The pipeline's name.
    pub pipeline: String,
    /// The run, counted from 1; 0 before the log was read.
    pub run: u64,
    /// Worker threads of this process.
    pub workers: u32,
    /// Processes of the run.
    pub processes: u32,
    /// How far the run's life has come.
    pub state: State,
    /// Where the source's partitions begin is in no log yet: a run that is killed now may begin elsewhere.
    #[serde(skip)]
    pub unrecorded: bool,
    /// When the run began; `None` before.
    pub started: Option<Moment>,
    /// Numbers of epochs.
    pub epoch: Epochs,
    /// What the tables are complete through: W at the last commit, and the end of the data once the end of time was declared.
    pub watermark: Option<Moment>,
    /// The end of time was declared: nothing follows.
    pub closed: bool,
    /// How far that is behind the wall clock, in seconds; `None` while it is unknown or when time was declared ended.
    pub lag_seconds: Option<f64>,
    /// What went through in the last seconds.
    pub rates: Rates,
    /// Totals since the run began.
    pub committed: Totals,
    /// From the cut of an epoch to its commit.
    pub epoch_latency_ms: EpochLatency,
    /// State that is stored.
    pub checkpoint: Checkpoints,
    /// Partitions of the source as of the last epoch that was gathered, by number.
    pub partitions: Vec<Partition>,
    /// Operators in the order of the plan; `inputs` are positions in this list.
    pub operators: Vec<Operator>,
    /// Counters from the pipeline's beginning.
    pub counts: Counts,
    /// The ranges of records that were gone before they were read, as `PARTITION:FROM-TO`.
    pub accepted_loss: Vec<String>,
    /// The last records that did not go the usual way.
    pub samples: Samples,
    /// Why results are not complete, as far as this process knows; empty when nothing is held back.
    pub why_open: Vec<Reason>,
    /// What the source waits for, if it waits.
    pub waiting: Option<Waiting>,
    /// Bytes of memory for what is read and not yet committed.
    pub in_flight_bytes: u64,
    /// The most that they may be.
    pub memory_budget: u64,
    /// Other processes of the run that were heard from.
    pub peers: Vec<Process>,
}

/// Numbers of epochs; 0 before the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Epochs {
    /// The last one that was cut.
    pub read: Epoch,
    /// The last one whose binding is durable.
    pub bound: Epoch,
    /// The last one that every sink holds.
    pub committed: Epoch,
    /// When that was, in this run.
    pub committed_at: Option<Moment>,
    /// The oldest one in flight, and when it was cut.
    pub oldest_in_flight: Option<Working>,
}

/// What was committed over the last ten seconds or so, a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    /// Records and malformed lines.
    pub events_per_second: f64,
    /// Bytes of (unpacked) input.
    pub bytes_per_second: f64,
}

/// How far a run has come, for a line of text: see [`Status::progress`](super::Status::progress).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of (unpacked) input read in this run.
    pub bytes_read: u64,
    /// Bytes to read as far as known (bytes on disk).
    pub bytes_total: u64,
    /// Records and malformed lines in committed epochs, from the pipeline's beginning; 0 until this run commits.
    pub events: u64,
    /// The last epoch that this run committed.
    pub epoch: Epoch,
    /// W at that commit.
    pub watermark: Option<Moment>,
    /// Checkpoints taken in this run.
    pub checkpoints: u64,
}

/// What this run committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Epochs.
    pub epochs: u64,
    /// Bytes of (unpacked) input.
    pub bytes: u64,
}

/// Over the last 512 epochs, in milliseconds; `None` before the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EpochLatency {
    /// Half of the epochs took at most this long.
    pub p50: Option<u64>,
    /// All but one in a hundred did.
    pub p99: Option<u64>,
}

/// Checkpoints of this run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Checkpoints {
    /// The last checkpoint's epoch, of this run or an earlier one.
    pub epoch: Option<Epoch>,
    /// Seconds since it was stored; `None` before this run's first.
    pub age_seconds: Option<f64>,
    /// Bytes that a restore of it reads.
    pub bytes: u64,
    /// Checkpoints that this run took.
    pub taken: u64,
    /// The last twenty, newest last.
    pub history: Vec<Checkpoint>,
}

/// A checkpoint that was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checkpoint {
    /// Its epoch.
    pub epoch: Epoch,
    /// When its entry in the log was durable.
    pub at: Moment,
    /// Bytes that it added.
    pub added_bytes: u64,
    /// Bytes that a restore of it reads.
    pub bytes: u64,
    /// From the decision to take it until it was durable.
    pub duration_ms: u64,
}

/// A partition of the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// The next offset: bytes of a file, records of a topic.
    pub offset: u64,
    /// Records or lines read from its beginning.
    pub records: u64,
    /// Its watermark; `None` while no record of it told a time.
    pub watermark: Option<Moment>,
    /// It was caught up and silent for so long that it does not hold the watermark back.
    pub idle: bool,
    /// It is at its end and holds nothing back.
    pub finished: bool,
    /// Records known to wait beyond the offset; `None` where nobody knows.
    pub lag_records: Option<u64>,
    /// When its watermark last moved, or it was first seen, in this run.
    pub advanced: Moment,
    /// Since when it has been idle or not.
    pub turned: Moment,
}

/// An operator of the plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Operator {
    /// The author's id, or for a step without one its kind and position.
    pub id: String,
    /// What it does.
    pub kind: String,
    /// Positions of the operators that it reads.
    pub inputs: Vec<usize>,
    /// Records that came in, in this run, on this process.
    pub records_in: u64,
    /// Records that went out: of a sink, rows that it holds.
    pub records_out: u64,
    /// Heap bytes of its state.
    pub state_bytes: u64,
    /// Keys, ids or sessions in its state.
    pub state_entries: u64,
    /// Bytes of its state in the last checkpoint.
    pub stored_bytes: u64,
    /// All epochs through this one are closed on all workers of this process; `None` for steps that close none.
    pub closed: Option<Epoch>,
    /// Its parts that are at work or behind, by worker.
    pub at: Vec<Worker>,
    /// For sinks: what the writer does.
    pub sink: Option<Sink>,
}

/// One worker in one operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Worker {
    /// The worker's number in the run.
    pub worker: u32,
    /// All epochs through this one are closed; `None` for parts that close none.
    pub closed: Option<Epoch>,
    /// The epoch that it works on at this moment.
    pub working: Option<Working>,
}

/// Something that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Working {
    /// The epoch.
    pub epoch: Epoch,
    /// Since when.
    pub since: Moment,
}

/// The writer of a sink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sink {
    /// It connected and found everything as it should be.
    pub opened: bool,
    /// The epoch that it is writing.
    pub writing: Option<Working>,
    /// When it was asked to open, or began its last write.
    pub since: Moment,
}

/// Counters from the pipeline's beginning, as of the last commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Records, and lines that could not become one.
    pub events: u64,
    /// Records that came after their window was complete.
    pub late: u64,
    /// Records with an id that was there before, conflicting ones included.
    pub duplicate: u64,
    /// Those of them that had another time or content than the record that was kept.
    pub conflicting: u64,
    /// Lines that could not become a record.
    pub malformed: u64,
    /// Records that panicked again and again, and were set aside.
    pub quarantined: u64,
    /// Records older than the horizon whose id is not known.
    pub unverified: u64,
    /// Records that were gone before they were read, as somebody accepted.
    pub lost: u64,
    /// Every counter by `operator/name`.
    pub all: BTreeMap<String, u64>,
}

/// Records to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Samples {
    /// The last ten lines that could not become a record, oldest first.
    pub malformed: Vec<LeftOut>,
    /// The last ten records that came after their window was complete, or too late for a view, on this process.
    pub late: Vec<SetAside>,
    /// The last ten records with the id of another one that was kept, and another time or content, on this process.
    pub conflicting: Vec<SetAside>,
    /// The last ten records older than the horizon whose id is not known, on this process.
    pub unverified: Vec<SetAside>,
}

/// Why an operator set a record aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// It came after its window was complete, whatever the window does with it, or too late for a view.
    Late,
    /// A record with its id, and another time or content, was kept.
    Conflicting,
    /// It is older than the horizon and its id is not known.
    Unverified,
}

/// A record that an operator set aside, as the pipeline's author lets it be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// The operator.
    pub operator: String,
    /// The partition it came from; `None` on a process that does not read.
    pub partition: Option<String>,
    /// Its event time.
    pub event_time: Moment,
    /// Its beginning.
    pub payload: String,
}

impl SetAside {
    pub(crate) fn new(operator: &str, event_time: Moment, shown: &str) -> SetAside {
        let payload = shown.chars().take(SHOWN).collect();
        SetAside { operator: operator.to_owned(), partition: None, event_time, payload }
    }
}

/// A line that could not become a record. Addresses are masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its partition.
    pub partition: String,
    /// Its line in the partition, from 1; the offset of a record of a topic.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
    /// Its beginning.
    pub payload: String,
}

/// How much of a line or record is shown: bytes, or characters.
const SHOWN: usize = 300;

impl LeftOut {
    pub(super) fn new(partition: &str, letter: &DeadLetter) -> LeftOut {
        let text = String::from_utf8_lossy(&letter.payload[..letter.payload.len().min(SHOWN)]);
        let (line, reason) = (letter.line, letter.reason.clone());
        LeftOut { partition: partition.to_owned(), line, reason, payload: text.into_owned() }
    }
}

/// The source waits until something is committed (INV-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// The epoch that it would read.
    pub epoch: Epoch,
    /// Since when.
    pub since: Moment,
}

/// Another process of the run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Process {
    /// Its number.
    pub process: u32,
    /// When it was last heard from.
    pub heard: Moment,
    /// Seconds since then.
    pub heartbeat_age_seconds: f64,
}

/// A process with an epoch in flight for this long, and no commit, is not ready.
const STUCK: Duration = Duration::from_secs(60);

impl Snapshot {
    /// Whether the process does its work: it runs, its sinks are open, the log says where its partitions begin, and what was
    /// read is being committed.
    ///
    /// # Errors
    /// Why not, in a sentence.
    pub fn ready(&self, now: Moment) -> Result<(), String> {
        match self.state {
            State::Running => {}
            State::Starting => {
                let closed: BTreeSet<&str> = self.unopened().map(|(operator, _)| operator.id.as_str()).collect();
                return Err(match closed.is_empty() {
                    true => "it is starting: state is being restored".into(),
                    false => {
                        format!("it is starting: not open yet: {}", closed.into_iter().collect::<Vec<_>>().join(", "))
                    }
                });
            }
            State::Stopping => return Err("it is stopping: what is in flight is being committed".into()),
        }
        if self.unrecorded {
            return Err("it is starting: where its partitions begin is not recorded yet".into());
        }
        let Some(oldest) = self.epoch.oldest_in_flight else { return Ok(()) };
        let moved = self.epoch.committed_at.map_or(oldest.since, |committed| committed.max(oldest.since));
        if now.since(moved) < STUCK {
            return Ok(());
        }
        Err(format!(
            "epoch {} has been in flight since {} and nothing was committed since: see why_open",
            oldest.epoch, oldest.since
        ))
    }

    /// Sinks that are not open yet.
    pub(super) fn unopened(&self) -> impl Iterator<Item = (&Operator, &Sink)> {
        self.operators.iter().filter_map(|o| o.sink.as_ref().filter(|sink| !sink.opened).map(|sink| (o, sink)))
    }
}
