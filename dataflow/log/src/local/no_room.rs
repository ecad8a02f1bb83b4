//! A file system that has no room for anything new as long as a certain file exists.

use std::io;
use std::path::{Path, PathBuf};

use super::file_system::{DirEntry, FileSystem, Metadata, NewFile, Opened, RealFs};

#[derive(Debug)]
pub(crate) struct NoRoomFs {
    /// While it exists, there is no room.
    marker: PathBuf,
}

impl NoRoomFs {
    pub(crate) fn new(marker: PathBuf) -> Self {
        NoRoomFs { marker }
    }

    fn room(&self) -> io::Result<()> {
        room(&self.marker)
    }
}

fn room(marker: &Path) -> io::Result<()> {
    if marker.exists() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

impl FileSystem for NoRoomFs {
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        // As on a real disk, a name may still fit where bytes do not.
        Ok(Box::new(File { file: RealFs.create_file(path)?, marker: self.marker.clone() }))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFs.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.room()?;
        RealFs.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        RealFs.sync_dir(path)
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        RealFs.open(path)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        RealFs.metadata(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        RealFs.read_dir(path)
    }
}

#[derive(Debug)]
struct File {
    file: Box<dyn NewFile>,
    marker: PathBuf,
}

impl NewFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        room(&self.marker)?;
        self.file.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}
