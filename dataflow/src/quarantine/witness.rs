//! Contains the panics of workers: each becomes the failure of the run, with what follows from it.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tidemill_log::{Quarantined, Store, with_causes};

use super::pass::{self, Noted, Origin, Phase};
use super::{Attempt, attempts, decide};
use crate::runtime::RunError;
use crate::time::Epoch;

/// So much of a panic's message is kept, in characters.
const MESSAGE: usize = 200;

/// What a lock says that somebody else's panic has poisoned: it says nothing of the record that met it.
const POISONED: [&str; 2] = ["PoisonError", "previously been poisoned"];

thread_local! {
    static WITNESS: RefCell<Option<Arc<Witness>>> = const { RefCell::new(None) };
}

/// Whether a panic of this thread ends the run in order: then a panic hook need not end the process.
#[must_use]
pub fn is_contained() -> bool {
    WITNESS.with_borrow(Option::is_some)
}

/// Notes that each of these records panicked (twice, if it is one), so that the next start knows; `false` if that cannot
/// be, or must not, because what they led to is committed.
pub(super) fn found(origins: &[Origin], phase: Phase, at: (&str, Epoch), panic: &(dyn Any + Send)) -> bool {
    let witness = WITNESS.with_borrow(Option::clone);
    witness.is_some_and(|witness| witness.found(origins, phase, at, message(panic)))
}

/// Knows what must be known to say what follows from a panic.
#[derive(Debug)]
pub(crate) struct Witness {
    /// Where attempts are noted; none where there are no restarts.
    store: Option<Arc<dyn Store>>,
    run: u64,
    /// Up to where each partition is committed.
    committed: BTreeMap<String, u64>,
    /// What is set aside already.
    quarantined: Vec<Quarantined>,
    /// What was found in this process by taking blocks apart, and gone on without.
    found: Mutex<Vec<Attempt>>,
    /// The earliest epoch of it.
    first_found: AtomicU64,
}

impl Default for Witness {
    fn default() -> Self {
        Witness::new(None, 0, BTreeMap::new(), Vec::new())
    }
}

impl Witness {
    /// For a run that began with this much committed and set aside.
    pub(crate) fn new(
        store: Option<Arc<dyn Store>>,
        run: u64,
        committed: BTreeMap<String, u64>,
        quarantined: Vec<Quarantined>,
    ) -> Witness {
        let (found, first_found) = (Mutex::default(), AtomicU64::new(Epoch::MAX));
        Witness { store, run, committed, quarantined, found, first_found }
    }

    /// Does `work` on this thread; a panic in it becomes an error. The thread must not go on with what `work` worked on, and
    /// may panic again when that is dropped, for which the same holds.
    pub(crate) fn contain(self: &Arc<Self>, work: impl FnOnce()) -> Result<(), RunError> {
        WITNESS.set(Some(Arc::clone(self)));
        catch_unwind(AssertUnwindSafe(work)).map_err(|panic| self.reports(&*panic))
    }

    fn is_committed(&self, origin: &Origin) -> bool {
        origin.start < self.committed.get(&origin.partition).copied().unwrap_or(0)
    }

    fn found(&self, origins: &[Origin], phase: Phase, (operator, epoch): (&str, Epoch), message: String) -> bool {
        let Some(store) = &self.store else { return false };
        let poisoned = POISONED.iter().any(|words| message.contains(words));
        if poisoned || origins.is_empty() || origins.iter().any(|origin| self.is_committed(origin)) {
            return false;
        }
        let attempt = |origin: &Origin| self.attempt(origin, phase, operator, &message, origin.single);
        let noted: Vec<Attempt> = origins.iter().map(attempt).collect();
        if noted.iter().any(|attempt| attempts::write(&**store, attempt).is_err()) {
            return false;
        }
        self.found.lock().expect("no panic while it is held").extend(noted);
        self.first_found.fetch_min(epoch, Ordering::AcqRel);
        true
    }

    fn attempt(&self, origin: &Origin, phase: Phase, operator: &str, message: &str, twice: bool) -> Attempt {
        let (origin, operator, message) = (origin.clone(), operator.to_owned(), message.to_owned());
        Attempt { run: self.run, origin, phase, operator, message, twice }
    }

    /// The end of a run that went on without records of which its workers here found that they panic: once their epoch is
    /// closed, by which time all of it has been looked at. All epochs before `closed` are (`None`: all).
    pub(crate) fn verdict(&self, closed: Option<Epoch>) -> Option<RunError> {
        let earliest = self.first_found.load(Ordering::Acquire);
        if earliest == Epoch::MAX || closed.is_some_and(|closed| closed <= earliest) {
            return None;
        }
        let found = self.found.lock().expect("no panic while it is held");
        let first = found.iter().find(|attempt| attempt.origin.single).or_else(|| found.first())?;
        let what = what(std::slice::from_ref(&first.origin), &first.operator, &first.message);
        let others = found.len() - 1;
        let (with, it) = match others {
            0 => (String::new(), ["it", "a dead letter"]),
            _ => (format!(", and {others} more panicked"), ["them", "dead letters"]),
        };
        let follows = match first.origin.single {
            true => format!("the next start sets {} aside, as {}, and goes on without {}", it[0], it[1], it[0]),
            false => ONE_BY_ONE.to_owned(),
        };
        Some(RunError::WorkerPanicked(format!("{what}{with}; {UNAFFECTED}, and {follows}")))
    }

    fn reports(&self, panic: &(dyn Any + Send)) -> RunError {
        let message = message(panic);
        let (Some(Noted { origins, phase, operator }), Some(store)) = (pass::take(), &self.store) else {
            return RunError::WorkerPanicked(format!(
                "a worker panicked ({message}), and no single record is to blame, so none is set aside; this is a bug, and \
                 nothing that was committed is affected: the same command goes on from there"
            ));
        };
        let what = what(&origins, operator, &message);
        if origins.iter().any(|origin| self.is_committed(origin)) {
            return RunError::WorkerPanicked(format!(
                "{what}; an earlier run has committed what it led to, so it is not set aside: go on with the build that did, or \
                 mend the pipeline"
            ));
        }
        let attempts: Vec<Attempt> =
            origins.iter().map(|origin| self.attempt(origin, phase, operator, &message, false)).collect();
        let follows = match self.note(&**store, &attempts) {
            Ok(follows) => follows.to_owned(),
            Err(error) => {
                format!("that could not be noted, so the next start knows nothing of it: {}", with_causes(&error))
            }
        };
        RunError::WorkerPanicked(format!("{what}; {UNAFFECTED}, and {follows}"))
    }

    /// Notes the attempts of one panic; says what the next start does.
    fn note(&self, store: &dyn Store, noted: &[Attempt]) -> Result<&'static str, RunError> {
        noted.iter().try_for_each(|attempt| attempts::write(store, attempt))?;
        let known = attempts::read(store)?;
        let [Attempt { origin, run, .. }] = noted else { return Ok(ONE_BY_ONE) };
        if !origin.single {
            let again = known.iter().any(|other| other.origin == *origin && other.run < *run);
            return Ok(match again {
                // It would have been taken apart.
                true => "the records of this source cannot be told apart, so none is set aside: mend the pipeline",
                false => ONE_BY_ONE,
            });
        }
        let new = decide(&self.quarantined, &known, &self.committed).new;
        Ok(match new.iter().any(|record| origin.holds(&record.partition, record.offset)) {
            true => "the next start sets it aside, as a dead letter, and goes on without it",
            false => "if it does so again, it is set aside as a dead letter",
        })
    }
}

const UNAFFECTED: &str = "nothing that was committed is affected";
const ONE_BY_ONE: &str = "the next start looks at these records one by one";

/// Which records panicked, where, and what the panic said.
fn what(origins: &[Origin], operator: &str, message: &str) -> String {
    let range = |origin: &Origin| format!("{} at offsets {} to {}", origin.partition, origin.start, origin.end);
    let place = match origins {
        [Origin { partition, start, single: true, .. }] => format!("the record at offset {start} of {partition}"),
        [first, second, _, ..] => {
            format!("a record of {}, of {}, or of {} other ranges", range(first), range(second), origins.len() - 2)
        }
        _ => format!("a record of {}", origins.iter().map(range).collect::<Vec<_>>().join(", or of ")),
    };
    format!("{place} panicked in {operator} ({message})")
}

/// What a panic said, on one line, cut.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let line: String = text.unwrap_or("it did not say why").split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(MESSAGE).collect()
}
