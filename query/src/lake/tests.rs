use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{
    ArrayRef, Int8Array, Int64Array, ListArray, StringArray, TimestampMillisecondArray, new_null_array,
};
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::parquet::arrow::ArrowWriter;
use object_store::local::LocalFileSystem;
use tempfile::TempDir;
use tidemill_log::testing::{MemoryStore, seal};
use tidemill_log::{
    Binding, Commit, DataFile, Entry, Faults, Log, LogOptions, PartitionBinding, PartitionStatus, Store, TableChange,
};
use tidemill_tables::{hash_lists, web_analytics};

use super::*;
use crate::format::Format;

const MINUTE: i64 = 1_431_857_100_000;

/// A source that gives each state in turn, then stays at the last.
#[derive(Debug)]
struct Scripted(Vec<Visible>, AtomicUsize);

impl VisibleSource for Scripted {
    fn latest(&self) -> Result<Visible, String> {
        let at = self.1.fetch_add(1, Ordering::Relaxed).min(self.0.len() - 1);
        Ok(self.0[at].clone())
    }
}

struct TestLake {
    folder: TempDir,
    visible: Visible,
}

impl TestLake {
    fn new() -> Self {
        let visible = Visible { epoch: Some(7), complete_through: Some(MINUTE), ..Visible::default() };
        Self { folder: tempfile::tempdir().unwrap(), visible }
    }

    fn add(&mut self, spec: &TableSpec, name: &str, columns: Vec<ArrayRef>) -> &mut Self {
        let path = format!("tables/{}/{name}.parquet", spec.name);
        let at = self.folder.path().join(&path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        let batch = RecordBatch::try_new(spec.stored_schema(), columns).unwrap();
        let mut writer = ArrowWriter::try_new(fs::File::create(&at).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let bytes = fs::metadata(&at).unwrap().len();
        let file = DataFile { path, rows: batch.num_rows() as u64, bytes };
        self.visible.tables.entry(spec.name.clone()).or_default().push(file);
        self
    }

    fn lake(&self, states: Vec<Visible>) -> Lake {
        let source = Arc::new(Scripted(states, AtomicUsize::new(0)));
        let store = Arc::new(LocalFileSystem::new_with_prefix(self.folder.path()).unwrap());
        Lake::over("the lake", store, web_analytics::all(), source)
    }

    fn sql(&self, sql: &str) -> Result<Answer, QueryError> {
        self.lake(vec![self.visible.clone()]).sql(sql)
    }

    fn csv(&self, sql: &str) -> String {
        let mut out = Vec::new();
        Format::Csv.write(&self.sql(sql).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }
}

fn text(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn times(values: &[i64]) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from(values.to_vec()).with_timezone("UTC"))
}

fn numbers(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

fn lists(values: &[&[u64]]) -> ListArray {
    hash_lists(values.iter().map(|list| list.len()), values.concat())
}

fn views(pages: &[&str], minutes: &[i64], counts: &[i64], users: &[&[u64]]) -> Vec<ArrayRef> {
    let tenants = vec!["default"; pages.len()];
    vec![text(&tenants), times(minutes), text(pages), numbers(counts), Arc::new(lists(users))]
}

fn sessions(users: &[&str], counts: &[i64], signs: &[i8]) -> Vec<ArrayRef> {
    let firsts = vec![MINUTE; users.len()];
    vec![
        text(&vec!["default"; users.len()]),
        text(users),
        times(&firsts),
        times(&counts.iter().map(|count| MINUTE + count * 1000).collect::<Vec<_>>()),
        numbers(counts),
        Arc::new(Int8Array::from(signs.to_vec())),
    ]
}

fn filled() -> TestLake {
    let mut lake = TestLake::new();
    let spec = web_analytics::page_views_by_minute();
    let later = MINUTE + 60_000;
    lake.add(&spec, "_recent/7-0-0", views(&["/a", "/b"], &[MINUTE; 2], &[2, 1], &[&[1, 2], &[3]]));
    lake.add(&spec, "_recent/6-0-0", views(&["/a", "/c"], &[later, MINUTE], &[1, 1], &[&[2], &[9]]));
    lake.add(&spec, "dt=2015-05-17/hour=10/0-5", views(&["/a", "/c"], &[MINUTE, MINUTE], &[4, -1], &[&[2, 4, 5], &[]]));
    lake.add(&spec, "dt=2015-05-17/hour=10/none", views(&["/z"], &[MINUTE], &[0], &[&[]]));
    let signed = web_analytics::sessions();
    lake.add(&signed, "_recent/6-0-0", sessions(&["u1", "u2", "u3"], &[1, 1, 5], &[1, 1, 1]));
    lake.add(&signed, "_recent/7-0-0", sessions(&["u1", "u1", "u3"], &[1, 2, 5], &[-1, 1, -1]));
    let raw = web_analytics::raw_events();
    let columns = raw.columns.iter().map(|column| match column.name.as_str() {
        "timestamp" => times(&[MINUTE, MINUTE + 1]),
        "event_id" => text(&["e1", "e2"]),
        _ if column.nullable => new_null_array(&column.stored, 2),
        _ => text(&["x", "y"]),
    });
    lake.add(&raw, "_recent/7-0-0", columns.collect());
    lake.visible.files = vec![("a.ndjson".into(), 12), ("b.ndjson.gz".into(), 0)];
    lake
}

#[test]
fn deltas_of_all_files_are_folded() {
    let expected = "window_start,page,views,users\n\
                    2015-05-17T10:05:00.000Z,/a,6,4\n\
                    2015-05-17T10:05:00.000Z,/b,1,1\n\
                    2015-05-17T10:05:00.000Z,/c,0,1\n\
                    2015-05-17T10:06:00.000Z,/a,1,1\n";
    let sql = "SELECT window_start, page, views, users FROM page_views_by_minute ORDER BY 1, 2";
    assert_eq!(filled().csv(sql), expected);
    assert_eq!(filled().csv("SELECT sum(views) FROM page_views_by_minute").lines().nth(1), Some("8"));
}

#[test]
fn filters_on_keys_and_on_folded_columns_agree_with_the_whole() {
    let lake = filled();
    let of_minute = "SELECT page, users FROM page_views_by_minute \
                     WHERE window_start = '2015-05-17T10:05:00Z' AND views > 1 ORDER BY page";
    assert_eq!(lake.csv(of_minute), "page,users\n/a,4\n");
    let over_hours = "SELECT union_count(users) FROM stored.page_views_by_minute WHERE page = '/a'";
    assert_eq!(lake.csv(over_hours).lines().nth(1), Some("4"));
}

#[test]
fn sessions_that_were_taken_back_are_not_shown() {
    let expected = "user_id,first_event,last_event,event_count\n\
                    u1,2015-05-17T10:05:00.000Z,2015-05-17T10:05:02.000Z,2\n\
                    u2,2015-05-17T10:05:00.000Z,2015-05-17T10:05:01.000Z,1\n";
    let sql = "SELECT user_id, first_event, last_event, event_count FROM sessions ORDER BY user_id";
    assert_eq!(filled().csv(sql), expected);
    assert_eq!(filled().csv("SELECT count(*) FROM sessions").lines().nth(1), Some("2"));
}

#[test]
fn columns_have_exactly_the_declared_types_with_and_without_rows() {
    for lake in [filled(), TestLake::new()] {
        for spec in web_analytics::all() {
            let answer = lake.sql(&format!("SELECT * FROM {}", spec.name)).unwrap();
            let types = |schema: &SchemaRef| -> Vec<(String, DataType)> {
                schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
            };
            assert_eq!(types(&answer.schema), types(&spec.query_schema()));
            for batch in &answer.batches {
                assert_eq!(types(&batch.schema()), types(&spec.query_schema()));
            }
            assert!(answer.rows() > 0 || !lake.visible.tables.contains_key(&spec.name));
        }
    }
    let empty = TestLake::new().csv("SELECT count(*) AS n, sum(orders) AS orders FROM revenue_by_minute");
    assert_eq!(empty, "n,orders\n0,\n");
}

#[test]
fn progress_names_the_prefix_of_each_file() {
    let expected = "tenant,epoch,complete_through,file,lines\n\
                    ,7,2015-05-17T10:05:00.000Z,a.ndjson,12\n\
                    ,7,2015-05-17T10:05:00.000Z,b.ndjson.gz,0\n";
    assert_eq!(filled().csv("SELECT * FROM progress ORDER BY file"), expected);
    let answer = filled().sql("SELECT complete_through FROM progress").unwrap();
    let utc = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    assert_eq!(answer.schema.field(0).data_type(), &utc);
    assert_eq!((answer.epoch, answer.complete_through), (Some(7), Some(MINUTE)));
    let none = TestLake { visible: Visible { complete_through: None, ..filled().visible }, ..TestLake::new() };
    assert_eq!(none.csv("SELECT DISTINCT complete_through FROM progress"), "complete_through\n\n");
}

#[test]
fn an_unknown_table_is_answered_with_the_tables_there_are() {
    let error = filled().sql("SELECT * FROM page_views").unwrap_err().to_string();
    let expected = "there is no table page_views; the tables are errors_by_version_by_minute, page_views_by_minute, \
                    progress, raw_events, revenue_by_minute, sessions, unverified_events";
    assert_eq!(error, expected);
}

#[test]
fn whatever_does_not_only_read_is_refused() {
    let lake = filled();
    for sql in [
        "DROP TABLE sessions",
        "CREATE TABLE t AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/tmp/t.parquet'",
        "INSERT INTO sessions SELECT * FROM sessions",
        "DELETE FROM sessions",
        "COPY sessions TO '/tmp/stolen.parquet'",
        "SET datafusion.execution.time_zone = '+02:00'",
        "EXPLAIN ANALYZE INSERT INTO sessions SELECT * FROM sessions",
        "SELECT * INTO t FROM sessions",
        "BEGIN",
    ] {
        let error = lake.sql(sql).unwrap_err();
        assert!(matches!(error, QueryError::NotReadOnly { .. }), "{sql}: {error:?}");
    }
    for sql in ["EXPLAIN SELECT * FROM sessions", "SHOW TABLES", "DESCRIBE sessions", "SELECT 1;"] {
        lake.sql(sql).unwrap();
    }
    let error = lake.sql("SELEC 1").unwrap_err();
    assert!(error.chain().starts_with("the query is not understood: Expected: "), "{}", error.chain());
    let no_column = lake.sql("SELECT nothing FROM sessions").unwrap_err();
    assert!(matches!(no_column, QueryError::Sql(_)), "{no_column:?}");
}

#[test]
fn files_that_no_commit_names_are_not_read() {
    let mut lake = filled();
    let before = lake.csv("SELECT count(*), sum(views) FROM page_views_by_minute");
    let visible = lake.visible.clone();
    lake.add(&web_analytics::page_views_by_minute(), "_recent/8-0-0", views(&["/n"], &[MINUTE], &[100], &[&[1]]));
    lake.visible = visible;
    assert_eq!(lake.csv("SELECT count(*), sum(views) FROM page_views_by_minute"), before);
}

#[test]
fn a_query_overtaken_by_rolling_answers_from_the_newer_commit() {
    let mut lake = filled();
    let new = lake.visible.clone();
    let mut old = lake.visible.clone();
    lake.visible.tables.clear();
    lake.add(&web_analytics::page_views_by_minute(), "_recent/5", views(&["/o"], &[MINUTE], &[50], &[&[1]]));
    old.tables.append(&mut lake.visible.tables);
    old.epoch = Some(6);
    fs::remove_file(lake.folder.path().join("tables/page_views_by_minute/_recent/5.parquet")).unwrap();
    let sql = "SELECT sum(views) FROM page_views_by_minute";
    let answer = lake.lake(vec![old.clone(), new]).sql(sql).unwrap();
    assert_eq!(answer.epoch, Some(7));
    let missing = lake.lake(vec![old.clone()]).sql(sql).unwrap_err();
    assert!(matches!(missing, QueryError::MissingFile(_)), "{missing:?}");
    let always = (0..9).map(|epoch| Visible { epoch: Some(epoch), ..old.clone() }).collect();
    let error = lake.lake(always).sql(sql).unwrap_err();
    assert!(matches!(error, QueryError::Overtaken { attempts: ATTEMPTS, .. }), "{error:?}");
}

/// A log that is begun in this store.
fn sealed(store: &Arc<dyn Store>) -> Log {
    let mut log = Log::start(Arc::clone(store), LogOptions::default()).unwrap().log;
    log.append(Entry::Seal(seal(log.run()))).unwrap();
    log
}

#[test]
fn the_newest_commit_of_a_log_is_what_is_visible() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let source = LogSource::new(Arc::clone(&store), FOLDER);
    assert!(source.latest().unwrap_err().contains("there is no pipeline"));
    let mut log = sealed(&store);
    assert_eq!(source.latest().unwrap(), Visible::default());
    let partition = PartitionBinding {
        partition: 0,
        name: "a.ndjson".into(),
        end: 100,
        lines: 3,
        digest: String::new(),
        watermark: Some(5),
        status: PartitionStatus::Active,
        detail: serde_json::Value::Null,
    };
    let first = source.latest().unwrap().epoch.map_or(0, |epoch| epoch + 1);
    for epoch in first..first + 2 {
        let partitions = vec![PartitionBinding { lines: 3 + epoch, ..partition.clone() }];
        let binding = Binding { epoch, watermark: Some(5), partitions, last: false, checkpoint: false };
        log.append(Entry::Bind(binding)).unwrap();
    }
    let file = DataFile { path: "tables/sessions/_recent/0.parquet".into(), rows: 2, bytes: 9 };
    let tables = vec![TableChange { table: "sessions".into(), added: vec![file.clone()], removed: Vec::new() }];
    let commit = Commit { epoch: first, watermark: Some(4), tables, ..Commit::default() };
    log.append(Entry::Commit(commit)).unwrap();
    let expected = Visible {
        epoch: Some(first),
        complete_through: Some(4),
        closed: false,
        known: None,
        tables: BTreeMap::from([("sessions".to_owned(), vec![file])]),
        files: vec![("a.ndjson".to_owned(), 3 + first)],
    };
    assert_eq!(source.latest().unwrap(), expected);
}

#[test]
fn tables_in_a_bucket_are_read_as_those_in_a_folder() {
    for name in ["S3_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID"] {
        assert!(std::env::var_os(name).is_some(), "{name} is not set: run `make services`, which says how to set it");
    }
    let local = filled();
    let random = RandomState::new().build_hasher().finish();
    let location: Location = format!("s3://tidemill/query-tests/{random:016x}").parse().unwrap();
    let store = location.open(true, Faults::None).unwrap();
    let sql = "SELECT page, views FROM page_views_by_minute ORDER BY page, views";
    let none = Lake::open(&location, web_analytics::all()).unwrap().sql(sql).unwrap_err().chain();
    assert!(none.starts_with(&format!("cannot read the tables of {location}: there is no pipeline at")), "{none}");

    let mut log = sealed(&store);
    let binding = Binding { epoch: 1, watermark: Some(MINUTE), partitions: vec![], last: false, checkpoint: false };
    log.append(Entry::Bind(binding)).unwrap();
    let tables = local.visible.tables.iter().map(|(table, files)| {
        for file in files {
            store.put(&file.path, &fs::read(local.folder.path().join(&file.path)).unwrap()).unwrap();
        }
        TableChange { table: table.clone(), added: files.clone(), removed: Vec::new() }
    });
    let commit = Commit { epoch: 1, watermark: Some(MINUTE), tables: tables.collect(), ..Commit::default() };
    log.append(Entry::Commit(commit)).unwrap();
    let lake = Lake::open(&location, web_analytics::all()).unwrap();
    for asked in [sql, "SELECT count(*) FROM raw_events", "SELECT * FROM sessions ORDER BY user_id"] {
        let (from_bucket, from_folder) = (lake.sql(asked).unwrap(), local.sql(asked).unwrap());
        assert_eq!(from_bucket.batches, from_folder.batches, "{asked}");
        assert_eq!((from_bucket.epoch, from_bucket.complete_through), (Some(1), Some(MINUTE)));
    }
    for path in store.list("").unwrap() {
        store.delete(&path).unwrap();
    }
}
