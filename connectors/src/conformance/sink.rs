//! The contract of a sink, for any [`TableWriter`] of the table `revenue_by_minute`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use tidemill_dataflow::sink::{DataFile, SinkError, SinkNotes, SinkStart, TableWriter};
use tidemill_dataflow::time::Epoch;
use tidemill_dataflow::verdict::{Judged, Verdict};
use tidemill_tables::{TableSpec, web_analytics};

use super::Broken;

/// A row of the table that the functions write: tenant, minute in milliseconds, currency, orders, cents.
pub type Row = (String, i64, String, i64, i64);

/// A sink under test: how a writer is made, and what its readers see.
pub struct Sink<'a> {
    /// Names the pipeline's log; another one for each function that is called on the same place, or an empty place.
    pub instance: String,
    /// A writer that has not been opened.
    pub writer: &'a dyn Fn() -> Box<dyn TableWriter>,
    /// The rows that readers see, folded. Given are the files that the log would name, for sinks whose readers go by it.
    pub read: &'a dyn Fn(&[DataFile]) -> ReadBack,
}

/// The rows that readers see, or why there are none.
pub type ReadBack = Result<Vec<Row>, Broken>;

/// The table that is written.
#[must_use]
pub fn table() -> TableSpec {
    web_analytics::revenue_by_minute()
}

/// One run's writer, and what the log knows.
struct Run {
    writer: Box<dyn TableWriter>,
    later: Arc<AtomicBool>,
}

/// The log of a pipeline that has only this sink.
#[derive(Default)]
struct Log {
    run: u64,
    committed: Epoch,
    bound: Epoch,
    files: BTreeMap<String, DataFile>,
    expected: BTreeMap<(String, i64, String), (i64, i64)>,
}

impl Log {
    /// What the next run is told; its fence fails once the flag is set, or when it was asked `patience` times.
    fn start(&mut self, sink: &Sink<'_>, patience: u32) -> (SinkStart, Arc<AtomicBool>) {
        self.run += 1;
        let later = Arc::new(AtomicBool::new(false));
        let (flag, asked) = (Arc::clone(&later), AtomicU32::new(0));
        let fence = move || -> Result<(), SinkError> {
            if flag.load(Ordering::SeqCst) || asked.fetch_add(1, Ordering::SeqCst) >= patience {
                return Err("a later run has begun".into());
            }
            Ok(())
        };
        let (instance, run, committed, bound) = (sink.instance.clone(), self.run, self.committed, self.bound);
        (SinkStart { instance, run, committed, bound, fence: Arc::new(fence), notes: SinkNotes::default() }, later)
    }

    fn begin(&mut self, sink: &Sink<'_>, patience: u32) -> Result<Run, Broken> {
        let (start, later) = self.start(sink, patience);
        let mut writer = (sink.writer)();
        writer.open(&start).map_err(|error| format!("run {} could not open the sink: {error}", start.run))?;
        Ok(Run { writer, later })
    }

    /// What the engine does with an epoch: bind it, write it, commit it.
    fn write(&mut self, run: &mut Run, epoch: Epoch) -> Result<(), Broken> {
        self.bound = self.bound.max(epoch);
        let files = run.writer.write_epoch(epoch, 0, rows(epoch)).map_err(|e| format!("epoch {epoch} failed: {e}"))?;
        self.commit(epoch, files);
        Ok(())
    }

    fn commit(&mut self, epoch: Epoch, files: Vec<DataFile>) {
        self.expect(epoch, plain(epoch), files);
    }

    /// An epoch is committed, of which readers see these rows.
    fn expect(&mut self, epoch: Epoch, rows: Vec<Row>, files: Vec<DataFile>) {
        self.committed = self.committed.max(epoch);
        self.files.extend(files.into_iter().map(|file| (file.path.clone(), file)));
        for (tenant, minute, currency, orders, cents) in rows {
            let cell = self.expected.entry((tenant, minute, currency)).or_default();
            *cell = (cell.0 + orders, cell.1 + cents);
        }
    }

    /// Whether readers see what was committed, each row once.
    fn check(&self, sink: &Sink<'_>, when: &str) -> Result<(), Broken> {
        let files: Vec<DataFile> = self.files.values().cloned().collect();
        let mut found = (sink.read)(&files).map_err(|error| format!("{when}: reading failed: {error}"))?;
        found.sort();
        let whole = self.expected.iter().map(|((tenant, minute, currency), (orders, cents))| {
            (tenant.clone(), *minute, currency.clone(), *orders, *cents)
        });
        let expected: Vec<Row> = whole.collect();
        if found == expected {
            return Ok(());
        }
        let missing = expected.iter().find(|row| !found.contains(row));
        let extra = found.iter().find(|row| !expected.contains(row));
        let counts = (found.len(), expected.len());
        Err(format!(
            "{when}: {} rows are seen, {} were committed; missing {missing:?}, not committed {extra:?}",
            counts.0, counts.1
        ))
    }
}

/// The rows of an epoch: some keys of its own, some that every epoch adds to.
fn plain(epoch: Epoch) -> Vec<Row> {
    let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
    let own = (0..3_000)
        .map(|n| ("default".to_owned(), (epoch * 10_000 + n) * 60_000, "EUR".to_owned(), n + 1, 100 * n + epoch));
    let shared = [("acme", "USD"), ("änderung", "¥\"'\\\t")];
    let shared = shared.into_iter().map(|(tenant, currency)| (tenant.to_owned(), 0, currency.to_owned(), 1, -epoch));
    own.chain(shared).collect()
}

fn rows(epoch: Epoch) -> Vec<RecordBatch> {
    let rows = plain(epoch);
    let (first, second) = rows.split_at(rows.len() / 3);
    vec![batch(first), batch(second)]
}

/// Rows as writers get them.
///
/// # Panics
/// Never: the columns are those of the table.
#[must_use]
pub fn batch(rows: &[Row]) -> RecordBatch {
    let text = |of: fn(&Row) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(of))) };
    let number = |of: fn(&Row) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(of))) };
    let minutes = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.1)).with_timezone("UTC");
    let columns =
        vec![text(|row| &row.0), Arc::new(minutes), text(|row| &row.2), number(|row| row.3), number(|row| row.4)];
    RecordBatch::try_new(table().stored_schema(), columns).expect("the columns of the table, in its order")
}

/// So many orders, of as many cents, in each minute from the first of 1970 on.
#[must_use]
pub fn revenue(in_minute: &[i64]) -> Vec<RecordBatch> {
    let row =
        |(minute, orders): (i64, &i64)| ("default".to_owned(), minute * 60_000, "EUR".to_owned(), *orders, *orders);
    vec![batch(&(0..).zip(in_minute).map(row).collect::<Vec<_>>())]
}

/// What is written is what is read; an epoch without rows adds none.
///
/// # Errors
/// The broken promise.
pub fn rows_come_back_as_written(sink: &Sink<'_>) -> Result<(), Broken> {
    let mut log = Log::default();
    let mut run = log.begin(sink, u32::MAX)?;
    log.write(&mut run, 1)?;
    log.check(sink, "after the first epoch")?;
    let nothing =
        run.writer.write_epoch(2, 0, Vec::new()).map_err(|error| format!("an empty epoch failed: {error}"))?;
    if nothing.iter().any(|file| file.rows > 0) {
        return Err("an epoch without rows made a file with some".into());
    }
    (log.bound, log.committed) = (2, 2);
    log.write(&mut run, 3)?;
    log.check(sink, "after the third epoch")
}

/// An epoch written twice is there once: by the same writer, and by the next run, which cannot know that it is there.
///
/// # Errors
/// The broken promise.
pub fn a_repeated_write_has_the_effect_of_one(sink: &Sink<'_>) -> Result<(), Broken> {
    let mut log = Log::default();
    let mut run = log.begin(sink, u32::MAX)?;
    log.write(&mut run, 1)?;
    run.writer.write_epoch(1, 0, rows(1)).map_err(|error| format!("a repeated write failed: {error}"))?;
    log.check(sink, "after a repeated write")?;
    log.bound = 3;
    for epoch in [2, 3] {
        run.writer.write_epoch(epoch, 0, rows(epoch)).map_err(|error| format!("epoch {epoch} failed: {error}"))?;
    }
    drop(run);
    let mut next = log.begin(sink, u32::MAX)?;
    log.write(&mut next, 2)?;
    log.write(&mut next, 3)?;
    log.check(sink, "after the next run wrote what was in flight")
}

/// A run that ended at any step inside a write leaves an epoch that the next run completes.
///
/// # Errors
/// The broken promise.
pub fn a_write_that_stopped_halfway_is_completed(sink: &Sink<'_>) -> Result<(), Broken> {
    let mut log = Log::default();
    let mut run = log.begin(sink, u32::MAX)?;
    log.write(&mut run, 1)?;
    drop(run);
    log.bound = 2;
    // The fence is what a writer asks between its steps: one that fails after n questions stops it there.
    for patience in 0..8 {
        let Ok(mut stopped) = log.begin(sink, patience) else { continue };
        if stopped.writer.write_epoch(2, 0, rows(2)).is_ok() {
            break;
        }
    }
    let mut next = log.begin(sink, u32::MAX)?;
    log.write(&mut next, 2)?;
    log.write(&mut next, 3)?;
    log.check(sink, "after a write that stopped halfway")
}

/// Opened again with what the log says, a writer goes on; what was committed stays as it is.
///
/// # Errors
/// The broken promise.
pub fn a_restart_goes_on_behind_what_was_committed(sink: &Sink<'_>) -> Result<(), Broken> {
    let mut log = Log::default();
    for epoch in 1..=4 {
        let mut run = log.begin(sink, u32::MAX)?;
        log.write(&mut run, epoch)?;
        drop(run);
        log.check(sink, &format!("after run {epoch}"))?;
    }
    let idle = log.begin(sink, u32::MAX)?;
    drop(idle);
    log.check(sink, "after a run that wrote nothing")
}

/// Once a later run has begun, an earlier writer's work fails or has no effect.
///
/// # Errors
/// The broken promise.
pub fn a_fenced_writer_changes_nothing(sink: &Sink<'_>) -> Result<(), Broken> {
    let mut log = Log::default();
    let mut sleeper = log.begin(sink, u32::MAX)?;
    log.write(&mut sleeper, 1)?;
    // Bound by the sleeper, so the later run reads it in the same cut.
    log.bound = 2;
    let mut later = log.begin(sink, u32::MAX)?;
    sleeper.later.store(true, Ordering::SeqCst);
    let early = sleeper.writer.write_epoch(2, 0, rows(2)).is_ok();
    log.write(&mut later, 2)?;
    log.check(sink, if early { "after a fenced write that was taken" } else { "after a fenced write" })?;
    // Its files, if it made any, are in no log.
    let _ = sleeper.writer.write_epoch(2, 0, rows(2));
    log.check(sink, "after a fenced writer wrote what its successor had written")?;
    let _ = sleeper.writer.write_epoch(3, 0, rows(9));
    log.check(sink, "after a fenced writer wrote an epoch of its own")?;
    log.write(&mut later, 3)?;
    log.check(sink, "after the later run went on")
}

/// Where the server refuses some rows (`refuse` tells it to), those are left out and every other row is there once, also when
/// the epoch is written again, and once the server takes them all (`take` tells it to).
///
/// Rows of the currency `EUR` whose number of orders is divisible by 500 are to be refused.
///
/// # Errors
/// The broken promise.
pub fn a_refused_row_doubles_no_other(
    sink: &Sink<'_>,
    refuse: impl FnOnce(),
    take: impl FnOnce(),
) -> Result<(), Broken> {
    let mut log = Log::default();
    let mut run = log.begin(sink, u32::MAX)?;
    log.write(&mut run, 1)?;
    drop(run);
    refuse();
    // Nothing was bound before, so no row can be there that is refused now.
    drop(log.begin(sink, u32::MAX)?);
    log.bound = 2;
    let is_taken = |row: &Row| row.2 != "EUR" || row.3 % 500 != 0;
    let taken: Vec<Row> = plain(2).into_iter().filter(is_taken).collect();
    for _ in 0..2 {
        let mut again = log.begin(sink, u32::MAX)?;
        again.writer.write_epoch(2, 0, rows(2)).map_err(|error| format!("a row that is refused: {error}"))?;
    }
    take();
    let mut last = log.begin(sink, u32::MAX)?;
    let files =
        last.writer.write_epoch(2, 0, rows(2)).map_err(|error| format!("rows that are taken again: {error}"))?;
    log.expect(2, taken, files);
    log.check(sink, "after rows were refused")?;
    log.write(&mut last, 3)?;
    log.check(sink, "after the epoch behind it")
}

/// A writer is refused where `lose` took away rows that were committed, whatever was written since; what a supervisor does
/// about it is nothing.
///
/// # Errors
/// The broken promise.
pub fn lost_rows_are_noticed(sink: &Sink<'_>, lose: impl FnOnce()) -> Result<(), Broken> {
    let mut log = Log::default();
    let mut run = log.begin(sink, u32::MAX)?;
    log.write(&mut run, 1)?;
    log.write(&mut run, 2)?;
    lose();
    // A writer that goes on may not notice it at once.
    let _ = log.write(&mut run, 3);
    drop(run);
    let start = log.start(sink, u32::MAX).0;
    match (sink.writer)().open(&start) {
        Ok(()) => Err("a sink that lost committed rows was opened".into()),
        Err(error) if Judged::of(&error) == Verdict::Refused => Ok(()),
        Err(error) => Err(format!("a sink that lost rows does not say that starting again is useless: {error}")),
    }
}
