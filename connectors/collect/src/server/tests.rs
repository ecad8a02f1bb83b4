//! The whole collector over real connections, on a log that does what a test says.

mod client;
mod fairness;
mod hostile;
mod keys;
mod memory_log;
mod overload;
mod promises;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use self::memory_log::MemoryLog;
use crate::{CollectConfig, Collector, Environment};

/// 2026-03-01T00:00:00Z.
const NOW: i64 = 1_772_323_200_000;

/// A clock that a test sets.
struct Clock {
    now_ms: AtomicI64,
    uptime_ms: AtomicU64,
}

impl Environment for Clock {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.uptime_ms.load(Ordering::Relaxed))
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        // Another one each day.
        bytes.fill(self.now_ms().div_euclid(86_400_000).to_le_bytes()[0]);
        Ok(())
    }
}

/// A collector under test, with its log and its clock.
struct Rig {
    collector: Collector,
    log: MemoryLog,
    clock: Arc<Clock>,
    _folder: TempDir,
}

impl Rig {
    fn start(change: impl FnOnce(&mut CollectConfig)) -> Rig {
        Rig::on(MemoryLog::default(), change)
    }

    fn on(log: MemoryLog, change: impl FnOnce(&mut CollectConfig)) -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let mut config = CollectConfig::new("127.0.0.1:0".parse().unwrap(), folder.path().join("salts"), 2);
        change(&mut config);
        let clock = Arc::new(Clock { now_ms: NOW.into(), uptime_ms: 0.into() });
        let collector = Collector::start(&config, Box::new(log.clone()), Arc::<Clock>::clone(&clock)).unwrap();
        Rig { collector, log, clock, _folder: folder }
    }

    fn stop(self) -> crate::Books {
        self.collector.stop_handle().stop();
        self.collector.wait()
    }
}

fn event(id: &str) -> Value {
    json!({
        "event_id": id, "event_type": "page_view", "user_id": format!("user of {id}"), "timestamp": NOW,
        "properties": {"page": "/"},
    })
}

fn batch(ids: &[&str]) -> String {
    json!({ "events": ids.iter().map(|id| event(id)).collect::<Vec<_>>() }).to_string()
}
