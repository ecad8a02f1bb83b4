//! Why a query has no answer.

use datafusion::error::DataFusionError;
use tidemill_log::with_causes;

/// Why a query has no answer; the message says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The place holds no lake, or its log cannot be read.
    #[error("cannot read the tables of {place}: {reason}")]
    Open {
        /// Where the tables are.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The query names a table that does not exist.
    #[error("there is no table {name}; the tables are {}", .known.join(", "))]
    UnknownTable {
        /// As the query names it.
        name: String,
        /// The tables there are.
        known: Vec<String>,
    },
    /// The statement is not one that only reads.
    #[error("{statement} is refused: queries only read; use SELECT, EXPLAIN, DESCRIBE or SHOW")]
    NotReadOnly {
        /// What kind of statement it is, or its beginning.
        statement: String,
    },
    /// The statement is longer or deeper than one may be.
    #[error("the query has more than {most} {what}; ask for less at a time")]
    TooComplex {
        /// The bound.
        most: usize,
        /// Of what.
        what: &'static str,
    },
    /// The statement is no text of SQL.
    #[error("the query is not understood: {reason}")]
    Unreadable {
        /// What is wrong.
        reason: String,
    },
    /// The query does not parse, or does not fit the tables.
    #[error("the query is not understood")]
    Sql(#[source] Box<DataFusionError>),
    /// The query failed while running.
    #[error("the query failed while running")]
    Run(#[source] Box<DataFusionError>),
    /// The log says that a file is visible, but it is not there.
    #[error("a file that the log counts as visible is missing; restore it from a copy of the data folder")]
    MissingFile(#[source] Box<DataFusionError>),
    /// Files kept being replaced under the query.
    #[error("the files of the query were replaced {attempts} times while it ran; ask for less at a time")]
    Overtaken {
        /// How often it was tried.
        attempts: usize,
        /// The last file that was not there.
        #[source]
        source: Box<DataFusionError>,
    },
    /// The runtime that queries run on could not be started.
    #[error("cannot start the threads that run queries")]
    Runtime(#[source] std::io::Error),
    /// The answer could not be written out.
    #[error("cannot write the answer")]
    Write(#[from] std::io::Error),
}

impl QueryError {
    /// The message and all that caused it, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        with_causes(self)
    }
}
