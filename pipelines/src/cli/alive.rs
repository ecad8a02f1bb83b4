//! Who runs here: a courtesy before the fence.
//!
//! A start fences the run before it (INV-1), and nothing else is needed for exact tables. But whoever repeats the command of
//! a run by mistake would end it, and when the second one is stopped nothing runs any more. So a run shows that it lives,
//! and a start that finds one refuses, unless it was told to take over.
//!
//! - In a folder it is a lock ([`lock`]), which the system gives back however the process ends.
//! - In a bucket it is an object that is written again and again ([`beat`]). Whoever finds one watches whether it changes; no
//!   clock is compared with another one. A run that crashed costs the next start that time, one that ended costs nothing.
//!
//! Nothing may rest on this: two that start in the same moment may not see each other, and then the fence decides.

mod beat;
mod lock;

use std::fs;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::status::Moment;
use tidemill_log::{FOLDER, Location, Store};

use super::{Failure, lines, with_causes};
use beat::{Beat, Found, Pace};
use lock::{Lock, Taken};

/// A run, as others are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Who {
    host: String,
    pid: u32,
    since: String,
}

impl Who {
    /// This process.
    fn this() -> Who {
        Who { host: host(), pid: std::process::id(), since: Moment::now().to_string() }
    }
}

/// The name of this machine.
fn host() -> String {
    let known = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| std::env::var("HOSTNAME").ok());
    known.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "a host".to_owned())
}

/// Shows that a run lives, until it is dropped.
pub(crate) struct Alive {
    _held: Held,
}

enum Held {
    Lock {
        _lock: Lock,
    },
    Beat {
        _beat: Beat,
    },
    /// The place has no locks: later starts are not told.
    Nothing,
}

/// Refuses if a run lives at `place`, whose objects `store` holds; shows from now on that this one does.
///
/// With `take_over` it asks nobody: a run that lives there is fenced by what follows.
pub(crate) fn claim(place: &Location, store: &Arc<dyn Store>, take_over: bool) -> Result<Alive, Failure> {
    let held = match place {
        Location::Folder(root) => match lock::take(&root.join(FOLDER), &Who::this(), take_over) {
            Taken::Ours(lock) => Held::Lock { _lock: lock },
            Taken::Others(who) => return Err(refusal(place, who.as_ref())),
            // The run that follows needs the folder, too, and says what is wrong with it.
            Taken::NoFolder => Held::Nothing,
            Taken::NoLocks(error) => {
                lines::warn(&format!(
                    "{place}: it cannot be locked ({error}), so a second start is not refused: it fences this run"
                ));
                Held::Nothing
            }
        },
        Location::S3 { .. } => {
            let watching = |who: Option<&Who>, pace: &Pace| {
                let who = who.map_or_else(|| "a run".to_owned(), named);
                lines::say(&format!(
                    "{place}: {who} did not say that it ended; looking for {:?} whether it is alive",
                    pace.watched
                ));
            };
            let found = beat::take(store, &Who::this(), take_over, &Pace::default(), watching);
            match found.map_err(|error| Failure::failed(format!("{place}: {}", with_causes(&error))))? {
                Found::Nobody(beat) => Held::Beat { _beat: beat },
                Found::Others(who) => return Err(refusal(place, who.as_ref())),
            }
        }
    };
    Ok(Alive { _held: held })
}

fn named(who: &Who) -> String {
    format!("the run of process {} on {}, since {},", who.pid, who.host, who.since)
}

fn refusal(place: &Location, who: Option<&Who>) -> Failure {
    let (who, how) = match who {
        Some(who) => (named(who), format!(" (kill -TERM {} on {})", who.pid, who.host)),
        None => ("a run".to_owned(), String::new()),
    };
    Failure::refused(format!(
        "{place}: {who} is alive there, and nothing was changed; stop it first{how}, or give --take-over to fence it and \
         go on from what it has committed"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_who_since_when_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let place = Location::Folder(folder.path().to_owned());
        let store = super::super::run::open_store(&place).unwrap();
        let first = claim(&place, &store, false).ok().unwrap();
        let refused = claim(&place, &store, false).err().unwrap();
        assert_eq!(refused.code, 3);
        let pid = format!("process {} on {}", std::process::id(), host());
        for part in [&*folder.path().display().to_string(), &pid, "since 20", "kill -TERM", "--take-over"] {
            assert!(refused.message.contains(part), "{part} in {}", refused.message);
        }
        drop(first);
    }
}
