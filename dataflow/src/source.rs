//! What the engine asks of a source: partitions of blocks, read in the engine's order, decoded on any worker.
//!
//! A source is a pair: a [`BlockReader`], owned by the one reader thread, that hands out record-aligned blocks of a
//! partition on request, and a [`Decode`], cloned to every worker, that turns a block into records without I/O.
//! The engine decides what to read next (epoch cuts, drift), so that cuts are a function of inputs and options alone.
//!
//! A *bounded* reader's partitions end: epochs take fixed numbers of bytes from them. A *live* reader's partitions do not:
//! epochs are cut by the clock, and what was cut is recorded, so that a replay reads it in the same cuts.
//!
//! ```text
//! open(recorded) -> [ discover -> read* -> position ] for each epoch -> bind(e) durable -> ... -> commit(e) -> observers
//!        ^                                                                                          |
//!        '------------- restart: open(positions of the checkpoint), replay with `until`, go on -----'
//! ```
//! The contract of a reader: a block depends only on the partition's content, the offset and the two limits it was asked
//! with; reading the same recorded range again gives the same bytes, or an error that names the partition (INV-5).

use std::time::Duration;

use thiserror::Error;
pub use tidemill_log::{Loss, PartitionBinding};

use crate::time::EventTime;

/// Why a source cannot go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// What was read before changed or vanished; starting again would lose or double records. Exit code 3.
    #[error("{partition}: {problem}")]
    Changed {
        /// The partition (a file's name).
        partition: String,
        /// What is different and what to do.
        problem: String,
    },
    /// It is nothing that the source can read. Exit code 3.
    #[error("{partition}: {problem}")]
    Refused {
        /// The partition (a file's name).
        partition: String,
        /// What it is, and what to do.
        problem: String,
    },
    /// Records that were never read are gone, and those behind them are there. Exit code 3.
    #[error("{}: {problem}; to go on without them, give --accept-loss {loss}", loss.partition)]
    Missing {
        /// Which.
        loss: Loss,
        /// Why, as far as it is known.
        problem: String,
    },
    /// The server, or the file system, refuses who we are or what we may do, in its own words. Exit code 5.
    #[error("{partition}: {problem}")]
    Denied {
        /// The partition, or the server.
        partition: String,
        /// What was answered, and what to do.
        problem: String,
    },
    /// Reading failed.
    #[error("cannot read {partition}: {source}")]
    Io {
        /// The partition (a file's name).
        partition: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The run was asked to stop while the source did not answer, before what is bound could be read again.
    #[error("stopped while waiting for {partition}; nothing is lost, and the same command goes on from there")]
    Interrupted {
        /// The partition that was waited for.
        partition: String,
    },
    /// The source's settings are wrong. Exit code 2.
    #[error("{0}")]
    Usage(String),
}

/// A partition as the source found it at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its name, unique in the source: what `progress` and dead letters show.
    pub name: String,
    /// Bytes to read in all, as far as that is known now (compressed files: bytes on disk).
    pub size: u64,
    /// What the connector wants recorded with every binding and handed back at the next start.
    pub detail: serde_json::Value,
}

/// A record-aligned piece of one partition.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Block {
    /// The partition's number, dense from 0 in the order of the source.
    pub partition: u32,
    /// Offset of the first byte in the partition's (unpacked) content; of the first record of a topic's partition.
    pub offset: u64,
    /// Number of the first line, from 1.
    pub first_line: u64,
    /// Whole lines (the last one may lack its newline at the end of the partition), or whatever framing the source and
    /// its decoder agree on.
    #[serde(with = "crate::octets")]
    pub bytes: Vec<u8>,
    /// Bytes left out at the end of an over-long line, which is then alone in its block (its terminator not counted).
    pub skipped: u64,
}

/// Where a partition stands after a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Offset of the next byte (of a topic: record) to read.
    pub offset: u64,
    /// Lines (records) handed out so far.
    pub lines: u64,
    /// The connector's digest of what it handed out before `offset`; a replay that gives another one is refused.
    pub digest: String,
    /// The partition is at its end: nothing will follow in this run.
    pub finished: bool,
    /// A live partition was seen to hold nothing beyond `offset` (an answered fetch at the high-water mark). One whose
    /// server does not answer is not caught up: an outage is not idleness.
    pub caught_up: bool,
}

/// A recorded binding as [`Source::open`] takes it: with the connector's own detail, without what the engine keeps beside it.
#[must_use]
pub fn as_the_connector_left_it(mut recorded: PartitionBinding) -> PartitionBinding {
    recorded.detail = recorded.detail.get("source").cloned().unwrap_or_default();
    recorded
}

/// Recorded positions behind what is gone for good, as was accepted: there reading goes on.
#[must_use]
pub fn behind_losses(mut recorded: Vec<PartitionBinding>, accepted: &[Loss]) -> Vec<PartitionBinding> {
    for binding in &mut recorded {
        let at = |end: u64| {
            accepted.iter().find(|loss| loss.partition == binding.name && (loss.from..=loss.to).contains(&end))
        };
        let mut end = binding.end;
        while let Some(loss) = at(end) {
            end = loss.to.saturating_add(1);
        }
        binding.end = end;
    }
    recorded
}

/// Hands out blocks; lives on the reader thread. No call may wait for data: [`wait`](BlockReader::wait) does.
pub trait BlockReader: Send {
    /// All partitions; their order is the order in which records of one epoch win over each other. Partitions found
    /// later are numbered after those known.
    fn partitions(&self) -> Vec<PartitionInfo>;

    /// Whether partitions end by themselves, so that the input is a fact and not a clock's doing.
    fn bounded(&self) -> bool {
        true
    }

    /// Whether a finished partition is over: then it holds the watermark back no longer. One that stopped where it was told
    /// to, and goes on in a later run, still does, or what follows in it would be older than the horizon.
    fn over_when_finished(&self) -> bool {
        true
    }

    /// Looks for new partitions, if it is time to, and says whether there are any; called all the time of a live source.
    ///
    /// # Errors
    /// If a partition vanished. A server that does not answer is no error: it is waited for.
    fn discover(&mut self) -> Result<bool, SourceError> {
        Ok(false)
    }

    /// Waits until something may have arrived, at most this long. Called when `read` had nothing and the partition is
    /// not finished.
    ///
    /// # Errors
    /// If waiting is in vain: the source is gone for good.
    fn wait(&mut self, at_most: Duration) -> Result<(), SourceError> {
        std::thread::park_timeout(at_most);
        Ok(())
    }

    /// An estimate of the earliest event time at the partition's current position, from the content alone
    /// (for files: the smallest time among the first lines). `None` if none can be told.
    ///
    /// # Errors
    /// If the partition cannot be read.
    fn head(&mut self, partition: u32) -> Result<Option<EventTime>, SourceError>;

    /// The next block: as many whole lines as fit in `limit` bytes, but at least one; nothing at or beyond `until`
    /// (a recorded end) is touched, and there a line ends even without a newline. `None`: nothing is there now; whether
    /// that is the end, [`Position::finished`] says.
    ///
    /// A bounded reader, and one that is given `until`, gives a block only when it is full or ends at `until` or at the
    /// partition's end: how epochs are cut must not depend on how fast data came. A live one gives what is there.
    ///
    /// # Errors
    /// If the partition cannot be read, or ends before `until`.
    fn read(&mut self, partition: u32, limit: usize, until: Option<u64>) -> Result<Option<Block>, SourceError>;

    /// Where the partition stands now. Costs nothing but a digest's finish.
    fn position(&self, partition: u32) -> Position;

    /// What is to be recorded of the partition as it stands now, where that may differ from what
    /// [`partitions`](BlockReader::partitions) said: something that was learned from the content.
    fn detail(&self, partition: u32) -> Option<serde_json::Value> {
        let _ = partition;
        None
    }

    /// What follows in a partition through `end` was bound before, with this detail of the connector's: it is about to be read
    /// again, and must come out the same.
    fn recall(&mut self, partition: u32, end: u64, detail: &serde_json::Value) {
        let _ = (partition, end, detail);
    }

    /// How many records are known to be there beyond the partition's position (in this run, if that ends), for display;
    /// `None` where nobody knows. Costs nothing: it tells what the last answer of the server said. Called about once a
    /// second, also while the engine holds the source back.
    fn lag(&self, partition: u32) -> Option<u64> {
        let _ = partition;
        None
    }
}

/// A source that a pipeline names: opened on the reader thread, decoded on the workers.
pub trait Source: Send + Sync + 'static {
    /// The decoder's type.
    type Decoder: Decode;

    /// A decoder; every worker gets a clone.
    fn decoder(&self) -> Self::Decoder;

    /// Whether the source's own clock gave the times of its records: then each counts as one that a server vouches for, where
    /// the pipeline names no server's clock.
    fn vouches(&self) -> bool {
        false
    }

    /// What decides how the same bytes are decoded, in words, where that is not as usual. It is part of the plan: a start that
    /// decides otherwise says so, and is refused while bound epochs wait to be replayed.
    fn setting(&self) -> Option<String> {
        None
    }

    /// Opens the partitions at `recorded` (where the checkpoint stands; empty on a first start), checks that what was
    /// read before is unchanged, and numbers new partitions after the recorded ones.
    ///
    /// # Errors
    /// [`SourceError::Changed`] names the partition that changed or vanished.
    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError>;

    /// The same, told where partitions stood in `bound`, at the end of what is replayed first. A source that knows partitions
    /// by their content finds them by all of it, not by what the checkpoint has of it.
    ///
    /// # Errors
    /// As [`open`](Source::open).
    fn open_behind(
        &self,
        recorded: &[PartitionBinding],
        bound: &[PartitionBinding],
    ) -> Result<Box<dyn BlockReader>, SourceError> {
        let _ = bound;
        self.open(recorded)
    }
}

/// Turns blocks into records. Pure: same block, same result.
pub trait Decode: Clone + Send + Sync + 'static {
    /// What a record is.
    type Record: Send + Sync + 'static;

    /// Whether a block may be decoded by another process than the one that read it: not by a decoder that must know what
    /// its reader learned.
    fn travels(&self) -> bool {
        true
    }

    /// Decodes one block. `out` is empty on entry.
    fn decode(&mut self, block: Block, out: &mut Decoded<Self::Record>);

    /// Takes a block apart into blocks of one record each, in order, each at its own offset: together they decode to what
    /// the block does. Then a record that panics can be told from those around it.
    ///
    /// # Errors
    /// The block as it was, where blocks cannot be taken apart.
    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        Err(block)
    }

    /// The dead letter of a block of one record, made without decoding it.
    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        let (partition, line) = (block.partition, block.first_line);
        DeadLetter { partition, line, reason, payload: Vec::new(), bytes: block.bytes.len() as u64 + block.skipped }
    }
}

/// What a block held. `read = records.len() + malformed.len()`.
#[derive(Debug)]
pub struct Decoded<D> {
    /// The records, in input order.
    pub records: Vec<D>,
    /// What could not become a record (INV-6).
    pub malformed: Vec<DeadLetter>,
}

impl<D> Default for Decoded<D> {
    fn default() -> Self {
        Decoded { records: Vec::new(), malformed: Vec::new() }
    }
}

/// A line that could not become a record, or one that is set aside, with the place to look at it. No clear IP address is in `payload`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeadLetter {
    /// The partition's number.
    pub partition: u32,
    /// The line's number in the partition, from 1; the offset of a record of a topic.
    pub line: u64,
    /// What is wrong, as a sentence fragment (`"event_id is missing"`).
    pub reason: String,
    /// The line, addresses masked; cut to a stated length if it was longer.
    pub payload: Vec<u8>,
    /// The line's full length in bytes.
    pub bytes: u64,
}
