//! The sink of a table: each epoch's rows as records of a topic, exactly once.
//!
//! How rows become records, and how a reader folds them, says [`tidemill_connectors::messages::rows`].
//!
//! An epoch's records go into numbered chunks, a batch each, whose note says pipeline, run, epoch and number. The records
//! of an epoch, and so its chunks, are the same whenever it is written (INV-3). So the note of the last batch of a
//! partition says what is there: chunks up to that one, and nothing behind it.
//!
//! ```text
//!            lock; look at the last notes
//!  closed ------------------------------------> ready <----------------------------------+
//!                                                 | write(e): lock; fence; last notes    |
//!                                                 v                                      |
//!                              chunks of e that are not there -> append -> one sync -> unlock
//! ```
//! - An epoch that was written in part is completed, one that is there is not written again.
//! - The topic is locked while an epoch is written and no longer, so that a later run can always take over; the fence is
//!   asked under the lock, so nothing of a fenced run comes behind what its successor found.
//! - A full disk and a locked topic are waited for, for as long as it takes; the log says so once.

use std::thread;
use std::time::{Duration, SystemTime};

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};
use tidemill_connectors::messages::Fenced;
use tidemill_connectors::messages::rows::{self, Messages};
use tidemill_dataflow::hash::hash64;
use tidemill_dataflow::sink::{DataFile, SinkError, SinkStart, TableWriter};
use tidemill_dataflow::time::Epoch;
use tidemill_tables::{TableSpec, fold};
use tracing::{info, warn};

use crate::batch::Record;
use crate::config::LogPlace;
use crate::error::{LogError, LogErrorKind};
use crate::writer::{LogOptions, TopicWriter};

/// Bytes of records from which on a chunk is followed by another.
const CHUNK: usize = 512 << 10;
/// How long to wait before something is tried again.
const PAUSE: Duration = Duration::from_millis(20);

/// What a batch says of itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    instance: String,
    run: u64,
    epoch: Epoch,
    chunk: u32,
}

/// Writes a table to the topic `PREFIX` + its name of an embedded log.
#[derive(Debug)]
pub struct LogTable {
    place: LogPlace,
    options: LogOptions,
    spec: TableSpec,
    topic: String,
    start: Option<SinkStartNote>,
    writer: Option<TopicWriter>,
}

/// What the writer keeps of [`SinkStart`].
struct SinkStartNote(SinkStart);

impl std::fmt::Debug for SinkStartNote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SinkStart").field("run", &self.0.run).field("committed", &self.0.committed).finish()
    }
}

impl LogTable {
    /// A writer of `spec`; nothing is opened yet.
    #[must_use]
    pub fn new(place: LogPlace, options: LogOptions, spec: TableSpec) -> LogTable {
        let topic = format!("{}{}", place.prefix, spec.name);
        LogTable { place, options, spec, topic, start: None, writer: None }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Does something with the topic locked, as often as it takes: a full disk and another writer pass.
    fn locked<T>(
        &mut self,
        start: &SinkStart,
        act: impl Fn(&mut TopicWriter) -> Result<T, Stopped>,
    ) -> Result<T, SinkError> {
        let mut waiting = false;
        loop {
            let taken = match self.writer.take() {
                Some(mut writer) => writer.resume(&self.place.root).map(|()| writer),
                None => TopicWriter::open(&self.place.root, &self.topic, self.place.partitions, &self.options),
            };
            let error = match taken {
                Err(error) => error,
                Ok(mut writer) => {
                    (start.fence)().map_err(|cause| self.fenced(Some(cause)))?;
                    let done = act(&mut writer);
                    writer.pause();
                    match done {
                        Ok(value) => {
                            self.writer = Some(writer);
                            if waiting {
                                info!("{}: the log takes epochs again", self.topic);
                            }
                            return Ok(value);
                        }
                        Err(Stopped::For(sentence)) => return Err(sentence.into()),
                        Err(Stopped::Fenced) => return Err(self.fenced(None)),
                        Err(Stopped::By(error)) => error,
                    }
                }
            };
            if !matches!(error.kind(), LogErrorKind::Full | LogErrorKind::Locked) {
                return Err(error.into());
            }
            if !std::mem::replace(&mut waiting, true) {
                warn!("{}: the log cannot take an epoch now ({error}); it is tried again until it does", self.topic);
            }
            (start.fence)().map_err(|cause| self.fenced(Some(cause)))?;
            thread::park_timeout(PAUSE);
        }
    }

    fn fenced(&self, cause: Option<SinkError>) -> SinkError {
        Box::new(Fenced { topic: self.topic.clone(), cause })
    }
}

/// Why something was not done under the lock.
enum Stopped {
    By(LogError),
    /// A later run has written already.
    Fenced,
    /// What an operator has to mend.
    For(String),
}

impl From<LogError> for Stopped {
    fn from(error: LogError) -> Self {
        Stopped::By(error)
    }
}

/// What the last batch of a partition says; none in an empty one.
fn last_note(writer: &TopicWriter, partition: u32, start: &SinkStart) -> Result<Option<Note>, Stopped> {
    let bytes = writer.last_note(partition);
    if bytes.is_empty() && writer.is_empty(partition) {
        return Ok(None);
    }
    let topic = &writer.topic().name;
    let note: Note = serde_json::from_slice(bytes).map_err(|_| {
        Stopped::For(format!(
            "topic {topic}: its last record was not written by a table of a pipeline; write to another prefix"
        ))
    })?;
    if note.instance != start.instance {
        let whose = &note.instance;
        return Err(Stopped::For(format!(
            "topic {topic} holds the table of another pipeline, or of this one before it was begun anew ({whose}); write \
             to another prefix, or move the topic's folder away"
        )));
    }
    if note.run > start.run {
        return Err(Stopped::Fenced);
    }
    Ok(Some(note))
}

/// The chunks of an epoch for each partition: numbers of messages.
fn chunks(messages: &Messages, partitions: u32) -> Vec<Vec<Vec<usize>>> {
    let mut chunks: Vec<Vec<Vec<usize>>> = vec![Vec::new(); partitions as usize];
    let mut filled = vec![usize::MAX; partitions as usize];
    for (at, (key, value)) in (0..).map_while(|at| messages.get(at).map(|message| (at, message))) {
        let partition = usize::try_from(hash64(key) % u64::from(partitions)).expect("partitions are few");
        let bytes = key.len() + value.len();
        if filled[partition].saturating_add(bytes) > CHUNK {
            chunks[partition].push(Vec::new());
            filled[partition] = 0;
        }
        filled[partition] += bytes;
        chunks[partition].last_mut().expect("one was pushed").push(at);
    }
    chunks
}

/// Writes what is not there of an epoch.
fn write(
    writer: &mut TopicWriter,
    messages: &Messages,
    start: &SinkStart,
    epoch: Epoch,
    time_ms: i64,
) -> Result<(), Stopped> {
    let chunked = chunks(messages, writer.topic().partitions);
    // All notes before the first write: an epoch that was not written here must not be begun.
    let mut there = Vec::with_capacity(chunked.len());
    for partition in (0..).take(chunked.len()) {
        there.push(match last_note(writer, partition, start)? {
            Some(note) if note.epoch > epoch => u32::MAX,
            Some(note) if note.epoch == epoch => note.chunk + 1,
            _ => 0,
        });
    }
    for ((partition, chunks), held) in (0..).zip(chunked).zip(there) {
        for (chunk, numbers) in (0_u32..).zip(chunks).skip_while(|(chunk, _)| *chunk < held) {
            let records: Vec<Record<'_>> = numbers
                .iter()
                .filter_map(|at| messages.get(*at))
                .map(|(key, value)| Record { key, value, time_ms })
                .collect();
            let note = Note { instance: start.instance.clone(), run: start.run, epoch, chunk };
            let note = serde_json::to_vec(&note).expect("texts and numbers can always be written as JSON");
            writer.append_noted(partition, &note, &records)?;
        }
    }
    Ok(writer.sync()?)
}

#[expect(clippy::disallowed_methods, reason = "when a record was appended is for seeking and retention, no result")]
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl TableWriter for LogTable {
    fn open(&mut self, start: &SinkStart) -> Result<(), SinkError> {
        rows::check(&self.spec)?;
        self.start = None;
        self.writer = None;
        let held = self.locked(start, |writer| {
            let mut held = 0;
            for partition in 0..writer.topic().partitions {
                held = held.max(last_note(writer, partition, start)?.map_or(0, |note| note.epoch));
            }
            Ok(held)
        })?;
        if held > start.bound {
            let (topic, bound) = (&self.topic, start.bound);
            return Err(format!(
                "{topic}: the topic holds epochs through {held} and the pipeline's log ends at {bound}: state was lost or \
                 set back; restore it, or write to another prefix"
            )
            .into());
        }
        self.start = Some(SinkStartNote(start.clone()));
        Ok(())
    }

    fn write_epoch(&mut self, epoch: Epoch, shard: u32, batches: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        if shard != 0 {
            // The epoch's number stands for all of an epoch, so a table is written as a whole.
            return Err("a table of an embedded log has one shard; give the sink one".into());
        }
        let start = self.start.as_ref().ok_or("a writer is opened before it writes")?.0.clone();
        if epoch > start.committed && batches.iter().any(|batch| batch.num_rows() > 0) {
            let folded = fold(&self.spec, &batches)?;
            drop(batches);
            let messages = rows::encode(&self.spec, epoch, &folded)?;
            if !messages.is_empty() {
                let time_ms = now_ms();
                self.locked(&start, |writer| write(writer, &messages, &start, epoch, time_ms))?;
            }
        }
        // Records are no files: nothing becomes visible by the log's commit.
        Ok(Vec::new())
    }
}
