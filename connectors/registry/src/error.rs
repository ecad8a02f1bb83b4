//! Why the registry could not be asked, or said no.

use thiserror::Error;

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// It may pass by itself: wait, then ask again.
    Retryable,
    /// This schema or id is refused, now and later; others are not.
    Rejected,
    /// Nothing works until somebody changes the settings: stop and show the message.
    Fatal,
}

/// An answer that was not the wished one, or none. Messages name the address and the remedy, never a password.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The address is none. Fatal.
    #[error("{url:?} is no address of a schema registry: {problem}; write http://HOST:PORT or https://HOST/BASE/PATH")]
    Address {
        /// The address, without what stands before an `@`.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No answer, or none in time. Retryable.
    #[error("the schema registry does not answer at {url}: {source}; is it running, and reachable from here?")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// What the network said.
        source: std::io::Error,
    },
    /// The user is unknown or may not do this. Fatal.
    #[error("the schema registry refuses access to {url} (status {status}): check its user, password and rights")]
    Denied {
        /// What was asked for.
        url: String,
        /// The HTTP status, 401 or 403.
        status: u16,
    },
    /// It answered with a failure. Retryable where the status says so (408, 429, 500 and above), else fatal.
    #[error("the schema registry answered {url} with status {status}: {message}")]
    Failed {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// The answer is not one of a schema registry. Fatal.
    #[error(
        "{url} does not answer like a schema registry: {problem}; is the base of its Confluent-compatible API right?"
    )]
    Reply {
        /// What was asked for.
        url: String,
        /// What was expected.
        problem: String,
    },
    /// The registry has no schema of this id. Rejected.
    #[error("schema id {id} is not in the registry")]
    UnknownSchema {
        /// The id.
        id: i32,
    },
    /// The schema of this id cannot be used. Rejected.
    #[error("schema id {id} cannot be read: {problem}")]
    UnusableSchema {
        /// The id.
        id: i32,
        /// What is in the way.
        problem: String,
    },
    /// Registration was refused because readers and writers of the subject would part. Rejected.
    #[error("the schema is incompatible with subject {subject}: {}", reasons.join("; "))]
    Incompatible {
        /// The subject.
        subject: String,
        /// Why, in words; at least one.
        reasons: Vec<String>,
    },
    /// The registry holds the schema or the setting for none. Rejected.
    #[error("the schema registry does not take this for subject {subject}: {problem}")]
    Invalid {
        /// The subject.
        subject: String,
        /// Its own words.
        problem: String,
    },
}

impl RegistryError {
    /// What a caller does about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable { .. } => ErrorKind::Retryable,
            Self::Failed { status: 408 | 429 | 500.., .. } => ErrorKind::Retryable,
            Self::Address { .. } | Self::Denied { .. } | Self::Failed { .. } | Self::Reply { .. } => ErrorKind::Fatal,
            Self::UnknownSchema { .. }
            | Self::UnusableSchema { .. }
            | Self::Incompatible { .. }
            | Self::Invalid { .. } => ErrorKind::Rejected,
        }
    }

    /// Whether the same request may succeed later, with nothing changed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind() == ErrorKind::Retryable
    }
}
