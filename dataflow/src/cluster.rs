//! Several processes that are one run: who they are, how they meet, and how each learns that another is gone.
//!
//! Stock timely waits for ever for a peer that stopped answering, and panics when a stranger connects. Here processes meet
//! over sockets of our own:
//!
//! - Every connection is authenticated in both directions by a shared token, which itself never travels, and names the
//!   attempt and the shape (N threads x M processes); what does not fit is refused with the reason, and nobody else is
//!   disturbed (`greeting`, `handshake`).
//! - Whatever goes over it is encrypted and authenticated, with keys of its own that follow from the token (`frames`).
//! - All processes are there by a deadline, or none begins (`mesh`).
//! - A peer that says nothing for a stated time is gone, whatever its socket says; one that leaves before the run is
//!   complete is a failure (fail-stop), never the end of its data (`link`).
//!
//! Process 0 reads the source, writes the log and checkpoints and sees commits; the others parse, aggregate and write
//! what falls to them. A run of several processes is fenced, restored and rescaled like one of several threads (INV-7).

mod frames;
mod greeting;
mod handshake;
mod link;
mod mesh;

use std::fmt;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use thiserror::Error;

pub(crate) use link::{Links, Member};
pub(crate) use mesh::Meeting;
pub use mesh::listen;

/// A secret that all processes of a run share.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// Derived from any text; a long random one is best.
    #[must_use]
    pub fn new(secret: &str) -> Token {
        Token(blake3::derive_key("tidemill 2026 cluster token", secret.as_bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// One process's place among those of a run.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// This process, from 0.
    pub process: u32,
    /// Where each process listens (`host:port`), in order.
    pub hosts: Vec<String>,
    /// What all of them know.
    pub token: Token,
    /// Counted by whoever starts the processes: those of different attempts never meet.
    pub attempt: u64,
    /// How long to wait for all processes to be there, each with its state read.
    pub meet_within: Duration,
    /// A peer that has said nothing for this long is gone.
    pub silent_after: Duration,
}

impl ClusterOptions {
    /// Processes 0 to `hosts.len() - 1` of the first attempt, which meet within a minute and are gone after five seconds of
    /// silence.
    #[must_use]
    pub fn new(process: u32, hosts: Vec<String>, token: Token) -> ClusterOptions {
        let (meet_within, silent_after) = (Duration::from_secs(60), Duration::from_secs(5));
        ClusterOptions { process, hosts, token, attempt: 0, meet_within, silent_after }
    }

    /// Number of processes.
    #[must_use]
    pub fn processes(&self) -> u32 {
        u32::try_from(self.hosts.len()).unwrap_or(u32::MAX)
    }
}

/// A process's place, with the socket on which it can be reached.
#[derive(Debug)]
pub struct Place {
    /// Who it is.
    pub options: ClusterOptions,
    /// Where its peers find it; see [`listen`].
    pub listener: TcpListener,
}

/// What a process of `threads` workers makes of whoever dialled it: the peer's number, or a sentence about a stranger. For tests
/// that send anything.
///
/// # Errors
/// The sentence.
#[doc(hidden)]
pub fn accept(options: &ClusterOptions, threads: u32, socket: TcpStream) -> Result<u32, String> {
    handshake::accept(&greeting::Identity::new(options, threads), socket, 1).map(|(_, peer)| peer)
}

/// The other side of [`accept`]: the number of the run that process 0 tells.
///
/// # Errors
/// What is wrong with who answered.
#[doc(hidden)]
pub fn dial(options: &ClusterOptions, threads: u32, socket: TcpStream) -> Result<u64, String> {
    let met = handshake::dial(&greeting::Identity::new(options, threads), socket, 0, options.meet_within);
    met.map(|(_, run)| run).map_err(|failed| format!("{failed:?}"))
}

/// Why the processes of a run did not come together.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// The place of this process makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A socket could not be opened.
    #[error("cannot listen on {address}: {source}; is another process using it?")]
    Listen {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody was not there in time.
    #[error(
        "process {process} at {address} was not there within {within:?} ({last}); start all processes of the run with the \
         same --hosts, and give more time with --meet-within if reading the state takes longer"
    )]
    Absent {
        /// Who.
        process: u32,
        /// Where.
        address: String,
        /// How long it was waited for.
        within: Duration,
        /// What the last try said.
        last: String,
    },
    /// A peer refused us, or is not who it should be.
    #[error("process {process} at {address}: {reason}")]
    Refused {
        /// Who.
        process: u32,
        /// Where.
        address: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The system refused something.
    #[error("the connection to process {process}: {source}")]
    Io {
        /// Who.
        process: u32,
        /// What the system said.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests;
