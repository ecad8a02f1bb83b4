//! Contains the panics of workers: each becomes the failure of the run, with what follows from it.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use tidemill_log::panics::{self, contain_thread};
use tidemill_log::{Store, StoreError, with_causes};

use super::pass::{self, Noted, Origin, Phase};
use super::{Attempt, Fruitless, attempts, region};
use crate::runtime::RunError;
use crate::time::Epoch;

/// So much of a panic's message is kept, in characters.
const MESSAGE: usize = 200;

/// What a lock says that somebody else's panic has poisoned: it says nothing of the record that met it.
const POISONED: [&str; 2] = ["PoisonError", "previously been poisoned"];

thread_local! {
    static WITNESS: RefCell<Option<Arc<Witness>>> = const { RefCell::new(None) };
}

/// Notes that a record panicked twice, so that the next start knows; `false` if that cannot be, or must not, because what it
/// led to is committed.
pub(super) fn found(record: &Origin, phase: Phase, at: (&str, Epoch), panic: &(dyn Any + Send)) -> bool {
    let witness = WITNESS.with_borrow(Option::clone);
    witness.is_some_and(|witness| witness.found(record, phase, at, message(panic)))
}

/// Where a run begins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begins {
    pub(crate) run: u64,
    /// The last epoch that is committed.
    pub(crate) committed: Epoch,
    /// Up to where each partition is committed.
    pub(crate) ends: BTreeMap<String, u64>,
    /// Through which epoch records are looked at one by one.
    pub(crate) apart: Epoch,
}

/// Knows what must be known to say what follows from a panic.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    /// Where panics are noted; none where there are no restarts.
    store: Option<Arc<dyn Store>>,
    begins: Begins,
    /// What was found in this process by taking blocks apart, and gone on without; by epoch.
    found: Mutex<Vec<(Epoch, Attempt)>>,
}

impl Witness {
    pub(crate) fn new(store: Option<Arc<dyn Store>>, begins: Begins) -> Witness {
        Witness { store, begins, found: Mutex::default() }
    }

    /// Does `work` on this thread; a panic in it becomes an error. The thread must not go on with what `work` worked on, and
    /// may panic again when that is dropped, for which the same holds.
    pub(crate) fn contain<R>(self: &Arc<Self>, work: impl FnOnce() -> R) -> Result<R, RunError> {
        region::note_operators();
        contain_thread();
        WITNESS.set(Some(Arc::clone(self)));
        catch_unwind(AssertUnwindSafe(work)).map_err(|panic| self.reports(message(&*panic)))
    }

    fn is_committed(&self, origin: &Origin) -> bool {
        origin.start < self.begins.ends.get(&origin.partition).copied().unwrap_or(0)
    }

    fn found(&self, record: &Origin, phase: Phase, (operator, epoch): (&str, Epoch), message: String) -> bool {
        let Some(store) = &self.store else { return false };
        if is_poisoned(&message) || self.is_committed(record) {
            return false;
        }
        let (origin, operator) = (record.clone(), operator.to_owned());
        let attempt = Attempt { run: self.begins.run, origin, phase, operator, message, twice: true };
        let noted = attempts::write(&**store, &attempt).is_ok();
        if noted {
            self.found.lock().expect("no panic while it is held").push((epoch, attempt));
        }
        noted
    }

    /// The end of a run that went on without records of which its workers here found that they panic: once their epoch is
    /// closed, by which time all of it has been looked at. All epochs before `closed` are (`None`: all).
    pub(crate) fn verdict(&self, closed: Option<Epoch>) -> Option<RunError> {
        let found = self.found.lock().expect("no panic while it is held");
        let earliest = found.iter().map(|(epoch, _)| *epoch).min()?;
        if closed.is_some_and(|closed| closed <= earliest) {
            return None;
        }
        let (_, Attempt { origin, operator, message, .. }) = &found[0];
        let (with, it) = match found.len() - 1 {
            0 => (String::new(), ["it", "a dead letter"]),
            others => (format!(", and {others} more panicked"), ["them", "dead letters"]),
        };
        Some(RunError::WorkerPanicked(format!(
            "{} panicked in {operator} ({message}){with}; {UNAFFECTED}, and the next start sets {} aside, as {}, and goes on \
             without {}",
            place(origin),
            it[0],
            it[1],
            it[0]
        )))
    }

    fn reports(&self, message: String) -> RunError {
        let noted = pass::take();
        let view = region::panicked().filter(|_| noted.is_none());
        let what = what(noted.as_ref(), view, &message);
        let Some(store) = &self.store else {
            return RunError::WorkerPanicked(format!("{what}; without a log it is not known which record is to blame"));
        };
        if is_poisoned(&message) {
            return RunError::WorkerPanicked(format!(
                "{what}, which says nothing of what it was at: another panic has poisoned a lock of the pipeline; {UNAFFECTED}"
            ));
        }
        let origin = noted.as_ref().and_then(|noted| noted.origin.clone());
        let committed = origin.as_ref().is_some_and(|origin| self.is_committed(origin));
        let run = self.begins.run;
        if let (Some(Noted { phase, operator, .. }), Some(record)) =
            (&noted, origin.filter(|origin| origin.single && !committed))
        {
            let (operator, phase) = ((*operator).to_owned(), *phase);
            let attempt = Attempt { run, origin: record, phase, operator, message, twice: false };
            let written = attempts::write(&**store, &attempt);
            return failed(&what, written, "the next start sets aside, as a dead letter, what has done so twice");
        }
        let (operator, epoch) = match (noted, view) {
            (Some(noted), _) => (noted.operator, noted.epoch),
            (None, Some((id, epoch))) => (id, Some(epoch)),
            (None, None) => ("a worker", None),
        };
        let epoch = epoch.unwrap_or(self.begins.committed + 1);
        let fruitless = Fruitless { run, operator: operator.to_owned(), epoch, message };
        // Another operator's panic in the start before says nothing of this one.
        let known = attempts::read_fruitless(&**store).unwrap_or_default();
        let again = known.iter().any(|panic| panic.run < run && panic.operator == fruitless.operator);
        let written = attempts::write_fruitless(&**store, &fruitless);
        if epoch > self.begins.apart || !again {
            let remark = if committed { COMMITTED } else { "" };
            return failed(
                &format!("{what}{remark}"),
                written,
                "the next start looks at the records of that epoch one by one",
            );
        }
        let why = if committed { COMMITTED } else { NO_RECORD };
        RunError::PanicsAgain(format!(
            "{what}{why}; {UNAFFECTED}. It would do so in each start, so the run ends for good: mend \
             {operator}, and start the new program with --replay-with-changed-plan"
        ))
    }
}

fn failed(what: &str, noted: Result<(), StoreError>, follows: &str) -> RunError {
    RunError::WorkerPanicked(match noted {
        Ok(()) => format!("{what}; {UNAFFECTED}, and {follows}"),
        Err(error) => {
            let problem = with_causes(&error);
            format!(
                "{what}; {UNAFFECTED}, and that could not be noted, so the next start knows nothing of it: {problem}"
            )
        }
    })
}

fn is_poisoned(message: &str) -> bool {
    POISONED.iter().any(|words| message.contains(words))
}

const UNAFFECTED: &str = "nothing that was committed is affected";
const COMMITTED: &str = "; an earlier run has committed what it led to, so it is not set aside: go on with the build that did, or \
                         mend the pipeline";
const NO_RECORD: &str = ", though the records of that epoch were taken one by one: none of them does by itself (it is a timer that an \
                         earlier epoch set, what is kept of earlier ones, or rows of another operator), so none is set aside";

/// Where the records stand.
fn place(Origin { partition, start, end, single }: &Origin) -> String {
    match single {
        true => format!("the record at offset {start} of {partition}"),
        false => format!("a record of {partition} at offsets {start} to {end}"),
    }
}

/// Who panicked, at what, and what the panic said.
fn what(noted: Option<&Noted>, view: Option<(&str, Epoch)>, message: &str) -> String {
    let Some(Noted { origin, operator, epoch, key, .. }) = noted else {
        let view = view.map(|(id, epoch)| format!("{id} panicked in epoch {epoch} or soon after"));
        return format!("{} ({message})", view.as_deref().unwrap_or("a worker panicked"));
    };
    let epoch = epoch.map(|epoch| format!(" in epoch {epoch}")).unwrap_or_default();
    match (origin, key) {
        (Some(origin), _) => format!("{} panicked in {operator}{epoch} ({message})", place(origin)),
        (None, Some(key)) => format!("{operator} panicked at key {key}{epoch} ({message})"),
        (None, None) => format!("{operator} panicked{epoch} ({message})"),
    }
}

/// What a panic said, on one line, cut.
fn message(panic: &(dyn Any + Send)) -> String {
    panics::message(panic).chars().take(MESSAGE).collect()
}
