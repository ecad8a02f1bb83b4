//! Whether a table still is the one that rows were written to, with the rows in it.
//!
//! A table that was dropped and made anew, or emptied, takes further rows as if nothing were missing. So what was written
//! to is noted beside it: the table's UUID, and the newest block of each partition. Blocks are numbered upwards for as long
//! as a table lives, and a merge keeps the numbers of what it merged. So the rows are still there if a part begins at or
//! before a block that was noted.
//!
//! ```text
//! UUID differs                                          made anew
//! same UUID, every part begins behind what was noted    emptied, unless all of it may have expired
//! ```

use std::collections::BTreeMap;

use clickhouse::error::Error;

use crate::check::{Found, texts};
use crate::client::{Client, quote};
use crate::ddl::STORAGES;
use crate::row_binary::{header, insert_statement, write_text};

/// What is known of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(crate) uuid: String,
    /// First and last block of each partition that has rows.
    pub(crate) blocks: BTreeMap<String, (i64, i64)>,
}

impl Storage {
    /// Whether there is a row whose loss would be noticed.
    pub(crate) fn has_rows(&self) -> bool {
        !self.blocks.is_empty()
    }
}

/// What was noted of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) storage: Storage,
    /// Days since then, rounded down.
    pub(crate) days: u32,
}

/// What became of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Another table has its name.
    MadeAnew,
    /// It is the same table without the rows.
    Emptied,
}

/// What became of a table since it was noted; rows leave by themselves after `retention` days.
pub(crate) fn lost(noted: &Noted, now: &Storage, retention: Option<u32>) -> Option<Loss> {
    if !noted.storage.has_rows() {
        return None;
    }
    if noted.storage.uuid != now.uuid {
        return Some(Loss::MadeAnew);
    }
    let stays = |(partition, (_, last)): (&String, &(i64, i64))| {
        now.blocks.get(partition).is_some_and(|(first, _)| first <= last)
    };
    let may_have_expired = retention.is_some_and(|days| noted.days >= days);
    (!may_have_expired && !noted.storage.blocks.iter().any(stays)).then_some(Loss::Emptied)
}

/// How many days rows of a table stay; 0 where its rule is not one of ours, so that nothing is concluded from it.
pub(crate) fn retention_days(found: &Found, table: &str) -> Option<u32> {
    let clause = found.get(table)?.retention()?;
    let days = clause.split_once("toIntervalDay(").and_then(|(_, rest)| rest.split(')').next()?.parse().ok());
    Some(days.unwrap_or(0))
}

/// The tables named, as they are now.
pub(crate) fn read(client: &Client, tables: &[String]) -> Result<BTreeMap<String, Storage>, Error> {
    let names = list(tables);
    let mut all: BTreeMap<String, Storage> = BTreeMap::new();
    let there = format!(
        "SELECT name, toString(uuid) FROM system.tables WHERE database = currentDatabase() AND name IN ({names})"
    );
    for row in client.rows(&there)? {
        let [name, uuid] = texts(row)?;
        all.insert(name, Storage { uuid, blocks: BTreeMap::new() });
    }
    let parts = format!(
        "SELECT table, partition_id, min(min_block_number), max(max_block_number) FROM system.parts \
         WHERE active AND rows > 0 AND database = currentDatabase() AND table IN ({names}) GROUP BY table, partition_id"
    );
    for row in client.rows(&parts)? {
        let [table, partition, first, last] = texts(row)?;
        if let Some(storage) = all.get_mut(&table) {
            storage.blocks.insert(partition, (number(&first)?, number(&last)?));
        }
    }
    Ok(all)
}

/// What `instance` noted of the tables named; of whoever noted last where no instance is given.
pub(crate) fn noted(
    client: &Client,
    instance: Option<&str>,
    tables: &[String],
) -> Result<BTreeMap<String, Noted>, Error> {
    let whose = instance.map_or(String::new(), |instance| format!("AND instance = {}", quote(instance)));
    let sql = format!(
        "SELECT name, uuid, blocks, dateDiff('second', written_at, now64(6)) FROM {STORAGES} \
         WHERE name IN ({}) {whose} ORDER BY written_at DESC LIMIT 1 BY name",
        list(tables)
    );
    let mut all = BTreeMap::new();
    for row in client.rows(&sql)? {
        let [name, uuid, blocks, seconds] = texts(row)?;
        let blocks = serde_json::from_str(&blocks).map_err(|error| Error::Custom(error.to_string()))?;
        let days = u32::try_from(number(&seconds)?.max(0) / 86_400).unwrap_or(u32::MAX);
        all.insert(name, Noted { storage: Storage { uuid, blocks }, days });
    }
    Ok(all)
}

/// Notes what the tables are that `instance` writes to.
pub(crate) fn note(client: &Client, instance: &str, storages: &BTreeMap<String, Storage>) -> Result<(), Error> {
    let columns = ["name", "instance", "uuid", "blocks"].map(|name| (name.to_owned(), "String".to_owned()));
    let mut body = header(&columns);
    for (name, storage) in storages {
        let blocks = serde_json::to_string(&storage.blocks).map_err(|error| Error::Custom(error.to_string()))?;
        for text in [name.as_str(), instance, &storage.uuid, &blocks] {
            write_text(text, &mut body);
        }
    }
    client.insert(&insert_statement(STORAGES, &columns), None, &body)
}

fn list(tables: &[String]) -> String {
    tables.iter().map(|table| quote(table)).collect::<Vec<_>>().join(", ")
}

fn number(text: &str) -> Result<i64, Error> {
    text.parse().map_err(|_| Error::Custom(format!("{text:?} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(uuid: &str, blocks: &[(&str, i64, i64)]) -> Storage {
        let blocks = blocks.iter().map(|(partition, first, last)| ((*partition).to_owned(), (*first, *last)));
        Storage { uuid: uuid.to_owned(), blocks: blocks.collect() }
    }

    #[test]
    fn a_table_that_lost_its_rows_is_told_from_one_that_merged_or_grew() {
        let noted = storage("a", &[("1", 1, 5), ("2", 2, 9)]);
        for (now, loss) in [
            (storage("a", &[("1", 1, 5), ("2", 2, 9)]), None),
            (storage("a", &[("1", 1, 40), ("3", 41, 41)]), None),
            // The owner dropped one partition.
            (storage("a", &[("2", 2, 9)]), None),
            (storage("a", &[]), Some(Loss::Emptied)),
            (storage("a", &[("1", 10, 12)]), Some(Loss::Emptied)),
            (storage("a", &[("3", 1, 1)]), Some(Loss::Emptied)),
            (storage("b", &[("1", 1, 5)]), Some(Loss::MadeAnew)),
            (storage("b", &[]), Some(Loss::MadeAnew)),
        ] {
            let noted = Noted { storage: noted.clone(), days: 3 };
            assert_eq!(lost(&noted, &now, None), loss, "{now:?}");
            assert_eq!(lost(&noted, &now, Some(4)), loss, "{now:?}");
        }
    }

    #[test]
    fn nothing_is_concluded_where_rows_may_have_expired_or_none_was_there() {
        let noted = |blocks| Noted { storage: storage("a", blocks), days: 90 };
        let empty = storage("a", &[]);
        assert_eq!(lost(&noted(&[("1", 1, 5)]), &empty, Some(90)), None);
        assert_eq!(lost(&noted(&[("1", 1, 5)]), &empty, Some(0)), None);
        assert_eq!(lost(&noted(&[("1", 1, 5)]), &empty, Some(91)), Some(Loss::Emptied));
        assert_eq!(lost(&noted(&[]), &storage("b", &[]), None), None);
    }
}
