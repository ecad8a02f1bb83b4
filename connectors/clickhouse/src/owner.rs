//! Whose rows a table holds: one instance of one pipeline, and through which epoch at least.
//!
//! Tokens begin with the instance, so rows of another one would be counted beside them, twice. A table that is empty can
//! be taken by an instance that has committed nothing; one with rows belongs to the instance that wrote them, for as long as
//! its log is there. One that has lost its rows since ([`crate::identity`]) is refused, at the start and while it is written.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clickhouse::error::Error;
use tidemill_dataflow::sink::{SinkError, SinkStart};
use tidemill_tables::TableSpec;
use tracing::warn;

use crate::apply::require;
use crate::check::{Found, everything_wrong, texts};
use crate::client::{Client, quote};
use crate::ddl::{self, PROGRESS, WRITERS};
use crate::error::ClickHouseError;
use crate::identity::{self, Kept, Loss, Seen, Storage};
use crate::retry::{Fence, answer};
use crate::row_binary::{header, insert_statement, write_text};
use crate::target::Target;

/// After how many epochs the highest one written is noted again, and the owner looked at.
const NOTE_EVERY: u64 = 64;
/// How often it is looked whether the tables still have their rows.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(60);

/// This instance's hold on one table.
pub(crate) struct Owner {
    table: String,
    instance: String,
    pipeline: String,
    shown: Shown,
    run: u64,
    noted: u64,
    /// The tables beneath.
    storages: Vec<String>,
    /// Whether a table is known whose rows can be missed.
    holds_rows: bool,
    /// The last epoch of which an earlier run may have written rows that a table would refuse by now; 0 for none.
    doubtful: u64,
    look: Look,
}

/// When to look at the tables again.
pub(crate) struct Look {
    every: Duration,
    last: Instant,
}

impl Look {
    pub(crate) fn every(every: Duration) -> Self {
        Self { every, last: now() }
    }

    /// Whether it is time; if so, the next time is counted from now.
    pub(crate) fn is_due(&mut self) -> bool {
        let due = self.last.elapsed() >= self.every;
        if due {
            self.last = now();
        }
        due
    }
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
        found: &Found,
        (pipeline, shown, look): (&str, Shown, Look),
        start: &SinkStart,
    ) -> Result<Self, SinkError> {
        let mut owner = Self {
            table: spec.name.clone(),
            instance: start.instance.clone(),
            pipeline: pipeline.to_owned(),
            shown,
            run: start.run,
            noted: 0,
            storages: ddl::storages(spec),
            holds_rows: false,
            doubtful: 0,
            look,
        };
        match owner.current(client, fence)? {
            Some(Written { instance, epoch, at }) if instance == start.instance => {
                let written = epoch.max(owner.shown(client, fence)?);
                if written > start.bound {
                    return Err(owner.lost(client, written, start.bound).judged());
                }
                let in_flight = start.bound > start.committed;
                let seen = owner.see(client, fence)?;
                // What was never committed is written again.
                if let Some(lost) = owner.first_lost(&seen, found, in_flight).filter(|_| start.committed > 0) {
                    return Err(lost.into_error(client).judged());
                }
                if seen.noted.is_empty() && owner.storages.len() > 1 && in_flight {
                    // An earlier build wrote these through views, whose tokens are others.
                    return Err(owner.in_flight(client, start).judged());
                }
                owner.doubtful = if in_flight && seen.altered_since(at) { start.bound } else { 0 };
                owner.note_storages(client, fence, &seen)?;
                owner.note(client, fence, epoch)?;
            }
            other => {
                if !is_empty(client, fence, spec)? {
                    return Err(owner.foreign(client, other.as_ref().map(|other| other.instance.as_str())).judged());
                }
                if start.committed > 0 {
                    return Err(owner.holds_nothing(client, start.committed).judged());
                }
                // A log that begins anew begins its progress anew.
                if shown == Shown::InProgress {
                    let forget = format!("DELETE FROM {PROGRESS}_data WHERE pipeline = {}", quote(pipeline));
                    answer(client, fence, "forget the progress of an earlier pipeline", || client.execute(&forget))?;
                }
                let seen = owner.see(client, fence)?;
                owner.note_storages(client, fence, &seen)?;
                owner.note(client, fence, 0)?;
            }
        }
        for table in owner.storages.iter().filter(|table| found.kept(table) == Kept::Unknown) {
            let place = client.target().place_of(table);
            warn!(
                "{place} has a TTL other than `inserted_at + INTERVAL ..`: rows that it loses by a fault are not missed"
            );
        }
        Ok(owner)
    }

    /// What was noted of the tables, and what they are; fails where one cannot be told from another of its name.
    fn see(&self, client: &Client, fence: &Fence) -> Result<Seen, SinkError> {
        let seen = answer(client, fence, WHAT, || Seen::read(client, Some(&self.instance), &self.storages))?;
        match seen.now.iter().find(|(_, storage)| !storage.has_identity()) {
            None => Ok(seen),
            Some((table, _)) => Err(ClickHouseError::Owner(format!(
                "{} has no UUID, so a table that is made anew cannot be told from it: create the database with ENGINE = Atomic",
                client.target().place_of(table)
            ))
            .judged()),
        }
    }

    fn first_lost(&self, seen: &Seen, found: &Found, in_flight: bool) -> Option<Lost> {
        let (storage, loss) = seen.lost(found, in_flight).into_iter().next()?;
        Some(Lost { storage, table: self.table.clone(), loss, pipeline: self.pipeline.clone() })
    }

    fn note_storages(&mut self, client: &Client, fence: &Fence, seen: &Seen) -> Result<(), SinkError> {
        let changed = seen.to_note();
        if !changed.is_empty() {
            answer(client, fence, "note its tables", || identity::note(client, &self.instance, &changed))?;
        }
        self.holds_rows |= self.storages.iter().all(|table| seen.now.get(table).is_some_and(Storage::has_rows));
        Ok(())
    }

    /// Whether an earlier run may have written rows of an epoch before somebody made a table refuse them.
    pub(crate) fn doubts(&self, epoch: u64) -> bool {
        epoch <= self.doubtful
    }

    /// Whether no row is known yet that could be missed.
    pub(crate) fn holds_nothing_yet(&self) -> bool {
        !self.holds_rows
    }

    /// Whether it is time to look whether the tables still have their rows, and are as they have to be.
    pub(crate) fn is_time_to_look(&mut self) -> bool {
        self.look.is_due()
    }

    /// Fails if a table lost what this instance wrote to it; else notes what the tables are by now.
    pub(crate) fn look(&mut self, client: &Client, fence: &Fence, found: &Found) -> Result<(), SinkError> {
        let seen = self.see(client, fence)?;
        match self.first_lost(&seen, found, false) {
            Some(lost) => Err(lost.into_error(client).judged()),
            None => self.note_storages(client, fence, &seen),
        }
    }

    /// A table that lost rows, asked once: for use between two attempts.
    pub(crate) fn lost_now(&self, client: &Client) -> Result<Option<Lost>, Error> {
        let seen = Seen::read(client, Some(self.instance.as_str()), &self.storages)?;
        Ok(self.first_lost(&seen, &Found::read(client)?, false))
    }

    /// Says now and then that an epoch is written, after looking whether the table is still this instance's.
    pub(crate) fn wrote(&mut self, client: &Client, fence: &Fence, epoch: u64) -> Result<(), SinkError> {
        if epoch < self.noted.saturating_add(NOTE_EVERY) {
            return Ok(());
        }
        match self.current(client, fence)? {
            Some(other) if other.instance != self.instance => Err(self.foreign(client, Some(&other.instance)).judged()),
            _ => self.note(client, fence, epoch),
        }
    }

    /// The instance that took the table last, and the highest epoch that it noted.
    fn current(&self, client: &Client, fence: &Fence) -> Result<Option<Written>, SinkError> {
        answer(client, fence, "say who writes its tables", || Written::last(client, &self.table))
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
        let Self { table, instance, pipeline, run, .. } = self;
        answer(client, fence, "note who writes a table", || {
            note_writer(client, [table, instance, pipeline], *run, epoch)
        })?;
        self.noted = epoch;
        Ok(())
    }

    fn foreign(&self, client: &Client, other: Option<&str>) -> ClickHouseError {
        let Self { table, instance, .. } = self;
        let whose = other.map_or("of which nobody noted the writer".to_owned(), |other| format!("of instance {other}"));
        let place = client.target().place_of(table);
        ClickHouseError::Owner(format!(
            "{place} holds rows {whose}, this pipeline is instance {instance}: give the --state that belongs to those rows, or \
             empty the tables, or name another database"
        ))
    }

    fn holds_nothing(&self, client: &Client, committed: u64) -> ClickHouseError {
        let Self { table, instance, pipeline, .. } = self;
        let target = client.target();
        let place = target.place_of(table);
        ClickHouseError::Owner(format!(
            "{place} is empty, and instance {instance} of this pipeline has committed epochs \
             through {committed}: the table was made anew, or is new; fill it with `tidemill tables refill {pipeline} --to \
             {target} --state PLACE`, or let it begin here with `tidemill tables accept {pipeline} --to {target} --state PLACE \
             --table {table}`"
        ))
    }

    fn in_flight(&self, client: &Client, start: &SinkStart) -> ClickHouseError {
        let (place, from, to) = (client.target().place_of(&self.table), start.committed + 1, start.bound);
        ClickHouseError::Owner(format!(
            "{place} may hold a part of epochs {from} to {to}, which an earlier version of this program wrote through views and \
             did not commit: that part would count twice; fill the table anew with `tidemill tables refill {} --to {} --state \
             PLACE --table {}`",
            self.pipeline,
            client.target(),
            self.table
        ))
    }

    fn lost(&self, client: &Client, written: u64, bound: u64) -> ClickHouseError {
        let Self { table, instance, .. } = self;
        let place = client.target().place_of(table);
        ClickHouseError::Owner(format!(
            "{place} holds epochs through {written} of instance {instance}, whose state knows them only through {bound}: part \
             of the state is lost; bring the newest state back, or begin anew with an empty database and an empty --state"
        ))
    }
}

/// The instance that took a table last.
struct Written {
    instance: String,
    /// The highest epoch that it noted.
    epoch: u64,
    /// When it did so last, by the server's clock, in seconds since 1970.
    at: i64,
}

impl Written {
    fn last(client: &Client, table: &str) -> Result<Option<Self>, Error> {
        let sql = format!(
            "SELECT instance, max(epoch), toUnixTimestamp(max(written_at)) FROM {WRITERS} WHERE name = {} GROUP BY instance \
             ORDER BY max(written_at) DESC LIMIT 1",
            quote(table)
        );
        let Some(row) = client.rows(&sql)?.into_iter().next() else { return Ok(None) };
        let [instance, epoch, at] = texts(row)?;
        let misread = || Error::Custom(format!("{epoch} and {at} are no numbers"));
        let (epoch, at) = (epoch.parse().map_err(|_| misread())?, at.parse().map_err(|_| misread())?);
        Ok(Some(Self { instance, epoch, at }))
    }
}

/// Notes that `instance` of `pipeline` writes `table`, and has written it through an epoch.
pub(crate) fn note_writer(
    client: &Client,
    [table, instance, pipeline]: [&str; 3],
    run: u64,
    epoch: u64,
) -> Result<(), Error> {
    let columns =
        [("name", "String"), ("instance", "String"), ("pipeline", "String"), ("run", "UInt64"), ("epoch", "UInt64")]
            .map(|(name, data_type)| (name.to_owned(), data_type.to_owned()));
    let mut body = header(&columns);
    for text in [table, instance, pipeline] {
        write_text(text, &mut body);
    }
    body.extend_from_slice(&run.to_le_bytes());
    body.extend_from_slice(&epoch.to_le_bytes());
    client.insert(&insert_statement(WRITERS, &columns), None, &body)
}

const WHAT: &str = "describe its tables";

#[expect(clippy::disallowed_methods, reason = "when to look at the tables again reaches no result")]
fn now() -> Instant {
    Instant::now()
}

/// A table that lost what was written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The table beneath.
    pub(crate) storage: String,
    /// The one that is known to users.
    pub(crate) table: String,
    pub(crate) loss: Loss,
    pub(crate) pipeline: String,
}

impl Lost {
    /// The sentence to stop with.
    pub(crate) fn into_error(self, client: &Client) -> ClickHouseError {
        let (what, so) = match self.loss {
            Loss::MadeAnew => ("was made anew since this pipeline wrote to it", "rows are missing there"),
            Loss::Emptied => ("was emptied since this pipeline wrote to it", "rows are missing there"),
            Loss::Replaced => (
                "had parts detached and attached, or dropped, while an epoch was being written",
                "it does not recognise that epoch any more, which could count twice",
            ),
        };
        let Lost { storage, table, pipeline, .. } = self;
        let target = client.target();
        ClickHouseError::Owner(format!(
            "{} {what}: {so}; stop the run, then fill it again with `tidemill tables refill {pipeline} --to {target} --state PLACE`, \
             or, if all of its rows are there or may be missing, `tidemill tables accept {pipeline} --to {target} --state PLACE \
             --table {table}`",
            target.place_of(&storage)
        ))
    }
}

/// The tables beneath those of `specs` that do not hold what the log `instance` has committed to them: they were emptied,
/// or dropped and made anew, or never written.
///
/// # Errors
/// When the server cannot be asked, or a table is not there.
pub fn missing(target: &Target, specs: &[TableSpec], instance: &str) -> Result<BTreeSet<String>, ClickHouseError> {
    let client = Client::patient(target)?;
    let failed = |source| client.failed(WHAT, source);
    let found = Found::read(&client).map_err(failed)?;
    require(&client, everything_wrong(&found, specs)?)?;
    let mut all = BTreeSet::new();
    for spec in specs {
        let storages = ddl::storages(spec);
        match Written::last(&client, &spec.name).map_err(failed)? {
            Some(last) if last.instance == instance => {}
            last => {
                require_no_rows(&client, spec, (instance, last.as_ref()))?;
                all.extend(storages);
                continue;
            }
        }
        let seen = Seen::read(&client, Some(instance), &storages).map_err(failed)?;
        all.extend(seen.lost(&found, true).into_iter().map(|(table, _)| table));
    }
    Ok(all)
}

/// Fails where a table holds rows that `instance` did not write.
fn require_no_rows(
    client: &Client,
    spec: &TableSpec,
    (instance, last): (&str, Option<&Written>),
) -> Result<(), ClickHouseError> {
    let failed = |source| client.failed("say whether a table is empty", source);
    for table in ddl::storages(spec) {
        if !client.rows(&format!("SELECT 1 FROM {table} LIMIT 1")).map_err(failed)?.is_empty() {
            let whose = last.map_or("nobody knows whose".to_owned(), |last| format!("of instance {}", last.instance));
            return Err(ClickHouseError::Owner(format!(
                "{} holds rows, {whose}, and the --state is that of instance {instance}: nothing was changed",
                client.target().place_of(&table)
            )));
        }
    }
    Ok(())
}

/// Whether all tables of `specs` are there, and `instance` was the last to write to each.
///
/// # Errors
/// When the server cannot be asked.
pub fn are_written_by(target: &Target, specs: &[TableSpec], instance: &str) -> Result<bool, ClickHouseError> {
    let client = Client::patient(target)?;
    let failed = |source| client.failed(WHAT, source);
    let found = Found::read(&client).map_err(failed)?;
    for spec in specs {
        let there = ddl::storages(spec).iter().all(|table| found.get(table).is_some());
        if !there || Written::last(&client, &spec.name).map_err(failed)?.is_none_or(|last| last.instance != instance) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes the tables of `specs` as they are for what the log `instance` of `pipeline` has written through `epoch`: what is
/// missing in them stays missing, what is there is not looked for again.
///
/// # Errors
/// When the server cannot be asked, a table is not there, or one belongs to another instance.
pub fn accept(
    target: &Target,
    specs: &[TableSpec],
    (pipeline, instance, epoch): (&str, &str, u64),
) -> Result<(), ClickHouseError> {
    let client = Client::patient(target)?;
    let failed = |source| client.failed("note its tables", source);
    let found = Found::read(&client).map_err(failed)?;
    require(&client, everything_wrong(&found, specs)?)?;
    for spec in specs {
        let table = spec.name.as_str();
        match Written::last(&client, table).map_err(failed)? {
            Some(last) if last.instance == instance => {}
            last => require_no_rows(&client, spec, (instance, last.as_ref()))?,
        }
        note_writer(&client, [table, instance, pipeline], 0, epoch).map_err(failed)?;
        identity::note_as_they_are(&client, instance, &ddl::storages(spec)).map_err(failed)?;
    }
    Ok(())
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
