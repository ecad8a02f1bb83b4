//! How two processes make sure of each other on a fresh connection, and the channel that comes of it.
//!
//! ```text
//! dialer                                              acceptor
//!   |   greeting, answer: see `greeting`        (both ways)    |
//!   |<-------------------------------------------------------->|
//!   |   frame: proof                                           |
//!   |--------------------------------------------------------->|  a greeting that somebody recorded ends here
//!   |   frame: welcome                                         |
//!   |<---------------------------------------------------------|
//!   |   frame: ready, when it has read its state (both ways)   |
//!   |<-------------------------------------------------------->|
//! ```
//! Promise: nothing that a stranger sends does more than end its own connection. A refusal in the clear proves nothing; it
//! ends a start with a reason, as whoever can forge it could end it without one.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::frames::{Incoming, Keys, Kind, Outgoing};
use super::greeting::{Failed, HEADER, Identity, SEALED, SEALED_ANSWER, SEALED_GREETING};
use super::mesh::now;

/// How long the other side may take for one step: a stranger that says nothing is dropped then.
const STEP: Duration = Duration::from_secs(5);

/// A connection to a peer that is who it says it is.
pub(super) struct Channel {
    pub(super) socket: TcpStream,
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
}

impl Channel {
    fn new(socket: TcpStream, keys: &Keys) -> Channel {
        let (outgoing, incoming) = (Outgoing::new(Keys::clone(keys)), Incoming::new(Keys::clone(keys)));
        Channel { socket, outgoing, incoming }
    }

    pub(super) fn tell(&mut self, kind: Kind) -> io::Result<()> {
        self.socket.write_all(self.outgoing.seal(kind, &[]))
    }

    /// Waits for this to be told.
    pub(super) fn hear(&mut self, kind: Kind, within: Duration) -> io::Result<()> {
        let until = now() + within;
        loop {
            let told = self.incoming.next().map_err(|forged| io::Error::new(io::ErrorKind::InvalidData, forged))?;
            match told {
                Some(told) if told == kind => return Ok(()),
                Some(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "it is out of step")),
                None => {}
            }
            let read = read_some(&mut self.socket, self.incoming.room(), until.saturating_duration_since(now()))?;
            self.incoming.arrived(read);
        }
    }
}

/// Introduces us to the process `to`, which may take so long to answer; gives the number of the run, if that is process 0.
pub(super) fn dial(
    identity: &Identity,
    mut socket: TcpStream,
    to: u32,
    answer_within: Duration,
) -> Result<(Channel, u64), Failed> {
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(STEP))?;
    let (noise, greeting) = identity.greet(to)?;
    socket.write_all(&greeting)?;
    let mut octet = [0; 1];
    read_within(&mut socket, &mut octet, answer_within)?;
    if octet[0] != SEALED {
        return Err(Identity::refused(octet[0]));
    }
    let mut answer = [0; SEALED_ANSWER];
    read_within(&mut socket, &mut answer, STEP)?;
    let (keys, run) = identity.understand(noise, &answer)?;
    let mut channel = Channel::new(socket, &keys);
    channel.tell(Kind::Proof)?;
    channel.hear(Kind::Welcome, STEP)?;
    Ok((channel, run))
}

/// Finds out who dialled; `run` is what process 0 tells them. Gives the peer's number.
///
/// # Errors
/// A sentence about a stranger, whose connection is then closed.
pub(super) fn accept(identity: &Identity, mut socket: TcpStream, run: u64) -> Result<(Channel, u32), String> {
    let broken = |error: io::Error| format!("it said nothing that a process of this run would say ({error})");
    socket.set_nodelay(true).map_err(broken)?;
    socket.set_write_timeout(Some(STEP)).map_err(broken)?;
    let mut header = [0; HEADER];
    read_within(&mut socket, &mut header, STEP).map_err(broken)?;
    if let Err((sentence, octet)) = Identity::check_header(header) {
        if let Some(octet) = octet {
            // Whether it is heard changes nothing here.
            let _ = refuse(&mut socket, octet);
        }
        return Err(sentence.into());
    }
    let mut greeting = [0; SEALED_GREETING];
    read_within(&mut socket, &mut greeting, STEP).map_err(broken)?;
    let answer = identity.answer(&greeting, run).map_err(broken)?;
    socket.write_all(&answer.says).map_err(broken)?;
    let (keys, from) = answer.outcome?;
    let mut channel = Channel::new(socket, &keys);
    channel.hear(Kind::Proof, STEP).map_err(broken)?;
    channel.tell(Kind::Welcome).map_err(broken)?;
    Ok((channel, from))
}

/// Says this one octet; what else the other version says is let pass, as the system would throw the octet away with it.
fn refuse(socket: &mut TcpStream, octet: u8) -> io::Result<()> {
    socket.write_all(&[octet])?;
    socket.shutdown(std::net::Shutdown::Write)?;
    read_within(socket, &mut [0; 1024], STEP)
}

/// Fills `into` within `time` in all: a stranger that says a byte now and then would keep its place for minutes.
pub(super) fn read_within(socket: &mut TcpStream, into: &mut [u8], time: Duration) -> io::Result<()> {
    let (until, mut filled) = (now() + time, 0);
    while filled < into.len() {
        filled += read_some(socket, &mut into[filled..], until.saturating_duration_since(now()))?;
    }
    Ok(())
}

/// Reads at least one byte within `time`.
fn read_some(socket: &mut TcpStream, into: &mut [u8], time: Duration) -> io::Result<usize> {
    if time.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket.set_read_timeout(Some(time))?;
    match socket.read(into) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        read => read,
    }
}
