//! The other processes of a run: they do what falls to their workers, and leave the log and the source to process 0.

use std::sync::Arc;

use tidemill_log::{Fence, LogError, LogState, reader};

use super::begin::{changes, check_options};
use super::threads::join;
use super::workers::run_workers;
use super::{
    Build, RunContext, RunError, RunOptions, StopHandle, build_dry, checked, env, fenced_first, log_options,
    sealed_plan, sink_start,
};
use crate::checkpoint::restore::{self, Restored};
use crate::checkpoint::writer;
use crate::cluster::{ClusterError, Links, Meeting, Member, Place};
use crate::journal::for_sinks;
use crate::plan::Plan;
use crate::quarantine::{Begins, Witness, apart_through, committed_ends};
use crate::shared::{Requests, Shared};
use crate::sink::SinkNotes;
use crate::status::Start;

/// How a process that follows ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// It took part until the run ended.
    ToTheEnd,
    /// Process 0 had nothing left to do ([`dismiss`]), so there was nothing to take part in.
    NothingToDo,
}

/// What process 0 does where no run is needed, because all was read and committed before: tells the others, who wait for it.
///
/// # Errors
/// Somebody has not asked within the time that `place` states; the others were told.
pub fn dismiss(place: &Place, workers: u32, warn: &dyn Fn(&str)) -> Result<(), ClusterError> {
    Meeting::new(&place.options, workers)?.dismiss(&place.listener, warn)
}

/// Takes part in the run that process 0 of `context.place` begins, until that ends. `stop` asks process 0 to end it.
///
/// # Errors
/// See [`RunError`]. When process 0 or another one fails or stops answering, this one fails, too ([`RunError::Peer`]).
pub fn follow(
    build: impl Build,
    options: &RunOptions,
    mut context: RunContext,
    stop: &StopHandle,
) -> Result<Followed, RunError> {
    check_options(options)?;
    let place = context.place.take().ok_or_else(|| RunError::Usage("a process that follows needs a place".into()))?;
    let (plan, _) = build_dry(&build, options);
    checked(&plan)?;
    let mut meeting = Meeting::new(&place.options, options.workers)?;
    let Some(run) = meeting.reach_leader()? else { return Ok(Followed::NothingToDo) };

    // Process 0 has sealed, and writes nothing more before all are connected.
    let state = reader::read(Arc::clone(&context.store), tidemill_log::FOLDER)?;
    check_run(&state, run, &sealed_plan(&plan, options))?;
    let restored = restored(&context, &state, &plan)?;
    let shared = Arc::new(Shared::new(restored.epoch, Arc::clone(&context.status)));
    let (workers, processes) = (options.workers, place.options.processes());
    let memory_budget = options.memory_budget;
    context.status.started(&Start { run, workers, processes, memory_budget, plan: &plan, state: &state });
    stop.attach(&shared);
    // What is asked of the log's thread is asked by workers of process 0.
    let (requests, _log) = Requests::new(Arc::clone(&shared));
    let fence = for_sinks(Fence::of(Arc::clone(&context.store), tidemill_log::FOLDER, run, &log_options()));
    let notes = SinkNotes::new(Some(Arc::clone(&context.store)), options.accepted_places.clone());
    let start = sink_start(&state, run, Arc::clone(&fence), notes);
    let env = env(Arc::clone(&shared), requests.clone(), options, restored, &state, Some(start));
    let committed = state.committed().unwrap_or(0);
    let apart = apart_through(&*context.store, run, committed)?;
    let begins = Begins { run, committed, ends: committed_ends(&state), apart };
    let witness = Witness::new(Some(Arc::clone(&context.store)), begins);
    let env = Arc::new(env.of_processes(processes).witnessed(witness));
    // Blocks come from the workers of process 0.
    env.queue.end();
    let (snapshots, snapshot_threads) = writer::start(&context.store, run, &requests)
        .map_err(|error| RunError::Io("cannot start the checkpoint thread".into(), error))?;
    *env.snapshots.lock().expect("no panic while it is held") = Some(snapshots);

    let warn = context.warn;
    let links = meeting.complete(place.listener, run, &*warn, &member(&shared));
    let outcome = links.map_err(RunError::from).and_then(|links| run_workers(build, workers, &env, Some(links)));
    if let Err(error) = outcome {
        shared.fail(error);
    }
    env.snapshots.lock().expect("no panic while it is held").take();
    drop((requests, env));
    for thread in snapshot_threads {
        join("a checkpoint thread", thread, &shared);
    }
    shared.take_failure().map_or(Ok(Followed::ToTheEnd), |error| Err(fenced_first(error, &fence)))
}

/// Brings process 0 together with the others, if there are any.
pub(super) fn lead(
    place: Option<Place>,
    (run, workers): (u64, u32),
    warn: &dyn Fn(&str),
    shared: &Arc<Shared>,
) -> Result<Option<Links>, ClusterError> {
    let Some(place) = place else { return Ok(None) };
    let meeting = Meeting::new(&place.options, workers)?;
    meeting.complete(place.listener, run, warn, &member(shared)).map(Some)
}

fn member(shared: &Arc<Shared>) -> Arc<dyn Member> {
    Arc::<Shared>::clone(shared)
}

impl Member for Shared {
    fn lost(&self, sentence: String) {
        self.fail(RunError::Peer(sentence));
    }

    fn stop(&self) {
        if !Shared::stopping(self) {
            Shared::stop(self);
        }
    }

    fn stopping(&self) -> bool {
        Shared::stopping(self)
    }
}

pub(super) fn check_run(state: &LogState, run: u64, sealed: &str) -> Result<(), RunError> {
    let seal = state.seal().filter(|seal| seal.run == run);
    let Some(seal) = seal else {
        let found = state.run();
        if let Some(by_run) = found.filter(|found| *found > run) {
            let evidence = "the log says so".to_owned();
            return Err(RunError::Log(LogError::Fenced { run, by_run, evidence }));
        }
        let last = found.map_or_else(|| "no run".to_owned(), |found| format!("run {found} as the last one"));
        return Err(RunError::State(format!(
            "process 0 has begun run {run}, and the log here knows {last}: give all processes the same --state"
        )));
    };
    if seal.plan != sealed {
        return Err(RunError::State(format!(
            "process 0 runs another plan or other settings ({}; here {sealed}): start all processes with the same build, \
             pipeline and options",
            seal.plan
        )));
    }
    Ok(())
}

/// The checkpoint that the seal names, less the state that it names: what process 0 starts from.
fn restored(context: &RunContext, state: &LogState, plan: &Plan) -> Result<Restored, RunError> {
    let Some((seal, epoch)) = state.seal().and_then(|seal| Some((seal, seal.checkpoint?))) else {
        return Ok(Restored::default());
    };
    let entry = state.checkpoints().iter().find(|entry| entry.epoch == epoch);
    let entry = entry.ok_or_else(|| RunError::State(format!("checkpoint {epoch} of the seal is not in the log")))?;
    let mut restored = restore::load(&*context.store, entry)?;
    let changes = changes(restored.manifest.as_ref(), plan, &seal.dropped_at(epoch))?;
    restored.adopt(&changes);
    Ok(restored)
}
