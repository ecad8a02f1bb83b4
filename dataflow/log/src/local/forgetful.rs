//! A file system that forgets what was not synced when the process dies.
//!
//! Bytes stay in memory until their file is synced, and names, removals and new folders until the folder that holds
//! them is; only then do they appear on the disk below. The process itself sees everything at once. So kill -9 of the
//! process loses what a power cut could lose, at its most forgetful: nothing unsynced ever survives. A name that is
//! synced before its file's bytes appears with the bytes that were, perhaps none.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;

use super::TEMPORARY;
use super::file_system::{Content, DirEntry, FileSystem, FileType, Metadata, NewFile, Opened, RealFs};

#[derive(Debug, Default)]
pub(crate) struct ForgetfulFs {
    /// What differs from the disk, by path.
    pending: Mutex<BTreeMap<PathBuf, Pending>>,
}

#[derive(Clone, Debug)]
enum Pending {
    File(Arc<Mutex<File>>),
    Folder,
    Removed,
}

#[derive(Debug)]
struct File {
    bytes: Vec<u8>,
    /// The bytes as of the last sync.
    synced: Vec<u8>,
    modified: SystemTime,
    /// Somebody still writes to it: that it is as long as it was synced, perhaps empty, settles nothing.
    open: bool,
}

impl File {
    fn metadata(&self) -> Metadata {
        Metadata { kind: FileType::File, length: self.bytes.len() as u64, modified: self.modified }
    }
}

type Names<'a> = MutexGuard<'a, BTreeMap<PathBuf, Pending>>;

impl ForgetfulFs {
    fn names(&self) -> Names<'_> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock(file: &Mutex<File>) -> MutexGuard<'_, File> {
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look_up(names: &Names<'_>, path: &Path) -> io::Result<Metadata> {
    match names.get(path) {
        Some(Pending::File(file)) => Ok(lock(file).metadata()),
        Some(Pending::Folder) => Ok(Metadata { kind: FileType::Folder, length: 0, modified: SystemTime::UNIX_EPOCH }),
        Some(Pending::Removed) => Err(io::ErrorKind::NotFound.into()),
        None => RealFs.metadata(path),
    }
}

/// The name must be free and its folder must be there.
fn ensure_free(names: &Names<'_>, path: &Path) -> io::Result<()> {
    match look_up(names, path) {
        Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    ensure_folder(names, path.parent().unwrap_or(path))
}

fn ensure_folder(names: &Names<'_>, path: &Path) -> io::Result<()> {
    match look_up(names, path)?.kind {
        FileType::Folder => Ok(()),
        FileType::File => Err(io::ErrorKind::NotADirectory.into()),
    }
}

/// The file under a name; one that is on the disk is durable as it is.
fn file_at(names: &Names<'_>, path: &Path) -> io::Result<Arc<Mutex<File>>> {
    match names.get(path) {
        Some(Pending::File(file)) => Ok(Arc::clone(file)),
        Some(Pending::Folder | Pending::Removed) => Err(io::ErrorKind::NotFound.into()),
        None => {
            let bytes = fs::read(path)?;
            let modified = fs::metadata(path)?.modified()?;
            Ok(Arc::new(Mutex::new(File { synced: bytes.clone(), bytes, modified, open: false })))
        }
    }
}

fn remove_name(names: &mut Names<'_>, path: &Path) {
    if path.exists() {
        names.insert(path.to_owned(), Pending::Removed);
    } else {
        names.remove(path);
    }
}

impl FileSystem for ForgetfulFs {
    #[expect(clippy::disallowed_methods, reason = "stands in for the operating system, which dates files by its clock")]
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let mut names = self.names();
        ensure_free(&names, path)?;
        let file = File { bytes: Vec::new(), synced: Vec::new(), modified: SystemTime::now(), open: true };
        let file = Arc::new(Mutex::new(file));
        names.insert(path.to_owned(), Pending::File(Arc::clone(&file)));
        Ok(Box::new(ForgetfulFile(file)))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names();
        ensure_free(&names, to)?;
        let file = file_at(&names, from)?;
        names.insert(to.to_owned(), Pending::File(file));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names();
        ensure_folder(&names, to.parent().unwrap_or(to))?;
        let file = file_at(&names, from)?;
        names.insert(to.to_owned(), Pending::File(file));
        remove_name(&mut names, from);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names();
        look_up(&names, path)?;
        remove_name(&mut names, path);
        Ok(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names();
        ensure_free(&names, path)?;
        names.insert(path.to_owned(), Pending::Folder);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names();
        ensure_folder(&names, path)?;
        if !path.is_dir() {
            // Nothing in a folder survives before the folder itself does.
            return Ok(());
        }
        let inside: Vec<PathBuf> = names.keys().filter(|name| name.parent() == Some(path)).cloned().collect();
        for name in inside {
            let settled = match &names[&name] {
                Pending::Removed => fs::remove_file(&name).map(|()| true).or_else(|error| absent(error, true))?,
                Pending::Folder => fs::create_dir(&name).map(|()| true)?,
                Pending::File(file) => {
                    let file = lock(file);
                    // Each name appears at once with all its bytes, so dying in here is dying between two steps.
                    let staged = path.join(format!("{TEMPORARY}forgetful-{}", std::process::id()));
                    fs::write(&staged, &file.synced)?;
                    fs::rename(&staged, &name)?;
                    !file.open && file.bytes == file.synced
                }
            };
            if settled {
                names.remove(&name);
            }
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        let names = self.names();
        match names.get(path) {
            Some(Pending::File(file)) => {
                let file = lock(file);
                let content = Content::InMemory(Bytes::copy_from_slice(&file.bytes));
                Ok(Opened { content, metadata: file.metadata() })
            }
            Some(Pending::Folder | Pending::Removed) => Err(io::ErrorKind::NotFound.into()),
            None => RealFs.open(path),
        }
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        look_up(&self.names(), path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let names = self.names();
        ensure_folder(&names, path)?;
        let on_disk = RealFs.read_dir(path).or_else(|error| absent(error, Vec::new()))?;
        let mut entries: BTreeMap<OsString, Metadata> =
            on_disk.into_iter().map(|entry| (entry.name, entry.metadata)).collect();
        for (pending, _) in names.iter().filter(|(name, _)| name.parent() == Some(path)) {
            let Some(name) = pending.file_name() else { continue };
            match look_up(&names, pending) {
                Ok(metadata) => entries.insert(name.to_owned(), metadata),
                Err(_) => entries.remove(name),
            };
        }
        Ok(entries.into_iter().map(|(name, metadata)| DirEntry { name, metadata }).collect())
    }
}

/// What is not there needs no removing, and holds nothing.
fn absent<T>(error: io::Error, instead: T) -> io::Result<T> {
    if error.kind() == io::ErrorKind::NotFound { Ok(instead) } else { Err(error) }
}

#[derive(Debug)]
struct ForgetfulFile(Arc<Mutex<File>>);

impl Drop for ForgetfulFile {
    fn drop(&mut self) {
        lock(&self.0).open = false;
    }
}

impl NewFile for ForgetfulFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        lock(&self.0).bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut file = lock(&self.0);
        file.synced = file.bytes.clone();
        Ok(())
    }
}
