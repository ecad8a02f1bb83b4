//! Reads a request's body: unpacked, counted against the limits while it streams in, paid for from the memory budget.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use crate::budget::{Lease, MemoryBudget};

/// The largest window of a zstd frame, as a power of two: what RFC 8878 asks of every decoder.
const ZSTD_WINDOW_LOG: u32 = 23;
/// How long the rest of a refused body is read and thrown away, so that the client gets to read the refusal.
const DISCARD_FOR: Duration = Duration::from_secs(2);

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// The packing that a `Content-Encoding` names; none if it is not known here.
    pub(crate) fn named(name: &[u8]) -> Option<Packing> {
        let name = name.trim_ascii();
        [(&b"identity"[..], Packing::Plain), (b"", Packing::Plain), (b"gzip", Packing::Gzip), (b"zstd", Packing::Zstd)]
            .into_iter()
            .find_map(|(known, packing)| name.eq_ignore_ascii_case(known).then_some(packing))
    }
}

/// How long and how slowly a body may come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Bytes, packed and unpacked.
    pub(crate) bytes: usize,
    /// Between two pieces.
    pub(crate) idle: Duration,
    /// In all.
    pub(crate) whole: Duration,
}

/// Why a body could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// It is longer than the limit.
    TooLarge,
    /// It came too slowly.
    TooSlow,
    /// There is no memory left for it now.
    NoMemory,
    /// It is not packed as its header says.
    Damaged,
    /// The connection broke.
    Gone,
}

/// A body in memory, with the lease that pays for it.
pub(crate) struct ReadBody {
    pub(crate) bytes: Vec<u8>,
    pub(crate) lease: Lease,
}

/// Reads all of `body`, unpacked.
pub(crate) async fn read(
    body: &mut Body,
    packing: Packing,
    limits: BodyLimits,
    budget: &Arc<MemoryBudget>,
) -> Result<ReadBody, BodyError> {
    let mut unpacker = Unpacker::new(packing, Capped::new(limits.bytes, budget))?;
    let deadline = Instant::now() + limits.whole;
    let mut packed = 0;
    loop {
        let next = timeout_at(deadline.min(Instant::now() + limits.idle), body.frame());
        let frame = match next.await {
            Err(_) => return Err(BodyError::TooSlow),
            Ok(None) => return unpacker.finish(),
            Ok(Some(Err(_))) => return Err(BodyError::Gone),
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(piece) = frame.into_data() {
            packed += piece.len();
            if packed > limits.bytes {
                return Err(BodyError::TooLarge);
            }
            unpacker.write(&piece)?;
        }
    }
}

/// Reads what is left of a refused body and throws it away: a connection that is closed on unread bytes is reset, and the
/// client would not see why. Bounded by bytes and time.
pub(crate) async fn discard(body: &mut Body, at_most: usize) {
    let read = async {
        let mut left = at_most;
        while let Some(Ok(frame)) = body.frame().await {
            let piece = frame.data_ref().map_or(0, bytes::Bytes::len);
            match left.checked_sub(piece) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // Whoever does not finish in time gets the refusal without having been listened to.
    let _ = timeout(DISCARD_FOR, read).await;
}

/// Takes packed pieces, holds what they unpack to.
enum Unpacker {
    Plain(Capped),
    Gzip(Box<MultiGzDecoder<Capped>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Capped>>),
}

impl Unpacker {
    fn new(packing: Packing, mut capped: Capped) -> Result<Unpacker, BodyError> {
        Ok(match packing {
            Packing::Plain => Unpacker::Plain(capped),
            Packing::Gzip => Unpacker::Gzip(Box::new(MultiGzDecoder::new(capped))),
            Packing::Zstd => {
                if !capped.lease.grow(1 << ZSTD_WINDOW_LOG) {
                    return Err(BodyError::NoMemory);
                }
                let mut decoder = zstd::stream::write::Decoder::new(capped).map_err(|_| BodyError::NoMemory)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(|_| BodyError::Damaged)?;
                Unpacker::Zstd(Box::new(decoder))
            }
        })
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        let written = match self {
            Unpacker::Plain(capped) => capped.write_all(piece),
            Unpacker::Gzip(decoder) => decoder.write_all(piece),
            Unpacker::Zstd(decoder) => decoder.write_all(piece),
        };
        written.map_err(|_| self.problem())
    }

    fn finish(mut self) -> Result<ReadBody, BodyError> {
        let done = match &mut self {
            Unpacker::Plain(_) => Ok(()),
            Unpacker::Gzip(decoder) => decoder.try_finish(),
            Unpacker::Zstd(decoder) => decoder.flush(),
        };
        if done.is_err() {
            return Err(self.problem());
        }
        let mut capped = match self {
            Unpacker::Plain(capped) => capped,
            Unpacker::Gzip(decoder) => decoder.finish().map_err(|_| BodyError::Damaged)?,
            Unpacker::Zstd(decoder) => decoder.into_inner(),
        };
        capped.lease.shrink_to(capped.bytes.capacity());
        Ok(ReadBody { bytes: capped.bytes, lease: capped.lease })
    }

    /// Why a write failed: the cap's reason, or else the packing's.
    fn problem(&self) -> BodyError {
        let capped = match self {
            Unpacker::Plain(capped) => capped,
            Unpacker::Gzip(decoder) => decoder.get_ref(),
            Unpacker::Zstd(decoder) => decoder.get_ref(),
        };
        capped.refused.unwrap_or(BodyError::Damaged)
    }
}

/// Bytes up to a limit, each paid for before it is kept.
struct Capped {
    bytes: Vec<u8>,
    limit: usize,
    lease: Lease,
    refused: Option<BodyError>,
}

impl Capped {
    fn new(limit: usize, budget: &Arc<MemoryBudget>) -> Capped {
        Capped { bytes: Vec::new(), limit, lease: Lease::empty(budget), refused: None }
    }

    fn make_room(&mut self, more: usize) -> Result<(), BodyError> {
        let wanted = self.bytes.len() + more;
        if wanted > self.limit {
            return Err(BodyError::TooLarge);
        }
        if wanted > self.bytes.capacity() {
            let capacity = (self.bytes.capacity() * 2).max(wanted).max(4_096).min(self.limit);
            if !self.lease.grow(capacity - self.bytes.capacity()) {
                return Err(BodyError::NoMemory);
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        Ok(())
    }
}

impl Write for Capped {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if let Err(refused) = self.make_room(piece.len()) {
            self.refused = Some(refused);
            return Err(io::Error::other("the body is refused"));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BodyLimits =
        BodyLimits { bytes: 1 << 20, idle: Duration::from_secs(600), whole: Duration::from_secs(600) };

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    fn take(packing: Packing, sent: Vec<u8>, memory: u64) -> Result<Vec<u8>, BodyError> {
        let budget = MemoryBudget::new(memory);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let taken = runtime.block_on(read(&mut Body::from(sent), packing, LIMITS, &budget)).map(|body| {
            assert_eq!(budget.held(), body.bytes.capacity() as u64);
            body.bytes
        });
        assert_eq!(budget.held(), 0, "everything is given back");
        assert!(budget.peak() <= memory);
        taken
    }

    #[test]
    fn every_packing_gives_back_what_was_sent() {
        let text = b"{\"events\":[1,2,3]}".repeat(5_000);
        assert_eq!(take(Packing::Plain, text.clone(), 1 << 24).unwrap(), text);
        assert_eq!(take(Packing::Gzip, gzip(&text), 1 << 24).unwrap(), text);
        assert_eq!(take(Packing::Gzip, [gzip(b"{"), gzip(b"}")].concat(), 1 << 24).unwrap(), b"{}");
        assert_eq!(take(Packing::Zstd, zstd::encode_all(&text[..], 3).unwrap(), 1 << 24).unwrap(), text);
    }

    #[test]
    fn a_bomb_is_cut_off_at_the_limit() {
        let zeros = vec![b' '; 64 << 20];
        assert_eq!(take(Packing::Gzip, gzip(&zeros), 1 << 24), Err(BodyError::TooLarge));
        assert_eq!(take(Packing::Zstd, zstd::encode_all(&zeros[..], 3).unwrap(), 1 << 24), Err(BodyError::TooLarge));
        assert_eq!(take(Packing::Plain, zeros, 1 << 24), Err(BodyError::TooLarge));
    }

    #[test]
    fn what_is_not_packed_as_it_says_is_damaged() {
        let half = gzip(&b"{\"events\":[]}".repeat(50));
        assert_eq!(take(Packing::Gzip, half[..half.len() - 9].to_vec(), 1 << 24), Err(BodyError::Damaged));
        assert_eq!(take(Packing::Gzip, b"{\"events\":[]}".to_vec(), 1 << 24), Err(BodyError::Damaged));
        assert_eq!(take(Packing::Zstd, b"{\"events\":[]}".to_vec(), 1 << 24), Err(BodyError::Damaged));
    }

    #[test]
    fn a_body_without_memory_for_it_is_put_off() {
        assert_eq!(take(Packing::Plain, vec![b' '; 1 << 20], 1 << 19), Err(BodyError::NoMemory));
        assert_eq!(take(Packing::Gzip, gzip(&vec![b' '; 1 << 20]), 1 << 19), Err(BodyError::NoMemory));
        assert_eq!(take(Packing::Zstd, zstd::encode_all(&b"{}"[..], 3).unwrap(), 1 << 19), Err(BodyError::NoMemory));
    }
}
