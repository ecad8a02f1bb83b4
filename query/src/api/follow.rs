//! Follows the log: a thread that looks for new entries and puts a newer snapshot in place of the last.
//!
//! A look lists the entries from the newest known one on, one call that most often finds that one alone. Only when there
//! is another, or it is not there any more (a log begun anew in the same place), the log is read. What is seen stays in
//! place while the log cannot be read: an answer of an older commit is still an answer of one commit, and says of which.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use datafusion::error::DataFusionError;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore};
use tidemill_log::{FOLDER, Location, LogError, Store, reader, with_causes};
use tidemill_tables::TableSpec;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::{info, warn};

use super::changes::Changes;
use super::snapshot::Snapshot;
use super::telemetry::Telemetry;
use crate::clock::Clock;
use crate::session::Tables;
use crate::visible::Visible;

/// Between two looks at a folder, and at a bucket.
const LOCAL_EVERY: Duration = Duration::from_millis(100);
const REMOTE_EVERY: Duration = Duration::from_millis(500);

/// Looks that find nothing before they become rarer, and how much rarer.
const QUIET_AFTER: u32 = 100;
const QUIET_FACTOR: u32 = 4;

/// What the thread that follows and those who answer share.
pub(super) struct Followed {
    /// The newest snapshot; none until the log, or that there is none, was seen once.
    pub(super) newest: watch::Sender<Option<Arc<Snapshot>>>,
    /// Why the log could not be read the last time, if it could not.
    pub(super) trouble: Mutex<Option<String>>,
    /// Who is told of it.
    pub(super) changes: Changes,
    /// The numbers about it.
    pub(super) telemetry: Telemetry,
}

impl Followed {
    /// Why the log could not be read the last time.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets and clears the trouble; says so once at each end.
    fn note(&self, place: &Location, outcome: Result<(), String>) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                if trouble.take().is_some() {
                    info!("the tables of {place} can be read again");
                }
            }
            Err(reason) => {
                self.telemetry.log_failures.inc();
                if trouble.is_none() {
                    warn!("cannot read the tables of {place}; answers stay at the last commit that was seen: {reason}");
                }
                *trouble = Some(reason);
            }
        }
    }
}

/// A place whose log is looked at.
struct Opened {
    store: Arc<dyn Store>,
    objects: Arc<dyn ObjectStore>,
    tables: Tables,
    /// The random name of the log that was read last; files of another may have the same names.
    instance: Option<String>,
}

/// One who follows a log.
pub(super) struct Follower {
    place: Location,
    specs: Vec<TableSpec>,
    memory: usize,
    clock: Clock,
    runtime: Handle,
    shared: Arc<Followed>,
    opened: Option<Opened>,
    /// The newest entry that was listed before the log was read.
    last: Option<ObjectMeta>,
    quiet: u32,
}

impl Follower {
    /// Follows the log at `place`, whose tables are those of `specs` that its pipeline has; object stores are asked on
    /// `runtime`.
    ///
    /// A folder may not exist yet. Anything else that cannot be opened is refused here.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the place.
    pub(super) fn new(
        place: Location,
        specs: Vec<TableSpec>,
        (memory, clock): (usize, Clock),
        runtime: Handle,
        shared: Arc<Followed>,
    ) -> Result<Self, String> {
        let mut follower = Self { place, specs, memory, clock, runtime, shared, opened: None, last: None, quiet: 0 };
        follower.open()?;
        Ok(follower)
    }

    /// Looks until `stop` is dropped, the first time before anything else; tells `ready` after that.
    pub(super) fn run(mut self, stop: &mpsc::Receiver<()>, ready: &mpsc::SyncSender<()>) {
        loop {
            let outcome = self.look();
            let changed = matches!(outcome, Ok(true));
            self.quiet = if changed { 0 } else { self.quiet.saturating_add(1) };
            self.shared.note(&self.place, outcome.map(drop));
            // Only the first word is waited for.
            let _ = ready.try_send(());
            if stop.recv_timeout(self.pause()) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn pause(&self) -> Duration {
        let every = if matches!(self.place, Location::Folder(_)) { LOCAL_EVERY } else { REMOTE_EVERY };
        if self.quiet > QUIET_AFTER { every * QUIET_FACTOR } else { every }
    }

    /// Opens the place; a folder that does not exist stays to be opened.
    fn open(&mut self) -> Result<(), String> {
        if let Location::Folder(folder) = &self.place
            && !exists(folder)?
        {
            return Ok(());
        }
        let side = self.place.open_for_reading().map_err(|error| with_causes(&error))?;
        let tables = tables(&side.objects, &self.specs, self.memory, &self.clock)?;
        self.opened = Some(Opened { store: side.store, objects: side.objects, tables, instance: None });
        Ok(())
    }

    /// Whether there was anything new.
    fn look(&mut self) -> Result<bool, String> {
        if self.opened.is_none() {
            self.open()?;
        }
        let seen = self.shared.newest.borrow().is_some();
        let Some(opened) = &mut self.opened else { return if seen { Ok(false) } else { self.nothing_yet() } };
        let listed = self.runtime.block_on(newest_entry(opened, self.last.as_ref()));
        let mut newest = listed.map_err(|error| with_causes(&error))?;
        if seen && newest == self.last {
            return Ok(false);
        }
        let vanished = self
            .last
            .as_ref()
            .is_some_and(|last| newest.as_ref().is_none_or(|newest| newest.location <= last.location));
        if vanished {
            newest = self.runtime.block_on(newest_entry(opened, None)).map_err(|error| with_causes(&error))?;
        }
        let (visible, instance) = match reader::read(Arc::clone(&opened.store), FOLDER) {
            Ok(state) => (Visible::from(&state), state.seal().map(|seal| seal.instance.clone())),
            Err(LogError::NotInitialized { .. }) => (Visible::default(), None),
            Err(error) => return Err(with_causes(&error)),
        };
        if vanished || (opened.instance.is_some() && opened.instance != instance) {
            info!("the log of {} was begun anew", self.place);
            opened.tables = tables(&opened.objects, &self.specs, self.memory, &self.clock)?;
        }
        let (initialized, tables) = (instance.is_some(), opened.tables.clone());
        opened.instance = instance;
        let updated_at = newest.as_ref().map(|entry| entry.last_modified.timestamp_millis());
        let changed = self.show(&tables, visible, updated_at).map_err(|error| with_causes(&error))?;
        self.last = newest.filter(|_| initialized);
        Ok(changed)
    }

    /// Nothing is there, so nothing is visible.
    fn nothing_yet(&self) -> Result<bool, String> {
        let nowhere: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let tables = tables(&nowhere, &self.specs, self.memory, &self.clock)?;
        self.show(&tables, Visible::default(), None).map_err(|error| with_causes(&error))
    }

    /// Puts what is visible in place of what was, if it differs.
    fn show(&self, tables: &Tables, visible: Visible, updated_at: Option<i64>) -> Result<bool, DataFusionError> {
        let before = self.shared.newest.borrow().clone();
        if before.as_ref().is_some_and(|before| before.visible == visible) {
            return Ok(false);
        }
        // Files that were exchanged for others of the same rows are no news.
        let news = before.as_ref().is_none_or(|before| before.visible.epoch != visible.epoch);
        let updated_at = match &before {
            Some(before) if !news => before.updated_at,
            _ => updated_at.filter(|_| visible.epoch.is_some()),
        };
        let snapshot = Snapshot::new(tables, visible, updated_at)?;
        let change = snapshot.change();
        let committed = snapshot.visible.epoch.is_some();
        self.shared.newest.send_replace(Some(snapshot));
        if news && committed {
            self.shared.telemetry.let_go.inc_by(self.shared.changes.publish(change));
        }
        Ok(true)
    }
}

fn exists(folder: &Path) -> Result<bool, String> {
    match folder.metadata() {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(format!("{} is no folder; give the folder that a run writes to", folder.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(format!("cannot look at {}: {error}", folder.display())),
    }
}

fn tables(objects: &Arc<dyn ObjectStore>, specs: &[TableSpec], memory: usize, clock: &Clock) -> Result<Tables, String> {
    let half = memory / 2;
    let tables = Tables::cached(Arc::clone(objects), specs.to_vec(), half, half);
    tables.map(|tables| tables.by(clock.clone())).map_err(|error| with_causes(&error))
}

/// The newest entry of the log, looked for from `last` on.
async fn newest_entry(opened: &Opened, last: Option<&ObjectMeta>) -> object_store::Result<Option<ObjectMeta>> {
    let folder = ObjectPath::from(format!("{FOLDER}/log"));
    let entries = match last.and_then(|last| name_before(last.location.filename()?)) {
        Some(before) => opened.objects.list_with_offset(Some(&folder), &folder.clone().join(before)),
        None => opened.objects.list(Some(&folder)),
    };
    // A file that is being written, or was left half written, has another name.
    let is_entry = |entry: &ObjectMeta| {
        entry.location.filename().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    entries
        .try_fold(None, |newest: Option<ObjectMeta>, entry| async move {
            let newer = is_entry(&entry) && newest.as_ref().is_none_or(|newest| newest.location < entry.location);
            Ok(if newer { Some(entry) } else { newest })
        })
        .await
}

/// The name of the entry before the one of this name.
fn name_before(name: &str) -> Option<String> {
    let number: u64 = name.parse().ok()?;
    Some(format!("{:0digits$}", number.checked_sub(1)?, digits = name.len()))
}
