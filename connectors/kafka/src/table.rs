//! The sink of a table: each epoch's rows as messages of one transaction.
//!
//! Promises: a reader with `read_committed` sees each epoch's messages once, all or none (INV-3); what they say depends on
//! the rows alone (INV-2).
//!
//! How rows become messages, and how a reader folds them, says [`tidemill_connectors::messages::rows`].

use arrow::array::RecordBatch;
use tidemill_connectors::messages::rows;
use tidemill_dataflow::sink::{DataFile, SinkError, SinkStart, TableWriter};
use tidemill_dataflow::time::Epoch;
use tidemill_tables::{TableSpec, fold};

use crate::config::KafkaConfig;
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
        rows::check(&self.spec)?;
        self.transactions.open(start)
    }

    fn write_epoch(&mut self, epoch: Epoch, shard: u32, batches: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        one_shard(shard)?;
        if epoch > self.transactions.held() && batches.iter().any(|batch| batch.num_rows() > 0) {
            let folded = fold(&self.spec, &batches)?;
            drop(batches);
            self.transactions.write(epoch, rows::encode(&self.spec, epoch, &folded)?)?;
        }
        // Messages are no files: nothing becomes visible by the log's commit.
        Ok(Vec::new())
    }
}

/// The epoch's number stands for all of an epoch, so a table is written as a whole.
pub(crate) fn one_shard(shard: u32) -> Result<(), SinkError> {
    if shard == 0 { Ok(()) } else { Err("a Kafka table has one shard; give the sink one".into()) }
}
