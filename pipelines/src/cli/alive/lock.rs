//! The lock of a run on its folder: a file that the process holds locked for its life, and that says who it is.
//!
//! It goes with the run, and so do the folders that were made for it, if nothing else came into them: a start that is refused
//! leaves nothing behind. After a crash it stays, and means nothing: what it says counts only while it is locked.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::Who;

/// The file, below the folder of log and state.
const NAME: &str = "running.lock";

/// The lock is held, or waited for, until this is dropped.
pub(super) struct Lock {
    held: Option<Mine>,
    /// Hung up, the thread that waits for the lock gives it back.
    _waits: Option<Sender<()>>,
}

/// The locked file, and the folders that were made for it, innermost first.
struct Mine {
    file: File,
    path: PathBuf,
    made: Vec<PathBuf>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked, so that nobody signs a file that is about to go.
        if let Some(Mine { file, path, made }) = self.held.take() {
            let _ = fs::remove_file(path);
            made.iter().all(|folder| fs::remove_dir(folder).is_ok());
            drop(file);
        }
    }
}

/// What became of taking the lock.
pub(super) enum Taken {
    Ours(Lock),
    /// Another process holds it; who, if it said so.
    Others(Option<Who>),
    NoFolder,
    NoLocks(io::Error),
}

/// Takes the lock in `folder`, which is made. With `take_over`, one that is held is waited for behind the caller's back.
pub(super) fn take(folder: &Path, me: &Who, take_over: bool) -> Taken {
    let path = folder.join(NAME);
    loop {
        let made: Vec<PathBuf> = folder.ancestors().take_while(|above| !above.exists()).map(Path::to_owned).collect();
        if fs::create_dir_all(folder).is_err() {
            return Taken::NoFolder;
        }
        let mut file = match open(&path) {
            Ok(file) => file,
            // A run that ended has taken the folder away with its lock.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Taken::NoLocks(error),
        };
        return match file.try_lock() {
            // The run that held it has taken it away with itself.
            Ok(()) if !is_at(&file, &path) => continue,
            Ok(()) => {
                sign(&mut file, me);
                Taken::Ours(Lock { held: Some(Mine { file, path, made }), _waits: None })
            }
            Err(TryLockError::WouldBlock) if take_over => Taken::Ours(wait_for(path, me.clone())),
            Err(TryLockError::WouldBlock) => Taken::Others(read(&mut file)),
            Err(TryLockError::Error(error)) => Taken::NoLocks(error),
        };
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

/// Whether the path still names the file.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |found: io::Result<fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
    id(file.metadata()).is_some_and(|open| id(path.metadata()) == Some(open))
}

/// Takes the lock once the run that was taken over has ended.
fn wait_for(path: PathBuf, me: Who) -> Lock {
    let (waits, dropped) = channel::<()>();
    let wait = move || {
        let held = locked(path, &me);
        // Nothing is ever sent: this is the end of the run.
        let _ = dropped.recv();
        drop(held);
    };
    // Without the thread, later starts are not told of this run, and fence it.
    drop(thread::Builder::new().name("lock".into()).spawn(wait));
    Lock { held: None, _waits: Some(waits) }
}

/// The lock, once it is free; nothing where that cannot be known.
fn locked(path: PathBuf, me: &Who) -> Option<Lock> {
    loop {
        let mut file = open(&path).ok()?;
        match file.lock() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
            Ok(()) if !is_at(&file, &path) => {}
            Ok(()) => {
                sign(&mut file, me);
                return Some(Lock { held: Some(Mine { file, path, made: Vec::new() }), _waits: None });
            }
        }
    }
}

/// Says who holds the lock. Where that cannot be written, a later start is refused without a name.
fn sign(file: &mut File, me: &Who) {
    let text = serde_json::to_vec(me).expect("texts and a number can always be written as JSON");
    let _ = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).and_then(|_| file.write_all(&text));
}

fn read(file: &mut File) -> Option<Who> {
    let mut text = Vec::new();
    file.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(pid: u32) -> Who {
        Who { host: "web-1".into(), pid, since: "then".into() }
    }

    /// Takes the lock once it is free. A process that is started elsewhere in this program holds what is open for a moment.
    fn once_free(folder: &Path, me: &Who) -> Lock {
        loop {
            match take(folder, me, false) {
                Taken::Ours(lock) => return lock,
                Taken::Others(_) => thread::yield_now(),
                Taken::NoFolder | Taken::NoLocks(_) => panic!("a temporary folder has locks"),
            }
        }
    }

    fn holder(folder: &Path) -> Option<Who> {
        match take(folder, &who(99), false) {
            Taken::Others(found) => found,
            Taken::Ours(_) | Taken::NoFolder | Taken::NoLocks(_) => None,
        }
    }

    #[test]
    fn a_lock_names_its_holder_and_is_free_when_that_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("new/_tidemill");
        let first = once_free(&folder, &who(1234));
        assert_eq!(holder(&folder), Some(who(1234)));
        drop(first);
        let second = once_free(&folder, &who(5));
        assert_eq!(holder(&folder), Some(who(5)), "a shorter text leaves nothing of a longer one");
        drop(second);
        assert!(!root.path().join("new").exists(), "what was made for the lock goes with it");
        let third = once_free(&folder, &who(6));
        fs::write(folder.join("log"), "").unwrap();
        drop(third);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "what a run wrote stays");
    }

    #[test]
    fn whoever_takes_over_has_the_lock_once_the_other_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let fenced = once_free(folder.path(), &who(1));
        let Taken::Ours(later) = take(folder.path(), &who(2), true) else { panic!("it was told to take over") };
        assert_eq!(holder(folder.path()), Some(who(1)), "the fenced run has not ended");
        drop(fenced);
        while holder(folder.path()) != Some(who(2)) {
            thread::yield_now();
        }
        drop(later);
        drop(once_free(folder.path(), &who(3)));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_for_the_run_to_complain_of() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(take(&file.path().join("_tidemill"), &who(1), false), Taken::NoFolder));
    }
}
