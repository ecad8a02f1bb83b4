//! What goes over a connection once two processes know each other: frames that nobody else can read, make, change, repeat
//! or leave out.
//!
//! ```text
//! frame: u16 length of the rest (little-endian), then sealed with ChaCha20-Poly1305: u8 kind, bytes
//! ```
//! Each direction has a key of its own, which follows from the handshake and is gone with the connection. Both sides count
//! frames, and the count goes into the seal: a frame fits in its place only. What does not fit ends the connection.

use std::sync::Arc;

use snow::StatelessTransportState;
use thiserror::Error;

/// The keys of both directions; snow keeps no count of frames, so that two threads can use them.
pub(super) type Keys = Arc<StatelessTransportState>;

const HEADER: usize = 2;
/// The longest message of the Noise protocol.
const SEALED: usize = 65_535;
const TAG: usize = 16;
/// Bytes that fit in one frame, beside its kind.
pub(super) const MOST: usize = SEALED - TAG - 1;
/// Frames that are sealed, or read ahead, at once: timely writes 64 KiB at a time, which is one of them and a little.
const AT_ONCE: usize = 2;
/// Bytes that [`Outgoing::seal`] takes at once.
pub(super) const BATCH: usize = AT_ONCE * MOST;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Some of timely's bytes.
    Bytes = 0,
    /// A sign of life.
    Alive = 1,
    /// A sign of life of a process that is asked to stop.
    Stop = 2,
    /// Nothing follows.
    Goodbye = 3,
    /// The dialler's first frame: it holds the token, and its greeting is no recording.
    Proof = 4,
    /// The acceptor's answer to it.
    Welcome = 5,
    /// It could begin.
    Ready = 6,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        let all = [Self::Bytes, Self::Alive, Self::Stop, Self::Goodbye, Self::Proof, Self::Welcome, Self::Ready];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What arrived was not sealed by the peer for this place: somebody between changed, repeated, left out or made it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("what arrived in its name is not what it sent: somebody on the way changed it")]
pub(super) struct NotGenuine;

/// The direction to the peer.
pub(super) struct Outgoing {
    keys: Keys,
    /// Frames so far.
    count: u64,
    plain: Box<[u8]>,
    wire: Box<[u8]>,
}

impl Outgoing {
    pub(super) fn new(keys: Keys) -> Outgoing {
        let [plain, wire] = [1 + MOST, AT_ONCE * (HEADER + SEALED)].map(|size| vec![0; size].into_boxed_slice());
        Outgoing { keys, count: 0, plain, wire }
    }

    /// The frames of these bytes (at most [`BATCH`]), as they go over the wire, next and once; without bytes it is one frame.
    pub(super) fn seal(&mut self, kind: Kind, bytes: &[u8]) -> &[u8] {
        assert!(bytes.len() <= BATCH, "{} bytes are sealed at once", bytes.len());
        let (mut written, mut left) = (0, bytes);
        loop {
            let (now, later) = left.split_at(left.len().min(MOST));
            self.plain[0] = kind as u8;
            self.plain[1..=now.len()].copy_from_slice(now);
            let (header, room) = self.wire[written..].split_at_mut(HEADER);
            let sealed = self.keys.write_message(self.count, &self.plain[..=now.len()], room);
            let sealed = sealed.expect("a frame has a size that fits, and no run lives for 2^64 of them");
            header.copy_from_slice(&u16::try_from(sealed).expect("Noise has no longer message").to_le_bytes());
            (self.count, written, left) = (self.count + 1, written + HEADER + sealed, later);
            if left.is_empty() {
                return &self.wire[..written];
            }
        }
    }
}

/// The direction from the peer: bytes of the wire in any pieces become frames.
pub(super) struct Incoming {
    keys: Keys,
    /// Frames so far.
    count: u64,
    wire: Box<[u8]>,
    /// Where what arrived and was not opened begins and ends, in `wire`.
    arrived: (usize, usize),
    plain: Box<[u8]>,
    /// Where what was opened and not taken begins and ends, in `plain`.
    opened: (usize, usize),
}

impl Incoming {
    pub(super) fn new(keys: Keys) -> Incoming {
        let [wire, plain] = [AT_ONCE * (HEADER + SEALED), SEALED].map(|size| vec![0; size].into_boxed_slice());
        Incoming { keys, count: 0, wire, arrived: (0, 0), plain, opened: (0, 0) }
    }

    /// Where bytes of the wire go; never empty once [`next`](Self::next) has found no frame.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let (from, to) = self.arrived;
        self.wire.copy_within(from..to, 0);
        self.arrived = (0, to - from);
        &mut self.wire[to - from..]
    }

    /// So many bytes were put there.
    pub(super) fn arrived(&mut self, bytes: usize) {
        self.arrived.1 += bytes;
    }

    /// Whether a frame has begun and is not whole.
    pub(super) fn in_frame(&self) -> bool {
        self.arrived.0 < self.arrived.1
    }

    /// Opens the next frame, if it is there; what was not taken of the one before is gone.
    pub(super) fn next(&mut self) -> Result<Option<Kind>, NotGenuine> {
        self.opened = (0, 0);
        let (from, to) = self.arrived;
        let Some((header, rest)) = self.wire[from..to].split_first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::from(u16::from_le_bytes(*header));
        if length <= TAG {
            return Err(NotGenuine);
        }
        let Some(sealed) = rest.get(..length) else { return Ok(None) };
        let opened = self.keys.read_message(self.count, sealed, &mut self.plain).map_err(|_| NotGenuine)?;
        let kind = Kind::of(self.plain[0]).ok_or(NotGenuine)?;
        self.count += 1;
        self.arrived.0 += HEADER + length;
        self.opened = (1, opened);
        Ok(Some(kind))
    }

    /// Gives bytes of the frame that was opened last; 0 when none are left.
    pub(super) fn take(&mut self, into: &mut [u8]) -> usize {
        let (from, to) = self.opened;
        let taken = into.len().min(to - from);
        into[..taken].copy_from_slice(&self.plain[from..from + taken]);
        self.opened.0 += taken;
        taken
    }
}

#[cfg(test)]
mod tests;
