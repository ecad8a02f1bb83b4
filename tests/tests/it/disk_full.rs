//! The disk of a run is full: it waits, says so once, goes on when there is room, and nothing is lost.
//!
//! The disk is a small file system of its own where the machine lets one be mounted; else the store of the process says that
//! it is full. Which of the two it was, the test prints.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use tidemill_tests::harness::Tidemill;
use tidemill_tests::services::wait_until;

use crate::processes::{Live, until_said};
use crate::tidemill;

/// Room for a short run, and for little more.
const SIZE: &str = "size=128m";

/// A disk that can be filled.
struct Disk {
    folder: TempDir,
    mounted: bool,
}

impl Disk {
    fn new() -> Disk {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("disk")).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(folder.path().join("disk"));
        let mounted = mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        println!("the disk is {}", if mounted { "a small file system" } else { "a store that says that it is full" });
        Disk { folder, mounted }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// The command, whose store knows when the disk is full.
    fn tidemill(&self) -> Tidemill {
        let faults = format!("no_room_while:{}", self.ballast().display());
        match self.mounted {
            true => tidemill(),
            false => tidemill().with_environment([("TIDEMILL_FAULTS".to_owned(), faults)].into()),
        }
    }

    fn ballast(&self) -> PathBuf {
        if self.mounted { self.root().join("ballast") } else { self.folder.path().join("full") }
    }

    /// Leaves no room at all.
    fn fill(&self) {
        let mut ballast = File::create(self.ballast()).unwrap();
        let piece = vec![0; 64 << 10];
        while self.mounted && ballast.write_all(&piece).is_ok() {}
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Its folder cannot be removed otherwise; nothing more hangs on it.
            let _ = Command::new("umount").arg("-l").arg(self.root()).status();
        }
    }
}

#[test]
fn a_run_whose_disk_is_full_waits_for_room_and_loses_nothing() {
    let disk = Disk::new();
    let live = Live::in_folders(TempDir::new().unwrap(), disk.root().join("out"));
    for (shape, round) in [((1, 2), "one process"), ((2, 1), "two processes")] {
        let mut running = live.start_with(&disk.tidemill(), shape);
        live.append(100);
        live.catch_up(&mut running);
        disk.fill();
        live.append(10_000);
        until_said(&mut running, "there is no room in ");
        let place = disk.root().display().to_string();
        let said = running.said();
        let sentence = said.lines().find(|line| line.contains("there is no room in ")).unwrap();
        assert!(sentence.contains(&place) && sentence.contains("make some, and this goes on by itself"), "{sentence}");
        disk.make_room();
        live.catch_up(&mut running);
        let again = || said_of(&running.said(), "has room again");
        wait_until("it says that there is room", || again() > 0);
        // Each process has a disk of its own, for all it knows.
        let waits = said_of(&running.said(), "there is no room in ");
        assert!((1..=shape.0 as usize).contains(&waits), "{round}: {}", running.said());
        assert!(!running.said().contains("attempt 2"), "{round}: {}", running.said());
        live.finish(running, round);
    }
}

fn said_of(said: &str, words: &str) -> usize {
    said.lines().filter(|line| line.contains(words)).count()
}

#[test]
fn a_full_disk_at_the_first_write_of_all_is_waited_for_too() {
    let disk = Disk::new();
    let live = Live::in_folders(TempDir::new().unwrap(), disk.root().join("out"));
    fs::create_dir(disk.root().join("out")).unwrap();
    disk.fill();
    let mut running = live.start_with(&disk.tidemill(), (1, 1));
    until_said(&mut running, "there is no room in ");
    assert!(empty(&disk.root().join("out")), "what did not fit leaves nothing behind");
    disk.make_room();
    live.finish(running, "after a beginning without room");
}

fn empty(folder: &Path) -> bool {
    let is_begun = |name: &[u8]| name.starts_with(b".tmp-") || name == b"running.lock";
    tidemill_tests::harness::files_under(folder)
        .iter()
        .all(|path| path.file_name().is_some_and(|name| is_begun(name.as_encoded_bytes())))
}
