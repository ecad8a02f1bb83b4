//! The folder as an `object_store`, with ranges, conditions and listings by folder.
//!
//! Calls do their work on tokio's blocking threads where there is a runtime, and in place where there is none.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path as ObjectPath;
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};
use tokio::runtime::Handle;

use super::file_system::{Content, FileType, Metadata};
use super::{
    Created, DurableLocal, Folder, LocalError, Step, StoreErrorKind, Target, Temporary, is_absence, object_path,
};

/// The name of this store in errors.
const STORE: &str = "DurableLocal";

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

fn generic(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: STORE, source: error.into() }
}

fn failed(path: &ObjectPath, error: LocalError) -> Error {
    if is_absence(&error.source) {
        Error::NotFound { path: path.to_string(), source: error.into() }
    } else if error.is(std::io::ErrorKind::PermissionDenied) {
        Error::PermissionDenied { path: path.to_string(), source: error.into() }
    } else {
        generic(error)
    }
}

fn describe(location: ObjectPath, metadata: Metadata) -> ObjectMeta {
    let since_1970 = metadata.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    ObjectMeta {
        location,
        last_modified: metadata.modified.into(),
        size: metadata.length,
        e_tag: Some(format!("{:x}-{:x}", since_1970.as_nanos(), metadata.length)),
        version: None,
    }
}

/// Refuses names that are kept for temporary files.
fn ensure_allowed(location: &ObjectPath) -> Result<()> {
    object_path("use", location.as_ref()).map(|_| ()).map_err(generic)
}

fn ensure_no_attributes(attributes: &Attributes) -> Result<()> {
    if attributes.is_empty() {
        return Ok(());
    }
    Err(Error::NotImplemented { operation: "putting attributes".into(), implementer: STORE.into() })
}

fn taken(path: &ObjectPath) -> Error {
    Error::AlreadyExists { path: path.to_string(), source: "the name is taken".into() }
}

impl Folder {
    fn get(&self, location: &ObjectPath, options: &GetOptions) -> Result<GetResult> {
        ensure_allowed(location)?;
        let path = self.locate(location);
        let opened = self
            .files
            .open(&path)
            .step("open", &path, StoreErrorKind::Retryable)
            .map_err(|error| failed(location, error))?;
        let meta = describe(location.clone(), opened.metadata);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(generic)?,
            None => 0..meta.size,
        };
        let payload = match opened.content {
            Content::OnDisk(file) => GetResultPayload::File(file, path),
            Content::InMemory(bytes) => {
                let bytes = slice(&bytes, &range)?;
                GetResultPayload::Stream(stream::once(async { Ok(bytes) }).boxed())
            }
        };
        Ok(GetResult { payload, meta, range, attributes: Attributes::default() })
    }

    fn list_objects(&self, prefix: Option<&ObjectPath>) -> Result<Vec<ObjectMeta>> {
        let root = ObjectPath::default();
        let prefix = prefix.unwrap_or(&root);
        let mut objects = Vec::new();
        self.walk(&self.locate(prefix), &mut |location, metadata| objects.push(describe(location, metadata)))
            .map_err(|error| failed(prefix, error))?;
        objects.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Ok(objects)
    }

    fn list_folder(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        let root = ObjectPath::default();
        let prefix = prefix.unwrap_or(&root);
        let folder = self.locate(prefix);
        let mut objects = Vec::new();
        let mut common_prefixes = BTreeSet::new();
        for entry in self.entries(&folder).map_err(|error| failed(prefix, error))? {
            let path = folder.join(&entry.name);
            let Some(location) = self.object_name(&path) else { continue };
            match entry.metadata.kind {
                FileType::File => objects.push(describe(location, entry.metadata)),
                // A folder without objects is none, to readers of an object store.
                FileType::Folder => {
                    if self.holds_objects(&path).map_err(|error| failed(prefix, error))? {
                        common_prefixes.insert(location);
                    }
                }
            }
        }
        objects.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        Ok(ListResult { objects, common_prefixes: common_prefixes.into_iter().collect() })
    }

    fn holds_objects(&self, folder: &Path) -> Result<bool, LocalError> {
        for entry in self.entries(folder)? {
            if entry.metadata.kind == FileType::File || self.holds_objects(&folder.join(&entry.name))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remove(&self, location: &ObjectPath) -> Result<()> {
        ensure_allowed(location)?;
        let path = self.locate(location);
        self.files
            .remove_file(&path)
            .step("delete", &path, StoreErrorKind::Retryable)
            .map_err(|error| failed(location, error))
    }

    /// Objects never change under their name, so a copy is a second name of the same file.
    fn copy(self: &Arc<Self>, from: &ObjectPath, to: &ObjectPath, mode: CopyMode) -> Result<()> {
        ensure_allowed(from)?;
        ensure_allowed(to)?;
        let (source, target) = (self.locate(from), self.locate(to));
        match self.copy_file(&source, &target, mode).map_err(|error| failed(from, error))? {
            Created::New => Ok(()),
            Created::Exists => Err(taken(to)),
        }
    }

    fn copy_file(self: &Arc<Self>, source: &Path, target: &Path, mode: CopyMode) -> Result<Created, LocalError> {
        let parent = target.parent().unwrap_or(&self.root);
        self.make_durable(parent)?;
        let outcome = match mode {
            CopyMode::Create => self.give_name(source, target, Target::MustBeFree)?,
            CopyMode::Overwrite => {
                // A link cannot replace, so the second name is a temporary one first.
                let path = self.temporary_name(parent);
                self.files.link(source, &path).step("copy", source, StoreErrorKind::Retryable)?;
                let temporary = Temporary { folder: Arc::clone(self), path, target: target.to_owned(), file: None };
                self.give_name(&temporary.path, target, Target::MayExist)?
            }
        };
        self.settle(target)?;
        Ok(outcome)
    }
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> Result<Bytes> {
    let start = usize::try_from(range.start).map_err(generic)?;
    let end = usize::try_from(range.end).map_err(generic)?;
    Ok(bytes.slice(start..end))
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        ensure_allowed(location)?;
        ensure_no_attributes(&options.attributes)?;
        let mode = match options.mode {
            PutMode::Create => Target::MustBeFree,
            PutMode::Overwrite => Target::MayExist,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "putting by version".into(),
                    implementer: STORE.into(),
                });
            }
        };
        let (folder, location) = (Arc::clone(&self.folder), location.clone());
        blocking(move || {
            let parts: Vec<&[u8]> = payload.iter().map(|part| &part[..]).collect();
            match folder.write(folder.locate(&location), &parts, mode).map_err(|error| failed(&location, error))? {
                Created::New => Ok(PutResult { e_tag: None, version: None }),
                Created::Exists => Err(taken(&location)),
            }
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        ensure_allowed(location)?;
        ensure_no_attributes(&options.attributes)?;
        let (folder, location) = (Arc::clone(&self.folder), location.clone());
        blocking(move || {
            let temporary = folder.begin(folder.locate(&location)).map_err(|error| failed(&location, error))?;
            Ok(Box::new(Upload { location, temporary: Arc::new(Mutex::new(Some(temporary))) })
                as Box<dyn MultipartUpload>)
        })
        .await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        let (folder, location) = (Arc::clone(&self.folder), location.clone());
        blocking(move || folder.get(&location, &options)).await
    }

    async fn get_ranges(&self, location: &ObjectPath, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (folder, location, ranges) = (Arc::clone(&self.folder), location.clone(), ranges.to_vec());
        blocking(move || {
            let result = folder.get(&location, &GetOptions::default())?;
            let size = result.meta.size;
            let content = match result.payload {
                GetResultPayload::File(file, _) => Content::OnDisk(file),
                GetResultPayload::Stream(bytes) => {
                    let parts: Vec<Bytes> = bytes.try_collect().now_or_never().expect("bytes in memory are ready")?;
                    Content::InMemory(parts.concat().into())
                }
            };
            ranges
                .into_iter()
                .map(|range| {
                    let range = GetRange::Bounded(range).as_range(size).map_err(generic)?;
                    match &content {
                        Content::OnDisk(file) => read_range(file, &range).map_err(generic),
                        Content::InMemory(bytes) => slice(bytes, &range),
                    }
                })
                .collect()
        })
        .await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        let folder = Arc::clone(&self.folder);
        locations
            .and_then(move |location| {
                let folder = Arc::clone(&folder);
                blocking(move || folder.remove(&location).map(|()| location))
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (folder, prefix) = (Arc::clone(&self.folder), prefix.cloned());
        stream::once(blocking(move || folder.list_objects(prefix.as_ref())))
            .map_ok(|objects| stream::iter(objects.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        let (folder, prefix) = (Arc::clone(&self.folder), prefix.cloned());
        blocking(move || folder.list_folder(prefix.as_ref())).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        let (folder, from, to) = (Arc::clone(&self.folder), from.clone(), to.clone());
        blocking(move || folder.copy(&from, &to, options.mode)).await
    }
}

fn read_range(mut file: &std::fs::File, range: &Range<u64>) -> std::io::Result<Bytes> {
    use std::io::{Read, Seek, SeekFrom};
    let length = usize::try_from(range.end - range.start).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; length];
    file.seek(SeekFrom::Start(range.start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes.into())
}

/// An object that arrives in parts, which are written as they come.
struct Upload {
    location: ObjectPath,
    /// Taken when the upload is completed or aborted; dropping it removes the file.
    temporary: Arc<Mutex<Option<Temporary>>>,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("location", &self.location).finish_non_exhaustive()
    }
}

impl Upload {
    fn take(&self) -> Option<Temporary> {
        self.temporary.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        // Parts belong in the order of these calls, whatever order their futures are run in, so they are written here.
        let outcome = match &mut *self.temporary.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(temporary) => {
                data.iter().try_for_each(|part| temporary.write(part)).map_err(|error| failed(&self.location, error))
            }
            None => Err(generic("the upload has been completed or aborted")),
        };
        if outcome.is_err() {
            // An object with a hole must not be completed.
            drop(self.take());
        }
        async { outcome }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let temporary =
            self.take().ok_or_else(|| generic("a part failed, or the upload has been completed or aborted"))?;
        let location = self.location.clone();
        blocking(move || {
            temporary.publish(Target::MayExist).map_err(|error| failed(&location, error))?;
            Ok(PutResult { e_tag: None, version: None })
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        drop(self.take());
        Ok(())
    }
}
