//! A connection between two processes of a run: bytes in [frames](super::frames), a sign of life in between, a goodbye at
//! the end.
//!
//! Promises: the run is told that the peer is lost when it has said nothing for the stated time, when what arrives is not
//! what it sent, or when it is gone without a goodbye, which is sent only when all of its workers have completed the
//! dataflow. A slow worker is no silence: signs of life come from a thread of their own. Timely itself never learns of a
//! loss (it would panic): its threads wait for an end that does not come while the run fails.
//!
//! A run is stopped by process 0, at the end of an epoch: whoever else is asked to stop tells it so, with its signs of life,
//! and goes on until the run ends for all.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use timely::communication::allocator::zero_copy::stream::Stream;

use super::frames::{BATCH, Incoming, Kind, Outgoing};
use super::handshake::Channel;
use super::mesh::now;
use crate::status::{Moment, Status};

/// Signs of life within the time after which silence is death.
const SIGNS: u32 = 5;

/// What all handles of one connection share.
struct Shared {
    peer: u32,
    socket: TcpStream,
    /// Held while frames are written.
    outgoing: Mutex<Outgoing>,
    /// Taken by the handle that reads.
    incoming: Mutex<Option<Incoming>>,
    silent_after: Duration,
    /// All workers of this process have completed the dataflow.
    complete: Arc<AtomicBool>,
    run: Arc<dyn Member>,
    /// When the peer was last heard, in milliseconds since 1970, for display.
    heard: AtomicI64,
}

/// The run of this process, as its connections see it; called from any thread.
pub(crate) trait Member: Send + Sync {
    /// A peer is lost, says the sentence; perhaps not for the first time.
    fn lost(&self, sentence: String);

    /// Somebody who is asked to stop says so to process 0, again and again.
    fn stop(&self);

    /// Whether this process is asked to stop.
    fn stopping(&self) -> bool;
}

/// One handle of a connection, for timely's thread that reads or the one that writes.
pub(crate) struct Link {
    shared: Arc<Shared>,
    /// Of the one that reads.
    incoming: Option<Incoming>,
    goodbye: bool,
}

impl Shared {
    fn write(&self, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_held(&mut outgoing, kind, bytes)
    }

    fn write_held(&self, outgoing: &mut Outgoing, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        let mut socket = &self.socket;
        socket.write_all(outgoing.seal(kind, bytes)).map_err(|error| match error.kind() {
            io::ErrorKind::WriteZero => self.lost("it takes no more bytes"),
            _ => self.lost(&error.to_string()),
        })
    }

    /// A sign of life, unless a frame is being written, which is one.
    fn sign(&self) {
        let sign = if self.peer == 0 && self.run.stopping() { Kind::Stop } else { Kind::Alive };
        match self.outgoing.try_lock() {
            // That the peer is gone, the reading side finds out and says.
            Ok(mut outgoing) => drop(self.write_held(&mut outgoing, sign, &[])),
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => {}
        }
    }

    fn lost(&self, problem: &str) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, format!("process {} is lost: {problem}", self.peer))
    }

    fn silent(&self) -> io::Error {
        self.lost(&format!("it has said nothing for {:?}", self.silent_after))
    }

    /// More bytes of the wire; 0 at the end of the connection.
    fn read_some(&self, incoming: &mut Incoming) -> io::Result<usize> {
        let mut socket = &self.socket;
        loop {
            match socket.read(incoming.room()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {
                    return Err(self.silent());
                }
                Err(error) => return Err(self.lost(&error.to_string())),
                Ok(read) => {
                    incoming.arrived(read);
                    return Ok(read);
                }
            }
        }
    }
}

impl Link {
    fn new(shared: Arc<Shared>) -> Link {
        Link { shared, incoming: None, goodbye: false }
    }

    fn read_frame(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let shared = &self.shared;
        if self.incoming.is_none() {
            self.incoming = shared.incoming.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        let incoming = self.incoming.as_mut().ok_or_else(|| io::Error::other("another handle of it reads"))?;
        // Only a whole frame is a sign of life: anybody on the way can drip octets.
        let mut heard = now();
        loop {
            let taken = incoming.take(into);
            if taken > 0 {
                return Ok(taken);
            }
            match incoming.next().map_err(|forged| shared.lost(&forged.to_string()))? {
                Some(kind) => {
                    heard = now();
                    shared.heard.store(Moment::now().0, Ordering::Relaxed);
                    match kind {
                        Kind::Bytes | Kind::Alive => {}
                        Kind::Goodbye => self.goodbye = true,
                        Kind::Stop => shared.run.stop(),
                        Kind::Proof | Kind::Welcome | Kind::Ready => return Err(shared.lost("it begins anew")),
                    }
                }
                None if now().duration_since(heard) > shared.silent_after => return Err(shared.silent()),
                None => match shared.read_some(incoming)? {
                    0 if incoming.in_frame() => return Err(shared.lost("it left in the middle of a message")),
                    0 if self.goodbye => return Ok(0),
                    0 => return Err(shared.lost("it left before the run was complete")),
                    _ => {}
                },
            }
        }
    }
}

impl Read for Link {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.read_frame(into).or_else(|error| {
            self.shared.run.lost(error.to_string());
            loop {
                thread::park();
            }
        })
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(BATCH)];
        if !bytes.is_empty()
            && let Err(error) = self.shared.write(Kind::Bytes, bytes)
        {
            // The run fails; what timely still wants to send goes nowhere.
            self.shared.run.lost(error.to_string());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Link {
    fn try_clone(&self) -> io::Result<Link> {
        Ok(Link::new(Arc::clone(&self.shared)))
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.shared.socket.set_nonblocking(nonblocking)
    }

    /// Called when nothing more is to be written.
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if self.shared.complete.load(Ordering::Acquire)
            && let Err(error) = self.shared.write(Kind::Goodbye, &[])
        {
            self.shared.run.lost(error.to_string());
        }
        // A socket that is gone already needs no shutting down.
        let _ = self.shared.socket.shutdown(how);
        Ok(())
    }
}

/// The connections of a process, and the thread that gives signs of life on them until this is dropped.
pub(crate) struct Links {
    links: Vec<Option<Link>>,
    complete: Arc<AtomicBool>,
    /// Where it is shown when each peer was last heard.
    board: Arc<OnceLock<Arc<Status>>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Links {
    /// `channels` by process, none for ourselves; handshakes are done.
    pub(super) fn start(
        channels: Vec<Option<Channel>>,
        silent_after: Duration,
        run: &Arc<dyn Member>,
    ) -> io::Result<Links> {
        let complete = Arc::new(AtomicBool::new(false));
        let (mut links, mut all) = (Vec::new(), Vec::new());
        for (peer, channel) in (0..).zip(channels) {
            let Some(Channel { socket, outgoing, incoming }) = channel else {
                links.push(None);
                continue;
            };
            socket.set_read_timeout(Some(silent_after))?;
            socket.set_write_timeout(Some(silent_after))?;
            let (outgoing, incoming) = (Mutex::new(outgoing), Mutex::new(Some(incoming)));
            let (complete, run) = (Arc::clone(&complete), Arc::clone(run));
            let heard = AtomicI64::new(Moment::now().0);
            let shared = Arc::new(Shared { peer, socket, outgoing, incoming, silent_after, complete, run, heard });
            all.push(Arc::clone(&shared));
            links.push(Some(Link::new(shared)));
        }
        let (stop, stopped) = channel::<()>();
        let every = silent_after / SIGNS;
        let board: Arc<OnceLock<Arc<Status>>> = Arc::default();
        let shown = Arc::clone(&board);
        let give_signs = move || {
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(every) {
                all.iter().for_each(|link| link.sign());
                if let Some(status) = shown.get() {
                    all.iter()
                        .for_each(|link| status.heard_from(link.peer, Moment(link.heard.load(Ordering::Relaxed))));
                }
            }
        };
        let thread = thread::Builder::new().name("signs of life".into()).spawn(give_signs)?;
        Ok(Links { links, complete, board, stop: Some(stop), thread: Some(thread) })
    }

    /// The connections, for timely's threads.
    pub(crate) fn take(&mut self) -> Vec<Option<Link>> {
        std::mem::take(&mut self.links)
    }

    /// From now on the board shows when each peer was last heard.
    pub(crate) fn show_on(&self, status: &Arc<Status>) {
        // Once is enough: a process has one board.
        let _ = self.board.set(Arc::clone(status));
    }

    /// To be set when all workers of this process have completed the dataflow, before they are gone.
    pub(crate) fn completion(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.complete)
    }
}

#[cfg(test)]
impl Links {
    /// No more signs; the connections stay.
    pub(super) fn stop_signs(mut self) -> Vec<Option<Link>> {
        self.take()
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only counts time: there is nothing to learn from how it ended.
            let _ = thread.join();
        }
    }
}
