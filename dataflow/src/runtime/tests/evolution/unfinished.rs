//! Starts where epochs that are bound wait to be replayed: by the plan and the build that bound them, or as told.

use std::sync::Arc;
use std::time::Duration;

use tidemill_log::{Log, Seal, Store};

use super::*;
use crate::runtime::begin::log_options;

/// Options of a run that takes a checkpoint when it ends, and no other.
pub(super) fn rarely(options: RunOptions) -> RunOptions {
    RunOptions { checkpoint_every: Duration::from_secs(3_600), ..options }
}

/// A store with bound epochs after its last checkpoint.
fn cut_off(all: &Lines) -> Arc<dyn Store> {
    let store = begun(all);
    cut_off_run(plain, all, &store, &options(2));
    store
}

/// Starts until a run has bound epochs after the last checkpoint, and has died.
pub(super) fn cut_off_run(author: Author, all: &Lines, store: &Arc<dyn Store>, options: &RunOptions) {
    let options = rarely(options.clone());
    // Each start that dies leaves an entry more, which the next one reads twice.
    for step in (4..).step_by(6) {
        let dying = dying_at(store, step);
        let ended = run(built(author, all, store), &options, context(&dying), &StopHandle::default());
        assert!(ended.is_err(), "the run ended before an epoch was bound and not checkpointed");
        let state = state(store);
        if state.bindings_after(state.checkpoints().last().map(|last| last.epoch)).count() > 0 {
            return;
        }
    }
    unreachable!("steps go on until a return")
}

#[test]
fn a_changed_plan_waits_until_the_old_one_has_replayed_what_it_bound() {
    let all = sample();
    let store = cut_off(&all);
    is_refused(
        since,
        &all,
        &store,
        &options(2),
        &[
            "the pipeline's plan changed",
            "bound epochs wait",
            "run once with the build that bound them",
            "--replay-with-changed-plan",
        ],
    );
    // As the sentence says: the build that bound them replays them, and then the changed plan may start.
    goes_on(plain, &all, &store, &options(2));
    assert_eq!(goes_on(since, &all, &store, &options(2)).len(), 1);
    assert_eq!(shown(&store, "totals"), oracle(&all));
}

#[test]
fn a_changed_plan_replays_bound_epochs_when_told_to_and_says_so() {
    let all = sample();
    let store = cut_off(&all);
    let risky = RunOptions { replay_with_changed_plan: true, ..options(2) };
    let said = goes_on(since, &all, &store, &risky);
    assert!(said.last().unwrap().contains("they are replayed by this build, as asked"), "{said:?}");
    assert_eq!(shown(&store, "totals"), oracle(&all), "what the changed plan does alike is alike");
}

/// Takes the pipeline over as another build would, and does nothing.
fn begin_with_another_build(store: &Arc<dyn Store>) {
    let mut log = Log::start(Arc::clone(store), log_options()).unwrap().log;
    let run = log.run();
    log.seal(|state| {
        let seal = state.seal().expect("it was begun").clone();
        let checkpoint = state.checkpoints().last().map(|last| last.epoch);
        Ok::<_, RunError>(Seal { run, build: "0.0.1".into(), checkpoint, ..seal })
    })
    .unwrap();
}

#[test]
fn another_build_does_not_replay_bound_epochs_unless_told_to() {
    let all = sample();
    let store = cut_off(&all);
    begin_with_another_build(&store);
    is_refused(plain, &all, &store, &options(2), &["this is another build, and"]);
    let risky = RunOptions { replay_with_changed_plan: true, ..options(2) };
    assert_eq!(goes_on(plain, &all, &store, &risky).len(), 1);
    assert_eq!(shown(&store, "totals"), oracle(&all));
}

#[test]
fn another_build_goes_on_from_a_checkpoint_without_a_word() {
    let all = sample();
    let store = begun(&all);
    begin_with_another_build(&store);
    assert_eq!(goes_on(plain, &all, &store, &options(2)), Vec::<String>::new());
    assert_eq!(shown(&store, "totals"), oracle(&all));
}
