//! What two processes say to each other first, and what each makes of it. Pure: bytes in, bytes out.
//!
//! ```text
//! dialler                                                                acceptor
//!   | "tidemill", version | sealed: from, to, shape, attempt                 |
//!   |----------------------------------------------------------------------->|  another version or token: refused in the clear
//!   |                     an octet | sealed: verdict, its attempt, run       |
//!   |<-----------------------------------------------------------------------|
//! ```
//! It is the handshake `NNpsk0` of the Noise protocol: new X25519 keys for every connection, mixed with the token, which
//! itself never travels. Whoever listens, or answers in the acceptor's place, learns neither what is said nor the keys that
//! come of it, also if the token becomes known later (of the greeting itself he then learns shape and attempt).
//! The run is 0 where process 0 has nothing left to do: whoever is told so ends well.

use std::io;

use snow::{Builder, HandshakeState};

use super::frames::Keys;
use super::{ClusterOptions, Token};

const NOISE: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
const MAGIC: [u8; 8] = *b"tidemill";
const VERSION: u32 = 5;
/// What every version says first, in the clear: magic and version.
pub(super) const HEADER: usize = 8 + 4;
/// A public key and the tag of what is sealed.
const NOISY: usize = 32 + 16;
const INTRODUCTION: usize = 4 * 4 + 8;
const ANSWER: usize = 1 + 8 + 8;
/// What follows the header.
pub(super) const SEALED_GREETING: usize = NOISY + INTRODUCTION;
/// What follows the answer's first octet, if that is [`SEALED`].
pub(super) const SEALED_ANSWER: usize = NOISY + ANSWER;

/// First octet of an answer that follows.
pub(super) const SEALED: u8 = 0;
/// First and only octet of an answer to another version. That of version 4 had the same one.
pub(super) const ANOTHER_VERSION: u8 = 1;
/// First and only octet of an answer to another token.
pub(super) const ANOTHER_TOKEN: u8 = 2;

/// What the acceptor says of a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Verdict {
    Fits = 0,
    Place = 1,
    Shape = 2,
    Attempt = 3,
}

impl Verdict {
    fn of(byte: u8) -> Option<Verdict> {
        [Self::Fits, Self::Place, Self::Shape, Self::Attempt].into_iter().find(|verdict| *verdict as u8 == byte)
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

/// What the acceptor says, and what it makes of the dialler.
pub(super) struct Answer {
    /// What goes over the wire.
    pub(super) says: Vec<u8>,
    /// The keys, and the peer's number; or a sentence.
    pub(super) outcome: Result<(Keys, u32), String>,
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

    fn noise(&self) -> Builder<'_> {
        let builder = Builder::new(NOISE.parse().expect("the name of a pattern"));
        let builder = builder.prologue(&HEADING).and_then(|builder| builder.psk(0, &self.token.0));
        builder.expect("each is set once")
    }

    /// What a dialler says to the process `to`, and what it needs to understand the answer.
    pub(super) fn greet(&self, to: u32) -> io::Result<(HandshakeState, Vec<u8>)> {
        let mut introduction = Vec::with_capacity(INTRODUCTION);
        for number in [self.process, to, self.processes, self.threads] {
            introduction.extend(number.to_le_bytes());
        }
        introduction.extend(self.attempt.to_le_bytes());
        let mut noise = self.noise().build_initiator().map_err(io::Error::other)?;
        let mut greeting = [&HEADING[..], &[0; SEALED_GREETING]].concat();
        noise.write_message(&introduction, &mut greeting[HEADER..]).map_err(io::Error::other)?;
        Ok((noise, greeting))
    }

    /// Whether a header is that of this program, and of this version.
    ///
    /// # Errors
    /// A sentence, and what is answered, if anything.
    pub(super) fn check_header(header: [u8; HEADER]) -> Result<(), (&'static str, Option<u8>)> {
        if header[..8] != MAGIC {
            return Err(("it does not speak this protocol", None));
        }
        if header != HEADING {
            return Err(("it is of another version of this program", Some(ANOTHER_VERSION)));
        }
        Ok(())
    }

    /// What the acceptor says to a greeting (without its header); `run` is what process 0 tells others.
    pub(super) fn answer(&self, greeting: &[u8; SEALED_GREETING], run: u64) -> io::Result<Answer> {
        let mut noise = self.noise().build_responder().map_err(io::Error::other)?;
        let mut introduction = [0; INTRODUCTION];
        if noise.read_message(greeting, &mut introduction).is_err() {
            let outcome = Err("it has another token".into());
            return Ok(Answer { says: vec![ANOTHER_TOKEN], outcome });
        }
        let told = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|n| introduction[4 * at + n]));
        let (from, attempt) = (told(0), number(&introduction[16..]));
        let verdict = if told(1) != self.process || from <= self.process || from >= told(2) {
            Verdict::Place
        } else if (told(2), told(3)) != (self.processes, self.threads) {
            Verdict::Shape
        } else if attempt != self.attempt {
            Verdict::Attempt
        } else {
            Verdict::Fits
        };
        let said = [&[verdict as u8][..], &self.attempt.to_le_bytes(), &run.to_le_bytes()].concat();
        let mut says = vec![SEALED; 1 + SEALED_ANSWER];
        noise.write_message(&said, &mut says[1..]).map_err(io::Error::other)?;
        let outcome = match verdict {
            Verdict::Fits => Ok((keys(noise)?, from)),
            Verdict::Place => Err(format!("it takes itself for process {from} and us for another")),
            Verdict::Shape => Err(format!("it calls itself process {from} of a run of another shape")),
            Verdict::Attempt => {
                let this = self.attempt;
                Err(format!("it calls itself process {from} of attempt {attempt}; this is attempt {this}"))
            }
        };
        Ok(Answer { says, outcome })
    }

    /// What the dialler makes of an answer's first octet, where nothing follows it.
    pub(super) fn refused(octet: u8) -> Failed {
        Failed::Refused(match octet {
            ANOTHER_VERSION => "it is of another version of this program; start all processes with one build".into(),
            ANOTHER_TOKEN => "it has another token; give all processes the same one".into(),
            _ => "what listens there is no process of this run".into(),
        })
    }

    /// What the dialler makes of a sealed answer: the keys, and the number of the run if it is process 0 that answers.
    pub(super) fn understand(
        &self,
        mut noise: HandshakeState,
        answer: &[u8; SEALED_ANSWER],
    ) -> Result<(Keys, u64), Failed> {
        let mut said = [0; ANSWER];
        noise.read_message(answer, &mut said).map_err(|_| Identity::refused(ANOTHER_TOKEN))?;
        let (their_attempt, run) = (number(&said[1..9]), number(&said[9..]));
        match Verdict::of(said[0]) {
            Some(Verdict::Fits) => Ok((keys(noise)?, run)),
            Some(Verdict::Attempt) if their_attempt < self.attempt => Err(Failed::Passing(io::Error::other(format!(
                "a process of attempt {their_attempt} is still there, this is attempt {}",
                self.attempt
            )))),
            Some(Verdict::Attempt) => Err(Failed::Refused(format!(
                "it belongs to attempt {their_attempt}, this process to attempt {}",
                self.attempt
            ))),
            Some(Verdict::Shape) => Err(Failed::Refused(format!(
                "it was started with other numbers; give all processes --workers {} and {} hosts",
                self.threads, self.processes
            ))),
            Some(Verdict::Place) => Err(Failed::Refused(format!(
                "it does not expect process {} there; give all processes the same --hosts, in order",
                self.process
            ))),
            None => Err(Identity::refused(u8::MAX)),
        }
    }
}

const HEADING: [u8; HEADER] = {
    let (mut heading, mut at) = ([0; HEADER], 0);
    while at < HEADER {
        heading[at] = if at < 8 { MAGIC[at] } else { VERSION.to_le_bytes()[at - 8] };
        at += 1;
    }
    heading
};

fn keys(noise: HandshakeState) -> io::Result<Keys> {
    noise.into_stateless_transport_mode().map(Keys::new).map_err(io::Error::other)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
pub(super) mod tests;
