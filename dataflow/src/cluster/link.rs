//! A connection between two processes of a run: bytes in frames, a sign of life in between, a goodbye at the end.
//!
//! ```text
//! frame: u32 length (little-endian), bytes      length 0: a sign of life      length u32::MAX: goodbye, nothing follows
//!                                               length u32::MAX - 1: a sign of life of a process that is asked to stop
//! ```
//! Promises: the run is told that the peer is lost when it has said nothing for the stated time, or when it is gone without
//! a goodbye, which is sent only when all of its workers have completed the dataflow. A slow worker is no silence: signs of
//! life come from a thread of their own. Timely itself never learns of a loss (it would panic): its threads wait for an
//! end that does not come while the run fails.
//!
//! A run is stopped by process 0, at the end of an epoch: whoever else is asked to stop tells it so, with its signs of life,
//! and goes on until the run ends for all.

use std::io::{self, BufReader, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use timely::communication::allocator::zero_copy::stream::Stream;

use crate::status::{Moment, Status};

const ALIVE: u32 = 0;
const GOODBYE: u32 = u32::MAX;
const STOP: u32 = u32::MAX - 1;
/// Signs of life within the time after which silence is death.
const SIGNS: u32 = 5;
/// Bytes read ahead: the headers of small frames cost no call each.
const READ_AHEAD: usize = 64 << 10;

/// What all handles of one connection share.
struct Shared {
    peer: u32,
    socket: TcpStream,
    /// Held while a frame is written.
    writing: Mutex<()>,
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
    reader: BufReader<TcpStream>,
    /// Bytes of the frame that is being read.
    left: usize,
    goodbye: bool,
}

impl Shared {
    fn write_frame(&self, length: u32, bytes: &[u8]) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.write_held(length, bytes)
    }

    fn write_held(&self, length: u32, bytes: &[u8]) -> io::Result<()> {
        let header = length.to_le_bytes();
        let mut slices: &mut [IoSlice<'_>] = &mut [IoSlice::new(&header), IoSlice::new(bytes)];
        let mut socket = &self.socket;
        while !slices.is_empty() {
            match socket.write_vectored(slices) {
                Ok(0) => return Err(self.lost("it takes no more bytes")),
                Ok(written) => IoSlice::advance_slices(&mut slices, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(&error.to_string())),
            }
        }
        Ok(())
    }

    /// A sign of life, unless a frame is being written, which is one.
    fn sign(&self) {
        let sign = if self.peer == 0 && self.run.stopping() { STOP } else { ALIVE };
        match self.writing.try_lock() {
            // That the peer is gone, the reading side finds out and says.
            Ok(_writing) => drop(self.write_held(sign, &[])),
            Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => {}
        }
    }

    fn lost(&self, problem: &str) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, format!("process {} is lost: {problem}", self.peer))
    }
}

impl Link {
    fn new(shared: Arc<Shared>) -> io::Result<Link> {
        let reader = BufReader::with_capacity(READ_AHEAD, shared.socket.try_clone()?);
        Ok(Link { shared, reader, left: 0, goodbye: false })
    }

    fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {
                    return Err(self.shared.lost(&format!("it has said nothing for {:?}", self.shared.silent_after)));
                }
                Err(error) => return Err(self.shared.lost(&error.to_string())),
                Ok(read) => {
                    self.shared.heard.store(Moment::now().0, Ordering::Relaxed);
                    return Ok(read);
                }
            }
        }
    }

    /// The length of the next frame; `None` at the end of the connection.
    fn next_header(&mut self) -> io::Result<Option<u32>> {
        let mut header = [0; 4];
        let mut known = 0;
        while known < header.len() {
            match self.read_some(&mut header[known..])? {
                0 if known == 0 => return Ok(None),
                0 => return Err(self.shared.lost("it left in the middle of a message")),
                read => known += read,
            }
        }
        Ok(Some(u32::from_le_bytes(header)))
    }
}

impl Link {
    fn read_frame(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            match self.next_header()? {
                Some(ALIVE) => {}
                Some(GOODBYE) => self.goodbye = true,
                Some(STOP) => self.shared.run.stop(),
                Some(length) => self.left = length as usize,
                None if self.goodbye => return Ok(0),
                None => return Err(self.shared.lost("it left before the run was complete")),
            }
        }
        let most = into.len().min(self.left);
        match self.read_some(&mut into[..most])? {
            0 => Err(self.shared.lost("it left in the middle of a message")),
            read => {
                self.left -= read;
                Ok(read)
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
        let bytes = &bytes[..bytes.len().min(1 << 30)];
        let length = u32::try_from(bytes.len()).expect("at most a gibibyte");
        // A frame without bytes would be a sign of life.
        if length > 0
            && let Err(error) = self.shared.write_frame(length, bytes)
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
        Link::new(Arc::clone(&self.shared))
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.shared.socket.set_nonblocking(nonblocking)
    }

    /// Called when nothing more is to be written.
    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if self.shared.complete.load(Ordering::Acquire)
            && let Err(error) = self.shared.write_frame(GOODBYE, &[])
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
    /// `sockets` by process, none for ourselves; handshakes are done.
    pub(super) fn start(
        sockets: Vec<Option<TcpStream>>,
        silent_after: Duration,
        run: &Arc<dyn Member>,
    ) -> io::Result<Links> {
        let complete = Arc::new(AtomicBool::new(false));
        let (mut links, mut all) = (Vec::new(), Vec::new());
        for (peer, socket) in (0..).zip(sockets) {
            let Some(socket) = socket else {
                links.push(None);
                continue;
            };
            socket.set_read_timeout(Some(silent_after))?;
            socket.set_write_timeout(Some(silent_after))?;
            let (writing, complete, run) = (Mutex::new(()), Arc::clone(&complete), Arc::clone(run));
            let heard = AtomicI64::new(Moment::now().0);
            let shared = Arc::new(Shared { peer, socket, writing, silent_after, complete, run, heard });
            all.push(Arc::clone(&shared));
            links.push(Some(Link::new(shared)?));
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
