//! One stored piece of an operator's state: sections by key group.
//!
//! ```text
//! magic "TMPIECE1" | sections: u32 | index checksum: u64 | per section: group u8, offset u64, length u64, checksum u64 | bytes
//! ```
//! All numbers little-endian, checksums XXH3-64. A flipped bit or a cut tail is found before a byte is used, and a worker
//! reads only the sections of its groups.

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use crate::key_group::KeyGroup;
use crate::keyed::Section;

const MAGIC: &[u8; 8] = b"TMPIECE1";
const HEADER: usize = 8 + 4 + 8;
const ENTRY: usize = 1 + 8 + 8 + 8;

/// A piece whose bytes are not what was stored.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct CorruptPiece(pub(crate) &'static str);

/// A piece read back, all checksums verified.
#[derive(Clone, Debug)]
pub struct Piece {
    bytes: Bytes,
    index: Vec<(KeyGroup, usize, usize)>,
}

/// Encodes sections (ascending groups).
pub(crate) fn encode(sections: &[Section]) -> Vec<u8> {
    let body: usize = sections.iter().map(|s| s.bytes.len()).sum();
    let mut index = Vec::with_capacity(sections.len() * ENTRY);
    let mut offset = HEADER + sections.len() * ENTRY;
    for section in sections {
        index.push(section.group);
        index.extend_from_slice(&(offset as u64).to_le_bytes());
        index.extend_from_slice(&(section.bytes.len() as u64).to_le_bytes());
        index.extend_from_slice(&xxh3_64(&section.bytes).to_le_bytes());
        offset += section.bytes.len();
    }
    let mut out = Vec::with_capacity(HEADER + index.len() + body);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&u32::try_from(sections.len()).expect("at most 256 sections").to_le_bytes());
    out.extend_from_slice(&xxh3_64(&index).to_le_bytes());
    out.extend_from_slice(&index);
    sections.iter().for_each(|section| out.extend_from_slice(&section.bytes));
    out
}

impl Piece {
    /// Reads a piece and verifies every checksum.
    ///
    /// # Errors
    /// [`CorruptPiece`] says what is wrong.
    pub fn decode(bytes: Bytes) -> Result<Piece, CorruptPiece> {
        let header = bytes.get(..HEADER).ok_or(CorruptPiece("it is cut off in its header"))?;
        let (magic, rest) = header.split_at(8);
        if magic != MAGIC {
            return Err(CorruptPiece("it does not begin as a piece of state"));
        }
        let count = read_u32(rest) as usize;
        let index_end = count.checked_mul(ENTRY).map(|n| n + HEADER).ok_or(CorruptPiece("its index is too long"))?;
        let raw = bytes.get(HEADER..index_end).ok_or(CorruptPiece("it is cut off in its index"))?;
        if xxh3_64(raw) != read_u64(&rest[4..]) {
            return Err(CorruptPiece("the checksum of its index does not match"));
        }
        let mut index = Vec::with_capacity(count);
        let mut end = index_end;
        for entry in raw.chunks_exact(ENTRY) {
            let offset = to_usize(read_u64(&entry[1..]))?;
            let length = to_usize(read_u64(&entry[9..]))?;
            let section_end = offset.checked_add(length).ok_or(CorruptPiece("a section is too long"))?;
            let section = bytes.get(offset..section_end).ok_or(CorruptPiece("it is cut off in a section"))?;
            if xxh3_64(section) != read_u64(&entry[17..]) {
                return Err(CorruptPiece("the checksum of a section does not match"));
            }
            end = end.max(section_end);
            index.push((entry[0], offset, length));
        }
        if end != bytes.len() {
            return Err(CorruptPiece("it goes on after its last section"));
        }
        Ok(Piece { bytes, index })
    }

    /// The sections, ascending by group.
    pub fn sections(&self) -> impl Iterator<Item = (KeyGroup, &[u8])> {
        self.index.iter().map(|(group, offset, length)| (*group, &self.bytes[*offset..*offset + *length]))
    }
}

fn to_usize(n: u64) -> Result<usize, CorruptPiece> {
    usize::try_from(n).map_err(|_| CorruptPiece("a section is too long"))
}

fn read_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn read_u64(bytes: &[u8]) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(eight)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        encode(&[Section { group: 3, bytes: b"abc".to_vec() }, Section { group: 200, bytes: vec![0; 40] }])
    }

    #[test]
    fn sections_come_back_by_group() {
        let piece = Piece::decode(sample().into()).unwrap();
        let found: Vec<_> = piece.sections().collect();
        assert_eq!(found, [(3, b"abc".as_slice()), (200, [0; 40].as_slice())]);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let good = sample();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Piece::decode(bad.into()).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(Piece::decode(good[..length].to_vec().into()).is_err(), "cut to {length}");
        }
        let mut longer = good;
        longer.push(0);
        assert!(Piece::decode(longer.into()).is_err());
    }
}
