//! What epochs contained is kept for as long as asked, wherever a writer dies.

use std::sync::Arc;

use tidemill_log::testing::{MemoryStore, Moment, OperationKind, Reaction, ScriptedStore};
use tidemill_log::{Binding, Entry, History, Log, LogError, LogErrorKind, LogOptions, Store, StoreErrorKind};

use crate::pipeline::{PREFIX, Pipeline, bind, seal};

fn history(store: &Arc<dyn Store>) -> History {
    History::open(Arc::clone(store), PREFIX).unwrap().expect("something is committed")
}

/// Checks that every epoch through the last commit is recorded as it was bound.
fn assert_whole(store: &Arc<dyn Store>, context: &str) {
    let history = history(store);
    assert_eq!(history.first(), 1, "{context}");
    let through = history.through();
    let bindings: Result<Vec<Binding>, LogError> = history.collect();
    assert_eq!(bindings.unwrap(), (1..=through).map(bind).collect::<Vec<_>>(), "{context}");
}

#[test]
fn every_epoch_of_a_long_run_is_recorded_in_few_objects() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    for through in [300, 700, 3000] {
        Pipeline::start(Arc::clone(&store), 64).unwrap().run_through(through).unwrap();
        assert_whole(&store, &format!("through {through}"));
    }
    let objects = store.list("_tidemill/bindings").unwrap().len();
    assert!(objects < 140, "{objects} objects for 3000 epochs with a checkpoint every other one");
    let later: Vec<u64> = history(&store).from(2990).map(|binding| binding.unwrap().epoch).collect();
    assert_eq!(later, (2990..=3000).collect::<Vec<_>>());
}

#[test]
fn nothing_is_forgotten_whichever_step_fails() {
    for step in 1..400 {
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let scripted: Arc<dyn Store> = Arc::new(ScriptedStore::new(Arc::clone(&memory), move |operation, moment| {
            let fails = operation.step == step && moment == Moment::Before;
            if fails { Reaction::Fail(StoreErrorKind::Fatal) } else { Reaction::Proceed }
        }));
        let died = Pipeline::start(scripted, 4).and_then(|mut pipeline| pipeline.run_through(20));
        let mut next = Pipeline::start(Arc::clone(&memory), 4).unwrap();
        next.run_through(24).unwrap();
        assert_whole(&memory, &format!("step {step} failed: {died:?}"));
    }
}

#[test]
fn a_writer_that_dies_while_it_joins_objects_leaves_a_whole_history() {
    for kind in [OperationKind::Create, OperationKind::Delete] {
        for at in 0..3 {
            let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
            Pipeline::start(Arc::clone(&memory), 64).unwrap().run_through(250).unwrap();
            let seen = std::sync::atomic::AtomicU32::new(0);
            let scripted: Arc<dyn Store> =
                Arc::new(ScriptedStore::new(Arc::clone(&memory), move |operation, moment| {
                    let counts =
                        operation.kind == kind && operation.path.contains("/bindings/") && moment == Moment::Before;
                    let fails = counts && seen.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == at + 5;
                    if fails { Reaction::Fail(StoreErrorKind::Fatal) } else { Reaction::Proceed }
                }));
            let died = Pipeline::start(scripted, 64).and_then(|mut pipeline| pipeline.run_through(600));
            assert!(died.is_err(), "{kind:?} {at} did not come");
            assert_whole(&memory, &format!("{kind:?} {at}"));
            Pipeline::start(Arc::clone(&memory), 64).unwrap().run_through(700).unwrap();
            assert_whole(&memory, &format!("{kind:?} {at}, gone on"));
        }
    }
}

#[test]
fn epochs_beyond_the_bound_go_and_are_missed_by_number() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let options = LogOptions { keep_bindings: 20, snapshot_every: 16, ..LogOptions::default() };
    let mut log = Log::start(Arc::clone(&store), options).unwrap().log;
    log.append(Entry::Seal(seal(1, None))).unwrap();
    for epoch in 1..=100 {
        log.append(Entry::Bind(bind(epoch))).unwrap();
        log.append(Entry::Commit(crate::pipeline::commit(epoch, Vec::new()))).unwrap();
        if epoch.is_multiple_of(5) {
            let (manifest, checksum) = (format!("manifest {epoch}"), "sum".to_owned());
            log.append(Entry::Checkpoint(tidemill_log::CheckpointEntry { epoch, manifest, checksum })).unwrap();
        }
    }
    let found = history(&store);
    assert_eq!((found.first(), found.through()), (76, 100));
    let missed = history(&store).from(70).next().expect("it is asked for").unwrap_err();
    assert_eq!(missed.kind(), LogErrorKind::Refused);
    assert!(missed.to_string().contains("what epoch 70 contained"), "{missed}");
}

#[test]
fn a_run_that_keeps_none_records_what_recovery_needs_alone() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let options = LogOptions { keep_bindings: 0, ..LogOptions::default() };
    let mut log = Log::start(Arc::clone(&store), options).unwrap().log;
    log.append(Entry::Seal(seal(1, None))).unwrap();
    assert!(History::open(Arc::clone(&store), PREFIX).unwrap().is_none(), "nothing is committed");
    for epoch in 1..=3 {
        log.append(Entry::Bind(bind(epoch))).unwrap();
        log.append(Entry::Commit(crate::pipeline::commit(epoch, Vec::new()))).unwrap();
        let (manifest, checksum) = (format!("manifest {epoch}"), "sum".to_owned());
        log.append(Entry::Checkpoint(tidemill_log::CheckpointEntry { epoch, manifest, checksum })).unwrap();
    }
    assert!(store.list("_tidemill/bindings").unwrap().is_empty());
    assert_eq!(history(&store).first(), 3);
}
