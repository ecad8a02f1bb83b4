//! The worker's side: answers one statement after the other, on one thread, within its memory.

use std::io::{self, BufRead, Write};
use std::sync::Arc;
use std::sync::mpsc;

use tidemill_log::{Location, with_causes};
use tidemill_tables::TableSpec;

use super::messages::{Ask, Said};
use crate::api::{Snapshot, answer_statement};
use crate::error::QueryError;
use crate::session::Tables;

/// The stack of the thread that plans: what is within the limits of a statement never needs it.
const STACK_BYTES: usize = 64 << 20;
/// Threads that read files.
const READERS: usize = 4;

/// What a worker is given.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Where the tables are.
    pub place: Location,
    /// The tables that SQL may ask.
    pub tables: Vec<TableSpec>,
    /// Bytes that a statement may take; the process ends where it takes more.
    pub memory: usize,
}

/// Answers what is asked on stdin, on stdout, until stdin ends: the body of a worker's process.
///
/// # Errors
/// When there is no thread, or stdout is gone.
pub fn work(options: WorkerOptions) -> io::Result<()> {
    let worker = std::thread::Builder::new().name("statement".to_owned()).stack_size(STACK_BYTES);
    let worked = worker.spawn(move || answer_all(&options))?.join();
    worked.unwrap_or_else(|_| Err(io::Error::other("a statement panicked")))
}

fn answer_all(options: &WorkerOptions) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(READERS).enable_all().build()?;
    let tables = match tables(options) {
        Ok(tables) => tables,
        Err(reason) => return say(&Said::Unfit { reason }, b""),
    };
    let asked = questions()?;
    limit_memory(options.memory);
    say(&Said::Ready, b"")?;
    let mut snapshot: Option<Arc<Snapshot>> = None;
    while let Ok(Ask { visible, statement, rows, csv }) = asked.recv() {
        if let Some(visible) = visible {
            match Snapshot::new(&tables, visible, None) {
                Ok(newer) => snapshot = Some(newer),
                Err(error) => return say(&Said::Unfit { reason: with_causes(&error) }, b""),
            }
        }
        let Some(snapshot) = &snapshot else {
            return say(&Said::Unfit { reason: "the first statement came without tables".to_owned() }, b"");
        };
        let answer = runtime.block_on(async {
            match answer_statement(snapshot, &statement, rows, csv).await {
                Ok(bytes) => (Said::Answer { bytes: bytes.len() }, bytes),
                Err(refusal) => {
                    let said = match refusal.cause() {
                        Some(QueryError::Run(cause))
                            if snapshot.visible.lacks_file(snapshot.tables.store(), cause).await =>
                        {
                            Said::FileGone { message: with_causes(cause) }
                        }
                        _ => Said::Refused { status: refusal.status().as_u16(), message: refusal.to_string() },
                    };
                    (said, Vec::new())
                }
            }
        });
        say(&answer.0, &answer.1)?;
    }
    Ok(())
}

fn tables(options: &WorkerOptions) -> Result<Tables, String> {
    let side = options.place.open_for_reading().map_err(|error| with_causes(&error))?;
    // What is left of the limit is for planning, for functions, and for writing the answer.
    let (kept, running) = (options.memory / 8, options.memory / 4);
    Tables::cached(side.objects, options.tables.clone(), kept, running).map_err(|error| with_causes(&error))
}

/// What comes on stdin. Its end is the end of whoever asks: nobody waits for the statement that is being answered.
fn questions() -> io::Result<mpsc::Receiver<Ask>> {
    let (asks, asked) = mpsc::channel();
    std::thread::Builder::new().name("questions".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            let ask = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            if ask.is_none_or(|ask| asks.send(ask).is_err()) {
                break;
            }
        }
        std::process::exit(0);
    })?;
    Ok(asked)
}

fn say(said: &Said, bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, said)?;
    out.write_all(b"\n")?;
    out.write_all(bytes)?;
    out.flush()
}

/// Lets this process take so many bytes more than it has; the system refuses further ones, which ends it.
#[cfg(target_os = "linux")]
fn limit_memory(bytes: usize) {
    use rustix::process::{Resource, Rlimit, setrlimit};

    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held =
        status.lines().find_map(|line| line.strip_prefix("VmData:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let most = held.unwrap_or(0_u64).saturating_mul(1_024).saturating_add(bytes as u64);
    let limit = Rlimit { current: Some(most), maximum: Some(most) };
    if let Err(error) = setrlimit(Resource::Data, limit) {
        tracing::warn!("the memory of statements is not limited: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
fn limit_memory(_bytes: usize) {}
