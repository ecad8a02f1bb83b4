//! The one writer of a topic: appends, group fsync, publishing, retention.
//!
//! Promises:
//! - What [`sync`](TopicWriter::sync) returned for is on the disk and is seen by readers; what it did not return for was
//!   never promised, and may be there all the same after the writer is opened anew.
//! - Offsets are dense, and a published record keeps its offset and its content for as long as it is there (INV-5).
//! - After a call that failed the writer is *broken*: every later call fails. Opening anew cuts a torn tail, writes what is
//!   intact behind the published end once more (a failed fsync may have left it in memory alone) and publishes it.
//! - Damage before the published end is an error with file and position. Nothing acknowledged is cut silently.
//! - Another writer, of this process or another, is refused for as long as this one lives.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::batch::{BATCH_BYTES, Record};
use crate::disk::{Disk, DiskFile, RealDisk, create_folders, sync_together};
use crate::error::{At, LogError, LogErrorKind};
use crate::published::{self, Published};
use crate::topic::{Topic, check_name, check_partitions, lock_path};

mod partition;
mod repair;
#[cfg(test)]
mod tests;

use partition::PartitionWriter;

/// Settings of a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The length in bytes from which on a segment is followed by another (64 MiB).
    pub segment_bytes: u64,
    /// What [`TopicWriter::retain`] may delete (nothing).
    pub retention: Retention,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { segment_bytes: 64 << 20, retention: Retention::default() }
    }
}

/// When whole segments are deleted; either reason is enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Once all records of a segment are older than this.
    pub age: Option<Duration>,
    /// For as long as a partition holds more bytes than this, its oldest segment.
    pub bytes: Option<u64>,
}

/// What a call of [`TopicWriter::retain`] deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Segments.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The writer of a topic. One thread uses it; readers are beside it, in any process.
#[derive(Debug)]
pub struct TopicWriter {
    topic: Topic,
    disk: Arc<dyn Disk>,
    options: LogOptions,
    /// None while the topic is left to others.
    lock: Option<File>,
    ends: Box<dyn DiskFile>,
    sequence: u64,
    partitions: Vec<PartitionWriter>,
    broken: Option<(LogErrorKind, String)>,
}

impl TopicWriter {
    /// Opens a topic below the folder `root`, or makes it; takes its lock, and mends what a crash left behind the
    /// published ends.
    ///
    /// # Errors
    /// [`LogErrorKind::Locked`] if it has a writer, [`LogErrorKind::Refused`] if it has another number of partitions,
    /// [`LogErrorKind::Damaged`] if what was published is not whole, else what the file system says.
    pub fn open(root: &Path, topic: &str, partitions: u32, options: &LogOptions) -> Result<TopicWriter, LogError> {
        TopicWriter::open_on(Arc::new(RealDisk), root, topic, partitions, *options)
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        root: &Path,
        name: &str,
        partitions: u32,
        options: LogOptions,
    ) -> Result<TopicWriter, LogError> {
        check_name(name)?;
        check_partitions(partitions)?;
        let lock = lock(disk.as_ref(), root, name)?;
        let topic = match Topic::find(root, name)? {
            Some(topic) if topic.partitions != partitions => {
                let (folder, has) = (topic.folder.display(), topic.partitions);
                return Err(LogError::Refused(format!(
                    "{folder}: the topic has {has} partitions and {partitions} are asked for; a topic keeps its number, so \
                     ask for {has}, or write to another folder"
                )));
            }
            Some(topic) => topic,
            None => Topic::make(disk.as_ref(), root, name, partitions)?,
        };
        let before = Published::open(&topic.folder, partitions)?;
        let path = topic.folder.join(published::NAME);
        let ends = disk.open(&path).at(&path, "open")?;
        let mut writers = Vec::with_capacity(partitions as usize);
        let mut moved = false;
        for number in 0..partitions {
            let end = before.end(number);
            let writer = PartitionWriter::open(&topic, number, &disk, options.segment_bytes, end)?;
            moved |= writer.synced() != end;
            writers.push(writer);
        }
        let sequence = before.sequence();
        let mut writer =
            TopicWriter { topic, disk, options, lock: Some(lock), ends, sequence, partitions: writers, broken: None };
        if moved {
            writer.publish()?;
        }
        Ok(writer)
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The offset behind the last record of a partition that readers see.
    ///
    /// # Errors
    /// If there is no such partition.
    pub fn end(&self, partition: u32) -> Result<u64, LogError> {
        self.topic.check(partition)?;
        Ok(self.partitions[partition as usize].synced().offset)
    }

    /// The bytes that all partitions take, with what is not synced.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.partitions.iter().map(PartitionWriter::bytes).sum()
    }

    /// Appends records; nobody sees them before [`sync`](TopicWriter::sync). Gives the first one's offset, the others
    /// follow it; without records, the offset of the next one.
    ///
    /// At most a mebibyte is held in memory for a partition.
    ///
    /// # Errors
    /// [`LogErrorKind::Refused`] if a record is too large (nothing is appended, and the writer goes on), else what the
    /// file system says; then the writer is broken.
    pub fn append(&mut self, partition: u32, records: &[Record<'_>]) -> Result<u64, LogError> {
        let first = self.check(partition, records)?;
        self.guarded(|writer| {
            let partition = &mut writer.partitions[partition as usize];
            let mut rest = records;
            while !rest.is_empty() {
                let mut bytes = 0;
                let fit = rest.iter().take_while(|record| {
                    bytes += record.cost();
                    bytes <= BATCH_BYTES
                });
                let (batch, others) = rest.split_at(fit.count().max(1));
                partition.append(&[], batch)?;
                rest = others;
            }
            Ok(first)
        })
    }

    /// Appends records as one batch with a note, which the next writer finds: see
    /// [`last_note`](TopicWriter::last_note).
    pub(crate) fn append_noted(
        &mut self,
        partition: u32,
        note: &[u8],
        records: &[Record<'_>],
    ) -> Result<u64, LogError> {
        let first = self.check(partition, records)?;
        self.guarded(|writer| writer.partitions[partition as usize].append(note, records).map(|()| first))
    }

    /// Whether a partition holds no records, or none any more.
    pub(crate) fn is_empty(&self, partition: u32) -> bool {
        self.partitions[partition as usize].bytes() == 0
    }

    /// The note of the last batch of a partition.
    pub(crate) fn last_note(&self, partition: u32) -> &[u8] {
        self.partitions[partition as usize].last_note()
    }

    fn check(&self, partition: u32, records: &[Record<'_>]) -> Result<u64, LogError> {
        self.usable()?;
        self.topic.check(partition)?;
        records.iter().try_for_each(|record| record.check(&self.topic.name, partition))?;
        Ok(self.partitions[partition as usize].next())
    }

    /// Makes everything that was appended since the last call durable, then shows it to readers.
    ///
    /// # Errors
    /// What the file system says; then the writer is broken, and none of it is acknowledged.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.usable()?;
        self.guarded(|writer| {
            for partition in &mut writer.partitions {
                partition.flush()?;
            }
            let unsynced: Vec<(&Path, &dyn DiskFile)> =
                writer.partitions.iter().flat_map(PartitionWriter::unsynced).collect();
            if unsynced.is_empty() {
                return Ok(());
            }
            let files: Vec<&dyn DiskFile> = unsynced.iter().map(|(_, file)| *file).collect();
            sync_together(&files).map_err(|(at, error)| LogError::io(unsynced[at].0, "sync", error))?;
            for partition in &mut writer.partitions {
                partition.settle()?;
            }
            writer.publish()
        })
    }

    /// Deletes whole segments by the retention of the options, oldest first; never one that holds a record at or past
    /// `floor(partition)`, and never what is not synced. `now_ms` is the time in milliseconds since 1970.
    ///
    /// A reader that stands before what is deleted is told so the next time it reads.
    ///
    /// # Errors
    /// What the file system says; then the writer is broken.
    pub fn retain(&mut self, now_ms: i64, floor: &dyn Fn(u32) -> u64) -> Result<Retained, LogError> {
        self.usable()?;
        let retention = self.options.retention;
        if retention == Retention::default() {
            return Ok(Retained::default());
        }
        self.guarded(|writer| {
            let mut rolled = false;
            for (number, partition) in (0..).zip(&mut writer.partitions) {
                rolled |= partition.roll_expired(now_ms, floor(number), &retention)?;
            }
            if rolled {
                writer.publish()?;
            }
            // The published ends must not name what is deleted next, not even after a power cut.
            writer.ends.sync().at(&writer.topic.folder.join(published::NAME), "sync")?;
            let mut retained = Retained::default();
            for (number, partition) in (0..).zip(&mut writer.partitions) {
                let deleted = partition.retain(now_ms, floor(number), &retention)?;
                retained.segments += deleted.segments;
                retained.bytes += deleted.bytes;
            }
            if retained.segments > 0 {
                let Retained { segments, bytes } = retained;
                info!("topic {}: retention deleted {segments} segments of {bytes} bytes", writer.topic.name);
            }
            Ok(retained)
        })
    }

    /// Leaves the topic to other writers until [`resume`](TopicWriter::resume); what is not synced is given up.
    pub(crate) fn pause(&mut self) {
        self.lock = None;
    }

    /// Takes the topic back, and learns what others wrote meanwhile.
    pub(crate) fn resume(&mut self, root: &Path) -> Result<(), LogError> {
        if self.lock.is_some() {
            return self.usable();
        }
        let (name, partitions) = (self.topic.name.clone(), self.topic.partitions);
        let taken = lock(self.disk.as_ref(), root, &name)?;
        let unchanged = self.broken.is_none()
            && Topic::find(root, &name)?.as_ref() == Some(&self.topic)
            && Published::open(&self.topic.folder, partitions)?.sequence() == self.sequence
            && self.partitions.iter().all(PartitionWriter::is_settled);
        if unchanged {
            self.lock = Some(taken);
        } else {
            drop(taken);
            *self = TopicWriter::open_on(Arc::clone(&self.disk), root, &name, partitions, self.options)?;
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<(), LogError> {
        let ends: Vec<_> = self.partitions.iter().map(PartitionWriter::synced).collect();
        let (bytes, at) = published::slot(self.sequence + 1, &ends);
        self.ends.write_at(&bytes, at).at(&self.topic.folder.join(published::NAME), "write")?;
        self.sequence += 1;
        Ok(())
    }

    fn usable(&self) -> Result<(), LogError> {
        if let Some((kind, problem)) = &self.broken {
            let (topic, kind, problem) = (self.topic.name.clone(), *kind, problem.clone());
            return Err(LogError::Broken { topic, kind, problem });
        }
        debug_assert!(self.lock.is_some(), "a paused writer is resumed before it is used");
        Ok(())
    }

    /// Does something that leaves the writer broken if it fails.
    fn guarded<T>(&mut self, act: impl FnOnce(&mut TopicWriter) -> Result<T, LogError>) -> Result<T, LogError> {
        let result = act(self);
        if let Err(error) = &result {
            warn!("topic {}: {error}", self.topic.name);
            self.broken = Some((error.kind(), error.to_string()));
        }
        result
    }
}

/// Takes the lock of a topic's writer.
fn lock(disk: &dyn Disk, root: &Path, name: &str) -> Result<File, LogError> {
    let path = lock_path(root, name);
    let folder = root.join(name);
    create_folders(disk, &folder).at(&folder, "create")?;
    let file = File::options().write(true).create(true).truncate(false).open(&path).at(&path, "open")?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(LogError::Locked { topic: name.to_owned(), path: path.display().to_string() })
        }
        Err(TryLockError::Error(error)) => Err(LogError::io(&path, "lock", error)),
    }
}
