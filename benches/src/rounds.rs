//! The contestants and the interleaved rounds: each runs once a round, in a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file or a child process failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A contestant did not do its work.
    #[error("{name} failed ({status}); run it by hand to see why: {command}")]
    Failed {
        /// Which one.
        name: String,
        /// Its exit status.
        status: String,
        /// Its command line.
        command: String,
    },
    /// Two contestants disagree, so their speeds mean nothing.
    #[error("{name} has {found} for {what}, the loop has {expected}; speeds of different answers are not compared")]
    Disagree {
        /// Which one.
        name: String,
        /// Which number.
        what: String,
        /// Its value.
        found: u64,
        /// The loop's value.
        expected: u64,
    },
    /// An option that is not understood.
    #[error("{0}")]
    Usage(String),
}

/// One way to compute the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contestant {
    /// Its row in the report.
    pub name: String,
    /// Arguments behind the command; none for the loop.
    pub options: Vec<String>,
    /// Whether it is the hand-written loop.
    pub is_loop: bool,
}

/// What one run of a contestant measured.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Seconds from start to end of the work.
    pub seconds: f64,
    /// Seconds of processor time.
    pub cpu_seconds: f64,
    /// Largest resident memory in bytes.
    pub peak_memory_bytes: f64,
    /// Bytes on disk when it was done.
    pub disk_bytes: u64,
    /// The whole `--json` line.
    pub line: Value,
}

/// The loop, then the job at 1 and 2 workers, with exactly-once on and off, without and with the raw archive.
#[must_use]
pub fn contestants() -> Vec<Contestant> {
    let hand_loop = Contestant { name: "hand-written loop".into(), options: Vec::new(), is_loop: true };
    let mut all = vec![hand_loop];
    for archive in [false, true] {
        for workers in [1, 2] {
            for exactly_once in ["on", "off"] {
                let mut options = vec!["--workers".into(), workers.to_string()];
                options.extend(["--exactly-once".into(), exactly_once.into()]);
                if !archive {
                    options.extend(["--disable-sink".into(), "raw_events".into()]);
                }
                let raw = if archive { "with archive" } else { "without archive" };
                let name = format!(
                    "{workers} worker{}, exactly-once {exactly_once}, {raw}",
                    if workers == 1 { "" } else { "s" }
                );
                all.push(Contestant { name, options, is_loop: false });
            }
        }
    }
    let every_second = ["--workers", "2", "--checkpoint-every", "1s", "--disable-sink", "raw_events"];
    all.push(Contestant {
        name: "2 workers, a checkpoint every second, without archive".into(),
        options: every_second.map(String::from).to_vec(),
        is_loop: false,
    });
    all
}

/// Where things are.
#[derive(Clone, Debug)]
pub struct Places {
    /// This program, which is also the loop.
    pub bench: PathBuf,
    /// The command.
    pub tidemill: PathBuf,
    /// The input.
    pub input: PathBuf,
    /// A folder for the tables, emptied after every run.
    pub scratch: PathBuf,
}

/// Runs a contestant once, in an empty folder.
///
/// # Errors
/// When it cannot be started, fails, or prints no result.
pub fn run(contestant: &Contestant, places: &Places) -> Result<Measured, BenchError> {
    let out = places.scratch.join("out");
    if out.exists() {
        fs::remove_dir_all(&out)
            .map_err(|source| BenchError::Io { what: format!("emptying {}", out.display()), source })?;
    }
    let mut command = Command::new(if contestant.is_loop { &places.bench } else { &places.tidemill });
    if contestant.is_loop {
        command.arg("loop").arg(&places.input);
    } else {
        command.args(["run", "web_analytics", "--input"]).arg(&places.input).arg("--out").arg(&out).arg("--json");
        command.args(&contestant.options);
    }
    let failed =
        |status: String| BenchError::Failed { name: contestant.name.clone(), status, command: format!("{command:?}") };
    let mut child = Command::new(command.get_program());
    child.args(command.get_args()).stdin(Stdio::null()).stderr(Stdio::null());
    let done =
        child.output().map_err(|source| BenchError::Io { what: format!("starting {}", contestant.name), source })?;
    if !done.status.success() {
        return Err(failed(done.status.to_string()));
    }
    let line: Value =
        serde_json::from_slice(&done.stdout).map_err(|_| failed("no JSON on its standard output".into()))?;
    let number = |name: &str| line[name].as_f64().unwrap_or(f64::NAN);
    let measured = Measured {
        seconds: number("seconds"),
        cpu_seconds: number("cpu_seconds"),
        peak_memory_bytes: number("peak_memory_bytes"),
        disk_bytes: bytes_under(&out),
        line: line.clone(),
    };
    Ok(measured)
}

/// Checks that a contestant found what the loop found.
///
/// # Errors
/// [`BenchError::Disagree`] with the first number that differs.
pub fn check(contestant: &Contestant, measured: &Measured, hand_loop: &Measured) -> Result<(), BenchError> {
    let names = ["events_read", "accepted", "malformed", "duplicates"].map(|name| (name, name.to_owned()));
    let tables = ["page_views_by_minute", "errors_by_version_by_minute", "revenue_by_minute", "sessions"];
    let tables = tables.map(|name| (name, format!("/rows/{name}")));
    for (name, place) in names.into_iter().chain(tables) {
        let found = if place.starts_with('/') { measured.line.pointer(&place) } else { measured.line.get(&place) };
        let (found, expected) = (found.and_then(Value::as_u64), hand_loop.line[name].as_u64());
        if found != expected {
            return Err(BenchError::Disagree {
                name: contestant.name.clone(),
                what: name.to_owned(),
                found: found.unwrap_or(0),
                expected: expected.unwrap_or(0),
            });
        }
    }
    Ok(())
}

fn bytes_under(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => bytes_under(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
