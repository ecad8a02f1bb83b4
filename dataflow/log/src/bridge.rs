//! [`Store`] over any `object_store`, for places whose calls are asynchronous.
//!
//! It promises what the store behind it promises: `create` needs one that answers `PutMode::Create` truthfully, and a
//! `put` that is durable when it is answered (S3 is; object_store's own local folder is not, see [`crate::local`]).

use std::future::Future;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::runtime::{Builder, Runtime};

use crate::store::{Created, Store, StoreError, StoreErrorKind};

/// A [`Store`] whose calls wait for an `object_store` on a small runtime of their own.
#[derive(Debug)]
pub struct ObjectStoreBridge {
    store: Arc<dyn ObjectStore>,
    /// Taken only when the bridge is dropped.
    runtime: Option<Runtime>,
}

impl ObjectStoreBridge {
    /// A bridge to `store`.
    ///
    /// # Errors
    /// The runtime's thread cannot be started.
    pub fn new(store: Arc<dyn ObjectStore>) -> std::io::Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("object-store").enable_all().build()?;
        Ok(Self { store, runtime: Some(runtime) })
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

    fn write(&self, path: &str, bytes: &[u8], mode: PutMode) -> Result<(), Error> {
        let location = ObjectPath::parse(path)?;
        let payload = PutPayload::from(Bytes::copy_from_slice(bytes));
        self.wait(|store| async move { store.put_opts(&location, payload, PutOptions::from(mode)).await })?;
        Ok(())
    }
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
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::Exists),
            Err(error) => Err(failed("create", path, error)),
        }
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.write(path, bytes, PutMode::Overwrite).map_err(|error| failed("put", path, error))
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        let location = parse("read", path)?;
        unless_absent("read", path, self.wait(|store| async move { store.get(&location).await?.bytes().await }))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let location = parse("list", folder)?;
        let listing = self.wait(|store| async move {
            store.list(Some(&location)).map_ok(|meta| String::from(meta.location)).try_collect::<Vec<_>>().await
        });
        let mut paths = unless_absent("list", folder, listing)?.unwrap_or_default();
        paths.sort_unstable();
        Ok(paths)
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        let location = parse("delete", path)?;
        unless_absent("delete", path, self.wait(|store| async move { store.delete(&location).await }))?;
        Ok(())
    }

    fn exists(&self, path: &str) -> Result<bool, StoreError> {
        let location = parse("look for", path)?;
        Ok(unless_absent("look for", path, self.wait(|store| async move { store.head(&location).await }))?.is_some())
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

/// A generic error is a connection or a server that failed, at a moment that nobody knows; the others are answers.
fn failed(operation: &'static str, path: &str, error: Error) -> StoreError {
    let kind = match error {
        Error::Generic { .. } | Error::JoinError { .. } => StoreErrorKind::MaybeApplied,
        _ => StoreErrorKind::Fatal,
    };
    StoreError::new(kind, operation, path, error)
}
