//! For tests: rows of every table, written to a folder with a log as a run writes them, and what they add up to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Int8Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, new_null_array,
};
use datafusion::parquet::arrow::ArrowWriter;
use tempfile::TempDir;
use tidemill_log::testing::seal;
use tidemill_log::{Binding, Commit, DataFile, Entry, Faults, Location, Log, LogOptions, Seal, Store, TableChange};
use tidemill_tables::calendar::{hour_folder, hour_of};
use tidemill_tables::{TableSpec, fold, hash_lists, web_analytics};

pub(crate) const MINUTE: i64 = 60_000;
/// 2015-05-17T10:00:00Z.
pub(crate) const TEN: i64 = 1_431_856_800_000;

/// Views of a page, or errors of a version, in a minute.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) tenant: &'static str,
    pub(crate) minute: i64,
    pub(crate) key: &'static str,
    pub(crate) count: i64,
    pub(crate) users: Vec<u64>,
}

#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) minute: i64,
    pub(crate) currency: &'static str,
    pub(crate) orders: i64,
    pub(crate) cents: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct Visit {
    pub(crate) user: &'static str,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) events: i64,
    pub(crate) sign: i8,
}

/// What an epoch adds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Epoch {
    pub(crate) views: Vec<Cell>,
    pub(crate) errors: Vec<Cell>,
    pub(crate) orders: Vec<Order>,
    pub(crate) visits: Vec<Visit>,
    /// Times of events that could not be judged.
    pub(crate) unverified: Vec<i64>,
    pub(crate) watermark: Option<i64>,
    /// With the end of time.
    pub(crate) last_event: Option<i64>,
}

fn text<'a>(values: impl IntoIterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn times(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(values).with_timezone("UTC"))
}

fn numbers(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(Int64Array::from_iter_values(values))
}

fn cells(cells: &[Cell]) -> Vec<ArrayRef> {
    let hashes = cells.iter().flat_map(|cell| cell.users.clone()).collect();
    vec![
        text(cells.iter().map(|cell| cell.tenant)),
        times(cells.iter().map(|cell| cell.minute)),
        text(cells.iter().map(|cell| cell.key)),
        numbers(cells.iter().map(|cell| cell.count)),
        Arc::new(hash_lists(cells.iter().map(|cell| cell.users.len()), hashes)),
    ]
}

impl Epoch {
    /// The rows of each table that has any, in its stored schema.
    pub(crate) fn batches(&self) -> Vec<(TableSpec, RecordBatch)> {
        let (orders, visits) = (&self.orders, &self.visits);
        let revenue = vec![
            text(orders.iter().map(|_| "default")),
            times(orders.iter().map(|order| order.minute)),
            text(orders.iter().map(|order| order.currency)),
            numbers(orders.iter().map(|order| order.orders)),
            numbers(orders.iter().map(|order| order.cents)),
        ];
        let sessions = vec![
            text(visits.iter().map(|_| "default")),
            text(visits.iter().map(|visit| visit.user)),
            times(visits.iter().map(|visit| visit.first)),
            times(visits.iter().map(|visit| visit.last)),
            numbers(visits.iter().map(|visit| visit.events)),
            Arc::new(Int8Array::from_iter_values(visits.iter().map(|visit| visit.sign))) as ArrayRef,
        ];
        let rows = self.unverified.len();
        let unverified = web_analytics::unverified_events();
        let events = unverified.columns.iter().map(|column| match column.name.as_str() {
            "timestamp" => times(self.unverified.iter().copied()),
            "tenant" => text(vec!["default"; rows]),
            _ if column.nullable => new_null_array(&column.stored, rows),
            _ => text(vec!["x"; rows]),
        });
        let events = events.collect();
        let tables = [
            (web_analytics::page_views_by_minute(), cells(&self.views)),
            (web_analytics::errors_by_version_by_minute(), cells(&self.errors)),
            (web_analytics::revenue_by_minute(), revenue),
            (web_analytics::sessions(), sessions),
            (unverified, events),
        ];
        let filled = tables.into_iter().filter(|(_, columns)| !columns[0].is_empty());
        filled
            .map(|(spec, columns)| {
                let batch = RecordBatch::try_new(spec.stored_schema(), columns).unwrap();
                (spec, batch)
            })
            .collect()
    }

    /// The same rows, by the hour that they are rolled into.
    pub(crate) fn by_hour(&self) -> BTreeMap<i64, Epoch> {
        let mut hours: BTreeMap<i64, Epoch> = BTreeMap::new();
        self.views.iter().for_each(|row| hours.entry(hour_of(row.minute)).or_default().views.push(row.clone()));
        self.errors.iter().for_each(|row| hours.entry(hour_of(row.minute)).or_default().errors.push(row.clone()));
        self.orders.iter().for_each(|row| hours.entry(hour_of(row.minute)).or_default().orders.push(row.clone()));
        self.visits.iter().for_each(|row| hours.entry(hour_of(row.first)).or_default().visits.push(row.clone()));
        self.unverified.iter().for_each(|at| hours.entry(hour_of(*at)).or_default().unverified.push(*at));
        hours
    }

    /// Both.
    pub(crate) fn extend(&mut self, other: &Epoch) {
        self.views.extend_from_slice(&other.views);
        self.errors.extend_from_slice(&other.errors);
        self.orders.extend_from_slice(&other.orders);
        self.visits.extend_from_slice(&other.visits);
        self.unverified.extend_from_slice(&other.unverified);
    }
}

/// The bytes of a file with these rows.
pub(crate) fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// Different users of some cells: what every union has to agree with.
pub(crate) fn different_users<'a>(cells: impl IntoIterator<Item = &'a Cell>) -> i64 {
    let users: BTreeSet<u64> = cells.into_iter().flat_map(|cell| cell.users.iter().copied()).collect();
    i64::try_from(users.len()).unwrap()
}

/// A folder that is written as a run writes it: recent files with each commit, rolled at times.
pub(crate) struct TestPlace {
    pub(crate) folder: TempDir,
    location: Location,
    store: Arc<dyn Store>,
    log: Log,
    pub(crate) epoch: u64,
    watermark: Option<i64>,
    recent: Epoch,
    first_recent: u64,
    recent_files: Vec<(String, DataFile)>,
    /// All rows so far.
    pub(crate) all: Epoch,
}

impl TestPlace {
    pub(crate) fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap(), "")
    }

    /// Of a pipeline that says which tables it has.
    pub(crate) fn of_tables(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tables = names.iter().map(|name| (*name).to_owned()).collect();
        Self::sealed(Location::Folder(folder.path().to_owned()), folder, Some(tables))
    }

    /// Below `name` in a folder.
    pub(crate) fn within(folder: TempDir, name: &str) -> Self {
        let location = Location::Folder(folder.path().join(name));
        Self::at(location, folder)
    }

    /// Anywhere, with a folder that lives as long.
    pub(crate) fn at(location: Location, folder: TempDir) -> Self {
        Self::sealed(location, folder, None)
    }

    fn sealed(location: Location, folder: TempDir, tables: Option<BTreeSet<String>>) -> Self {
        let store = location.open(false, Faults::None).unwrap();
        let mut log = Log::start(Arc::clone(&store), LogOptions::default()).unwrap().log;
        log.append(Entry::Seal(Seal { tables, ..seal(log.run()) })).unwrap();
        let (recent, all) = (Epoch::default(), Epoch::default());
        Self {
            folder,
            location,
            store,
            log,
            epoch: 0,
            watermark: None,
            recent,
            first_recent: 1,
            recent_files: vec![],
            all,
        }
    }

    pub(crate) fn location(&self) -> Location {
        self.location.clone()
    }

    /// Deletes everything that is there.
    pub(crate) fn remove(self) {
        self.store.list("").unwrap().iter().for_each(|path| self.store.delete(path).unwrap());
    }

    fn put(&self, path: String, batch: &RecordBatch) -> DataFile {
        let bytes = parquet(batch);
        self.store.put(&path, &bytes).unwrap();
        DataFile { path, rows: batch.num_rows() as u64, bytes: bytes.len() as u64 }
    }

    /// Commits an epoch of these rows.
    pub(crate) fn commit(&mut self, rows: &Epoch) {
        self.epoch += 1;
        self.watermark = rows.watermark.max(self.watermark);
        let mut tables = Vec::new();
        for (spec, batch) in rows.batches() {
            let file = self.put(format!("tables/{}/_recent/{:012}-000-000.parquet", spec.name, self.epoch), &batch);
            self.recent_files.push((spec.name.clone(), file.clone()));
            tables.push(TableChange { table: spec.name, added: vec![file], removed: Vec::new() });
        }
        self.recent.extend(rows);
        self.all.extend(rows);
        let (epoch, watermark) = (self.epoch, self.watermark);
        let binding = Binding { epoch, watermark, partitions: vec![], last: false, checkpoint: false };
        self.log.append(Entry::Bind(binding)).unwrap();
        let last_event = rows.last_event;
        self.log.append(Entry::Commit(Commit { epoch, watermark, tables, last_event, ..Commit::default() })).unwrap();
    }

    /// Exchanges the recent files for rolled ones and deletes them at once, without waiting for any reader.
    pub(crate) fn roll(&mut self) {
        let mut tables: BTreeMap<String, TableChange> = BTreeMap::new();
        let change = |table: &str| TableChange { table: table.to_owned(), added: vec![], removed: vec![] };
        for (hour, rows) in std::mem::take(&mut self.recent).by_hour() {
            for (spec, batch) in rows.batches() {
                let name = format!("{:012}-{:012}.parquet", self.first_recent, self.epoch);
                let path = format!("tables/{}/{}/{name}", spec.name, hour_folder(hour));
                let file = self.put(path, &fold(&spec, &[batch]).unwrap());
                tables.entry(spec.name.clone()).or_insert_with(|| change(&spec.name)).added.push(file);
            }
        }
        let removed = std::mem::take(&mut self.recent_files);
        for (table, file) in &removed {
            tables.entry(table.clone()).or_insert_with(|| change(table)).removed.push(file.path.clone());
        }
        let (epoch, watermark, tables) = (self.epoch, self.watermark, tables.into_values().collect());
        self.log.append(Entry::Commit(Commit { epoch, watermark, tables, ..Commit::default() })).unwrap();
        self.first_recent = self.epoch + 1;
        removed.iter().for_each(|(_, file)| self.store.delete(&file.path).unwrap());
    }
}
