//! All partitions together.
//!
//! A file that is being read is held in memory as it is stored, so only few partitions keep theirs open: the engine reads
//! the partitions that are furthest behind in event time, and those are hours beside each other.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tidemill_dataflow::source::{Block, BlockReader, PartitionBinding, PartitionInfo, Position, SourceError};
use tidemill_dataflow::time::EventTime;
use tidemill_log::Store;

use super::line::Rows;
use super::plan::{PinnedPartition, Span};
use super::rows::FileRows;

/// How many partitions keep a file open.
const OPEN_FILES: usize = 4;

/// The reader of a [`ParquetSource`](super::ParquetSource).
pub(super) struct ArchiveReader {
    store: Arc<dyn Store>,
    span: Span,
    partitions: Vec<Partition>,
    /// Partitions with an open file, the one that was read last at the end.
    open: Vec<u32>,
}

/// Where one partition stands.
struct Partition {
    pinned: PinnedPartition,
    digest: String,
    rows: u64,
    /// Rows passed, left out or not.
    offset: u64,
    /// Rows handed out.
    lines: u64,
    file: Option<OpenFile>,
}

/// The file that holds the next row.
struct OpenFile {
    index: usize,
    /// The number of its first row in the partition.
    start: u64,
    rows: FileRows,
    /// Decoded rows with the number of the first in the file.
    batch: Option<(u64, RecordBatch)>,
}

impl ArchiveReader {
    /// A reader of these partitions, from where `recorded` says that they stand.
    pub(super) fn new(
        store: Arc<dyn Store>,
        partitions: Vec<PinnedPartition>,
        span: Span,
        recorded: &[PartitionBinding],
    ) -> ArchiveReader {
        let stands = |number: usize| recorded.get(number).map_or((0, 0), |binding| (binding.end, binding.lines));
        let partitions = partitions.into_iter().enumerate().map(|(number, pinned)| {
            let (offset, lines) = stands(number);
            Partition { digest: pinned.digest(), rows: pinned.rows(), offset, lines, file: None, pinned }
        });
        ArchiveReader { store, span, partitions: partitions.collect(), open: Vec::new() }
    }

    /// Closes the files of the partitions that were not read for longest.
    fn make_room(&mut self, number: u32) {
        self.open.retain(|open| *open != number);
        self.open.push(number);
        while self.open.len() > OPEN_FILES {
            let oldest = self.open.remove(0);
            self.partitions[oldest as usize].file = None;
        }
    }
}

impl BlockReader for ArchiveReader {
    fn partitions(&self) -> Vec<PartitionInfo> {
        let info = |partition: &Partition| PartitionInfo {
            name: partition.pinned.name.clone(),
            size: partition.pinned.bytes(),
            detail: partition.pinned.detail(self.span),
        };
        self.partitions.iter().map(info).collect()
    }

    fn head(&mut self, partition: u32) -> Result<Option<EventTime>, SourceError> {
        let unread = &self.partitions[partition as usize];
        if unread.offset == 0 && unread.pinned.from.is_some() {
            return Ok(unread.pinned.from);
        }
        self.make_room(partition);
        let one = &mut self.partitions[partition as usize];
        one.next_time(&*self.store, self.span)
    }

    fn read(&mut self, partition: u32, limit: usize, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        self.make_room(partition);
        let one = &mut self.partitions[partition as usize];
        one.read(partition, &*self.store, self.span, limit, until)
    }

    fn position(&self, partition: u32) -> Position {
        let one = &self.partitions[partition as usize];
        let finished = one.offset >= one.rows;
        Position { offset: one.offset, lines: one.lines, digest: one.digest.clone(), finished, caught_up: finished }
    }
}

impl Partition {
    fn read(
        &mut self,
        number: u32,
        store: &dyn Store,
        span: Span,
        limit: usize,
        until: Option<u64>,
    ) -> Result<Option<Block>, SourceError> {
        let end = until.unwrap_or(self.rows);
        if end > self.rows {
            let problem =
                format!("{end} rows of it were read before, and it holds {}; start with a new --state", self.rows);
            return Err(self.changed(problem));
        }
        let (offset, first_line) = (self.offset, self.lines + 1);
        let mut text = String::new();
        while self.offset < end {
            if !self.decode(store, span, end)? {
                break;
            }
            let full = self.take_lines(&mut text, span, limit, end)?;
            if full {
                break;
            }
        }
        if text.is_empty() {
            return Ok(None);
        }
        Ok(Some(Block { partition: number, offset, first_line, bytes: text.into_bytes(), skipped: 0 }))
    }

    /// Appends the lines of the decoded rows; says whether one did not fit any more.
    fn take_lines(&mut self, text: &mut String, span: Span, limit: usize, end: u64) -> Result<bool, SourceError> {
        let Some(OpenFile { index, start, batch: Some((first, batch)), .. }) = &self.file else { return Ok(false) };
        let path = &self.pinned.files[*index].path;
        let damaged = |problem: &str| SourceError::Changed {
            partition: self.pinned.name.clone(),
            problem: format!("{path} {problem}; restore it from a copy of the tables"),
        };
        let rows = Rows::new(batch).ok_or_else(|| damaged("does not have the columns of whole events"))?;
        let base = start + first;
        while self.offset < end {
            let row = usize::try_from(self.offset - base).unwrap_or(usize::MAX);
            if row >= batch.num_rows() {
                break;
            }
            if span.contains(rows.time(row)) {
                let before = text.len();
                rows.write(row, text)
                    .map_err(|column| damaged(&format!("holds no JSON object in {column}, row {row}")))?;
                if before > 0 && text.len() > limit {
                    text.truncate(before);
                    return Ok(true);
                }
                self.lines += 1;
            }
            self.offset += 1;
        }
        Ok(false)
    }

    /// The event time of the next row in the span.
    fn next_time(&mut self, store: &dyn Store, span: Span) -> Result<Option<EventTime>, SourceError> {
        if !self.decode(store, span, self.rows)? {
            return Ok(None);
        }
        let Some(OpenFile { start, batch: Some((first, batch)), .. }) = &self.file else { return Ok(None) };
        let from = usize::try_from(self.offset - (start + first)).unwrap_or(usize::MAX);
        let times = Rows::new(batch).map(|rows| (from..batch.num_rows()).map(|row| rows.time(row)).collect::<Vec<_>>());
        Ok(times.into_iter().flatten().filter(|time| span.contains(*time)).min().map(EventTime))
    }

    /// Sees to it that the row at the offset is decoded, passing over groups and files that hold none of the span; false
    /// if none before `end` is left.
    fn decode(&mut self, store: &dyn Store, span: Span, end: u64) -> Result<bool, SourceError> {
        loop {
            if self.offset >= end {
                return Ok(false);
            }
            if self.file.is_none() {
                self.file = Some(self.open(store, span)?);
            }
            let file = self.file.as_mut().expect("it was opened");
            let held = |(first, batch): &(u64, RecordBatch)| {
                let base = file.start + first;
                (base..base + batch.num_rows() as u64).contains(&self.offset)
            };
            if file.batch.as_ref().is_some_and(held) {
                return Ok(true);
            }
            let path = &self.pinned.files[file.index].path;
            let next = file.rows.next().map_err(|error| {
                let problem = format!("{path} cannot be decoded ({error}); restore it from a copy of the tables");
                SourceError::Changed { partition: self.pinned.name.clone(), problem }
            })?;
            match next {
                Some((first, batch)) => {
                    // Rows between the offset and the next group that is read are left out.
                    self.offset = self.offset.max(file.start + first).min(end);
                    file.batch = Some((first, batch));
                }
                None => {
                    self.offset = self.offset.max(file.start + file.rows.len()).min(end);
                    if self.offset >= file.start + file.rows.len() {
                        self.file = None;
                    }
                }
            }
        }
    }

    /// Opens the file that holds the row at the offset.
    fn open(&self, store: &dyn Store, span: Span) -> Result<OpenFile, SourceError> {
        let (mut start, mut index) = (0, 0);
        while start + self.pinned.files[index].rows <= self.offset {
            start += self.pinned.files[index].rows;
            index += 1;
        }
        let file = &self.pinned.files[index];
        let path = &file.path;
        let bytes = store.get(path).map_err(|error| SourceError::Io {
            partition: self.pinned.name.clone(),
            source: std::io::Error::other(error),
        })?;
        let bytes = bytes.ok_or_else(|| {
            let gone = "was rolled into another file and deleted since the replay began";
            self.changed(format!("{path} {gone}; begin again with a new --state, and --until before the newest hour"))
        })?;
        let rows = FileRows::open(bytes, span, self.offset - start)
            .map_err(|error| self.changed(format!("{path} is no Parquet file ({error}); restore it from a copy")))?;
        if rows.len() != file.rows {
            let problem =
                format!("{path} holds {} rows, and the log says {}; restore it from a copy", rows.len(), file.rows);
            return Err(self.changed(problem));
        }
        Ok(OpenFile { index, start, rows, batch: None })
    }

    fn changed(&self, problem: String) -> SourceError {
        SourceError::Changed { partition: self.pinned.name.clone(), problem }
    }
}
