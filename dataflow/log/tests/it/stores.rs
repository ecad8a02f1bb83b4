//! Every store keeps the same promises, and the log keeps its own on each of them.

use std::sync::Arc;

use object_store::memory::InMemory;
use tempfile::TempDir;
use tidemill_log::testing::{MemoryStore, conformance};
use tidemill_log::{DurableLocal, Faults, ObjectStoreBridge, Store};

use crate::pipeline::{Pipeline, outcome};

type NamedStore = (&'static str, Arc<dyn Store>);

/// All stores, each empty, with what keeps their folders.
fn all_stores() -> (Vec<NamedStore>, Vec<TempDir>) {
    let folders: Vec<TempDir> = (0..3).map(|_| TempDir::new().unwrap()).collect();
    let open = |at: usize, faults| DurableLocal::open(&folders[at].path().join("new/root"), faults).unwrap();
    let bridged = Arc::new(open(2, Faults::None));
    let stores: Vec<NamedStore> = vec![
        ("memory", Arc::new(MemoryStore::default())),
        ("local", Arc::new(open(0, Faults::None))),
        ("forgetful", Arc::new(open(1, Faults::ForgetUnsynced))),
        ("object_store in memory", Arc::new(ObjectStoreBridge::new(Arc::new(InMemory::new())).unwrap())),
        ("local as object_store", Arc::new(ObjectStoreBridge::new(bridged).unwrap())),
    ];
    (stores, folders)
}

#[test]
fn objects_read_back_on_every_store() {
    let (stores, _folders) = all_stores();
    for (_, store) in stores {
        conformance::objects_read_back(&*store).unwrap();
    }
}

#[test]
fn listings_are_complete_and_sorted_on_every_store() {
    let (stores, _folders) = all_stores();
    for (_, store) in stores {
        conformance::listings_are_complete_and_sorted(&*store).unwrap();
    }
}

#[test]
fn one_of_sixteen_creators_wins_on_every_store() {
    let (stores, _folders) = all_stores();
    for (_, store) in stores {
        conformance::one_of_many_creators_wins(&store).unwrap();
    }
}

#[test]
fn a_pipeline_comes_to_the_same_on_every_store() {
    let (stores, _folders) = all_stores();
    let mut outcomes = Vec::new();
    for (name, store) in stores {
        Pipeline::start(Arc::clone(&store), 5).unwrap().run_through(9).unwrap();
        Pipeline::start(Arc::clone(&store), 5).unwrap().run_through(20).unwrap();
        outcomes.push((name, outcome(&store)));
    }
    for (name, other) in &outcomes {
        assert_eq!(*other, outcomes[0].1, "{name}");
    }
}

#[test]
fn a_name_of_a_temporary_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let store = DurableLocal::open(folder.path(), Faults::None).unwrap();
    let error = store.put("a/.tmp-1", b"").unwrap_err();
    assert_eq!(error.kind(), tidemill_log::StoreErrorKind::Fatal);
}
