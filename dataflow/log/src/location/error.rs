//! Why a place cannot be used, in sentences for the person who named it.

use std::error::Error;
use std::path::{Path, PathBuf};

use crate::store::{StoreError, StoreErrorKind};

/// Why a place cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LocationError {
    /// The text names no place.
    #[error("{text:?} names no place: {problem}. Give a folder, or s3://BUCKET/PREFIX")]
    Unclear {
        /// As it was given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no such folder.
    #[error("there is no folder {}; check the path, or name the --out of a run", .path.display())]
    Absent {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be used.
    #[error("cannot open the folder {}", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The variables do not say how to reach S3.
    #[error("the AWS_* variables do not say how to reach {place}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")]
    Settings {
        /// Bucket, prefix and server.
        place: String,
        /// What is missing or wrong.
        source: Box<object_store::Error>,
    },
    /// The bucket does not exist.
    #[error("there is no bucket {bucket} at {endpoint}; create it (`aws s3 mb s3://{bucket}`), or name another")]
    NoBucket {
        /// The bucket's name.
        bucket: String,
        /// The server.
        endpoint: String,
    },
    /// The server refuses the keys, or what they may do.
    #[error(
        "{place} refuses us ({answer}): AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be keys that may list, read, \
         write and delete there"
    )]
    Denied {
        /// Bucket, prefix and server.
        place: String,
        /// The server's word for it.
        answer: String,
    },
    /// The server does not answer, or not as S3 does.
    #[error(
        "{place} does not answer; start it, or set AWS_ENDPOINT_URL, AWS_REGION and the keys to those of another server"
    )]
    Unreachable {
        /// Bucket, prefix and server.
        place: String,
        /// What failed.
        source: Box<object_store::Error>,
    },
    /// The thread that talks to the place could not be started.
    #[error("cannot start the thread that talks to {place}")]
    Thread {
        /// The place.
        place: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl LocationError {
    /// Whether a server or the file system refuses who we are, or what we may do.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        match self {
            Self::Denied { .. } => true,
            Self::Folder { source, .. } => {
                let mut cause: Option<&(dyn Error + 'static)> = Some(&**source);
                let denied = |found: &(dyn Error + 'static)| {
                    let of_system = found.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                    of_system == Some(std::io::ErrorKind::PermissionDenied)
                        || found
                            .downcast_ref::<StoreError>()
                            .is_some_and(|error| error.kind() == StoreErrorKind::Denied)
                };
                while let Some(found) = cause {
                    if denied(found) {
                        return true;
                    }
                    cause = found.source();
                }
                false
            }
            _ => false,
        }
    }

    pub(super) fn folder(path: &Path, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Folder { path: path.to_owned(), source: source.into() }
    }
}
