//! How two processes make sure of each other on a fresh connection.
//!
//! ```text
//! dialer                                                acceptor
//!   | greeting: magic, version, from, to, shape, attempt, nonce |
//!   |---------------------------------------------------------->|  refuses another version, place, shape, attempt
//!   |   answer: verdict, its attempt, run, nonce, proof          |
//!   |<----------------------------------------------------------|
//!   |   proof                                                    |
//!   |---------------------------------------------------------->|  refuses a wrong one
//!   |   welcome                                                  |
//!   |<----------------------------------------------------------|
//!   |   ready, when it has read its state      (both ways)       |
//!   |<--------------------------------------------------------->|
//! ```
//! The run is 0 where process 0 has nothing left to do: whoever is told so ends well.
//! A proof is a keyed hash (BLAKE3 with the token as key) of both nonces and everything said: it can be neither made
//! without the token nor used twice. Promise: nothing that a stranger sends does more than end its own connection.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::mesh::now;
use super::{ClusterOptions, Token};

const MAGIC: [u8; 8] = *b"tidemill";
const VERSION: u32 = 5;
const GREETING: usize = 8 + 4 * 5 + 8 + 32;
const ANSWER: usize = 1 + 8 + 8 + 32 + 32;
const WELCOME: u8 = 0x77;

/// How long the other side may take for one step: a stranger that says nothing is dropped then.
const STEP: Duration = Duration::from_secs(5);

/// What the acceptor says of a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Verdict {
    Fits = 0,
    Version = 1,
    Place = 2,
    Shape = 3,
    Attempt = 4,
}

impl Verdict {
    fn of(byte: u8) -> Option<Verdict> {
        [Self::Fits, Self::Version, Self::Place, Self::Shape, Self::Attempt].into_iter().find(|v| *v as u8 == byte)
    }
}

/// Why a handshake ended without a peer.
#[derive(Debug)]
pub(super) enum Failed {
    /// It may succeed a moment later: nobody is there yet, or it was cut short.
    Passing(io::Error),
    /// It will not: who is there is not who was expected. A sentence.
    Refused(String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Passing(error)
    }
}

/// What both sides know of the run.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    token: Token,
    process: u32,
    processes: u32,
    threads: u32,
    attempt: u64,
}

impl Identity {
    pub(super) fn new(options: &ClusterOptions, threads: u32) -> Identity {
        Identity {
            token: options.token.clone(),
            process: options.process,
            processes: options.processes(),
            threads,
            attempt: options.attempt,
        }
    }

    fn proof(&self, side: &str, said: &[&[u8]]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_keyed(&self.token.0);
        hasher.update(side.as_bytes());
        for part in said {
            hasher.update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// Introduces us to the process `to`; gives the number of the run, if `to` is process 0.
    pub(super) fn dial(&self, socket: &mut TcpStream, to: u32, answer_within: Duration) -> Result<u64, Failed> {
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(STEP))?;
        socket.set_read_timeout(Some(answer_within.max(Duration::from_millis(1))))?;
        let greeting = self.greeting(to);
        socket.write_all(&greeting)?;
        let mut answer = [0; ANSWER];
        socket.read_exact(&mut answer)?;
        let (verdict, rest) = answer.split_at(1);
        let (their_attempt, run) = (number(&rest[..8]), number(&rest[8..16]));
        match Verdict::of(verdict[0]) {
            Some(Verdict::Fits) => {}
            Some(Verdict::Attempt) if their_attempt < self.attempt => {
                return Err(Failed::Passing(io::Error::other(format!(
                    "a process of attempt {their_attempt} is still there, this is attempt {}",
                    self.attempt
                ))));
            }
            Some(verdict) => return Err(Failed::Refused(self.refusal(verdict, their_attempt))),
            None => return Err(Failed::Refused("what listens there is no process of this run".into())),
        }
        let said: [&[u8]; 2] = [&greeting, &answer[..ANSWER - 32]];
        if blake3::Hash::from(self.proof("accept", &said)) != blake3::Hash::from(bytes32(&answer[ANSWER - 32..])) {
            return Err(Failed::Refused("it has another token; give all processes the same one".into()));
        }
        socket.write_all(&self.proof("dial", &said))?;
        let mut welcome = [0; 1];
        socket.read_exact(&mut welcome)?;
        if welcome[0] != WELCOME {
            return Err(Failed::Refused("what listens there is no process of this run".into()));
        }
        Ok(run)
    }

    fn greeting(&self, to: u32) -> [u8; GREETING] {
        let mut greeting = [0; GREETING];
        greeting[..8].copy_from_slice(&MAGIC);
        let numbers = [VERSION, self.process, to, self.processes, self.threads];
        for (at, number) in numbers.into_iter().enumerate() {
            greeting[8 + 4 * at..12 + 4 * at].copy_from_slice(&number.to_le_bytes());
        }
        greeting[28..36].copy_from_slice(&self.attempt.to_le_bytes());
        greeting[36..].copy_from_slice(&nonce());
        greeting
    }

    fn refusal(&self, verdict: Verdict, their_attempt: u64) -> String {
        match verdict {
            Verdict::Version => "it is of another version of this program; start all processes with one build".into(),
            Verdict::Place => {
                format!(
                    "it does not expect process {} there; give all processes the same --hosts, in order",
                    self.process
                )
            }
            Verdict::Shape => format!(
                "it was started with other numbers; give all processes --workers {} and {} hosts",
                self.threads, self.processes
            ),
            Verdict::Attempt | Verdict::Fits => {
                format!("it belongs to attempt {their_attempt}, this process to attempt {}", self.attempt)
            }
        }
    }

    /// Finds out who dialled; `run` is what process 0 tells them. Gives the peer's number.
    ///
    /// # Errors
    /// A sentence about a stranger, whose connection is then closed.
    pub(super) fn accept(&self, socket: &mut TcpStream, run: u64) -> Result<u32, String> {
        let broken = |error: io::Error| format!("it said nothing that a process of this run would say ({error})");
        socket.set_nodelay(true).map_err(broken)?;
        socket.set_write_timeout(Some(STEP)).map_err(broken)?;
        let mut greeting = [0; GREETING];
        read_within(socket, &mut greeting, STEP).map_err(broken)?;
        if greeting[..8] != MAGIC {
            return Err("it does not speak this protocol".into());
        }
        let told = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| greeting[8 + 4 * at + n]));
        let (from, attempt) = (told(1), number(&greeting[28..36]));
        let verdict = if told(0) != VERSION {
            Verdict::Version
        } else if told(2) != self.process || from <= self.process || from >= told(3) {
            Verdict::Place
        } else if (told(3), told(4)) != (self.processes, self.threads) {
            Verdict::Shape
        } else if attempt != self.attempt {
            Verdict::Attempt
        } else {
            Verdict::Fits
        };
        let mut answer = [0; ANSWER];
        answer[0] = verdict as u8;
        answer[1..9].copy_from_slice(&self.attempt.to_le_bytes());
        answer[9..17].copy_from_slice(&run.to_le_bytes());
        answer[17..49].copy_from_slice(&nonce());
        let said: [&[u8]; 2] = [&greeting, &answer[..ANSWER - 32]];
        let (ours, theirs) = (self.proof("accept", &said), self.proof("dial", &said));
        answer[ANSWER - 32..].copy_from_slice(&ours);
        socket.write_all(&answer).map_err(broken)?;
        match verdict {
            Verdict::Fits => {}
            Verdict::Version => return Err("it is of another version of this program".into()),
            Verdict::Place => return Err(format!("it takes itself for process {from} and us for another")),
            Verdict::Shape => return Err(format!("it calls itself process {from} of a run of another shape")),
            Verdict::Attempt => {
                let this = self.attempt;
                return Err(format!("it calls itself process {from} of attempt {attempt}; this is attempt {this}"));
            }
        }
        let mut proof = [0; 32];
        read_within(socket, &mut proof, STEP).map_err(broken)?;
        if blake3::Hash::from(proof) != blake3::Hash::from(theirs) {
            return Err(format!("it calls itself process {from} and has another token"));
        }
        socket.write_all(&[WELCOME]).map_err(broken)?;
        Ok(from)
    }
}

/// Fills `into` within `time` in all: a stranger that says a byte now and then would keep its place for minutes.
pub(super) fn read_within(socket: &mut TcpStream, into: &mut [u8], time: Duration) -> io::Result<()> {
    let (until, mut filled) = (now() + time, 0);
    while filled < into.len() {
        let left = until.saturating_duration_since(now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut into[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn bytes32(bytes: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(bytes);
    array
}

#[expect(clippy::disallowed_methods, reason = "it makes a proof unique and reaches no result")]
fn nonce() -> [u8; 32] {
    rand::random()
}
