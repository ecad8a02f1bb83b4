//! What happens once an epoch, in plain data: times of epochs, partitions, commits, checkpoints. Every method is told the
//! time; there is no clock in here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tidemill_log::{PartitionBinding, PartitionStatus};

use super::Start;
use super::gauge::{Gauge, Role};
use super::marks::{self, EpochTimes, Watcher};
use super::reasons::{MalformedReason, Reasons};
use super::snapshot::{
    Checkpoint, Checkpoints, Counts, EpochLatency, Epochs, LeftOut, Moment, Operator, Partition, Process, Progress,
    Rates, Samples, SetAside, Sink, Snapshot, State, Totals, Waiting, Why, Worker, Working,
};
use crate::bind::Bound;
use crate::reader::MEMORY_PER_BYTE;
use crate::time::Epoch;

/// Upper bounds of the buckets of [`LatencyHistogram`], in seconds.
pub const LATENCY_BUCKETS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// How long epochs took from their cut to their commit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatencyHistogram {
    /// Epochs in each bucket of [`LATENCY_BUCKETS`], not cumulated, and at last those beyond all.
    pub buckets: [u64; LATENCY_BUCKETS.len() + 1],
    /// Epochs in all.
    pub count: u64,
    /// Their times added up, in seconds.
    pub sum: f64,
}

impl LatencyHistogram {
    fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = LATENCY_BUCKETS.iter().position(|bound| seconds <= *bound).unwrap_or(LATENCY_BUCKETS.len());
        self.buckets[bucket] += 1;
        self.count += 1;
        self.sum += seconds;
    }
}

/// Epochs whose latency is kept for quantiles.
const LATENCIES: usize = 512;
/// Checkpoints that are shown.
const CHECKPOINTS: usize = 20;
/// Records of each kind that are shown.
pub(crate) const SAMPLES: usize = 10;
/// The span that rates are taken over.
const RATED: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct InFlight {
    bytes: u64,
    cut: Moment,
    bound: Option<Moment>,
    processed: Option<Moment>,
}

/// What stood at a commit.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Moment,
    events: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    run: u64,
    workers: u32,
    processes: u32,
    memory_budget: u64,
    started: Option<Moment>,
    operators: Vec<Operator>,
    epochs: Epochs,
    in_flight: BTreeMap<Epoch, InFlight>,
    committed: Totals,
    complete_through: Option<i64>,
    closed: bool,
    marks: VecDeque<Mark>,
    latencies: VecDeque<Duration>,
    histogram: LatencyHistogram,
    partitions: BTreeMap<u32, Partition>,
    lags: BTreeMap<u32, Option<u64>>,
    counts: BTreeMap<String, u64>,
    accepted_loss: Vec<String>,
    checkpoints: Checkpoints,
    checkpoints_begun: BTreeMap<Epoch, Moment>,
    stored: BTreeMap<String, u64>,
    malformed: VecDeque<LeftOut>,
    reasons: Reasons,
    /// With the number of each one's partition.
    aside: BTreeMap<Why, VecDeque<(u32, SetAside)>>,
    waiting: Option<Waiting>,
    peers: BTreeMap<u32, Moment>,
    last_read: bool,
    unrecorded: bool,
    watcher: Watcher,
}

impl Book {
    pub(super) fn histogram(&self) -> &LatencyHistogram {
        &self.histogram
    }

    pub(super) fn watch(&mut self, most: usize) -> Receiver<marks::Mark> {
        self.watcher.begin(most)
    }

    pub(super) fn started(&mut self, start: &Start<'_>, now: Moment) {
        (self.run, self.workers, self.processes) = (start.run, start.workers, start.processes);
        (self.memory_budget, self.started) = (start.memory_budget, Some(now));
        let operator = |(position, operator): (usize, &crate::plan::Operator)| Operator {
            id: operator.id.map_or_else(|| format!("{}_{position}", operator.kind), str::to_owned),
            kind: operator.kind.clone(),
            inputs: operator.inputs.clone(),
            ..Operator::default()
        };
        self.operators = start.plan.operators().iter().enumerate().map(operator).collect();
        let state = start.state;
        self.epochs.committed = state.committed().unwrap_or(0);
        self.epochs.bound = state.bound().unwrap_or(0);
        (self.complete_through, self.closed) = (state.complete_through(), state.closed());
        self.counts = state.counts().clone();
        let accepted = state.seal().map(|seal| seal.accepted_loss.iter().map(ToString::to_string).collect());
        self.accepted_loss = accepted.unwrap_or_default();
        self.checkpoints.epoch = state.checkpoints().last().map(|checkpoint| checkpoint.epoch);
        self.marks.push_back(Mark { at: now, events: events(&self.counts), bytes: 0 });
        self.partitions(state.bound_partitions().values(), now);
    }

    /// No log says where the source begins.
    pub(super) fn unrecorded(&mut self) {
        self.unrecorded = true;
    }

    pub(super) fn heard_from(&mut self, process: u32, at: Moment) {
        self.peers.insert(process, at);
    }

    pub(super) fn cut(&mut self, epoch: Epoch, bytes: u64, now: Moment) {
        self.epochs.read = self.epochs.read.max(epoch);
        self.in_flight.insert(epoch, InFlight { bytes, cut: now, bound: None, processed: None });
    }

    pub(super) fn lag(&mut self, partition: u32, records: Option<u64>) {
        self.lags.insert(partition, records);
    }

    pub(super) fn waits(&mut self, epoch: Option<Epoch>, now: Moment) {
        self.waiting = epoch.map(|epoch| {
            let since = self.waiting.filter(|before| before.epoch == epoch).map_or(now, |before| before.since);
            Waiting { epoch, since }
        });
    }

    pub(super) fn gathered(&mut self, epoch: Epoch, bound: &Bound, checkpoint: bool, now: Moment) {
        self.partitions(&bound.binding.partitions, now);
        self.last_read |= bound.last;
        if checkpoint {
            self.checkpoints_begun.insert(epoch, now);
        }
        for letters in [&bound.malformed, &bound.quarantined] {
            let newest = letters.iter().rev().take(SAMPLES).rev();
            self.malformed.extend(newest.map(|(partition, letter)| LeftOut::new(partition, letter)));
        }
        keep_last(&mut self.malformed);
        bound.malformed.iter().for_each(|(partition, letter)| self.reasons.see(partition, letter));
    }

    pub(super) fn malformed_reasons(&self) -> Vec<MalformedReason> {
        self.reasons.by_count()
    }

    pub(super) fn without_records(&self) -> Vec<MalformedReason> {
        let without = self.partitions.values().filter(|partition| partition.watermark.is_none());
        without.filter_map(|partition| self.reasons.of_partition(&partition.name).cloned()).collect()
    }

    pub(super) fn set_aside(&mut self, why: Why, records: Vec<(u32, SetAside)>) {
        let kept = self.aside.entry(why).or_default();
        kept.extend(records);
        keep_last(kept);
    }

    pub(super) fn partitions<'a>(&mut self, moved: impl IntoIterator<Item = &'a PartitionBinding>, now: Moment) {
        for binding in moved {
            let partition = self.partitions.entry(binding.partition).or_insert_with(|| Partition {
                name: binding.name.clone(),
                offset: 0,
                records: 0,
                watermark: None,
                idle: false,
                finished: false,
                lag_records: None,
                advanced: now,
                turned: now,
            });
            let watermark = binding.watermark.map(Moment);
            if partition.watermark != watermark {
                (partition.watermark, partition.advanced) = (watermark, now);
            }
            let idle = binding.status == PartitionStatus::Idle;
            if partition.idle != idle {
                (partition.idle, partition.turned) = (idle, now);
            }
            partition.finished = binding.status == PartitionStatus::Finished;
            (partition.offset, partition.records) = (binding.end, binding.lines);
        }
    }

    pub(super) fn bound(&mut self, epoch: Epoch, now: Moment) {
        self.epochs.bound = self.epochs.bound.max(epoch);
        self.unrecorded = false;
        if let Some(in_flight) = self.in_flight.get_mut(&epoch) {
            in_flight.bound = Some(now);
        }
    }

    pub(super) fn processed(&mut self, epoch: Epoch, now: Moment) {
        if let Some(in_flight) = self.in_flight.get_mut(&epoch) {
            in_flight.processed = Some(now);
        }
    }

    pub(super) fn passed(&mut self, epoch: Epoch) {
        self.in_flight = self.in_flight.split_off(&(epoch + 1));
        self.epochs.committed = self.epochs.committed.max(epoch);
    }

    pub(super) fn committed(
        &mut self,
        epoch: Epoch,
        through: (Option<i64>, bool),
        counts: &BTreeMap<String, u64>,
        now: Moment,
    ) {
        self.epochs.committed_at = Some(now);
        (self.complete_through, self.closed) = through;
        self.counts.clone_from(counts);
        self.committed.epochs += 1;
        if let Some(InFlight { bytes, cut, bound, processed }) = self.in_flight.get(&epoch) {
            let took = now.since(*cut);
            self.committed.bytes += bytes;
            self.watcher.tell(|| {
                let (bytes, cut, bound, processed) = (*bytes, *cut, *bound, *processed);
                marks::Mark::Epoch(EpochTimes { epoch, bytes, cut, bound, processed, committed: now })
            });
            self.histogram.add(took);
            self.latencies.push_back(took);
            if self.latencies.len() > LATENCIES {
                self.latencies.pop_front();
            }
        }
        self.marks.push_back(Mark { at: now, events: events(counts), bytes: self.committed.bytes });
        // The mark before the span stays: rates are taken from there.
        while self.marks.len() > 2 && now.since(self.marks[1].at) > RATED {
            self.marks.pop_front();
        }
        self.passed(epoch);
    }

    pub(super) fn checkpointed(&mut self, epoch: Epoch, added: u64, stored: BTreeMap<String, u64>, now: Moment) {
        let begun = self.checkpoints_begun.remove(&epoch).unwrap_or(now);
        self.stored = stored;
        let bytes = self.stored.values().sum();
        let checkpoints = &mut self.checkpoints;
        (checkpoints.epoch, checkpoints.bytes) = (Some(epoch), bytes);
        checkpoints.taken += 1;
        let duration_ms = u64::try_from(now.since(begun).as_millis()).unwrap_or(u64::MAX);
        let checkpoint = Checkpoint { epoch, at: now, added_bytes: added, bytes, duration_ms };
        self.watcher.tell(|| marks::Mark::Checkpoint(checkpoint.clone()));
        checkpoints.history.push(checkpoint);
        if checkpoints.history.len() > CHECKPOINTS {
            checkpoints.history.remove(0);
        }
    }

    /// The part of the display that is known here.
    pub(super) fn progress(&self) -> Progress {
        let checkpoints = self.checkpoints.taken;
        if self.committed.epochs == 0 {
            return Progress { checkpoints, ..Progress::default() };
        }
        let (events, epoch) = (events(&self.counts), self.epochs.committed);
        Progress { events, epoch, watermark: self.complete_through.map(Moment), checkpoints, ..Progress::default() }
    }

    pub(super) fn snapshot(
        &self,
        pipeline: &str,
        gauges: &[Arc<Gauge>],
        (reading, stopping): (u64, bool),
        now: Moment,
    ) -> Snapshot {
        let operators = self.operators_now(gauges);
        let built = gauges.iter().filter(|gauge| gauge.role == Role::Source).count();
        let open = operators.iter().filter_map(|operator| operator.sink.as_ref()).all(|sink| sink.opened);
        let state = match (stopping || self.last_read, self.run > 0 && built >= self.workers as usize && open) {
            (true, _) => State::Stopping,
            (false, true) => State::Running,
            (false, false) => State::Starting,
        };
        let in_flight: u64 = self.in_flight.values().map(|epoch| epoch.bytes).sum();
        let oldest = self.in_flight.first_key_value();
        let oldest_in_flight = oldest.map(|(epoch, began)| Working { epoch: *epoch, since: began.cut });
        let known = self.complete_through.filter(|_| !self.closed);
        let last_checkpoint = self.checkpoints.history.last();
        Snapshot {
            pipeline: pipeline.to_owned(),
            run: self.run,
            workers: self.workers,
            processes: self.processes,
            state,
            unrecorded: self.unrecorded,
            started: self.started,
            epoch: Epochs { oldest_in_flight, ..self.epochs.clone() },
            watermark: self.complete_through.map(Moment),
            closed: self.closed,
            lag_seconds: known.map(|time| now.0.saturating_sub(time) as f64 / 1000.0),
            rates: self.rates(now),
            committed: self.committed.clone(),
            epoch_latency_ms: self.quantiles(),
            checkpoint: Checkpoints {
                age_seconds: last_checkpoint.map(|last| now.since(last.at).as_secs_f64()),
                ..self.checkpoints.clone()
            },
            partitions: self.partitions_now(),
            operators,
            counts: counts(&self.counts),
            accepted_loss: self.accepted_loss.clone(),
            samples: self.samples(),
            why_open: Vec::new(),
            waiting: self.waiting,
            in_flight_bytes: (in_flight + reading).saturating_mul(MEMORY_PER_BYTE),
            memory_budget: self.memory_budget,
            peers: self.peers(now),
        }
    }

    fn partitions_now(&self) -> Vec<Partition> {
        let lag = |number: &u32| self.lags.get(number).copied().flatten();
        let with_lag =
            |(number, partition): (&u32, &Partition)| Partition { lag_records: lag(number), ..partition.clone() };
        self.partitions.iter().map(with_lag).collect()
    }

    fn samples(&self) -> Samples {
        let aside = |why: Why| {
            let named = |(number, record): &(u32, SetAside)| {
                let partition = self.partitions.get(number).map(|partition| partition.name.clone());
                SetAside { partition, ..record.clone() }
            };
            self.aside.get(&why).into_iter().flatten().map(named).collect()
        };
        Samples {
            malformed: self.malformed.iter().cloned().collect(),
            late: aside(Why::Late),
            conflicting: aside(Why::Conflicting),
            unverified: aside(Why::Unverified),
        }
    }

    fn peers(&self, now: Moment) -> Vec<Process> {
        let peer = |(process, heard): (&u32, &Moment)| Process {
            process: *process,
            heard: *heard,
            heartbeat_age_seconds: now.since(*heard).as_secs_f64(),
        };
        self.peers.iter().map(peer).collect()
    }

    fn rates(&self, now: Moment) -> Rates {
        let (Some(first), Some(last)) = (self.marks.front(), self.marks.back()) else { return Rates::default() };
        let seconds = now.since(first.at).as_secs_f64().max(0.001);
        Rates {
            events_per_second: last.events.saturating_sub(first.events) as f64 / seconds,
            bytes_per_second: last.bytes.saturating_sub(first.bytes) as f64 / seconds,
        }
    }

    fn quantiles(&self) -> EpochLatency {
        let mut sorted: Vec<u64> =
            self.latencies.iter().map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)).collect();
        sorted.sort_unstable();
        let at = |hundredths: usize| sorted.get((sorted.len() * hundredths).div_ceil(100).saturating_sub(1)).copied();
        EpochLatency { p50: at(50), p99: at(99) }
    }

    /// The operators of the plan with what the gauges say of each.
    fn operators_now(&self, gauges: &[Arc<Gauge>]) -> Vec<Operator> {
        let mut operators = self.operators.clone();
        let mut by_node: Vec<Vec<&Gauge>> = vec![Vec::new(); operators.len()];
        for gauge in gauges {
            if let Some(parts) = by_node.get_mut(gauge.node) {
                parts.push(gauge);
            }
        }
        for (operator, parts) in operators.iter_mut().zip(&by_node) {
            fill(operator, parts);
            operator.stored_bytes = self.stored.get(&operator.id).copied().unwrap_or(0);
        }
        operators
    }
}

/// Drops all but the newest samples.
fn keep_last<T>(kept: &mut VecDeque<T>) {
    let surplus = kept.len().saturating_sub(SAMPLES);
    kept.drain(..surplus);
}

/// Sums the parts of an operator up.
fn fill(operator: &mut Operator, parts: &[&Gauge]) {
    let has = |role: Role| parts.iter().any(|part| part.role == role);
    // Records, not the rows that its parts exchange among themselves.
    let (counts_in, counts_out): (&[Role], &[Role]) = match (has(Role::Combine), has(Role::Except)) {
        (_, true) => (&[Role::Except], &[Role::Except]),
        (true, false) => (&[Role::Combine], &[Role::Keyed]),
        (false, false) if has(Role::Leave) => (&[Role::Keyed], &[Role::Leave]),
        (false, false) => (
            &[Role::Source, Role::Step, Role::Keyed, Role::Encode],
            &[Role::Source, Role::Step, Role::Keyed, Role::Write],
        ),
    };
    let mut workers: BTreeMap<u32, Worker> = BTreeMap::new();
    for part in parts {
        let (records_in, records_out) = part.records();
        operator.records_in += if counts_in.contains(&part.role) { records_in } else { 0 };
        operator.records_out += if counts_out.contains(&part.role) { records_out } else { 0 };
        let size = part.size();
        operator.state_bytes += size.bytes;
        operator.state_entries += size.entries;
        let working = part.at_work().map(|(epoch, since)| Working { epoch, since });
        if part.role == Role::Write {
            operator.sink = Some(Sink { opened: part.is_open(), writing: working, since: part.since() });
            continue;
        }
        let closed = part.role.closes_epochs().then(|| part.through());
        let worker = workers.entry(part.worker).or_insert(Worker { worker: part.worker, closed, working });
        worker.closed = [worker.closed, closed].into_iter().flatten().min();
        worker.working = worker.working.or(working);
    }
    operator.closed = workers.values().filter_map(|worker| worker.closed).min().filter(|closed| *closed != Epoch::MAX);
    operator.at = workers.into_values().collect();
    for worker in &mut operator.at {
        worker.closed = worker.closed.filter(|closed| *closed != Epoch::MAX);
    }
}

fn sum(counts: &BTreeMap<String, u64>, names: &[&str]) -> u64 {
    let names: BTreeSet<&str> = names.iter().copied().collect();
    let named = |full: &str| full.rsplit_once('/').is_some_and(|(_, name)| names.contains(name));
    counts.iter().filter(|(full, _)| named(full)).map(|(_, n)| n).sum()
}

fn events(counts: &BTreeMap<String, u64>) -> u64 {
    sum(counts, &["read"])
}

fn counts(all: &BTreeMap<String, u64>) -> Counts {
    Counts {
        events: events(all),
        late: sum(all, &["late"]),
        duplicate: sum(all, &["duplicates"]),
        conflicting: sum(all, &["conflicting_duplicates"]),
        malformed: sum(all, &["malformed"]),
        quarantined: sum(all, &["quarantined"]),
        unverified: sum(all, &["unverified"]),
        lost: sum(all, &["lost"]),
        all: all.clone(),
    }
}
