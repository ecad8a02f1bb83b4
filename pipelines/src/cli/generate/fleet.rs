//! A fleet of browsers that posts made-up events to a collector, at a given rate, with timestamps of now.
//!
//! What is sent follows from the seed alone, but for the moment to which its timestamps are relative; how it is cut into
//! batches follows from the clock. A batch that was not acknowledged is sent again with the same event ids.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender as Channel, TryRecvError, bounded};
use serde::Serialize;
use tidemill_collect::{Environment, Host};
use tidemill_connectors::generate::{self, GenerateConfig, GenerateError, Summary};
use tidemill_dataflow::hash::hash64;

use super::browser::{Batch, Browsers};
use super::sender::{Acknowledged, Counters, FleetBooks, Sender, Target};
use crate::cli::measure::Stopwatch;
use crate::cli::{Failure, lines, signals};

/// How often the fleet looks what is due.
const TICK: Duration = Duration::from_millis(10);
/// How long batches are still tried after a signal.
const GRACE: Duration = Duration::from_secs(5);
/// Batches that wait for a connection.
const WAITING: usize = 64;
/// Events are generated for at most this long.
const LONGEST: Duration = Duration::from_secs(3_650 * 86_400);

/// How the fleet sends.
#[derive(Debug)]
pub(super) struct Fleet {
    /// `http://HOST:PORT`.
    pub(super) to: String,
    pub(super) key: Option<String>,
    /// Lines a second.
    pub(super) rate: u32,
    /// How many events, or for how long; until a signal if neither is given.
    pub(super) events: Option<u64>,
    pub(super) time: Option<Duration>,
    pub(super) connections: usize,
    pub(super) batch: usize,
    pub(super) give_up: Option<Duration>,
    pub(super) acknowledged: Option<PathBuf>,
}

/// What the fleet did.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) books: FleetBooks,
    /// From the first event to the last answer.
    pub(super) seconds: f64,
    /// Sent events a second.
    pub(super) events_per_second: f64,
}

impl Fleet {
    /// Sends what `config` generates; its start and span follow from now and from the rate.
    pub(super) fn run(self, config: &GenerateConfig) -> Result<Report, Failure> {
        let stopped = on_signals()?;
        let config = self.live(config);
        let acknowledged = self.acknowledged.as_ref().map(|path| {
            let failed = |error| Failure::failed(format!("cannot write {}: {error}", path.display()));
            File::create(path).map(|file| Mutex::new(BufWriter::new(file))).map_err(failed)
        });
        let target = Target {
            url: format!("{}/v1/events", self.to.trim_end_matches('/')),
            key: self.key.clone(),
            give_up: self.give_up,
            acknowledged: acknowledged.transpose()?,
            counters: Counters::default(),
            refused: Mutex::new(None),
        };
        let clock = Stopwatch::start();
        thread::scope(|scope| self.send(scope, &config, &target, &stopped, clock))?;
        let books = target.counters.books();
        let seconds = clock.elapsed().as_secs_f64();
        if let Some(written) = target.acknowledged {
            flush(&written).map_err(Failure::failed)?;
        }
        if let Some(problem) = target.refused.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(Failure::failed(problem));
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let events_per_second = books.sent as f64 / seconds.max(0.001);
        Ok(Report { books, seconds, events_per_second })
    }

    /// The configuration with arrivals from now on, so close that lines leave at the rate.
    fn live(&self, config: &GenerateConfig) -> GenerateConfig {
        // Repeats and malformed lines come on top of the events, and take their part of the rate.
        let rates = config.rates;
        let on_top = u64::from(rates.duplicates + rates.conflicting + rates.malformed);
        let rate = u64::from(self.rate);
        let longest = LONGEST.as_secs() * rate;
        let of_time = self.time.map_or(longest, |time| {
            let lines = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).saturating_mul(rate) / 1_000;
            lines.saturating_mul(1_000_000) / (1_000_000 + on_top)
        });
        let events = self.events.unwrap_or(of_time).clamp(1, longest);
        let lines = u128::from(events) * u128::from(1_000_000 + on_top) / 1_000_000;
        let span = u64::try_from(lines * 1_000 / u128::from(rate)).unwrap_or(u64::MAX).max(1);
        let span = Duration::from_millis(span).min(LONGEST);
        GenerateConfig { events, start: Host::new().now_ms(), span, ..*config }
    }

    fn send<'scope>(
        &self,
        scope: &'scope thread::Scope<'scope, '_>,
        config: &'scope GenerateConfig,
        target: &'scope Target,
        stopped: &Receiver<()>,
        clock: Stopwatch,
    ) -> Result<(), Failure> {
        let (patience, impatience) = bounded::<()>(0);
        let (running, done) = bounded::<()>(0);
        let senders: Vec<Channel<Batch>> = (0..self.connections.max(1))
            .map(|number| {
                let (batches, receiver) = bounded(WAITING);
                let sender = Sender::new(target, impatience.clone(), config.seed.wrapping_add(number as u64));
                let running = running.clone();
                scope.spawn(move || {
                    sender.run(&receiver);
                    // Whoever waits for the end sees the last of these go.
                    drop(running);
                });
                batches
            })
            .collect();
        drop(running);
        let (chunks, generated) = bounded(2);
        let generating = scope.spawn(move || generate::generate(config, Chunks { chunks, rest: Vec::new() }));

        let ended = self.pace(&generated, &senders, stopped, clock);
        // Nobody takes what is still generated, which ends that; the senders end when all their batches are delivered.
        drop((generated, senders));
        let made = generating.join().expect("generating does not panic");
        if ended == Pace::Finished {
            crossbeam_channel::select! {
                recv(done) -> _ => {}
                recv(stopped) -> _ => {}
            }
        }
        if done.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
            lines::say("not all batches were acknowledged in time; they are given up");
        }
        drop(patience);
        unless_interrupted(made)
    }

    /// Hands lines to browsers when they are due, and batches to connections.
    fn pace(
        &self,
        generated: &Receiver<Vec<u8>>,
        senders: &[Channel<Batch>],
        stopped: &Receiver<()>,
        clock: Stopwatch,
    ) -> Pace {
        let mut browsers = Browsers::new(self.batch);
        let (mut chunk, mut at, mut handed) = (Vec::new(), 0, 0_u64);
        let mut pace = Pace::Finished;
        'sending: loop {
            let now = clock.elapsed();
            let due = u64::try_from(now.as_micros() * u128::from(self.rate) / 1_000_000).unwrap_or(u64::MAX);
            while handed < due {
                if at == chunk.len() {
                    match generated.recv() {
                        Ok(next) => (chunk, at) = (next, 0),
                        Err(_) => break 'sending,
                    }
                }
                let end = memchr::memchr(b'\n', &chunk[at..]).map_or(chunk.len(), |length| at + length);
                let full = browsers.take(&chunk[at..end], now);
                at = (end + 1).min(chunk.len());
                handed += 1;
                if full.is_some_and(|batch| !hand_over(batch, senders, stopped)) {
                    pace = Pace::Stopped;
                    break 'sending;
                }
            }
            while let Some(batch) = browsers.due(now) {
                if !hand_over(batch, senders, stopped) {
                    pace = Pace::Stopped;
                    break 'sending;
                }
            }
            if stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Disconnected) {
                pace = Pace::Stopped;
                break;
            }
        }
        // After a signal what browsers hold back stays with them: it was never sent.
        while pace == Pace::Finished
            && let Some(batch) = browsers.last()
        {
            if !hand_over(batch, senders, stopped) {
                pace = Pace::Stopped;
            }
        }
        pace
    }
}

/// Why no more lines are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    Finished,
    Stopped,
}

/// Gives a batch to its user's connection, which keeps a user's batches in order; false if a signal came while there was
/// no room.
fn hand_over(batch: Batch, senders: &[Channel<Batch>], stopped: &Receiver<()>) -> bool {
    let number = hash64(&batch.user) % senders.len() as u64;
    let sender = &senders[usize::try_from(number).expect("below the number of connections")];
    let mut batch = batch;
    loop {
        match sender.send_timeout(batch, TICK) {
            Ok(()) => return true,
            Err(SendTimeoutError::Timeout(back)) => batch = back,
            Err(SendTimeoutError::Disconnected(_)) => return false,
        }
        if stopped.try_recv() == Err(TryRecvError::Disconnected) {
            return false;
        }
    }
}

/// Cuts what is generated into chunks of whole lines.
struct Chunks {
    chunks: Channel<Vec<u8>>,
    rest: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.rest.extend_from_slice(bytes);
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        if end > 0 {
            let whole = self.rest.drain(..end).collect();
            self.chunks.send(whole).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unless_interrupted(made: Result<Summary, GenerateError>) -> Result<(), Failure> {
    match made {
        Ok(_) => Ok(()),
        Err(GenerateError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::failed(error)),
    }
}

fn flush(acknowledged: &Acknowledged) -> io::Result<()> {
    acknowledged.lock().unwrap_or_else(PoisonError::into_inner).flush()
}

/// A channel that is closed by the first signal; the second one ends the process.
fn on_signals() -> Result<Receiver<()>, Failure> {
    let (open, stopped) = bounded(0);
    signals::catch()?.stop_on("stopping once what was sent is acknowledged", None, move || drop(open))?;
    Ok(stopped)
}
