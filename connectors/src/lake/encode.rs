//! How rows become Parquet bytes: cheaply while they are recent, small once they are rolled.
//!
//! Promise: the same rows give the same bytes (INV-3). Nothing in a file depends on the time, the machine or chance.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use tidemill_tables::{Fold, TableSpec};

/// Rows that are decoded at a time.
const READ_ROWS: usize = 65_536;

/// Rows of a row group, in a file that has more.
const GROUP_ROWS: usize = 1 << 20;

/// The largest dictionary of a recent file's column in bytes.
///
/// So little that columns of ids give up after a few thousand rows, and enough for columns that repeat a few values,
/// which makes an archive half as large for no time.
const DICTIONARY_BYTES: usize = 16 << 10;

/// Rows that a recent file's columns are encoded by at a time.
const WRITE_ROWS: usize = 8192;

/// For files that live a minute: written fast, pruned by event time and nothing else.
///
/// Compressing them would cost more time than writing the larger file: LZ4 doubles what encoding takes.
pub(super) fn recent_properties(spec: &TableSpec) -> WriterProperties {
    WriterProperties::builder()
        .set_created_by("tidemill".to_owned())
        .set_compression(Compression::UNCOMPRESSED)
        .set_dictionary_enabled(spec.fold == Fold::Append)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_write_batch_size(WRITE_ROWS)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_column_statistics_enabled(
            ColumnPath::from(spec.columns[spec.time].name.as_str()),
            EnabledStatistics::Chunk,
        )
        .build()
}

/// For files that stay: small, with statistics for every reader.
pub(super) fn rolled_properties() -> WriterProperties {
    WriterProperties::builder()
        .set_created_by("tidemill".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .build()
}

/// A Parquet file under construction in memory.
pub(super) struct Encoder(ArrowWriter<Vec<u8>>);

impl Encoder {
    /// An empty file that has room for `bytes` bytes, and grows.
    pub(super) fn new(schema: SchemaRef, properties: WriterProperties, bytes: usize) -> Result<Self, ParquetError> {
        Ok(Self(ArrowWriter::try_new(Vec::with_capacity(bytes), schema, Some(properties))?))
    }

    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), ParquetError> {
        self.0.write(rows)
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, ParquetError> {
        self.0.into_inner()
    }
}

/// All rows of a file, some at a time; of the columns `only`, or of all.
pub(super) fn decode(file: Bytes, only: Option<usize>) -> Result<ParquetRecordBatchReader, ParquetError> {
    let mut builder = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(READ_ROWS);
    if let Some(column) = only {
        let mask = ProjectionMask::roots(builder.parquet_schema(), [column]);
        builder = builder.with_projection(mask);
    }
    builder.build()
}
