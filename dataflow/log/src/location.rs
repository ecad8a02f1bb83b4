//! A place as people name it: a folder, or `s3://BUCKET/PREFIX`.
//!
//! S3 is whatever the usual variables say: `AWS_ENDPOINT_URL` for a server that is not Amazon's, `AWS_ACCESS_KEY_ID`,
//! `AWS_SECRET_ACCESS_KEY`, `AWS_REGION` (us-east-1 if unset), or a role of the machine. The server must know
//! `If-None-Match: *` on puts, which is what the log's put-if-absent is there (INV-1).
//!
//! Promise: a place that cannot be used is refused when it is opened, in one sentence with the remedy; one that stops
//! answering later, or has no room, is waited for by whoever writes to it ([`PatientStore`]), and reported to whoever only
//! reads.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;

use crate::bridge::ObjectStoreBridge;
use crate::local::{DurableLocal, Faults};
use crate::patient::PatientStore;
use crate::store::Store;

mod error;
mod s3;
#[cfg(test)]
mod tests;

pub use error::LocationError;

/// Where objects are kept.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Location {
    /// A local folder.
    Folder(PathBuf),
    /// A bucket, and what the names in it begin with.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// Segments joined by `/`, without one at either end; empty for the bucket's root.
        prefix: String,
    },
}

/// A place as a reader sees it.
#[derive(Clone, Debug)]
pub struct ReadingSide {
    /// For the log. Calls fail rather than wait for long.
    pub store: Arc<dyn Store>,
    /// For ranges of data files, from any runtime.
    pub objects: Arc<dyn ObjectStore>,
}

impl Location {
    /// Opens the place for a run that writes to it. `durable`: what a folder confirms survives a power cut (S3 always
    /// does); `faults`: for tests of whole programs, what goes wrong in a durable folder.
    ///
    /// A bucket is asked for a name, so that a wrong one, wrong keys and a server that is not there are found now. A
    /// folder is created with its first object, or at once where it need not be durable.
    ///
    /// # Errors
    /// The place cannot be used; the sentence says what to do.
    pub fn open(&self, durable: bool, faults: Faults) -> Result<Arc<dyn Store>, LocationError> {
        match self {
            Self::Folder(root) if durable => {
                let local = DurableLocal::open(root, faults).map_err(|error| LocationError::folder(root, error))?;
                Ok(Arc::new(PatientStore::for_room(Arc::new(local), self.to_string())))
            }
            Self::Folder(root) => {
                std::fs::create_dir_all(root).map_err(|error| LocationError::folder(root, error))?;
                Ok(Arc::new(self.bridge(ObjectStoreBridge::new(local_files(root)?))?))
            }
            Self::S3 { bucket, prefix } => {
                let settings = s3::Settings::from_env(bucket, prefix);
                // One attempt a call: whether it was applied is then known as exactly as it can be.
                let bridge = self.bridge(ObjectStoreBridge::remote(settings.connect(s3::Repeats::None)?))?;
                settings.probe(&bridge)?;
                Ok(Arc::new(PatientStore::new(Arc::new(bridge), settings.name())))
            }
        }
    }

    /// Opens the place for a reader, who writes nothing and needs no rights to.
    ///
    /// # Errors
    /// The place cannot be used; the sentence says what to do.
    pub fn open_for_reading(&self) -> Result<ReadingSide, LocationError> {
        match self {
            Self::Folder(root) if !root.exists() => Err(LocationError::Absent { path: root.clone() }),
            Self::Folder(root) => {
                let objects = local_files(root)?;
                let local =
                    DurableLocal::open(root, Faults::None).map_err(|error| LocationError::folder(root, error))?;
                Ok(ReadingSide { store: Arc::new(local), objects })
            }
            Self::S3 { bucket, prefix } => {
                let settings = s3::Settings::from_env(bucket, prefix);
                let bridge = self.bridge(ObjectStoreBridge::remote(settings.connect(s3::Repeats::AFew)?))?;
                settings.probe(&bridge)?;
                // A client of its own: connections belong to the runtime that made them.
                Ok(ReadingSide { store: Arc::new(bridge), objects: settings.connect(s3::Repeats::AFew)? })
            }
        }
    }

    /// The place below this one.
    #[must_use]
    pub fn below(&self, name: &str) -> Location {
        match self {
            Self::Folder(root) => Self::Folder(root.join(name)),
            Self::S3 { bucket, prefix } => {
                let separator = if prefix.is_empty() { "" } else { "/" };
                Self::S3 { bucket: bucket.clone(), prefix: format!("{prefix}{separator}{name}") }
            }
        }
    }

    fn bridge(&self, started: std::io::Result<ObjectStoreBridge>) -> Result<ObjectStoreBridge, LocationError> {
        started.map_err(|source| LocationError::Thread { place: self.to_string(), source })
    }
}

fn local_files(root: &Path) -> Result<Arc<dyn ObjectStore>, LocationError> {
    let files = LocalFileSystem::new_with_prefix(root).map_err(|error| LocationError::folder(root, error))?;
    Ok(Arc::new(files))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(root) => write!(f, "{}", root.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl FromStr for Location {
    type Err = LocationError;

    /// A path, or `s3://BUCKET/PREFIX`.
    fn from_str(text: &str) -> Result<Self, LocationError> {
        let unclear = |problem: &str| LocationError::Unclear { text: text.to_owned(), problem: problem.to_owned() };
        let Some((scheme, rest)) = text.split_once("://") else {
            return if text.is_empty() { Err(unclear("it is empty")) } else { Ok(Self::Folder(text.into())) };
        };
        if scheme != "s3" {
            return Err(unclear("only s3:// is known here"));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if bucket.len() < 3 || !bucket.chars().all(allowed) {
            return Err(unclear("the name of a bucket has at least three letters, digits, dots or dashes"));
        }
        let prefix = prefix.trim_end_matches('/');
        let parsed = ObjectPath::parse(prefix).map_err(|error| unclear(&error.to_string()))?;
        Ok(Self::S3 { bucket: bucket.to_owned(), prefix: parsed.to_string() })
    }
}

impl From<&Path> for Location {
    fn from(folder: &Path) -> Self {
        Self::Folder(folder.to_owned())
    }
}

impl From<&Location> for Location {
    fn from(location: &Location) -> Self {
        location.clone()
    }
}
