//! A web log that grows and turns, read by a loop as cron would run it: every line once.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;
use tidemill_tests::corpus;
use tidemill_tests::harness::files_under;

use crate::{counter, tidemill};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Rename,
    CopyTruncate,
    Packed,
}

/// A log that is written and rotated as logrotate does it.
struct Log {
    folder: TempDir,
    lines: u64,
}

impl Log {
    fn new() -> Log {
        let log = Log { folder: TempDir::new().unwrap(), lines: 0 };
        File::create(log.path("")).unwrap();
        log
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.folder.path().join(format!("access.log{ending}"))
    }

    fn append(&mut self, lines: u64) {
        let mut file = OpenOptions::new().append(true).open(self.path("")).unwrap();
        for _ in 0..lines {
            // Four a second: the longest log here stays within its day.
            let (minute, second) = (self.lines / 240, self.lines / 4 % 60);
            let time = format!("10/Mar/2026:{:02}:{:02}:{second:02} +0000", 10 + minute / 60, minute % 60);
            let request = format!("\"GET /p{} HTTP/1.1\" 200 12 \"-\" \"agent\"", self.lines);
            writeln!(file, "192.0.2.{} - - [{time}] {request}", self.lines % 200).unwrap();
            self.lines += 1;
        }
    }

    /// Moves the numbered files on, keeps so many, and begins the log anew.
    fn rotate(&self, how: How, keep: u32) {
        for number in (1..=keep).rev() {
            for ending in ["", ".gz"] {
                let file = self.path(&format!(".{number}{ending}"));
                match number == keep {
                    true => drop(fs::remove_file(file)),
                    false => drop(fs::rename(file, self.path(&format!(".{}{ending}", number + 1)))),
                }
            }
        }
        if how == How::CopyTruncate {
            fs::copy(self.path(""), self.path(".1")).unwrap();
            OpenOptions::new().write(true).truncate(true).open(self.path("")).unwrap();
        } else {
            fs::rename(self.path(""), self.path(".1")).unwrap();
            File::create(self.path("")).unwrap();
        }
        // The one before was left plain for those who still wrote to it.
        if let (How::Packed, Ok(content)) = (how, fs::read(self.path(".2"))) {
            fs::write(self.path(".2.gz"), corpus::gzipped(&content)).unwrap();
            fs::remove_file(self.path(".2")).unwrap();
        }
    }

    fn run(&self) -> Value {
        let line = tidemill().job(&[self.path("*")], &self.out()).finish();
        assert_eq!((counter(&line, "malformed"), counter(&line, "unverified")), (0, 0), "{line}");
        line
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }
}

fn views(data: &Path) -> u64 {
    let answer = tidemill().query(data, "SELECT coalesce(sum(views), 0) AS views FROM page_views_by_minute");
    counter(&serde_json::from_slice(&answer).unwrap(), "views")
}

#[test]
fn twelve_rotations_of_a_growing_log_count_each_line_once() {
    for (how, keep) in [(How::Rename, 20), (How::CopyTruncate, 20), (How::Packed, 20), (How::Packed, 3)] {
        let mut log = Log::new();
        for turn in 0..12 {
            log.append(5 + turn % 4);
            log.rotate(how, keep);
            log.append(turn % 3);
            let line = log.run();
            assert_eq!(counter(&line, "accepted"), log.lines, "{how:?}, turn {turn}: {line}");
        }
        assert_eq!(views(&log.out()), log.lines, "{how:?}");
        let before = log.run();
        assert_eq!(counter(&before, "epochs"), counter(&log.run(), "epochs"), "nothing is left to do");
    }
}

#[test]
fn a_killed_run_goes_on_after_its_log_was_rotated() {
    let mut log = Log::new();
    log.append(60_000);
    let job =
        tidemill().job(&[log.path("*")], &log.out()).option(&["--epoch-bytes", "65536", "--checkpoint-every", "1h"]);
    let mut running = job.start();
    assert!(
        running.until(|_| files_under(&log.out().join("_tidemill/log")).len() >= 5),
        "it ended before it was killed"
    );
    running.signal("KILL");
    assert_eq!(running.wait().code, None, "a signal ended it");
    log.append(10);
    log.rotate(How::Rename, 9);
    log.append(10);
    let line = job.finish();
    assert_eq!(counter(&line, "accepted"), log.lines, "{line}");
    assert_eq!(views(&log.out()), log.lines);
}

#[test]
fn a_torn_last_line_is_left_and_said_and_counted_once() {
    let mut log = Log::new();
    log.append(3);
    let whole = fs::read(log.path("")).unwrap();
    fs::write(log.path(""), &whole[..whole.len() - 30]).unwrap();
    let job = tidemill().job(&[log.path("")], &log.out());
    for _ in 0..2 {
        let outcome = job.outcome();
        assert!(outcome.stderr.contains("its last line has no newline yet"), "{}", outcome.stderr);
        assert_eq!(counter(&outcome.json(), "accepted"), 2);
    }
    fs::write(log.path(""), &whole).unwrap();
    assert_eq!(counter(&job.finish(), "accepted"), 3);
    // Nothing follows: half a line is a line.
    let mut file = OpenOptions::new().append(true).open(log.path("")).unwrap();
    file.write_all(b"half a line").unwrap();
    assert_eq!(counter(&job.finish(), "malformed"), 0);
    assert_eq!(counter(&job.option(&["--drain"]).finish(), "malformed"), 1);
}

#[test]
fn a_rotated_file_that_is_not_given_is_refused_with_the_way_out() {
    let mut log = Log::new();
    log.append(5);
    let job = tidemill().job(&[log.path("")], &log.out());
    job.finish();
    log.rotate(How::Rename, 9);
    log.append(5);
    job.outcome().assert_refused(&[3], &["access.log.1", "--input", "access.log*"]);
    assert_eq!(counter(&log.run(), "accepted"), 10);
}
