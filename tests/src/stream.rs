//! One test's places on the services: topics in, and ClickHouse, S3 and topics out, with what is written in each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::harness::{Run, Tidemill};
use crate::oracle::Oracle;
use crate::published;
use crate::rows::{QUERIES, Tables};
use crate::services::{Database, Services, read_lines, unique, wait_until};
use crate::topics::Topics;

/// A pipeline's places, under names that nobody else has.
pub struct Stream {
    tidemill: Tidemill,
    name: String,
    brokers: String,
    database: Database,
    lake: String,
    /// Where the command under test finds ClickHouse: `HOST:PORT`.
    clickhouse_by: String,
}

impl Stream {
    /// New places on `services` for the command `tidemill`.
    #[must_use]
    pub fn new(tidemill: &Tidemill, services: &Services, what: &str) -> Stream {
        let name = unique(what);
        Stream {
            tidemill: tidemill.clone().with_environment(services.environment()),
            brokers: services.brokers().to_owned(),
            database: Database::new(services.clickhouse_place(), &name),
            lake: services.bucket(&name),
            clickhouse_by: services.clickhouse_place().to_owned(),
            name,
        }
    }

    /// The same places, with ClickHouse found at `HOST:PORT` by the command under test alone.
    #[must_use]
    pub fn clickhouse_by(self, place: &str) -> Stream {
        Stream { clickhouse_by: place.to_owned(), ..self }
    }

    /// A topic that is read.
    #[must_use]
    pub fn topic(&self, name: &str) -> String {
        format!("{}.events.{name}", self.name)
    }

    /// A topic that is written.
    #[must_use]
    pub fn published(&self, table: &str) -> String {
        format!("{}.out.{table}", self.name)
    }

    /// The consumer group that offsets are mirrored to.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.name
    }

    /// The database.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The place of the Parquet tables.
    #[must_use]
    pub fn lake(&self) -> &Path {
        Path::new(&self.lake)
    }

    /// `s3://BUCKET/PREFIX` for log and state.
    #[must_use]
    pub fn remote_state(&self) -> String {
        format!("{}_state", self.lake)
    }

    /// The command with this test's environment.
    #[must_use]
    pub fn tidemill(&self) -> &Tidemill {
        &self.tidemill
    }

    /// Makes the tables.
    ///
    /// # Panics
    /// When that fails.
    pub fn apply(&self) {
        let made = self.tidemill.command(&["tables", "apply", "--to", &self.database.address()]);
        assert_eq!(made.code, Some(0), "{}", made.stderr);
    }

    /// The topics that are read, as a command line names them.
    #[must_use]
    pub fn source(&self) -> String {
        format!("kafka://{}?topics={}.events.*&group={}", self.brokers, self.name, self.name)
    }

    /// The run from all topics to all places.
    #[must_use]
    pub fn run(&self, state: &str) -> Run {
        let from = self.source();
        let kafka = format!("kafka://{}/{}.out.", self.brokers, self.name);
        let to = [self.database.address_by(&self.clickhouse_by), self.lake.clone(), kafka];
        self.tidemill.stream(&from, &to, state)
    }

    /// Waits until ClickHouse shows exactly so many events; calls `look` each time that it does not yet.
    ///
    /// # Panics
    /// When it does not within five minutes.
    #[track_caller]
    pub fn until_visible(&self, events: u64, mut look: impl FnMut()) {
        wait_until(&format!("{events} events are visible"), || {
            look();
            self.database.try_numbers("SELECT count() FROM raw_events") == Ok(vec![events])
        });
    }

    /// How far ClickHouse says it is: epochs; 0 before the first.
    #[must_use]
    pub fn epochs(&self) -> u64 {
        let answer = self.database.try_numbers("SELECT max(epoch) FROM progress");
        answer.ok().and_then(|row| row.first().copied()).unwrap_or(0)
    }

    /// What the published topics say, folded, as lines of JSON by table.
    #[must_use]
    pub fn folded(&self) -> BTreeMap<&'static str, Vec<u8>> {
        published::fold(|table| read_lines(&self.brokers, &self.published(table)))
    }

    /// The dead letters, as topic, partition and offset, sorted.
    ///
    /// # Panics
    /// When one has no place or no reason.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<(String, i64, u64)> {
        let place = |letter: &Value| {
            assert!(letter["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{letter}");
            let place = (letter["topic"].as_str(), letter["partition"].as_i64(), letter["offset"].as_u64());
            let (Some(topic), Some(partition), Some(offset)) = place else { panic!("{letter} names no place") };
            (topic.to_owned(), partition, offset)
        };
        let mut found: Vec<_> = read_lines(&self.brokers, &self.published("dead_letters")).iter().map(place).collect();
        found.sort_unstable();
        found
    }

    /// Checks every place against the oracle over the first so many lines of each partition.
    ///
    /// # Panics
    /// When one is not equal, with the first differences.
    #[track_caller]
    pub fn check(&self, topics: &Topics<'_>, oracle: &Oracle, lines: &[u64], context: &str) {
        let expected = oracle.answer_of_prefix(lines).0;
        expected.assert_equal(&self.database.tables(), &format!("{context}: ClickHouse"));
        expected.assert_equal(&self.tidemill.tables(self.lake()), &format!("{context}: S3"));
        let found = published::tables(&self.folded());
        published::part(&expected).assert_equal(&found, &format!("{context}: Kafka"));
        self.check_dead_letters(topics, oracle, lines, context);
    }

    /// Checks that the dead letters are those of the oracle, each once.
    ///
    /// # Panics
    /// When they are not.
    #[track_caller]
    pub fn check_dead_letters(&self, topics: &Topics<'_>, oracle: &Oracle, lines: &[u64], context: &str) {
        let mut expected = Vec::new();
        for (at, (topic, partition)) in topics.partitions().iter().enumerate() {
            let malformed = oracle.malformed_lines(at).into_iter().filter(|line| *line <= lines[at]);
            expected.extend(malformed.map(|line| (topic.clone(), i64::from(*partition), line - 1)));
        }
        expected.sort_unstable();
        assert_eq!(self.dead_letters(), expected, "{context}: dead letters");
    }

    /// Writes what each place holds to files below `folder`, for an oracle that reads them: the folders with all tables,
    /// then the one with those that are published.
    ///
    /// # Panics
    /// When a table cannot be read, or a file not written.
    #[must_use]
    pub fn dump(&self, folder: &Path) -> (Vec<PathBuf>, PathBuf) {
        let place = |name: &str| {
            let made = folder.join(name);
            fs::create_dir_all(&made).expect("a folder in a temporary one");
            made
        };
        let write = |at: &Path, table: &str, rows: &[u8]| {
            fs::write(at.join(format!("{table}.ndjson")), rows).expect("a file in a temporary folder");
        };
        let (clickhouse, lake, kafka) = (place("clickhouse"), place("s3"), place("kafka"));
        for (table, columns) in QUERIES {
            let sql = format!("SELECT {columns} FROM {table}");
            write(&clickhouse, table, &self.database.query(&sql));
            write(&lake, table, &self.tidemill.query(self.lake(), &sql));
        }
        self.folded().iter().for_each(|(table, rows)| write(&kafka, table, rows));
        (vec![clickhouse, lake], kafka)
    }

    /// What every place holds at this moment.
    #[must_use]
    pub fn everything(&self) -> (Tables, Tables, BTreeMap<&'static str, usize>) {
        let count = |table: &'static str| (table, read_lines(&self.brokers, &self.published(table)).len());
        let topics = ["sessions", "errors_by_version_by_minute", "revenue_by_minute", "dead_letters"];
        (self.database.tables(), self.tidemill.tables(self.lake()), topics.map(count).into())
    }
}
