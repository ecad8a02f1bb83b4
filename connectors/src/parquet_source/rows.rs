//! The rows of one file from a row on, without the row groups whose statistics say that they hold none of the span.

use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::statistics::Statistics;
use tidemill_log::panics::contained;

use super::plan::Span;

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 2048;

/// A file that is read from its start to its end.
pub(super) struct FileRows {
    file: Bytes,
    metadata: ArrowReaderMetadata,
    span: Span,
    /// The group that is read next, and the number of its first row.
    group: usize,
    group_start: u64,
    /// Rows before this one are passed over.
    from: u64,
    /// Of the group before `group`, with the number of its next row.
    reading: Option<(ParquetRecordBatchReader, u64)>,
}

impl FileRows {
    /// The rows of `file` from number `from` on.
    pub(super) fn open(file: Bytes, span: Span, from: u64) -> Result<FileRows, ParquetError> {
        let metadata = guarded(|| ArrowReaderMetadata::load(&file, ArrowReaderOptions::new()))?;
        let counts = metadata.metadata().row_groups().iter().map(RowGroupMetaData::num_rows);
        let mut counted = counts.map(|rows| u64::try_from(rows).ok()).chain([Some(from)]);
        if counted.try_fold(0_u64, |sum, rows| sum.checked_add(rows?)).is_none() {
            return Err(ParquetError::General(
                "its row groups say that they have more rows than can be counted".into(),
            ));
        }
        Ok(FileRows { file, metadata, span, group: 0, group_start: 0, from, reading: None })
    }

    /// How many rows the file holds.
    pub(super) fn len(&self) -> u64 {
        self.metadata.metadata().row_groups().iter().map(rows_of).sum()
    }

    /// The next rows, with the number of the first; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u64, RecordBatch)>, ParquetError> {
        loop {
            if let Some((reader, next_row)) = &mut self.reading {
                if let Some(batch) = guarded(|| reader.next().transpose().map_err(ParquetError::from))? {
                    let first = *next_row;
                    *next_row += batch.num_rows() as u64;
                    return Ok(Some((first, batch)));
                }
                self.reading = None;
            }
            let Some(group) = self.metadata.metadata().row_groups().get(self.group) else { return Ok(None) };
            let (start, rows) = (self.group_start, rows_of(group));
            let wanted = start + rows > self.from && may_hold(group, self.span);
            if wanted {
                let passed = self.from.saturating_sub(start);
                let (file, metadata) = (self.file.clone(), self.metadata.clone());
                let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata)
                    .with_row_groups(vec![self.group])
                    .with_batch_size(BATCH_ROWS)
                    .with_offset(usize::try_from(passed).unwrap_or(usize::MAX));
                let reader = guarded(|| builder.build())?;
                self.reading = Some((reader, start + passed));
            }
            self.group += 1;
            self.group_start = start + rows;
        }
    }
}

/// What the decoder gives; at some damage it panics, which is an error like any other.
fn guarded<T>(decode: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    contained(decode).unwrap_or_else(|said| Err(ParquetError::General(format!("it is damaged: {said}"))))
}

fn rows_of(group: &RowGroupMetaData) -> u64 {
    u64::try_from(group.num_rows()).unwrap_or_default()
}

/// Whether a group may hold rows of the span, by the statistics of its event times.
fn may_hold(group: &RowGroupMetaData, span: Span) -> bool {
    let times = group.columns().iter().find(|column| column.column_path().string() == "timestamp");
    match times.and_then(|column| column.statistics()) {
        Some(Statistics::Int64(times)) => match (times.min_opt(), times.max_opt()) {
            (Some(first), Some(last)) => span.overlaps(*first, *last),
            _ => true,
        },
        _ => true,
    }
}
