//! Readers see one commit beside a writer that prunes under them, and change nothing.

use std::sync::{Arc, Mutex};

use tidemill_log::testing::{MemoryStore, Moment, OperationKind, Reaction, ScriptedStore};
use tidemill_log::{LogError, Store, reader};

use crate::pipeline::{PREFIX, Pipeline};

#[test]
fn a_folder_without_a_log_is_named() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    assert!(!reader::is_initialized(Arc::clone(&store), PREFIX).unwrap());
    let error = reader::read(Arc::clone(&store), PREFIX).unwrap_err();
    assert!(matches!(error, LogError::NotInitialized { .. }), "{error}");
    Pipeline::start(Arc::clone(&store), 4).unwrap();
    assert!(reader::is_initialized(store, PREFIX).unwrap());
}

#[test]
fn a_reader_interrupted_at_any_step_sees_one_state_of_the_log() {
    for snapshot_every in [1, 4] {
        let mut step = 1;
        loop {
            let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
            let mut writer = Pipeline::start(Arc::clone(&memory), snapshot_every).unwrap();
            writer.run_through(6).unwrap();
            let before = writer.log.state().clone();
            let after = Arc::new(Mutex::new(None));
            let writes = {
                let after = Arc::clone(&after);
                move || {
                    writer.run_through(16).unwrap();
                    *after.lock().unwrap() = Some(writer.log.state().clone());
                }
            };
            let scripted = Arc::new(ScriptedStore::acting_at(memory, step, Moment::Before, writes));
            let store: Arc<dyn Store> = scripted.clone();
            let state = reader::read(store, PREFIX).unwrap();
            let Some(after) = after.lock().unwrap().take() else { break };
            assert!(state == before || state == after, "step {step}: neither the old nor the new state");
            step += 1;
        }
        assert!(step > 4, "the reading was interrupted");
    }
}

#[test]
fn a_reader_writes_nothing() {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
    Pipeline::start(Arc::clone(&memory), 4).unwrap().run_through(6).unwrap();
    let scripted = Arc::new(ScriptedStore::new(memory, |operation, _| {
        assert!(matches!(operation.kind, OperationKind::Get | OperationKind::List | OperationKind::Exists));
        Reaction::Proceed
    }));
    let store: Arc<dyn Store> = scripted.clone();
    reader::read(store, PREFIX).unwrap();
    assert!(!scripted.operations().is_empty());
}

#[test]
fn a_long_log_is_read_from_a_snapshot() {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
    Pipeline::start(Arc::clone(&memory), 16).unwrap().run_through(300).unwrap();
    let scripted = Arc::new(ScriptedStore::new(Arc::clone(&memory), |_, _| Reaction::Proceed));
    let store: Arc<dyn Store> = scripted.clone();
    assert_eq!(reader::read(store, PREFIX).unwrap().committed(), Some(300));
    assert!(scripted.operations().len() < 30, "{} calls", scripted.operations().len());
    assert!(memory.list("_tidemill/log").unwrap().len() < 50, "old entries are pruned");
    assert_eq!(memory.list("_tidemill/snapshots").unwrap().len(), 2);
}
