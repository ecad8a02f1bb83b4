//! A log in memory that fails and waits on command.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use tidemill_embedded_log::Record;

use crate::{EventLog, LogFailure, OpenLog, Topic};

/// A record as it was synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) topic: &'static str,
    pub(super) partition: u32,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) time_ms: i64,
}

#[derive(Default)]
struct Inside {
    synced: Vec<Stored>,
    syncs: u64,
    /// Syncs wait while this is set.
    held: bool,
    /// A sync that waits.
    waiting: bool,
    failing_syncs: u32,
    failing_opens: u32,
    open: bool,
}

/// Shared by the collector and the test.
#[derive(Clone, Default)]
pub(super) struct MemoryLog(Arc<(Mutex<Inside>, Condvar)>);

impl MemoryLog {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.0.lock().unwrap()
    }

    fn wait<'a>(&self, inside: MutexGuard<'a, Inside>, until: impl Fn(&Inside) -> bool) -> MutexGuard<'a, Inside> {
        self.0.1.wait_while(inside, |inside| !until(inside)).unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Inside)) {
        change(&mut self.inside());
        self.0.1.notify_all();
    }

    pub(super) fn synced(&self) -> Vec<Stored> {
        self.inside().synced.clone()
    }

    pub(super) fn syncs(&self) -> u64 {
        self.inside().syncs
    }

    /// Makes every sync wait until [`release`](Self::release).
    pub(super) fn hold(&self) {
        self.change(|inside| inside.held = true);
    }

    pub(super) fn release(&self) {
        self.change(|inside| inside.held = false);
    }

    /// Waits until a sync waits.
    pub(super) fn until_waiting(&self) {
        drop(self.wait(self.inside(), |inside| inside.waiting));
    }

    /// Lets the next syncs and the next openings fail.
    pub(super) fn fail(&self, syncs: u32, opens: u32) {
        self.change(|inside| (inside.failing_syncs, inside.failing_opens) = (syncs, opens));
    }
}

struct Opened {
    log: MemoryLog,
    appended: Vec<Stored>,
}

impl OpenLog for MemoryLog {
    fn open(&mut self) -> Result<Box<dyn EventLog>, LogFailure> {
        let mut inside = self.inside();
        assert!(!inside.open, "the lock of the log that failed was given back");
        if inside.failing_opens > 0 {
            inside.failing_opens -= 1;
            return Err("the disk is still full".into());
        }
        inside.open = true;
        Ok(Box::new(Opened { log: self.clone(), appended: Vec::new() }))
    }
}

impl EventLog for Opened {
    fn append(&mut self, topic: Topic, partition: u32, records: &[Record<'_>]) -> Result<(), LogFailure> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        self.appended.extend(records.iter().map(|record| Stored {
            topic: topic.name(),
            partition,
            key: text(record.key),
            value: text(record.value),
            time_ms: record.time_ms,
        }));
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogFailure> {
        self.log.change(|inside| inside.waiting = true);
        let mut inside = self.log.wait(self.log.inside(), |inside| !inside.held);
        inside.waiting = false;
        if inside.failing_syncs > 0 {
            inside.failing_syncs -= 1;
            return Err("the disk is full".into());
        }
        inside.syncs += 1;
        inside.synced.append(&mut self.appended);
        Ok(())
    }

    fn retain(&mut self, _now_ms: i64) -> Result<(), LogFailure> {
        Ok(())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.log.change(|inside| inside.open = false);
    }
}
