//! The beginning of a run: what is wrong with its options, where it goes on from, and the seal that says so (INV-5).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tidemill_log::{FOLDER, Log, LogError, LogOptions, LogState, Quarantined, Seal, Store, reader};

use super::losses;
use super::program::fingerprint;
use super::{RunContext, RunError, RunOptions};
use crate::checkpoint::Manifest;
use crate::checkpoint::compare::{Changes, compare};
use crate::checkpoint::restore::{self, RestoreError, Restored};
use crate::journal::Journal;
use crate::plan::Plan;
use crate::quarantine::{self, Decision, apart_through, committed_ends, decide};
use crate::reader::MEMORY_PER_BYTE;
use crate::time::Epoch;

/// The columns of an epoch have 32-bit offsets.
const MAX_EPOCH_BYTES: u64 = 1 << 30;

pub(super) fn check_options(options: &RunOptions) -> Result<(), RunError> {
    if options.workers == 0 {
        return Err(RunError::Usage("--workers 0: there must be at least one worker".into()));
    }
    let needed = options.epoch_bytes.saturating_mul(MEMORY_PER_BYTE);
    if options.memory_budget < needed {
        return Err(RunError::Usage(format!(
            "--memory-budget {} is too small for epochs of {} bytes: give at least {needed}, or a smaller --epoch-bytes",
            options.memory_budget, options.epoch_bytes
        )));
    }
    if options.epoch_bytes > MAX_EPOCH_BYTES {
        return Err(RunError::Usage(format!(
            "--epoch-bytes {} is too large: give at most {MAX_EPOCH_BYTES}",
            options.epoch_bytes
        )));
    }
    if options.epoch_bytes < crate::cut::SLIVER {
        let least = crate::cut::SLIVER;
        return Err(RunError::Usage(format!(
            "--epoch-bytes {} is too small: give at least {least}",
            options.epoch_bytes
        )));
    }
    Ok(())
}

pub(crate) fn log_options() -> LogOptions {
    // Transient failures of a store are retried a few times, each pause twice as long.
    let pause = |failures: u32| thread::park_timeout(Duration::from_millis(20 << failures.min(6)));
    LogOptions { pause: Arc::new(pause), ..LogOptions::default() }
}

/// A run that may go on from here.
pub(super) struct Begun {
    pub(super) journal: Journal,
    pub(super) restored: Restored,
    /// Which records are set aside, and where others are looked for.
    pub(super) decision: Decision,
    /// The operators whose state this run was told to give up, or an earlier one at the same checkpoint.
    pub(super) dropped: BTreeSet<String>,
}

#[expect(clippy::disallowed_methods, reason = "it names writes to other systems and reaches no result")]
fn new_instance() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn seal_of(
    run: u64,
    (plan, sealed): (&Plan, &str),
    (options, processes): (&RunOptions, u32),
    checkpoint: Option<Epoch>,
    (since, dropped): (Epoch, BTreeSet<String>),
    quarantined: &[Quarantined],
    before: Option<&Seal>,
) -> Seal {
    let known = before.map(|seal| seal.instance.clone()).filter(|instance| !instance.is_empty());
    Seal {
        run,
        format: tidemill_log::FORMAT,
        plan: sealed.to_owned(),
        build: fingerprint().to_owned(),
        workers: options.workers,
        processes,
        instance: known.unwrap_or_else(new_instance),
        checkpoint,
        since: Some(since),
        dropped,
        quarantined: quarantined.to_vec(),
        tables: Some(plan.tables().map(str::to_owned).collect()),
        accepted_loss: losses::accepted(before, options),
    }
}

/// Refuses what a start would refuse, before it takes the run over from one that may be alive; writes nothing. A start asks
/// again: the earlier run goes on until it is fenced.
pub(super) fn check_unfenced(
    store: &Arc<dyn Store>,
    options: &RunOptions,
    plan: &Plan,
    sealed: &str,
) -> Result<(), RunError> {
    let state = match reader::read(Arc::clone(store), FOLDER) {
        Ok(state) => state,
        Err(LogError::NotInitialized { .. }) => LogState::default(),
        Err(error) => return Err(error.into()),
    };
    let manifest = restore::newest_manifest(&**store, &state)?;
    if manifest.is_none() && !state.checkpoints().is_empty() {
        // Damaged, or pruned while we read: that is found out, and said, once nobody writes any more.
        return Ok(());
    }
    onward(&state, manifest.as_ref(), (plan, sealed), options).map(drop)
}

/// How a plan goes on from a checkpoint.
struct Onward {
    changes: Changes,
    /// The operators whose state in the checkpoint is given up.
    dropped: BTreeSet<String>,
    /// What the seal says of both: see [`Seal`].
    since: (Epoch, BTreeSet<String>),
    warnings: Vec<String>,
}

/// Compares a plan with a checkpoint, and with what was bound after it; refuses what cannot be gone on with.
fn onward(
    state: &LogState,
    manifest: Option<&Manifest>,
    (plan, sealed): (&Plan, &str),
    options: &RunOptions,
) -> Result<Onward, RunError> {
    let (seal, checkpoint) = (state.seal(), manifest.map_or(0, |manifest| manifest.epoch));
    let before_this = seal.map(|before| before.dropped_at(checkpoint)).unwrap_or_default();
    // A run that bound nothing has left no trace of what it was to drop: the state is as good as before it.
    let bound = state.bindings_after(manifest.map(|manifest| manifest.epoch)).next().is_some();
    let again = if bound { before_this.clone() } else { BTreeSet::new() };
    let mut dropped: BTreeSet<String> = options.drop_state.union(&again).cloned().collect();
    let changes = changes(manifest, plan, &dropped)?;
    dropped.retain(|id| changes.heir(id).is_none());
    let mut warnings: Vec<String> = changes.notes().collect();
    warnings.extend(again.difference(&options.drop_state).map(|id| {
        format!("`{id}`: a run before was told to drop its state, and none has taken a checkpoint since: so this one drops it")
    }));
    let as_before = |before: &Seal| {
        let same = before.plan == sealed && before.build == fingerprint() && dropped == before_this;
        same && checkpoint >= before.unchanged_since()
    };
    let since = match seal.filter(|before| as_before(before)) {
        Some(before) => (before.unchanged_since(), before.dropped.clone()),
        None => (checkpoint, dropped.clone()),
    };
    warnings.extend(check_seal(state, sealed, manifest, options, dropped.difference(&again).next())?);
    Ok(Onward { changes, dropped, since, warnings })
}

/// Compares plan and checkpoint, takes the next run number, chooses the newest intact checkpoint, and seals.
pub(super) fn start(context: &RunContext, options: &RunOptions, plan: &Plan, sealed: &str) -> Result<Begun, RunError> {
    let processes = context.place.as_ref().map_or(1, |place| place.options.processes());
    if !options.exactly_once {
        if processes > 1 {
            return Err(RunError::Usage("several processes meet over the log: leave --exactly-once on".into()));
        }
        // There is never a checkpoint: only the refusal of what cannot be dropped matters.
        changes(None, plan, &options.drop_state)?;
        let quarantined = options.quarantined.clone();
        let seal = seal_of(1, (plan, sealed), (options, 1), None, (0, BTreeSet::new()), &quarantined, None);
        let decision = Decision { quarantined, ..Decision::default() };
        let (journal, restored, dropped) = (Journal::memory(seal)?, Restored::default(), BTreeSet::new());
        return Ok(Begun { journal, restored, decision, dropped });
    }
    check_unfenced(&context.store, options, plan, sealed)?;
    let kept = LogOptions { keep_bindings: options.keep_bindings, ..log_options() };
    let started = Log::start(Arc::clone(&context.store), kept)?;
    started.warnings.iter().for_each(|warning| (context.warn)(warning));
    let mut log = started.log;
    let run = log.run();
    let mut chosen = None;
    log.seal(|state| {
        let mut warnings = Vec::new();
        let mut restored = restore::choose(&*context.store, state, &mut warnings)?;
        // A damaged checkpoint is told of also where it leads to a refusal.
        warnings.iter().for_each(|warning| (context.warn)(warning));
        let onward = onward(state, restored.manifest.as_ref(), (plan, sealed), options)?;
        restored.adopt(&onward.changes);
        onward.warnings.iter().for_each(|warning| (context.warn)(warning));
        let checkpoint = restored.manifest.as_ref().map(|m| m.epoch);
        let decision = quarantine(context, options, (run, state))?;
        let (shape, quarantined) = ((options, processes), &decision.quarantined);
        let seal = seal_of(run, (plan, sealed), shape, checkpoint, onward.since, quarantined, state.seal());
        chosen = Some((restored, decision, onward.dropped));
        Ok::<_, RunError>(seal)
    })?;
    let (restored, decision, mut dropped) = chosen.expect("a seal was decided");
    decision.new.iter().for_each(|record| (context.warn)(&sentence(record, "it is a dead letter from now on")));
    let refused = "what it led to is committed, so it is not set aside; go on with the build that committed it, or mend the \
                   pipeline";
    decision.refused.iter().for_each(|record| (context.warn)(&sentence(record, refused)));
    dropped.extend(options.drop_state.iter().cloned());
    Ok(Begun { journal: Journal::Durable(Box::new(log)), restored, decision, dropped })
}

/// Which records are set aside from now on, by what panicked so far and what is committed.
fn quarantine(
    context: &RunContext,
    options: &RunOptions,
    (run, state): (u64, &LogState),
) -> Result<Decision, RunError> {
    let mut before = state.seal().map(|seal| seal.quarantined.clone()).unwrap_or_default();
    let elsewhere = options.quarantined.iter().filter(|record| !before.contains(record)).cloned().collect::<Vec<_>>();
    before.extend(elsewhere);
    let attempts = quarantine::read_attempts(&*context.store)?;
    let apart = apart_through(&*context.store, run, state.committed().unwrap_or(0))?;
    Ok(Decision { apart, ..decide(&before, &attempts, &committed_ends(state)) })
}

fn sentence(record: &Quarantined, follows: &str) -> String {
    format!("the record at offset {} of {}: {}; {follows}", record.offset, record.partition, record.reason)
}

/// What decides what the tables mean (disabled sinks, settings) is fixed when the folder is begun.
pub(super) fn check_settings(state: &LogState, sealed: &str) -> Result<(), RunError> {
    let settings = |plan: &str| plan.split_once(' ').map(|(_, settings)| settings.to_owned()).unwrap_or_default();
    let Some(begun) = state.seal().map(|seal| settings(&seal.plan)) else { return Ok(()) };
    let now = settings(sealed);
    if begun == now {
        return Ok(());
    }
    let remedy = "start with those, or in a new folder";
    Err(RunError::State(format!("this folder was begun with other settings ({begun}; now {now}): {remedy}")))
}

/// What changed since the checkpoint was written.
pub(super) fn changes(
    manifest: Option<&Manifest>,
    plan: &Plan,
    drop_state: &BTreeSet<String>,
) -> Result<Changes, RunError> {
    let Some(manifest) = manifest else {
        let Some(id) = drop_state.first() else { return Ok(Changes::default()) };
        return Err(RunError::Usage(format!("--drop-state {id}: there is no checkpoint yet, and no state to drop")));
    };
    let changes = compare(manifest, plan, drop_state);
    match changes.refusal() {
        Some(refusal) => {
            let introduced = format!("the plan cannot go on from checkpoint {}:\n{refusal}", manifest.epoch);
            Err(RestoreError::Incompatible(introduced).into())
        }
        None => Ok(changes),
    }
}

/// A changed plan, another build or less state may start only where no bound epoch waits to be replayed by it: what they hold
/// would come out differently, and part of it may be written already. Gives a warning where that risk is taken.
fn check_seal(
    state: &LogState,
    sealed: &str,
    manifest: Option<&Manifest>,
    options: &RunOptions,
    newly_dropped: Option<&String>,
) -> Result<Option<String>, RunError> {
    let Some(seal) = state.seal() else { return Ok(None) };
    if state.drained() {
        return Err(RunError::State(
            "the tables were drained: everything is closed and nothing can be added; start a new folder".into(),
        ));
    }
    check_settings(state, sealed)?;
    let checkpoint = manifest.map(|manifest| manifest.epoch);
    let waiting = state.bindings_after(checkpoint).count();
    let since = seal.unchanged_since();
    let older = checkpoint.unwrap_or(0) < since;
    let with_the_build = "run once with the build that bound them (it takes a checkpoint when it stops)";
    let (what, remedy) = match (seal.plan != sealed, seal.build != fingerprint(), newly_dropped) {
        _ if waiting == 0 => return Ok(None),
        _ if older => {
            let what =
                format!("a changed pipeline or another build went on from checkpoint {since}, which cannot be used");
            (what, "no build has bound them all: restore the damaged files from a copy".to_owned())
        }
        (true, ..) => ("the pipeline's plan changed".to_owned(), with_the_build.to_owned()),
        (_, true, _) => ("this is another build".to_owned(), with_the_build.to_owned()),
        (.., Some(id)) => {
            let remedy = format!("run once without --drop-state {id} (it takes a checkpoint when it stops)");
            (format!("state of `{id}` is to be dropped"), remedy)
        }
        (false, false, None) => return Ok(None),
    };
    let waiting = format!("{what}, and {waiting} bound epochs wait to be replayed as they were");
    if options.replay_with_changed_plan {
        return Ok(Some(format!(
            "{waiting}; they are replayed by this build, as asked: what comes out differently shows in the tables from the \
             first epoch that was not committed"
        )));
    }
    // A program is told from another by its bytes: what a closure does stands in no plan.
    let same = match seal.plan == sealed && newly_dropped.is_none() && !older {
        true => " (there is none if both do the same, as when the same sources were built again)",
        false => "",
    };
    Err(RunError::State(format!("{waiting}: {remedy}, or take the risk{same} with --replay-with-changed-plan")))
}
