//! What epochs contained, kept beyond what recovery needs, so that a whole run can be repeated in the cuts it was made in.
//!
//! The log keeps the bindings after the older of the last two checkpoints. Those before it are written here, as objects
//! `bindings/<first>-<last>`, before the checkpoint that lets go of them is recorded; small objects are joined into large
//! ones, and epochs beyond the bound that the run was given go. A binding is decided once (INV-1), so whoever writes an
//! object, also a run that is fenced and does not know it yet, writes the same facts under the same name.
//!
//! A partition is stored by what changed since the epoch before: some 80 bytes for one that moved, none for the others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::entry::Binding;
use crate::error::LogError;
use crate::frame::{self, Framed};
use crate::paths::{Paths, Span};
use crate::reader::{self, retrying};
use crate::retry::Retrying;
use crate::state::{LogState, Partitions};
use crate::store::Store;

mod packed;

use packed::{Packed, pack, unpack};

/// An object with this many epochs is not joined with others.
const JOINED_EPOCHS: u64 = 1024;
/// So many small objects are joined, however few epochs they hold.
const SMALL_OBJECTS: usize = 128;

/// How often a reading is begun again when objects are joined under it.
const ROUNDS: u32 = 10;

impl Framed for Packed {
    const KIND: &'static str = "bindings";
}

/// The writing side: part of the one writer of the log.
#[derive(Debug)]
pub(crate) struct Archive {
    /// Epochs that are kept; 0 keeps none.
    keep: u64,
    /// The objects that are there, in order; looked up when the first is added.
    spans: Option<Vec<Span>>,
}

impl Archive {
    pub(crate) fn new(keep: u64) -> Self {
        Self { keep, spans: None }
    }

    /// Adds bindings of epochs without a gap; `delete` removes an object if that is still this run's to do.
    pub(crate) fn add<'a>(
        &mut self,
        (store, paths): (&Retrying, &Paths),
        bindings: impl Iterator<Item = &'a Binding>,
        delete: impl Fn(&str) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        if self.keep == 0 {
            return Ok(());
        }
        let bindings: Vec<&Binding> = bindings.collect();
        let (Some(first), Some(last)) = (bindings.first(), bindings.last()) else { return Ok(()) };
        let span = Span { first: first.epoch, last: last.epoch };
        let spans = match self.spans.take() {
            Some(spans) => spans,
            None => spans(store, paths)?,
        };
        let spans = self.spans.insert(spans);
        if !spans.iter().any(|other| other.covers(span)) {
            store.create(&paths.bindings_of(span), &frame::encode(&pack(&bindings)))?;
            spans.push(span);
        }
        if let Some(joined) = join(spans) {
            let mut all: BTreeMap<u64, Binding> = BTreeMap::new();
            for part in spans.iter().filter(|part| joined.covers(**part)) {
                all.extend(read(store, paths, *part)?.unwrap_or_default().into_iter().map(|one| (one.epoch, one)));
            }
            // What somebody else deleted cannot be joined, and need not be.
            if (joined.first..=joined.last).eq(all.keys().copied()) {
                store.create(&paths.bindings_of(joined), &frame::encode(&pack(&all.values().collect::<Vec<_>>())))?;
                spans.push(joined);
            }
        }
        spans.sort_unstable();
        let oldest = span.last.saturating_sub(self.keep);
        let (kept, gone): (Vec<Span>, Vec<Span>) = spans
            .iter()
            .partition(|one| one.last > oldest && !spans.iter().any(|other| other != *one && other.covers(**one)));
        gone.iter().try_for_each(|one| delete(&paths.bindings_of(*one)))?;
        *spans = kept;
        Ok(())
    }
}

/// What the small objects at the end become, when they are many or hold enough together.
fn join(spans: &[Span]) -> Option<Span> {
    let small = |span: &&Span| span.epochs() < JOINED_EPOCHS;
    let (mut count, mut joined): (usize, Option<Span>) = (0, None);
    for span in spans.iter().rev().take_while(small) {
        let adjoins = joined.is_none_or(|later| span.last.saturating_add(1) >= later.first);
        if !adjoins {
            break;
        }
        count += 1;
        let last = joined.map_or(span.last, |later| later.last.max(span.last));
        joined = Some(Span { first: joined.map_or(span.first, |later| later.first.min(span.first)), last });
    }
    joined.filter(|joined| count > 1 && (count >= SMALL_OBJECTS || joined.epochs() >= JOINED_EPOCHS))
}

fn spans(store: &Retrying, paths: &Paths) -> Result<Vec<Span>, LogError> {
    let mut spans: Vec<Span> = store.list(&paths.bindings())?.iter().filter_map(|path| Span::of(path)).collect();
    spans.sort_unstable();
    Ok(spans)
}

/// The bindings of an object; `None` when it is gone.
fn read(store: &Retrying, paths: &Paths, span: Span) -> Result<Option<Vec<Binding>>, LogError> {
    let object = paths.bindings_of(span);
    let Some(bytes) = store.get(&object)? else { return Ok(None) };
    let bindings = unpack(frame::decode(&object, &bytes)?);
    if (span.first..=span.last).eq(bindings.iter().map(|one| one.epoch)) {
        return Ok(Some(bindings));
    }
    Err(LogError::Corrupt { object, problem: "it does not hold the epochs that its name says".to_owned() })
}

/// The recorded bindings of a pipeline through its last commit, one after another, read as they are asked for.
#[derive(Clone, Debug)]
pub struct History {
    store: Retrying,
    paths: Paths,
    state: Arc<LogState>,
    first: u64,
    next: u64,
    through: u64,
    loaded: VecDeque<Binding>,
}

impl History {
    /// Looks what is recorded under `prefix`; `None` before the first commit. A writer may go on meanwhile.
    ///
    /// # Errors
    /// Those of [`reader::read`].
    pub fn open(store: Arc<dyn Store>, prefix: &str) -> Result<Option<History>, LogError> {
        // The state first: what it let go of by then is in the history.
        let state = reader::read(Arc::clone(&store), prefix)?;
        let (store, paths) = (retrying(store), Paths::new(prefix));
        let Some(through) = state.committed() else { return Ok(None) };
        let mut first = state.bindings().keys().next().map_or(through + 1, |first| *first);
        let spans = spans(&store, &paths)?;
        while let Some(before) =
            spans.iter().filter(|span| span.first < first && span.last.saturating_add(1) >= first).min()
        {
            first = before.first;
        }
        Ok(Some(History { store, paths, state: Arc::new(state), first, next: first, through, loaded: VecDeque::new() }))
    }

    /// The first epoch from which on nothing is missing. A run's first epoch is 1.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The last epoch: the one that was committed last.
    #[must_use]
    pub fn through(&self) -> u64 {
        self.through
    }

    /// The meaning of the log when the history was opened.
    #[must_use]
    pub fn state(&self) -> &LogState {
        &self.state
    }

    /// Where the source stood at the end of the last epoch.
    #[must_use]
    pub fn partitions(&self) -> Partitions {
        self.state.committed_partitions()
    }

    /// The same history from an epoch on.
    #[must_use]
    pub fn from(self, epoch: u64) -> History {
        History { next: epoch, loaded: VecDeque::new(), ..self }
    }

    fn load(&mut self) -> Result<Binding, LogError> {
        if let Some(binding) = self.state.bindings().get(&self.next) {
            return Ok(binding.clone());
        }
        for _ in 0..ROUNDS {
            let spans = spans(&self.store, &self.paths)?;
            let holds = |span: &&Span| span.first <= self.next && self.next <= span.last;
            let Some(span) = spans.iter().filter(holds).max_by_key(|span| span.last) else { break };
            if let Some(bindings) = read(&self.store, &self.paths, *span)? {
                self.loaded = bindings.into_iter().filter(|one| one.epoch >= self.next).collect();
                return Ok(self.loaded.pop_front().expect("the object holds the epochs that its name says"));
            }
        }
        Err(LogError::Forgotten { epoch: self.next, folder: self.paths.bindings() })
    }
}

impl Iterator for History {
    type Item = Result<Binding, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next > self.through {
            return None;
        }
        let binding = self.loaded.pop_front().map_or_else(|| self.load(), Ok);
        // After an error there is nothing to go on with.
        self.next = if binding.is_ok() { self.next + 1 } else { u64::MAX };
        Some(binding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_objects_are_joined_when_they_are_many_or_hold_enough() {
        let every = |epochs: u64, count: u64| -> Vec<Span> {
            (0..count).map(|at| Span { first: at * epochs + 1, last: (at + 1) * epochs }).collect()
        };
        assert_eq!(join(&every(10, 5)), None);
        assert_eq!(join(&every(1, 128)), Some(Span { first: 1, last: 128 }));
        assert_eq!(join(&every(512, 2)), Some(Span { first: 1, last: 1024 }));
        assert_eq!(join(&every(2000, 3)), None, "each is large already");
        let after_a_large_one = [Span { first: 1, last: 1024 }, Span { first: 1025, last: 1030 }];
        assert_eq!(join(&after_a_large_one), None);
    }
}
