//! Whether a table still is the one that rows were written to, with the rows in it.
//!
//! A table that was dropped and made anew, or emptied, takes further rows as if nothing were missing. So what was written
//! to is noted beside it: the table's identity, and the newest block of each partition. Blocks are numbered upwards for as
//! long as a server runs and the table has parts, and a merge keeps the numbers of what it merged. So the rows of a partition
//! are still there if its parts begin at or before the block that was noted, and end at or behind it.
//!
//! ```text
//! another identity                                      made anew
//! the same, and no partition has the rows that it had   emptied, unless all of it may have expired
//! a partition has others, and an epoch is in flight     its tokens are gone, so the epoch could count twice
//! ```
//! A partition that somebody drops while others stay is no loss: its rows were that operator's to delete.

use std::collections::BTreeMap;

use clickhouse::error::Error;

use crate::check::{Found, texts};
use crate::client::{Client, quote};
use crate::ddl::STORAGES;
use crate::row_binary::{header, insert_statement, write_text};

/// The UUID of every table in a database whose engine gives none.
const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";

/// What is known of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Storage {
    /// The UUID; where replicas share the rows, their path in the keeper.
    pub(crate) uuid: String,
    /// First and last block of each partition that has rows.
    pub(crate) blocks: BTreeMap<String, (i64, i64)>,
    /// Rows may cancel each other, so that a merge takes the newest block away.
    pub(crate) cancels: bool,
    /// Rows may have left by a mutation, and the newest block with them.
    pub(crate) mutated: bool,
    /// When it was altered last, by the server's clock, in seconds since 1970.
    pub(crate) altered: i64,
}

impl Storage {
    /// Whether there is a row whose loss would be noticed.
    pub(crate) fn has_rows(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// Whether the table can be told from another one of its name.
    pub(crate) fn has_identity(&self) -> bool {
        self.uuid != NO_UUID
    }
}

/// What was noted of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) storage: Storage,
    /// Seconds since then.
    pub(crate) age: u64,
}

/// What became of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Another table has its name.
    MadeAnew,
    /// It is the same table without the rows.
    Emptied,
    /// Parts of it were replaced while an epoch is in flight: the table does not recognise that epoch any more.
    Replaced,
}

/// How long rows stay by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    ForEver,
    /// At least so many seconds after they arrived.
    Seconds(u64),
    /// The owner has a rule that is not understood.
    Unknown,
}

impl Kept {
    /// The rule of a table, from its TTL as the server prints it.
    pub(crate) fn by(ttl: Option<&str>) -> Kept {
        let Some(ttl) = ttl else { return Kept::ForEver };
        let interval = ttl.trim().strip_prefix("inserted_at + toInterval").and_then(|rest| rest.strip_suffix(')'));
        let seconds = interval.and_then(|interval| {
            let (unit, count) = interval.split_once('(')?;
            let unit: u64 = match unit {
                "Second" => 1,
                "Minute" => 60,
                "Hour" => 3_600,
                "Day" => 86_400,
                "Week" => 7 * 86_400,
                "Month" => 28 * 86_400,
                "Quarter" => 90 * 86_400,
                "Year" => 365 * 86_400,
                _ => return None,
            };
            count.parse::<u64>().ok()?.checked_mul(unit)
        });
        seconds.map_or(Kept::Unknown, Kept::Seconds)
    }

    fn may_have_taken_all(self, age: u64) -> bool {
        match self {
            Kept::ForEver => false,
            Kept::Seconds(seconds) => age >= seconds,
            Kept::Unknown => true,
        }
    }
}

/// What became of a table since it was noted; `in_flight` is whether an epoch may be written again.
pub(crate) fn lost(noted: &Noted, now: &Storage, kept: Kept, in_flight: bool) -> Option<Loss> {
    if !noted.storage.has_rows() {
        return None;
    }
    if noted.storage.uuid != now.uuid {
        return Some(Loss::MadeAnew);
    }
    let stays = |partition: &str, noted_last: i64| {
        let (first, last) = now.blocks.get(partition)?;
        Some(*first <= noted_last && (now.cancels || now.mutated || *last >= noted_last))
    };
    let partitions: Vec<Option<bool>> =
        noted.storage.blocks.iter().map(|(partition, (_, last))| stays(partition, *last)).collect();
    if !partitions.contains(&Some(true)) && !kept.may_have_taken_all(noted.age) {
        return Some(Loss::Emptied);
    }
    (in_flight && !now.cancels && partitions.contains(&Some(false))).then_some(Loss::Replaced)
}

/// What was noted of some tables, and what they are now.
pub(crate) struct Seen {
    pub(crate) noted: BTreeMap<String, Noted>,
    pub(crate) now: BTreeMap<String, Storage>,
}

impl Seen {
    /// What `instance` noted of the tables named, or whoever noted last where no instance is given; and the tables.
    pub(crate) fn read(client: &Client, instance: Option<&str>, tables: &[String]) -> Result<Self, Error> {
        // First what was noted: what comes between can only add.
        let noted = noted(client, instance, tables)?;
        Ok(Self { noted, now: read(client, tables)? })
    }

    /// Whether a table was altered at this time or later, in seconds since 1970 by the server's clock.
    pub(crate) fn altered_since(&self, time: i64) -> bool {
        self.now.values().any(|now| now.altered >= time)
    }

    /// The tables that are to be noted: those that have more than was noted. The age of a note is that of its newest rows, as far as
    /// it is known, since these may expire.
    pub(crate) fn to_note(&self) -> BTreeMap<String, Storage> {
        let grew = |table: &str, now: &Storage| {
            self.noted.get(table).is_none_or(|Noted { storage, .. }| {
                let last = |partition: &String| storage.blocks.get(partition).map(|(_, last)| *last);
                storage.uuid != now.uuid || now.blocks.iter().any(|(partition, (_, now))| last(partition) != Some(*now))
            })
        };
        self.now
            .iter()
            .filter(|(table, now)| grew(table, now))
            .map(|(table, now)| (table.clone(), now.clone()))
            .collect()
    }

    /// The tables that lost what was noted.
    pub(crate) fn lost(&self, found: &Found, in_flight: bool) -> Vec<(String, Loss)> {
        let missing = Storage::default();
        let lost = self.noted.iter().filter_map(|(table, noted)| {
            let now = self.now.get(table).unwrap_or(&missing);
            Some((table.clone(), lost(noted, now, found.kept(table), in_flight)?))
        });
        lost.collect()
    }
}

/// The tables named, as they are now.
fn read(client: &Client, tables: &[String]) -> Result<BTreeMap<String, Storage>, Error> {
    let names = list(tables);
    let mut all: BTreeMap<String, Storage> = BTreeMap::new();
    let there = format!(
        "SELECT name, toString(uuid), engine, toUnixTimestamp(metadata_modification_time) FROM system.tables \
         WHERE database = currentDatabase() AND name IN ({names})"
    );
    let mut replicated = false;
    for row in client.rows(&there)? {
        let [name, uuid, engine, altered] = texts(row)?;
        replicated |= engine.starts_with("Replicated");
        let (blocks, cancels) = (BTreeMap::new(), engine.ends_with("SummingMergeTree"));
        all.insert(name, Storage { uuid, blocks, cancels, mutated: false, altered: number(&altered)? });
    }
    let mutated = format!(
        "SELECT DISTINCT table FROM system.mutations WHERE database = currentDatabase() AND table IN ({names})"
    );
    for row in client.rows(&mutated)? {
        let [table] = texts(row)?;
        if let Some(storage) = all.get_mut(&table) {
            storage.mutated = true;
        }
    }
    if replicated {
        let paths = format!(
            "SELECT table, zookeeper_path FROM system.replicas WHERE database = currentDatabase() AND table IN ({names})"
        );
        for row in client.rows(&paths)? {
            let [table, path] = texts(row)?;
            if let Some(storage) = all.get_mut(&table) {
                storage.uuid = path;
            }
        }
    }
    let parts = format!(
        "SELECT table, partition_id, min(min_block_number), max(max_block_number), max(has_lightweight_delete) \
         FROM system.parts WHERE active AND rows > 0 AND database = currentDatabase() AND table IN ({names}) \
         GROUP BY table, partition_id"
    );
    let mut thinned = Vec::new();
    for row in client.rows(&parts)? {
        let [table, partition, first, last, deleted] = texts(row)?;
        if let Some(storage) = all.get_mut(&table) {
            storage.blocks.insert(partition, (number(&first)?, number(&last)?));
        }
        if deleted != "0" {
            thinned.push(table);
        }
    }
    // Rows that DELETE took stay in their parts until a merge.
    for table in thinned {
        if client.rows(&format!("SELECT 1 FROM {table} LIMIT 1"))?.is_empty()
            && let Some(storage) = all.get_mut(&table)
        {
            storage.blocks.clear();
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
        let age = u64::try_from(number(&seconds)?).unwrap_or(0);
        let storage = Storage { uuid, blocks, ..Storage::default() };
        all.insert(name, Noted { storage, age });
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

/// Notes what the tables named are now, whatever was noted before.
pub(crate) fn note_as_they_are(client: &Client, instance: &str, tables: &[String]) -> Result<(), Error> {
    note(client, instance, &read(client, tables)?)
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
        Storage { uuid: uuid.to_owned(), blocks: blocks.collect(), ..Storage::default() }
    }

    const DAY: u64 = 86_400;

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
            // Emptied, then the server began to count anew.
            (storage("a", &[("1", 1, 2), ("2", 3, 3)]), Some(Loss::Emptied)),
            (storage("b", &[("1", 1, 5)]), Some(Loss::MadeAnew)),
            (storage("b", &[]), Some(Loss::MadeAnew)),
        ] {
            let noted = Noted { storage: noted.clone(), age: 3 * DAY };
            assert_eq!(lost(&noted, &now, Kept::ForEver, false), loss, "{now:?}");
            assert_eq!(lost(&noted, &now, Kept::Seconds(4 * DAY), false), loss, "{now:?}");
        }
    }

    #[test]
    fn nothing_is_concluded_where_rows_may_have_expired_or_none_was_there() {
        let noted = |blocks| Noted { storage: storage("a", blocks), age: 90 * DAY };
        let empty = storage("a", &[]);
        assert_eq!(lost(&noted(&[("1", 1, 5)]), &empty, Kept::Seconds(90 * DAY), false), None);
        assert_eq!(lost(&noted(&[("1", 1, 5)]), &empty, Kept::Unknown, false), None);
        assert_eq!(lost(&noted(&[("1", 1, 5)]), &empty, Kept::Seconds(91 * DAY), false), Some(Loss::Emptied));
        assert_eq!(lost(&noted(&[]), &storage("b", &[]), Kept::ForEver, false), None);
    }

    #[test]
    fn a_partition_that_was_detached_and_attached_is_told_while_an_epoch_is_in_flight() {
        let noted = Noted { storage: storage("a", &[("1", 1, 5), ("2", 2, 9)]), age: 0 };
        for (now, loss) in [
            (storage("a", &[("1", 1, 7), ("2", 2, 9)]), None),
            (storage("a", &[("1", 10, 12), ("2", 2, 9)]), Some(Loss::Replaced)),
            // One that is gone takes its rows with it, those of the epoch too.
            (storage("a", &[("2", 2, 9)]), None),
        ] {
            assert_eq!(lost(&noted, &now, Kept::ForEver, true), loss, "{now:?}");
            assert_eq!(lost(&noted, &now, Kept::ForEver, false), None, "{now:?}");
        }
    }

    #[test]
    fn the_newest_rows_may_cancel_each_other_or_be_deleted() {
        let noted = Noted { storage: storage("a", &[("1", 1, 5)]), age: 0 };
        for (cancels, mutated) in [(true, false), (false, true)] {
            let now = Storage { cancels, mutated, ..storage("a", &[("1", 1, 3)]) };
            assert_eq!(lost(&noted, &now, Kept::ForEver, true), None);
        }
    }

    #[test]
    fn a_note_keeps_the_age_of_its_newest_rows() {
        let seen = |now: &[(&str, i64, i64)]| {
            let noted = Noted { storage: storage("a", &[("1", 1, 5), ("2", 2, 9)]), age: 7 };
            let tables = |storage| BTreeMap::from([("t".to_owned(), storage)]);
            let noted = BTreeMap::from([("t".to_owned(), noted)]);
            !Seen { noted, now: tables(storage("a", now)) }.to_note().is_empty()
        };
        assert!(!seen(&[("1", 1, 5), ("2", 2, 9)]) && !seen(&[("2", 4, 9)]) && !seen(&[]));
        assert!(seen(&[("1", 1, 5), ("2", 2, 10)]) && seen(&[("1", 1, 5), ("2", 2, 9), ("3", 10, 10)]));
    }

    #[test]
    fn how_long_rows_stay_is_read_from_the_rule_of_arrival_and_from_no_other() {
        for (ttl, kept) in [
            (None, Kept::ForEver),
            (Some("inserted_at + toIntervalDay(90)"), Kept::Seconds(90 * DAY)),
            (Some("inserted_at + toIntervalHour(6)"), Kept::Seconds(6 * 3_600)),
            (Some("inserted_at + toIntervalMonth(2)"), Kept::Seconds(56 * DAY)),
            (Some("window_start + toIntervalDay(90)"), Kept::Unknown),
            (Some("inserted_at + toIntervalDay(9) TO DISK 'cold', inserted_at + toIntervalDay(90)"), Kept::Unknown),
            (Some("inserted_at + toIntervalDay(90) WHERE tenant = 'a'"), Kept::Unknown),
        ] {
            assert_eq!(Kept::by(ttl), kept, "{ttl:?}");
        }
    }
}
