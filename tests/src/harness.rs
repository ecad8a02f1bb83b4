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
    environment: BTreeMap<String, String>,
}

/// A `tidemill run web_analytics` to be started, more than once if need be.
#[derive(Clone, Debug)]
pub struct Run {
    pipeline: &'static str,
    binary: PathBuf,
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
    status: Option<ExitStatus>,
    outputs: TempDir,
}

impl Tidemill {
    /// The binary at a path.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>) -> Tidemill {
        Tidemill { binary: binary.into(), environment: BTreeMap::new() }
    }

    /// The binary that `TIDEMILL_BINARY` names, or the one beside the program that asks.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn to_be_measured() -> Tidemill {
        let beside = || {
            let own = std::env::current_exe().expect("a running program has a path");
            own.with_file_name("tidemill-under-test")
        };
        let binary = std::env::var_os("TIDEMILL_BINARY").map_or_else(beside, PathBuf::from);
        assert!(binary.is_file(), "{} is missing; build it, or name another in TIDEMILL_BINARY", binary.display());
        Tidemill::new(binary)
    }

    /// The same binary, every call with these environment variables.
    #[must_use]
    pub fn with_environment(self, environment: BTreeMap<String, String>) -> Tidemill {
        Tidemill { environment, ..self }
    }

    /// Where the binary is.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// A run of the job over `inputs` to `out`, with `--json`.
    #[must_use]
    pub fn job(&self, inputs: &[PathBuf], out: &Path) -> Run {
        let files = inputs.iter().map(|input| input.as_os_str().to_owned());
        let options = ["--input".into()].into_iter().chain(files).chain(["--out".into(), out.into(), "--json".into()]);
        self.run(out, options.collect())
    }

    /// A run of the job over topics to any places, with `--json`; `state` is a folder or `s3://BUCKET/PREFIX`.
    #[must_use]
    pub fn stream(&self, from: &str, to: &[String], state: &str) -> Run {
        let places = to.iter().flat_map(|place| ["--to".into(), place.into()]);
        let options = ["--from".into(), from.into()].into_iter().chain(places);
        self.run(Path::new(state), options.chain(["--state".into(), state.into(), "--json".into()]).collect())
    }

    fn run(&self, out: &Path, options: Vec<OsString>) -> Run {
        Run {
            binary: self.binary.clone(),
            pipeline: "web_analytics",
            out: out.to_owned(),
            options,
            environment: self.environment.clone(),
        }
    }

    /// Starts the command with these arguments.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Running {
        let mut command = Command::new(&self.binary);
        command.args(arguments).envs(&self.environment);
        Running::start(command)
    }

    /// Runs the command with these arguments to its end.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Outcome {
        self.start(arguments).wait()
    }

    /// The answer to a query as lines of JSON, or how it failed.
    ///
    /// # Errors
    /// The whole outcome of a query that did not exit with 0.
    pub fn try_query(&self, data: &Path, sql: &str) -> Result<Vec<u8>, Outcome> {
        let mut command = Command::new(&self.binary);
        command.arg("query").arg("--data").arg(data).arg(sql).args(["--format", "ndjson"]).envs(&self.environment);
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
    /// The folder that the run writes to, or keeps its state in.
    #[must_use]
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The same run of another pipeline.
    #[must_use]
    pub fn pipeline(&self, pipeline: &'static str) -> Run {
        Run { pipeline, ..self.clone() }
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
        command.args(["run", self.pipeline]).args(&self.options).envs(&self.environment);
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
        Running { pid, ended, status: None, outputs }
    }

    /// Waits for the end of the child.
    ///
    /// # Panics
    /// When it does not end within ten minutes; it is killed then.
    #[must_use]
    pub fn wait(mut self) -> Outcome {
        match self.look(LIMIT) {
            Some(status) => self.outcome(status),
            None => {
                self.signal("KILL");
                panic!("the child hung; it had said: {}", self.said());
            }
        }
    }

    /// Kills the child after `delay`; gives its outcome instead if it ended before.
    #[must_use]
    pub fn kill_after(mut self, delay: Duration) -> Option<Outcome> {
        if self.look(delay).is_none() {
            self.signal("KILL");
        }
        let status = self.look(LIMIT).expect("a killed child ends");
        // It may have ended by itself just before the signal.
        status.code().map(|_| self.outcome(status))
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
            if self.look(LOOK).is_some() {
                return false;
            }
        }
        self.signal("KILL");
        panic!("nothing happened; the child had said: {}", self.said());
    }

    /// Checks that the child runs.
    ///
    /// # Panics
    /// When it has ended, with what it said.
    #[track_caller]
    pub fn assert_alive(&mut self, context: &str) {
        if let Some(status) = self.look(Duration::ZERO) {
            panic!("{context}: the child has ended with {status}: {}", self.said());
        }
    }

    /// Its status, if it ends within this time.
    fn look(&mut self, at_most: Duration) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = match self.ended.recv_timeout(at_most) {
                Ok(status) => Some(status),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => panic!("the waiting thread ended without a status"),
            };
        }
        self.status
    }

    /// Its number among the processes of this machine.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its resident memory in bytes now; 0 when it is gone.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        resident_bytes(self.pid)
    }

    /// Sends a signal by name (`STOP`, `CONT`, `TERM`, `INT`, `KILL`).
    ///
    /// # Panics
    /// When there is no shell.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {} 2>/dev/null", self.pid)]).status();
        sent.expect("a shell to send signals with");
    }

    /// What it has said on standard error so far.
    #[must_use]
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.read("stderr")).into_owned()
    }

    fn outcome(&self, status: ExitStatus) -> Outcome {
        Outcome { code: status.code(), stdout: self.read("stdout"), stderr: self.said() }
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.outputs.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Running {
    /// A child that a failed test leaves behind would write on.
    fn drop(&mut self) {
        if self.look(Duration::ZERO).is_none() {
            self.signal("KILL");
        }
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
