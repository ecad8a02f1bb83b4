//! How ids are stored: 20 bytes each in the common case, written on a background thread.
//!
//! A section is a header (horizon, first minute, bytes per minute) and fixed-size entries: the id without its top byte,
//! which is the group's number; the fingerprint; the minute, relative to the first one. It is appended to never; folding
//! leaves out what has expired and concatenates the rest.

use std::array::TryFromSliceError;

use tidemill_dataflow::key_group::{KEY_GROUPS, KeyGroup};
use tidemill_dataflow::keyed::{DecodeError, Section};
use tidemill_dataflow::time::Watermark;

use super::FreshBlock;
use super::table::{Expiry, Seen};

/// Id bytes that the group does not tell.
const ID_BYTES: usize = 15;

/// Bytes of an entry before its minute.
const FIXED_BYTES: usize = ID_BYTES + 4;

const HEADER_BYTES: usize = 8 + 4 + 1;

#[derive(Clone, Copy)]
struct Header {
    /// In milliseconds; kept here because folding knows no operator.
    horizon: i64,
    first_minute: u32,
    /// Bytes of a minute: 1, 2 or 4.
    minute_bytes: usize,
}

impl Header {
    fn of<'a>(horizon: i64, ids: impl Iterator<Item = &'a Seen>) -> Self {
        let (first, last) =
            ids.fold((u32::MAX, 0), |(first, last), seen| (first.min(seen.minute), last.max(seen.minute)));
        let minute_bytes = match last.saturating_sub(first) {
            0..=0xff => 1,
            0x100..=0xffff => 2,
            _ => 4,
        };
        Header { horizon, first_minute: first, minute_bytes }
    }

    fn put(self, section: &mut Vec<u8>) {
        section.extend_from_slice(&self.horizon.to_le_bytes());
        section.extend_from_slice(&self.first_minute.to_le_bytes());
        section.extend_from_slice(&self.minute_bytes.to_le_bytes()[..1]);
    }

    fn put_entry(self, section: &mut Vec<u8>, seen: &Seen) {
        let mut entry = [0; FIXED_BYTES + 4];
        entry[..7].copy_from_slice(&seen.id[0].to_be_bytes()[1..]);
        entry[7..ID_BYTES].copy_from_slice(&seen.id[1].to_be_bytes());
        entry[ID_BYTES..FIXED_BYTES].copy_from_slice(&seen.fingerprint.to_le_bytes());
        entry[FIXED_BYTES..].copy_from_slice(&(seen.minute - self.first_minute).to_le_bytes());
        section.extend_from_slice(&entry[..FIXED_BYTES + self.minute_bytes]);
    }
}

/// The sections of the new ids in buckets from `floor` on, ascending by group.
pub(super) fn encode(expiry: Expiry, floor: u32, blocks: &[FreshBlock]) -> Vec<Section> {
    let live = || blocks.iter().flat_map(|block| &block.ids).filter(|seen| expiry.bucket(seen.minute) >= floor);
    let header = Header::of(expiry.horizon, live());
    let mut counts = [0usize; KEY_GROUPS as usize];
    live().for_each(|seen| counts[usize::from(seen.group())] += 1);
    let mut groups: Vec<Vec<u8>> = counts
        .iter()
        .map(|&count| {
            let mut section = Vec::new();
            if count > 0 {
                section.reserve_exact(HEADER_BYTES + count * (FIXED_BYTES + header.minute_bytes));
                header.put(&mut section);
            }
            section
        })
        .collect();
    live().for_each(|seen| header.put_entry(&mut groups[usize::from(seen.group())], seen));
    let sections = (0..=KeyGroup::MAX).zip(groups).filter(|(_, bytes)| !bytes.is_empty());
    sections.map(|(group, bytes)| Section { group, bytes }).collect()
}

/// Calls `each` with every id of a section, in the order in which they were accepted; gives the section's expiry.
pub(super) fn decode(group: KeyGroup, section: &[u8], mut each: impl FnMut(Seen)) -> Result<Expiry, DecodeError> {
    let torn = |_: TryFromSliceError| DecodeError("the header is cut".into());
    let (header, entries) = section.split_at(HEADER_BYTES.min(section.len()));
    let horizon = i64::from_le_bytes(header[..8.min(header.len())].try_into().map_err(torn)?);
    let first = header.get(8..12).unwrap_or_default();
    let first_minute = u32::from_le_bytes(first.try_into().map_err(torn)?);
    let minute_bytes = match header.get(12) {
        Some(&bytes @ (1 | 2 | 4)) => usize::from(bytes),
        _ => return Err(DecodeError("the header names no width of minutes".into())),
    };
    let expiry = Expiry::new(horizon);
    let entries = entries.chunks_exact(FIXED_BYTES + minute_bytes);
    if !entries.remainder().is_empty() {
        return Err(DecodeError(format!("{} bytes after the last whole id", entries.remainder().len())));
    }
    for entry in entries {
        let (mut high, mut low, mut fingerprint, mut minute) = ([group; 8], [0; 8], [0; 4], [0; 4]);
        high[1..].copy_from_slice(&entry[..7]);
        low.copy_from_slice(&entry[7..ID_BYTES]);
        fingerprint.copy_from_slice(&entry[ID_BYTES..FIXED_BYTES]);
        minute[..minute_bytes].copy_from_slice(&entry[FIXED_BYTES..]);
        each(Seen {
            id: [u64::from_be_bytes(high), u64::from_be_bytes(low)],
            minute: first_minute.saturating_add(u32::from_le_bytes(minute)),
            fingerprint: u32::from_le_bytes(fingerprint),
        });
    }
    Ok(expiry)
}

/// One section of all ids that are live under `low`. The group's number does not matter: ids stay as they are stored.
pub(super) fn fold(sections: &[&[u8]], low: Watermark) -> Result<Vec<u8>, DecodeError> {
    let mut live = Vec::new();
    let mut horizon = 0;
    for section in sections {
        let mut ids = Vec::new();
        let expiry = decode(0, section, |seen| ids.push(seen))?;
        let floor = expiry.floor(low).unwrap_or(0);
        live.extend(ids.into_iter().filter(|seen| expiry.bucket(seen.minute) >= floor));
        horizon = expiry.horizon;
    }
    if live.is_empty() {
        return Ok(Vec::new());
    }
    let header = Header::of(horizon, live.iter());
    let mut folded = Vec::with_capacity(HEADER_BYTES + live.len() * (FIXED_BYTES + header.minute_bytes));
    header.put(&mut folded);
    live.iter().for_each(|seen| header.put_entry(&mut folded, seen));
    Ok(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(high: u64, minute: u32) -> Seen {
        Seen { id: [high, !high], minute, fingerprint: 7 ^ minute }
    }

    fn block(ids: Vec<Seen>) -> Vec<FreshBlock> {
        vec![FreshBlock { latest: u32::MAX, ids }]
    }

    #[test]
    fn ids_that_expired_are_not_written() {
        let ids = vec![seen(1, 4), seen(2, 9), seen(3, 5)];
        let mut read = Vec::new();
        for section in encode(Expiry::new(1_000), 5, &block(ids)) {
            decode(section.group, &section.bytes, |seen| read.push(seen.minute)).unwrap();
        }
        assert_eq!(read, [9, 5]);
    }

    #[test]
    fn ids_read_back_as_they_were_written_whatever_their_minutes() {
        for minutes in [&[5u32, 6][..], &[0, 255], &[0, 256], &[70_000, 1], &[u32::MAX, 0]] {
            let ids: Vec<_> = (0..).zip(minutes).map(|(n, &minute)| seen(0xab << 56 | n, minute)).collect();
            let sections = encode(Expiry::new(1_000), 0, &block(ids.clone()));
            assert_eq!(sections.len(), 1);
            let mut read = Vec::new();
            let expiry = decode(sections[0].group, &sections[0].bytes, |seen| read.push(seen)).unwrap();
            assert_eq!((read, expiry), (ids, Expiry::new(1_000)));
        }
    }

    #[test]
    fn torn_sections_are_refused() {
        let section = &encode(Expiry::new(1_000), 0, &block(vec![seen(1, 2), seen(3, 4)]))[0];
        for cut in 0..section.bytes.len() {
            let whole = cut >= HEADER_BYTES && (cut - HEADER_BYTES).is_multiple_of(FIXED_BYTES + 1);
            assert_eq!(decode(0, &section.bytes[..cut], |_| {}).is_ok(), whole, "cut at {cut}");
        }
    }
}
