//! Calls that fail, once or for good, with or without an effect: the pipeline comes to the same, at once or after the
//! next start.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tidemill_log::testing::{MemoryStore, Moment, Reaction, ScriptedStore};
use tidemill_log::{Entry, Log, LogError, LogErrorKind, LogOptions, Store, StoreErrorKind};

use crate::pipeline::{Outcome, Pipeline, bind, commit, options, outcome, seal};

const LAST: u64 = 8;

fn whole_run(store: Arc<dyn Store>) -> Result<(), LogError> {
    Pipeline::start(store, 4)?.run_through(LAST)
}

fn undisturbed() -> (Outcome, u64) {
    let scripted = Arc::new(ScriptedStore::new(Arc::new(MemoryStore::default()), |_, _| Reaction::Proceed));
    let store: Arc<dyn Store> = scripted.clone();
    whole_run(Arc::clone(&store)).unwrap();
    let steps = scripted.operations().len() as u64;
    (outcome(&store), steps)
}

#[test]
fn a_call_of_unknown_outcome_is_resolved_by_reading_back() {
    let (expected, steps) = undisturbed();
    for step in 1..=steps {
        for (moment, kind) in [
            (Moment::Before, StoreErrorKind::Retryable),
            (Moment::Before, StoreErrorKind::MaybeApplied),
            (Moment::After, StoreErrorKind::MaybeApplied),
        ] {
            let inner: Arc<dyn Store> = Arc::new(MemoryStore::default());
            let scripted = ScriptedStore::new(Arc::clone(&inner), move |operation, at| {
                // The pipeline's own puts are not the log's business, and are not repeated by it.
                let of_the_log = operation.path.starts_with("_tidemill/") && !operation.path.contains("/state/");
                if operation.step == step && at == moment && of_the_log {
                    Reaction::Fail(kind)
                } else {
                    Reaction::Proceed
                }
            });
            let at = format!("{kind:?} {moment:?} step {step}");
            whole_run(Arc::new(scripted)).unwrap_or_else(|error| panic!("{at}: {error}"));
            assert_eq!(outcome(&inner), expected, "{at}");
        }
    }
}

#[test]
fn a_store_that_fails_for_good_stops_the_run_and_the_next_goes_on() {
    let (expected, steps) = undisturbed();
    for first in 1..=steps {
        for (moment, kind) in [
            (Moment::Before, StoreErrorKind::Fatal),
            (Moment::Before, StoreErrorKind::Retryable),
            (Moment::After, StoreErrorKind::MaybeApplied),
        ] {
            let inner: Arc<dyn Store> = Arc::new(MemoryStore::default());
            let scripted = ScriptedStore::new(Arc::clone(&inner), move |operation, at| {
                if operation.step >= first && at == moment { Reaction::Fail(kind) } else { Reaction::Proceed }
            });
            let at = format!("{kind:?} {moment:?} from step {first}");
            let error = whole_run(Arc::new(scripted)).expect_err(&at);
            assert_eq!(error.kind(), LogErrorKind::Failed, "{at}: {error}");
            whole_run(Arc::clone(&inner)).unwrap_or_else(|again| panic!("{at}: {again}"));
            // A roll that was missed is made up for by the next one, so the same rows may lie in other files.
            let reached = Outcome { files: expected.files.clone(), ..outcome(&inner) };
            assert_eq!(reached, expected, "{at}");
        }
    }
}

#[test]
fn attempts_are_bounded_and_the_pause_is_the_callers() {
    let pauses = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&pauses);
    let pause = Arc::new(move |failures| assert_eq!(failures, counted.fetch_add(1, Ordering::SeqCst) + 1));
    let failing =
        ScriptedStore::new(Arc::new(MemoryStore::default()), |_, _| Reaction::Fail(StoreErrorKind::Retryable));
    let options = LogOptions { attempts: 4, pause, ..LogOptions::default() };
    let error = Log::start(Arc::new(failing), options).unwrap_err();
    assert_eq!(error.kind(), LogErrorKind::Failed);
    assert_eq!(pauses.load(Ordering::SeqCst), 3);
}

#[test]
fn an_impossible_entry_is_refused_before_it_is_written() {
    let memory = Arc::new(MemoryStore::default());
    let mut log = Log::start(memory.clone(), options(1000)).unwrap().log;
    let early = log.append(Entry::Bind(bind(1))).unwrap_err();
    assert!(early.to_string().contains("a run's first entry is its seal"), "{early}");
    log.append(Entry::Seal(seal(1, None))).unwrap();
    let before = memory.objects();
    assert!(log.append(Entry::Commit(commit(1, Vec::new()))).unwrap_err().to_string().contains("not bound"));
    assert!(log.append(Entry::Seal(seal(1, None))).unwrap_err().to_string().contains("seals once"));
    assert_eq!(memory.objects(), before, "nothing was written");
    log.append(Entry::Bind(bind(1))).expect("and the log can be used on");
}

#[test]
fn after_a_failed_append_nothing_more_is_written() {
    let inner = Arc::new(MemoryStore::default());
    let failing = ScriptedStore::new(inner.clone(), |operation, moment| {
        let bind = operation.path.ends_with("/log/00000000000000000002");
        if bind && moment == Moment::Before { Reaction::Fail(StoreErrorKind::MaybeApplied) } else { Reaction::Proceed }
    });
    let mut log = Log::start(Arc::new(failing), options(1000)).unwrap().log;
    log.append(Entry::Seal(seal(1, None))).unwrap();
    assert!(matches!(log.append(Entry::Bind(bind(1))), Err(LogError::Store(_))));
    let before = inner.objects();
    for error in [log.append(Entry::Bind(bind(1))).map(|_| ()), log.snapshot(), log.collect(&["x".to_owned()])] {
        assert!(matches!(error, Err(LogError::Stopped { run: 1, .. })));
    }
    assert_eq!(inner.objects(), before);
}
