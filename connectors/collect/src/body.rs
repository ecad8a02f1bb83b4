//! Reads a request's body: counted against the limits while it streams in, paid for from the memory budget, unpacked.
//!
//! Memory is leased for what came, never for what may come: a body in parts costs what is there of it, whatever its head
//! promises, and it is unpacked only when it is whole, in one go. So the window that a decoder needs beside its output is
//! there once for each thread that unpacks, not once for each body that is open.

use std::io::{self, Read, Write};
use std::time::Duration;

use axum::body::Body;
use flate2::bufread::MultiGzDecoder;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout, timeout_at};

use crate::budget::Lease;

/// The largest window of a zstd frame, as a power of two: what RFC 8878 asks of every decoder.
const ZSTD_WINDOW_LOG: u32 = 23;
/// The first room that is made for a body, and for what it unpacks to.
const FIRST_ROOM: usize = 4 << 10;
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
    /// Bytes as they come.
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

/// Reads all of `body` as it comes; `lease`, which holds nothing yet, pays for it.
pub(crate) async fn read(body: &mut Body, limits: BodyLimits, lease: Lease) -> Result<ReadBody, BodyError> {
    let mut read = Capped::new(limits.bytes, lease);
    let deadline = Instant::now() + limits.whole;
    loop {
        let next = timeout_at(deadline.min(Instant::now() + limits.idle), body.frame());
        let frame = match next.await {
            Err(_) => return Err(BodyError::TooSlow),
            Ok(None) => return Ok(read.finish()),
            Ok(Some(Err(_))) => return Err(BodyError::Gone),
            Ok(Some(Ok(frame))) => frame,
        };
        if let Ok(piece) = frame.into_data() {
            read.take(&piece)?;
        }
    }
}

/// Unpacks a whole body to at most `limit` bytes. Busy for as long as that takes.
pub(crate) fn unpack(packing: Packing, packed: ReadBody, limit: usize) -> Result<ReadBody, BodyError> {
    let ReadBody { bytes, lease } = packed;
    let unpacked = Capped::new(limit, lease);
    match packing {
        Packing::Plain => Ok(ReadBody { bytes, lease: unpacked.lease }),
        Packing::Gzip => unpacked.fill(MultiGzDecoder::new(&*bytes)),
        Packing::Zstd => unpacked.fill(zstd_decoder(&bytes).map_err(|_| BodyError::NoMemory)?),
    }
}

fn zstd_decoder(bytes: &[u8]) -> io::Result<impl Read> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG)?;
    Ok(decoder)
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

/// Bytes up to a limit, each paid for before it is kept.
struct Capped {
    bytes: Vec<u8>,
    limit: usize,
    lease: Lease,
    refused: Option<BodyError>,
}

impl Capped {
    fn new(limit: usize, lease: Lease) -> Capped {
        Capped { bytes: Vec::new(), limit, lease, refused: None }
    }

    /// Takes all that a decoder gives.
    fn fill(mut self, mut decoder: impl Read) -> Result<ReadBody, BodyError> {
        match io::copy(&mut decoder, &mut self) {
            Ok(_) => Ok(self.finish()),
            // The cap's reason, or else the packing is broken.
            Err(_) => Err(self.refused.unwrap_or(BodyError::Damaged)),
        }
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        self.make_room(piece.len())?;
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    /// At most doubles what is held, unless the next piece needs more.
    fn make_room(&mut self, more: usize) -> Result<(), BodyError> {
        let wanted = self.bytes.len() + more;
        if wanted > self.limit {
            return Err(BodyError::TooLarge);
        }
        if wanted > self.bytes.capacity() {
            let capacity = (self.bytes.capacity() * 2).max(wanted).max(FIRST_ROOM).min(self.limit);
            if !self.lease.grow(capacity - self.bytes.capacity()) {
                return Err(BodyError::NoMemory);
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        Ok(())
    }

    /// What is there, and a lease that pays for nothing else.
    fn finish(self) -> ReadBody {
        let Capped { bytes, mut lease, .. } = self;
        lease.shrink_to(bytes.capacity());
        ReadBody { bytes, lease }
    }
}

impl Write for Capped {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.take(piece).map_err(|refused| {
            self.refused = Some(refused);
            io::Error::other("the body is refused")
        })?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::budget::MemoryBudget;

    const LIMITS: BodyLimits =
        BodyLimits { bytes: 1 << 20, idle: Duration::from_secs(600), whole: Duration::from_secs(600) };
    const PLENTY: u64 = 1 << 25;

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    /// A frame of zstd that asks for the largest window there may be, and then gives `text`.
    pub(crate) fn wide(text: &[u8]) -> Vec<u8> {
        let window = u8::try_from((ZSTD_WINDOW_LOG - 10) << 3).unwrap();
        let block = (u32::try_from(text.len()).unwrap() << 3 | 1).to_le_bytes();
        [&[0x28, 0xb5, 0x2f, 0xfd, 0, window][..], &block[..3], text].concat()
    }

    fn lease(budget: &Arc<MemoryBudget>) -> Lease {
        Lease::empty(budget, 1, Some(1))
    }

    fn take(packing: Packing, sent: Vec<u8>, memory: u64) -> Result<Vec<u8>, BodyError> {
        let budget = MemoryBudget::new(memory);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let read = runtime.block_on(read(&mut Body::from(sent), LIMITS, lease(&budget)));
        let taken = read.and_then(|read| unpack(packing, read, LIMITS.bytes)).map(|body| {
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
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
        assert_eq!(take(Packing::Plain, text.clone(), PLENTY).unwrap(), text);
        assert_eq!(take(Packing::Gzip, gzip(&text), PLENTY).unwrap(), text);
        assert_eq!(take(Packing::Gzip, [gzip(b"{"), gzip(b"}")].concat(), PLENTY).unwrap(), b"{}");
        assert_eq!(take(Packing::Zstd, zstd(&text), PLENTY).unwrap(), text);
        assert_eq!(take(Packing::Zstd, [zstd(b"{"), zstd(b"}")].concat(), PLENTY).unwrap(), b"{}");
        assert_eq!(take(Packing::Zstd, wide(&text), PLENTY).unwrap(), text);
    }

    #[test]
    fn a_bomb_is_cut_off_at_the_limit() {
        let zeros = vec![b' '; 64 << 20];
        assert_eq!(take(Packing::Gzip, gzip(&zeros), PLENTY), Err(BodyError::TooLarge));
        assert_eq!(take(Packing::Zstd, zstd::encode_all(&zeros[..], 3).unwrap(), PLENTY), Err(BodyError::TooLarge));
        assert_eq!(take(Packing::Plain, zeros, PLENTY), Err(BodyError::TooLarge));
    }

    #[test]
    fn what_is_not_packed_as_it_says_is_damaged() {
        let text = b"{\"events\":[]}".repeat(50);
        let (half, zstd) = (gzip(&text), zstd::encode_all(&text[..], 3).unwrap());
        assert_eq!(take(Packing::Gzip, half[..half.len() - 9].to_vec(), PLENTY), Err(BodyError::Damaged));
        assert_eq!(take(Packing::Zstd, zstd[..zstd.len() - 1].to_vec(), PLENTY), Err(BodyError::Damaged));
        for packing in [Packing::Gzip, Packing::Zstd] {
            assert_eq!(take(packing, b"{\"events\":[]}".to_vec(), PLENTY), Err(BodyError::Damaged));
        }
        let mut wider = wide(b"{}");
        wider[5] = 0xff;
        assert_eq!(take(Packing::Zstd, wider, PLENTY), Err(BodyError::Damaged), "a window beyond the limit");
    }

    #[test]
    fn a_body_without_memory_for_it_is_put_off() {
        let spaces = vec![b' '; 1 << 20];
        assert_eq!(take(Packing::Plain, spaces.clone(), 1 << 19), Err(BodyError::NoMemory));
        assert_eq!(take(Packing::Gzip, gzip(&spaces), 1 << 19), Err(BodyError::NoMemory));
        assert_eq!(take(Packing::Zstd, zstd::encode_all(&spaces[..], 3).unwrap(), 1 << 19), Err(BodyError::NoMemory));
    }

    #[test]
    fn memory_is_leased_for_what_came_and_not_for_what_its_head_promises() {
        let little = 4 * FIRST_ROOM as u64;
        assert_eq!(take(Packing::Zstd, zstd::encode_all(&b"{}"[..], 3).unwrap(), little).unwrap(), b"{}");
        assert_eq!(take(Packing::Zstd, wide(b"{}"), little).unwrap(), b"{}");
        let budget = MemoryBudget::new(PLENTY);
        let mut body = Capped::new(LIMITS.bytes, lease(&budget));
        for piece in [1, 5_000, 100, 100_000] {
            body.take(&vec![b' '; piece]).unwrap();
            let there = body.bytes.len() as u64;
            assert!(budget.held() <= (2 * there).max(FIRST_ROOM as u64), "{} for {there}", budget.held());
        }
    }
}
