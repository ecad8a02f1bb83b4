//! Segments of a partition: their names, and their batches one after another.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::batch::{HEADER, Header};
use crate::error::{At, LogError};

/// How much is read of a segment at once.
const CHUNK: u64 = 256 << 10;

/// The file of the segment that begins with an offset.
pub(crate) fn path(folder: &Path, base: u64) -> PathBuf {
    folder.join(format!("{base:020}.log"))
}

/// The first offsets of the segments in a folder, in order.
pub(crate) fn list(folder: &Path) -> Result<Vec<u64>, LogError> {
    let mut bases = Vec::new();
    for entry in fs::read_dir(folder).at(folder, "list")? {
        let name = entry.at(folder, "list")?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".log")).filter(|digits| digits.len() == 20);
        bases.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
    }
    bases.sort_unstable();
    Ok(bases)
}

/// What is at a place of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A batch, intact.
    Batch(Header),
    /// The end that was given.
    End,
    /// Something else.
    Damaged(&'static str),
}

/// A segment that is read in chunks.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    start: u64,
}

impl Segment {
    /// Opens the segment that begins with `base`; none if it is not there.
    pub(crate) fn open(folder: &Path, base: u64) -> Result<Option<Segment>, LogError> {
        let path = path(folder, base);
        match File::open(&path) {
            Ok(file) => Ok(Some(Segment { path, file, buffer: Vec::new(), start: 0 })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LogError::io(&path, "open", error)),
        }
    }

    /// Its length in bytes now.
    pub(crate) fn length(&self) -> Result<u64, LogError> {
        Ok(self.file.metadata().at(&self.path, "read")?.len())
    }

    /// What is at `position`; nothing at or beyond `limit` is touched.
    pub(crate) fn at(&mut self, position: u64, limit: u64) -> Result<Found, LogError> {
        if position >= limit {
            return Ok(Found::End);
        }
        if !self.load(position, HEADER as u64, limit)? {
            return Ok(Found::Damaged("the file ends in the middle of a batch"));
        }
        let header = match Header::parse(self.loaded(position)) {
            Ok(header) => header,
            Err(problem) => return Ok(Found::Damaged(problem)),
        };
        if !self.load(position, header.length as u64, limit)? {
            return Ok(Found::Damaged("the file ends in the middle of a batch"));
        }
        match header.verify(self.batch(position, &header)) {
            Ok(()) => Ok(Found::Batch(header)),
            Err(problem) => Ok(Found::Damaged(problem)),
        }
    }

    /// The bytes of the batch that [`at`](Segment::at) found last.
    pub(crate) fn batch(&self, position: u64, header: &Header) -> &[u8] {
        &self.loaded(position)[..header.length]
    }

    fn loaded(&self, position: u64) -> &[u8] {
        let at = usize::try_from(position - self.start).expect("the buffer holds the position");
        &self.buffer[at..]
    }

    /// Has `length` bytes at `position` in the buffer; false if the file, or what may be read of it, ends before.
    fn load(&mut self, position: u64, length: u64, limit: u64) -> Result<bool, LogError> {
        if length > limit - position {
            return Ok(false);
        }
        if position >= self.start && position + length <= self.start + self.buffer.len() as u64 {
            return Ok(true);
        }
        let wanted = usize::try_from(length.max(CHUNK).min(limit - position)).expect("a chunk fits an address");
        if self.buffer.capacity() > 2 * wanted.max(1 << 20) {
            // A huge batch is behind us.
            self.buffer = Vec::new();
        }
        self.buffer.resize(wanted, 0);
        self.start = position;
        let mut filled = 0;
        while filled < wanted {
            match self.file.read_at(&mut self.buffer[filled..], position + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.buffer.clear();
                    return Err(LogError::io(&self.path, "read", error));
                }
            }
        }
        self.buffer.truncate(filled);
        Ok(filled as u64 >= length)
    }

    /// Where the intact batches end that begin at `position` with `offset` and go on without a gap.
    pub(crate) fn walk(
        &mut self,
        mut position: u64,
        mut offset: u64,
        limit: u64,
        mut see: impl FnMut(u64, &Header, &[u8]),
    ) -> Result<Walked, LogError> {
        loop {
            let problem = match self.at(position, limit)? {
                Found::Batch(header) if header.base == offset => {
                    see(position, &header, self.batch(position, &header));
                    position += header.length as u64;
                    offset = header.end();
                    continue;
                }
                Found::Batch(_) => Some("the batch there does not follow the one before"),
                Found::Damaged(problem) => Some(problem),
                Found::End => None,
            };
            return Ok(Walked { position, offset, problem });
        }
    }
}

/// How far a walk came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walked {
    pub(crate) position: u64,
    pub(crate) offset: u64,
    /// What stopped it before the end.
    pub(crate) problem: Option<&'static str>,
}
