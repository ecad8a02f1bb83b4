//! Running a pipeline: dry build, seal, restore, workers, log, and an orderly end.
//!
//! A start is: build dry (report everything that is wrong), compare with the newest checkpoint (a start that is refused leaves
//! a living run alone), take a run number, choose the newest intact checkpoint, seal, replay the bound epochs after it, go on
//! live (INV-5). After a failure a sink's thread may still hang in its last write.

mod begin;
mod error;
mod follow;
mod losses;
mod program;
mod repeat;
mod threads;
mod workers;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidemill_log::{History, KEPT_BINDINGS, LogError, LogErrorKind, LogState, Loss, Store};
use timely::WorkerConfig;
use timely::communication::Allocator;
use timely::worker::Worker;

use crate::checkpoint::manifest::Planned;
use crate::checkpoint::restore::{LoadError, Restored, load_manifest};
use crate::checkpoint::writer;
use crate::cluster::Place;
use crate::coordinator::{Book, Coordinator, reachable};
use crate::faults::Faults;
use crate::flow::{Env, Flow, Registry};
use crate::observers::Observers;
use crate::plan::Plan;
use crate::quarantine::{Begins, EPOCHS_IN_FLIGHT, Passing, Phase, Quarantined, Watch, Witness, committed_ends};
use crate::queue::BlockQueue;
use crate::reader::{Reader, ReaderConfig};
use crate::shared::{Request, Requests, Shared};
use crate::sink::{CommitObserver, Fence, Maintenance, SinkNotes, SinkStart};
use crate::source::{PartitionBinding, as_the_connector_left_it, behind_losses};
use crate::status::{Start, Status};
use crate::time::{Epoch, Watermark};
pub use error::{RunError, RunErrorKind};
pub use follow::{Followed, dismiss, follow};
pub use repeat::repeat;

pub(crate) use begin::log_options;
use begin::{Begun, check_options, check_settings, check_unfenced, start};
use follow::lead;
use threads::{Ticker, join, later, spawn};
use workers::run_workers;

/// How to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Worker threads.
    pub workers: u32,
    /// Bytes of input an epoch takes.
    pub epoch_bytes: u64,
    /// The length of an epoch of a live source, unless it is full before.
    pub epoch_every: Duration,
    /// Time between two checkpoints.
    pub checkpoint_every: Duration,
    /// Bytes of memory for what is read and not yet committed.
    pub memory_budget: u64,
    /// Sinks left out.
    pub disabled_sinks: BTreeSet<String>,
    /// Whether there is a log and checkpoints.
    pub exactly_once: bool,
    /// Whether the end of the input is the end of time.
    pub drain: bool,
    /// Epochs whose bindings are kept, so that the run can be repeated in its cuts; 0 keeps what recovery needs alone.
    pub keep_bindings: u64,
    /// Records that another run set aside, and that this one leaves out likewise: a replay of it.
    pub quarantined: Vec<Quarantined>,
    /// What else makes two runs of this pipeline differ (input format, hash keys), recorded with the plan.
    pub settings: String,
    /// Operators whose state in the checkpoint is given up; each must have some.
    pub drop_state: BTreeSet<String>,
    /// Records that are gone before they were read, and that the run goes on without.
    pub accepted_loss: Vec<Loss>,
    /// Places of sinks (topics) that the run goes on with although they do not hold what was written to them.
    pub accepted_places: BTreeSet<String>,
    /// Whether epochs that an earlier run bound may be replayed by a changed plan or another build.
    pub replay_with_changed_plan: bool,
    /// Faults to act out.
    pub faults: Faults,
}

impl Default for RunOptions {
    /// One worker, epochs of 32 MiB or a second, a checkpoint every ten seconds, 256 MiB in flight, exactly once.
    fn default() -> Self {
        RunOptions {
            workers: 1,
            epoch_bytes: 32 << 20,
            epoch_every: Duration::from_secs(1),
            checkpoint_every: Duration::from_secs(10),
            memory_budget: 256 << 20,
            disabled_sinks: BTreeSet::new(),
            exactly_once: true,
            drain: false,
            keep_bindings: KEPT_BINDINGS,
            quarantined: Vec::new(),
            settings: String::new(),
            drop_state: BTreeSet::new(),
            accepted_loss: Vec::new(),
            accepted_places: BTreeSet::new(),
            replay_with_changed_plan: false,
            faults: Faults::default(),
        }
    }
}

/// Everything a run works on.
pub struct RunContext {
    /// Where log, state and tables are.
    pub store: Arc<dyn Store>,
    /// Housekeeping of the tables.
    pub maintenance: Option<Box<dyn Maintenance>>,
    /// Those who follow the commits.
    pub observers: Vec<Box<dyn CommitObserver>>,
    /// What the run does right now, for operators.
    pub status: Arc<Status>,
    /// This process's place, where several are one run.
    pub place: Option<Place>,
    /// Called with sentences that the operator should see (a damaged checkpoint that was passed over).
    pub warn: Box<dyn Fn(&str) + Send>,
}

/// Asks a run to end after the epoch that is being read.
#[derive(Clone)]
pub struct StopHandle(Arc<Mutex<StopState>>);

#[derive(Default)]
struct StopState {
    requested: bool,
    shared: Option<Arc<Shared>>,
}

impl Default for StopHandle {
    fn default() -> Self {
        StopHandle(Arc::new(Mutex::new(StopState::default())))
    }
}

impl StopHandle {
    /// Asks; returns at once.
    pub fn stop(&self) {
        let mut state = self.0.lock().expect("no panic while it is held");
        state.requested = true;
        if let Some(shared) = &state.shared {
            shared.stop();
        }
    }

    /// Asks, and gives up waiting for what has not ended by then, a server that does not answer for one:
    /// [`RunError::Unfinished`]. What was read and not committed is read again by the next run.
    pub fn stop_within(&self, at_most: Duration) {
        self.stop();
        let state = Arc::clone(&self.0);
        let give_up = move || {
            let shared = state.lock().expect("no panic while it is held").shared.clone();
            if let Some(shared) = shared {
                let reasons = shared.status.snapshot().why_open;
                let reason = reasons.iter().find(|reason| reason.holds).map(|reason| reason.sentence.clone());
                shared.fail(RunError::Unfinished(reason.unwrap_or_else(|| "what was read takes longer".to_owned())));
            }
        };
        later(at_most, give_up);
    }

    fn attach(&self, shared: &Arc<Shared>) {
        let mut state = self.0.lock().expect("no panic while it is held");
        if state.requested {
            shared.stop();
        }
        state.shared = Some(Arc::clone(shared));
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct RunReport {
    /// All input was read and committed (otherwise the run was asked to stop).
    pub finished: bool,
    /// The meaning of the log at the end.
    pub state: LogState,
    /// The checkpoint that the run started from.
    pub resumed_from: Option<Epoch>,
    /// Epochs committed in this run.
    pub epochs: u64,
    /// Checkpoints taken in this run.
    pub checkpoints: u64,
}

/// The pipeline's author's function: called once dry and once on every worker.
pub trait Build: Fn(&Flow<'_>) + Send + Sync + 'static {}
impl<F: Fn(&Flow<'_>) + Send + Sync + 'static> Build for F {}

fn env(
    shared: Arc<Shared>,
    requests: Requests,
    options: &RunOptions,
    restored: Restored,
    state: &LogState,
    sink_start: Option<SinkStart>,
) -> Env {
    let bound = state.bindings().values().map(|b| (b.epoch, b.watermark)).collect();
    Env {
        queue: Arc::new(BlockQueue::new(restored.epoch)),
        shared,
        requests,
        snapshots: Mutex::new(None),
        restored,
        committed: state.committed().unwrap_or(0),
        sink_start,
        processes: 1,
        bound,
        disabled_sinks: options.disabled_sinks.clone(),
        faults: options.faults.clone(),
        exactly_once: options.exactly_once,
        registry: Mutex::default(),
        witness: Arc::default(),
    }
}

fn build_dry(build: &impl Build, options: &RunOptions) -> (Plan, Registry) {
    let shared = Arc::new(Shared::new(0, Arc::default()));
    let (requests, _receiver) = Requests::new(Arc::clone(&shared));
    let env = Arc::new(env(shared, requests, options, Restored::default(), &LogState::default(), None));
    let allocator = Allocator::Thread(timely::communication::allocator::Thread::default());
    let mut worker = Worker::new(WorkerConfig::default(), allocator, None);
    let dry = Arc::clone(&env);
    let mut plan = worker.dataflow::<Epoch, _, _>(|scope| {
        let flow = Flow::new(scope, dry);
        build(&flow);
        let mut plan = flow.wiring.plan.take();
        plan.finish();
        plan
    });
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
    let registry = std::mem::take(&mut *env.registry.lock().expect("no panic while it is held"));
    let known: BTreeSet<&str> = plan.ids("sink").collect();
    let unknown: Vec<&String> = options.disabled_sinks.iter().filter(|id| !known.contains(id.as_str())).collect();
    let names = known.iter().copied().collect::<Vec<_>>().join(", ");
    for id in unknown {
        plan.problem(format!("--disable-sink {id}: there is no such sink; there are {names}"));
    }
    (plan, registry)
}

/// The plan of a pipeline, built dry.
///
/// # Errors
/// [`RunError::Usage`] with everything that is wrong with it, in one message.
pub fn plan(build: &impl Build, options: &RunOptions) -> Result<Plan, RunError> {
    let (plan, _) = build_dry(build, options);
    checked(&plan).map(|()| plan)
}

fn checked(plan: &Plan) -> Result<(), RunError> {
    if plan.problems().is_empty() { Ok(()) } else { Err(RunError::Usage(plan.problems().join("\n"))) }
}

/// Whether a folder with this log may be gone on with under these options; reads and writes nothing. Gives whether the plan is
/// that of the last start: another one may still be refused by a start, which compares it with the checkpoint.
///
/// # Errors
/// [`RunError::Usage`] for a wrong plan or option, [`RunError::State`] where the folder was begun with other settings.
pub fn check(build: &impl Build, options: &RunOptions, state: &LogState) -> Result<bool, RunError> {
    check_options(options)?;
    let sealed = sealed_plan(&plan(build, options)?, options);
    check_settings(state, &sealed)?;
    Ok(state.seal().is_none_or(|seal| seal.plan == sealed))
}

/// Whether a run would start over what is there, were it not for one that is alive; only reads.
///
/// # Errors
/// What a start is refused for before it fences anybody.
pub fn would_start(build: &impl Build, options: &RunOptions, store: &Arc<dyn Store>) -> Result<(), RunError> {
    check_options(options)?;
    let plan = plan(build, options)?;
    check_unfenced(store, options, &plan, &sealed_plan(&plan, options))
}

/// What `seal` records of the plan: a start with another one is refused where bound epochs wait to be replayed.
fn sealed_plan(plan: &Plan, options: &RunOptions) -> String {
    let disabled: Vec<&str> = options.disabled_sinks.iter().map(String::as_str).collect();
    let mode = if options.exactly_once { "exactly-once on" } else { "exactly-once off" };
    format!("{} disabled=[{}] {mode} {}", plan.fingerprint(), disabled.join(","), options.settings)
        .trim_end()
        .to_owned()
}

/// Runs a pipeline until its input ends, `stop` is called, or something fails.
///
/// # Errors
/// See [`RunError`]; whatever was committed stays, and the same call goes on from there.
pub fn run(
    build: impl Build,
    options: &RunOptions,
    context: RunContext,
    stop: &StopHandle,
) -> Result<RunReport, RunError> {
    run_in(build, options, context, None, stop)
}

/// The run of [`run`] and [`repeat`]: in the cuts of another run if they are given.
fn run_in(
    build: impl Build,
    options: &RunOptions,
    mut context: RunContext,
    cuts: Option<History>,
    stop: &StopHandle,
) -> Result<RunReport, RunError> {
    check_options(options)?;
    if let Some(place) = context.place.as_ref().filter(|place| place.options.process > 0) {
        let process = place.options.process;
        return Err(RunError::Usage(format!("process {process} follows process 0, which alone runs the pipeline")));
    }
    let (plan, registry) = build_dry(&build, options);
    checked(&plan)?;
    let sealed = sealed_plan(&plan, options);
    losses::check(&registry, options, &context.store)?;
    let started = start(&context, options, &plan, &sealed)?;
    let Begun { journal, restored, decision, dropped } = started;
    let (run, place) = (journal.run(), context.place.take());
    let processes = place.as_ref().map_or(1, |place| place.options.processes());
    let state = journal.state().clone();
    let resumed_from = restored.manifest.as_ref().map(|m| m.epoch);

    let shared = Arc::new(Shared::new(restored.epoch, Arc::clone(&context.status)));
    let (workers, memory_budget) = (options.workers, options.memory_budget);
    let begins = Start { run, workers, processes, memory_budget, plan: &plan, state: &state };
    context.status.started(&begins);
    if state.bound().is_none() {
        context.status.unrecorded();
    }
    stop.attach(&shared);
    let (requests, receiver) = Requests::new(Arc::clone(&shared));
    let fence = journal.fence();
    let noted = journal.durable().then(|| Arc::clone(&context.store));
    let notes = SinkNotes::new(noted.clone(), options.accepted_places.clone());
    let sink_start = sink_start(&state, run, Arc::clone(&fence), notes);
    let env = env(Arc::clone(&shared), requests.clone(), options, restored, &state, Some(sink_start));
    let committed = state.committed().unwrap_or(0);
    let witness = Witness::new(noted, Begins { run, committed, ends: committed_ends(&state), apart: decision.apart });
    let env = Arc::new(env.of_processes(processes).witnessed(witness));

    let accepted = state.seal().map(|seal| seal.accepted_loss.clone()).unwrap_or_default();
    let reader = open_reader(&registry, &env, (read_before(&state, cuts.as_ref()), &accepted), options)?;
    let reader = reader.watching(Watch::new(&decision));
    let (snapshots, snapshot_threads) = writer::start(&context.store, journal.run(), &requests)
        .map_err(|error| RunError::Io("cannot start the checkpoint thread".into(), error))?;
    let durable = journal.durable();
    *env.snapshots.lock().expect("no panic while it is held") = Some(snapshots.clone());

    let book = book(&context, &state, &env.restored)?;
    let observers = Observers::start(context.observers, &state, &shared)?;
    let coordinator = Coordinator {
        journal,
        store: Arc::clone(&context.store),
        shared: Arc::clone(&shared),
        requests: requests.clone(),
        snapshots: durable.then_some(snapshots),
        maintenance: context.maintenance,
        observers: observers.as_ref().map(Observers::sender),
        operators: registry.codecs,
        plan: Planned::of(&plan),
        dropped,
        book,
        days_ahead: options.faults.days_ahead,
    };
    let failing = Arc::clone(&shared);
    let log_thread = spawn("log", move || coordinator.run(&receiver).map_err(|error| failing.fail(error)).ok())?;
    let recorded: Vec<_> = state.bindings_after(resumed_from).cloned().collect();
    let (source_shared, queue, containing) = (Arc::clone(&shared), Arc::clone(&env.queue), Arc::clone(&env.witness));
    let reader_thread = spawn("reader", move || {
        let read = containing.contain(|| {
            let _passing = Passing::new(None, Phase::Decode, ("the source", None));
            reader.run(&recorded, cuts)
        });
        if let Err(error) = read.and_then(|read| read.map_err(RunError::Source)) {
            source_shared.fail(error);
        }
    })?;
    let ticker = durable.then(|| Ticker::start(&shared, options.checkpoint_every)).transpose()?;

    let links = lead(place, (run, workers), &*context.warn, &shared).map_err(RunError::from);
    let outcome = links.and_then(|links| run_workers(build, workers, &env, links));
    if let Err(error) = outcome {
        shared.fail(error);
    }
    queue.abandon_if(shared.failed());
    join("the reader", reader_thread, &shared);
    drop(ticker);
    env.snapshots.lock().expect("no panic while it is held").take();
    requests.send(Request::Finish);
    let ended = join("the log's thread", log_thread, &shared).flatten();
    drop((requests, env));
    drop(observers);
    for thread in snapshot_threads {
        join("a checkpoint thread", thread, &shared);
    }
    if let Some(error) = shared.take_failure() {
        return Err(fenced_first(error, &fence));
    }
    let (written, checkpoints) = ended.ok_or_else(|| RunError::Panicked("the log's thread".into()))?;
    written.publish(context.store, log_options())?;
    if let Some(error) = shared.take_ending() {
        return Err(error);
    }
    let end = written.state();
    Ok(RunReport {
        finished: end.ended() && end.committed() == end.bound(),
        resumed_from,
        epochs: end.committed().unwrap_or(0) - committed,
        checkpoints,
        state: end.clone(),
    })
}

/// What failed may have been missing because a later run pruned it: that there is one is then the reason.
fn fenced_first(error: RunError, fence: &Fence) -> RunError {
    match fence().map_err(|found| found.downcast::<LogError>()) {
        Err(Ok(log)) if log.kind() == LogErrorKind::Fenced => RunError::Log(*log),
        _ => error,
    }
}

/// What sinks are told before they write.
fn sink_start(state: &LogState, run: u64, fence: Fence, notes: SinkNotes) -> SinkStart {
    SinkStart {
        instance: state.seal().map(|seal| seal.instance.clone()).unwrap_or_default(),
        run,
        committed: state.committed().unwrap_or(0),
        bound: state.bound().unwrap_or(0),
        fence,
        notes,
    }
}

/// The partitions that this run and the one that it repeats have read, by number.
fn read_before(state: &LogState, cuts: Option<&History>) -> Vec<PartitionBinding> {
    let mut partitions = cuts.map(History::partitions).unwrap_or_default();
    partitions.extend(state.bound_partitions().clone());
    partitions.into_values().collect()
}

fn open_reader(
    registry: &Registry,
    env: &Env,
    (mut recorded, accepted): (Vec<PartitionBinding>, &[Loss]),
    options: &RunOptions,
) -> Result<Reader, RunError> {
    let (Some(open), Some(rule)) = (&registry.open, registry.rule) else {
        return Err(RunError::Usage("the pipeline reads no source".into()));
    };
    let source = &env.restored.source;
    let known = source.bindings(&rule);
    let bound: Vec<_> = recorded.iter().cloned().map(as_the_connector_left_it).collect();
    // Partitions introduced after the checkpoint keep their numbers; they are read from their start again.
    for partition in &mut recorded {
        let number = partition.partition as usize;
        match known.get(number) {
            Some(then) => *partition = then.clone(),
            None => (partition.end, partition.lines, partition.digest) = (0, 0, String::new()),
        }
    }
    let recorded: Vec<_> = behind_losses(recorded, accepted).into_iter().map(as_the_connector_left_it).collect();
    let reader = open(&recorded, &bound)?;
    let config = ReaderConfig {
        epoch_bytes: options.epoch_bytes,
        memory_budget: options.memory_budget,
        max_epochs_in_flight: EPOCHS_IN_FLIGHT,
        drain: options.drain,
        epoch_every: options.epoch_every,
        idle_after: rule.idle_after,
    };
    let start: [Vec<Watermark>; 2] = [source.positions_before(), source.positions()];
    let reader = Reader::new(
        reader,
        config,
        (Arc::clone(&env.shared), Arc::clone(&env.queue)),
        (env.restored.epoch, known.len(), start),
    )?;
    Ok(reader)
}

fn book(context: &RunContext, state: &LogState, restored: &Restored) -> Result<Book, RunError> {
    let (mut needed, mut all_read) = (Vec::new(), true);
    for entry in state.checkpoints() {
        match load_manifest(&*context.store, entry) {
            Ok(manifest) => needed.push(reachable(&manifest, entry.manifest.clone())),
            // It was reported already; what it alone needed may go.
            Err(LoadError::Damaged(_)) => {}
            // An older one, since the one that is gone on from was read.
            Err(LoadError::Store(error)) => {
                (context.warn)(&format!(
                    "{} cannot be read ({error}): this run deletes nothing of before",
                    entry.manifest
                ));
                all_read = false;
            }
        }
    }
    let mut book = Book::new(state, restored.manifest.as_ref(), needed);
    for folder in ["_tidemill/state", "_tidemill/checkpoints"].into_iter().filter(|_| all_read) {
        book.known.extend(context.store.list(folder)?);
    }
    Ok(book)
}

#[cfg(test)]
mod tests;
