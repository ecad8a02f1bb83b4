//! How every object of the log is stored: one header line, then JSON.
//!
//! The header names the kind of object, the format, and the payload's length and xxh3 checksum. It is compared as a
//! whole with the header that the payload should have, so a flipped bit or a cut tail anywhere is found.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

use crate::entry::{Entry, FORMAT};
use crate::error::LogError;
use crate::state::LogState;

/// The longest header that can be one of ours; a longer first line is not searched for its end.
const LONGEST_HEADER: usize = 128;

/// Marks an object's kind, so that an entry is never taken for a snapshot.
pub(crate) trait Framed: Serialize + DeserializeOwned {
    const KIND: &'static str;
}

/// What the object `format` holds.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Format {
    pub(crate) format: u32,
}

impl Framed for Format {
    const KIND: &'static str = "format";
}

/// What the object `runs/<r>` holds. Only its existence matters.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Claim {
    pub(crate) run: u64,
}

impl Framed for Claim {
    const KIND: &'static str = "run";
}

/// What the object `log/<n>` holds: an entry with what proves its place and its author.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Envelope {
    pub(crate) number: u64,
    /// Checksum of the entry before, so that no stray object can take a place in the sequence.
    pub(crate) previous: u64,
    /// With `sequence`, unique for ever: equal bytes mean the same put.
    pub(crate) run: u64,
    pub(crate) sequence: u64,
    pub(crate) entry: Entry,
}

impl Framed for Envelope {
    const KIND: &'static str = "entry";
}

/// What the object `snapshots/<n>` holds: what the entries through n mean.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Snapshot {
    /// Checksum of entry n.
    pub(crate) previous: u64,
    pub(crate) state: LogState,
}

impl Framed for Snapshot {
    const KIND: &'static str = "snapshot";
}

fn header(kind: &str, payload: &[u8]) -> String {
    format!("tidemill {kind} {FORMAT} {:016x} {}\n", xxh3_64(payload), payload.len())
}

/// The stored bytes of an object.
pub(crate) fn encode<T: Framed>(value: &T) -> Bytes {
    let payload = serde_json::to_vec(value).expect("the log's types have string or integer keys only");
    let mut bytes = header(T::KIND, &payload).into_bytes();
    bytes.extend_from_slice(&payload);
    bytes.into()
}

/// The value stored in `object`, or what is wrong with it.
pub(crate) fn decode<T: Framed>(object: &str, bytes: &[u8]) -> Result<T, LogError> {
    let corrupt = |problem: &str| LogError::Corrupt { object: object.to_owned(), problem: problem.to_owned() };
    let end = bytes
        .iter()
        .take(LONGEST_HEADER)
        .position(|&byte| byte == b'\n')
        .ok_or_else(|| corrupt("it does not begin with a header line"))?;
    let (found, payload) = bytes.split_at(end + 1);
    if found == header(T::KIND, payload).as_bytes() {
        return serde_json::from_slice(payload)
            .map_err(|error| corrupt(&format!("its JSON is not as expected: {error}")));
    }
    let words: Vec<&str> = std::str::from_utf8(found).unwrap_or_default().split_ascii_whitespace().collect();
    match words[..] {
        ["tidemill", kind, ..] if kind != T::KIND => {
            Err(corrupt(&format!("its header names another kind of object than `{}`", T::KIND)))
        }
        // A version is believed only where the rest of the header holds; anything else is damage.
        ["tidemill", kind, version, sum, length]
            if version.parse() != Ok(FORMAT)
                && sum == format!("{:016x}", xxh3_64(payload))
                && length.parse() == Ok(payload.len())
                && kind == T::KIND =>
        {
            Err(LogError::UnknownFormat { object: object.to_owned(), found: version.to_owned(), known: FORMAT })
        }
        _ => Err(corrupt("its content does not match the length and checksum in its header")),
    }
}

/// The checksum by which the next entry names this one.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let whole = encode(&Claim { run: 7 });
        assert_eq!(decode::<Claim>("x", &whole).unwrap().run, 7);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.to_vec();
                flipped[at] ^= 1 << bit;
                assert!(decode::<Claim>("x", &flipped).is_err(), "byte {at} bit {bit}");
            }
            assert!(decode::<Claim>("x", &whole[..at]).is_err(), "cut at {at}");
        }
        assert!(decode::<Claim>("x", &[&whole[..], b" "].concat()).is_err(), "a longer tail");
    }

    #[test]
    fn another_version_is_named_and_another_kind_is_refused() {
        let text = String::from_utf8(encode(&Claim { run: 7 }).to_vec()).unwrap();
        let newer = text.replacen(" 1 ", " 2 ", 1);
        let error = decode::<Claim>("x", newer.as_bytes()).unwrap_err();
        assert!(matches!(&error, LogError::UnknownFormat { found, .. } if found == "2"), "{error}");
        assert!(matches!(decode::<Format>("x", text.as_bytes()), Err(LogError::Corrupt { .. })));
    }
}
