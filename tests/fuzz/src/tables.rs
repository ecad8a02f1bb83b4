//! Parquet files of the lake: read by a replay of the archive, and asked by a query.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, OnceLock, PoisonError};

use arrow::array::{
    ArrayRef, Int8Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, new_null_array,
};
use arrow::datatypes::DataType;
use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt, PutPayload};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use serde_json::json;
use tidemill_connectors::events::NdjsonDecoder;
use tidemill_connectors::lake::{LakeTable, RowOrder};
use tidemill_connectors::parquet_source::ParquetSource;
use tidemill_dataflow::source::{Decode, Decoded, Source};
use tidemill_log::panics::contained;
use tidemill_log::testing::MemoryStore;
use tidemill_log::{DataFile, Location, PartitionBinding, PartitionStatus};
use tidemill_query::{Lake, QueryError, Visible, VisibleSource};
use tidemill_tables::{TableSpec, hash_lists, web_analytics};
use tokio::runtime::Runtime;

use crate::input::Input;
use crate::memory::within;
use crate::segments::folder;

/// What a file of 64 KiB may cost, packed as well as can be.
const MOST: usize = 512 << 20;

fn specs() -> [TableSpec; 4] {
    [
        web_analytics::raw_events(),
        web_analytics::sessions(),
        web_analytics::page_views_by_minute(),
        web_analytics::revenue_by_minute(),
    ]
}

pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let spec = &specs()[usize::from(input.byte()) % specs().len()];
    let file = input.0;
    // With debug assertions of its own, `parquet` panics at a footer that says it is longer than the file; else it refuses it.
    if let Some((_, [a, b, c, d, ..])) = file.split_last_chunk::<8>()
        && u32::from_le_bytes([*a, *b, *c, *d]) as usize > file.len() - 8
    {
        return;
    }
    let rows = rows(file);
    let asked = within(MOST, || ask(spec, file, rows));
    if spec.name == "raw_events" {
        let lines = within(MOST, || replay(file, rows));
        if let (Some(lines), Ok(asked)) = (lines, asked) {
            assert_eq!(lines, asked, "a replay and a query see the same rows");
        }
    }
}

/// How many rows the file says it has; the log says the same of it.
fn rows(file: &[u8]) -> u64 {
    let load = || ArrowReaderMetadata::load(&Bytes::copy_from_slice(file), ArrowReaderOptions::new()).ok();
    let read = contained(load).ok().flatten();
    let groups = read.map(|read| read.metadata().row_groups().iter().map(|group| group.num_rows()).collect::<Vec<_>>());
    let groups = groups.unwrap_or_default().into_iter().map(|rows| u64::try_from(rows).unwrap_or_default());
    groups.fold(0, u64::saturating_add)
}

/// The lines that a replay of the archive gives; none if it refuses the file.
fn replay(file: &[u8], rows: u64) -> Option<usize> {
    let root = folder().lock().unwrap_or_else(PoisonError::into_inner);
    let path = "tables/raw_events/_recent/000000000001-000-000.parquet";
    let place = root.path().join(path);
    fs::create_dir_all(place.parent()?).expect("the folder takes it");
    fs::write(&place, file).expect("the folder takes it");
    let location = Location::Folder(root.path().to_owned());
    let source = ParquetSource { location, table: "raw_events".to_owned(), since: None, until: None };
    let binding = PartitionBinding {
        partition: 0,
        name: "raw_events/_recent".to_owned(),
        end: 0,
        lines: 0,
        digest: String::new(),
        watermark: None,
        status: PartitionStatus::Active,
        detail: json!({ "span": { "since": null, "until": null }, "files": [{ "path": path, "rows": rows, "bytes": file.len() }] }),
    };
    let mut reader = source.open(&[binding]).ok()?;
    reader.head(0).ok()?;
    let mut decoder: NdjsonDecoder = source.decoder();
    let (mut lines, mut records, mut blocks) = (0, 0, 0);
    while let Some(block) = reader.read(0, 256 << 10, None).ok()? {
        lines += block.bytes.iter().filter(|byte| **byte == b'\n').count();
        let mut decoded = Decoded::default();
        decoder.decode(block, &mut decoded);
        records += decoded.records.len() + decoded.malformed.len();
        blocks += 1;
        assert!(blocks <= rows, "every block has a row");
    }
    assert_eq!(lines, records, "a row is a line");
    Some(lines)
}

/// What a commit makes visible that has this one file.
#[derive(Debug)]
pub(crate) struct Shown(pub(crate) Visible);

impl VisibleSource for Shown {
    fn latest(&self) -> Result<Visible, String> {
        Ok(self.0.clone())
    }
}

pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(2).build().expect("there are threads")
    })
}

/// Asks for all rows; gives how many there are.
fn ask(spec: &TableSpec, file: &[u8], rows: u64) -> Result<usize, QueryError> {
    let path = format!("tables/{}/_recent/000000000001-000-000.parquet", spec.name);
    let store = Arc::new(InMemory::new());
    let place = ObjectPath::from(path.as_str());
    runtime().block_on(store.put(&place, PutPayload::from(file.to_vec()))).expect("memory takes it");
    let bytes = file.len() as u64;
    let tables = BTreeMap::from([(spec.name.clone(), vec![DataFile { path, rows, bytes }])]);
    let shown = Shown(Visible { epoch: Some(1), tables, ..Visible::default() });
    let lake = Lake::over("memory", store, vec![spec.clone()], Arc::new(shown));
    let statement = format!("SELECT * FROM {} ORDER BY 1", spec.name);
    lake.sql(&statement).map(|answer| answer.rows())
}

/// A few rows of each table, as the lake's sink writes them.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (choice, spec) in (0..).zip(specs()) {
        for rows in [1, 3] {
            let columns =
                spec.columns.iter().map(|column| column_of(&column.stored, &column.name, column.nullable, rows));
            let batch = RecordBatch::try_new(spec.stored_schema(), columns.collect()).expect("columns of the schema");
            let store = Arc::new(MemoryStore::default());
            let table = LakeTable::new(spec.clone(), Arc::<MemoryStore>::clone(&store));
            table.write_epoch(1, 0, vec![batch], RowOrder::AsGiven).expect("memory takes it");
            seeds.extend(store.objects().into_values().map(|file| [&[choice], &file[..]].concat()));
        }
    }
    seeds
}

fn column_of(stored: &DataType, name: &str, nullable: bool, rows: usize) -> ArrayRef {
    let numbers = || (0..i64::try_from(rows).unwrap_or_default()).map(|row| 1_431_856_800_000 + row * 1_000);
    match (stored, name) {
        (DataType::Utf8, "properties" | "extra") => Arc::new(StringArray::from(vec!["{\"a\":1}"; rows])),
        (DataType::Utf8, _) if !nullable || name == "page" => Arc::new(StringArray::from(vec!["/x"; rows])),
        (DataType::Int64, _) => Arc::new(Int64Array::from_iter_values(numbers())),
        (DataType::Int8, _) => Arc::new(Int8Array::from(vec![1; rows])),
        (DataType::List(_), _) => Arc::new(hash_lists(vec![2; rows], (0..2 * rows as u64).collect())),
        (DataType::Timestamp(..), _) => {
            Arc::new(TimestampMillisecondArray::from_iter_values(numbers()).with_timezone("UTC"))
        }
        _ => new_null_array(stored, rows),
    }
}
