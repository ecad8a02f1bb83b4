//! Where each partition of a topic ends for readers: one small file a topic, which they look at often.
//!
//! Two slots are written in turn, each with a sequence number and a checksum, after everything they name is durable. So a
//! reader of any process finds a whole slot whenever it looks, and never sees beyond what survives a power cut. The file
//! itself is not synced with each change: a slot that a power cut takes back names less than there is, and the next writer
//! finds the rest behind it.

use std::fs::File;
use std::hint::spin_loop;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crc32c::crc32c;

use crate::error::{At, LogError};

/// The file's name in the topic's folder.
pub(crate) const NAME: &str = "published";

const MAGIC: [u8; 8] = *b"TMEND001";
/// Magic, sequence, number of partitions.
const FIXED: usize = 20;
const ENTRY: usize = 24;
/// Slots lie on blocks of their own, so that a torn write spoils one.
const BLOCK: usize = 4096;
/// How often a reader that met two slots under way looks again.
const LOOKS: u32 = 10_000;

/// Where a partition ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    /// The offset behind the last record.
    pub(crate) offset: u64,
    /// The segment that holds it, by its first offset.
    pub(crate) segment: u64,
    /// Where that segment ends, in bytes.
    pub(crate) position: u64,
}

fn slot_length(partitions: u32) -> usize {
    FIXED + ENTRY * partitions as usize + 4
}

fn stride(partitions: u32) -> usize {
    slot_length(partitions).div_ceil(BLOCK) * BLOCK
}

/// The slot that these ends go to, and where it lies in the file.
pub(crate) fn slot(sequence: u64, ends: &[End]) -> (Vec<u8>, u64) {
    let partitions = u32::try_from(ends.len()).expect("a topic has fewer than 2^32 partitions");
    let mut bytes = Vec::with_capacity(slot_length(partitions));
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(&partitions.to_le_bytes());
    for end in ends {
        for number in [end.offset, end.segment, end.position] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    (bytes, (sequence % 2) * stride(partitions) as u64)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut"))
}

/// The sequence of a slot that is whole.
fn sequence_of(slot: &[u8], partitions: u32) -> Option<u64> {
    let (content, crc) = slot.split_last_chunk::<4>()?;
    let whole = content[..8] == MAGIC
        && content[16..20] == partitions.to_le_bytes()
        && crc32c(content) == u32::from_le_bytes(*crc);
    whole.then(|| number(content, 8))
}

/// The file as a reader sees it.
#[derive(Debug)]
pub(crate) struct Published {
    path: PathBuf,
    file: File,
    partitions: u32,
    buffer: Vec<u8>,
    /// Where in the buffer the last slot lies.
    at: usize,
    sequence: u64,
}

impl Published {
    /// Opens the file of a topic and looks at it.
    pub(crate) fn open(folder: &Path, partitions: u32) -> Result<Published, LogError> {
        let path = folder.join(NAME);
        let file = File::open(&path).at(&path, "open")?;
        let buffer = vec![0; stride(partitions) + slot_length(partitions)];
        let mut published = Published { path, file, partitions, buffer, at: 0, sequence: 0 };
        published.look()?;
        Ok(published)
    }

    /// Looks again; gives the sequence number, which grows with every change.
    pub(crate) fn look(&mut self) -> Result<u64, LogError> {
        let (length, second) = (slot_length(self.partitions), stride(self.partitions));
        for _ in 0..LOOKS {
            self.fill().at(&self.path, "read")?;
            let slots = [0, second].map(|at| (sequence_of(&self.buffer[at..at + length], self.partitions), at));
            if let Some((Some(sequence), at)) = slots.into_iter().max() {
                self.at = at;
                self.sequence = sequence;
                return Ok(sequence);
            }
            // The writer was in the middle of one slot, and of the other when that was read.
            spin_loop();
        }
        Err(LogError::damaged(&self.path, 0, "neither slot is whole"))
    }

    /// Reads both slots; of a file that ends early the rest counts as empty.
    fn fill(&mut self) -> io::Result<()> {
        let mut filled = 0;
        while filled < self.buffer.len() {
            match self.file.read_at(&mut self.buffer[filled..], filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer[filled..].fill(0);
        Ok(())
    }

    /// The sequence number of the last look.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The end of a partition at the last look.
    pub(crate) fn end(&self, partition: u32) -> End {
        let at = self.at + FIXED + ENTRY * partition as usize;
        let field = |nth: usize| number(&self.buffer, at + 8 * nth);
        End { offset: field(0), segment: field(1), position: field(2) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn ends(offset: u64) -> [End; 2] {
        [End { offset, segment: 0, position: 10 * offset }, End { offset: offset + 1, segment: 5, position: 7 }]
    }

    fn write(path: &Path, sequence: u64, ends: &[End]) {
        let (bytes, at) = slot(sequence, ends);
        let file = File::options().write(true).create(true).truncate(false).open(path).unwrap();
        file.write_all_at(&bytes, at).unwrap();
    }

    #[test]
    fn the_later_of_two_slots_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        write(&path, 1, &ends(0));
        let mut published = Published::open(folder.path(), 2).unwrap();
        assert_eq!((published.sequence(), published.end(0), published.end(1)), (1, ends(0)[0], ends(0)[1]));
        for sequence in 2..6 {
            write(&path, sequence, &ends(sequence));
            assert_eq!(published.look().unwrap(), sequence);
            assert_eq!(published.end(1), ends(sequence)[1]);
        }
    }

    #[test]
    fn a_slot_torn_at_any_byte_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let (bytes, at) = slot(4, &ends(4));
        for torn in 0..bytes.len() {
            fs::remove_file(&path).ok();
            write(&path, 2, &ends(2));
            write(&path, 3, &ends(3));
            File::options().write(true).open(&path).unwrap().write_all_at(&bytes[..torn], at).unwrap();
            let mut published = Published::open(folder.path(), 2).unwrap();
            assert_eq!((published.look().unwrap(), published.end(0)), (3, ends(3)[0]), "torn at {torn}");
        }
    }

    #[test]
    fn a_file_without_a_whole_slot_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), [1; 100]).unwrap();
        let error = Published::open(folder.path(), 2).unwrap_err().to_string();
        assert!(error.contains(NAME) && error.contains("neither slot"), "{error}");
    }
}
