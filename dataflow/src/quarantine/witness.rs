//! Contains the panics of workers: each becomes the failure of the run, with what follows from it.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tidemill_log::panics::{self, contain_thread};
use tidemill_log::{Quarantined, Store, with_causes};

use super::pass::{self, Noted};
use super::{Attempt, attempts, decide};
use crate::runtime::RunError;

/// So much of a panic's message is kept, in characters.
const MESSAGE: usize = 200;

/// Knows what must be known to say what follows from a panic.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// Where attempts are noted; none where there are no restarts.
    store: Option<Arc<dyn Store>>,
    run: u64,
    /// Up to where each partition is committed.
    committed: BTreeMap<String, u64>,
    /// What is set aside already.
    quarantined: Vec<Quarantined>,
}

impl Witness {
    /// For a run that began with this much committed and set aside.
    pub(crate) fn new(
        store: Option<Arc<dyn Store>>,
        run: u64,
        committed: BTreeMap<String, u64>,
        quarantined: Vec<Quarantined>,
    ) -> Witness {
        Witness { store, run, committed, quarantined }
    }

    /// Does `work` on this thread; a panic in it becomes an error. The thread must not go on with what `work` worked on, and
    /// may panic again when that is dropped, for which the same holds.
    pub(crate) fn contain(&self, work: impl FnOnce()) -> Result<(), RunError> {
        contain_thread();
        catch_unwind(AssertUnwindSafe(work)).map_err(|panic| self.reports(&*panic))
    }

    fn reports(&self, panic: &(dyn Any + Send)) -> RunError {
        let message = message(panic);
        let (Some(Noted { origin, phase, operator }), Some(store)) = (pass::take(), &self.store) else {
            return RunError::WorkerPanicked(format!(
                "a worker panicked ({message}), and no single record is to blame, so none is set aside; this is a bug, and \
                 nothing that was committed is affected: the same command goes on from there"
            ));
        };
        let (partition, start, end) = (origin.partition.clone(), origin.start, origin.end);
        let place = match origin.single {
            true => format!("the record at offset {start} of {partition}"),
            false => format!("a record of {partition} at offsets {start} to {end}"),
        };
        let what = format!("{place} panicked in {operator} ({message})");
        if start < self.committed.get(&partition).copied().unwrap_or(0) {
            return RunError::WorkerPanicked(format!(
                "{what}; an earlier run has committed what it led to, so it is not set aside: go on with the build that did, or \
                 mend the pipeline"
            ));
        }
        let attempt = Attempt { run: self.run, origin, phase, operator: operator.to_owned(), message };
        let follows = match self.note(&**store, &attempt) {
            Ok(follows) => follows.to_owned(),
            Err(error) => {
                format!("that could not be noted, so the next start knows nothing of it: {}", with_causes(&error))
            }
        };
        RunError::WorkerPanicked(format!("{what}; nothing that was committed is affected, and {follows}"))
    }

    /// Notes the attempt; says what the next start does.
    fn note(&self, store: &dyn Store, attempt: &Attempt) -> Result<&'static str, RunError> {
        attempts::write(store, attempt)?;
        let known = attempts::read(store)?;
        let origin = &attempt.origin;
        if !origin.single {
            let again = known.iter().any(|other| other.origin == *origin && other.run < attempt.run);
            return Ok(match again {
                // It would have been taken apart.
                true => "the records of this source cannot be told apart, so none is set aside: mend the pipeline",
                false => "the next start looks at these records one by one",
            });
        }
        let new = decide(&self.quarantined, &known, &self.committed).new;
        Ok(match new.iter().any(|record| origin.holds(&record.partition, record.offset)) {
            true => "the next start sets it aside, as a dead letter, and goes on without it",
            false => "if it does so again, it is set aside as a dead letter",
        })
    }
}

/// What a panic said, on one line, cut.
fn message(panic: &(dyn Any + Send)) -> String {
    panics::message(panic).chars().take(MESSAGE).collect()
}
