//! Why lake files could not be written or rolled.

use parquet::errors::ParquetError;
use tidemill_log::StoreError;
use tidemill_tables::FoldError;

/// Why lake files could not be written or rolled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LakeError {
    /// The rows do not fit the table, or are too many at once.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// A file could not be encoded or decoded.
    #[error("{path} is no readable Parquet file of its table; restore it from a copy of the data folder")]
    Parquet {
        /// The file.
        path: String,
        /// What the Parquet library says.
        #[source]
        source: ParquetError,
    },
    /// A file that a commit names is not there.
    #[error("{path} is missing although a commit names it; restore it from a copy of the data folder")]
    Missing {
        /// The file.
        path: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LakeError {
    /// What failed on the file at `path`, said by the Parquet or the Arrow library.
    pub(super) fn parquet(path: &str, source: impl Into<ParquetError>) -> Self {
        Self::Parquet { path: path.to_owned(), source: source.into() }
    }
}
