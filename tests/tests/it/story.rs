//! A live run over an embedded log that grows: what tests of replays and of rescaling begin with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tidemill_embedded_log::produce::produce_lines;
use tidemill_embedded_log::{LogError, LogOptions, Record, Retention, TopicWriter};
use tidemill_tests::corpus;
use tidemill_tests::harness::{Outcome, Running, Tidemill};
use tidemill_tests::live::{EventLog, committed};
use tidemill_tests::services::wait_until;

use crate::{stop, tidemill};

const PARTITIONS: u32 = 3;

/// A log, and the places beside it.
pub(crate) struct Story {
    folder: TempDir,
    binary: Tidemill,
    pipeline: &'static str,
    pub(crate) log: EventLog,
    /// Where the live run writes.
    pub(crate) out: PathBuf,
}

impl Story {
    pub(crate) fn new() -> Story {
        Story::of(tidemill(), "web_analytics")
    }

    /// The story of another binary's pipeline.
    pub(crate) fn of(binary: Tidemill, pipeline: &'static str) -> Story {
        let folder = TempDir::new().unwrap();
        let (log, out) = (EventLog::new(folder.path().join("log")), folder.path().join("live"));
        Story { folder, binary, pipeline, log, out }
    }

    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Appends lines, those of a user in one partition, as the collector does; those that are of nobody in turn.
    pub(crate) fn store(&self, lines: &[&[u8]]) {
        let root = self.place("log");
        let partition_of = |at: u64, line: &[u8]| {
            let event: Option<Value> = serde_json::from_slice(line).ok();
            let user = event.as_ref().and_then(|event| event["user_id"].as_str());
            let number = user.map_or(at, |user| user.bytes().map(u64::from).sum());
            u32::try_from(number % u64::from(PARTITIONS)).unwrap()
        };
        wait_until("the log is free to be written", || {
            let lines = lines.iter().copied();
            match produce_lines(&root, "events.other", PARTITIONS, lines, 0, partition_of) {
                // A process that is about to be started elsewhere in this program holds what is open for a moment.
                Err(LogError::Locked { .. }) => false,
                stored => stored.map(|_| true).unwrap(),
            }
        });
    }

    /// Appends a line to each partition, and deletes all that was there before.
    pub(crate) fn retain_only(&self, line: &[u8]) {
        let retention = Retention { age: Some(Duration::ZERO), bytes: None };
        let options = LogOptions { segment_bytes: 1, retention };
        let mut writer = TopicWriter::open(&self.place("log"), "events.other", PARTITIONS, &options).unwrap();
        for partition in 0..PARTITIONS {
            writer.append(partition, &[Record { key: b"", value: line, time_ms: 0 }]).unwrap();
        }
        writer.sync().unwrap();
        let gone = writer.retain(1, &|_| u64::MAX).unwrap();
        assert!(gone.segments >= u64::from(PARTITIONS), "{gone:?}");
    }

    /// Starts the live run: small epochs, frequent checkpoints.
    pub(crate) fn start(&self, options: &[&str]) -> Running {
        let from = self.log.address();
        let places = ["run", self.pipeline, "--from", &from, "--out", self.out.to_str().unwrap(), "--json"];
        let pace = ["--epoch-every", "30ms", "--checkpoint-every", "200ms", "--supervise"];
        self.binary.start(&[&places[..], &pace, options].concat())
    }

    /// Waits until the live run has committed everything that is stored.
    #[track_caller]
    pub(crate) fn catch_up(&self, running: &mut Running) {
        let stored = self.log.records();
        wait_until(&format!("{stored} events are committed"), || {
            running.assert_alive("it reads a log that never ends");
            committed(&self.out) == stored
        });
    }

    /// A live run over these lines, which come piece by piece; `disturb` is called after each. Gives its `--json` line.
    #[track_caller]
    pub(crate) fn live(&self, bytes: &[u8], options: &[&str], mut disturb: impl FnMut(usize, &Running)) -> Value {
        let lines = corpus::lines(bytes);
        let pieces: Vec<_> = lines.chunks(lines.len().div_ceil(12)).collect();
        self.store(pieces[0]);
        let mut running = self.start(options);
        for (at, piece) in pieces.iter().enumerate().skip(1) {
            self.catch_up(&mut running);
            disturb(at, &running);
            self.store(piece);
        }
        self.catch_up(&mut running);
        stop(running).json()
    }
}

/// Runs `tidemill diff`.
pub(crate) fn diff(first: &Path, second: &Path) -> Outcome {
    tidemill().command(&["diff", first.to_str().unwrap(), second.to_str().unwrap()])
}

/// Checks that two places have the same tables: as the command says, and as the rows are.
#[track_caller]
pub(crate) fn assert_same(first: &Path, second: &Path, context: &str) {
    let said = diff(first, second);
    let lines = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(said.code, Some(0), "{context}: {lines}{}", said.stderr);
    let tables = ["page_views_by_minute", "errors_by_version_by_minute", "revenue_by_minute", "sessions", "raw_events"];
    for table in tables.into_iter().chain(["unverified_events"]) {
        let equal = lines.lines().any(|line| line.starts_with(&format!("{table}: equal, ")));
        assert!(equal, "{context}: {table} was not compared: {lines}");
    }
    tidemill().tables(first).assert_equal(&tidemill().tables(second), context);
    assert_eq!(tidemill().unverified(first), tidemill().unverified(second), "{context}: unverified events");
}
