//! `tidemill run --processes M`: one supervisor, M processes that are one run, started again together when one fails.
//!
//! A run is fail-stop: when one process dies, hangs or fails, all end, and the supervisor starts all again, from the last
//! checkpoint, as the next attempt. It does so after a pause that doubles with each failure that comes soon after the one
//! before. It does not when starting again cannot help: wrong options, state or input refused, fenced by a later run, or refused by
//! a server for who we are. Where that worked before, a password is being changed, and it is waited for like an outage.
//!
//! `tidemill rescale` asks for other numbers ([`control`](super::control)): the run stops at a checkpoint and begins again with
//! them; so it does if it fails before it has stopped.
//!
//! Each process opens a connection to the supervisor before anything else and keeps it: it says every second that it lives, is
//! asked to stop over it, and ends when it breaks, so that nothing goes on behind the back of a supervisor that was killed.
//! One that says nothing for ten seconds hangs, and so does one that has not introduced itself half a minute after it began.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tidemill_dataflow::cluster::{ClusterOptions, Place, Token, listen};
use tidemill_dataflow::runtime::StopHandle;

use tidemill_log::Location;

use super::arguments::RunArguments;
use super::control::{Answer, Control, Shape, Wish};
use super::open_store;
use crate::cli::alive::{self, Alive};
use crate::cli::measure::Stopwatch;
use crate::cli::{Failure, config, lines, secrets, signals, with_causes};

/// The secret that the processes of a run share.
pub(super) const TOKEN: &str = "TIDEMILL_CLUSTER_TOKEN";
/// Set in a process that ends only to be started again with other numbers.
static RESTS: AtomicBool = AtomicBool::new(false);

/// Where a process finds its supervisor, and how it introduces itself.
const SUPERVISOR: &str = "TIDEMILL_SUPERVISOR";

/// Between two signs of life.
const SIGN: Duration = Duration::from_secs(1);
/// A process that has given no sign for this long hangs.
const SILENT: Duration = Duration::from_secs(10);
/// A process that has not introduced itself for this long hangs.
const INTRODUCED: Duration = Duration::from_secs(30);
/// How long the others have to end by themselves when one has ended.
const GRACE: Duration = Duration::from_secs(8);
/// How long all of them have to end once they were asked to.
const HANGS: Duration = Duration::from_millis(9_700);
/// How often the supervisor looks.
const LOOK: Duration = Duration::from_millis(20);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A server, or the file system, refuses who we are.
const DENIED: u8 = 5;
/// A run that went on for this long was healthy: the next pause is a short one again.
const HEALTHY: Duration = Duration::from_secs(60);

/// Whether a supervisor of this machine started this process.
pub(crate) fn supervised() -> bool {
    std::env::var_os(SUPERVISOR).is_some()
}

/// Whether this process ends only to be started again: then the run has not ended.
pub(super) fn rests() -> bool {
    RESTS.load(Ordering::Acquire)
}

/// The secret that the processes of a run share, where one was given.
pub(crate) fn cluster_token() -> Option<String> {
    secrets::secret(TOKEN)
}

/// The place of this process, if it is one of several.
pub(super) fn place(arguments: &RunArguments) -> Result<Option<Place>, Failure> {
    let Some(process) = arguments.process_index else { return Ok(None) };
    if arguments.hosts.len() < 2 {
        return Err(Failure::usage("--process-index needs --hosts with the addresses of all processes, in order"));
    }
    let secret = cluster_token().ok_or_else(|| {
        Failure::usage(format!("{TOKEN} is not set: give all processes of the run the same long random secret in it"))
    })?;
    let options = ClusterOptions {
        attempt: arguments.attempt,
        meet_within: arguments.meet_within,
        ..ClusterOptions::new(process, arguments.hosts.clone(), Token::new(&secret))
    };
    let Some(own) = arguments.hosts.get(process as usize) else {
        return Err(Failure::usage(format!("--process-index {process}: --hosts names {}", arguments.hosts.len())));
    };
    let listener = listen(own).map_err(|error| Failure::failed(with_causes(&error)))?;
    Ok(Some(Place { options, listener }))
}

/// Answers to the supervisor of this process, if it has one: gives signs of life, stops when asked, ends when it is gone.
pub(super) fn answer_supervisor(stop: &StopHandle) -> Result<(), Failure> {
    let Ok(given) = std::env::var(SUPERVISOR) else { return Ok(()) };
    let (address, who) = given.split_once(' ').unwrap_or((&given, ""));
    let broken = |error: io::Error| Failure::failed(format!("the supervisor at {address}: {error}"));
    let mut signs = TcpStream::connect(address).map_err(broken)?;
    writeln!(signs, "{who}").map_err(broken)?;
    let mut orders = BufReader::new(signs.try_clone().map_err(broken)?);
    let stop = stop.clone();
    let obey = move || {
        let mut order = String::new();
        while orders.read_line(&mut order).is_ok_and(|read| read > 0) {
            match order.trim() {
                "stop" => {
                    signals::end_at_last("stopped at once; nothing that was committed is affected");
                    stop.stop_within(signals::IN_ORDER);
                }
                "rest" => {
                    RESTS.store(true, Ordering::Release);
                    stop.stop();
                }
                _ => {}
            }
            order.clear();
        }
        lines::say("the supervisor is gone; this process ends, and what is committed stays");
        std::process::exit(1);
    };
    thread::Builder::new().name("supervisor".into()).spawn(obey).map_err(Failure::failed)?;
    let live = move || {
        while signs.write_all(b".").is_ok() {
            thread::park_timeout(SIGN);
        }
    };
    thread::Builder::new().name("signs of life".into()).spawn(live).map(drop).map_err(Failure::failed)
}

/// What happens around the processes.
enum Event {
    /// A process has introduced itself.
    Here(u32, u64, TcpStream),
    /// A process gives no sign of life.
    Silent(u32, u64),
    /// The connection to a process broke while it may still run.
    Broken(u32, u64, io::Error),
    /// The user asks for a stop.
    Stop,
    /// The user asks for other numbers.
    Wish(Wish),
}

/// How an attempt ended.
enum Ended {
    /// The run ended well.
    Well,
    /// Starting again cannot help; the exit code says why, and the reason who.
    Refused(u8, String),
    /// It may go on; the reason.
    Failed(String),
}

/// Starts the processes that `arguments` ask for, and starts them again, until the run ends.
pub(super) fn supervise(arguments: &RunArguments) -> Result<(), Failure> {
    let _alive = arguments.place().map(|place| claim(&place, arguments.take_over)).transpose()?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(Failure::failed)?;
    let address = listener.local_addr().map_err(Failure::failed)?.to_string();
    // Two of them, as processes say one of them aloud.
    let (word, token) = (secret(), secret());
    let (events, happened) = channel();
    let supervisor = format!("{address} {word}");
    listen_for_processes(listener, word, events.clone())?;
    let stops = listen_for_signals(events.clone())?;
    let _control = listen_for_wishes(arguments, events);
    let mut shape = Shape { workers: arguments.workers, processes: arguments.processes };
    let (mut pause, mut wish, mut worked) = (FIRST_PAUSE, None, false);
    for attempt in 1.. {
        let clock = Stopwatch::start();
        let group = Group::start((arguments, shape), attempt, (&supervisor, &token))?;
        let ended = group.watch(&happened, &stops, &mut wish);
        let before = shape;
        worked |= clock.elapsed() > HEALTHY;
        shape = wish.as_ref().map_or(shape, |wish: &Wish| wish.shape);
        match ended {
            Ended::Well if shape != before && stops.load(Ordering::Acquire) == 0 => pause = FIRST_PAUSE,
            Ended::Well => return Ok(()),
            Ended::Refused(DENIED, reason) if worked && stops.load(Ordering::Acquire) == 0 => {
                lines::say(&format!(
                    "{reason}: it is refused what it was allowed before; attempt {} begins in {LONGEST_PAUSE:?}",
                    attempt + 1
                ));
                if wait(&happened, LONGEST_PAUSE, &mut wish) {
                    return Err(Failure::exit(DENIED, format!("{reason}; it was asked to stop")));
                }
            }
            Ended::Refused(code, _) => return Err(Failure::exit(code, "the run ended and is not started again")),
            Ended::Failed(reason) if stops.load(Ordering::Acquire) > 0 => {
                return Err(Failure::failed(format!("{reason}; it is not started again because it was asked to stop")));
            }
            Ended::Failed(reason) => {
                pause = if clock.elapsed() > HEALTHY { FIRST_PAUSE } else { pause };
                lines::say(&format!("{reason}; attempt {} begins in {pause:?}", attempt + 1));
                if wait(&happened, pause, &mut wish) {
                    return Err(Failure::failed(format!("{reason}; it was asked to stop")));
                }
                shape = wish.as_ref().map_or(shape, |wish: &Wish| wish.shape);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
    Ok(())
}

/// The supervisor shows that the run lives, so that it does between two attempts, too. A store that is not there yet is
/// waited for, as it is by attempts.
fn claim(place: &Location, take_over: bool) -> Result<Alive, Failure> {
    let mut pause = FIRST_PAUSE;
    let store = loop {
        match open_store(place) {
            Ok(store) => break store,
            Err(failure) if failure.code != 1 => return Err(failure),
            Err(failure) => {
                lines::say(&format!("{}; it is tried again in {pause:?}", failure.message));
                thread::park_timeout(pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    };
    alive::claim(place, &store, take_over)
}

/// Lets `tidemill rescale` find this supervisor. A run is as good without it.
fn listen_for_wishes(arguments: &RunArguments, events: Sender<Event>) -> Option<Control> {
    let place = arguments.place()?;
    // Nobody listens once the run has ended.
    let wish = move |wish: Wish| drop(events.send(Event::Wish(wish)));
    let listening = Control::listen(&place, cluster_token().unwrap_or_default(), wish);
    listening.map_err(|error| lines::warn(&format!("tidemill rescale will not find this run: {error}"))).ok()
}

/// Keeps a wish, unless another is being fulfilled.
fn keep(wish: &mut Option<Wish>, new: Wish, step: &str) -> bool {
    let free = wish.is_none();
    let answer = if free { Answer::Step(step.into()) } else { Answer::Failed("another rescale is under way".into()) };
    // Whoever asked and went away need not be told.
    let _ = new.answers.send(answer);
    if free {
        *wish = Some(new);
    }
    free
}

/// Lets time pass; whether a stop was asked for meanwhile.
fn wait(happened: &Receiver<Event>, pause: Duration, wish: &mut Option<Wish>) -> bool {
    let clock = Stopwatch::start();
    loop {
        match happened.recv_timeout(pause.saturating_sub(clock.elapsed())) {
            Ok(Event::Stop) => return true,
            Ok(Event::Wish(new)) => drop(keep(wish, new, "the run begins again anyway, with these numbers")),
            Ok(Event::Here(..) | Event::Silent(..) | Event::Broken(..)) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// The processes of one attempt.
struct Group {
    attempt: u64,
    shape: Shape,
    children: Vec<(Child, Option<ExitStatus>)>,
    links: Vec<Option<TcpStream>>,
    begun: Stopwatch,
    /// How long a process has to introduce itself.
    introduced: Duration,
}

impl Group {
    fn new(attempt: u64, shape: Shape) -> Group {
        let begun = Stopwatch::start();
        Group { attempt, shape, children: Vec::new(), links: Vec::new(), begun, introduced: INTRODUCED }
    }

    fn start(
        (arguments, shape): (&RunArguments, Shape),
        attempt: u64,
        (supervisor, token): (&str, &str),
    ) -> Result<Group, Failure> {
        let program = own_program().map_err(Failure::failed)?;
        // An address that is taken in the moment between costs an attempt.
        let hosts: Vec<String> = free_addresses(shape.processes)?.iter().map(ToString::to_string).collect();
        let mut group = Group::new(attempt, shape);
        for process in 0..shape.processes {
            let mut command = Command::new(&program);
            command.args(config::command_line().iter().skip(1)).envs(secrets::for_children()).stdin(Stdio::null());
            if let Some(name) = std::env::args_os().next() {
                command.arg0(name);
            }
            if shape.workers != arguments.workers {
                command.args(["--workers", &shape.workers.to_string()]);
            }
            if shape.processes > 1 {
                command.args(["--process-index", &process.to_string(), "--attempt", &attempt.to_string()]);
                command.args(["--hosts", &hosts.join(",")]);
            }
            if process > 0 {
                command.stdout(Stdio::null());
            }
            command.env(TOKEN, token).env(SUPERVISOR, format!("{supervisor} {process} {attempt}"));
            let child = command.spawn().map_err(|error| Failure::failed(format!("{}: {error}", program.display())))?;
            group.children.push((child, None));
            group.links.push(None);
        }
        Ok(group)
    }

    fn watch(mut self, happened: &Receiver<Event>, stops: &AtomicU32, wish: &mut Option<Wish>) -> Ended {
        let mut first: Option<(String, Stopwatch)> = None;
        let (mut led, mut asked): (Option<Stopwatch>, Option<Stopwatch>) = (None, None);
        loop {
            match happened.recv_timeout(LOOK) {
                Ok(Event::Here(process, attempt, link)) if attempt == self.attempt => {
                    self.links[process as usize] = Some(link);
                    if stops.load(Ordering::Acquire) > 0 {
                        self.order("stop");
                    } else if let Some(wanted) = wish.take() {
                        *wish = self.fulfilled(wanted);
                    }
                }
                Ok(Event::Silent(process, attempt)) if attempt == self.attempt => {
                    if self.children[process as usize].1.is_none() {
                        let reason = format!("process {process} has given no sign of life for {SILENT:?}");
                        first.get_or_insert((reason, Stopwatch::start()));
                        // It cannot end by itself.
                        self.kill();
                    }
                }
                Ok(Event::Broken(process, attempt, error)) if attempt == self.attempt => {
                    // One that has ended says more by how it ended.
                    self.look(&mut first);
                    if self.children[process as usize].1.is_none() {
                        let reason = format!("the connection to process {process} broke ({error})");
                        first.get_or_insert((reason, Stopwatch::start()));
                    }
                }
                Ok(Event::Wish(new)) => {
                    if keep(wish, new, "the run stops at a checkpoint")
                        && let Some(wanted) = wish.take()
                    {
                        *wish = self.fulfilled(wanted);
                    }
                }
                Ok(Event::Stop) => {
                    self.order("stop");
                    asked.get_or_insert_with(Stopwatch::start);
                    if stops.load(Ordering::Acquire) > 1 {
                        self.kill();
                    }
                }
                Ok(Event::Here(..) | Event::Silent(..) | Event::Broken(..)) | Err(RecvTimeoutError::Timeout) => {}
                // The threads that tell live as long as this process.
                Err(RecvTimeoutError::Disconnected) => thread::park_timeout(LOOK),
            }
            self.look(&mut first);
            if first.is_none() && self.begun.elapsed() > self.introduced {
                first = self.stranger().map(|process| {
                    let reason = format!("process {process} has not introduced itself within {:?}", self.introduced);
                    (reason, Stopwatch::start())
                });
                if first.is_some() {
                    self.kill();
                }
            }
            if self.children.iter().all(|(_, ended)| ended.is_some()) {
                return self.judge(first.map_or_else(|| "all processes ended".into(), |(reason, _)| reason));
            }
            // Process 0 ended the run; one that had not met it yet (all was finished before) waits for nobody.
            if led.is_none() && self.led_to_its_end() {
                led = Some(Stopwatch::start());
            }
            let since = first.as_ref().map(|(_, since)| since).or(led.as_ref());
            // One that was asked ends by itself, unless the system holds it.
            let hangs = asked.as_ref().is_some_and(|asked| asked.elapsed() > HANGS);
            if hangs || since.is_some_and(|since| since.elapsed() > GRACE) {
                self.kill();
            }
        }
    }

    /// Notes who has ended; the first one that did not end well is the reason.
    fn look(&mut self, first: &mut Option<(String, Stopwatch)>) {
        for (process, (child, ended)) in (0..).zip(&mut self.children) {
            if ended.is_none()
                && let Ok(Some(status)) = child.try_wait()
            {
                *ended = Some(status);
                if !status.success() {
                    first.get_or_insert_with(|| (format!("process {process} ended ({status})"), Stopwatch::start()));
                }
            }
        }
    }

    /// A process that runs and was never heard.
    fn stranger(&self) -> Option<usize> {
        let unheard =
            |((_, ended), link): (&(Child, Option<ExitStatus>), &Option<TcpStream>)| ended.is_none() && link.is_none();
        self.children.iter().zip(&self.links).position(unheard)
    }

    /// Whether process 0, which alone commits, ended well: then the run did, whatever becomes of the others.
    fn led_to_its_end(&self) -> bool {
        self.children.first().is_some_and(|(_, ended)| ended.is_some_and(|status| status.success()))
    }

    fn judge(&self, reason: String) -> Ended {
        let codes = || self.children.iter().filter_map(|(_, ended)| ended.as_ref()?.code());
        if self.led_to_its_end() {
            return Ended::Well;
        }
        // A fenced run is not started again, whatever became of the others.
        let refused = [4, 3, 2, DENIED.into()].into_iter().find(|refused| codes().any(|code| code == *refused));
        match refused.and_then(|code| u8::try_from(code).ok()) {
            Some(code) => Ended::Refused(code, reason),
            None => Ended::Failed(reason),
        }
    }

    /// Fulfils a wish as far as that can be done now; gives it back unless it is fulfilled.
    fn fulfilled(&mut self, wish: Wish) -> Option<Wish> {
        let Shape { workers, processes } = wish.shape;
        if self.shape != wish.shape {
            lines::say(&format!(
                "the run stops at a checkpoint, to go on with {workers} workers in each of {processes} processes"
            ));
            self.order("rest");
            return Some(wish);
        }
        if self.links.iter().any(Option::is_none) {
            return Some(wish);
        }
        let sentence = format!("the run goes on with {workers} workers in each of {processes} processes");
        lines::say(&sentence);
        // Whoever asked and went away need not be told.
        let _ = wish.answers.send(Answer::Done(sentence));
        None
    }

    /// Process 0 ends the run for all: for good (`stop`), or to begin again (`rest`).
    fn order(&mut self, order: &str) {
        if let Some(Some(link)) = self.links.first_mut() {
            // One that is gone needs no asking.
            let _ = link.write_all(format!("{order}\n").as_bytes());
        }
    }

    fn kill(&mut self) {
        for (child, ended) in &mut self.children {
            if ended.is_none() {
                // It fails only for one that has ended by itself.
                let _ = child.kill();
            }
        }
    }
}

impl Drop for Group {
    /// Nothing stays behind.
    fn drop(&mut self) {
        self.kill();
        for (child, _) in &mut self.children {
            let _ = child.wait();
        }
    }
}

fn listen_for_processes(listener: TcpListener, word: String, events: Sender<Event>) -> Result<(), Failure> {
    let serve = move || {
        for connection in listener.incoming().flatten() {
            let (word, events) = (word.clone(), events.clone());
            let follow = move || follow_signs(connection, &word, &events);
            // Without a thread for it, the process is taken for silent and started again.
            drop(thread::Builder::new().name("process".into()).spawn(follow));
        }
    };
    thread::Builder::new().name("processes".into()).spawn(serve).map(drop).map_err(Failure::failed)
}

/// Reads a process's signs of life; a stranger's connection is dropped.
fn follow_signs(connection: TcpStream, word: &str, events: &Sender<Event>) -> Option<()> {
    connection.set_read_timeout(Some(SILENT)).ok()?;
    let link = connection.try_clone().ok()?;
    let mut signs = BufReader::new(connection);
    let mut introduction = String::new();
    signs.by_ref().take(256).read_line(&mut introduction).ok()?;
    let mut words = introduction.split_whitespace();
    if words.next() != Some(word) {
        return None;
    }
    let (process, attempt) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    events.send(Event::Here(process, attempt, link)).ok()?;
    let mut sign = [0; 64];
    loop {
        match signs.read(&mut sign) {
            // It has ended; that is seen elsewhere.
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {
                return events.send(Event::Silent(process, attempt)).ok();
            }
            Err(error) => return events.send(Event::Broken(process, attempt, error)).ok(),
        }
    }
}

fn listen_for_signals(events: Sender<Event>) -> Result<Arc<AtomicU32>, Failure> {
    let stops = Arc::new(AtomicU32::new(0));
    let signals = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM];
    let mut signals = signal_hook::iterator::Signals::new(signals).map_err(Failure::failed)?;
    let counted = Arc::clone(&stops);
    let tell = move || {
        for _ in signals.forever() {
            counted.fetch_add(1, Ordering::AcqRel);
            // Nobody listens once the run has ended.
            let _ = events.send(Event::Stop);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(tell).map_err(Failure::failed)?;
    Ok(stops)
}

/// The program that runs here, also when another build has taken its place on disk since it was started.
fn own_program() -> io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok(PathBuf::from("/proc/self/exe")) } else { std::env::current_exe() }
}

/// Free addresses on this machine. One may be taken by somebody else in the moment between.
pub(crate) fn free_addresses(count: u32) -> Result<Vec<SocketAddr>, Failure> {
    let listeners: Result<Vec<_>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let listeners = listeners.map_err(Failure::failed)?;
    listeners.iter().map(|listener| listener.local_addr().map_err(Failure::failed)).collect()
}

#[expect(clippy::disallowed_methods, reason = "a secret between processes reaches no result")]
fn secret() -> String {
    format!("{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>())
}

#[cfg(test)]
mod tests;
