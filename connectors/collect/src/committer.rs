//! Group commit: the one thread that writes the log.
//!
//! Requests put their lines into a bounded queue and wait. The thread takes everything that is queued, appends it, syncs
//! once, and only then answers them all: an event is acknowledged when it is on disk, and many requests share the price
//! of a sync. When the log fails, the whole group is answered with a failure (what of it is on disk all the same, its
//! clients send again, and the pipeline counts it once), the log is opened anew with growing pauses, and everybody is
//! told to come again until that succeeds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use tidemill_embedded_log::Record;
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::admission::Line;
use crate::budget::Lease;
use crate::environment::Environment;
use crate::log::{EventLog, LogFailure, OpenLog};
use crate::metrics::Metrics;
use crate::salts::Salts;
use crate::topic::Topic;

/// A group takes no further batch when it has this many bytes.
const GROUP_BYTES: usize = 8 << 20;
/// How often old segments and salts are looked for.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// The pauses before the log is opened anew: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A batch's lines on their way to the log.
pub(crate) struct Submission {
    pub(crate) text: Vec<u8>,
    pub(crate) lines: Vec<Line>,
    /// Pays for them until they are stored.
    pub(crate) lease: Lease,
    pub(crate) done: oneshot::Sender<Outcome>,
}

/// What became of a submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// On disk.
    Stored,
    /// Not acknowledged; it may be there or not.
    Failed,
}

/// The way to the committer.
pub(crate) struct Queue {
    sender: Sender<Submission>,
    ready: Arc<AtomicBool>,
}

/// Why a submission was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueError {
    /// As much waits as may wait.
    Full,
    /// The committer is gone.
    Closed,
}

impl Queue {
    /// Whether the log takes events now.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(crate) fn submit(&self, submission: Submission) -> Result<(), QueueError> {
        self.sender.try_send(submission).map_err(|refused| match refused {
            TrySendError::Full(_) => QueueError::Full,
            TrySendError::Disconnected(_) => QueueError::Closed,
        })
    }
}

/// Owns the log; ends when all [`Queue`]s are gone.
pub(crate) struct Committer {
    log: Option<Box<dyn EventLog>>,
    opener: Box<dyn OpenLog>,
    receiver: Receiver<Submission>,
    ready: Arc<AtomicBool>,
    partitions: usize,
    environment: Arc<dyn Environment>,
    metrics: Arc<Metrics>,
    salts: Arc<Salts>,
    /// Which lines of the group go to each partition of each topic: (submission, line).
    batches: Vec<Vec<(usize, usize)>>,
}

/// What a committer works with.
pub(crate) struct CommitterParts {
    pub(crate) opener: Box<dyn OpenLog>,
    pub(crate) partitions: u32,
    /// Submissions that may wait.
    pub(crate) queue: usize,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) salts: Arc<Salts>,
}

impl Committer {
    /// Opens the log.
    pub(crate) fn open(parts: CommitterParts) -> Result<(Queue, Committer), LogFailure> {
        let CommitterParts { mut opener, partitions, queue: waiting, environment, metrics, salts } = parts;
        let log = opener.open()?;
        let (sender, receiver) = bounded(waiting);
        let ready = Arc::new(AtomicBool::new(true));
        let partitions = partitions as usize;
        let batches = vec![Vec::new(); Topic::ALL.len() * partitions];
        let queue = Queue { sender, ready: Arc::clone(&ready) };
        let log = Some(log);
        let committer = Committer { log, opener, receiver, ready, partitions, environment, metrics, salts, batches };
        Ok((queue, committer))
    }

    /// Serves the queue until all its senders are gone and everything in it is answered.
    pub(crate) fn run(mut self) {
        let mut cleaned = self.environment.uptime();
        self.clean_up();
        loop {
            if self.log.is_none() && !self.reopen() {
                break;
            }
            match self.receiver.recv_timeout(HOUSEKEEPING) {
                Ok(first) => self.commit(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.log.is_some() && self.environment.uptime().saturating_sub(cleaned) >= HOUSEKEEPING {
                self.clean_up();
                cleaned = self.environment.uptime();
            }
        }
    }

    /// Stores a group and answers it.
    fn commit(&mut self, first: Submission) {
        let mut bytes = first.text.len();
        let mut group = vec![first];
        while bytes < GROUP_BYTES
            && let Ok(next) = self.receiver.try_recv()
        {
            bytes += next.text.len();
            group.push(next);
        }
        let began = self.environment.uptime();
        let done = self.store(&group);
        self.metrics.commit_seconds.observe(self.environment.uptime().saturating_sub(began).as_secs_f64());
        let outcome = match done {
            Ok(()) => {
                let events: usize = group.iter().map(|submission| submission.lines.len()).sum();
                let stored: usize = group.iter().flat_map(|one| &one.lines).map(|line| line.value.len()).sum();
                self.metrics.accepted(events as u64);
                self.metrics.stored_bytes.inc_by(stored as u64);
                self.metrics.commit_events.observe(f64::from(u32::try_from(events).unwrap_or(u32::MAX)));
                Outcome::Stored
            }
            Err(failure) => {
                self.fail(&failure);
                Outcome::Failed
            }
        };
        for submission in group {
            answer(submission, outcome);
        }
    }

    fn store(&mut self, group: &[Submission]) -> Result<(), LogFailure> {
        for (at, submission) in group.iter().enumerate() {
            for (row, line) in submission.lines.iter().enumerate() {
                let partition = usize::try_from(line.user_hash % self.partitions as u64).expect("below a usize");
                self.batches[line.topic.number() * self.partitions + partition].push((at, row));
            }
        }
        let time_ms = self.environment.now_ms();
        let log = self.log.as_mut().expect("a committer without a log opens one before it goes on");
        let mut appended = Ok(());
        for (number, batch) in self.batches.iter_mut().enumerate() {
            if appended.is_ok() && !batch.is_empty() {
                let record = |(at, row): &(usize, usize)| {
                    let submission = &group[*at];
                    let line = &submission.lines[*row];
                    let text = &submission.text;
                    Record { key: &text[line.key.clone()], value: &text[line.value.clone()], time_ms }
                };
                let records: Vec<Record<'_>> = batch.iter().map(record).collect();
                let partition = u32::try_from(number % self.partitions).expect("partitions are counted in 32 bits");
                appended = log.append(Topic::ALL[number / self.partitions], partition, &records);
            }
            batch.clear();
        }
        appended.and_then(|()| log.sync())
    }

    /// Closes a log that failed; its lock is given back, so that it can be opened anew.
    fn fail(&mut self, failure: &LogFailure) {
        self.ready.store(false, Ordering::Release);
        self.metrics.log_failures.inc();
        warn!("the log failed: {failure}; clients are told to come again until it is open again");
        self.log = None;
    }

    /// Opens the log anew, with growing pauses, until that succeeds; false if the collector ends meanwhile.
    fn reopen(&mut self) -> bool {
        let (mut pause, mut said) = (PAUSES.0, String::new());
        loop {
            let until = self.environment.uptime() + pause;
            loop {
                match self.receiver.recv_timeout(until.saturating_sub(self.environment.uptime())) {
                    Ok(submission) => answer(submission, Outcome::Failed),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return false,
                }
            }
            match self.opener.open() {
                Ok(log) => {
                    self.log = Some(log);
                    self.ready.store(true, Ordering::Release);
                    info!("the log is open again");
                    return true;
                }
                Err(failure) => {
                    let sentence = failure.to_string();
                    if sentence != said {
                        warn!("the log cannot be opened again: {sentence}; it is tried until it can");
                        said = sentence;
                    }
                }
            }
            pause = PAUSES.1.min(pause * 2);
        }
    }

    fn clean_up(&mut self) {
        let log = self.log.as_mut().expect("only a log that is open is cleaned up");
        if let Err(failure) = log.retain(self.environment.now_ms()) {
            self.fail(&failure);
        }
        if let Err(error) = self.salts.delete_old() {
            warn!("old salts stay for now: {error}");
        }
    }
}

fn answer(submission: Submission, outcome: Outcome) {
    let Submission { text, lines, lease, done } = submission;
    drop((text, lines, lease));
    // A client that has gone away hears nothing; its events are stored or not all the same.
    let _ = done.send(outcome);
}
