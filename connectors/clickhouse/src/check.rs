//! Whether the tables are as they have to be; everything that is wrong is said at once.
//!
//! Promise (INV-3): a writer starts only where every table that it writes to recognises a repeated insert for as long as
//! one can come.

use std::collections::BTreeMap;
use std::fmt;

use clickhouse::error::Error;
use serde_json::Value;
use tidemill_tables::{Retention, TableSpec};

use crate::client::Client;
use crate::ddl::{self, DEDUP_WINDOW, Kind, Object};
use crate::error::ClickHouseError;
use crate::identity::Kept;
use crate::target::Target;

/// One thing that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table or view.
    pub object: String,
    /// What is wrong, as a sentence without its stop.
    pub text: String,
    /// The statement that mends it, or what the operator decides.
    pub remedy: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}; to mend it: {}", self.text, self.remedy)
    }
}

/// Everything in the database of `target` that is not as the tables of the analytics pipelines need it.
///
/// # Errors
/// When the server cannot be asked.
pub fn diff(target: &Target) -> Result<Vec<Difference>, ClickHouseError> {
    diff_tables(target, &ddl::default_tables())
}

/// The same for the tables named.
///
/// # Errors
/// When the server cannot be asked, or a table cannot be described in ClickHouse.
pub fn diff_tables(target: &Target, specs: &[TableSpec]) -> Result<Vec<Difference>, ClickHouseError> {
    let client = Client::patient(target)?;
    let asked = |source| client.failed("describe its tables", source);
    if !client.database_exists().map_err(asked)? {
        let name = target.database();
        return Ok(vec![Difference {
            object: name.to_owned(),
            text: format!("database {name} is missing"),
            remedy: format!("CREATE DATABASE {name}"),
        }]);
    }
    let found = Found::read(&client).map_err(asked)?;
    everything_wrong(&found, specs)
}

/// What an earlier version wrote through and this one does not: views of users that read it would get nothing any more.
pub(crate) fn left_behind(found: &Found, specs: &[TableSpec]) -> Vec<Difference> {
    let mut all = Vec::new();
    for spec in specs {
        let names = ddl::obsolete(spec);
        for name in names.iter().filter(|name| found.get(name).is_some_and(FoundObject::is_of_version_2)) {
            let others: Vec<&str> =
                found.readers(name).filter(|reader| !names.iter().any(|own| own == reader)).collect();
            let (text, remedy) = if others.is_empty() {
                let what = if found.get(name).is_some_and(|there| there.engine == "Null") { "TABLE" } else { "VIEW" };
                (format!("{name} is written to no more"), format!("DROP {what} {name}"))
            } else {
                let (readers, data) = (others.join(", "), ddl::storage(spec));
                (
                    format!("view {readers} reads {name}, which is written to no more"),
                    format!("make {readers} anew so that it reads {data}"),
                )
            };
            all.push(Difference { object: name.clone(), text, remedy });
        }
    }
    all
}

/// Everything in which what was found is not what the tables need.
pub(crate) fn everything_wrong(found: &Found, specs: &[TableSpec]) -> Result<Vec<Difference>, ClickHouseError> {
    let mut all = differences(found, &objects(specs, Retention::default())?);
    all.extend(left_behind(found, specs));
    Ok(all)
}

/// All objects of some tables, those of the database first.
pub(crate) fn objects(specs: &[TableSpec], retention: Retention) -> Result<Vec<Object>, ClickHouseError> {
    let mut objects = ddl::shared(retention);
    for spec in specs {
        objects.extend(ddl::table(spec, retention)?);
    }
    Ok(objects)
}

/// A table or view as the server has it.
#[derive(Debug)]
pub(crate) struct FoundObject {
    pub(crate) engine: String,
    /// Engine, partitions, order, TTL and settings in one text.
    pub(crate) definition: String,
    pub(crate) sorting_key: String,
    pub(crate) partition_key: String,
    pub(crate) comment: String,
    pub(crate) uuid: String,
    pub(crate) columns: Vec<(String, String)>,
    /// The statement that created it, as the server keeps it.
    pub(crate) created: String,
    /// Views that read it when it is written to, those of other databases with the database's name.
    pub(crate) readers: Vec<String>,
}

impl FoundObject {
    /// Whether the server may refuse a row for what it holds: the owner added constraints, or columns that are computed.
    pub(crate) fn may_refuse(&self, own: &[String]) -> bool {
        self.created.contains(" CONSTRAINT ") || self.columns.iter().any(|(column, _)| !own.contains(column))
    }

    /// Whether version 2 made it: a user may have a table of the same name.
    fn is_of_version_2(&self) -> bool {
        self.comment == "tidemill tables, version 2" && matches!(self.engine.as_str(), "Null" | "MaterializedView")
    }

    /// How many tokens the table remembers.
    pub(crate) fn window(&self) -> u64 {
        if self.engine.starts_with("Replicated") || self.engine.starts_with("Shared") {
            return self.setting("replicated_deduplication_window").unwrap_or(DEDUP_WINDOW);
        }
        self.setting("non_replicated_deduplication_window").unwrap_or(0)
    }

    fn setting(&self, name: &str) -> Option<u64> {
        let (_, settings) = self.definition.split_once(" SETTINGS ")?;
        let mut pairs = settings.split(", ").filter_map(|pair| pair.split_once(" = "));
        pairs.find(|(key, _)| *key == name)?.1.parse().ok()
    }

    /// The TTL, as the server prints it.
    pub(crate) fn retention(&self) -> Option<&str> {
        let (_, rest) = self.definition.split_once(" TTL ")?;
        Some(rest.split_once(" SETTINGS ").map_or(rest, |(ttl, _)| ttl))
    }
}

/// What a database holds.
#[derive(Debug, Default)]
pub(crate) struct Found(BTreeMap<String, FoundObject>);

impl Found {
    pub(crate) fn read(client: &Client) -> Result<Self, Error> {
        let mut all = BTreeMap::new();
        let tables = "SELECT name, engine, engine_full, sorting_key, partition_key, comment, toString(uuid), \
                      create_table_query, arrayStringConcat(arrayMap((d, t) -> if(d = currentDatabase(), t, concat(d, '.', t)), \
                      dependencies_database, dependencies_table), ' ') \
                      FROM system.tables WHERE database = currentDatabase()";
        for row in client.rows(tables)? {
            let [name, engine, definition, sorting_key, partition_key, comment, uuid, created, readers] = texts(row)?;
            let readers = readers.split_whitespace().map(str::to_owned).collect();
            let columns = Vec::new();
            let object = FoundObject {
                engine,
                definition,
                sorting_key,
                partition_key,
                comment,
                uuid,
                columns,
                created,
                readers,
            };
            all.insert(name, object);
        }
        let columns =
            "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() ORDER BY table, position";
        for row in client.rows(columns)? {
            let [table, name, data_type] = texts(row)?;
            if let Some(object) = all.get_mut(&table) {
                object.columns.push((name, data_type));
            }
        }
        Ok(Self(all))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&FoundObject> {
        self.0.get(name)
    }

    /// How long rows of a table stay.
    pub(crate) fn kept(&self, table: &str) -> Kept {
        Kept::by(self.get(table).and_then(FoundObject::retention))
    }

    /// Views that read a table when it is written to.
    pub(crate) fn readers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get(name).into_iter().flat_map(|object| object.readers.iter().map(String::as_str))
    }
}

/// The texts of one row of an answer.
pub(crate) fn texts<const N: usize>(row: Vec<Value>) -> Result<[String; N], Error> {
    let texts = row.into_iter().map(|value| match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    let texts: Option<Vec<String>> = texts.collect();
    let wrong = || Error::Custom(format!("an answer does not have {N} texts a row"));
    texts.ok_or_else(wrong)?.try_into().map_err(|_| wrong())
}

/// Everything in which what was found is not what is expected.
pub(crate) fn differences(found: &Found, expected: &[Object]) -> Vec<Difference> {
    let mut all = Vec::new();
    for object in expected {
        let mut say = |text: String, remedy: String| {
            all.push(Difference { object: object.name.clone(), text, remedy });
        };
        let name = &object.name;
        let Some(there) = found.get(name) else {
            say(format!("{} {name} is missing", kind(object)), object.create());
            continue;
        };
        if there.engine != object.engine() && family(&there.engine) != object.engine() {
            let text = format!("{name} has engine {}, not {}", there.engine, object.engine());
            say(text, remake(object));
            continue;
        }
        compare_columns(object, there, &mut say);
        match &object.kind {
            Kind::Table { partition_by, order_by, remembers, .. } => {
                for (what, is, should) in
                    [("partitioned", &there.partition_key, partition_by), ("ordered", &there.sorting_key, order_by)]
                {
                    if plain(is) != plain(should) {
                        say(format!("{name} is {what} by ({is}), not ({should})"), remake(object));
                    }
                }
                if *remembers && there.window() == 0 {
                    let text = format!("{name} remembers no tokens, so a repeated insert would count twice");
                    say(text, window_statement(name, DEDUP_WINDOW));
                }
            }
            Kind::View { .. } => {
                if there.comment != ddl::comment() {
                    let text = format!("view {name} was made by another version ({:?})", there.comment);
                    say(text, object.replace().unwrap_or_else(|| remake(object)));
                }
            }
        }
    }
    all
}

fn compare_columns(object: &Object, there: &FoundObject, say: &mut dyn FnMut(String, String)) {
    let name = &object.name;
    let filled = object.filled.iter().map(|(column, data_type, _)| (column, data_type));
    for (column, data_type) in object.columns.iter().map(|(column, data_type)| (column, data_type)).chain(filled) {
        match there.columns.iter().find(|(found, _)| found == column) {
            None => {
                say(format!("{name} has no column {column} {data_type}"), remake(object));
            }
            Some((_, found)) if found != data_type => {
                let widened = ddl::widening(name, column, found, data_type);
                say(
                    format!("column {column} of {name} is {found}, not {data_type}"),
                    widened.unwrap_or_else(|| remake(object)),
                );
            }
            Some(_) => {}
        }
    }
}

/// The statement that makes a table remember tokens.
pub(crate) fn window_statement(table: &str, window: u64) -> String {
    format!("ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = {window}")
}

fn kind(object: &Object) -> &'static str {
    match object.kind {
        Kind::Table { .. } => "table",
        Kind::View { .. } => "view",
    }
}

/// Views are made anew; a table with rows is the operator's to decide about.
fn remake(object: &Object) -> String {
    match object.kind {
        Kind::View { .. } => object.replace().unwrap_or_else(|| object.create()),
        Kind::Table { .. } => format!("rename or drop {}, then {}", object.name, object.create()),
    }
}

/// The engine without what a cluster puts before it.
fn family(engine: &str) -> &str {
    engine.strip_prefix("Replicated").or_else(|| engine.strip_prefix("Shared")).unwrap_or(engine)
}

fn plain(expression: &str) -> String {
    expression.chars().filter(|c| !c.is_whitespace() && *c != '`').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_retention_are_read_from_the_definition() {
        let definition = "MergeTree PARTITION BY a ORDER BY b TTL inserted_at + toIntervalDay(90) \
                          SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 77";
        let mut object = FoundObject {
            engine: "MergeTree".to_owned(),
            definition: definition.to_owned(),
            sorting_key: String::new(),
            partition_key: String::new(),
            comment: String::new(),
            uuid: String::new(),
            columns: Vec::new(),
            created: String::new(),
            readers: Vec::new(),
        };
        assert_eq!(object.window(), 77);
        assert_eq!(object.retention(), Some("inserted_at + toIntervalDay(90)"));
        object.definition = "MergeTree ORDER BY b SETTINGS index_granularity = 8192".to_owned();
        assert_eq!((object.window(), object.retention()), (0, None));
        object.engine = "ReplicatedMergeTree".to_owned();
        assert_eq!(object.window(), DEDUP_WINDOW);
    }
}
