//! The sink of one table: an epoch's rows, folded, cut into chunks, each chunk an insert that is recognised when it comes
//! again.
//!
//! Promises: INV-3 (the token of an insert is pipeline, instance, table, epoch, shard and chunk, for as long as there are
//! attempts, and its rows are the same each time, so writing it twice has the effect of once), INV-6 (a row that the table
//! refuses goes to `rejected_rows`).
//!
//! ```text
//! rows of (e, shard) -> fold, sort -> arrange by day if there are many -> cut -> per chunk:
//!
//!   tables with constraints: tried on copies first --+
//!                                                    v
//!   fence, insert with its token <---- rows that are refused are set aside
//!     | busy, away: again, for ever                  ^
//!     | a value refused: tried on copies ------------+ they refuse it
//!     |                        '---- they take it: a view of a user fails: stop
//!     ' the table has changed: stop
//! ```
//! An epoch of which only some chunks arrived is written again as a whole; the server drops those it has.

use std::collections::BTreeSet;
use std::time::Duration;

use arrow::array::RecordBatch;
use clickhouse::error::Error;
use tidemill_dataflow::sink::{DataFile, SinkError, SinkStart, TableWriter};
use tidemill_dataflow::time::Epoch;
use tidemill_tables::{Retention, TableSpec, fold};
use tracing::warn;

use crate::apply::require;
use crate::check::{Found, FoundObject, differences, everything_wrong};
use crate::chunks::{Chunk, ChunkLimits, arrange, cut};
use crate::client::Client;
use crate::ddl::{self, Insert, Kind, REJECTED, suffixed};
use crate::dry::{Dry, drop_left};
use crate::error::ClickHouseError;
use crate::owner::{LOOK_EVERY, Look, Owner, Shown};
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
    look_every: Duration,
    opened: Option<Opened>,
}

/// What there is after `open`.
struct Opened {
    client: Client,
    fence: Fence,
    owner: Owner,
    instance: String,
    run: u64,
    inserts: Vec<Insert>,
    /// Those of the inserts.
    statements: Vec<String>,
    /// A table may refuse a row for what it holds, so chunks are tried on copies before they are written.
    may_refuse: bool,
    window: Window,
    buffer: Vec<u8>,
}

/// A chunk on its way.
struct Shipment<'a> {
    spec: &'a TableSpec,
    epoch: Epoch,
    /// The rows of the epoch and shard, and the same as they are sent.
    rows: &'a RecordBatch,
    encoder: &'a Encoder,
    chunk: &'a Chunk,
    token: String,
}

impl ClickHouseTable {
    /// The table `spec` of `pipeline` in the database of `target`. Nothing is connected before `open`.
    #[must_use]
    pub fn new(target: Target, spec: TableSpec, pipeline: &str) -> Self {
        Self {
            target,
            spec,
            pipeline: pipeline.to_owned(),
            shown: Shown::InProgress,
            limits: ChunkLimits::default(),
            shards: 1,
            in_flight: IN_FLIGHT,
            look_every: LOOK_EVERY,
            opened: None,
        }
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

    /// The same table; it is looked at as often as this whether it has lost rows or changed.
    #[must_use]
    pub fn looking_every(self, time: Duration) -> Self {
        Self { look_every: time, ..self }
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
        opened.look_now_and_then(spec)?;
        opened.window.admit(&opened.client, &opened.fence, epoch, &chunks)?;
        let name = format!("{pipeline}/{}/{}/{epoch}/{shard}", opened.instance, spec.name);
        for (at, chunk) in chunks.iter().enumerate() {
            let token = format!("{name}/{at}");
            opened.ship(&Shipment { spec, epoch, rows: &rows, encoder: &encoder, chunk, token })?;
        }
        opened.wrote(spec, epoch)
    }
}

impl Opened {
    /// Writes a chunk, but for the rows that a table refuses: those are set aside before.
    fn ship(&mut self, shipment: &Shipment<'_>) -> Result<(), SinkError> {
        let Shipment { spec, encoder, chunk, .. } = *shipment;
        let mut refused = if self.may_refuse { self.refused(shipment)? } else { Vec::new() };
        loop {
            let aside: BTreeSet<usize> = refused.iter().map(|one| one.row).collect();
            if aside.len() == chunk.rows.len() {
                return Ok(());
            }
            encoder.write(chunk.rows.clone().filter(|row| !aside.contains(row)), &mut self.buffer);
            let (at, error, verdict) = match self.insert(&shipment.token)? {
                None => return Ok(()),
                Some(failed) => failed,
            };
            let found = inspect(&self.client, &self.fence, spec, Scope::Everything)?;
            // What the first table has taken cannot be set aside any more.
            if verdict == Verdict::Rejected && refused.is_empty() && at == 0 {
                refused = self.refused(shipment)?;
                if !refused.is_empty() {
                    continue;
                }
            }
            let insert = &self.inserts[at];
            return Err(self.failed(shipment, insert, error, &found)?.judged());
        }
    }

    /// Sends the buffer to all of the tables; gives which of the inserts was refused, and why.
    fn insert(&self, token: &str) -> Result<Option<(usize, Error, Verdict)>, SinkError> {
        let Self { client, fence, owner, statements, buffer, .. } = self;
        let (mut failed, mut attempts, mut lost) = (0, 0, None);
        let sent = until_answered(client, fence, || {
            attempts += 1;
            // A server that was away may come back with other tables, or count blocks anew.
            if attempts > 1 {
                lost = owner.lost_now(client)?;
                if lost.is_some() {
                    return Ok(());
                }
            }
            client.insert_by_all(statements, token, buffer).map_err(|(at, error)| {
                failed = at;
                error
            })
        });
        match (sent, lost) {
            (Ok(()), Some(lost)) => Err(lost.into_error(client).judged()),
            (Ok(()), None) => Ok(None),
            (Err(Ended::Fenced(error)), _) => Err(error),
            (Err(Ended::Refused(error, verdict)), _) => Ok(Some((failed, error, verdict))),
        }
    }

    /// The rows of a chunk that a table refuses, which are kept beside it now.
    fn refused(&self, shipment: &Shipment<'_>) -> Result<Vec<Refused>, SinkError> {
        let mut dry = Dry::new(&self.client, &self.fence, &self.inserts, self.run)?;
        let refused = dry.refused(shipment.encoder, shipment.chunk.rows.clone())?;
        let Some(first) = refused.first() else { return Ok(refused) };
        if self.owner.doubts(shipment.epoch) {
            let place = self.client.target().place_of(&shipment.spec.name);
            let (row, reason) = (rejected::shown(shipment.spec, shipment.rows, first.row), &first.reason);
            return Err(
                ClickHouseError::Doubtful { place, epoch: shipment.epoch, row, reason: reason.clone() }.judged()
            );
        }
        self.set_aside(shipment, &refused)?;
        Ok(refused)
    }

    /// Keeps what the table does not take.
    fn set_aside(&self, shipment: &Shipment<'_>, refused: &[Refused]) -> Result<(), SinkError> {
        let Shipment { spec, epoch, rows, token, .. } = shipment;
        let body = rejected::body(spec, *epoch, rows, refused);
        let statement = insert_statement(REJECTED, &rejected::columns());
        let (client, reason) = (&self.client, &refused[0].reason);
        answer(client, &self.fence, "keep rejected rows", || client.insert(&statement, Some(token), &body))?;
        warn!(
            "table {} does not take {} rows of epoch {epoch}, they are in {REJECTED}: {reason}",
            spec.name,
            refused.len()
        );
        Ok(())
    }

    /// The sentence for an insert that every table takes and the server refuses: a view behind them fails, or the server
    /// says why.
    fn failed(
        &self,
        shipment: &Shipment<'_>,
        insert: &Insert,
        error: Error,
        found: &Found,
    ) -> Result<ClickHouseError, SinkError> {
        let place = self.client.target().place_of(&insert.table);
        let views: Vec<&str> = found.readers(&insert.table).collect();
        if views.is_empty() || !is_of_a_view(&error) {
            return Ok(ClickHouseError::Refuses { place, source: error });
        }
        let rows = (shipment.encoder, shipment.chunk.rows.clone());
        let row = Dry::fails_a_view(&self.client, &self.fence, insert, self.run, rows, found)?;
        Ok(ClickHouseError::View {
            place,
            views: views.join(", "),
            row: row.map(|refused| rejected::shown(shipment.spec, shipment.rows, refused.row)),
            source: error,
        })
    }

    /// Looks once a minute whether the tables have their rows and are as they have to be.
    fn look_now_and_then(&mut self, spec: &TableSpec) -> Result<(), SinkError> {
        if self.owner.is_time_to_look() { self.look(spec) } else { Ok(()) }
    }

    fn look(&mut self, spec: &TableSpec) -> Result<(), SinkError> {
        let found = inspect(&self.client, &self.fence, spec, Scope::Storages)?;
        self.may_refuse = may_refuse(&found, spec)?;
        self.owner.look(&self.client, &self.fence, &found)
    }

    /// An epoch is written: says so now and then. The first rows are missed from then on.
    fn wrote(&mut self, spec: &TableSpec, epoch: Epoch) -> Result<(), SinkError> {
        if self.owner.holds_nothing_yet() {
            self.look(spec)?;
        }
        self.owner.wrote(&self.client, &self.fence, epoch)
    }
}

/// Whether an insert failed for a view behind the table, or for what that view writes to.
fn is_of_a_view(error: &Error) -> bool {
    let text = chain(error);
    text.contains("while pushing to view") || text.contains("of view")
}

/// What is compared with what it has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Everything,
    /// What rows are written to; what readers see is no matter of a run that goes on.
    Storages,
}

/// Whether one of the tables may refuse a row for what it holds.
fn may_refuse(found: &Found, spec: &TableSpec) -> Result<bool, ClickHouseError> {
    let objects = ddl::table(spec, Retention::default())?;
    let storages = ddl::storages(spec);
    Ok(objects.iter().filter(|object| storages.contains(&object.name)).any(|object| {
        let plain = object.columns.iter().map(|(name, _)| name);
        let own: Vec<String> = plain.chain(object.filled.iter().map(|(name, ..)| name)).cloned().collect();
        found.get(&object.name).is_some_and(|there: &FoundObject| there.may_refuse(&own))
    }))
}

/// Fails with everything that is wrong with a table; else what was found.
fn inspect(client: &Client, fence: &Fence, spec: &TableSpec, scope: Scope) -> Result<Found, SinkError> {
    let found = answer(client, fence, "describe its tables", || {
        if client.database_exists()? { Found::read(client) } else { Ok(Found::default()) }
    })?;
    let wrong = match scope {
        Scope::Everything => everything_wrong(&found, std::slice::from_ref(spec))?,
        Scope::Storages => {
            let mut expected = ddl::table(spec, Retention::default())?;
            expected.retain(|object| matches!(object.kind, Kind::Table { .. }));
            differences(&found, &expected)
        }
    };
    require(client, wrong).map_err(ClickHouseError::judged)?;
    Ok(found)
}

impl TableWriter for ClickHouseTable {
    fn open(&mut self, start: &SinkStart) -> Result<(), SinkError> {
        let client = Client::new(&self.target)?;
        let fence = Fence::clone(&start.fence);
        let found = inspect(&client, &fence, &self.spec, Scope::Everything)?;
        writable_settings(&client, &fence)?;
        let epochs = self.in_flight.max(start.bound.saturating_sub(start.committed));
        let window = Window::of(&found, &self.spec, epochs, self.shards);
        window.require(&client, self.limits.days as u64).map_err(ClickHouseError::judged)?;
        let may_refuse = may_refuse(&found, &self.spec)?;
        if may_refuse {
            // Alterations are dated to the second: those before now are told from later ones.
            client.wait(Duration::from_millis(1_100));
        }
        let owner = Owner::claim(
            (&client, &fence),
            &self.spec,
            &found,
            (&self.pipeline, self.shown, Look::every(self.look_every)),
            start,
        )?;
        let (instance, run, inserts) = (start.instance.clone(), start.run, ddl::inserts(&self.spec)?);
        drop_left(&client, &fence, &inserts, run)?;
        let (statements, buffer) = (inserts.iter().map(Insert::statement).collect(), Vec::new());
        let opened = Opened { client, fence, owner, instance, run, inserts, statements, may_refuse, window, buffer };
        self.opened = Some(opened);
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
    match answer(client, fence, "show its settings", || client.forbidden_setting())? {
        None => Ok(()),
        Some(setting) => {
            Err(ClickHouseError::ReadOnlySetting { at: client.target().at(), setting: setting.to_owned() }.judged())
        }
    }
}
