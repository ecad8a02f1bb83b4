//! Starts whose newest checkpoint is damaged: epochs after the one before are replayed as they were bound, or not at all.

use std::sync::Arc;

use tidemill_log::Store;

use super::unfinished::{cut_off_run, rarely};
use super::*;

/// Changes a byte of a piece of the newest checkpoint.
fn damage(store: &Arc<dyn Store>) {
    let piece = last_manifest(store).operators[0].pieces.last().expect("there is state").path.clone();
    let mut bytes = store.get(&piece).unwrap().expect("a piece of a checkpoint is there").to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    store.put(&piece, &bytes).unwrap();
}

fn newest(store: &Arc<dyn Store>) -> u64 {
    last_manifest(store).epoch
}

fn tuned(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
    let events = events(flow, lines, "lines");
    table(counted(&events, "totals", "count by key, quickly", Total), "totals_table", "totals", store);
}

#[test]
fn epochs_that_another_plan_bound_are_not_replayed_from_the_checkpoint_before() {
    let all = sample();
    let store = begun(&all);
    let (begun_at, before) = (newest(&store), state(&store));
    cut_off_run(tuned, &all, &store, &options(2));
    assert_eq!(state(&store).seal().unwrap().checkpoint, Some(begun_at));
    damage(&store);
    let sealed = state(&store);
    let (refused, told) = start_with(tuned, &all, &store, &options(2));
    let error = refused.unwrap_err();
    assert_eq!(error.kind(), RunErrorKind::Refused, "{error}");
    for part in ["went on from checkpoint", "no build has bound them all", "--replay-with-changed-plan"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(told.len() == 1 && told[0].contains("cannot be used"), "which file is damaged is said: {told:?}");
    let after = state(&store);
    assert_eq!((after.seal(), after.bound()), (sealed.seal(), sealed.bound()), "a refused start writes nothing");
    let risky = RunOptions { replay_with_changed_plan: true, ..options(2) };
    let (ended, said) = start_with(tuned, &all, &store, &risky);
    let went_on_from = ended.unwrap().resumed_from;
    assert!(went_on_from < Some(begun_at), "{went_on_from:?}");
    assert_eq!(went_on_from, before.checkpoints().iter().rev().nth(1).map(|older| older.epoch));
    assert!(said.last().unwrap().contains("they are replayed by this build, as asked"), "{said:?}");
    assert_eq!(shown(&store, "totals"), oracle(&all), "what both do alike is alike");
}

#[test]
fn epochs_that_this_plan_bound_are_replayed_from_the_checkpoint_before() {
    let all = sample();
    let store = begun(&all);
    cut_off_run(plain, &all, &store, &options(2));
    damage(&store);
    let said = goes_on(plain, &all, &store, &options(2));
    assert!(said.len() == 1 && said[0].contains("instead"), "{said:?}");
    assert_eq!(shown(&store, "totals"), oracle(&all));
}

#[test]
fn a_changed_plan_goes_back_to_the_checkpoint_that_it_began_with() {
    let all = sample();
    let store = begun(&all);
    let changed_at = newest(&store);
    goes_on(tuned, &all, &store, &rarely(options(2)));
    damage(&store);
    let (ended, said) = start_with(tuned, &all, &store, &options(2));
    assert_eq!(ended.unwrap().resumed_from, Some(changed_at), "{said:?}");
    assert_eq!(shown(&store, "totals"), oracle(&all));
}

#[test]
fn state_that_was_dropped_at_a_checkpoint_is_dropped_when_that_one_is_gone_back_to() {
    let all = sample();
    let store = begun(&all);
    let dropped_at = newest(&store);
    goes_on(plain, &all, &store, &rarely(dropping(&["totals"])));
    let expected = by_epoch(&store, "totals");
    damage(&store);
    let (ended, said) = start_with(plain, &all, &store, &rarely(options(1)));
    assert_eq!(ended.unwrap().resumed_from, Some(dropped_at), "{said:?}");
    assert!(said.iter().any(|said| said.contains("a run before was told to drop its state")), "{said:?}");
    assert_eq!(by_epoch(&store, "totals"), expected);
    // What follows is as after the run that dropped it.
    let (key, since) = added(&all).pop_first().unwrap();
    let mut longer: Vec<Vec<u8>> = all.partitions.to_vec();
    longer[0].extend(format!("900000 {key}\n").into_bytes());
    goes_on(plain, &of_partitions(longer), &store, &options(2));
    let (_, last) = by_epoch(&store, "totals").pop_last().unwrap();
    assert_eq!(last, [format!("{key} {since} -1"), format!("{key} {} 1", since + 1)]);
}
