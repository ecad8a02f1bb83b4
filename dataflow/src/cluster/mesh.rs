//! How the processes of a run find each other: every one dials those before it and is dialled by those behind it.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::frames::Kind;
use super::greeting::{Failed, Identity};
use super::handshake::{Channel, accept, dial};
use super::link::{Links, Member};
use super::{ClusterError, ClusterOptions};

/// Between two tries to reach a process that is not there yet.
const AGAIN: Duration = Duration::from_millis(50);
/// Connections that may be in the middle of a handshake: a flood of strangers takes no more threads than that.
const UNDECIDED: usize = 64;
/// When all of those places are taken, one who has it for longer than this gives it to the next in line.
const CROWDED: Duration = Duration::from_millis(250);

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
pub(crate) struct Meeting {
    identity: Identity,
    options: ClusterOptions,
    deadline: Instant,
    /// By process; our own stays empty.
    channels: Vec<Option<Channel>>,
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
        let channels = options.hosts.iter().map(|_| None).collect();
        let identity = Identity::new(options, threads);
        Ok(Meeting { identity, deadline: now() + options.meet_within, options: options.clone(), channels })
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
            if self.channels[process as usize].is_none() {
                self.dial(process)?;
            }
        }
        self.be_dialled(&listener, run, warn)?;
        drop(listener);
        self.all_ready()?;
        let process = self.options.process;
        let links = Links::start(self.channels, self.options.silent_after, member);
        links.map_err(|source| ClusterError::Io { process, source })
    }

    /// Waits until all are ready: one that still reads its state gives no signs of life, and takes nothing.
    fn all_ready(&mut self) -> Result<(), ClusterError> {
        let (mut channels, deadline) = (std::mem::take(&mut self.channels), self.deadline);
        let peers = |all: &mut [Option<Channel>], step: &dyn Fn(&mut Channel) -> io::Result<()>| {
            let mut peers = (0..).zip(all).filter_map(|(process, channel)| Some((process, channel.as_mut()?)));
            peers.try_for_each(|(process, channel)| step(channel).map_err(|error| (process, error)))
        };
        let all = peers(&mut channels, &|channel| channel.tell(Kind::Ready)).and_then(|()| {
            peers(&mut channels, &|channel| channel.hear(Kind::Ready, deadline.saturating_duration_since(now())))
        });
        self.channels = channels;
        all.map_err(|(process, error)| self.absent(process, format!("it was not ready: {error}")))
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
            let tried = connect(&address, self.left()).map_err(Failed::from).and_then(|socket| {
                // It answers only when it is ready to, which may take as long as restoring its state.
                dial(&self.identity, socket, process, self.left())
            });
            match tried {
                Ok((channel, run)) => {
                    self.channels[process as usize] = Some(channel);
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
        let awaited = |channels: &[Option<Channel>]| {
            (me + 1..)
                .zip(&channels[me as usize + 1..])
                .find(|(_, channel)| channel.is_none())
                .map(|(number, _)| number)
        };
        if awaited(&self.channels).is_none() {
            return Ok(());
        }
        let failed = |source| ClusterError::Io { process: me, source };
        listener.set_nonblocking(true).map_err(failed)?;
        let (decided, decisions) = channel();
        let mut undecided = VecDeque::<Undecided>::new();
        let mut last = String::from("nobody has connected");
        while let Some(missing) = awaited(&self.channels) {
            if self.left().is_zero() {
                return Err(self.absent(missing, last));
            }
            while undecided.len() < UNDECIDED {
                match listener.accept() {
                    Ok((socket, from)) => {
                        // A stranger who says nothing keeps nobody else waiting.
                        match Undecided::begin(&self.identity, socket, run, from, &decided) {
                            Ok(one) => undecided.push_back(one),
                            Err(error) => last = error.to_string(),
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => {
                        last = error.to_string();
                        break;
                    }
                }
            }
            if undecided.len() == UNDECIDED {
                undecided.front().into_iter().for_each(Undecided::make_room);
            }
            let Ok((from, decision)) = decisions.recv_timeout(AGAIN.min(self.left())) else { continue };
            undecided.retain(|one| one.from != from);
            match decision {
                // The one that dialled last is alive: an earlier connection of it was given up.
                Ok((channel, peer)) => self.channels[peer as usize] = Some(channel),
                Err(reason) => {
                    last = format!("a connection from {from} was refused: {reason}");
                    warn(&last);
                }
            }
        }
        Ok(())
    }
}

type Decision = (SocketAddr, Result<(Channel, u32), String>);

/// Somebody in the middle of a handshake.
struct Undecided {
    from: SocketAddr,
    since: Instant,
    socket: TcpStream,
}

impl Undecided {
    fn begin(
        identity: &Identity,
        socket: TcpStream,
        run: u64,
        from: SocketAddr,
        decided: &Sender<Decision>,
    ) -> io::Result<Undecided> {
        socket.set_nonblocking(false)?;
        let (identity, accepted, decided) = (identity.clone(), socket.try_clone()?, decided.clone());
        let work = move || {
            // The meeting may be over.
            let _ = decided.send((from, accept(&identity, accepted, run)));
        };
        thread::Builder::new().name("handshake".into()).spawn(work)?;
        Ok(Undecided { from, since: now(), socket })
    }

    /// Ends a handshake that takes long, for another that may be honest: the thread finds its connection closed.
    fn make_room(&self) {
        if now().duration_since(self.since) > CROWDED {
            // One that is gone already needs no closing.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }
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
