//! The few operations that the log, checkpoints and sinks ask of a place that keeps objects.
//!
//! Promise: when `create` answers [`Created::New`], or `put` answers at all, the object is durable under its name with
//! exactly those bytes; nobody ever reads half an object. A failed call says whether it may be repeated, may have
//! been applied, or is hopeless, because that is what the caller must decide by.

use std::error::Error;
use std::fmt::{self, Debug};

use bytes::Bytes;

/// Whether a put-if-absent wrote the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object did not exist and is now durable.
    New,
    /// An object of that name existed; nothing was changed. It is durable, too.
    Exists,
}

/// A place that keeps whole objects under names such as `_tidemill/log/00000000000000000001`.
///
/// Calls block. Names are segments joined by `/`, without a leading one.
pub trait Store: Debug + Send + Sync {
    /// Writes the object unless one of that name exists; of several callers at once, one alone gets [`Created::New`].
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError>;

    /// Writes the object, replacing one of that name as a whole; durable when it returns.
    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError>;

    /// The object's bytes; `None` if there is none of that name.
    fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError>;

    /// All names below a folder, its subfolders included, in order. A folder that does not exist is empty.
    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError>;

    /// Removes the object; an absent one is fine. A power cut may bring it back, so callers must be able to repeat it.
    fn delete(&self, path: &str) -> Result<(), StoreError>;

    /// Whether an object of that name exists.
    fn exists(&self, path: &str) -> Result<bool, StoreError>;
}

/// What a caller may do about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// Certainly not applied; the same call may succeed later.
    Retryable,
    /// Certainly not applied; the same call may succeed when there is room again.
    Full,
    /// Perhaps applied: look before anything is concluded from it.
    MaybeApplied,
    /// Repeating it does not help.
    Fatal,
    /// Nor does it help here: who we are, or what we may do, is refused.
    Denied,
}

impl StoreErrorKind {
    /// Whether the same call fails again, as far as anybody can tell.
    #[must_use]
    pub fn is_hopeless(self) -> bool {
        matches!(self, Self::Fatal | Self::Denied)
    }
}

impl fmt::Display for StoreErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retryable => "it was not done and may be tried again",
            Self::Full => "there is no room for it",
            Self::MaybeApplied => "whether it was done is not known",
            Self::Fatal => "trying again does not help",
            Self::Denied => "it is forbidden",
        })
    }
}

/// A failed call on a [`Store`]; the cause is its `source()`.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path} ({kind})")]
pub struct StoreError {
    kind: StoreErrorKind,
    operation: &'static str,
    path: String,
    source: Box<dyn Error + Send + Sync>,
}

impl StoreError {
    /// An error of `operation` (a verb: "create", "read") on `path`.
    pub fn new(
        kind: StoreErrorKind,
        operation: &'static str,
        path: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { kind, operation, path: path.into(), source: source.into() }
    }

    /// What the caller may do.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// The object or folder that the call was about.
    pub fn path(&self) -> &str {
        &self.path
    }
}
