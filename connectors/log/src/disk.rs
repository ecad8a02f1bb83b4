//! The few calls that writing is made of, so that a test can let any of them fail.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;

/// A file system as the writer uses it. Errors are those of [`std::fs`].
pub(crate) trait Disk: Debug + Send + Sync {
    /// Creates a file, or empties the one that is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name, in place of whatever file has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates one folder; its parent must exist.
    fn create_folder(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
}

/// A file that is written.
pub(crate) trait DiskFile: Debug + Send + Sync {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Makes the content durable.
    fn sync(&self) -> io::Result<()>;
}

/// The operating system's file system.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().write(true).open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl DiskFile for File {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write_all_at(bytes, position)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Creates a folder and those above it that are missing, each durable before anything is put into it.
pub(crate) fn create_folders(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_folders(disk, parent)?;
    match disk.create_folder(path) {
        // Somebody else was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        created => created?,
    }
    disk.sync_folder(parent)
}

/// Syncs several files side by side, which file systems answer with one journal commit. All are tried; the first failure
/// is given, with the place of its file in the list.
pub(crate) fn sync_together(files: &[&dyn DiskFile]) -> Result<(), (usize, io::Error)> {
    let Some((first, others)) = files.split_first() else { return Ok(()) };
    let results: Vec<io::Result<()>> = thread::scope(|scope| {
        let syncing: Vec<_> = others.iter().map(|file| scope.spawn(move || file.sync())).collect();
        let gathered = std::iter::once(first.sync());
        gathered
            .chain(syncing.into_iter().map(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that syncs the file panicked")))
            }))
            .collect()
    });
    results.into_iter().enumerate().find_map(|(at, result)| result.err().map(|error| (at, error))).map_or(Ok(()), Err)
}
