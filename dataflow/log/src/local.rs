//! A local folder that keeps what it confirmed, through kill -9 and through a power cut.
//!
//! Promise: when a put is answered, the object's bytes and its name are on the disk; a name never shows half an object,
//! and of several puts that ask for a free name one alone gets it, among all processes of the machine. To that end:
//! write a temporary file in the same folder, fsync it, give it the final name by a hard link (which fails if the name
//! is taken) or by a rename, fsync the folder; and fsync the parents of folders that were created for it.
//! (object_store's own local folder never calls fsync, hence this one.)
//!
//! An fsync that failed is fatal and must not be repeated: afterwards the kernel may show bytes that the disk has lost.
//! A disk that is full is no such end: nothing has its final name yet, so the whole object is written again when there is
//! room, to a new file ([`StoreErrorKind::Full`]).
//!
//! Temporary files are never listed nor read. The ones of dead processes are removed the first time that a process
//! writes into their folder, ten minutes after they were written at the earliest.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path as ObjectPath;

use crate::store::{Created, Store, StoreError, StoreErrorKind};

mod file_system;
mod forgetful;
mod no_room;
mod object_store_impl;
#[cfg(test)]
mod tests;

use file_system::{FileSystem, FileType, NewFile, RealFs};
use forgetful::ForgetfulFs;
use no_room::NoRoomFs;

/// Names that begin like this are temporary: not listed, not readable, not allowed for objects.
const TEMPORARY: &str = ".tmp-";

/// How old a temporary file must be before another process may remove it.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// Faults that the folder is asked to have, for tests of whole programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Faults {
    /// None: the real file system.
    #[default]
    None,
    /// The process's death loses whatever was not fsynced, as a power cut would: a file's bytes until the file is
    /// synced, names and removals until their folder is. One process at a time may use the folder.
    ForgetUnsynced,
    /// The disk has no room for anything new as long as this file exists.
    NoRoomWhile(PathBuf),
}

/// A durable store in a local folder; also an [`object_store::ObjectStore`], for readers of Parquet files.
///
/// Clones share everything. Opening touches nothing: the folder is created with the first object.
#[derive(Clone, Debug)]
pub struct DurableLocal {
    folder: Arc<Folder>,
}

#[derive(Debug)]
struct Folder {
    root: PathBuf,
    files: Box<dyn FileSystem>,
    /// Folders that are durable and swept of abandoned temporary files.
    ready: Mutex<BTreeSet<PathBuf>>,
    /// Makes the names of temporary files differ within the process.
    temporaries: AtomicU64,
}

/// A file that has no final name yet; removed if it never gets one.
#[derive(Debug)]
struct Temporary {
    folder: Arc<Folder>,
    path: PathBuf,
    target: PathBuf,
    file: Option<Box<dyn NewFile>>,
}

/// What may already stand under the final name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    MustBeFree,
    MayExist,
}

/// A failed step of an operation on the folder; the cause is its `source()`.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
struct LocalError {
    step: &'static str,
    path: PathBuf,
    /// What a caller of the whole operation may do.
    kind: StoreErrorKind,
    source: io::Error,
}

impl LocalError {
    fn is(&self, kind: io::ErrorKind) -> bool {
        self.source.kind() == kind
    }
}

/// Names a step and its path in the errors of the file system.
trait Step<T> {
    fn step(self, step: &'static str, path: &Path, kind: StoreErrorKind) -> Result<T, LocalError>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: &'static str, path: &Path, kind: StoreErrorKind) -> Result<T, LocalError> {
        self.map_err(|source| {
            // A forbidden disk stays so; one that is full, an interrupted call or a folder that vanished do not.
            let kind = match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreErrorKind::Denied,
                io::ErrorKind::Unsupported => StoreErrorKind::Fatal,
                _ if is_full(&source) && kind != StoreErrorKind::Fatal => StoreErrorKind::Full,
                _ => kind,
            };
            LocalError { step, path: path.to_owned(), kind, source }
        })
    }
}

impl DurableLocal {
    /// The store in the folder `root`, which need not exist yet.
    ///
    /// # Errors
    /// The current folder, to which a relative `root` refers, is unknown.
    pub fn open(root: &Path, faults: Faults) -> io::Result<Self> {
        let files: Box<dyn FileSystem> = match faults {
            Faults::None => Box::new(RealFs),
            Faults::ForgetUnsynced => Box::new(ForgetfulFs::default()),
            Faults::NoRoomWhile(marker) => Box::new(NoRoomFs::new(marker)),
        };
        Self::over(root, files)
    }

    fn over(root: &Path, files: Box<dyn FileSystem>) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        let folder = Folder { root, files, ready: Mutex::default(), temporaries: AtomicU64::new(0) };
        Ok(Self { folder: Arc::new(folder) })
    }

    /// The folder, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.folder.root
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DurableLocal({})", self.folder.root.display())
    }
}

impl Folder {
    /// Where an object lies. Object paths hold no `.` and no `..`, so it is always below the root.
    fn locate(&self, path: &ObjectPath) -> PathBuf {
        path.parts().fold(self.root.clone(), |folder, part| folder.join(part.as_ref()))
    }

    fn begin(self: &Arc<Self>, target: PathBuf) -> Result<Temporary, LocalError> {
        let parent = target.parent().unwrap_or(&self.root).to_owned();
        self.make_durable(&parent)?;
        loop {
            let path = self.temporary_name(&parent);
            match self.files.create_file(&path) {
                Ok(file) => {
                    let temporary = Temporary { folder: Arc::clone(self), path, target, file: Some(file) };
                    self.sweep(&parent, &temporary.path);
                    return Ok(temporary);
                }
                // Left over from, or held by, another process that has or had the same process number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    self.ready().remove(&parent);
                    return Err(error).step("create", &path, StoreErrorKind::Retryable);
                }
            }
        }
    }

    /// Creates the folder and its parents where they do not exist, each durable in its own parent.
    fn make_durable(&self, folder: &Path) -> Result<(), LocalError> {
        if self.ready().contains(folder) {
            return Ok(());
        }
        let exists = self.files.metadata(folder).is_ok_and(|metadata| metadata.kind == FileType::Folder);
        // Whoever made the root, or what is above it, made it for keeps; and we may not be able to read above it.
        if exists && (folder == self.root || !folder.starts_with(&self.root)) {
            return Ok(());
        }
        if let Some(parent) = folder.parent() {
            self.make_durable(parent)?;
            match self.files.create_dir(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).step("create", folder, StoreErrorKind::Retryable);
                }
                _ => {}
            }
            self.files.sync_dir(parent).step("fsync", parent, StoreErrorKind::Fatal)?;
        }
        Ok(())
    }

    /// Removes what dead processes left in a folder, the first time that we write into it. Judged by the age relative
    /// to a file that was just created, so that it needs no clock.
    fn sweep(&self, folder: &Path, fresh: &Path) {
        if !self.ready().insert(folder.to_owned()) {
            return;
        }
        // Best effort: a leftover that stays only takes room.
        let (Ok(now), Ok(entries)) = (self.files.metadata(fresh), self.files.read_dir(folder)) else { return };
        for entry in entries.iter().filter(|entry| is_temporary(&entry.name)) {
            let age = now.modified.duration_since(entry.metadata.modified).unwrap_or_default();
            if age > ABANDONED_AFTER {
                let _ = self.files.remove_file(&folder.join(&entry.name));
            }
        }
    }

    fn write(self: &Arc<Self>, target: PathBuf, parts: &[&[u8]], mode: Target) -> Result<Created, LocalError> {
        let mut temporary = self.begin(target)?;
        for part in parts {
            temporary.write(part)?;
        }
        temporary.publish(mode)
    }

    /// All files below a folder with their names relative to the root, in no promised order.
    fn walk(&self, folder: &Path, found: &mut dyn FnMut(ObjectPath, file_system::Metadata)) -> Result<(), LocalError> {
        for entry in self.entries(folder)? {
            let path = folder.join(&entry.name);
            match entry.metadata.kind {
                FileType::Folder => self.walk(&path, found)?,
                FileType::File => {
                    if let Some(name) = self.object_name(&path) {
                        found(name, entry.metadata);
                    }
                }
            }
        }
        Ok(())
    }

    /// What a folder holds, temporary files left out; nothing if it does not exist.
    fn entries(&self, folder: &Path) -> Result<Vec<file_system::DirEntry>, LocalError> {
        match self.files.read_dir(folder) {
            Ok(mut entries) => {
                entries.retain(|entry| !is_temporary(&entry.name));
                Ok(entries)
            }
            Err(error) if is_absence(&error) => Ok(Vec::new()),
            Err(error) => Err(error).step("list", folder, StoreErrorKind::Retryable),
        }
    }

    /// The object's name; `None` for files that cannot be objects, such as ones whose name is no text.
    fn object_name(&self, path: &Path) -> Option<ObjectPath> {
        let relative = path.strip_prefix(&self.root).ok()?;
        let parts: Option<Vec<&str>> = relative.iter().map(|part| part.to_str()).collect();
        ObjectPath::parse(parts?.join("/")).ok()
    }

    fn ready(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Temporary {
    fn write(&mut self, bytes: &[u8]) -> Result<(), LocalError> {
        let file = self.file.as_mut().expect("a temporary file is open until it is published");
        file.write(bytes).step("write", &self.path, StoreErrorKind::Retryable)
    }

    /// Gives the file its final name; durable when it returns, also if the name was taken by another.
    fn publish(mut self, mode: Target) -> Result<Created, LocalError> {
        let mut file = self.file.take().expect("a temporary file is open until it is published");
        if let Err(error) = file.sync() {
            // Some file systems find out only now that they have no room. This file goes, so nothing hangs on its bytes.
            let kind = if is_full(&error) { StoreErrorKind::Full } else { StoreErrorKind::Fatal };
            return Err(error).step("fsync", &self.path, kind);
        }
        drop(file);
        let outcome = self.folder.give_name(&self.path, &self.target, mode)?;
        if mode == Target::MustBeFree {
            // Best effort, as below; done now so that one fsync makes the new name durable and the old one go.
            let _ = self.folder.files.remove_file(&self.path);
        }
        self.folder.settle(&self.target)?;
        Ok(outcome)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Absent after a rename; otherwise best effort, as a leftover is swept some day.
        let _ = self.folder.files.remove_file(&self.path);
    }
}

impl Folder {
    /// Gives a synced file another name; by renaming it, where an existing object may be replaced.
    fn give_name(&self, from: &Path, target: &Path, mode: Target) -> Result<Created, LocalError> {
        match mode {
            Target::MayExist => {
                self.files.rename(from, target).step("rename to", target, StoreErrorKind::Retryable)?;
                Ok(Created::New)
            }
            Target::MustBeFree => match self.files.link(from, target) {
                Ok(()) => Ok(Created::New),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Created::Exists),
                Err(error) => Err(error).step("hard-link to", target, StoreErrorKind::Retryable),
            },
        }
    }

    /// Makes a name durable. Also one that was found taken: its owner may not have come to this yet, and our caller
    /// builds upon it.
    fn settle(&self, target: &Path) -> Result<(), LocalError> {
        let parent = target.parent().unwrap_or(&self.root);
        self.files.sync_dir(parent).step("fsync", parent, StoreErrorKind::Fatal)
    }

    fn temporary_name(&self, folder: &Path) -> PathBuf {
        let count = self.temporaries.fetch_add(1, Ordering::Relaxed);
        folder.join(format!("{TEMPORARY}{}-{count}", std::process::id()))
    }
}

fn is_temporary(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes())
}

/// The disk, or what the user may have of it, is used up; or this process or machine has no descriptors left (EMFILE,
/// ENFILE), which passes likewise.
fn is_full(error: &io::Error) -> bool {
    let descriptors = matches!(error.raw_os_error(), Some(23 | 24));
    descriptors || [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded].contains(&error.kind())
}

/// There is no such file: it does not exist, or a file stands where its folder would be.
fn is_absence(error: &io::Error) -> bool {
    [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind())
}

/// The object's path, checked for names that are kept for temporary files.
fn object_path(operation: &'static str, path: &str) -> Result<ObjectPath, StoreError> {
    let parsed =
        ObjectPath::parse(path).map_err(|error| StoreError::new(StoreErrorKind::Fatal, operation, path, error))?;
    if parsed.parts().any(|part| part.as_ref().starts_with(TEMPORARY)) {
        let cause = "names of objects do not begin with .tmp-";
        return Err(StoreError::new(StoreErrorKind::Fatal, operation, path, cause));
    }
    Ok(parsed)
}

impl DurableLocal {
    fn write(&self, operation: &'static str, path: &str, bytes: &[u8], mode: Target) -> Result<Created, StoreError> {
        let target = self.folder.locate(&object_path(operation, path)?);
        self.folder.write(target, &[bytes], mode).map_err(|error| failed(operation, path, error))
    }
}

impl Store for DurableLocal {
    fn create(&self, path: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.write("create", path, bytes, Target::MustBeFree)
    }

    fn put(&self, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.write("put", path, bytes, Target::MayExist).map(|_| ())
    }

    fn get(&self, path: &str) -> Result<Option<Bytes>, StoreError> {
        let file = self.folder.locate(&object_path("read", path)?);
        match self.folder.files.open(&file).and_then(|opened| opened.content.read_all()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(StoreError::new(StoreErrorKind::Retryable, "read", path, error)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let mut paths = Vec::new();
        let start = self.folder.locate(&object_path("list", folder)?);
        self.folder
            .walk(&start, &mut |path, _| paths.push(String::from(path)))
            .map_err(|error| failed("list", folder, error))?;
        paths.sort_unstable();
        Ok(paths)
    }

    fn delete(&self, path: &str) -> Result<(), StoreError> {
        match self.folder.files.remove_file(&self.folder.locate(&object_path("delete", path)?)) {
            Err(error) if !is_absence(&error) => Err(StoreError::new(StoreErrorKind::Retryable, "delete", path, error)),
            _ => Ok(()),
        }
    }

    fn exists(&self, path: &str) -> Result<bool, StoreError> {
        match self.folder.files.metadata(&self.folder.locate(&object_path("look for", path)?)) {
            Ok(metadata) => Ok(metadata.kind == FileType::File),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(StoreError::new(StoreErrorKind::Retryable, "look for", path, error)),
        }
    }
}

fn failed(operation: &'static str, path: &str, error: LocalError) -> StoreError {
    StoreError::new(error.kind, operation, path, error)
}
