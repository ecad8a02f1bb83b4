//! A sparse index of a sealed segment, so that a seek does not read the segment from its beginning.
//!
//! `BASE.index` beside `BASE.log` names a batch about every 256 KiB: offset, position, time. It says nothing that the
//! segment does not say: one that is missing, or not whole, costs a seek some milliseconds and nothing else, so it is
//! neither synced nor mended.

use std::fs;
use std::path::{Path, PathBuf};

use crc32c::crc32c;

/// Bytes of a segment between two entries.
const EVERY: u64 = 256 << 10;
const MAGIC: [u8; 8] = *b"TMIDX001";
const ENTRY: usize = 24;

/// A batch that begins at a known place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its first offset.
    pub(crate) offset: u64,
    /// Where it begins in the segment, in bytes.
    pub(crate) position: u64,
    /// Its first record's time in milliseconds since 1970.
    pub(crate) time_ms: i64,
}

/// The file of the index of a segment.
pub(crate) fn path(folder: &Path, base: u64) -> PathBuf {
    folder.join(format!("{base:020}.index"))
}

/// The entries of the segment that is being written.
#[derive(Debug, Default)]
pub(crate) struct Growing {
    bytes: Vec<u8>,
    last: u64,
}

impl Growing {
    /// Takes note of a batch, if it is far enough from the last one noted.
    pub(crate) fn batch(&mut self, entry: &Entry) {
        if entry.position < self.last + EVERY {
            return;
        }
        self.last = entry.position;
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(&MAGIC);
        }
        self.bytes.extend_from_slice(&entry.offset.to_le_bytes());
        self.bytes.extend_from_slice(&entry.position.to_le_bytes());
        self.bytes.extend_from_slice(&entry.time_ms.to_le_bytes());
    }

    /// The file's content for a segment that is complete, and an empty index for the next one; none if the segment is
    /// too short to need one.
    pub(crate) fn close(&mut self) -> Option<Vec<u8>> {
        let Growing { mut bytes, .. } = std::mem::take(self);
        if bytes.is_empty() {
            return None;
        }
        let crc = crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        Some(bytes)
    }
}

/// The last entry of a segment's index that is not behind an offset.
pub(crate) fn before_offset(folder: &Path, base: u64, offset: u64) -> Option<Entry> {
    last(folder, base, |entry| entry.offset <= offset)
}

/// The last entry of a segment's index whose batch begins before a time.
pub(crate) fn before_time(folder: &Path, base: u64, ms: i64) -> Option<Entry> {
    last(folder, base, |entry| entry.time_ms < ms)
}

fn last(folder: &Path, base: u64, holds: impl Fn(&Entry) -> bool) -> Option<Entry> {
    let file = fs::read(path(folder, base)).ok()?;
    let (content, crc) = file.split_last_chunk::<4>()?;
    let entries = content.strip_prefix(&MAGIC)?;
    if crc32c(content) != u32::from_le_bytes(*crc) {
        return None;
    }
    let number = |entry: &[u8], at: usize| -> [u8; 8] { entry[at..at + 8].try_into().expect("eight bytes were cut") };
    let entries = entries.chunks_exact(ENTRY).map(|bytes| Entry {
        offset: u64::from_le_bytes(number(bytes, 0)),
        position: u64::from_le_bytes(number(bytes, 8)),
        time_ms: i64::from_le_bytes(number(bytes, 16)),
    });
    entries.take_while(|entry| holds(entry)).last()
}
