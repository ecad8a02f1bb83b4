//! The test kit: whole pipelines in the test's own process, and what goes wrong with them staged and repeatable.
//!
//! | what | by |
//! |---|---|
//! | input: typed records in partitions and steps, with event times | [`Script`] |
//! | tables that remember what was written | [`Ends::sums`], [`Ends::union`], [`Ends::latest`] |
//! | crashes, restarts, other numbers of workers and processes, other orders, from one seed | [`Simulation`] |
//! | the same tables as over everything at once | [`Simulation::agrees_with_a_batch`] |
//! | the same rows in each epoch as on one worker that never crashed | [`Simulation::repeats_itself`] |
//! | silent partitions, epochs cut by the clock | [`Simulation::live`] |
//! | the end of time | [`Simulation::drained`] |
//! | what a run wrote and counted, to be looked at | [`Simulation::run`], [`Simulation::batch`], [`Outcome`] |
//!
//! What fails prints the line that repeats it: `TIDEMILL_SEED=3 cargo test name`.
//!
//! Below that are its parts, for tests that stage something else: [`Lines`] as a source of raw lines (also such that do not
//! parse), [`text`] tables in a [`memory`] store, one run by [`attempt`] or as processes by [`attempt_processes`], and a
//! store that is [`dying_at`] a step.
//!
//! ```
//! use tidemill_dataflow::flow::Flow;
//! use tidemill_dataflow::testing::{Lines, attempt, by_epoch, memory, text};
//! use tidemill_dataflow::time::EventTime;
//! use tidemill_dataflow::watermark::Watermarks;
//!
//! let lines = Lines::new(["1 a\n2 b\n"], |line| line.split_once(' ').map(|(time, _)| time.parse::<i64>().unwrap()));
//! let store = memory();
//! let table = text("times", &store, |time: &i64| time.to_string());
//! let pipeline = move |flow: &Flow<'_>| {
//!     let rule = Watermarks::out_of_order(std::time::Duration::ZERO);
//!     let times = flow.source("lines", lines.clone()).event_time(|time| EventTime(*time), |_| None, rule);
//!     times.sink("times", table());
//! };
//! attempt(&pipeline, &store, 2).unwrap();
//! assert_eq!(by_epoch(&store, "times")[&1], ["1", "2"]);
//! ```

mod capture;
mod draw;
mod script;
mod simulation;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
pub use tidemill_log::Store;
use tidemill_log::testing::{MemoryStore, Moment, Operation, Reaction, ScriptedStore};
use tidemill_log::{DataFile, PartitionBinding, StoreErrorKind, reader};

use crate::batch::Batch;
use crate::cluster::{ClusterOptions, Place, Token, listen};
use crate::runtime::{Build, RunContext, RunError, RunOptions, RunReport, StopHandle, follow, run};
use crate::sink::{SinkError, TableSink, TableWriter};
use crate::source::{Block, BlockReader, DeadLetter, Decode, Decoded, PartitionInfo, Position, Source, SourceError};
use crate::time::{Epoch, EventTime};

pub use capture::{Ends, Outcome, Tables};
pub use script::{RecordSource, Script, ScriptSource};
pub use simulation::{SEED, Simulation};

/// Where the log lies in a store.
const LOG: &str = "_tidemill";

/// Partitions of lines, as a source that vouches for its times. Lines begin with their event time in milliseconds, and a space.
#[derive(Debug)]
pub struct Lines<R> {
    pub(crate) partitions: Arc<Vec<Vec<u8>>>,
    parse: fn(&str) -> Option<R>,
}

impl<R> Clone for Lines<R> {
    fn clone(&self) -> Self {
        Lines { partitions: Arc::clone(&self.partitions), parse: self.parse }
    }
}

impl<R> Lines<R> {
    /// These partitions; `parse` makes a record of a line (without its end), or refuses it.
    pub fn new(partitions: impl IntoIterator<Item = impl Into<Vec<u8>>>, parse: fn(&str) -> Option<R>) -> Self {
        Lines { partitions: Arc::new(partitions.into_iter().map(Into::into).collect()), parse }
    }
}

impl<R: Send + Sync + 'static> Source for Lines<R> {
    type Decoder = LineDecoder<R>;

    fn decoder(&self) -> LineDecoder<R> {
        LineDecoder(self.parse)
    }

    fn vouches(&self) -> bool {
        true
    }

    fn open(&self, recorded: &[PartitionBinding]) -> Result<Box<dyn BlockReader>, SourceError> {
        Ok(Box::new(LineReader::open(&self.partitions, recorded)))
    }
}

/// Makes records of lines.
#[derive(Debug)]
pub struct LineDecoder<R>(fn(&str) -> Option<R>);

impl<R> Clone for LineDecoder<R> {
    fn clone(&self) -> Self {
        LineDecoder(self.0)
    }
}

impl<R: Send + Sync + 'static> Decode for LineDecoder<R> {
    type Record = R;

    fn decode(&mut self, block: Block, out: &mut Decoded<R>) {
        let text = String::from_utf8_lossy(&block.bytes);
        for (line, number) in text.lines().zip(block.first_line..) {
            match (self.0)(line) {
                Some(record) => out.records.push(record),
                None => out.malformed.push(DeadLetter {
                    partition: block.partition,
                    line: number,
                    reason: "it does not parse".into(),
                    payload: line.as_bytes().to_vec(),
                    bytes: line.len() as u64,
                }),
            }
        }
    }

    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        let (mut offset, mut first_line) = (block.offset, block.first_line);
        let one = |line: &[u8]| {
            let single = Block { offset, first_line, bytes: line.to_vec(), ..block };
            (offset, first_line) = (offset + line.len() as u64, first_line + 1);
            single
        };
        Ok(block.bytes.split_inclusive(|byte| *byte == b'\n').map(one).collect())
    }

    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        let payload = block.bytes.trim_ascii_end().to_vec();
        let bytes = payload.len() as u64;
        DeadLetter { partition: block.partition, line: block.first_line, reason, payload, bytes }
    }
}

/// Reads partitions of lines from memory, like a folder of files.
pub(crate) struct LineReader {
    partitions: Arc<Vec<Vec<u8>>>,
    at: Vec<(usize, u64)>,
}

impl LineReader {
    pub(crate) fn open(partitions: &Arc<Vec<Vec<u8>>>, recorded: &[PartitionBinding]) -> Self {
        let mut at = vec![(0, 0); partitions.len()];
        for partition in recorded {
            at[partition.partition as usize] = (index(partition.end), partition.lines);
        }
        LineReader { partitions: Arc::clone(partitions), at }
    }
}

impl BlockReader for LineReader {
    fn partitions(&self) -> Vec<PartitionInfo> {
        let info = |(n, content): (usize, &Vec<u8>)| PartitionInfo {
            name: format!("p{n}"),
            size: content.len() as u64,
            detail: serde_json::Value::Null,
        };
        self.partitions.iter().enumerate().map(info).collect()
    }

    fn head(&mut self, partition: u32) -> Result<Option<EventTime>, SourceError> {
        let text = String::from_utf8_lossy(&self.partitions[partition as usize]);
        Ok(text.lines().next().and_then(|line| line.split(' ').next()?.parse().ok()).map(EventTime))
    }

    fn read(&mut self, partition: u32, limit: usize, until: Option<u64>) -> Result<Option<Block>, SourceError> {
        let content = &self.partitions[partition as usize];
        let (start, line) = self.at[partition as usize];
        let end = until.map_or(content.len(), index);
        if start >= end {
            return Ok(None);
        }
        let most = end.min(start + limit);
        let fits = content[start..most].iter().rposition(|b| *b == b'\n').map(|at| start + at + 1);
        let one = || content[start..].iter().position(|b| *b == b'\n').map_or(content.len(), |at| start + at + 1);
        let cut = fits.unwrap_or_else(one);
        let bytes = content[start..cut].to_vec();
        let lines = bytes.iter().filter(|b| **b == b'\n').count() as u64;
        self.at[partition as usize] = (cut, line + lines);
        Ok(Some(Block { partition, offset: start as u64, first_line: line + 1, bytes, skipped: 0 }))
    }

    fn position(&self, partition: u32) -> Position {
        let (offset, lines) = self.at[partition as usize];
        let content = &self.partitions[partition as usize];
        let digest = format!("{:x}", crate::hash::hash64(&content[..offset]));
        Position { offset: offset as u64, lines, digest, finished: offset == content.len(), caught_up: false }
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("the engine runs on machines of 64 bits")
}

/// A store in memory.
#[must_use]
pub fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

/// Fails every operation from `step` on, as a machine does that loses power there.
#[must_use]
pub fn dying_at(inner: &Arc<dyn Store>, step: u64) -> Arc<dyn Store> {
    let script = move |operation: &Operation, moment| match moment {
        Moment::Before if operation.step >= step => Reaction::Fail(StoreErrorKind::Fatal),
        _ => Reaction::Proceed,
    };
    Arc::new(ScriptedStore::new(Arc::clone(inner), script))
}

/// A table of text lines: what makes its sink, each time that a pipeline is built.
pub fn text<D: 'static, F: Fn(&D) -> String + Send + Sync + Clone + 'static>(
    table: &'static str,
    store: &Arc<dyn Store>,
    line: F,
) -> impl Fn() -> TableSink<D> + Send + Sync + Clone + use<D, F> {
    let store = Arc::clone(store);
    move || {
        let (line, store) = (line.clone(), Arc::clone(&store));
        let encode = move |batch: &Batch<D>| {
            let mut lines = Vec::with_capacity(batch.len());
            batch.for_each(|record| lines.push(line(record)));
            let schema = Schema::new(vec![Field::new("line", DataType::Utf8, false)]);
            Ok(RecordBatch::try_new(Arc::new(schema), vec![Arc::new(StringArray::from(lines))])?)
        };
        let writer = move || Box::new(TextFiles { table, store: Arc::clone(&store) }) as Box<dyn TableWriter>;
        TableSink { table: table.into(), encode: Arc::new(encode), writer: Arc::new(writer) }
    }
}

struct TextFiles {
    table: &'static str,
    store: Arc<dyn Store>,
}

impl TableWriter for TextFiles {
    fn write_epoch(&mut self, epoch: Epoch, shard: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        let mut lines = Vec::new();
        for column in rows.iter().filter_map(|batch| batch.column(0).as_any().downcast_ref::<StringArray>()) {
            lines.extend((0..column.len()).map(|row| column.value(row).to_owned()));
        }
        lines.sort();
        if lines.is_empty() {
            return Ok(Vec::new());
        }
        let (path, text) = (format!("tables/{}/{epoch:06}-{shard}", self.table), lines.join("\n"));
        self.store.put(&path, text.as_bytes())?;
        Ok(vec![DataFile { path, rows: lines.len() as u64, bytes: text.len() as u64 }])
    }
}

/// The sorted lines of a text table that readers of the last commit see, by epoch; epochs without lines are not there.
///
/// # Panics
/// If the store does not hold what its log says.
#[must_use]
pub fn by_epoch(store: &Arc<dyn Store>, table: &str) -> BTreeMap<Epoch, Vec<String>> {
    let state = reader::read(Arc::clone(store), LOG).expect("the log is readable");
    let files = state.tables().get(table).into_iter().flat_map(|files| files.keys());
    let read = |path: &String| {
        let name = path.rsplit('/').next().and_then(|name| name.split('-').next());
        let epoch = name.and_then(|epoch| epoch.parse().ok()).expect("a file of a text table is named by its epoch");
        let text = store.get(path).ok().flatten().expect("a visible file is there");
        (epoch, String::from_utf8_lossy(&text).lines().map(str::to_owned).collect())
    };
    files.map(read).collect()
}

/// Small epochs of 64 KiB, and a checkpoint as often as possible.
#[must_use]
pub fn options(workers: u32) -> RunOptions {
    let every = Duration::from_millis(1);
    RunOptions { workers, epoch_bytes: 64 * 1024, checkpoint_every: every, ..RunOptions::default() }
}

/// A run on a store, and nobody who watches.
#[must_use]
pub fn context(store: &Arc<dyn Store>) -> RunContext {
    let (store, warn) = (Arc::clone(store), Box::new(|_: &str| {}));
    RunContext { store, maintenance: None, observers: vec![], status: Arc::default(), place: None, warn }
}

/// Runs a pipeline to the end of its input.
///
/// # Errors
/// Those of the run.
pub fn attempt(build: &(impl Build + Clone), store: &Arc<dyn Store>, workers: u32) -> Result<RunReport, RunError> {
    run(build.clone(), &options(workers), context(store), &StopHandle::default())
}

/// The same as one run of several processes, which are threads of this one.
///
/// # Errors
/// Those of process 0.
///
/// # Panics
/// If a process fails although process 0 does not.
pub fn attempt_processes(
    build: &(impl Build + Clone),
    store: &Arc<dyn Store>,
    processes: u32,
    workers: u32,
) -> Result<RunReport, RunError> {
    let (patience, stop) = (Duration::from_secs(30), StopHandle::default());
    let (report, failed) = in_processes(build, &options(workers), store, (processes, patience), &stop);
    assert!(failed.is_empty() || report.is_err(), "a follower failed alone: {failed:?}");
    report
}

/// Runs a pipeline as several processes that wait so long for each other; gives what process 0 says, and the failures of
/// the others.
fn in_processes(
    build: &(impl Build + Clone),
    options: &RunOptions,
    store: &Arc<dyn Store>,
    (processes, meet_within): (u32, Duration),
    stop: &StopHandle,
) -> (Result<RunReport, RunError>, Vec<RunError>) {
    let listeners: Vec<_> =
        (0..processes).map(|_| listen("127.0.0.1:0").expect("a port of this machine is free")).collect();
    let address = |l: &std::net::TcpListener| l.local_addr().expect("a listening socket has an address").to_string();
    let hosts: Vec<_> = listeners.iter().map(address).collect();
    let mut contexts = (0..).zip(listeners).map(|(process, listener)| {
        let cluster = ClusterOptions::new(process, hosts.clone(), Token::new("a secret"));
        let cluster = ClusterOptions { meet_within, ..cluster };
        RunContext { place: Some(Place { options: cluster, listener }), ..context(store) }
    });
    let first = contexts.next().expect("there is at least one process");
    let followers: Vec<_> = contexts
        .map(|context| {
            let (build, options) = (build.clone(), options.clone());
            std::thread::spawn(move || follow(build, &options, context, &StopHandle::default()))
        })
        .collect();
    let report = run(build.clone(), options, first, stop);
    let ended = followers.into_iter().map(|follower| follower.join().expect("a follower does not panic"));
    (report, ended.filter_map(Result::err).collect())
}
