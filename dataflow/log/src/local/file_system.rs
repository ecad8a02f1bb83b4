//! The few calls on a file system that durability is made of, so that a test can put another below.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;

/// A file system. Errors are those of [`std::fs`].
pub(crate) trait FileSystem: Debug + Send + Sync {
    /// Creates a file that must not exist, in a folder that must.
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn NewFile>>;

    /// Gives a file a second name; `AlreadyExists` if that is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file another name, in place of whatever file has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Creates one folder; its parent must exist.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    fn open(&self, path: &Path) -> io::Result<Opened>;

    fn metadata(&self, path: &Path) -> io::Result<Metadata>;

    /// The files and folders in a folder, in no promised order.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
}

/// A file that is being written.
pub(crate) trait NewFile: Debug + Send {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Makes the bytes written so far durable.
    fn sync(&mut self) -> io::Result<()>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileType {
    File,
    Folder,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Metadata {
    pub(crate) kind: FileType,
    /// Length in bytes.
    pub(crate) length: u64,
    pub(crate) modified: SystemTime,
}

#[derive(Debug)]
pub(crate) struct DirEntry {
    pub(crate) name: OsString,
    pub(crate) metadata: Metadata,
}

#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) content: Content,
    pub(crate) metadata: Metadata,
}

#[derive(Debug)]
pub(crate) enum Content {
    OnDisk(File),
    InMemory(Bytes),
}

impl Content {
    pub(crate) fn read_all(self) -> io::Result<Bytes> {
        match self {
            Self::OnDisk(mut file) => {
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes)?;
                Ok(bytes.into())
            }
            Self::InMemory(bytes) => Ok(bytes),
        }
    }
}

/// The operating system's file system.
#[derive(Debug)]
pub(crate) struct RealFs;

impl FileSystem for RealFs {
    fn create_file(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(RealFile(File::create_new(path)?)))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        let file = File::open(path)?;
        let metadata = describe(&file.metadata()?)?;
        if metadata.kind == FileType::Folder {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Opened { content: Content::OnDisk(file), metadata })
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        describe(&fs::metadata(path)?)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            match fs::metadata(entry.path()) {
                Ok(metadata) => entries.push(DirEntry { name: entry.file_name(), metadata: describe(&metadata)? }),
                // Removed since the folder was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }
}

#[derive(Debug)]
struct RealFile(File);

impl NewFile for RealFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

fn describe(metadata: &fs::Metadata) -> io::Result<Metadata> {
    let kind = if metadata.is_dir() { FileType::Folder } else { FileType::File };
    Ok(Metadata { kind, length: metadata.len(), modified: metadata.modified()? })
}
