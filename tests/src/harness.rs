//! The command under test as a child process: run to the end, kill, stop, continue, and query.
//!
//! Waiting is always for a condition with a generous limit, so that a hang becomes a failure with the child's own
//! words, and nothing depends on how fast the machine is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::oracle::Oracle;
use crate::rows::{self, Progress, RawEvent, Tables};

/// After this long a child that should have ended is reported as hanging.
const LIMIT: Duration = Duration::from_secs(600);
/// How often a condition outside the child is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// The binary under test.
#[derive(Clone, Debug)]
pub struct Tidemill {
    binary: PathBuf,
}

/// A `tidemill run web_analytics` to be started, more than once if need be.
#[derive(Clone, Debug)]
pub struct Run {
    binary: PathBuf,
    inputs: Vec<PathBuf>,
    out: PathBuf,
    options: Vec<OsString>,
    environment: BTreeMap<String, String>,
}

/// How a child ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Everything on standard output.
    pub stdout: Vec<u8>,
    /// Everything on standard error.
    pub stderr: String,
}

/// A child that runs.
pub struct Running {
    pid: u32,
    ended: Receiver<ExitStatus>,
    outputs: TempDir,
}

impl Tidemill {
    /// The binary at a path.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>) -> Tidemill {
        Tidemill { binary: binary.into() }
    }

    /// Where the binary is.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A run of the job over `inputs` to `out`, with `--json`.
    #[must_use]
    pub fn job(&self, inputs: &[PathBuf], out: &Path) -> Run {
        Run {
            binary: self.binary.clone(),
            inputs: inputs.to_vec(),
            out: out.to_owned(),
            options: vec!["--json".into()],
            environment: BTreeMap::new(),
        }
    }

    /// Runs the command with these arguments to its end.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        Running::start(command).wait()
    }

    /// The answer to a query as lines of JSON, or how it failed.
    ///
    /// # Errors
    /// The whole outcome of a query that did not exit with 0.
    pub fn try_query(&self, data: &Path, sql: &str) -> Result<Vec<u8>, Outcome> {
        let mut command = Command::new(&self.binary);
        command.arg("query").arg("--data").arg(data).arg(sql).args(["--format", "ndjson"]);
        let outcome = Running::start(command).wait();
        if outcome.code == Some(0) { Ok(outcome.stdout) } else { Err(outcome) }
    }

    /// The answer to a query as lines of JSON.
    ///
    /// # Panics
    /// When the query fails, with what it said.
    #[must_use]
    #[track_caller]
    pub fn query(&self, data: &Path, sql: &str) -> Vec<u8> {
        self.try_query(data, sql).unwrap_or_else(|failed| panic!("{sql}: exit {:?}: {}", failed.code, failed.stderr))
    }

    /// All tables.
    #[must_use]
    #[track_caller]
    pub fn tables(&self, data: &Path) -> Tables {
        Tables::read(|sql| self.query(data, sql))
    }

    /// The rows of `unverified_events`.
    #[must_use]
    #[track_caller]
    pub fn unverified(&self, data: &Path) -> Vec<RawEvent> {
        rows::sorted(&self.query(data, &format!("SELECT {} FROM unverified_events", rows::RAW_COLUMNS)))
    }

    /// How many lines of each input the visible commit contains; 0 for an input that it does not name.
    ///
    /// # Panics
    /// When `progress` names a file that is none of the inputs.
    #[must_use]
    #[track_caller]
    pub fn progress(&self, data: &Path, inputs: &[PathBuf]) -> Vec<u64> {
        let found: Vec<Progress> =
            rows::sorted(&self.query(data, "SELECT epoch, complete_through, file, lines FROM progress"));
        let mut lines = vec![0; inputs.len()];
        for row in found {
            let name = Path::new(&row.file).file_name();
            let input = inputs.iter().position(|input| input.file_name() == name);
            let input = input.unwrap_or_else(|| panic!("progress names {}, which is no input", row.file));
            lines[input] = u64::try_from(row.lines).expect("a number of lines").max(lines[input]);
        }
        lines
    }

    /// Checks that the visible commit is the oracle's answer over the prefix that `progress` names; gives the prefix.
    ///
    /// # Panics
    /// When it is not, with the first differences.
    #[track_caller]
    pub fn check_visible_prefix(&self, data: &Path, inputs: &[PathBuf], oracle: &Oracle, context: &str) -> Vec<u64> {
        let prefix = self.progress(data, inputs);
        // With several files an epoch may hold a copy from a later file before its original from an earlier one.
        let expected = oracle.answer_of_prefix(&prefix).0.without_server_times();
        let found = self.tables(data).without_server_times();
        expected.assert_equal(&found, &format!("{context}, over the first {prefix:?} lines"));
        assert_eq!(self.progress(data, inputs), prefix, "{context}: progress moved though nothing runs");
        prefix
    }
}

impl Run {
    /// The folder that the run writes to.
    #[must_use]
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The same run with this many workers.
    #[must_use]
    pub fn workers(&self, workers: usize) -> Run {
        self.option(&["--workers", &workers.to_string()])
    }

    /// The same run with more options.
    #[must_use]
    pub fn option(&self, arguments: &[&str]) -> Run {
        let mut run = self.clone();
        run.options.extend(arguments.iter().map(OsString::from));
        run
    }

    /// The same run with small epochs and frequent checkpoints: much protocol for little input.
    #[must_use]
    pub fn eager(&self) -> Run {
        self.option(&["--epoch-bytes", "1048576", "--checkpoint-every", "100ms"])
    }

    /// The same run with an environment variable.
    #[must_use]
    pub fn environment(&self, name: &str, value: &str) -> Run {
        let mut run = self.clone();
        run.environment.insert(name.to_owned(), value.to_owned());
        run
    }

    /// Starts the child.
    ///
    /// # Panics
    /// When the binary cannot be started.
    #[must_use]
    pub fn start(&self) -> Running {
        let mut command = Command::new(&self.binary);
        command.args(["run", "web_analytics", "--input"]).args(&self.inputs).arg("--out").arg(&self.out);
        command.args(&self.options).envs(&self.environment);
        Running::start(command)
    }

    /// Runs the child to its end, whatever that is.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.start().wait()
    }

    /// Runs the child to its end and gives its `--json` object.
    ///
    /// # Panics
    /// When it does not exit with 0 and the status `finished`.
    #[track_caller]
    pub fn finish(&self) -> Value {
        let outcome = self.outcome();
        assert_eq!(outcome.code, Some(0), "{self:?}: {}", outcome.stderr);
        let line = outcome.json();
        assert_eq!(line["status"], "finished", "{line}");
        line
    }
}

impl Outcome {
    /// The object of `--json`.
    ///
    /// # Panics
    /// When standard output is not one line of one JSON object.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.stdout);
        assert_eq!(text.lines().count(), 1, "stdout is one line: {text:?}, stderr {}", self.stderr);
        let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert!(value.is_object(), "{value}");
        value
    }

    /// Checks that the exit code is one of `codes` and that standard error has a sentence that holds all of `words`.
    ///
    /// # Panics
    /// When either is not so.
    #[track_caller]
    pub fn assert_refused(&self, codes: &[i32], words: &[&str]) {
        assert!(self.code.is_some_and(|code| codes.contains(&code)), "exit {:?}: {}", self.code, self.stderr);
        assert!(!self.stderr.trim().is_empty(), "exit {:?} without a word", self.code);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
    }
}

impl Running {
    fn start(mut command: Command) -> Running {
        let outputs = TempDir::new().expect("a temporary folder for the child's output");
        let open = |name: &str| File::create(outputs.path().join(name)).expect("a file for the child's output");
        command.stdin(Stdio::null()).stdout(open("stdout")).stderr(open("stderr"));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let pid = child.id();
        let (sender, ended) = channel();
        thread::spawn(move || {
            let status = child.wait().expect("the child is ours to wait for");
            // Nobody listens any more where the test has failed already.
            sender.send(status).ok();
        });
        Running { pid, ended, outputs }
    }

    /// Waits for the end of the child.
    ///
    /// # Panics
    /// When it does not end within ten minutes; it is killed then.
    #[must_use]
    pub fn wait(self) -> Outcome {
        match self.ended.recv_timeout(LIMIT) {
            Ok(status) => self.outcome(status),
            Err(_) => {
                self.signal("KILL");
                panic!("the child hung; it had said: {}", self.said("stderr"));
            }
        }
    }

    /// Kills the child after `delay`; gives its outcome instead if it ended before.
    #[must_use]
    pub fn kill_after(self, delay: Duration) -> Option<Outcome> {
        match self.ended.recv_timeout(delay) {
            Ok(status) => Some(self.outcome(status)),
            Err(_) => {
                self.signal("KILL");
                let status = self.ended.recv_timeout(LIMIT).expect("a killed child ends");
                // It may have ended by itself just before the signal.
                status.code().map(|_| self.outcome(status))
            }
        }
    }

    /// Waits until `condition` holds; false if the child ended first.
    ///
    /// # Panics
    /// When neither happens within ten minutes.
    pub fn until(&mut self, mut condition: impl FnMut(u32) -> bool) -> bool {
        for _ in 0..LIMIT.as_millis() / LOOK.as_millis() {
            if condition(self.pid) {
                return true;
            }
            match self.ended.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(status) => {
                    // Put back for `wait`.
                    let (sender, ended) = channel();
                    sender.send(status).expect("the receiver is at hand");
                    self.ended = ended;
                    return false;
                }
                Err(RecvTimeoutError::Disconnected) => panic!("the waiting thread ended without a status"),
            }
        }
        self.signal("KILL");
        panic!("nothing happened; the child had said: {}", self.said("stderr"));
    }

    /// Sends a signal by name (`STOP`, `CONT`, `TERM`, `INT`, `KILL`).
    ///
    /// # Panics
    /// When there is no shell.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {} 2>/dev/null", self.pid)]).status();
        sent.expect("a shell to send signals with");
    }

    fn outcome(&self, status: ExitStatus) -> Outcome {
        let stdout = fs::read(self.outputs.path().join("stdout")).unwrap_or_default();
        Outcome { code: status.code(), stdout, stderr: self.said("stderr") }
    }

    fn said(&self, name: &str) -> String {
        let bytes = fs::read(self.outputs.path().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Every file under a folder, by path relative to it.
#[must_use]
pub fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        // A folder may go while it is looked at; what is gone is not counted.
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).expect("it was found there").to_owned());
            }
        }
    }
    found.sort_unstable();
    found
}

/// Copies a folder with everything in it.
///
/// # Panics
/// When something cannot be copied.
pub fn copy_folder(from: &Path, to: &Path) {
    for file in files_under(from) {
        let target = to.join(&file);
        let parent = target.parent().expect("a file has a folder");
        fs::create_dir_all(parent)
            .and_then(|()| fs::copy(from.join(&file), &target))
            .expect("a copy of a small folder");
    }
}

/// Resident memory of a process in bytes, as the kernel counts it now; 0 when it is gone.
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1_024
}
