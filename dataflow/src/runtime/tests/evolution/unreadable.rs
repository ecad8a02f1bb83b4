//! Starts whose store fails while the checkpoint is read: what cannot be read now is not taken for damaged. And starts that
//! read it, and find a state of another shape than the plan could tell.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tidemill_log::testing::{Moment, OperationKind, Reaction, ScriptedStore};
use tidemill_log::{Store, StoreErrorKind};

use super::*;

/// What a checkpoint consists of.
const PARTS: [&str; 2] = ["_tidemill/checkpoints/", "_tidemill/state/"];

/// Fails the first reads of objects below a folder.
fn failing(inner: &Arc<dyn Store>, folder: &'static str, times: u32) -> Arc<dyn Store> {
    let left = AtomicU32::new(times);
    let script = move |operation: &tidemill_log::testing::Operation, moment| {
        let asked = moment == Moment::Before && operation.kind == OperationKind::Get;
        let fails = asked
            && operation.path.starts_with(folder)
            && left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok();
        if fails { Reaction::Fail(StoreErrorKind::Retryable) } else { Reaction::Proceed }
    };
    Arc::new(ScriptedStore::new(Arc::clone(inner), script))
}

#[test]
fn a_store_that_fails_for_a_moment_costs_no_checkpoint() {
    let all = sample();
    for part in PARTS {
        let store = begun(&all);
        let newest = last_manifest(&store).epoch;
        let (ended, said) = start_with(plain, &all, &failing(&store, part, 3), &options(2));
        assert_eq!((ended.unwrap().resumed_from, said), (Some(newest), Vec::new()), "{part}");
        assert_eq!(shown(&store, "totals"), oracle(&all), "{part}");
    }
}

#[test]
fn a_store_that_goes_on_failing_ends_the_start_and_the_checkpoint_is_used_when_it_works_again() {
    let all = sample();
    for part in PARTS {
        let store = begun(&all);
        let (newest, before) = (last_manifest(&store).epoch, state(&store));
        let (ended, said) = start_with(plain, &all, &failing(&store, part, u32::MAX), &options(2));
        let error = ended.unwrap_err();
        assert_eq!(error.kind(), RunErrorKind::Failed, "{part}: {error}");
        assert!(error.to_string().contains("nothing is lost: start again when the store works"), "{part}: {error}");
        assert_eq!((said, state(&store).seal()), (Vec::new(), before.seal()), "{part}: an older checkpoint was sealed");
        let again = start_with(plain, &all, &store, &options(2));
        assert_eq!((again.0.unwrap().resumed_from, again.1), (Some(newest), Vec::new()), "{part}");
    }
}

/// [`Total`] with a state of another shape, and nothing that says so.
struct Reshaped;

impl KeyedLogic for Reshaped {
    type In = i64;
    type State = (String, String);
    type Out = Row;
    const STATE_VERSION: u32 = 1;
    fn on_epoch(&self, _: &OwnedKey, _: &mut Self::State, _: &mut Vec<i64>, _: EpochTime, _: &mut Emit<Row>) -> Keep {
        Keep::Keep
    }
    fn deadline(&self, _: &Self::State) -> Option<EventTime> {
        None
    }
    fn heap_bytes(&self, _: &Self::State) -> usize {
        0
    }
}

#[test]
fn state_that_does_not_decode_is_refused_with_what_to_do_and_each_of_it_can_be_done() {
    fn reshaped(flow: &Flow<'_>, lines: &Lines, store: &Arc<dyn Store>) {
        let events = events(flow, lines, "lines");
        table(counted(&events, "totals", KIND, Reshaped), "totals_table", "totals", store);
    }
    let all = sample();
    let ways: [(Author, &[&str]); 3] = [(plain, &[]), (since, &[]), (reshaped, &["totals"])];
    for (author, dropped) in ways {
        let store = begun(&all);
        let before = state(&store);
        let error = start_with(reshaped, &all, &store, &options(2)).0.unwrap_err();
        assert_eq!(error.kind(), RunErrorKind::Refused, "{error}");
        let remedies = [
            "operator `totals`, key group",
            "go on with the build that wrote it",
            "with a migration from version 1",
            "--drop-state totals",
        ];
        assert!(remedies.iter().all(|remedy| error.to_string().contains(remedy)), "{error}");
        let after = state(&store);
        assert_eq!((before.bound(), before.committed()), (after.bound(), after.committed()), "nothing is bound");
        goes_on(author, &all, &store, &dropping(dropped));
    }
}
