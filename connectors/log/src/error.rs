//! Why the log cannot be written or read, in sentences with the place and the remedy.

use std::io;
use std::path::Path;

use thiserror::Error;

/// What the caller can do about a [`LogError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogErrorKind {
    /// There is no room. Open the writer anew when there is; what was not synced was never promised.
    Full,
    /// Another process writes the topic. Wait until it stops, or write elsewhere.
    Locked,
    /// The file system failed. Opening anew may help.
    Io,
    /// What is stored is not what was written. A person has to restore it.
    Damaged,
    /// The offset that is wanted is not there: retention took it, or it was never written.
    Gone,
    /// The call does not fit the log: another number of partitions, a wrong name, a record that is too large.
    Refused,
}

/// A failure of the log.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LogError {
    /// There is no room for what should be written.
    #[error("{path}: there is no room ({source}); make room, and open the log again")]
    Full {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file system failed.
    #[error("cannot {doing} {path}: {source}; mend what the system says, and open the log again")]
    Io {
        /// The file or folder.
        path: String,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Another process, or another writer of this one, holds the topic.
    #[error("topic {topic} has a writer already, which holds {path}; stop that one, or write to another folder")]
    Locked {
        /// The topic.
        topic: String,
        /// The lock's file.
        path: String,
    },
    /// Something before the published end is not what was written; nothing is cut.
    #[error(
        "{path} is damaged at byte {position}: {problem}. It was acknowledged, so nothing is cut by itself: restore the \
         file from a copy, or move the topic's folder away to begin anew without what it holds"
    )]
    Damaged {
        /// The file.
        path: String,
        /// Where in the file, in bytes.
        position: u64,
        /// What is wrong there.
        problem: String,
    },
    /// The offset is not there.
    #[error("{topic}/{partition}: offset {wanted} is wanted and offsets {low} to {high} are available")]
    Gone {
        /// The topic.
        topic: String,
        /// The partition's number.
        partition: u32,
        /// The offset that is wanted.
        wanted: u64,
        /// The first offset that is there.
        low: u64,
        /// The offset behind the last record that is there.
        high: u64,
    },
    /// The call does not fit the log.
    #[error("{0}")]
    Refused(String),
    /// An earlier call failed, so that this writer no longer knows what the files hold.
    #[error(
        "the writer of topic {topic} stopped after a failure ({problem}); open it anew, which mends the files' ends"
    )]
    Broken {
        /// The topic.
        topic: String,
        /// What the failure was.
        kind: LogErrorKind,
        /// The failure's sentence.
        problem: String,
    },
}

impl LogError {
    /// What the caller can do about it.
    #[must_use]
    pub fn kind(&self) -> LogErrorKind {
        match self {
            LogError::Full { .. } => LogErrorKind::Full,
            LogError::Io { .. } => LogErrorKind::Io,
            LogError::Locked { .. } => LogErrorKind::Locked,
            LogError::Damaged { .. } => LogErrorKind::Damaged,
            LogError::Gone { .. } => LogErrorKind::Gone,
            LogError::Refused(_) => LogErrorKind::Refused,
            LogError::Broken { kind, .. } => *kind,
        }
    }

    /// A failure of the file system, told apart by what helps against it.
    pub(crate) fn io(path: &Path, doing: &'static str, source: io::Error) -> LogError {
        let path = path.display().to_string();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                LogError::Full { path, source }
            }
            // No descriptors left, of the machine or of this process: like a disk without room, it passes.
            _ if matches!(source.raw_os_error(), Some(23 | 24)) => LogError::Full { path, source },
            _ => LogError::Io { path, doing, source },
        }
    }

    pub(crate) fn damaged(path: &Path, position: u64, problem: impl Into<String>) -> LogError {
        LogError::Damaged { path: path.display().to_string(), position, problem: problem.into() }
    }
}

/// Puts the place beside what the system says.
pub(crate) trait At<T> {
    fn at(self, path: &Path, doing: &'static str) -> Result<T, LogError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path, doing: &'static str) -> Result<T, LogError> {
        self.map_err(|source| LogError::io(path, doing, source))
    }
}
