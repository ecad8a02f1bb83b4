//! Putting a rebuilt set of tables in the place of the live one.
//!
//! Names stay, contents change places: views, feeds and writers go on by name. The plan says which contents belong where, so
//! that an exchange that was interrupted, or is asked for again, ends the same. The writer of the live tables must have
//! stopped: a table that is exchanged knows none of the tokens of the other one. Whoever wrote to the live table finds noted that
//! the other one is its own now ([`crate::identity`]).

use clickhouse::error::Error;
use serde::{Deserialize, Serialize};
use tidemill_tables::{Retention, TableSpec};

use crate::apply::require;
use crate::check::{Found, everything_wrong};
use crate::client::{Client, quote};
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
    /// What the table that was live is called afterwards; by the rebuilt one's name where it is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
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

/// Makes empty tables beside the live ones of `specs`, under their names with `suffix` behind them: of the same engine,
/// settings, retention and constraints, whatever their owner made of them. What is there already stays.
///
/// # Errors
/// When a live table is missing or is not as it has to be, belongs to a cluster of replicas, or the server fails.
pub fn make_beside(target: &Target, specs: &[TableSpec], suffix: &str) -> Result<(), ClickHouseError> {
    let client = Client::patient(target)?;
    let found = Found::read(&client).map_err(|source| client.failed("describe its tables", source))?;
    require(&client, everything_wrong(&found, specs)?)?;
    // An owner may have added columns to a table that is there, which newer servers do not take in one that is created.
    let lenient = "allow_dimensions_outside_sorting_key";
    let known = format!("SELECT 1 FROM system.merge_tree_settings WHERE name = '{lenient}'");
    let known = !client.rows(&known).map_err(|source| client.failed("show its settings", source))?.is_empty();
    let settings = if known { format!(" SETTINGS {lenient} = 1") } else { String::new() };
    for spec in specs {
        let of = |one: &TableSpec| ddl::table(one, Retention::default());
        for (live, beside) in of(spec)?.iter().zip(of(&suffixed(spec, suffix))?) {
            if found.get(&live.name).is_some_and(|there| there.engine.starts_with("Replicated")) {
                return Err(ClickHouseError::Owner(format!(
                    "{} is replicated: a copy beside it would need a path of its own in the keeper, and is not made; rebuild into a \
                     database without replicas",
                    target.place_of(&live.name)
                )));
            }
            let statement = beside
                .replace()
                .unwrap_or_else(|| format!("CREATE TABLE IF NOT EXISTS {} AS {}{settings}", beside.name, live.name));
            client.execute(&statement).map_err(|source| client.failed(&statement, source))?;
        }
    }
    Ok(())
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
            plan.push(Exchange { live, rebuilt, uuid, writer, kept: None });
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
    let uuid_of = |name: &str| {
        let sql = format!(
            "SELECT toString(uuid) FROM system.tables WHERE database = currentDatabase() AND name = {}",
            quote(name)
        );
        let rows = client.rows(&sql).map_err(|source| client.failed("describe its tables", source))?;
        Ok::<_, ClickHouseError>(rows.first().and_then(|row| Some(row.first()?.as_str()?.to_owned())))
    };
    let run = |statement: &str| client.execute(statement).map_err(|source| client.failed(statement, source));
    for Exchange { live, rebuilt, uuid, writer, kept } in plan {
        let planned = Some(uuid.clone());
        if uuid_of(rebuilt)? == planned {
            run(&format!("EXCHANGE TABLES {live} AND {rebuilt}"))?;
        }
        // Asked again: what is noted below is of the table that has the name now.
        if uuid_of(live)? != planned {
            continue;
        }
        if let Some(kept) = kept
            && uuid_of(rebuilt)?.is_some()
        {
            run(&format!("RENAME TABLE {rebuilt} TO {kept}"))?;
        }
        if let Some(writer) = writer {
            hand_over(&client, live, uuid, writer).map_err(|source| client.failed("note its tables", source))?;
        }
    }
    Ok(())
}

/// What the tables that were live are called after an exchange. Those without a row are dropped.
///
/// # Errors
/// When the server fails.
pub fn left_over(target: &Target, plan: &[Exchange]) -> Result<Vec<String>, ClickHouseError> {
    let client = Client::patient(target)?;
    let mut left = Vec::new();
    for table in plan.iter().filter_map(|exchange| exchange.kept.as_deref()) {
        let failed = |source| client.failed(&format!("look into {table}"), source);
        if client.rows(&format!("SELECT 1 FROM {table} LIMIT 1")).map_err(failed)?.is_empty() {
            client.execute(&format!("DROP TABLE {table} SYNC")).map_err(failed)?;
        } else {
            left.push(table.to_owned());
        }
    }
    Ok(left)
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
    identity::note_as_they_are(client, instance, &tables)
}
