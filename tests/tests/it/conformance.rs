//! Every connector there is, through the public conformance functions.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMillisecondType};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tempfile::TempDir;
use tidemill_clickhouse::{ClickHouseTable, Retention, Target, apply};
use tidemill_connectors::capture::Capture;
use tidemill_connectors::conformance::sink::{self, Row, Sink};
use tidemill_connectors::conformance::source;
use tidemill_connectors::events::Event;
use tidemill_connectors::files::{FileSource, FilesConfig};
use tidemill_connectors::generate::Rates;
use tidemill_connectors::lake::{LakeTable, RowOrder};
use tidemill_dataflow::sink::{DataFile, SinkError, TableWriter};
use tidemill_dataflow::time::Epoch;
use tidemill_kafka::{Credentials, KafkaConfig, KafkaSource, KafkaTable};
use tidemill_log::{Faults, Location, Store};
use tidemill_tables::fold;
use tidemill_tests::corpus;
use tidemill_tests::rows::Time;
use tidemill_tests::services::{Database, Producer, Services, delete_topic, read_lines, unique};
use tidemill_tests::topics::Topics;

const PIPELINE: &str = "web_analytics";

fn show(event: &Event) -> String {
    event.event_id().to_owned()
}

/// Generated lines of every kind, as two pieces.
fn pieces(seed: u64) -> Vec<Vec<u8>> {
    corpus::cut(&corpus::events(600, seed, Rates { malformed: 20_000, ..Rates::default() }), 2)
}

fn files(paths: &[PathBuf]) -> FileSource {
    FileSource::new(FilesConfig { paths: paths.to_vec(), ..FilesConfig::default() })
}

#[test]
fn plain_files_keep_the_contract_of_a_source() {
    let folder = TempDir::new().unwrap();
    let [one, two] = [1, 2].map(|seed| pieces(seed).swap_remove(0));
    let paths = [corpus::file(folder.path(), "one.ndjson", &one), corpus::file(folder.path(), "two.ndjson", &two)];
    let made = || files(&paths);
    source::replays_from_any_bound_offset(made, show).unwrap();
    source::blocks_depend_on_content_and_limits_alone(made, show).unwrap();
    source::never_waits_in_read(made()).unwrap();
    let append = || {
        let mut file = OpenOptions::new().append(true).open(&paths[0]).unwrap();
        file.write_all(&pieces(1)[1]).unwrap();
    };
    source::goes_on_after_a_restart(made, show, append).unwrap();
    source::refuses_changed_content(made, || fs::write(&paths[1], &one).unwrap()).unwrap();
    source::refuses_changed_content(made, || fs::remove_file(&paths[0]).unwrap()).unwrap();
}

#[test]
fn compressed_files_keep_the_contract_of_a_source() {
    let folder = TempDir::new().unwrap();
    let [one, two] = [3, 4].map(|seed| pieces(seed).swap_remove(0));
    let paths = [
        corpus::file(folder.path(), "one.ndjson.gz", &corpus::gzipped(&one)),
        corpus::file(folder.path(), "two.ndjson.zst", &corpus::zstandard(&two)),
    ];
    let made = || files(&paths);
    source::replays_from_any_bound_offset(made, show).unwrap();
    source::blocks_depend_on_content_and_limits_alone(made, show).unwrap();
    source::never_waits_in_read(made()).unwrap();
    source::refuses_changed_content(made, || fs::write(&paths[0], corpus::gzipped(&two)).unwrap()).unwrap();
}

#[test]
fn what_the_generator_writes_keeps_the_contract_of_a_source() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("generated.ndjson");
    let outcome = crate::tidemill().command(&["generate", "--events", "500", "--out", &path.to_string_lossy()]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let made = || files(std::slice::from_ref(&path));
    source::replays_from_any_bound_offset(made, show).unwrap();
    source::blocks_depend_on_content_and_limits_alone(made, show).unwrap();
    source::never_waits_in_read(made()).unwrap();
}

#[test]
fn topics_keep_the_contract_of_a_source() {
    let brokers = Services::shared().brokers();
    let name = unique("conformance");
    let bytes = pieces(5).concat();
    let topics = Topics::deal(vec![(format!("{name}.a"), 2), (format!("{name}.b"), 1)], &bytes);
    topics.create(brokers);
    let producer = Producer::new(brokers);
    let send = |from, until| {
        topics.send(&producer, from, until);
        producer.flush();
    };
    let half = topics.len() / 2;
    send(0, half);
    let address = format!("kafka://{brokers}?topics={name}.*");
    let live = || KafkaSource::new(KafkaConfig::source(&address, &Credentials::default()).unwrap());
    let made = || live().until_end();
    source::replays_from_any_bound_offset(made, show).unwrap();
    source::blocks_depend_on_content_and_limits_alone(made, show).unwrap();
    source::never_waits_in_read(live()).unwrap();
    source::never_waits_in_read(made()).unwrap();
    source::goes_on_after_a_restart(made, show, || send(half, topics.len())).unwrap();
    source::refuses_changed_content(made, || delete_topic(brokers, &topics.names()[0].0)).unwrap();
}

/// The rows of batches as a reader folds them.
fn folded(batches: &[RecordBatch]) -> Vec<Row> {
    let all = fold(&sink::table(), batches).unwrap();
    let text = |column: usize, row: usize| all.column(column).as_string::<i32>().value(row).to_owned();
    let number = |column: usize, row: usize| all.column(column).as_primitive::<Int64Type>().value(row);
    let minute = |row: usize| all.column(1).as_primitive::<TimestampMillisecondType>().value(row);
    (0..all.num_rows()).map(|row| (text(0, row), minute(row), text(2, row), number(3, row), number(4, row))).collect()
}

/// A row of JSON as a query prints it.
fn parsed(row: &Value) -> Row {
    let text = |name: &str| row[name].as_str().unwrap().to_owned();
    let number = |name: &str| row[name].as_i64().unwrap();
    let minute = Time::parse(&text("window_start")).unwrap().0;
    (text("tenant"), minute, text("currency"), number("orders"), number("amount_cents"))
}

/// Takes a sink, at a new place each time, through all functions.
#[track_caller]
fn check_sink(mut with_new_place: impl FnMut(&mut dyn FnMut(&Sink<'_>))) {
    type Check = fn(&Sink<'_>) -> Result<(), String>;
    let checks: [(&str, Check); 5] = [
        ("rows_come_back_as_written", sink::rows_come_back_as_written),
        ("a_repeated_write_has_the_effect_of_one", sink::a_repeated_write_has_the_effect_of_one),
        ("a_write_that_stopped_halfway_is_completed", sink::a_write_that_stopped_halfway_is_completed),
        ("a_restart_goes_on_behind_what_was_committed", sink::a_restart_goes_on_behind_what_was_committed),
        ("a_fenced_writer_changes_nothing", sink::a_fenced_writer_changes_nothing),
    ];
    for (name, check) in checks {
        with_new_place(&mut |sink| check(sink).unwrap_or_else(|broken| panic!("{name}: {broken}")));
    }
}

#[test]
fn the_capture_in_memory_keeps_the_contract_of_a_sink() {
    check_sink(|check| {
        let capture = Capture::default();
        let writer = || Box::new(capture.writer()) as Box<dyn TableWriter>;
        let read = |_: &[DataFile]| Ok(folded(&capture.rows()));
        check(&Sink { instance: unique("capture"), writer: &writer, read: &read });
    });
}

#[test]
fn tables_in_clickhouse_keep_the_contract_of_a_sink() {
    let place = Services::shared().clickhouse_place();
    check_sink(|check| {
        let database = Database::new(place, &unique("conformance"));
        let target = Target::parse(&database.address(), None, None).unwrap();
        apply(&target, Retention::default()).unwrap();
        let writer = || Box::new(ClickHouseTable::new(target.clone(), sink::table(), PIPELINE)) as Box<dyn TableWriter>;
        let read = |_: &[DataFile]| {
            let lines = database.try_query("SELECT * FROM revenue_by_minute")?;
            Ok(corpus::lines(&lines).iter().map(|line| parsed(&serde_json::from_slice(line).unwrap())).collect())
        };
        check(&Sink { instance: unique("run"), writer: &writer, read: &read });
        database.drop_all();
    });
}

#[test]
fn tables_in_clickhouse_leave_out_what_they_refuse_and_notice_what_they_lost() {
    let place = Services::shared().clickhouse_place();
    let losses = ["TRUNCATE TABLE revenue_by_day_data", "DROP TABLE revenue_by_minute_data SYNC"];
    for loss in [None].into_iter().chain(losses.map(Some)) {
        let database = Database::new(place, &unique("conformance"));
        let target = Target::parse(&database.address(), None, None).unwrap();
        apply(&target, Retention::default()).unwrap();
        let writer = || Box::new(ClickHouseTable::new(target.clone(), sink::table(), PIPELINE)) as Box<dyn TableWriter>;
        let read = |_: &[DataFile]| {
            let lines = database.try_query("SELECT * FROM revenue_by_minute")?;
            Ok(corpus::lines(&lines).iter().map(|line| parsed(&serde_json::from_slice(line).unwrap())).collect())
        };
        let sink = Sink { instance: unique("run"), writer: &writer, read: &read };
        let alter = |what: &str| database.run(&format!("ALTER TABLE revenue_by_minute_data {what}"));
        let refuse = || alter("ADD CONSTRAINT few CHECK currency != 'EUR' OR orders % 500 != 0");
        let done = match loss {
            None => sink::a_refused_row_doubles_no_other(&sink, refuse, || alter("DROP CONSTRAINT few")),
            Some(loss) => sink::lost_rows_are_noticed(&sink, || {
                database.run(loss);
                apply(&target, Retention::default()).unwrap();
            }),
        };
        done.unwrap_or_else(|broken| panic!("{loss:?}: {broken}"));
        database.drop_all();
    }
}

#[test]
fn topics_keep_the_contract_of_a_sink() {
    let brokers = Services::shared().brokers();
    check_sink(|check| {
        let name = unique("conformance");
        let config = KafkaConfig::sink(&format!("kafka://{brokers}/{name}."), &Credentials::default()).unwrap();
        let writer = || Box::new(KafkaTable::new(config.clone(), PIPELINE, sink::table())) as Box<dyn TableWriter>;
        let read = |_: &[DataFile]| {
            let mut cells = std::collections::BTreeMap::new();
            for (tenant, minute, currency, orders, cents) in
                read_lines(brokers, &format!("{name}.revenue_by_minute")).iter().map(parsed)
            {
                let cell: &mut (i64, i64) = cells.entry((tenant, minute, currency)).or_default();
                *cell = (cell.0 + orders, cell.1 + cents);
            }
            Ok(cells.into_iter().map(|((t, m, c), (orders, cents))| (t, m, c, orders, cents)).collect())
        };
        check(&Sink { instance: name.clone(), writer: &writer, read: &read });
    });
}

/// The lake's table as a pipeline writes it.
struct LakeWriter(LakeTable);

impl TableWriter for LakeWriter {
    fn write_epoch(&mut self, epoch: Epoch, shard: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        Ok(self.0.write_epoch(epoch, shard, rows, RowOrder::ByKeys)?)
    }
}

#[track_caller]
fn check_lake(mut open: impl FnMut() -> Arc<dyn Store>) {
    check_sink(|check| {
        let store = open();
        let table = LakeTable::new(sink::table(), Arc::clone(&store));
        let writer = || Box::new(LakeWriter(table.clone())) as Box<dyn TableWriter>;
        let read = |files: &[DataFile]| {
            let mut batches = Vec::new();
            for file in files {
                let bytes = store.get(&file.path).map_err(|error| error.to_string())?.ok_or("a named file is gone")?;
                let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|b| b.build()).unwrap();
                batches.extend(reader.map(Result::unwrap));
            }
            Ok(if batches.is_empty() { Vec::new() } else { folded(&batches) })
        };
        check(&Sink { instance: unique("lake"), writer: &writer, read: &read });
    });
}

#[test]
fn the_lake_in_a_folder_keeps_the_contract_of_a_sink() {
    let folder = TempDir::new().unwrap();
    let mut count = 0;
    check_lake(|| {
        count += 1;
        Location::from(Path::new(&folder.path().join(format!("lake-{count}")))).open(true, Faults::None).unwrap()
    });
}

#[test]
fn the_lake_in_a_bucket_keeps_the_contract_of_a_sink() {
    let services = Services::shared();
    // A store in this process goes by this process's environment.
    let named = std::env::var("AWS_ENDPOINT_URL").is_ok_and(|value| value.ends_with(services.s3_place()));
    if !named {
        run_again_with(services, "the_lake_in_a_bucket_keeps_the_contract_of_a_sink");
        return;
    }
    check_lake(|| {
        services.bucket(&unique("conformance")).parse::<Location>().unwrap().open(true, Faults::None).unwrap()
    });
}

/// Runs one test in a process of its own that has the services' addresses in its environment.
#[track_caller]
fn run_again_with(services: &Services, test: &str) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("conformance::{test}")]).envs(services.variables());
    let done = command.output().expect("this program starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}
