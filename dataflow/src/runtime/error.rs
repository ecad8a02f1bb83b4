//! Why a run ended before it was done, and what the person at the keyboard can do about it.

use std::io;

use thiserror::Error;
use tidemill_log::{LogError, LogErrorKind, StoreError, StoreErrorKind, with_causes};

use crate::checkpoint::RestoreError;
use crate::cluster::ClusterError;
use crate::sink::SinkError;
use crate::source::SourceError;
use crate::verdict::{Judged, Verdict};

/// Why a run ended before it was done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// The processes of the run did not come together.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Another process of the run failed or stopped answering.
    #[error("{0}; the run ends here, and the same command goes on from there")]
    Peer(String),
    /// The log failed, refused or was taken over.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The source failed or is not what was read before.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// No state can be started from.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Stored state is damaged or does not fit.
    #[error("{0}")]
    State(String),
    /// What was asked for is not possible.
    #[error("{0}")]
    Usage(String),
    /// A sink could not write.
    #[error("cannot write {table}: {}", with_causes(&**error))]
    Sink {
        /// The table.
        table: String,
        /// What the connector said.
        error: SinkError,
    },
    /// The system refused something.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// It was asked to stop, and could not commit in time what it had read.
    #[error("stopped without waiting any longer: {0}; nothing is lost, and the same command goes on from there")]
    Unfinished(String),
    /// A worker panicked; the sentence says at which record, and what follows from it.
    #[error("{0}")]
    WorkerPanicked(String),
    /// A worker panicked where one did in the start before, at no single record; the sentence says where, and what to do.
    #[error("{0}")]
    PanicsAgain(String),
    /// A thread panicked: a broken invariant.
    #[error("{0} panicked; this is a bug, and nothing that was committed is affected")]
    Panicked(String),
}

/// What the person at the keyboard can do about a [`RunError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunErrorKind {
    /// Something failed; starting again goes on where the log ends.
    Failed,
    /// The options are wrong.
    Usage,
    /// State or input is not what it was, or the pipeline panics each time; somebody must see to it.
    Refused,
    /// A later run owns the pipeline.
    Fenced,
    /// A server, or the file system, refuses who we are or what we may do; somebody must see to it.
    Denied,
}

impl RunError {
    /// What can be done about it.
    #[must_use]
    pub fn kind(&self) -> RunErrorKind {
        match self {
            RunError::Store(error) | RunError::Log(LogError::Store(error))
                if error.kind() == StoreErrorKind::Denied =>
            {
                RunErrorKind::Denied
            }
            RunError::Source(SourceError::Denied { .. }) => RunErrorKind::Denied,
            RunError::Sink { error, .. } => match Judged::of(error) {
                Verdict::MayHeal => RunErrorKind::Failed,
                Verdict::Refused => RunErrorKind::Refused,
                Verdict::Denied => RunErrorKind::Denied,
            },
            RunError::Log(error) => match error.kind() {
                LogErrorKind::Fenced => RunErrorKind::Fenced,
                LogErrorKind::Refused => RunErrorKind::Refused,
                LogErrorKind::Failed => RunErrorKind::Failed,
            },
            RunError::Source(
                SourceError::Changed { .. } | SourceError::Refused { .. } | SourceError::Missing { .. },
            )
            | RunError::Restore(_)
            | RunError::State(_)
            | RunError::PanicsAgain(_) => RunErrorKind::Refused,
            RunError::Usage(_)
            | RunError::Source(SourceError::Usage(_))
            | RunError::Cluster(ClusterError::Usage(_) | ClusterError::Refused { .. }) => RunErrorKind::Usage,
            _ => RunErrorKind::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_sees_a_failure_knows_whether_waiting_may_heal_it() {
        let sink = |error| RunError::Sink { table: "t".into(), error };
        let denied = SourceError::Denied { partition: "p".into(), problem: "no".into() };
        let store = |kind| RunError::Store(StoreError::new(kind, "put", "x", "no"));
        for (error, kind) in [
            (sink("no answer".into()), RunErrorKind::Failed),
            (sink(Judged::refused("emptied")), RunErrorKind::Refused),
            (sink(Judged::denied("wrong password")), RunErrorKind::Denied),
            (RunError::Source(denied), RunErrorKind::Denied),
            (store(StoreErrorKind::Denied), RunErrorKind::Denied),
            (store(StoreErrorKind::Retryable), RunErrorKind::Failed),
        ] {
            assert_eq!(error.kind(), kind, "{error}");
        }
    }
}
