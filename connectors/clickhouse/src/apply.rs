//! `tidemill tables apply`: creates what is missing, replaces views of another version, adjusts retention; deletes nothing.
//!
//! Applying twice changes nothing the second time. What it cannot mend without deleting rows (a column of another type,
//! another order) it leaves as it is and says so.

use std::fmt;

use tidemill_tables::{Retention, TableSpec};

use crate::check::{
    Difference, Found, FoundObject, differences, everything_wrong, left_behind, objects, window_statement,
};
use crate::client::{Client, quote};
use crate::ddl::{self, DEDUP_WINDOW, Kind, Object, retention_clause};
use crate::error::ClickHouseError;
use crate::target::Target;

/// One thing that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A database, table or view was created.
    Created(String),
    /// A view was put in the place of another version.
    Replaced(String),
    /// A view or an empty table of an earlier version was dropped.
    Dropped(String),
    /// A table was altered.
    Altered {
        /// The table.
        table: String,
        /// The alteration, as ClickHouse's SQL has it.
        statement: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created(name) => write!(out, "created {name}"),
            Self::Replaced(name) => write!(out, "replaced {name}"),
            Self::Dropped(name) => write!(out, "dropped {name}, which held no rows"),
            Self::Altered { statement, .. } => out.write_str(statement),
        }
    }
}

/// Creates the database and all tables of the analytics pipelines, or brings what is there up to date.
///
/// Pipelines of this version may go on meanwhile. Those of an earlier one must be stopped: they write through views that are
/// dropped.
///
/// # Errors
/// When the server refuses, or a table is there that differs in a way that only its owner can decide about; what could be
/// done is done then.
pub fn apply(target: &Target, retention: Retention) -> Result<Vec<Change>, ClickHouseError> {
    apply_tables(target, &ddl::default_tables(), retention)
}

/// The same for the tables named: further ones, or a set to be rebuilt beside the live one ([`ddl::suffixed`]).
///
/// # Errors
/// As [`apply`], and when a table cannot be described in ClickHouse.
pub fn apply_tables(
    target: &Target,
    specs: &[TableSpec],
    retention: Retention,
) -> Result<Vec<Change>, ClickHouseError> {
    let expected = objects(specs, retention)?;
    let client = Client::patient(target)?;
    let failed = |what: &str| {
        let what = what.to_owned();
        let client = &client;
        move |source| client.failed(&what, source)
    };
    let mut changes = Vec::new();
    if !client.database_exists().map_err(failed("list its databases"))? {
        client.create_database().map_err(failed("create the database"))?;
        changes.push(Change::Created(target.database().to_owned()));
    }
    let found = Found::read(&client).map_err(failed("describe its tables"))?;
    let wrong = differences(&found, &expected);
    for object in &expected {
        for (statement, change) in steps(object, &found, &wrong) {
            client.execute(&statement).map_err(failed(&format!("run {statement:?}")))?;
            changes.push(change);
        }
    }
    for gone in left_behind(&found, specs).iter().filter(|gone| gone.remedy.starts_with("DROP ")) {
        client.execute(&format!("{} SYNC", gone.remedy)).map_err(failed(&gone.remedy))?;
        changes.push(Change::Dropped(gone.object.clone()));
    }
    let after = Found::read(&client).map_err(failed("describe its tables"))?;
    let left = everything_wrong(&after, specs)?;
    if left.is_empty() {
        return Ok(changes);
    }
    Err(ClickHouseError::Differs { at: target.at(), database: target.database().to_owned(), differences: left })
}

/// Drops the tables named with everything beneath them: a rebuilt set that is no longer wanted.
///
/// # Errors
/// When the server refuses.
pub fn drop_tables(target: &Target, specs: &[TableSpec]) -> Result<(), ClickHouseError> {
    let client = Client::patient(target)?;
    for spec in specs {
        let run = |statement: String| client.execute(&statement).map_err(|source| client.failed(&statement, source));
        for object in ddl::table(spec, Retention::default())?.iter().rev() {
            let what = if matches!(object.kind, Kind::Table { .. }) { "TABLE" } else { "VIEW" };
            run(format!("DROP {what} IF EXISTS {} SYNC", object.name))?;
        }
        run(format!("DELETE FROM {} WHERE name = {}", ddl::WRITERS, quote(&spec.name)))?;
        for storage in ddl::storages(spec) {
            run(format!("DELETE FROM {} WHERE name = {}", ddl::STORAGES, quote(&storage)))?;
        }
    }
    Ok(())
}

/// What brings one object up to date.
fn steps(object: &Object, found: &Found, wrong: &[Difference]) -> Vec<(String, Change)> {
    let name = &object.name;
    let Some(there) = found.get(name) else {
        return vec![(object.create(), Change::Created(name.clone()))];
    };
    let differs = wrong.iter().any(|difference| difference.object == *name);
    let replaced = Change::Replaced(name.clone());
    let altered = |statement: String| {
        let change = Change::Altered { table: name.clone(), statement: statement.clone() };
        (statement, change)
    };
    match &object.kind {
        Kind::View { .. } if differs && there.engine == "View" => {
            object.replace().map(|statement| (statement, replaced)).into_iter().collect()
        }
        Kind::Table { retention_days, remembers, .. } if there.engine.ends_with(object.engine()) => {
            let mut all: Vec<_> = widenings(object, there).map(altered).collect();
            if *remembers && there.window() == 0 {
                all.push(altered(window_statement(name, DEDUP_WINDOW)));
            }
            if let Some(days) = retention_days {
                let wanted = (*days > 0).then(|| retention_clause(*days));
                match (there.retention(), wanted) {
                    (Some(ttl), Some(wanted)) if ttl == wanted => {}
                    (None, None) => {}
                    (_, Some(wanted)) => all.push(altered(format!("ALTER TABLE {name} MODIFY TTL {wanted}"))),
                    (Some(_), None) => all.push(altered(format!("ALTER TABLE {name} REMOVE TTL"))),
                }
            }
            all
        }
        _ => Vec::new(),
    }
}

/// What gives columns the type they have to have.
fn widenings(object: &Object, there: &FoundObject) -> impl Iterator<Item = String> {
    object.columns.iter().filter_map(|(column, expected)| {
        let (_, found) = there.columns.iter().find(|(found, _)| found == column)?;
        ddl::widening(&object.name, column, found, expected)
    })
}

/// Fails with everything that is wrong with the objects of a table, and of the database.
pub(crate) fn require(client: &Client, wrong: Vec<Difference>) -> Result<(), ClickHouseError> {
    if wrong.is_empty() {
        return Ok(());
    }
    let target: &Target = client.target();
    Err(ClickHouseError::Differs { at: target.at(), database: target.database().to_owned(), differences: wrong })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_as_a_sentence() {
        assert_eq!(Change::Created("raw_events".to_owned()).to_string(), "created raw_events");
        let statement = window_statement("raw_events_data", 5);
        let change = Change::Altered { table: "raw_events_data".to_owned(), statement };
        assert!(change.to_string().starts_with("ALTER TABLE raw_events_data"));
    }
}
