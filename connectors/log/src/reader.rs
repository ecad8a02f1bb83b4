//! Reading one partition, in any process, beside the writer.
//!
//! Promises:
//! - Nothing beyond the published end is touched, so what was read once is read again with the same content (INV-5).
//! - Every batch's checksum is checked before any of it is handed out.
//! - A record that is not there any more, or a segment that is not whole, is an error that names it; nothing is skipped.
//! - It holds one chunk of a segment (256 KiB, or the batch that is longer) in memory.

use std::path::{Path, PathBuf};

use crate::batch::{Header, Record, record_at};
use crate::error::LogError;
use crate::index;
use crate::published::{End, Published};
use crate::segment::{self, Found, Segment};
use crate::topic::Topic;

/// How often a segment that retention deletes meanwhile is looked for again.
const LOOKS: u32 = 8;

/// A reader of a partition. It stands at an offset and moves on by reading or by [`seek`](LogReader::seek).
#[derive(Debug)]
pub struct LogReader {
    topic: Topic,
    partition: u32,
    folder: PathBuf,
    published: Published,
    end: End,
    /// The offset of the next record.
    next: u64,
    place: Option<Place>,
    cursor: Option<Cursor>,
}

/// Where the next batch begins.
#[derive(Debug)]
struct Place {
    segment: Segment,
    base: u64,
    position: u64,
    /// The next batch's first offset.
    offset: u64,
    /// The segment's length, once nothing is added to it any more.
    sealed: Option<u64>,
}

/// The batch that is being read.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    header: Header,
    position: u64,
    /// Where the next record begins in the batch.
    at: usize,
}

impl LogReader {
    /// A reader that stands at the earliest record of a partition.
    ///
    /// # Errors
    /// If there is no such topic or partition, or it cannot be read.
    pub fn open(root: &Path, topic: &str, partition: u32) -> Result<LogReader, LogError> {
        let Some(topic) = Topic::find(root, topic)? else {
            let folder = root.join(topic);
            return Err(LogError::Refused(format!(
                "{}: there is no topic; name a folder that holds one, or start what writes it",
                folder.display()
            )));
        };
        LogReader::of(topic, partition)
    }

    /// A reader of a topic that was found.
    pub(crate) fn of(topic: Topic, partition: u32) -> Result<LogReader, LogError> {
        topic.check(partition)?;
        let published = Published::open(&topic.folder, topic.partitions)?;
        let (folder, end) = (topic.partition_folder(partition), published.end(partition));
        let mut reader = LogReader { topic, partition, folder, published, end, next: 0, place: None, cursor: None };
        reader.next = reader.earliest()?;
        Ok(reader)
    }

    /// The topic as it was when the reader was opened.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The offset of the next record to read.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next
    }

    /// The offset of the first record that is there; of an empty partition, of the first one to come.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn earliest(&self) -> Result<u64, LogError> {
        Ok(segment::list(&self.folder)?.first().map_or(self.end.offset, |base| (*base).min(self.end.offset)))
    }

    /// The offset behind the last record that is published now.
    ///
    /// # Errors
    /// If the published ends cannot be read.
    pub fn end(&mut self) -> Result<u64, LogError> {
        self.published.look()?;
        self.end = self.published.end(self.partition);
        Ok(self.end.offset)
    }

    /// The same at the last look, whoever looked.
    pub(crate) fn known_end(&self) -> u64 {
        self.end.offset
    }

    /// The offset behind the last intact record, published or not. It is more than [`end`](LogReader::end) after a power
    /// cut, until a writer opens the topic.
    pub(crate) fn stored_end(&mut self) -> Result<u64, LogError> {
        let End { mut offset, segment: mut base, mut position } = self.end;
        while let Some(mut segment) = Segment::open(&self.folder, base)? {
            let length = segment.length()?;
            let walked = segment.walk(position, offset, length, |_, _, _| ())?;
            if walked.problem.is_some() || walked.offset == base {
                return Ok(walked.offset);
            }
            (offset, base, position) = (walked.offset, walked.offset, 0);
        }
        Ok(offset)
    }

    /// The first offset whose record was appended at `ms` (milliseconds since 1970) or later; none if there is none yet.
    /// The reader stays where it is.
    ///
    /// # Errors
    /// If the partition cannot be read.
    pub fn offset_of_time(&mut self, ms: i64) -> Result<Option<u64>, LogError> {
        self.end()?;
        let next = self.next;
        let found = self.find_time(ms);
        self.seek(next);
        found
    }

    fn find_time(&mut self, ms: i64) -> Result<Option<u64>, LogError> {
        // Times never go back, so the last segment that begins before `ms` holds the place, or the next one begins there.
        let bases = segment::list(&self.folder)?;
        let mut start = None;
        for base in bases.iter().rev().filter(|base| **base < self.end.offset) {
            let Some(mut segment) = Segment::open(&self.folder, *base)? else { continue };
            start = Some(*base);
            let limit = if *base == self.end.segment { self.end.position } else { segment.length()? };
            if matches!(segment.at(0, limit)?, Found::Batch(header) if header.first_time < ms) {
                break;
            }
        }
        let Some(start) = start else { return Ok(None) };
        self.seek(start);
        if let Some(entry) = index::before_time(&self.folder, start, ms) {
            self.seek(entry.offset);
        }
        while let Some((offset, record)) = self.next()? {
            if record.time_ms >= ms {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }

    /// Goes to an offset. Whether it is there shows the next time something is read.
    pub fn seek(&mut self, offset: u64) {
        self.next = offset;
        self.place = None;
        self.cursor = None;
    }

    /// The next record with its offset; none if nothing is published beyond those that were read. Never waits.
    ///
    /// # Errors
    /// [`LogErrorKind::Gone`](crate::LogErrorKind::Gone) if retention took it, [`LogErrorKind::Damaged`] if it is not
    /// what was written, else what the file system says.
    ///
    /// [`LogErrorKind::Damaged`]: crate::LogErrorKind::Damaged
    #[expect(clippy::should_implement_trait, reason = "a record borrows the reader, and an iterator's item cannot")]
    pub fn next(&mut self) -> Result<Option<(u64, Record<'_>)>, LogError> {
        if !self.stand_at_next()? {
            return Ok(None);
        }
        let (Some(place), Some(cursor)) = (&self.place, &mut self.cursor) else { return Ok(None) };
        let batch = place.segment.batch(cursor.position, &cursor.header);
        let Some((record, behind)) = record_at(batch, cursor.at) else {
            let problem = "a record reaches beyond its batch";
            return Err(LogError::damaged(&place.segment.path, cursor.position, problem));
        };
        cursor.at = behind;
        self.next += 1;
        Ok(Some((self.next - 1, record)))
    }

    /// Has the cursor at the next record; says whether there is one.
    fn stand_at_next(&mut self) -> Result<bool, LogError> {
        if self.cursor.is_some_and(|cursor| self.next < cursor.header.end()) {
            return Ok(true);
        }
        self.cursor = None;
        if self.next >= self.end.offset && self.next >= self.end()? {
            return Ok(false);
        }
        loop {
            let mut place = match self.place.take() {
                Some(place) => place,
                None => self.locate()?,
            };
            let limit = self.limit(&mut place)?;
            let header = match place.segment.at(place.position, limit)? {
                Found::Batch(header) => header,
                Found::Damaged(problem) => {
                    return Err(LogError::damaged(&place.segment.path, place.position, problem));
                }
                Found::End => {
                    self.place = Some(self.following(&place)?);
                    continue;
                }
            };
            if header.base != place.offset {
                let problem = format!("offset {} is expected there and {} is found", place.offset, header.base);
                return Err(LogError::damaged(&place.segment.path, place.position, problem));
            }
            let position = place.position;
            place.position += header.length as u64;
            place.offset = header.end();
            if header.end() > self.next {
                let at = skip(place.segment.batch(position, &header), &header, self.next);
                let at = at.ok_or_else(|| {
                    LogError::damaged(&place.segment.path, position, "a record reaches beyond its batch")
                })?;
                self.cursor = Some(Cursor { header, position, at });
                self.place = Some(place);
                return Ok(true);
            }
            self.place = Some(place);
        }
    }

    /// Up to where the segment of a place may be read.
    fn limit(&self, place: &mut Place) -> Result<u64, LogError> {
        if place.base == self.end.segment {
            return Ok(self.end.position);
        }
        if let Some(length) = place.sealed {
            return Ok(length);
        }
        let length = place.segment.length()?;
        place.sealed = Some(length);
        Ok(length)
    }

    /// The segment that holds the next record, from its beginning, or from the last place before it that is known.
    fn locate(&self) -> Result<Place, LogError> {
        for _ in 0..LOOKS {
            let bases = segment::list(&self.folder)?;
            let Some(base) = bases.iter().rev().find(|base| **base <= self.next) else { break };
            let Some(segment) = Segment::open(&self.folder, *base)? else { continue };
            let (mut position, mut offset) = (0, *base);
            if let Some(entry) = index::before_offset(&self.folder, *base, self.next) {
                (position, offset) = (entry.position, entry.offset);
            }
            return Ok(Place { segment, base: *base, position, offset, sealed: None });
        }
        Err(self.gone())
    }

    /// The segment behind one that was read to its end.
    fn following(&self, place: &Place) -> Result<Place, LogError> {
        let (base, offset) = (place.offset, place.offset);
        if base <= place.base {
            let problem = "a segment without records is followed by others";
            return Err(LogError::damaged(&place.segment.path, place.position, problem));
        }
        match Segment::open(&self.folder, base)? {
            Some(segment) => Ok(Place { segment, base, position: 0, offset, sealed: None }),
            None if self.earliest()? > self.next => Err(self.gone()),
            None => {
                let path = segment::path(&self.folder, base);
                Err(LogError::damaged(&path, 0, "the file is missing"))
            }
        }
    }

    fn gone(&self) -> LogError {
        LogError::Gone {
            topic: self.topic.name.clone(),
            partition: self.partition,
            wanted: self.next,
            low: self.earliest().unwrap_or(self.end.offset),
            high: self.end.offset,
        }
    }
}

/// Where the record of an offset begins in its batch.
fn skip(batch: &[u8], header: &Header, offset: u64) -> Option<usize> {
    let mut at = header.records();
    for _ in header.base..offset {
        at = record_at(batch, at)?.1;
    }
    Some(at)
}
