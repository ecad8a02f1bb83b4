//! Whose rows a table holds: one instance of one pipeline, and through which epoch at least.
//!
//! Tokens begin with the instance, so rows of another one would be counted beside them, twice. A table that is empty can
//! be taken; one with rows belongs to the instance that wrote them, for as long as its log is there.

use tidemill_dataflow::sink::{SinkError, SinkStart};
use tidemill_tables::TableSpec;

use crate::check::texts;
use crate::client::{Client, quote};
use crate::ddl::{self, PROGRESS, WRITERS};
use crate::error::ClickHouseError;
use crate::retry::{Fence, answer};
use crate::row_binary::{header, insert_statement, write_text};

/// After how many epochs the highest one written is noted again, and the owner looked at.
const NOTE_EVERY: u64 = 64;

/// This instance's hold on one table.
pub(crate) struct Owner {
    table: String,
    instance: String,
    pipeline: String,
    shown: Shown,
    run: u64,
    noted: u64,
}

/// Where readers learn how far a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// In `progress`, with all tables of its pipeline.
    InProgress,
    /// Nowhere: a table that is rebuilt beside the live ones, by a replay with a log of its own.
    Nowhere,
}

impl Owner {
    /// Takes the table, or refuses with a sentence.
    pub(crate) fn claim(
        (client, fence): (&Client, &Fence),
        spec: &TableSpec,
        (pipeline, shown): (&str, Shown),
        start: &SinkStart,
    ) -> Result<Self, SinkError> {
        let mut owner = Self {
            table: spec.name.clone(),
            instance: start.instance.clone(),
            pipeline: pipeline.to_owned(),
            shown,
            run: start.run,
            noted: 0,
        };
        match owner.current(client, fence)? {
            Some((instance, epoch)) if instance == start.instance => {
                let written = epoch.max(owner.shown(client, fence)?);
                if written > start.bound {
                    return Err(owner.lost(client, written, start.bound).into());
                }
                owner.noted = epoch;
            }
            other => {
                if !is_empty(client, fence, spec)? {
                    return Err(owner.foreign(client, other.as_ref().map(|(instance, _)| instance.as_str())).into());
                }
                // A log that begins anew begins its progress anew.
                if start.committed == 0 && shown == Shown::InProgress {
                    let forget = format!("DELETE FROM {PROGRESS}_data WHERE pipeline = {}", quote(pipeline));
                    answer(client, fence, "forget the progress of an earlier pipeline", || client.execute(&forget))?;
                }
                owner.note(client, fence, 0)?;
            }
        }
        Ok(owner)
    }

    /// Says now and then that an epoch is written, after looking whether the table is still this instance's.
    pub(crate) fn wrote(&mut self, client: &Client, fence: &Fence, epoch: u64) -> Result<(), SinkError> {
        if epoch < self.noted.saturating_add(NOTE_EVERY) {
            return Ok(());
        }
        match self.current(client, fence)? {
            Some((instance, _)) if instance != self.instance => Err(self.foreign(client, Some(&instance)).into()),
            _ => self.note(client, fence, epoch),
        }
    }

    /// The instance that took the table last, and the highest epoch that it noted.
    fn current(&self, client: &Client, fence: &Fence) -> Result<Option<(String, u64)>, SinkError> {
        let what = "say who writes its tables";
        let sql = format!(
            "SELECT instance, max(epoch) FROM {WRITERS} WHERE name = {} GROUP BY instance ORDER BY max(written_at) DESC LIMIT 1",
            quote(&self.table)
        );
        let rows = answer(client, fence, what, || client.rows(&sql))?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let [instance, epoch] = texts(row).map_err(|_| client.not_understood(what))?;
        Ok(Some((instance, epoch.parse().map_err(|_| client.not_understood(what))?)))
    }

    /// The epoch that `progress` shows for this pipeline's tables; 0 where it says nothing.
    fn shown(&self, client: &Client, fence: &Fence) -> Result<u64, SinkError> {
        if self.shown == Shown::Nowhere {
            return Ok(0);
        }
        let what = "say how far its tables are";
        let sql = format!("SELECT max(epoch) FROM {PROGRESS}_data WHERE pipeline = {}", quote(&self.pipeline));
        let rows = answer(client, fence, what, || client.rows(&sql))?;
        let epoch = rows.first().and_then(|row| row.first()?.as_u64());
        Ok(epoch.ok_or_else(|| client.not_understood(what))?)
    }

    fn note(&mut self, client: &Client, fence: &Fence, epoch: u64) -> Result<(), SinkError> {
        let columns = [
            ("name", "String"),
            ("instance", "String"),
            ("pipeline", "String"),
            ("run", "UInt64"),
            ("epoch", "UInt64"),
        ]
        .map(|(name, data_type)| (name.to_owned(), data_type.to_owned()));
        let mut body = header(&columns);
        for text in [&self.table, &self.instance, &self.pipeline] {
            write_text(text, &mut body);
        }
        body.extend_from_slice(&self.run.to_le_bytes());
        body.extend_from_slice(&epoch.to_le_bytes());
        let statement = insert_statement(WRITERS, &columns);
        answer(client, fence, "note who writes a table", || client.insert(&statement, None, &body))?;
        self.noted = epoch;
        Ok(())
    }

    fn foreign(&self, client: &Client, other: Option<&str>) -> ClickHouseError {
        let Self { table, instance, .. } = self;
        let whose = other.map_or("of which nobody noted the writer".to_owned(), |other| format!("of instance {other}"));
        let target = client.target();
        ClickHouseError::Owner(format!(
            "table {table} in database {} at {} holds rows {whose}, this pipeline is instance {instance}: give the \
             --state that belongs to those rows, or empty the tables, or name another database",
            target.database(),
            target.at()
        ))
    }

    fn lost(&self, client: &Client, written: u64, bound: u64) -> ClickHouseError {
        let Self { table, instance, .. } = self;
        let target = client.target();
        ClickHouseError::Owner(format!(
            "table {table} in database {} at {} holds epochs through {written} of instance {instance}, whose state knows \
             them only through {bound}: part of the state is lost; bring the newest state back, or begin anew with an \
             empty database and an empty --state",
            target.database(),
            target.at()
        ))
    }
}

/// Whether no row is stored in any of the tables beneath; what a view hides counts too.
fn is_empty(client: &Client, fence: &Fence, spec: &TableSpec) -> Result<bool, SinkError> {
    for table in ddl::storages(spec) {
        let sql = format!("SELECT 1 FROM {table} LIMIT 1");
        if !answer(client, fence, "say whether a table is empty", || client.rows(&sql))?.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}
