//! How the processes of a run find each other: every one dials those before it and is dialled by those behind it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::handshake::{Failed, Identity};
use super::link::{Links, Member};
use super::{ClusterError, ClusterOptions};

/// Between two tries to reach a process that is not there yet.
const AGAIN: Duration = Duration::from_millis(50);
/// Connections that may be in the middle of a handshake: a flood of strangers takes no more threads than that.
const UNDECIDED: usize = 64;

/// What each process says to each other one when it could begin.
const READY: u8 = 0x72;

/// What process 0 tells the others instead of a run's number when nothing is left to do; runs are counted from 1.
const NO_RUN: u64 = 0;

/// Opens the socket on which the peers of `address` are waited for; port 0 takes a free one.
///
/// # Errors
/// [`ClusterError::Listen`].
pub fn listen(address: &str) -> Result<TcpListener, ClusterError> {
    TcpListener::bind(address).map_err(|source| ClusterError::Listen { address: address.to_owned(), source })
}

/// Processes of a run that are about to meet.
#[derive(Debug)]
pub(crate) struct Meeting {
    identity: Identity,
    options: ClusterOptions,
    deadline: Instant,
    /// By process; our own stays empty.
    sockets: Vec<Option<TcpStream>>,
}

impl Meeting {
    /// `threads` are the workers of each process.
    ///
    /// # Errors
    /// [`ClusterError::Usage`] for a place that makes no sense.
    pub(crate) fn new(options: &ClusterOptions, threads: u32) -> Result<Meeting, ClusterError> {
        if options.process >= options.processes() {
            return Err(ClusterError::Usage(format!(
                "--process-index {}: --hosts names {} processes, numbered from 0",
                options.process,
                options.processes()
            )));
        }
        let sockets = options.hosts.iter().map(|_| None).collect();
        let identity = Identity::new(options, threads);
        Ok(Meeting { identity, deadline: now() + options.meet_within, options: options.clone(), sockets })
    }

    /// Reaches process 0, which has begun the run; gives the run's number, or none where nothing is left to do.
    ///
    /// # Errors
    /// It is not there in time, or refuses us.
    pub(crate) fn reach_leader(&mut self) -> Result<Option<u64>, ClusterError> {
        self.dial(0).map(|run| Some(run).filter(|run| *run != NO_RUN))
    }

    /// What process 0 does that finds nothing left to do: tells all others so, as they ask.
    ///
    /// # Errors
    /// Somebody has not asked in time.
    pub(crate) fn dismiss(mut self, listener: &TcpListener, warn: &dyn Fn(&str)) -> Result<(), ClusterError> {
        self.be_dialled(listener, NO_RUN, warn)
    }

    /// Reaches everybody else, and waits until all are ready. `run` is told to those who ask process 0; `listener` is closed
    /// when all are there. Sentences about strangers go to `warn`; `member` is told what becomes of the peers later.
    ///
    /// # Errors
    /// Somebody is not there in time, or refuses us.
    pub(crate) fn complete(
        mut self,
        listener: TcpListener,
        run: u64,
        warn: &dyn Fn(&str),
        member: &Arc<dyn Member>,
    ) -> Result<Links, ClusterError> {
        // Reading the state took time of its own since process 0 was reached.
        self.deadline = now() + self.options.meet_within;
        for process in 0..self.options.process {
            if self.sockets[process as usize].is_none() {
                self.dial(process)?;
            }
        }
        self.be_dialled(&listener, run, warn)?;
        drop(listener);
        self.all_ready()?;
        let process = self.options.process;
        let links = Links::start(self.sockets, self.options.silent_after, member);
        links.map_err(|source| ClusterError::Io { process, source })
    }

    /// Waits until all are ready: one that still reads its state gives no signs of life, and takes nothing.
    fn all_ready(&self) -> Result<(), ClusterError> {
        let peers = || (0..).zip(&self.sockets).filter_map(|(process, socket)| Some((process, socket.as_ref()?)));
        let absent = |process, error: io::Error| self.absent(process, format!("it was not ready: {error}"));
        for (process, mut socket) in peers() {
            socket.write_all(&[READY]).map_err(|error| absent(process, error))?;
        }
        for (process, mut socket) in peers() {
            let patience = self.left().max(Duration::from_millis(1));
            let heard = socket.set_read_timeout(Some(patience)).and_then(|()| socket.read_exact(&mut [0]));
            heard.map_err(|error| absent(process, error))?;
        }
        Ok(())
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(now())
    }

    fn address(&self, process: u32) -> String {
        self.options.hosts[process as usize].clone()
    }

    fn absent(&self, process: u32, last: String) -> ClusterError {
        ClusterError::Absent { process, address: self.address(process), within: self.options.meet_within, last }
    }

    fn dial(&mut self, process: u32) -> Result<u64, ClusterError> {
        let address = self.address(process);
        let (mut last, mut told) = (String::from("it was not tried"), false);
        while !self.left().is_zero() {
            let tried = connect(&address, self.left()).map_err(Failed::from).and_then(|mut socket| {
                // It answers only when it is ready to, which may take as long as restoring its state.
                self.identity.dial(&mut socket, process, self.left()).map(|run| (socket, run))
            });
            match tried {
                Ok((socket, run)) => {
                    self.sockets[process as usize] = Some(socket);
                    return Ok(run);
                }
                Err(Failed::Refused(reason)) => return Err(ClusterError::Refused { process, address, reason }),
                // What a peer said tells more than that it says nothing now.
                Err(Failed::Passing(error)) if error.kind() == io::ErrorKind::Other || !told => {
                    told = error.kind() == io::ErrorKind::Other;
                    last = error.to_string();
                }
                Err(Failed::Passing(_)) => {}
            }
            thread::park_timeout(AGAIN.min(self.left()));
        }
        Err(self.absent(process, last))
    }

    fn be_dialled(&mut self, listener: &TcpListener, run: u64, warn: &dyn Fn(&str)) -> Result<(), ClusterError> {
        let me = self.options.process;
        let awaited = |sockets: &[Option<TcpStream>]| {
            (me + 1..).zip(&sockets[me as usize + 1..]).find(|(_, socket)| socket.is_none()).map(|(number, _)| number)
        };
        if awaited(&self.sockets).is_none() {
            return Ok(());
        }
        let failed = |source| ClusterError::Io { process: me, source };
        listener.set_nonblocking(true).map_err(failed)?;
        let (decided, decisions) = channel();
        let mut undecided = 0;
        let mut last = String::from("nobody has connected");
        while let Some(missing) = awaited(&self.sockets) {
            if self.left().is_zero() {
                return Err(self.absent(missing, last));
            }
            while undecided < UNDECIDED {
                match listener.accept() {
                    Ok((socket, from)) => {
                        // A stranger who says nothing keeps nobody else waiting.
                        decide(self.identity.clone(), socket, run, from.to_string(), &decided).map_err(failed)?;
                        undecided += 1;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        last = error.to_string();
                        break;
                    }
                }
            }
            match decisions.recv_timeout(AGAIN.min(self.left())) {
                Ok(Ok((peer, socket))) => {
                    undecided -= 1;
                    // The one that dialled last is alive: an earlier connection of it was given up.
                    self.sockets[peer as usize] = Some(socket);
                }
                Ok(Err(sentence)) => {
                    undecided -= 1;
                    warn(&sentence);
                    last = sentence;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        Ok(())
    }
}

type Decision = Result<(u32, TcpStream), String>;

fn decide(
    identity: Identity,
    mut socket: TcpStream,
    run: u64,
    from: String,
    decided: &Sender<Decision>,
) -> io::Result<()> {
    let decided = decided.clone();
    let work = move || {
        let accepted = socket.set_nonblocking(false).map_err(|error| error.to_string());
        let accepted = accepted.and_then(|()| identity.accept(&mut socket, run));
        let refused = |reason| format!("a connection from {from} was refused: {reason}");
        // The meeting may be over.
        let _ = decided.send(accepted.map(|peer| (peer, socket)).map_err(refused));
    };
    thread::Builder::new().name("handshake".into()).spawn(work).map(drop)
}

fn connect(address: &str, within: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{address} names no host"));
    for resolved in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&resolved, within.clamp(Duration::from_millis(1), Duration::from_secs(2))) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[expect(clippy::disallowed_methods, reason = "when to give up reaching a process reaches no result")]
pub(super) fn now() -> Instant {
    Instant::now()
}
