//! A run that slept while a later one began, went on and pruned, commits nothing and deletes nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use tidemill_log::testing::{MemoryStore, Moment, OperationKind, Reaction, ScriptedStore};
use tidemill_log::{Entry, Log, LogError, LogErrorKind, LogState, Store, reader};

use crate::pipeline::{PREFIX, Pipeline, bind, options, outcome, read, seal};

/// How far each of the runs gets.
const OLD: u64 = 8;
const NEW: u64 = 20;

/// A whole run through a scripted store, and one more entry after all of it.
fn old_run(store: Arc<dyn Store>, snapshot_every: u64) -> Result<(), LogError> {
    let mut pipeline = Pipeline::start(store, snapshot_every)?;
    pipeline.run_through(OLD)?;
    pipeline.log.append(Entry::Bind(bind(OLD + 1)))?;
    Ok(())
}

/// The steps of an old run after it took its number.
fn steps(snapshot_every: u64) -> (u64, Vec<(u64, OperationKind)>) {
    let scripted = Arc::new(ScriptedStore::new(Arc::new(MemoryStore::default()), |_, _| Reaction::Proceed));
    let store: Arc<dyn Store> = scripted.clone();
    old_run(store, snapshot_every).unwrap();
    let operations = scripted.operations();
    let claim = operations
        .iter()
        .find(|operation| operation.path.contains("/runs/") && operation.kind == OperationKind::Create);
    (claim.unwrap().step, operations.iter().map(|operation| (operation.step, operation.kind)).collect())
}

/// What is in the store, and what the log says, when the new run has done its work.
type Record = (BTreeMap<String, Bytes>, LogState);

fn sleeper_changes_nothing(step: u64, moment: Moment, snapshot_every: u64) {
    let at = format!("asleep {moment:?} step {step}, a snapshot every {snapshot_every} entries");
    let memory = Arc::new(MemoryStore::default());
    let inner: Arc<dyn Store> = memory.clone();
    let record: Arc<Mutex<Option<Record>>> = Arc::default();
    let act = {
        let (memory, inner, record) = (Arc::clone(&memory), Arc::clone(&inner), Arc::clone(&record));
        move || {
            let mut pipeline = Pipeline::start(Arc::clone(&inner), snapshot_every).unwrap();
            pipeline.run_through(NEW).unwrap();
            *record.lock().unwrap() = Some((memory.objects(), read(&inner)));
        }
    };
    let scripted: Arc<dyn Store> = Arc::new(ScriptedStore::acting_at(Arc::clone(&inner), step, moment, act));

    let error = old_run(scripted, snapshot_every).expect_err(&at);
    assert_eq!(error.kind(), LogErrorKind::Fenced, "{at}: {error}");
    assert!(error.to_string().starts_with("run 1 is fenced: run 2 of the same pipeline has started"), "{at}: {error}");

    let (objects, state) = record.lock().unwrap().take().expect("the step was reached");
    let left = memory.objects();
    for (path, bytes) in &objects {
        assert_eq!(left.get(path), Some(bytes), "{at}: {path} is as the new run left it");
    }
    assert_eq!(read(&inner), state, "{at}: the log says what it said");

    // What the sleeper put is no danger either where a start must fall back.
    let snapshots = inner.list("_tidemill/snapshots").unwrap();
    for damaged in 1..=snapshots.len() {
        let copy = MemoryStore::holding(left.clone());
        for path in snapshots.iter().rev().take(damaged) {
            copy.put(path, b"damaged").unwrap();
        }
        if let Ok(fallen_back) = reader::read(Arc::new(copy), PREFIX) {
            assert_eq!(fallen_back, state, "{at}: {damaged} snapshots damaged");
        }
    }

    Pipeline::start(Arc::clone(&inner), snapshot_every).unwrap().run_through(NEW + 5).unwrap();
    outcome(&inner);
}

#[test]
fn a_sleeper_at_any_step_commits_and_deletes_nothing() {
    for snapshot_every in [1, 4, 1000] {
        let (claim, steps) = steps(snapshot_every);
        for kind in [OperationKind::Create, OperationKind::Exists] {
            assert!(steps.iter().any(|(_, step)| *step == kind), "the run does {kind:?}");
        }
        if snapshot_every < 1000 {
            assert!(steps.iter().any(|(_, kind)| *kind == OperationKind::Put), "the run writes snapshots");
        }
        assert!(steps.iter().any(|(_, kind)| *kind == OperationKind::Delete), "the run deletes");
        // The last step is a look at the fence: asleep after it, the run was already done.
        let last = steps.len() as u64;
        sleeper_changes_nothing(claim, Moment::After, snapshot_every);
        for step in claim + 1..=last {
            sleeper_changes_nothing(step, Moment::Before, snapshot_every);
            if step < last {
                sleeper_changes_nothing(step, Moment::After, snapshot_every);
            }
        }
    }
}

#[test]
fn an_entry_on_its_way_is_read_before_the_seal() {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let mut old = Pipeline::start(Arc::clone(&memory), 1000).unwrap();
    old.run_through(3).unwrap();
    // The old run offers its next entry just before the new one offers its seal.
    let old = Arc::new(Mutex::new(old));
    let writer = Arc::clone(&old);
    let fenced = Arc::new(Mutex::new(None));
    let answer = Arc::clone(&fenced);
    let scripted: Arc<dyn Store> = Arc::new(ScriptedStore::new(Arc::clone(&memory), move |operation, moment| {
        let sealing = operation.kind == OperationKind::Create && operation.path.contains("/log/");
        if sealing && moment == Moment::Before && answer.lock().unwrap().is_none() {
            *answer.lock().unwrap() = Some(writer.lock().unwrap().log.append(Entry::Bind(bind(4))));
        }
        Reaction::Proceed
    }));
    let mut log = Log::start(scripted, options(1000)).unwrap().log;
    let mut asked = Vec::new();
    log.seal(|state| {
        asked.push(state.bound());
        Ok::<_, LogError>(seal(2, state.checkpoints().last().map(|checkpoint| checkpoint.epoch)))
    })
    .unwrap();
    assert_eq!(asked, [Some(3), Some(4)], "the decision was made again with what came in between");
    assert_eq!(log.state().bound(), Some(4));
    assert!(matches!(*fenced.lock().unwrap(), Some(Err(LogError::Fenced { run: 1, by_run: 2, .. }))));
    let again = old.lock().unwrap().log.append(Entry::Bind(bind(5))).unwrap_err();
    assert_eq!(again.kind(), LogErrorKind::Fenced, "and stays so");
    assert_eq!(read(&memory), *log.state());
}

#[test]
fn of_many_starts_at_once_the_last_goes_on_alone() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    many_starts_at_once(&store);
}

/// Eight runs that begin at the same time in an empty store.
pub(crate) fn many_starts_at_once(store: &Arc<dyn Store>) {
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(store);
            thread::spawn(move || {
                let mut pipeline = Pipeline::start(store, 3)?;
                pipeline.run_through(40)?;
                Ok::<_, LogError>(pipeline.log.run())
            })
        })
        .collect();
    let mut finished = Vec::new();
    for run in runs {
        match run.join().unwrap() {
            Ok(run) => finished.push(run),
            Err(error) => assert_eq!(error.kind(), LogErrorKind::Fenced, "{error}"),
        }
    }
    assert!(finished.contains(&8), "the latest run is never fenced");
    outcome(store);
}

#[test]
fn a_gc_that_was_interrupted_is_finished_by_the_next_start() {
    let memory = Arc::new(MemoryStore::default());
    let inner: Arc<dyn Store> = memory.clone();
    memory.put("state/1", b"").unwrap();
    memory.put("state/2", b"").unwrap();
    let scripted: Arc<dyn Store> = Arc::new(ScriptedStore::new(Arc::clone(&inner), |operation, moment| {
        let fails = operation.kind == OperationKind::Delete && moment == Moment::Before;
        if fails { Reaction::Fail(tidemill_log::StoreErrorKind::Fatal) } else { Reaction::Proceed }
    }));
    let mut pipeline = Pipeline::start(scripted, 1000).unwrap();
    let dead = ["state/1".to_owned(), "state/2".to_owned()];
    assert_eq!(pipeline.log.collect(&dead).unwrap_err().kind(), LogErrorKind::Failed);
    assert_eq!(memory.list("state").unwrap().len(), 2);
    Pipeline::start(inner, 1000).unwrap();
    assert!(memory.list("state").unwrap().is_empty());
}
