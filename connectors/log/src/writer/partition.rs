//! One partition of a topic as its writer holds it: what is in memory, in the files, durable, and deleted.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::batch::{HEADER, Record, encode};
use crate::disk::{Disk, DiskFile};
use crate::error::{At, LogError};
use crate::index::{self, Entry, Growing};
use crate::published::End;
use crate::segment::{self, Segment};
use crate::topic::Topic;

use super::repair::{Mended, mend};
use super::{Retained, Retention};

/// What is gathered in memory before it is written.
const FLUSH_AT: usize = 1 << 20;

/// A segment that nothing is added to any more.
#[derive(Debug)]
struct Sealed {
    base: u64,
    bytes: u64,
    /// When its last record was appended, once that was looked up.
    last_time: Option<i64>,
}

/// The segment that records go to.
#[derive(Debug)]
struct Active {
    base: u64,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Bytes in the file.
    written: u64,
}

/// A partition's writer.
#[derive(Debug)]
pub(super) struct PartitionWriter {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    segment_bytes: u64,
    sealed: VecDeque<Sealed>,
    active: Option<Active>,
    /// What comes next in the active segment.
    buffer: Vec<u8>,
    /// The index of the active segment, if it was written from its beginning by this writer.
    index: Option<Growing>,
    /// The next record's offset.
    next: u64,
    last_time: i64,
    last_note: Vec<u8>,
    synced: End,
    /// Files with bytes that are not synced, besides the active one.
    unsynced: Vec<(PathBuf, Box<dyn DiskFile>)>,
    active_unsynced: bool,
    folder_unsynced: bool,
}

impl PartitionWriter {
    /// Opens what is there, and mends what lies behind the published end.
    pub(super) fn open(
        topic: &Topic,
        number: u32,
        disk: &Arc<dyn Disk>,
        segment_bytes: u64,
        published: End,
    ) -> Result<PartitionWriter, LogError> {
        let folder = topic.partition_folder(number);
        let Mended { mut bases, end, last_time, last_note } = mend(disk.as_ref(), &folder, published)?;
        // Of a segment that was begun and holds nothing a power cut may take even the name.
        let active = match bases.pop_if(|base| *base == end.segment) {
            None => None,
            Some(base) => {
                let path = segment::path(&folder, base);
                let file = disk.open(&path).at(&path, "open")?;
                Some(Active { base, path, file, written: end.position })
            }
        };
        let mut sealed = VecDeque::with_capacity(bases.len());
        for base in bases {
            let path = segment::path(&folder, base);
            let bytes = std::fs::metadata(&path).at(&path, "read")?.len();
            sealed.push_back(Sealed { base, bytes, last_time: None });
        }
        Ok(PartitionWriter {
            disk: Arc::clone(disk),
            folder,
            segment_bytes,
            sealed,
            active,
            buffer: Vec::new(),
            index: None,
            next: end.offset,
            last_time,
            last_note,
            synced: end,
            unsynced: Vec::new(),
            active_unsynced: false,
            folder_unsynced: false,
        })
    }

    /// Where it ends for readers, once that is published.
    pub(super) fn synced(&self) -> End {
        self.synced
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn last_note(&self) -> &[u8] {
        &self.last_note
    }

    /// Whether everything that was appended is durable.
    pub(super) fn is_settled(&self) -> bool {
        self.buffer.is_empty() && !self.active_unsynced && self.unsynced.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        let active = self.active.as_ref().map_or(0, |active| active.written);
        self.sealed.iter().map(|sealed| sealed.bytes).sum::<u64>() + active + self.buffer.len() as u64
    }

    /// Adds a batch of records; in memory, or in the file.
    pub(super) fn append(&mut self, note: &[u8], records: &[Record<'_>]) -> Result<(), LogError> {
        if records.is_empty() {
            return Ok(());
        }
        let cost = HEADER + note.len() + records.iter().map(Record::cost).sum::<usize>();
        let filled = self.active.as_ref().map(|active| active.written + self.buffer.len() as u64);
        if filled.is_none_or(|filled| filled > 0 && filled + cost as u64 > self.segment_bytes) {
            self.roll()?;
        }
        if let (Some(index), Some(active)) = (&mut self.index, &self.active) {
            let position = active.written + self.buffer.len() as u64;
            let time_ms = records[0].time_ms.max(self.last_time);
            index.batch(&Entry { offset: self.next, position, time_ms });
        }
        self.last_time = encode(&mut self.buffer, self.next, note, records, self.last_time);
        self.next += records.len() as u64;
        self.last_note.clear();
        self.last_note.extend_from_slice(note);
        if self.buffer.len() >= FLUSH_AT { self.flush() } else { Ok(()) }
    }

    /// Writes what is in memory.
    pub(super) fn flush(&mut self) -> Result<(), LogError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let active = self.active.as_mut().expect("bytes are gathered for a segment that is there");
        active.file.write_at(&self.buffer, active.written).at(&active.path, "write")?;
        active.written += self.buffer.len() as u64;
        self.active_unsynced = true;
        self.buffer.clear();
        // One huge batch must not hold memory for ever.
        self.buffer.shrink_to(2 * FLUSH_AT);
        Ok(())
    }

    /// Begins another segment.
    fn roll(&mut self) -> Result<(), LogError> {
        self.flush()?;
        let path = segment::path(&self.folder, self.next);
        let file = self.disk.create(&path).at(&path, "create")?;
        self.folder_unsynced = true;
        let before = self.active.replace(Active { base: self.next, path, file, written: 0 });
        let index = self.index.replace(Growing::default()).and_then(|mut index| index.close());
        let Some(before) = before else { return Ok(()) };
        if let Some(bytes) = index {
            let beside = index::path(&self.folder, before.base);
            self.disk.create(&beside).and_then(|created| created.write_at(&bytes, 0)).at(&beside, "write")?;
        }
        self.sealed.push_back(Sealed { base: before.base, bytes: before.written, last_time: Some(self.last_time) });
        if std::mem::take(&mut self.active_unsynced) {
            self.unsynced.push((before.path, before.file));
        }
        Ok(())
    }

    /// The files that have to be synced.
    pub(super) fn unsynced(&self) -> impl Iterator<Item = (&Path, &dyn DiskFile)> {
        let active = self.active.as_ref().filter(|_| self.active_unsynced);
        let active = active.map(|active| (active.path.as_path(), active.file.as_ref()));
        self.unsynced.iter().map(|(path, file)| (path.as_path(), file.as_ref())).chain(active)
    }

    /// Takes note that all files were synced.
    pub(super) fn settle(&mut self) -> Result<(), LogError> {
        if std::mem::take(&mut self.folder_unsynced) {
            self.disk.sync_folder(&self.folder).at(&self.folder, "sync")?;
        }
        self.unsynced.clear();
        self.active_unsynced = false;
        if let Some(active) = &self.active {
            self.synced = End { offset: self.next, segment: active.base, position: active.written };
        }
        Ok(())
    }

    /// Begins another segment if all of the active one is too old, so that it can be deleted; says whether.
    pub(super) fn roll_expired(&mut self, now_ms: i64, floor: u64, retention: &Retention) -> Result<bool, LogError> {
        let holds_some = self.active.as_ref().is_some_and(|active| active.written > 0);
        if !holds_some || !self.is_settled() || floor < self.next || !expired(self.last_time, now_ms, retention) {
            return Ok(false);
        }
        self.roll()?;
        self.settle()?;
        Ok(true)
    }

    /// Deletes the oldest segments for as long as there is a reason and nobody needs them.
    pub(super) fn retain(&mut self, now_ms: i64, floor: u64, retention: &Retention) -> Result<Retained, LogError> {
        let mut retained = Retained::default();
        loop {
            let following = self.sealed.get(1).map(|sealed| sealed.base);
            let end = following.or(self.active.as_ref().map(|active| active.base));
            let too_many = retention.bytes.is_some_and(|limit| self.bytes() > limit);
            let Some(oldest) = self.sealed.front_mut() else { return Ok(retained) };
            if end.is_none_or(|end| end > floor || end > self.synced.segment) {
                return Ok(retained);
            }
            let path = segment::path(&self.folder, oldest.base);
            if !too_many {
                let last_time = match oldest.last_time {
                    Some(time) => time,
                    None => last_time_of(&self.folder, oldest.base)?,
                };
                oldest.last_time = Some(last_time);
                if !expired(last_time, now_ms, retention) {
                    return Ok(retained);
                }
            }
            retained.segments += 1;
            retained.bytes += oldest.bytes;
            self.disk.remove(&path).at(&path, "delete")?;
            if let Err(error) = self.disk.remove(&index::path(&self.folder, oldest.base))
                && error.kind() != std::io::ErrorKind::NotFound
            {
                return Err(LogError::io(&self.folder, "delete an index in", error));
            }
            // In order, so that a power cut leaves no gap.
            self.disk.sync_folder(&self.folder).at(&self.folder, "sync")?;
            self.sealed.pop_front();
        }
    }
}

fn expired(last_time: i64, now_ms: i64, retention: &Retention) -> bool {
    retention.age.is_some_and(|age| {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        last_time.saturating_add(age) <= now_ms
    })
}

/// When the last record of a segment was appended, as far as it is intact.
fn last_time_of(folder: &Path, base: u64) -> Result<i64, LogError> {
    let mut last_time = i64::MAX;
    if let Some(mut segment) = Segment::open(folder, base)? {
        let length = segment.length()?;
        segment.walk(0, base, length, |_, header, _| last_time = header.last_time)?;
    }
    Ok(last_time)
}
