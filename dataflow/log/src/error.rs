//! Why the log could not be started, read or written, in sentences for the person who runs the pipeline.

use std::error::Error;

use crate::store::StoreError;

/// An error and everything that caused it in one line, without what the line says already.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let message = deeper.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = deeper.source();
    }
    text
}

/// What the person at the keyboard can do about a [`LogError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogErrorKind {
    /// A later run owns the pipeline. Stop; do not start again by yourself.
    Fenced,
    /// What is stored cannot be used as it is: repair it, or use another folder or program.
    Refused,
    /// The store failed; starting again goes on where the log ends.
    Failed,
}

/// A failure of the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A call on the store failed, also when repeated where that could help.
    #[error("the store of the log failed; nothing is lost: start again when the store works")]
    Store(#[from] StoreError),

    /// A later run has begun.
    #[error(
        "run {run} is fenced: run {by_run} of the same pipeline has started ({evidence}), so this process stops and \
         writes and deletes nothing more; what it had committed is kept. It must not be restarted unless run {by_run} \
         was started by mistake"
    )]
    Fenced {
        /// The run that must stop.
        run: u64,
        /// The run that owns the pipeline now (or one that began before that one).
        by_run: u64,
        /// What showed it.
        evidence: String,
    },

    /// An object does not hold what was written to it.
    #[error("{object} is damaged: {problem}. Restore it from a copy of the folder, or begin anew in an empty one")]
    Corrupt {
        /// The object's name.
        object: String,
        /// What is wrong with it.
        problem: String,
    },

    /// Entries are missing.
    #[error(
        "entry {missing} of the log is missing although entry {found} exists ({context}). Restore {object} from a copy \
         of the folder, or begin anew in an empty one"
    )]
    Gap {
        /// The number that is missing.
        missing: u64,
        /// A later number that exists.
        found: u64,
        /// Name of the missing object.
        object: String,
        /// From where the log was being read.
        context: String,
    },

    /// The folder was written by another version of the program.
    #[error(
        "{object} says stored format {found}, and this program knows format {known}. Use a program that knows format \
         {found}, or another folder"
    )]
    UnknownFormat {
        /// The object that says so.
        object: String,
        /// The version found.
        found: String,
        /// The version this program knows.
        known: u32,
    },

    /// There is no log.
    #[error("there is no pipeline at {prefix} yet: {object} does not exist. Name the folder that a run wrote to")]
    NotInitialized {
        /// The log's folder.
        prefix: String,
        /// The object that is looked for.
        object: String,
    },

    /// What an epoch contained is not recorded any more.
    #[error(
        "what epoch {epoch} contained is not in {folder} any more, so the run cannot be repeated in its cuts. Keep more with \
         --keep-bindings, or replay with fresh cuts"
    )]
    Forgotten {
        /// The epoch.
        epoch: u64,
        /// Where it was looked for.
        folder: String,
    },

    /// An entry that cannot follow the ones before it.
    #[error("entry {number} of the log is impossible: {reason}")]
    Impossible {
        /// The entry's number.
        number: u64,
        /// Why.
        reason: String,
    },

    /// An earlier call failed in a way that leaves the end of the log unknown.
    #[error("run {run} stopped writing its log because of an earlier failure: {reason}. Start again")]
    Stopped {
        /// The run.
        run: u64,
        /// The earlier failure.
        reason: String,
    },
}

impl LogError {
    /// What can be done about it.
    pub fn kind(&self) -> LogErrorKind {
        match self {
            Self::Fenced { .. } => LogErrorKind::Fenced,
            Self::Store(_) | Self::Stopped { .. } => LogErrorKind::Failed,
            Self::Corrupt { .. }
            | Self::Gap { .. }
            | Self::Forgotten { .. }
            | Self::UnknownFormat { .. }
            | Self::NotInitialized { .. }
            | Self::Impossible { .. } => LogErrorKind::Refused,
        }
    }
}
