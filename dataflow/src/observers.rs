//! The thread that tells observers of commits, so that a slow one never holds the log back.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use tidemill_log::LogState;

use crate::runtime::RunError;
use crate::shared::Shared;
use crate::sink::{CommitObserver, Committed};

/// Ends when it is dropped, after the last commit was told.
pub(crate) struct Observers {
    sender: Option<Sender<Committed>>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

impl Observers {
    /// Starts telling `observers`, beginning with what the log says now; `None` where there are none.
    pub(crate) fn start(
        observers: Vec<Box<dyn CommitObserver>>,
        state: &LogState,
        shared: &Arc<Shared>,
    ) -> Result<Option<Observers>, RunError> {
        if observers.is_empty() {
            return Ok(None);
        }
        let (sender, receiver) = channel();
        if state.committed().is_some() {
            // The thread that receives is about to start.
            let _ = sender.send(Committed::of(state));
        }
        let failing = Arc::clone(shared);
        let tell = move || {
            if let Err(error) = tell_all(observers, &receiver) {
                failing.fail(RunError::Sink { table: "progress".into(), error });
            }
        };
        let thread = thread::Builder::new().name("observers".into()).spawn(tell);
        let thread = thread.map_err(|error| RunError::Io("cannot start the observers' thread".into(), error))?;
        Ok(Some(Observers { sender: Some(sender), thread: Some(thread), shared: Arc::clone(shared) }))
    }

    pub(crate) fn sender(&self) -> Sender<Committed> {
        self.sender.clone().expect("it is there until the drop")
    }
}

fn tell_all(
    mut observers: Vec<Box<dyn CommitObserver>>,
    receiver: &Receiver<Committed>,
) -> Result<(), crate::sink::SinkError> {
    while let Ok(first) = receiver.recv() {
        // Only the newest counts.
        let newest = receiver.try_iter().last().unwrap_or(first);
        for observer in &mut observers {
            observer.committed(&newest)?;
        }
    }
    Ok(())
}

impl Drop for Observers {
    fn drop(&mut self) {
        self.sender = None;
        // After a failure an observer may be waiting for a server that is down for good.
        if let Some(thread) = self.thread.take_if(|_| !self.shared.failed()) {
            // A panic in an observer was reported by the thread itself; there is nothing to learn from it here.
            let _ = thread.join();
        }
    }
}
