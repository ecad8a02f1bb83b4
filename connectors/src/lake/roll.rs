//! Rolling: the recent files of a range of epochs become one file for each hour of event time.
//!
//! Promises: what a reader folds from the rolled files is what it folded from the recent ones; names and bytes depend
//! on the table, the range and its rows alone (INV-3), so a range rolled twice, also by a fenced run, is rolled once.
//!
//! Where the range has more rows than are gathered at a time, event times are read first. Then as many hours at a time are
//! gathered as stay within that number, so memory is that of the fullest hour, not of the range; an append-only table is
//! encoded while it is read.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMillisecondType;
use bytes::Bytes;
use tidemill_log::{Created, DataFile, Store, TableChange};
use tidemill_tables::calendar::hour_of;
use tidemill_tables::{Fold, TableSpec, fold};

use super::encode::{Encoder, decode, rolled_properties};
use super::error::LakeError;
use super::names;
use super::plan::Roll;

/// Rows gathered at a time, unless a single hour has more.
const GATHERED_ROWS: u64 = 1 << 20;

/// Rolls the files of a range; the change takes effect when the log commits it.
///
/// # Errors
/// When a file is missing or damaged, or the store fails. Nothing is changed then: at most, files exist that no commit
/// names, and rolling again finds them as it would have written them.
pub fn roll(spec: &TableSpec, store: &dyn Store, roll: &Roll) -> Result<TableChange, LakeError> {
    roll_within(spec, store, roll, GATHERED_ROWS)
}

/// [`roll()`] that gathers at most `rows` rows at a time, unless a single hour has more.
pub(super) fn roll_within(
    spec: &TableSpec,
    store: &dyn Store,
    roll: &Roll,
    rows: u64,
) -> Result<TableChange, LakeError> {
    let mut paths: Vec<&str> = roll.files.iter().map(|file| file.path.as_str()).collect();
    paths.sort_unstable();
    let mut added = Vec::new();
    for (span, with_rows) in spans_of(spec, store, roll, &paths, rows)? {
        let mut hours: BTreeMap<i64, Hour> = BTreeMap::new();
        for path in with_rows {
            gather(spec, &read(store, path)?, path, span, &mut hours)?;
        }
        for (hour, gathered) in hours {
            let path = names::rolled(&spec.name, hour, roll.first_epoch, roll.last_epoch);
            if let Some((count, file)) = gathered.encode(spec, &path)? {
                let bytes = write_once(store, &path, &file)?;
                added.push(DataFile { path, rows: count, bytes });
            }
        }
    }
    let removed = paths.into_iter().map(str::to_owned).collect();
    Ok(TableChange { table: spec.name.clone(), added, removed })
}

/// Hours (first, last), and the files with rows in them.
type SpanOf<'a> = ((i64, i64), Vec<&'a str>);

/// What is gathered at a time, in order: all at once where it is little, for then no survey is needed.
fn spans_of<'a>(
    spec: &TableSpec,
    store: &dyn Store,
    roll: &Roll,
    paths: &[&'a str],
    rows: u64,
) -> Result<Vec<SpanOf<'a>>, LakeError> {
    if roll.files.iter().map(|file| file.rows).sum::<u64>() <= rows {
        return Ok(vec![((i64::MIN, i64::MAX), paths.to_vec())]);
    }
    let surveys = paths.iter().map(|path| survey(spec, store, path)).collect::<Result<Vec<_>, _>>()?;
    let with_rows_in = |(from, to): (i64, i64)| {
        let files = paths.iter().zip(&surveys).filter(|(_, survey)| survey.range(from..=to).next().is_some());
        ((from, to), files.map(|(path, _)| *path).collect())
    };
    Ok(spans(&surveys, rows).into_iter().map(with_rows_in).collect())
}

/// How many rows of a file lie in each hour.
type Survey = BTreeMap<i64, u64>;

fn survey(spec: &TableSpec, store: &dyn Store, path: &str) -> Result<Survey, LakeError> {
    let failed = |error| LakeError::parquet(path, error);
    let mut hours = Survey::new();
    for batch in decode(read(store, path)?, Some(spec.time)).map_err(failed)? {
        let batch = batch.map_err(|error| LakeError::parquet(path, error))?;
        for &time in batch.column(0).as_primitive::<TimestampMillisecondType>().values() {
            *hours.entry(hour_of(time)).or_default() += 1;
        }
    }
    Ok(hours)
}

/// Cuts the hours of all files into spans (first, last) that hold at most `rows` rows, or one hour.
fn spans(surveys: &[Survey], rows: u64) -> Vec<(i64, i64)> {
    let mut hours = Survey::new();
    for (&hour, count) in surveys.iter().flatten() {
        *hours.entry(hour).or_default() += count;
    }
    let mut spans: Vec<(i64, i64)> = Vec::new();
    let mut held = 0;
    for (hour, count) in hours {
        match spans.last_mut() {
            Some(span) if held + count <= rows => {
                span.1 = hour;
                held += count;
            }
            _ => {
                spans.push((hour, hour));
                held = count;
            }
        }
    }
    spans
}

/// The rows of an hour: to be folded when all are there, or encoded as they come.
enum Hour {
    Gathered(Vec<RecordBatch>),
    Encoded(Box<Encoder>, u64),
}

impl Hour {
    fn new(spec: &TableSpec, path: &str) -> Result<Self, LakeError> {
        if spec.fold != Fold::Append {
            return Ok(Self::Gathered(Vec::new()));
        }
        let encoder = Encoder::new(spec.stored_schema(), rolled_properties(), 0);
        Ok(Self::Encoded(Box::new(encoder.map_err(|error| LakeError::parquet(path, error))?), 0))
    }

    fn add(&mut self, rows: RecordBatch, path: &str) -> Result<(), LakeError> {
        match self {
            Self::Gathered(batches) => batches.push(rows),
            Self::Encoded(encoder, count) => {
                encoder.write(&rows).map_err(|error| LakeError::parquet(path, error))?;
                *count += rows.num_rows() as u64;
            }
        }
        Ok(())
    }

    /// The number of rows and the file; none if nothing is left of them.
    fn encode(self, spec: &TableSpec, path: &str) -> Result<Option<(u64, Vec<u8>)>, LakeError> {
        let failed = |error| LakeError::parquet(path, error);
        let (encoder, count) = match self {
            Self::Encoded(encoder, count) => (*encoder, count),
            Self::Gathered(batches) => {
                let rows = fold(spec, &batches)?;
                let mut encoder = Encoder::new(spec.stored_schema(), rolled_properties(), 0).map_err(failed)?;
                encoder.write(&rows).map_err(failed)?;
                (encoder, rows.num_rows() as u64)
            }
        };
        if count == 0 {
            return Ok(None);
        }
        Ok(Some((count, encoder.finish().map_err(failed)?)))
    }
}

/// Deals the rows of a file that lie in the hours `from..=to` to their hours.
fn gather(
    spec: &TableSpec,
    file: &Bytes,
    path: &str,
    (from, to): (i64, i64),
    hours: &mut BTreeMap<i64, Hour>,
) -> Result<(), LakeError> {
    for batch in decode(file.clone(), None).map_err(|error| LakeError::parquet(path, error))? {
        let batch = batch.map_err(|error| LakeError::parquet(path, error))?;
        let mut rows_of: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        for (row, &time) in (0_u32..).zip(batch.column(spec.time).as_primitive::<TimestampMillisecondType>().values()) {
            let hour = hour_of(time);
            if (from..=to).contains(&hour) {
                rows_of.entry(hour).or_default().push(row);
            }
        }
        for (hour, rows) in rows_of {
            let part = if rows.len() == batch.num_rows() {
                batch.clone()
            } else {
                take_record_batch(&batch, &UInt32Array::from(rows)).map_err(|error| LakeError::parquet(path, error))?
            };
            let into = match hours.entry(hour) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(Hour::new(spec, path)?),
            };
            into.add(part, path)?;
        }
    }
    Ok(())
}

fn read(store: &dyn Store, path: &str) -> Result<Bytes, LakeError> {
    store.get(path)?.ok_or_else(|| LakeError::Missing { path: path.to_owned() })
}

/// Writes a file that may have been written before; its length in bytes as it stands.
fn write_once(store: &dyn Store, path: &str, bytes: &[u8]) -> Result<u64, LakeError> {
    match store.create(path, bytes)? {
        Created::New => Ok(bytes.len() as u64),
        // A build with another compressor may have written the same rows as other bytes.
        Created::Exists => Ok(read(store, path)?.len() as u64),
    }
}
