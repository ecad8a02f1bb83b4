//! The server's side: as many workers as may run at once, each started when it is needed and given up when it fails.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tempfile::TempDir;
use tidemill_http::Share;
use tidemill_tables::TableSpec;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;

use super::messages::{Ask, Said};
use crate::api::{Refusal, Snapshot, Unread};

/// Bytes of a line that a worker says.
const MOST_SAID: u64 = 1 << 20;

/// What is said of a statement at which the engine panicked.
const BEYOND: &str =
    "the statement ended its process: it asks for more than a value or the engine can hold; ask for less";

/// How SQL is answered.
#[derive(Clone, Debug)]
pub enum SqlOptions {
    /// Not at all; the sentence says why, and how to have it.
    Off(String),
    /// In this process: for whoever trusts all who ask.
    InProcess,
    /// In processes of their own.
    Workers {
        /// The program that a worker is.
        program: Program,
        /// How many answer at once.
        at_once: usize,
        /// Bytes that each may take.
        memory: usize,
    },
}

/// A program whose body is [`work`](super::work).
#[derive(Clone, Debug)]
pub struct Program {
    /// The file.
    pub file: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// The workers of a server.
pub(crate) struct Workers {
    program: Program,
    memory: usize,
    at_once: usize,
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<Worker>>,
}

/// An answer, with its share of the memory for answers.
pub(crate) struct Bytes {
    pub(crate) bytes: Vec<u8>,
    pub(crate) held: Share,
}

impl Workers {
    /// No worker yet.
    pub(crate) fn new(program: Program, at_once: usize, memory: usize) -> Workers {
        let slots = Arc::new(Semaphore::new(at_once));
        Workers { program, memory, at_once, slots, idle: Mutex::default() }
    }

    /// How many are answering, of how many.
    pub(crate) fn busy(&self) -> (usize, usize) {
        (self.at_once - self.slots.available_permits(), self.at_once)
    }

    /// Answers a statement on a commit, with so many rows at most, for a client. Whoever stops waiting ends the worker, too.
    ///
    /// # Errors
    /// What the statement is refused for, or what became of its worker.
    pub(crate) async fn answer(
        &self,
        snapshot: &Arc<Snapshot>,
        (statement, rows, csv): (&str, usize, bool),
        (unread, whose): (&Unread, u128),
    ) -> Result<Bytes, Refusal> {
        let _slot = self.slots.acquire().await.expect("the semaphore is never closed");
        // What a worker remembers of files is good for the tables of one log.
        let tables = snapshot.tables.identity();
        let kept = {
            let mut idle = self.idle();
            idle.retain(|worker| worker.tables.upgrade().is_some_and(|of| Arc::ptr_eq(&of, tables)));
            idle.pop()
        };
        let mut worker = match kept {
            Some(worker) => worker,
            None => Worker::start(&self.program, Arc::downgrade(tables)).await?,
        };
        let knows = worker.knows.upgrade().is_some_and(|known| Arc::ptr_eq(&known, snapshot));
        let visible = (!knows).then(|| snapshot.visible.clone());
        worker.knows = Arc::downgrade(snapshot);
        let ask = Ask { visible, statement: statement.to_owned(), rows, csv };
        let answered = match worker.ask(&ask).await {
            Ok(Said::Answer { bytes }) => worker.read(bytes, unread.hold(bytes, whose)).await,
            Ok(Said::Refused { status, message }) => Ok(Err(Refusal::OfWorker { status, message })),
            Ok(Said::FileGone { message }) => Ok(Err(Refusal::FileGone(message))),
            Ok(Said::Unfit { reason }) => return Err(Refusal::Unfinished(reason)),
            Ok(Said::Ready) => return Err(Refusal::Unfinished("a worker said what it was not asked".to_owned())),
            Err(error) => Err(error),
        };
        match answered {
            Ok(answer) => {
                self.idle().push(worker);
                answer
            }
            Err(error) => Err(worker.ended(&error, self.memory).await),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Worker>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running worker; dropping it kills it.
struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// The snapshot that it was told of last.
    knows: Weak<Snapshot>,
    tables: Weak<[TableSpec]>,
    /// Where it spills; deleted after it, however it ends.
    _spill: TempDir,
}

impl Worker {
    async fn start(program: &Program, tables: Weak<[TableSpec]>) -> Result<Worker, Refusal> {
        let unfit = |reason: String| Refusal::Unfinished(format!("no process for SQL can be started: {reason}"));
        let spill = TempDir::with_prefix("tidemill-sql-").map_err(|error| unfit(error.to_string()))?;
        let started = Command::new(&program.file)
            .args(&program.arguments)
            .env("TMPDIR", spill.path())
            // So that its allocator takes what it needs and no more: the limit counts what is taken.
            .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
            .env("MIMALLOC_ARENA_RESERVE", "64MiB")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C is for the server, which waits for answers that are under way.
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = started.map_err(|error| unfit(error.to_string()))?;
        let stdin = child.stdin.take().expect("stdin is a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut worker = Worker { child, stdin, stdout, knows: Weak::new(), tables, _spill: spill };
        match worker.listen().await {
            Ok(Said::Ready) => Ok(worker),
            Ok(Said::Unfit { reason }) => Err(unfit(reason)),
            Ok(_) => Err(unfit("it answers before it is asked".to_owned())),
            Err(error) => Err(unfit(error.to_string())),
        }
    }

    async fn ask(&mut self, ask: &Ask) -> io::Result<Said> {
        let mut line = serde_json::to_vec(ask)?;
        line.push(b'\n');
        self.stdin.write_all(&line).await?;
        self.listen().await
    }

    /// An answer, if there is room for it.
    async fn read(&mut self, bytes: usize, room: Result<Share, Refusal>) -> io::Result<Result<Bytes, Refusal>> {
        let mut answer = vec![0; bytes];
        self.stdout.read_exact(&mut answer).await?;
        // What has no room was read all the same, since the next answer comes after it.
        Ok(room.map(|held| Bytes { bytes: answer, held }))
    }

    async fn listen(&mut self) -> io::Result<Said> {
        let mut line = Vec::new();
        let read = (&mut self.stdout).take(MOST_SAID).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }

    /// Why it does not answer any more.
    async fn ended(mut self, error: &io::Error, memory: usize) -> Refusal {
        // It may still run where it said something that is not understood.
        let _ = self.child.start_kill();
        match self.child.wait().await {
            Ok(status) if status.signal().is_some() => Refusal::TooCostly(memory >> 20),
            // Some functions panic at values that are larger than their type holds.
            Ok(status) if !status.success() => Refusal::OfWorker { status: 400, message: BEYOND.to_owned() },
            Ok(status) => Refusal::Unfinished(format!("the process of the statement ended with {status}: {error}")),
            Err(gone) => Refusal::Unfinished(gone.to_string()),
        }
    }
}
