//! The promises of a store, and of the log on it, on a real S3 server.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use tidemill_log::testing::{MemoryStore, conformance};
use tidemill_log::{Entry, Faults, Location, LogErrorKind, Store, reader};

use crate::fencing::many_starts_at_once;
use crate::pipeline::{PREFIX, Pipeline, bind, outcome};

/// A place of its own in the bucket `tidemill`, emptied in the end.
struct Place {
    location: Location,
    store: Arc<dyn Store>,
}

impl Place {
    fn new() -> Place {
        for name in ["S3_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"] {
            assert!(
                std::env::var_os(name).is_some(),
                "{name} is not set: run `make services`, which says how to set it"
            );
        }
        let random = RandomState::new().build_hasher().finish();
        let location: Location = format!("s3://tidemill/log-tests/{random:016x}").parse().unwrap();
        let store = location.open(true, Faults::None).unwrap();
        Place { location, store }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for path in self.store.list("").unwrap() {
            self.store.delete(&path).unwrap();
        }
    }
}

#[test]
fn objects_read_back_on_s3() {
    conformance::objects_read_back(&*Place::new().store).unwrap();
}

#[test]
fn listings_are_complete_and_sorted_on_s3() {
    conformance::listings_are_complete_and_sorted(&*Place::new().store).unwrap();
}

#[test]
fn one_of_sixteen_creators_wins_on_s3() {
    conformance::one_of_many_creators_wins(&Place::new().store).unwrap();
}

#[test]
fn of_many_starts_at_once_on_s3_the_last_goes_on_alone() {
    many_starts_at_once(&Place::new().store);
}

#[test]
fn a_pipeline_comes_to_the_same_on_s3() {
    let place = Place::new();
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::default());
    for store in [&place.store, &memory] {
        Pipeline::start(Arc::clone(store), 5).unwrap().run_through(9).unwrap();
        Pipeline::start(Arc::clone(store), 5).unwrap().run_through(20).unwrap();
    }
    assert_eq!(outcome(&place.store), outcome(&memory));
    let read = place.location.open_for_reading().unwrap();
    assert_eq!(reader::read(read.store, PREFIX).unwrap().committed(), Some(20));
}

#[test]
fn an_earlier_run_on_s3_is_fenced() {
    let place = Place::new();
    let mut earlier = Pipeline::start(Arc::clone(&place.store), 5).unwrap();
    earlier.run_through(3).unwrap();
    let mut later = Pipeline::start(Arc::clone(&place.store), 5).unwrap();
    later.run_through(30).unwrap();
    let error = earlier.log.append(Entry::Bind(bind(4))).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Fenced, "{error}");
    assert_eq!(outcome(&place.store).committed, Some(30));
}

#[test]
fn a_large_object_is_put_in_parts_and_reads_back_whole() {
    let place = Place::new();
    let large: Vec<u8> = (0..20_u32 << 20).map(|at| (at % 251) as u8).collect();
    place.store.put("large", b"small before").unwrap();
    place.store.put("large", &large).unwrap();
    assert!(place.store.get("large").unwrap().is_some_and(|read| read == large));
    assert_eq!(place.store.create("large too", &large).unwrap(), tidemill_log::Created::New);
    assert_eq!(place.store.create("large too", b"").unwrap(), tidemill_log::Created::Exists);
    assert!(place.store.get("large too").unwrap().is_some_and(|read| read == large));
}

#[test]
fn a_bucket_that_does_not_exist_is_named() {
    drop(Place::new());
    let location: Location = "s3://tidemill-no-such-bucket/x".parse().unwrap();
    let error = location.open(true, Faults::None).unwrap_err();
    assert!(error.to_string().starts_with("there is no bucket tidemill-no-such-bucket at http"), "{error}");
    let for_reading = location.open_for_reading().unwrap_err();
    assert!(for_reading.to_string().contains("create it"), "{for_reading}");
}
