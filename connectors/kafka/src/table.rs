//! The sink of a table: each epoch's rows as messages of one transaction.
//!
//! Promises: a reader with `read_committed` sees each epoch's messages once, all or none (INV-3); what they say depends on
//! the rows alone (INV-2).
//!
//! A message's key is the JSON array of the table's key columns; its value a JSON object of all columns and of `epoch`.
//! Times are RFC 3339 with milliseconds. A table that adds up is published as what the epoch added, so a reader *folds by
//! key*:
//!
//! | table | in the value | a reader |
//! |---|---|---|
//! | deltas | sums of the epoch | adds them up |
//! | | distinct values of the epoch, an array of 64-bit hashes in decimal text | counts their union |
//! | signed (sessions) | `sign`: 1 asserts the row, -1 takes it back | keeps rows whose signs add up to more than 0 |
//! | appended | the row | keeps it |
//!
//! A cell with very many hashes is spread over several messages of the same key, of which the first holds the sums. The
//! messages of an epoch are sorted, so they are the same however rows were dealt to workers.

use arrow::array::RecordBatch;
use tidemill_dataflow::sink::{DataFile, SinkError, SinkStart, TableWriter};
use tidemill_dataflow::time::Epoch;
use tidemill_tables::{TableSpec, fold};

use crate::config::KafkaConfig;
use crate::messages;
use crate::transactions::Transactions;

/// Writes a table to the topic `PREFIX` + its name.
#[derive(Debug)]
pub struct KafkaTable {
    spec: TableSpec,
    transactions: Transactions,
}

impl KafkaTable {
    /// A writer of `spec` for the pipeline of this name; nothing is connected yet.
    #[must_use]
    pub fn new(config: KafkaConfig, pipeline: &str, spec: TableSpec) -> KafkaTable {
        let transactions = Transactions::new(config, pipeline, &spec.name);
        KafkaTable { spec, transactions }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        self.transactions.topic()
    }
}

impl TableWriter for KafkaTable {
    fn open(&mut self, start: &SinkStart) -> Result<(), SinkError> {
        if let Some(column) = self.spec.columns.iter().find(|column| !messages::is_supported(&column.stored)) {
            let (table, name, kind) = (&self.spec.name, &column.name, &column.stored);
            return Err(format!("table {table}: column {name} of type {kind} cannot be published to Kafka").into());
        }
        self.transactions.open(start)
    }

    fn write_epoch(&mut self, epoch: Epoch, shard: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        one_shard(shard)?;
        if epoch > self.transactions.held() && rows.iter().any(|batch| batch.num_rows() > 0) {
            let folded = fold(&self.spec, &rows)?;
            drop(rows);
            self.transactions.write(epoch, &messages::encode(&self.spec, epoch, &folded)?)?;
        }
        // Messages are no files: nothing becomes visible by the log's commit.
        Ok(Vec::new())
    }
}

/// The epoch's number stands for all of an epoch, so a table is written as a whole.
pub(crate) fn one_shard(shard: u32) -> Result<(), SinkError> {
    if shard == 0 { Ok(()) } else { Err("a Kafka table has one shard; give the sink one".into()) }
}
