//! State that is given up: not where epochs wait to be replayed with it, and for good once a run has begun without it.

use super::unfinished::{cut_off_run, rarely};
use super::*;

pub(super) const SAID: &str = "the state of `totals` is dropped, as asked; it starts empty, and takes back none of the rows \
                               that it wrote: build its tables anew with `replay`, or have it write to others";
const AGAIN: &str =
    "`totals`: a run before was told to drop its state, and none has taken a checkpoint since: so this one drops it";

/// What a run writes that gives up the state of the first half, and is never disturbed.
fn without_the_first_half(all: &Lines) -> BTreeMap<u64, Vec<String>> {
    let store = begun(all);
    goes_on(plain, all, &store, &rarely(dropping(&["totals"])));
    by_epoch(&store, "totals")
}

#[test]
fn state_is_not_dropped_where_epochs_wait_that_were_bound_with_it() {
    let all = sample();
    let store = begun(&all);
    cut_off_run(plain, &all, &store, &options(2));
    let refusal = ["state of `totals` is to be dropped", "bound epochs wait", "run once without --drop-state totals"];
    is_refused(plain, &all, &store, &dropping(&["totals"]), &refusal);
    let risky = RunOptions { replay_with_changed_plan: true, ..dropping(&["totals"]) };
    let said = goes_on(plain, &all, &store, &risky);
    assert!(said[0] == SAID && said[1].contains("they are replayed by this build, as asked"), "{said:?}");
}

#[test]
fn as_a_refused_drop_says_a_run_without_it_takes_a_checkpoint_and_then_state_is_dropped() {
    let all = sample();
    let store = begun(&all);
    cut_off_run(plain, &all, &store, &options(2));
    assert_eq!(goes_on(plain, &all, &store, &options(2)), Vec::<String>::new());
    assert_eq!(shown(&store, "totals"), oracle(&all));
    assert_eq!(goes_on(plain, &all, &store, &dropping(&["totals"])), [SAID]);
}

#[test]
fn what_a_run_dropped_before_it_died_stays_dropped_without_the_option_and_with_it() {
    let all = sample();
    let expected = without_the_first_half(&all);
    for (options, said) in [(options(3), &[SAID, AGAIN][..]), (dropping(&["totals"]), &[SAID])] {
        let store = begun(&all);
        cut_off_run(plain, &all, &store, &dropping(&["totals"]));
        // It dies once more, and is started once more.
        let dying = dying_at(&store, 30);
        let _ = run(built(plain, &all, &store), &rarely(options.clone()), context(&dying), &StopHandle::default());
        assert_eq!(goes_on(plain, &all, &store, &rarely(options)), said);
        assert_eq!(by_epoch(&store, "totals"), expected);
        assert_eq!(goes_on(plain, &all, &store, &super::options(1)), Vec::<String>::new(), "it is dropped once");
    }
}

#[test]
fn a_run_that_bound_nothing_dropped_nothing() {
    let all = sample();
    // It dies as soon as it has its seal, or a little later: nothing is bound.
    let sealed_only = (1..400).find_map(|step| {
        let store = begun(&all);
        let before = reader::read(Arc::clone(&store), "_tidemill").unwrap();
        let dying = dying_at(&store, step);
        let _ = run(built(plain, &all, &store), &dropping(&["totals"]), context(&dying), &StopHandle::default());
        let after = reader::read(Arc::clone(&store), "_tidemill").unwrap();
        (after.seal() != before.seal() && after.bound() == before.bound()).then_some(store)
    });
    let store = sealed_only.expect("a run dies between its seal and its first epoch");
    assert_eq!(goes_on(plain, &all, &store, &options(2)), Vec::<String>::new());
    assert_eq!(shown(&store, "totals"), oracle(&all));
}

#[test]
fn every_process_drops_what_the_seal_says() {
    let all = sample();
    let store = begun(&all);
    cut_off_run(plain, &all, &store, &dropping(&["totals"]));
    let report = attempt_processes(&built(plain, &all, &store), &store, 2, 2).unwrap();
    assert!(report.finished);
    assert_eq!(by_epoch(&store, "totals"), without_the_first_half(&all));
}
