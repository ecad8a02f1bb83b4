//! Reads the log: the newest intact snapshot and the entries after it.
//!
//! Promise: the answer is the exact fold of a prefix of the log, or an error; never another state. A snapshot that is
//! damaged is passed over (with a warning) as long as the entries that it covered are still there; every entry names
//! the checksum of the one before, so neither a lost nor a stray object can change what is read.

use crate::entry::FORMAT;
use crate::error::LogError;
use crate::frame::{self, Envelope, Format, Snapshot};
use crate::paths::{Paths, number_of};
use crate::retry::Retrying;
use crate::state::LogState;

/// How often a reading is begun again when the writer pruned what it was reading.
const ROUNDS: u32 = 10;

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) state: LogState,
    /// Checksum of the last entry; 0 before the first.
    pub(crate) previous: u64,
    /// The snapshot that the reading began with.
    pub(crate) snapshot: Option<u64>,
    pub(crate) warnings: Vec<String>,
}

/// Refuses a folder without a log or of another format.
pub(crate) fn check_format(store: &Retrying, paths: &Paths) -> Result<(), LogError> {
    let object = paths.format();
    let bytes = store.get(&object)?.ok_or_else(|| paths.not_initialized())?;
    let Format { format } = frame::decode(&object, &bytes)?;
    if format == FORMAT {
        Ok(())
    } else {
        Err(LogError::UnknownFormat { object, found: format.to_string(), known: FORMAT })
    }
}

/// Reads the whole log. `interrupted` is asked before a reading is begun again, and may end it with an error.
pub(crate) fn load(
    store: &Retrying,
    paths: &Paths,
    mut interrupted: impl FnMut() -> Result<(), LogError>,
) -> Result<Loaded, LogError> {
    for _ in 1..ROUNDS {
        match load_once(store, paths) {
            // What looks like a gap is most often a writer that pruned between two of our calls.
            Err(LogError::Gap { .. }) => interrupted()?,
            outcome => return outcome,
        }
    }
    load_once(store, paths)
}

fn load_once(store: &Retrying, paths: &Paths) -> Result<Loaded, LogError> {
    // Snapshots are listed first: whatever is pruned later is covered by one of them, or by a newer one.
    let snapshots = numbers(store, &paths.snapshots())?;
    let entries = numbers(store, &paths.entries())?;
    let last_known = entries.last().max(snapshots.last()).copied().unwrap_or(0);
    let mut loaded = Loaded::default();
    let mut context = "reading from the beginning".to_owned();
    for &number in snapshots.iter().rev() {
        let object = paths.snapshot(number);
        let Some(bytes) = store.get(&object)? else { continue };
        match frame::decode::<Snapshot>(&object, &bytes) {
            Ok(snapshot) if snapshot.state.number() == number => {
                if let Err(problem) = snapshot.state.check_stored() {
                    loaded.warnings.push(format!("{object} was passed over: it contradicts itself, {problem}"));
                    continue;
                }
                loaded.state = snapshot.state;
                loaded.previous = snapshot.previous;
                loaded.snapshot = Some(number);
                context = format!("reading from snapshot {number}");
                break;
            }
            Ok(_) => loaded.warnings.push(format!("{object} holds the snapshot of another entry and was passed over")),
            Err(error @ LogError::Corrupt { .. }) => {
                loaded.warnings.push(format!("{object} was passed over for what came before it: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    for warning in &loaded.warnings {
        context.push_str(", since ");
        context.push_str(warning);
    }
    // The listing bounds what must exist; the walk asks for each number, so an entry put during the listing is no gap.
    loop {
        let number = loaded.state.number() + 1;
        let object = paths.entry(number);
        match store.get(&object)? {
            Some(bytes) => {
                let envelope = read_entry(&object, number, loaded.previous, &bytes)?;
                loaded.state.apply(number, envelope.entry)?;
                loaded.previous = frame::checksum(&bytes);
            }
            // It was written once: a later entry exists, or a snapshot that covers it and could not be read.
            None if last_known >= number => {
                return Err(LogError::Gap { missing: number, found: last_known, object, context });
            }
            None => return Ok(loaded),
        }
    }
}

/// The entry stored in `object`, which must be number `number` and follow the entry with checksum `previous`.
pub(crate) fn read_entry(object: &str, number: u64, previous: u64, bytes: &[u8]) -> Result<Envelope, LogError> {
    let envelope: Envelope = frame::decode(object, bytes)?;
    if envelope.number != number || envelope.previous != previous {
        let problem = format!(
            "it is intact, but does not follow entry {}: it belongs to another place or another log",
            number - 1
        );
        return Err(LogError::Corrupt { object: object.to_owned(), problem });
    }
    Ok(envelope)
}

/// The numbers of the objects in a folder, in order. Names that are not ours are passed over.
pub(crate) fn numbers(store: &Retrying, folder: &str) -> Result<Vec<u64>, LogError> {
    Ok(store.list(folder)?.iter().filter_map(|path| number_of(path)).collect())
}
