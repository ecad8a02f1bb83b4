//! Putting a rebuilt set of tables in the place of the live one.
//!
//! Names stay, contents change places: views, feeds and writers go on by name. The plan says which contents belong where, so
//! that an exchange that was interrupted, or is asked for again, ends the same. The writer of the live tables must have
//! stopped: a table that is exchanged knows none of the tokens of the other one. Whoever wrote to the live table finds noted that
//! the other one is its own now ([`crate::identity`]).

use clickhouse::error::Error;
use serde::{Deserialize, Serialize};
use tidemill_tables::TableSpec;

use crate::check::Found;
use crate::client::Client;
use crate::ddl::{self, suffixed};
use crate::error::ClickHouseError;
use crate::identity;
use crate::owner::note_writer;
use crate::target::Target;

/// One table whose contents change places with another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchange {
    /// The table that is read and written by its name.
    pub live: String,
    /// The table that was built beside it.
    pub rebuilt: String,
    /// The identity of what was built, which it keeps under another name.
    pub uuid: String,
    /// Who writes to the live table from then on; plans of earlier versions do not say it.
    #[serde(default)]
    pub writer: Option<Writer>,
}

/// Who writes to a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// The table as users know it.
    pub table: String,
    /// The instance of the pipeline's log.
    pub instance: String,
    /// The pipeline.
    pub pipeline: String,
    /// The epoch through which the rebuilt table holds the rows.
    pub epoch: u64,
}

/// What has to change places so that the tables rebuilt with `suffix` become the live ones of the log `instance` of
/// `pipeline`, with all rows through `epoch`. Keep it until it is carried out.
///
/// # Errors
/// When a table is missing on either side, or the server fails.
pub fn plan_exchange(
    target: &Target,
    specs: &[TableSpec],
    suffix: &str,
    (pipeline, instance, epoch): (&str, &str, u64),
) -> Result<Vec<Exchange>, ClickHouseError> {
    let client = Client::patient(target)?;
    let found = Found::read(&client).map_err(|source| client.failed("describe its tables", source))?;
    let mut plan = Vec::new();
    for spec in specs {
        for (live, rebuilt) in ddl::storages(spec).into_iter().zip(ddl::storages(&suffixed(spec, suffix))) {
            let missing = |name: &str| {
                let reason = format!("table {name} is missing; `tidemill tables apply` creates it");
                client.failed("exchange tables", Error::Custom(reason))
            };
            found.get(&live).ok_or_else(|| missing(&live))?;
            let uuid = found.get(&rebuilt).ok_or_else(|| missing(&rebuilt))?.uuid.clone();
            let writer = Some(Writer {
                table: spec.name.clone(),
                instance: instance.to_owned(),
                pipeline: pipeline.to_owned(),
                epoch,
            });
            plan.push(Exchange { live, rebuilt, uuid, writer });
        }
    }
    Ok(plan)
}

/// Carries out a plan; what it has done before, it does not do again. Tables that are neither as they were planned nor as
/// they were to become (a database that was restored or moved since) are left alone.
///
/// Each table changes places at once, the tables of a set one after the other.
///
/// # Errors
/// When the server fails; what was done stays, and the same plan goes on from there.
pub fn exchange(target: &Target, plan: &[Exchange]) -> Result<(), ClickHouseError> {
    let client = Client::patient(target)?;
    let found = Found::read(&client).map_err(|source| client.failed("describe its tables", source))?;
    for Exchange { live, rebuilt, uuid, writer } in plan {
        if found.get(rebuilt).is_some_and(|object| object.uuid == *uuid) {
            let statement = format!("EXCHANGE TABLES {live} AND {rebuilt}");
            client.execute(&statement).map_err(|source| client.failed(&statement, source))?;
        } else if found.get(live).is_none_or(|object| object.uuid != *uuid) {
            continue;
        }
        if let Some(writer) = writer {
            hand_over(&client, live, uuid, writer).map_err(|source| client.failed("note its tables", source))?;
        }
    }
    Ok(())
}

/// Notes that the table `uuid` is the one called `live` that `writer` writes to, unless that was done.
fn hand_over(client: &Client, live: &str, uuid: &str, writer: &Writer) -> Result<(), Error> {
    let Writer { table, instance, pipeline, epoch } = writer;
    let tables = [live.to_owned()];
    let noted = identity::noted(client, Some(instance), &tables)?;
    if noted.get(live).is_some_and(|noted| noted.storage.uuid == uuid) {
        return Ok(());
    }
    note_writer(client, [table, instance, pipeline], 0, *epoch)?;
    identity::note(client, instance, &identity::read(client, &tables)?)
}
