//! The threads of a run beside its workers.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::RunError;
use crate::shared::Shared;

/// Starts a named thread.
pub(super) fn spawn<R: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<thread::JoinHandle<R>, RunError> {
    let failed = |error| RunError::Io(format!("cannot start the {name} thread"), error);
    thread::Builder::new().name(name.into()).spawn(work).map_err(failed)
}

/// Waits for a thread; the run fails if it panicked.
pub(super) fn join<R>(name: &str, thread: thread::JoinHandle<R>, shared: &Shared) -> Option<R> {
    let joined = thread.join();
    if joined.is_err() {
        shared.fail(RunError::Panicked(name.into()));
    }
    joined.ok()
}

/// Does something when so much time has passed, unless the process has ended.
pub(super) fn later(passed: Duration, work: impl FnOnce() + Send + 'static) {
    let wait = move || {
        thread::park_timeout(passed);
        work();
    };
    // Without a thread it is not done; so it may be nothing that a promise rests on.
    let _ = thread::Builder::new().name("later".into()).spawn(wait);
}

/// Says when a checkpoint is due, until it is dropped.
pub(super) struct Ticker {
    stop: std::sync::mpsc::Sender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Ticker {
    pub(super) fn start(shared: &Arc<Shared>, every: Duration) -> Result<Ticker, RunError> {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let shared = Arc::clone(shared);
        let work = move || {
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(every) {
                shared.checkpoint_due();
            }
        };
        Ok(Ticker { stop, thread: Some(spawn("ticker", work)?) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        let (closed, _) = std::sync::mpsc::channel();
        drop(std::mem::replace(&mut self.stop, closed));
        if let Some(thread) = self.thread.take() {
            // It only counts time: there is nothing to learn from how it ended.
            let _ = thread.join();
        }
    }
}
