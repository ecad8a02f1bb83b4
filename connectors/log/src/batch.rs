//! How a batch of records lies in a segment; bytes only, no files.
//!
//! ```text
//! | magic | length u32 | crc u32 | note's length u32 | base offset u64 | count u32 | first time i64 | last time i64 |
//! | note | record | record | ..          record = | time i64 | key's length u32 | value's length u32 | key | value |
//! ```
//! All numbers are little-endian; `length` counts the whole batch, and the CRC-32C covers all of it but itself.
//! Offsets inside a batch are dense, times never go back.

use crc32c::{crc32c, crc32c_append};

use crate::error::LogError;

/// Bytes before the note.
pub(crate) const HEADER: usize = 44;
/// Bytes of a record beside its key and its value.
const RECORD: usize = 16;
/// The most that key and value of a record take together.
pub const MAX_RECORD_BYTES: usize = 16 << 20;
/// The longest note.
pub(crate) const MAX_NOTE: usize = 4 << 10;
/// From here on records go into another batch.
pub(crate) const BATCH_BYTES: usize = 1 << 20;
/// What no batch exceeds; a greater length is damage.
const MAX_BATCH: usize = HEADER + MAX_NOTE + BATCH_BYTES + RECORD + MAX_RECORD_BYTES;

const MAGIC: [u8; 4] = *b"TMB1";

/// A record as it is written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key; empty where there is none.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
    /// When it was appended, in milliseconds since 1970. In a partition times never go back: one that is smaller than
    /// the one before is stored as that.
    pub time_ms: i64,
}

impl Record<'_> {
    /// Bytes that it takes in a batch.
    pub(crate) fn cost(&self) -> usize {
        RECORD + self.key.len() + self.value.len()
    }

    /// Refuses what no batch can take.
    pub(crate) fn check(&self, topic: &str, partition: u32) -> Result<(), LogError> {
        let bytes = self.key.len() + self.value.len();
        if bytes <= MAX_RECORD_BYTES {
            return Ok(());
        }
        let problem = format!("a record of {bytes} bytes is too large; at most {MAX_RECORD_BYTES} fit, so send less");
        Err(LogError::Refused(format!("{topic}/{partition}: {problem}")))
    }
}

/// What a batch says before its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of the whole batch.
    pub(crate) length: usize,
    crc: u32,
    note: usize,
    /// The first record's offset.
    pub(crate) base: u64,
    pub(crate) count: u32,
    /// The first record's time.
    pub(crate) first_time: i64,
    /// The last record's time.
    pub(crate) last_time: i64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were cut"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut"))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were cut"))
}

impl Header {
    /// The offset behind the last record.
    pub(crate) fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }

    /// Reads a header of at least [`HEADER`] bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Header, &'static str> {
        if bytes[..4] != MAGIC {
            return Err("no batch begins there");
        }
        let header = Header {
            length: u32_at(bytes, 4) as usize,
            crc: u32_at(bytes, 8),
            note: u32_at(bytes, 12) as usize,
            base: u64_at(bytes, 16),
            count: u32_at(bytes, 24),
            first_time: i64_at(bytes, 28),
            last_time: i64_at(bytes, 36),
        };
        if header.length < HEADER + header.note || header.length > MAX_BATCH || header.count == 0 {
            return Err("a batch of an impossible length begins there");
        }
        if header.base.checked_add(u64::from(header.count)).is_none() {
            return Err("a batch of impossible offsets begins there");
        }
        Ok(header)
    }

    /// Whether the batch of this header is the one that was written.
    pub(crate) fn verify(&self, batch: &[u8]) -> Result<(), &'static str> {
        if crc32c_append(crc32c(&batch[..8]), &batch[12..]) == self.crc {
            Ok(())
        } else {
            Err("the checksum of the batch there does not fit its bytes")
        }
    }

    /// What was written beside the records.
    pub(crate) fn note<'a>(&self, batch: &'a [u8]) -> &'a [u8] {
        &batch[HEADER..HEADER + self.note]
    }

    /// Where the first record begins in the batch.
    pub(crate) fn records(&self) -> usize {
        HEADER + self.note
    }
}

/// The record at a place of a batch, and where the next one begins; none if it does not fit the batch.
pub(crate) fn record_at(batch: &[u8], at: usize) -> Option<(Record<'_>, usize)> {
    let fixed = batch.get(at..at.checked_add(RECORD)?)?;
    let key_end = (at + RECORD).checked_add(u32_at(fixed, 8) as usize)?;
    let value_end = key_end.checked_add(u32_at(fixed, 12) as usize)?;
    let (key, value) = (batch.get(at + RECORD..key_end)?, batch.get(key_end..value_end)?);
    Some((Record { key, value, time_ms: i64_at(fixed, 0) }, value_end))
}

fn narrow(length: usize) -> u32 {
    u32::try_from(length).expect("lengths are checked before a batch is encoded")
}

/// Appends a batch of one or more records; times before `not_before` are raised to it. Gives the last record's time.
pub(crate) fn encode(out: &mut Vec<u8>, base: u64, note: &[u8], records: &[Record<'_>], not_before: i64) -> i64 {
    let start = out.len();
    out.resize(start + HEADER, 0);
    out.extend_from_slice(note);
    let mut last_time = not_before;
    for record in records {
        last_time = last_time.max(record.time_ms);
        out.extend_from_slice(&last_time.to_le_bytes());
        out.extend_from_slice(&narrow(record.key.len()).to_le_bytes());
        out.extend_from_slice(&narrow(record.value.len()).to_le_bytes());
        out.extend_from_slice(record.key);
        out.extend_from_slice(record.value);
    }
    let first_time = records.first().map_or(last_time, |first| first.time_ms.max(not_before));
    let batch = &mut out[start..];
    let length = narrow(batch.len());
    let mut put = |at: usize, bytes: &[u8]| batch[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC);
    put(4, &length.to_le_bytes());
    put(12, &narrow(note.len()).to_le_bytes());
    put(16, &base.to_le_bytes());
    put(24, &narrow(records.len()).to_le_bytes());
    put(28, &first_time.to_le_bytes());
    put(36, &last_time.to_le_bytes());
    let crc = crc32c_append(crc32c(&batch[..8]), &batch[12..]);
    batch[8..12].copy_from_slice(&crc.to_le_bytes());
    last_time
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (Vec<u8>, Vec<u8>, i64);

    fn encoded(records: &[Owned], note: &[u8]) -> Vec<u8> {
        let records: Vec<Record<'_>> =
            records.iter().map(|(key, value, time_ms)| Record { key, value, time_ms: *time_ms }).collect();
        let mut bytes = Vec::new();
        encode(&mut bytes, 7, note, &records, 0);
        bytes
    }

    fn record() -> impl Strategy<Value = Owned> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
        (bytes(), bytes(), 0..1_000_i64)
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in_with_times_that_never_go_back(
            records in proptest::collection::vec(record(), 1..20),
            note in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let bytes = encoded(&records, &note);
            let header = Header::parse(&bytes).unwrap();
            prop_assert_eq!(header.length, bytes.len());
            prop_assert_eq!(header.verify(&bytes), Ok(()));
            prop_assert_eq!(header.note(&bytes), &note[..]);
            prop_assert_eq!((header.base, header.end()), (7, 7 + records.len() as u64));
            let (mut at, mut latest) = (header.records(), 0);
            for (key, value, time_ms) in &records {
                latest = latest.max(*time_ms);
                let (read, next) = record_at(&bytes, at).unwrap();
                prop_assert_eq!(read, Record { key, value, time_ms: latest });
                at = next;
            }
            prop_assert_eq!(at, bytes.len());
            prop_assert_eq!((header.first_time, header.last_time), (records[0].2, latest));
        }

        #[test]
        fn any_changed_byte_is_noticed(
            records in proptest::collection::vec(record(), 1..5),
            at in any::<prop::sample::Index>(),
            flip in 1..=u8::MAX,
        ) {
            let mut bytes = encoded(&records, b"note");
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let intact = Header::parse(&bytes)
                .is_ok_and(|header| header.length == bytes.len() && header.verify(&bytes).is_ok());
            prop_assert!(!intact);
        }
    }

    #[test]
    fn offsets_that_no_number_holds_are_damage() {
        let mut bytes = encoded(&[(b"key".to_vec(), b"value".to_vec(), 0)], b"");
        for (base, intact) in [(u64::MAX - 1, true), (u64::MAX, false)] {
            bytes[16..24].copy_from_slice(&base.to_le_bytes());
            assert_eq!(Header::parse(&bytes).is_ok(), intact, "{base}");
        }
    }

    #[test]
    fn a_record_that_reaches_beyond_its_batch_is_none() {
        let bytes = encoded(&[(b"key".to_vec(), b"value".to_vec(), 0)], b"");
        assert!(record_at(&bytes[..bytes.len() - 1], HEADER).is_none());
        assert!(record_at(&bytes, bytes.len()).is_none());
        assert!(record_at(&bytes, usize::MAX).is_none());
    }
}
