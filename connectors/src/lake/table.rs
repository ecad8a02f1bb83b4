//! The sink of one table: the rows of an epoch, written under names that only the epoch decides.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use tidemill_log::{DataFile, Store};
use tidemill_tables::{FoldError, TableSpec, check, fold};

use super::encode::{Encoder, recent_properties};
use super::error::LakeError;
use super::names;

/// The most rows of one recent file. Part of the format: another number cuts an epoch that is written again elsewhere.
pub const CHUNK_ROWS: usize = 1 << 20;

/// In which order an epoch's rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Folded and sorted as the table's spec says; the order in which they are given does not matter.
    ByKeys,
    /// As they are given, which must be the same each time.
    AsGiven,
}

/// One lake table and the store it is written to.
#[derive(Clone, Debug)]
pub struct LakeTable {
    spec: TableSpec,
    store: Arc<dyn Store>,
}

impl LakeTable {
    /// The table `spec`, with its files under `tables/<name>/` in `store`.
    #[must_use]
    pub fn new(spec: TableSpec, store: Arc<dyn Store>) -> Self {
        Self { spec, store }
    }

    /// The table's description.
    #[must_use]
    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// Writes all rows of (epoch, shard), given in pieces, durably; the files become visible by a commit.
    ///
    /// Rows that fold away are not written, and without rows there is no file. Writing the same rows again writes the
    /// same bytes to the same names.
    ///
    /// # Errors
    /// When the rows do not have the table's stored schema, or the store fails.
    pub fn write_epoch(
        &self,
        epoch: u64,
        shard: u32,
        batches: Vec<RecordBatch>,
        order: RowOrder,
    ) -> Result<Vec<DataFile>, LakeError> {
        let chunks = encode_epoch(&self.spec, epoch, shard, batches, order, CHUNK_ROWS)?;
        let write = |chunk: Chunk| {
            self.store.put(&chunk.path, &chunk.bytes)?;
            Ok(DataFile { path: chunk.path, rows: chunk.rows, bytes: chunk.bytes.len() as u64 })
        };
        chunks.into_iter().map(write).collect()
    }
}

/// A file before it is written.
pub(super) struct Chunk {
    pub(super) path: String,
    pub(super) rows: u64,
    pub(super) bytes: Vec<u8>,
}

/// The files of (epoch, shard), none with more than `chunk_rows` rows.
pub(super) fn encode_epoch(
    spec: &TableSpec,
    epoch: u64,
    shard: u32,
    batches: Vec<RecordBatch>,
    order: RowOrder,
    chunk_rows: usize,
) -> Result<Vec<Chunk>, LakeError> {
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        return Ok(Vec::new());
    }
    let schema = spec.stored_schema();
    let rows = match order {
        RowOrder::ByKeys => fold(spec, &batches)?,
        RowOrder::AsGiven => {
            batches.iter().try_for_each(|batch| check(spec, batch))?;
            concat_batches(&schema, &batches).map_err(|source| FoldError::Arrow { table: spec.name.clone(), source })?
        }
    };
    drop(batches);
    let mut chunks = Vec::new();
    for start in (0..rows.num_rows()).step_by(chunk_rows) {
        let path = names::recent(&spec.name, epoch, shard, chunks.len());
        let part = rows.slice(start, chunk_rows.min(rows.num_rows() - start));
        let bytes = Encoder::new(Arc::clone(&schema), recent_properties(spec), part.get_array_memory_size())
            .and_then(|mut encoder| {
                encoder.write(&part)?;
                encoder.finish()
            })
            .map_err(|source| LakeError::parquet(&path, source))?;
        chunks.push(Chunk { path, rows: part.num_rows() as u64, bytes });
    }
    Ok(chunks)
}
