//! State in one place, tables and a copy of the log in another: whatever happens in between, the copy is a prefix.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tidemill_log::testing::{MemoryStore, Moment, Reaction, ScriptedStore, conformance};
use tidemill_log::{LogError, LogErrorKind, LogState, SplitStore, Store, StoreErrorKind, reader};

use crate::pipeline::{PREFIX, Pipeline, bind, outcome, read, seal};

const LAST: u64 = 8;

/// Two places in memory.
#[derive(Clone, Default)]
struct Places {
    state: Arc<MemoryStore>,
    lake: Arc<MemoryStore>,
}

type Act = dyn Fn(u64, Moment) -> Reaction + Send + Sync;

impl Places {
    fn split(&self) -> Arc<SplitStore> {
        Arc::new(SplitStore::new(self.state.clone(), self.lake.clone(), PREFIX))
    }

    fn store(&self) -> Arc<dyn Store> {
        self.split()
    }

    /// A split store whose script is asked at every step of either place.
    fn scripted(&self, act: impl Fn(u64, Moment) -> Reaction + Send + Sync + 'static) -> Arc<dyn Store> {
        let (act, steps): (Arc<Act>, Arc<AtomicU64>) = (Arc::new(act), Arc::default());
        let wrap = |inner: Arc<dyn Store>| -> Arc<dyn Store> {
            let (act, steps) = (Arc::clone(&act), Arc::clone(&steps));
            Arc::new(ScriptedStore::new(inner, move |_, moment| {
                let step = match moment {
                    Moment::Before => steps.fetch_add(1, Ordering::SeqCst) + 1,
                    Moment::After => steps.load(Ordering::SeqCst),
                };
                act(step, moment)
            }))
        };
        Arc::new(SplitStore::new(wrap(self.state.clone()), wrap(self.lake.clone()), PREFIX))
    }

    /// What a reader of the tables sees; nothing before there is anything.
    fn copy(&self) -> Option<LogState> {
        read_if_any(self.lake.clone())
    }

    fn log(&self) -> Option<LogState> {
        read_if_any(self.state.clone())
    }

    fn assert_equal(&self, at: &str) {
        assert_eq!(self.copy(), self.log(), "{at}: the copy says what the log says");
        for folder in ["_tidemill/log", "_tidemill/snapshots"] {
            let names = |store: &MemoryStore| store.list(folder).unwrap();
            assert_eq!(names(&self.lake), names(&self.state), "{at}");
        }
    }
}

fn read_if_any(store: Arc<dyn Store>) -> Option<LogState> {
    match reader::read(store, PREFIX) {
        Ok(state) => Some(state),
        Err(LogError::NotInitialized { .. }) => None,
        Err(error) => panic!("a reader is never refused: {error}"),
    }
}

fn whole_run(store: Arc<dyn Store>, snapshot_every: u64) -> Result<(), LogError> {
    Pipeline::start(store, snapshot_every)?.run_through(LAST)
}

/// The log's state after each entry of an undisturbed run, and the steps that it takes.
fn undisturbed(snapshot_every: u64) -> (BTreeMap<u64, LogState>, u64) {
    let places = Places::default();
    let (states, steps): (Arc<Mutex<BTreeMap<u64, LogState>>>, Arc<AtomicU64>) = Default::default();
    let record = {
        let (places, states, steps) = (places.clone(), Arc::clone(&states), Arc::clone(&steps));
        move |step, moment| {
            if moment == Moment::After
                && let Some(state) = places.log()
            {
                states.lock().unwrap().insert(state.number(), state);
            }
            steps.store(step, Ordering::SeqCst);
            Reaction::Proceed
        }
    };
    whole_run(places.scripted(record), snapshot_every).unwrap();
    places.assert_equal("undisturbed");
    let states = states.lock().unwrap().clone();
    (states, steps.load(Ordering::SeqCst))
}

#[test]
fn killed_at_any_step_the_copy_is_a_prefix_and_is_brought_up_to_date() {
    for snapshot_every in [1, 4, 1000] {
        let (states, steps) = undisturbed(snapshot_every);
        for killed in 1..=steps {
            for at in [Moment::Before, Moment::After] {
                let place = format!("killed {at:?} step {killed}, a snapshot every {snapshot_every}");
                let places = Places::default();
                let dead = places.scripted(move |step, moment| {
                    let over = step > killed || (step == killed && (moment == Moment::After || at == Moment::Before));
                    if over { Reaction::Fail(StoreErrorKind::Fatal) } else { Reaction::Proceed }
                });
                assert!(
                    whole_run(dead, snapshot_every).is_err() || (killed == steps && at == Moment::After),
                    "{place}"
                );
                let log = places.log().map_or(0, |log| log.number());
                if let Some(copy) = places.copy().filter(|copy| copy.number() > 0) {
                    assert_eq!(Some(&copy), states.get(&copy.number()), "{place}: a prefix");
                    assert!(log - copy.number() <= 1, "{place}: it lacks one entry at most");
                }
                places.split().reconcile().unwrap();
                places.assert_equal(&place);
                whole_run(places.store(), snapshot_every).unwrap();
                places.assert_equal(&place);
                outcome(&places.store());
            }
        }
    }
}

#[test]
fn the_next_run_brings_the_copy_up_to_date_by_itself() {
    let places = Places::default();
    whole_run(places.store(), 4).unwrap();
    // The last entries, and a snapshot, did not come through.
    for path in places.lake.list("_tidemill").unwrap().into_iter().rev().step_by(2) {
        places.lake.delete(&path).unwrap();
    }
    Pipeline::start(places.store(), 4).unwrap();
    places.assert_equal("after the start");
}

#[test]
fn tables_that_join_later_get_the_whole_meaning_of_the_log() {
    let places = Places::default();
    let alone: Arc<dyn Store> = places.state.clone();
    Pipeline::start(alone, 4).unwrap().run_through(30).unwrap();
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = {
        let (places, steps) = (places.clone(), Arc::clone(&steps));
        move |_, _| {
            if let Some(copy) = places.copy() {
                steps.lock().unwrap().push(copy.number());
            }
            Reaction::Proceed
        }
    };
    let mut pipeline = Pipeline::start(places.scripted(seen), 4).unwrap();
    assert!(steps.lock().unwrap().is_sorted(), "readers meanwhile never see the log go back");
    places.assert_equal("after the start");
    pipeline.log.append(tidemill_log::Entry::Bind(bind(31))).unwrap();
    places.assert_equal("after an entry");
}

/// The step by which a run takes its number.
fn claimed_at(snapshot_every: u64) -> u64 {
    let places = Places::default();
    let claimed = Arc::new(AtomicU64::new(0));
    let watch = {
        let (places, claimed) = (places.clone(), Arc::clone(&claimed));
        move |step, _| {
            if claimed.load(Ordering::SeqCst) == 0 && !places.state.list("_tidemill/runs").unwrap().is_empty() {
                claimed.store(step, Ordering::SeqCst);
            }
            Reaction::Proceed
        }
    };
    whole_run(places.scripted(watch), snapshot_every).unwrap();
    claimed.load(Ordering::SeqCst)
}

/// What lies beside the tables, and what the log says, when the later run has done its work.
type Record = (BTreeMap<String, Bytes>, LogState);

/// A whole run that another overtakes while it sleeps at a step of either place.
fn sleeper_changes_nothing(step: u64, moment: Moment, snapshot_every: u64) -> bool {
    let at = format!("asleep {moment:?} step {step}, a snapshot every {snapshot_every}");
    let places = Places::default();
    let record: Arc<Mutex<Option<Record>>> = Arc::default();
    let act = {
        let (places, record) = (places.clone(), Arc::clone(&record));
        move |now, when| {
            if (now, when) == (step, moment) && record.lock().unwrap().is_none() {
                Pipeline::start(places.store(), snapshot_every).unwrap().run_through(20).unwrap();
                let _ = record.lock().unwrap().insert((places.lake.objects(), read(&places.store())));
            }
            Reaction::Proceed
        }
    };
    let outcome = whole_run(places.scripted(act), snapshot_every);
    let Some((objects, state)) = record.lock().unwrap().take() else { return false };
    if let Err(error) = outcome {
        assert_eq!(error.kind(), LogErrorKind::Fenced, "{at}: {error}");
        for (path, bytes) in &objects {
            assert_eq!(places.lake.objects().get(path), Some(bytes), "{at}: {path} is as the new run left it");
        }
        assert_eq!(places.log().as_ref(), Some(&state), "{at}");
    }
    assert_eq!(places.copy(), places.log(), "{at}: readers see what the log says");
    Pipeline::start(places.store(), snapshot_every).unwrap().run_through(25).unwrap();
    places.assert_equal(&at);
    true
}

#[test]
fn a_sleeper_at_any_step_of_either_place_changes_nothing_that_readers_see() {
    for snapshot_every in [1, 4, 1000] {
        let claimed = claimed_at(snapshot_every);
        assert!(sleeper_changes_nothing(claimed, Moment::After, snapshot_every));
        let mut step = claimed + 1;
        while sleeper_changes_nothing(step, Moment::Before, snapshot_every)
            && sleeper_changes_nothing(step, Moment::After, snapshot_every)
        {
            step += 1;
        }
        assert!(step > claimed + 100, "the run was overtaken at {} steps", step - claimed);
    }
}

#[test]
fn tables_of_another_pipeline_are_refused() {
    let places = Places::default();
    whole_run(places.store(), 4).unwrap();
    let before = places.lake.objects();
    let refusal = |state: Arc<MemoryStore>| {
        let split = SplitStore::new(state.clone(), places.lake.clone(), PREFIX);
        let error = split.check().unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Fatal);
        let stopped = Pipeline::start(Arc::new(split), 4).unwrap_err();
        assert_eq!(stopped.kind(), LogErrorKind::Failed, "{stopped}");
        assert_eq!(places.lake.objects(), before, "nothing was written");
        std::error::Error::source(&error).unwrap().to_string()
    };
    let lost = refusal(Arc::default());
    assert!(lost.contains("there is no state that they belong to. Give the state that"), "{lost}");

    let another = Arc::new(MemoryStore::default());
    let mut log = tidemill_log::Log::start(another.clone(), crate::pipeline::options(1000)).unwrap().log;
    let other = tidemill_log::Seal { instance: "another".into(), ..seal(1, None) };
    log.append(tidemill_log::Entry::Seal(other)).unwrap();
    for epoch in 1..60 {
        log.append(tidemill_log::Entry::Bind(bind(epoch))).unwrap();
    }
    let foreign = refusal(another);
    assert!(foreign.contains("their log is another one"), "{foreign}");

    let copied_earlier = Arc::new(MemoryStore::default());
    Pipeline::start(copied_earlier.clone(), 4).unwrap().run_through(2).unwrap();
    let older = refusal(copied_earlier);
    assert!(older.contains("goes on after the end of the one in the state"), "{older}");
}

#[test]
fn only_what_readers_need_is_copied() {
    let places = Places::default();
    whole_run(places.store(), 4).unwrap();
    let folders: std::collections::BTreeSet<String> =
        places.lake.list("_tidemill").unwrap().iter().map(|path| path.split('/').nth(1).unwrap().to_owned()).collect();
    assert_eq!(folders.into_iter().collect::<Vec<_>>(), ["format", "log", "snapshots"]);
    assert!(places.state.list("views").unwrap().is_empty(), "tables lie in their own place");
}

#[test]
fn a_split_store_keeps_the_promises_of_a_store() {
    conformance::objects_read_back(&*Places::default().store()).unwrap();
    conformance::listings_are_complete_and_sorted(&*Places::default().store()).unwrap();
    conformance::one_of_many_creators_wins(&Places::default().store()).unwrap();
    let both = Places::default().store();
    for path in ["_tidemill/state/1", "tables/a", "_tidemill2/b", "a"] {
        both.put(path, path.as_bytes()).unwrap();
    }
    assert_eq!(both.list("").unwrap(), ["_tidemill/state/1", "_tidemill2/b", "a", "tables/a"]);
}
