//! The sink of one table: an epoch's rows, folded, cut into chunks, each chunk one insert that is recognised when it comes again.
//!
//! Promises: INV-3 (the token of an insert is pipeline, instance, table, epoch, shard and chunk, and its rows are the same
//! each time, so writing it twice has the effect of once), INV-6 (a row that the table refuses goes to `rejected_rows`).
//!
//! ```text
//! rows of (e, shard) -> fold, sort -> arrange by day if there are many -> cut -> per chunk: fence, insert with its token
//!                                                                                 | busy, away: again, for ever
//!                                                                                 | a value refused: in halves
//!                                                                                 ' the table has changed: stop
//! ```
//! An epoch of which only some chunks arrived is written again as a whole; the server drops those it has.

use arrow::array::RecordBatch;
use tidemill_dataflow::sink::{DataFile, SinkError, SinkStart, TableWriter};
use tidemill_dataflow::time::Epoch;
use tidemill_tables::{Retention, TableSpec, fold};
use tracing::warn;

use crate::apply::require;
use crate::check::{Found, differences, objects};
use crate::chunks::{Chunk, ChunkLimits, arrange, cut};
use crate::client::Client;
use crate::ddl::{self, REJECTED, insert_table, suffixed};
use crate::error::ClickHouseError;
use crate::owner::{Owner, Shown};
use crate::rejected::{self, Refused};
use crate::retry::{Ended, Fence, Verdict, answer, chain, until_answered};
use crate::row_binary::{Encoder, insert_statement};
use crate::target::Target;
use crate::window::Window;

/// Epochs that may be in flight, and so be written again, unless [`ClickHouseTable::in_flight`] says otherwise.
const IN_FLIGHT: u64 = 3;

/// Writes one table of a pipeline; made on any thread, used on the sink's own.
pub struct ClickHouseTable {
    target: Target,
    spec: TableSpec,
    pipeline: String,
    shown: Shown,
    limits: ChunkLimits,
    shards: u64,
    in_flight: u64,
    opened: Option<Opened>,
}

/// What there is after `open`.
struct Opened {
    client: Client,
    fence: Fence,
    owner: Owner,
    instance: String,
    statement: String,
    window: Window,
    buffer: Vec<u8>,
}

impl ClickHouseTable {
    /// The table `spec` of `pipeline` in the database of `target`. Nothing is connected before `open`.
    #[must_use]
    pub fn new(target: Target, spec: TableSpec, pipeline: &str) -> Self {
        let (pipeline, limits) = (pipeline.to_owned(), ChunkLimits::default());
        Self { target, spec, pipeline, shown: Shown::InProgress, limits, shards: 1, in_flight: IN_FLIGHT, opened: None }
    }

    /// The one that is rebuilt beside it, by a replay with a log of its own: under its name with `suffix` behind it
    /// ([`suffixed`]). What `progress` says is of the live one.
    #[must_use]
    pub fn rebuilt(self, suffix: &str) -> Self {
        Self { spec: suffixed(&self.spec, suffix), shown: Shown::Nowhere, ..self }
    }

    /// The same table, written in `shards` shards.
    #[must_use]
    pub fn shards(self, shards: u32) -> Self {
        Self { shards: u64::from(shards.max(1)), ..self }
    }

    /// The same table in a pipeline that has up to `epochs` epochs in flight.
    #[must_use]
    pub fn in_flight(self, epochs: u64) -> Self {
        Self { in_flight: epochs.max(1), ..self }
    }

    /// The same table with other limits; they must not change while an epoch is in flight.
    #[must_use]
    pub fn limits(self, limits: ChunkLimits) -> Self {
        Self { limits, ..self }
    }

    fn place(&mut self, epoch: Epoch, shard: u32, rows: &RecordBatch) -> Result<(), SinkError> {
        let Self { spec, pipeline, limits, opened, .. } = self;
        let opened = opened.as_mut().ok_or_else(|| {
            ClickHouseError::Owner(format!("table {} was written to before it was opened", spec.name))
        })?;
        let arrow = |source| ClickHouseError::Arrow { table: spec.name.clone(), source };
        let rows = arrange(spec, rows.clone(), *limits).map_err(arrow)?;
        let encoder = Encoder::new(spec, &rows)?;
        let chunks = cut(spec, &rows, *limits, |row| encoder.row_bytes(row)).map_err(arrow)?;
        opened.window.admit(&opened.client, &opened.fence, epoch, &chunks)?;
        let name = format!("{pipeline}/{}/{}/{epoch}/{shard}", opened.instance, spec.name);
        for (at, chunk) in chunks.into_iter().enumerate() {
            let token = format!("{name}/{at}");
            let mut refused = Vec::new();
            opened.insert(spec, &encoder, &token, &chunk, &chunk, &mut refused)?;
            if !refused.is_empty() {
                opened.set_aside(spec, epoch, &token, &rows, &refused)?;
            }
        }
        opened.owner.wrote(&opened.client, &opened.fence, epoch)
    }
}

impl Opened {
    /// Inserts a part of `whole`; where a value is refused, its halves, down to the rows that are.
    ///
    /// The halves have tokens of their own, by position, so that they too are recognised when they come again.
    fn insert(
        &mut self,
        spec: &TableSpec,
        encoder: &Encoder,
        token: &str,
        whole: &Chunk,
        part: &Chunk,
        refused: &mut Vec<Refused>,
    ) -> Result<(), SinkError> {
        let rows = part.rows.clone();
        debug_assert!(rows.end <= encoder.rows());
        encoder.write(rows.clone(), &mut self.buffer);
        let own = if part == whole {
            token.to_owned()
        } else {
            format!("{token}/{}-{}", rows.start - whole.rows.start, rows.end - whole.rows.start)
        };
        let Self { client, fence, statement, buffer, .. } = self;
        let (error, verdict) = match until_answered(client, fence, || client.insert(statement, Some(&own), buffer)) {
            Ok(()) => return Ok(()),
            Err(Ended::Fenced(error)) => return Err(error),
            Err(Ended::Refused(error, verdict)) => (error, verdict),
        };
        self.still_fits(spec)?;
        if verdict != Verdict::Rejected {
            return Err(self.client.failed(&format!("take rows for table {}", spec.name), error).into());
        }
        if rows.len() == 1 {
            refused.push(Refused { row: rows.start, reason: chain(&error) });
            return Ok(());
        }
        let middle = rows.start + rows.len() / 2;
        for half in [rows.start..middle, middle..rows.end] {
            let half = Chunk { rows: half, partitions: part.partitions };
            self.insert(spec, encoder, token, whole, &half, refused)?;
        }
        Ok(())
    }

    /// Keeps what the table did not take.
    fn set_aside(
        &self,
        spec: &TableSpec,
        epoch: Epoch,
        token: &str,
        rows: &RecordBatch,
        refused: &[Refused],
    ) -> Result<(), SinkError> {
        let body = rejected::body(spec, epoch, rows, refused);
        let statement = insert_statement(REJECTED, &rejected::columns());
        let (client, reason) = (&self.client, &refused[0].reason);
        answer(client, &self.fence, "keep rejected rows", || client.insert(&statement, Some(token), &body))?;
        warn!(
            "table {} did not take {} rows of epoch {epoch}, they are in {REJECTED}: {reason}",
            spec.name,
            refused.len()
        );
        Ok(())
    }

    /// Whether it is the table that has changed.
    fn still_fits(&self, spec: &TableSpec) -> Result<(), SinkError> {
        inspect(&self.client, &self.fence, spec)?;
        Ok(())
    }
}

/// Fails with everything that is wrong with a table; else what was found.
fn inspect(client: &Client, fence: &Fence, spec: &TableSpec) -> Result<Found, SinkError> {
    let expected = objects(std::slice::from_ref(spec), Retention::default())?;
    let found = answer(client, fence, "describe its tables", || {
        if client.database_exists()? { Found::read(client) } else { Ok(Found::default()) }
    })?;
    require(client, differences(&found, &expected))?;
    Ok(found)
}

impl TableWriter for ClickHouseTable {
    fn open(&mut self, start: &SinkStart) -> Result<(), SinkError> {
        let client = Client::new(&self.target)?;
        let fence = Fence::clone(&start.fence);
        let found = inspect(&client, &fence, &self.spec)?;
        writable_settings(&client, &fence)?;
        let epochs = self.in_flight.max(start.bound.saturating_sub(start.committed));
        let window = Window::of(&found, &self.spec, epochs, self.shards);
        window.require(&client, self.limits.days as u64)?;
        let owner = Owner::claim((&client, &fence), &self.spec, (&self.pipeline, self.shown), start)?;
        let statement = insert_statement(&insert_table(&self.spec), &ddl::sent_columns(&self.spec)?);
        let instance = start.instance.clone();
        self.opened = Some(Opened { client, fence, owner, instance, statement, window, buffer: Vec::new() });
        Ok(())
    }

    fn write_epoch(&mut self, epoch: Epoch, shard: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        if rows.iter().any(|batch| batch.num_rows() > 0) {
            let folded = fold(&self.spec, &rows)?;
            drop(rows);
            if folded.num_rows() > 0 {
                self.place(epoch, shard, &folded)?;
            }
        }
        Ok(Vec::new())
    }
}

/// Whether the user may say how inserts are treated: rows that the server gathered by itself would lose their tokens.
fn writable_settings(client: &Client, fence: &Fence) -> Result<(), SinkError> {
    let sql = "SELECT name FROM system.settings WHERE readonly != 0 AND \
               name IN ('async_insert', 'insert_deduplicate', 'insert_deduplication_token') ORDER BY name";
    let rows = answer(client, fence, "show its settings", || client.rows(sql))?;
    match rows.first().and_then(|row| row.first()?.as_str()) {
        None => Ok(()),
        Some(setting) => {
            Err(ClickHouseError::ReadOnlySetting { at: client.target().at(), setting: setting.to_owned() }.into())
        }
    }
}
