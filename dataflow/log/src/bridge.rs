//! [`Store`] over any `object_store`, for places whose calls are asynchronous.
//!
//! It promises what the store behind it promises: `create` needs one that answers `PutMode::Create` truthfully, and a
//! `put` that is durable when it is answered (S3 is; object_store's own local folder is not, see [`crate::local`]).
//!
//! A place across a network is opened by [`ObjectStoreBridge::remote`]: no call waits for ever for one that stopped
//! answering, and large objects travel in parts.

use std::error::Error as StdError;
use std::future::Future;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path as ObjectPath;
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::store::{Created, Store, StoreError, StoreErrorKind};

/// A larger object than this is put in parts of this length in bytes.
const PART_BYTES: usize = 8 << 20;

/// Parts of one object that are on their way at once.
const PARTS_AT_ONCE: usize = 4;

/// How long a remote place may take to answer, beside the time that the bytes take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// The slowest connection that is not given up, in bytes a second.
const SLOWEST: u64 = 256 << 10;

/// How long a started upload that failed is given to be withdrawn.
const WITHDRAW_WITHIN: Duration = Duration::from_secs(5);

/// A [`Store`] whose calls wait for an `object_store` on a small runtime of their own.
#[derive(Debug)]
pub struct ObjectStoreBridge {
    store: Arc<dyn ObjectStore>,
    distance: Distance,
    /// Taken only when the bridge is dropped.
    runtime: Option<Runtime>,
}

/// Whether the place may stop answering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distance {
    /// It is part of this machine: as slow as its disk, and objects of any length are written at once.
    Local,
    /// It is across a network.
    Remote,
}

impl Distance {
    /// Waits for a step that moves `bytes` bytes, as long as that may take.
    async fn limit<T>(self, bytes: usize, step: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        if self == Self::Local {
            return step.await;
        }
        let limit = ANSWER_WITHIN + Duration::from_secs(bytes as u64 / SLOWEST);
        let silent = |_| Error::Generic { store: "bridge", source: format!("no answer within {limit:?}").into() };
        timeout(limit, step).await.map_err(silent)?
    }
}

impl ObjectStoreBridge {
    /// A bridge to a `store` on this machine: its calls take the time that they take.
    ///
    /// # Errors
    /// The runtime's thread cannot be started.
    pub fn new(store: Arc<dyn ObjectStore>) -> std::io::Result<Self> {
        Self::over(store, Distance::Local)
    }

    /// A bridge to a `store` across a network: a call that is not answered within half a minute (longer only for what
    /// the bytes themselves take at 256 KiB a second) fails, and a `put` of more than 8 MiB goes in parts.
    ///
    /// An upload whose process dies leaves its parts where no listing shows them; a bucket's rule to abort incomplete
    /// multipart uploads after a day removes them.
    ///
    /// # Errors
    /// The runtime's thread cannot be started.
    pub fn remote(store: Arc<dyn ObjectStore>) -> std::io::Result<Self> {
        Self::over(store, Distance::Remote)
    }

    fn over(store: Arc<dyn ObjectStore>, distance: Distance) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("object-store").enable_all().build()?;
        Ok(Self { store, distance, runtime: Some(runtime) })
    }

    /// Runs a call on the bridge's own thread, so that it may be waited for anywhere, also inside another runtime.
    fn wait<T, F>(&self, call: impl FnOnce(Arc<dyn ObjectStore>) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (answer, answered) = mpsc::sync_channel(1);
        let call = call(Arc::clone(&self.store));
        self.runtime.as_ref().expect("the runtime lives as long as the bridge").spawn(async move {
            // Nobody is left to be told if the receiver is gone.
            let _ = answer.send(call.await);
        });
        let panicked = |_| Error::Generic { store: "bridge", source: "the call panicked".into() };
        answered.recv().map_err(panicked)?
    }

    /// Waits for a call that is a single step.
    pub(crate) fn wait_for_step<T, F>(&self, call: impl FnOnce(Arc<dyn ObjectStore>) -> F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let distance = self.distance;
        self.wait(|store| distance.limit(0, call(store)))
    }

    fn write(&self, path: &str, bytes: &[u8], mode: PutMode) -> Result<(), Error> {
        let location = ObjectPath::parse(path)?;
        let (distance, length) = (self.distance, bytes.len());
        let bytes = Bytes::copy_from_slice(bytes);
        // Only a whole object can be put if absent.
        if distance == Distance::Remote && length > PART_BYTES && mode == PutMode::Overwrite {
            return self.wait(|store| async move { put_in_parts(&*store, &location, bytes, distance).await });
        }
        let options = PutOptions::from(mode);
        self.wait(|store| async move {
            distance.limit(length, store.put_opts(&location, PutPayload::from(bytes), options)).await
        })?;
        Ok(())
    }
}

/// Puts an object that becomes visible as a whole when all its parts are there.
async fn put_in_parts(
    store: &dyn ObjectStore,
    location: &ObjectPath,
    bytes: Bytes,
    distance: Distance,
) -> Result<(), Error> {
    let mut upload = distance.limit(0, store.put_multipart(location)).await?;
    match send_parts(&mut *upload, bytes, distance).await {
        Ok(()) => Ok(()),
        Err(error) => {
            // Best effort: parts that stay only take room.
            let _ = timeout(WITHDRAW_WITHIN, upload.abort()).await;
            // An upload that is not there any more was completed by a call that was not answered, or lost by the server.
            let lost = matches!(error, Error::NotFound { .. });
            Err(if lost { Error::Generic { store: "bridge", source: Box::new(error) } } else { error })
        }
    }
}

async fn send_parts(upload: &mut dyn MultipartUpload, mut bytes: Bytes, distance: Distance) -> Result<(), Error> {
    let mut parts = Vec::new();
    while !bytes.is_empty() {
        let part = bytes.split_to(bytes.len().min(PART_BYTES));
        // The parts share the line, so each may take as long as all that are under way.
        parts.push(distance.limit(part.len() * PARTS_AT_ONCE, upload.put_part(PutPayload::from(part))));
    }
    stream::iter(parts).buffer_unordered(PARTS_AT_ONCE).try_collect::<Vec<()>>().await?;
    distance.limit(0, upload.complete()).await?;
    Ok(())
}

impl Drop for ObjectStoreBridge {
    fn drop(&mut self) {
        // A runtime must not wait for its threads inside another runtime, which may be where we are dropped.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Store for ObjectStoreBridge {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        match self.write(path, bytes, PutMode::Create) {
            Ok(()) => Ok(Created::New),
            Err(error @ (Error::AlreadyExists { .. } | Error::Precondition { .. })) => {
                // S3 refuses with "conflict" also while another creator is under way, and that one may fail yet.
                if self.exists(path)? {
                    Ok(Created::Exists)
                } else {
                    Err(StoreError::new(StoreErrorKind::Retryable, "create", path, error))
                }
            }
            Err(error) => Err(failed("create", path, error)),
        }
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(path, bytes, PutMode::Overwrite).map_err(|error| failed("put", path, error))
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        let location = parse("read", path)?;
        let distance = self.distance;
        let read = self.wait(|store| async move {
            let found = distance.limit(0, store.get(&location)).await?;
            let length = usize::try_from(found.range.end - found.range.start).unwrap_or_default();
            let mut stream = found.into_stream();
            let mut bytes = BytesMut::with_capacity(length);
            while let Some(chunk) = distance.limit(0, stream.try_next()).await? {
                // An object that comes as one chunk is not copied.
                if bytes.is_empty() && chunk.len() == length {
                    return Ok(chunk);
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes.freeze())
        });
        unless_absent("read", path, read)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let location = parse("list", folder)?;
        let distance = self.distance;
        let listing = self.wait(|store| async move {
            let mut listed = store.list(Some(&location));
            let mut paths = Vec::new();
            while let Some(object) = distance.limit(0, listed.try_next()).await? {
                paths.push(String::from(object.location));
            }
            Ok(paths)
        });
        let mut paths = unless_absent("list", folder, listing)?.unwrap_or_default();
        paths.sort_unstable();
        Ok(paths)
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        let location = parse("delete", path)?;
        unless_absent("delete", path, self.wait_for_step(|store| async move { store.delete(&location).await }))?;
        Ok(())
    }

    fn exists(&self, path: &str) -> Result<bool, StoreError> {
        let location = parse("look for", path)?;
        let found = self.wait_for_step(|store| async move { store.head(&location).await });
        Ok(unless_absent("look for", path, found)?.is_some())
    }
}

fn parse(operation: &'static str, path: &str) -> Result<ObjectPath, StoreError> {
    ObjectPath::parse(path).map_err(|error| failed(operation, path, error.into()))
}

fn unless_absent<T>(operation: &'static str, path: &str, outcome: Result<T, Error>) -> Result<Option<T>, StoreError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failed(operation, path, error)),
    }
}

/// A generic error is a connection or a server that failed, at a moment that nobody knows, unless no connection came
/// about; the others are answers.
fn failed(operation: &'static str, path: &str, error: Error) -> StoreError {
    let kind = match &error {
        Error::Generic { source, .. } if is_unconnected(&**source) => StoreErrorKind::Retryable,
        Error::Generic { .. } | Error::JoinError { .. } => StoreErrorKind::MaybeApplied,
        // What an overwriting put is told while another call on the same object is under way.
        Error::AlreadyExists { .. } | Error::Precondition { .. } => StoreErrorKind::Retryable,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreErrorKind::Denied,
        _ => StoreErrorKind::Fatal,
    };
    StoreError::new(kind, operation, path, error)
}

/// Whether a connection was refused or did not come about. (The client of a remote place must not repeat calls itself,
/// or an earlier attempt may have been applied.)
fn is_unconnected(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if inner.downcast_ref::<HttpError>().is_some_and(|http| http.kind() == HttpErrorKind::Connect) {
            return true;
        }
        cause = inner.source();
    }
    false
}
