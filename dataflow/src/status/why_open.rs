//! Why is this window still open? A pure judgement over a [`Snapshot`]: who holds the watermark or the commits back, since
//! when, and what to do about it.
//!
//! A window is complete when W passes its end, and W reaches readers with a commit. So there are two questions: does every
//! epoch that was read get committed (a process, an operator, a sink, the log's store may hold it up, and then the source
//! waits as well, INV-8), and does the watermark move (a partition that is not idle holds it at its own).

use std::time::Duration;

use serde::Serialize;

use super::snapshot::{Moment, Operator, Partition, Snapshot, State, Working};
use crate::time::Epoch;

/// What stands still for less than this is not worth a sentence: epochs take about a second.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Peers give a sign of life every second, and the run ends when one has given none for five.
const SILENT: Duration = Duration::from_secs(2);

/// A partition whose watermark moves, and is behind all others by more than this, is told too.
const BEHIND: Duration = Duration::from_secs(60);

/// What kind of thing holds results back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A partition of the source.
    Partition,
    /// An operator on a worker.
    Operator,
    /// A sink's writer.
    Sink,
    /// Another process of the run.
    Process,
    /// The source as a whole.
    Source,
    /// The store of log and state.
    Log,
}

impl Cause {
    /// Its name, as in JSON and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Cause::Partition => "partition",
            Cause::Operator => "operator",
            Cause::Sink => "sink",
            Cause::Process => "process",
            Cause::Source => "source",
            Cause::Log => "log",
        }
    }
}

/// One reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// What kind of thing it is.
    pub cause: Cause,
    /// Its name: of a partition, an operator, a sink.
    pub name: String,
    /// Since when.
    pub since: Moment,
    /// Whether it holds something back; otherwise it is told so that nobody looks for it there.
    pub holds: bool,
    /// What it does, and the remedy.
    pub sentence: String,
}

impl Reason {
    fn holds(cause: Cause, name: &str, since: Moment, sentence: String) -> Reason {
        Reason { cause, name: name.to_owned(), since, holds: true, sentence }
    }
}

/// Why results are not complete, the first to look at first. Empty when nothing is held back.
#[must_use]
pub fn why_open(snapshot: &Snapshot, now: Moment) -> Vec<Reason> {
    let judge = Judge { snapshot, now };
    let mut reasons = judge.processes();
    reasons.extend(judge.sinks());
    reasons.extend(judge.operators());
    if reasons.is_empty() {
        reasons.extend(judge.log());
    }
    let waits = judge.source(&reasons);
    reasons.extend(waits);
    // While commits are held up the source is too, so that a partition that stands still is no reason of its own.
    let held_up = !reasons.is_empty();
    reasons.extend(judge.partitions(held_up));
    reasons
}

struct Judge<'a> {
    snapshot: &'a Snapshot,
    now: Moment,
}

impl Judge<'_> {
    fn long(&self, since: Moment) -> bool {
        self.now.since(since) >= PATIENCE
    }

    /// How long ago, for a sentence.
    fn ago(&self, since: Moment) -> String {
        let seconds = self.now.since(since).as_secs();
        match seconds {
            0..120 => format!("{seconds} s"),
            120..7_200 => format!("{} min", seconds / 60),
            _ => format!("{} h", seconds / 3_600),
        }
    }

    /// The oldest epoch in flight, if it has been for long.
    fn stuck(&self) -> Option<Working> {
        self.snapshot.epoch.oldest_in_flight.filter(|oldest| self.long(oldest.since))
    }

    fn processes(&self) -> Vec<Reason> {
        let silent = self.snapshot.peers.iter().filter(|peer| self.now.since(peer.heard) > SILENT);
        let reason = |peer: &super::snapshot::Process| {
            let (process, ago) = (peer.process, self.ago(peer.heard));
            let sentence = format!(
                "Process {process} has not answered for {ago}: it is stopped, swapped out or cut off, and nobody finishes an \
                 epoch without it; look at its host and log, the run is given up and started again when it stays silent"
            );
            Reason::holds(Cause::Process, &format!("process {process}"), peer.heard, sentence)
        };
        silent.map(reason).collect()
    }

    fn sinks(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if self.snapshot.state == State::Starting {
            for (operator, sink) in self.snapshot.unopened().filter(|(_, sink)| self.long(sink.since)) {
                let (id, ago) = (&operator.id, self.ago(sink.since));
                let sentence = format!(
                    "Sink `{id}` is not open after {ago}: its server does not answer or is being waited for, and nothing is \
                     committed before; look at the log of this process and at the server"
                );
                reasons.push(Reason::holds(Cause::Sink, id, sink.since, sentence));
            }
        }
        let writing = |operator: &Operator| operator.sink.as_ref()?.writing.filter(|write| self.long(write.since));
        for (operator, write) in self.snapshot.operators.iter().filter_map(|o| Some((o, writing(o)?))) {
            let (id, epoch, ago) = (&operator.id, write.epoch, self.ago(write.since));
            let sentence = format!(
                "Sink `{id}` has been writing epoch {epoch} for {ago}: the place that it writes to is slow, full or does not \
                 answer; look at that server and at the log of this process, it goes on by itself"
            );
            reasons.push(Reason::holds(Cause::Sink, id, write.since, sentence));
        }
        reasons
    }

    fn operators(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        for operator in &self.snapshot.operators {
            for at in &operator.at {
                let Some(working) = at.working.filter(|working| self.long(working.since)) else { continue };
                let (id, worker, epoch, ago) = (&operator.id, at.worker, working.epoch, self.ago(working.since));
                let sentence = format!(
                    "Operator `{id}` on worker {worker} has been working on epoch {epoch} for {ago}: more workers or smaller \
                     epochs (--epoch-bytes) make its part smaller; if it never ends, its code loops or waits"
                );
                reasons.push(Reason::holds(Cause::Operator, id, working.since, sentence));
            }
        }
        if reasons.is_empty()
            && let Some(stuck) = self.stuck()
            && let Some((operator, worker)) = self.first_behind(stuck.epoch)
        {
            let (id, epoch, ago) = (&operator.id, stuck.epoch, self.ago(stuck.since));
            let sentence = format!(
                "Operator `{id}` on worker {worker} has not finished epoch {epoch}, which was cut {ago} ago, and is not at work \
                 on it: its worker is busy elsewhere or stopped, or a process is that it exchanges records with; look at the \
                 processes of the run"
            );
            reasons.push(Reason::holds(Cause::Operator, id, stuck.since, sentence));
        }
        reasons
    }

    /// The first operator of the plan that has not closed the epoch. Steps that close nothing are passed over, and sinks
    /// while they wait for something: for their writer, or for the epoch to be bound.
    fn first_behind(&self, epoch: Epoch) -> Option<(&Operator, u32)> {
        let bound = self.snapshot.epoch.bound >= epoch;
        let judged = |operator: &&Operator| operator.sink.as_ref().is_none_or(|sink| bound && sink.writing.is_none());
        self.snapshot.operators.iter().filter(judged).find_map(|operator| {
            let behind = operator.at.iter().find(|at| at.closed.is_some_and(|closed| closed < epoch))?;
            Some((operator, behind.worker))
        })
    }

    /// What is in flight although everybody is done with it.
    fn log(&self) -> Option<Reason> {
        let stuck = self.stuck()?;
        let epochs = &self.snapshot.epoch;
        let (epoch, ago) = (stuck.epoch, self.ago(stuck.since));
        let missing = if epochs.bound < epoch { "bound" } else { "committed" };
        let sentence = format!(
            "Epoch {epoch}, cut {ago} ago, is not recorded as {missing}, and no operator or sink holds it up: the store of log \
             and state is slow, full or does not answer; look at it and at the log of this process, it goes on by itself"
        );
        Some(Reason::holds(Cause::Log, "log", stuck.since, sentence))
    }

    fn source(&self, because: &[Reason]) -> Option<Reason> {
        let waiting = self.snapshot.waiting.filter(|waiting| self.long(waiting.since))?;
        let names: Vec<&str> = because.iter().map(|reason| reason.name.as_str()).collect();
        let held_by = if names.is_empty() { "what is in flight".to_owned() } else { names.join(", ") };
        let (epoch, ago) = (waiting.epoch, self.ago(waiting.since));
        let (used, budget) = (self.snapshot.in_flight_bytes >> 20, self.snapshot.memory_budget >> 20);
        let sentence = format!(
            "The source has waited for {ago} before epoch {epoch}: {used} of {budget} MiB of memory are in flight, or too many \
             epochs, because of {held_by}; it goes on when that is committed (--memory-budget would only move the moment)"
        );
        let name = self.snapshot.operators.iter().find(|operator| operator.inputs.is_empty());
        let name = name.map_or("source", |operator| operator.id.as_str());
        Some(Reason::holds(Cause::Source, name, waiting.since, sentence))
    }

    fn partitions(&self, held_up: bool) -> Vec<Reason> {
        let partitions = &self.snapshot.partitions;
        let active: Vec<&Partition> = partitions.iter().filter(|p| !p.idle && !p.finished).collect();
        let mut reasons = if held_up { Vec::new() } else { self.held_by(&active) };
        for idle in partitions.iter().filter(|p| p.idle && !p.finished) {
            let (name, ago) = (&idle.name, self.ago(idle.turned));
            let sentence = format!(
                "Partition {name} has been idle for {ago}: it is at its end, and the watermark does not wait for it; what comes \
                 in it late is still counted by windows that correct"
            );
            reasons.push(Reason {
                cause: Cause::Partition,
                name: name.clone(),
                since: idle.turned,
                holds: false,
                sentence,
            });
        }
        let more_may_come = !self.snapshot.closed;
        if active.is_empty() && !partitions.is_empty() && partitions.iter().all(|p| p.finished) {
            let since = partitions.iter().map(|p| p.advanced).max().unwrap_or(self.now);
            let sentence =
                "All partitions are at their end: windows after the watermark stay open and shown, because more \
                            input may be added; --drain declares the end of time and closes them"
                    .to_owned();
            let name = "all partitions".to_owned();
            reasons.extend(more_may_come.then_some(Reason {
                cause: Cause::Source,
                name,
                since,
                holds: false,
                sentence,
            }));
        }
        reasons
    }

    /// The partitions that hold the watermark at their own.
    fn held_by(&self, active: &[&Partition]) -> Vec<Reason> {
        // An unknown watermark is the smallest.
        let Some(lowest) = active.iter().map(|p| p.watermark).min() else { return Vec::new() };
        let next = active.iter().filter_map(|p| p.watermark).filter(|at| Some(*at) > lowest).min();
        let mut reasons = Vec::new();
        for partition in active.iter().filter(|p| p.watermark == lowest) {
            let stands = self.long(partition.advanced);
            let ahead = lowest.zip(next).map(|(lowest, next)| next.since(lowest));
            let behind = ahead.is_some_and(|ahead| ahead > BEHIND);
            if !stands && !behind {
                continue;
            }
            let (name, ago) = (&partition.name, self.ago(partition.advanced));
            let why = match (partition.watermark, stands) {
                (None, _) => format!("has told no time since it was found {ago} ago"),
                (Some(at), true) => format!("stands at {at} and has not moved for {ago}"),
                (Some(at), false) => format!("is at {at}, {} behind the next one", minutes(ahead)),
            };
            let remedy = match (partition.lag_records, stands) {
                (Some(0), _) => "it is at its end and will count as idle after its idle time",
                (Some(_), _) | (None, false) => "it has more to read, and the others wait for it",
                (None, true) => {
                    "if its producer has stopped it counts as idle once an answered fetch shows its end; if its server does \
                     not answer, look there"
                }
            };
            let sentence = format!("Partition {name} holds the watermark back: it {why}; {remedy}");
            reasons.push(Reason::holds(Cause::Partition, name, partition.advanced, sentence));
        }
        reasons
    }
}

fn minutes(span: Option<Duration>) -> String {
    format!("{} min", span.unwrap_or_default().as_secs() / 60)
}
