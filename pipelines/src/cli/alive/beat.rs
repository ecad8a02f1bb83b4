//! The beat of a run in its bucket: an object of its own that it writes again and again, and takes away when it ends.
//!
//! A start that finds the beat of another run watches it. What changes is alive; what does not change in the stated time is
//! what a crash left behind, and is taken away. Each run has an object of its own, so a run that is fenced cannot be taken
//! for the one that fenced it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use tidemill_log::{FOLDER, Store, StoreError};

use super::Who;
use crate::cli::measure::Stopwatch;

/// How long an end waits for the beat to be taken away: the store may not answer.
const PARTING: Duration = Duration::from_secs(5);

/// How fast it beats, and how long another run's beat is watched.
pub(super) struct Pace {
    pub(super) every: Duration,
    pub(super) watched: Duration,
    pub(super) look: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        let (every, watched) = (Duration::from_secs(3), Duration::from_secs(10));
        Pace { every, watched, look: Duration::from_millis(500) }
    }
}

#[derive(Serialize)]
struct Object<'a> {
    #[serde(flatten)]
    who: &'a Who,
    beat: u64,
}

/// It beats until this is dropped.
pub(super) struct Beat {
    stop: Option<Sender<()>>,
    ended: Receiver<()>,
}

impl Drop for Beat {
    fn drop(&mut self) {
        drop(self.stop.take());
        // If it is not taken away in time, the next start watches it.
        let _ = self.ended.recv_timeout(PARTING);
    }
}

/// What a start finds.
pub(super) enum Found {
    /// No living run; ours shows from now on that it lives.
    Nobody(Beat),
    /// A living run; who, if that can be read.
    Others(Option<Who>),
}

fn folder() -> String {
    format!("{FOLDER}/running")
}

/// Watches the beats that are there, having said so, and beats from now on. With `take_over` it watches nobody.
pub(super) fn take(
    store: &Arc<dyn Store>,
    me: &Who,
    take_over: bool,
    pace: &Pace,
    watching: impl FnOnce(Option<&Who>, &Pace),
) -> Result<Found, StoreError> {
    let names = store.list(&folder())?;
    if !take_over && let Some(living) = living(&**store, &names, pace, watching)? {
        return Ok(Found::Others(living.0));
    }
    // One that lives all the same writes its own again, and takes it away when it ends.
    names.iter().try_for_each(|name| store.delete(name))?;
    Ok(Found::Nobody(start(store, me, pace.every)?))
}

/// A run that was seen to live, and what it says of itself.
struct Living(Option<Who>);

fn living(
    store: &dyn Store,
    names: &[String],
    pace: &Pace,
    watching: impl FnOnce(Option<&Who>, &Pace),
) -> Result<Option<Living>, StoreError> {
    let mut seen = Vec::new();
    for name in names {
        // One that is gone by now has ended.
        seen.extend(store.get(name)?.map(|bytes| (name, bytes)));
    }
    let Some((_, first)) = seen.first() else { return Ok(None) };
    watching(read(first).as_ref(), pace);
    let mut watched = Duration::ZERO;
    while !seen.is_empty() && watched < pace.watched {
        let clock = Stopwatch::start();
        thread::park_timeout(pace.look);
        let (paused, mut unchanged) = (clock.elapsed(), Vec::new());
        for (name, before) in seen {
            match store.get(name)? {
                None => {}
                Some(now) if now == before => unchanged.push((name, now)),
                Some(now) => return Ok(Some(Living(read(&now)))),
            }
        }
        seen = unchanged;
        // While the store did not answer, a living run could not write, either.
        let was_away = clock.elapsed() - paused > pace.watched / 3;
        watched = if was_away { Duration::ZERO } else { watched + paused };
    }
    Ok(None)
}

fn read(bytes: &[u8]) -> Option<Who> {
    serde_json::from_slice(bytes).ok()
}

#[expect(clippy::disallowed_methods, reason = "the name of an object that reaches no result")]
fn new_name() -> String {
    format!("{}/{:016x}", folder(), rand::random::<u64>())
}

/// The object of a run.
struct Own {
    store: Arc<dyn Store>,
    name: String,
    who: Who,
}

impl Own {
    fn put(&self, beat: u64) -> Result<(), StoreError> {
        let object = serde_json::to_vec(&Object { who: &self.who, beat });
        self.store.put(&self.name, &object.expect("texts and numbers can always be written as JSON"))
    }

    /// Beats until `stop` is hung up.
    fn beat(&self, stop: &Receiver<()>, every: Duration) {
        let mut beat = 1;
        while stop.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            beat += 1;
            // The run itself says what is wrong with its store, and the next beat comes soon.
            let _ = self.put(beat);
        }
        // What stays costs the next start some seconds.
        let _ = self.store.delete(&self.name);
    }
}

/// Writes the first beat, and the others from a thread.
fn start(store: &Arc<dyn Store>, me: &Who, every: Duration) -> Result<Beat, StoreError> {
    let own = Own { store: Arc::clone(store), name: new_name(), who: me.clone() };
    own.put(1)?;
    let (stop, stopped) = channel();
    let (end, ended) = channel();
    let go_on = move || {
        own.beat(&stopped, every);
        // Nobody listens once the run has gone without waiting for it.
        let _ = end.send(());
    };
    // Without the thread, later starts take this run for one that crashed, and fence it.
    drop(thread::Builder::new().name("beat".into()).spawn(go_on));
    Ok(Beat { stop: Some(stop), ended })
}

#[cfg(test)]
mod tests {
    use tidemill_log::testing::MemoryStore;

    use super::*;

    fn who(pid: u32) -> Who {
        Who { host: "web-1".into(), pid, since: "then".into() }
    }

    /// Watches for so long that only a change ends it.
    fn patient() -> Pace {
        Pace { every: Duration::from_millis(1), watched: Duration::from_secs(600), look: Duration::from_millis(1) }
    }

    /// Watches what never changes.
    fn quick() -> Pace {
        Pace { watched: Duration::from_millis(20), ..patient() }
    }

    fn memory() -> (Arc<MemoryStore>, Arc<dyn Store>) {
        let memory = Arc::new(MemoryStore::default());
        let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(&memory);
        (memory, store)
    }

    #[track_caller]
    fn begun(found: Found) -> Beat {
        match found {
            Found::Nobody(beat) => beat,
            Found::Others(who) => panic!("{who:?} was taken for alive"),
        }
    }

    fn nobody(_: Option<&Who>, _: &Pace) {
        panic!("there is nobody to watch");
    }

    #[test]
    fn a_run_that_beats_is_found_alive_and_leaves_nothing_when_it_ends() {
        let (memory, store) = memory();
        let first = begun(take(&store, &who(1), false, &patient(), nobody).unwrap());
        let mut told = None;
        let found = take(&store, &who(2), false, &patient(), |who, _| told = who.cloned()).unwrap();
        assert!(matches!(found, Found::Others(Some(found)) if found == who(1)));
        assert_eq!(told, Some(who(1)), "whoever is watched is named");
        drop(first);
        assert!(memory.objects().is_empty(), "{:?}", memory.objects());
        drop(begun(take(&store, &who(3), false, &patient(), nobody).unwrap()));
    }

    #[test]
    fn what_a_crash_left_behind_is_watched_and_taken_away() {
        let (memory, store) = memory();
        for left in [&b"{\"host\":\"web-1\",\"pid\":1,\"since\":\"then\",\"beat\":7}"[..], b"no JSON"] {
            store.put("_tidemill/running/0", left).unwrap();
            let mut watched = false;
            let beat = begun(take(&store, &who(2), false, &quick(), |_, _| watched = true).unwrap());
            assert!(watched, "the wait is said");
            assert!(!memory.objects().contains_key("_tidemill/running/0"));
            drop(beat);
        }
    }

    #[test]
    fn a_run_that_ends_while_it_is_watched_is_waited_for_no_longer() {
        let (_, store) = memory();
        let still = Pace { every: Duration::from_secs(600), ..patient() };
        let mut ending = Some(begun(take(&store, &who(1), false, &still, nobody).unwrap()));
        let beat = begun(take(&store, &who(2), false, &patient(), |_, _| drop(ending.take())).unwrap());
        drop(beat);
    }

    #[test]
    fn whoever_takes_over_watches_nobody_and_keeps_its_beat_when_the_fenced_run_ends() {
        let (memory, store) = memory();
        let fenced = begun(take(&store, &who(1), false, &patient(), nobody).unwrap());
        let later = begun(take(&store, &who(2), true, &patient(), nobody).unwrap());
        drop(fenced);
        let left: Vec<_> = memory.objects().values().map(|bytes| read(bytes)).collect();
        assert_eq!(left, [Some(who(2))]);
        drop(later);
    }
}
