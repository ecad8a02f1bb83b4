//! Why something could not be done in ClickHouse, each with what the operator does about it.

use tidemill_dataflow::sink::SinkError;
use tidemill_dataflow::verdict::Judged;
use tidemill_tables::FoldError;

use crate::check::Difference;
use crate::retry::is_denial;

/// Why something could not be done in ClickHouse.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClickHouseError {
    /// The address is none.
    #[error(
        "{address} names no ClickHouse database: {reason}; write clickhouse://HOST:PORT/DATABASE with the HTTP port"
    )]
    Address {
        /// The address, without what stood before an `@`.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No client could be made on this machine.
    #[error("no client for ClickHouse could be started on this machine")]
    Local(#[source] std::io::Error),
    /// The server refused, or could not be reached.
    #[error("ClickHouse at {at} did not {what}")]
    Server {
        /// `host:port`.
        at: String,
        /// What it was asked to do.
        what: String,
        /// What it, or the network, answered.
        #[source]
        source: clickhouse::error::Error,
    },
    /// The server answered something that was not understood.
    #[error("ClickHouse at {at} answered {what} in a way that is not understood; is its version 25 or newer?")]
    Answer {
        /// `host:port`.
        at: String,
        /// What it was asked.
        what: String,
    },
    /// The tables are not as they have to be.
    #[error("database {database} at {at} is not as it has to be: {}; `tidemill tables diff` shows it, `tidemill tables apply` mends what it can", sentences(.differences))]
    Differs {
        /// `host:port`.
        at: String,
        /// The database.
        database: String,
        /// Everything that is wrong.
        differences: Vec<Difference>,
    },
    /// A table cannot be described in ClickHouse.
    #[error(
        "table {table} has a column {column} of type {data_type}, for which ClickHouse tables are not written; declare it as text, Int64 or a time"
    )]
    Unsupported {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its type.
        data_type: String,
    },
    /// The table holds what another pipeline wrote, or not what this one wrote.
    #[error("{0}")]
    Owner(String),
    /// A value of the profile stands in the way of exact writes.
    #[error("the profile of the ClickHouse user at {at} forbids to change {setting}; allow it, exact writes need it")]
    ReadOnlySetting {
        /// `host:port`.
        at: String,
        /// The setting.
        setting: String,
    },
    /// The tables forget tokens too early.
    #[error(
        "the tables in database {database} at {at} remember {tokens} tokens, the epochs in flight may have {needed}; run {statements}"
    )]
    Window {
        /// `host:port`.
        at: String,
        /// The database.
        database: String,
        /// What the table with the smallest window remembers.
        tokens: u64,
        /// What is needed.
        needed: u64,
        /// What widens the windows.
        statements: String,
    },
    /// A view that is not ours fails for a row that a table takes.
    #[error(
        "a view behind {place} fails{}: mend or drop {views}, then start again; what was written before is recognised and \
         not written twice", .row.as_ref().map(|row| format!(" for the row {row}")).unwrap_or_default()
    )]
    View {
        /// The table, its database and server.
        place: String,
        /// The views that read the table.
        views: String,
        /// The first row that it fails for, as JSON, if it was found.
        row: Option<String>,
        /// What the server answered.
        #[source]
        source: clickhouse::error::Error,
    },
    /// The server refuses an insert of which no row can be set aside.
    #[error(
        "{place} does not take an insert of which no row can be set aside (each alone is taken, or another table has them all): \
         mend the table or what stands behind it, drop a constraint that is new, then start again; what was written before is \
         recognised and not written twice"
    )]
    Refuses {
        /// The table, its database and server.
        place: String,
        /// What the server answered.
        #[source]
        source: clickhouse::error::Error,
    },
    /// A row may be in one of the tables beneath and is refused by another.
    #[error(
        "{place} was altered while epoch {epoch} was written, and refuses the row {row} of it, which an earlier run may have \
         written before: {reason}; drop what refuses it, start, and add it again when no run is alive"
    )]
    Doubtful {
        /// The table, its database and server.
        place: String,
        /// The epoch.
        epoch: u64,
        /// The row, as JSON.
        row: String,
        /// What the server says.
        reason: String,
    },
    /// The rows do not fit the table, or are too many at once.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// Arrow could not reorder rows.
    #[error("rows of table {table} could not be put in order; fewer rows an epoch help")]
    Arrow {
        /// The table.
        table: String,
        /// What Arrow says.
        #[source]
        source: arrow::error::ArrowError,
    },
}

impl ClickHouseError {
    /// The failure of a sink, with what a supervisor does about it.
    pub(crate) fn judged(self) -> SinkError {
        match &self {
            Self::ReadOnlySetting { .. } => Judged::denied(self),
            Self::Server { source, .. } | Self::Refuses { source, .. } if is_denial(source) => Judged::denied(self),
            Self::Owner(_)
            | Self::Differs { .. }
            | Self::Window { .. }
            | Self::View { .. }
            | Self::Refuses { .. }
            | Self::Doubtful { .. } => Judged::refused(self),
            _ => Box::new(self),
        }
    }
}

fn sentences(differences: &[Difference]) -> String {
    differences.iter().map(|difference| difference.text.as_str()).collect::<Vec<_>>().join("; ")
}
