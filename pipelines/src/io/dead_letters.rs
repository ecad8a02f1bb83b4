//! Dead letters of a pipeline: files beside the tables, or a topic.

use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use serde_json::Value;
use tidemill_connectors::dead_letters;
use tidemill_dataflow::batch::Batch;
use tidemill_dataflow::sink::{DataFile, SinkError, TableSink, TableWriter};
use tidemill_dataflow::status::MalformedPlace;
use tidemill_dataflow::stream::Rejected;
use tidemill_dataflow::time::Epoch;
use tidemill_kafka::{DeadLetterTopic, dead_letter_line};
use tidemill_log::Store;

use super::DeadLetters;

/// The sink of what could not become an event.
pub(super) fn sink(place: DeadLetters, pipeline: &'static str) -> TableSink<Rejected> {
    let topic = matches!(place, DeadLetters::Topic(_));
    TableSink {
        table: "dead_letters".into(),
        encode: Arc::new(move |batch| encode(batch, topic)),
        writer: Arc::new(move || match &place {
            DeadLetters::Files(store) => Box::new(DeadLetterFiles { store: Arc::clone(store) }),
            DeadLetters::Topic(config) => Box::new(DeadLetterTopic::new(config.clone(), pipeline)),
        }),
    }
}

impl DeadLetters {
    /// The first dead letters of files, at most so many; none of a topic, or where they cannot be read.
    pub(crate) fn first(&self, most: usize) -> Vec<MalformedPlace> {
        let DeadLetters::Files(store) = self else { return Vec::new() };
        let names = store.list("dead_letters").unwrap_or_default();
        let files = names.iter().filter_map(|name| store.get(name).ok().flatten());
        let mut first = Vec::new();
        for file in files {
            let lines = file.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
            first.extend(lines.filter_map(|letter| place_of(&letter)).take(most - first.len()));
            if first.len() == most {
                break;
            }
        }
        first
    }
}

fn place_of(letter: &Value) -> Option<MalformedPlace> {
    let text = |name: &str| letter[name].as_str().map(str::to_owned);
    Some(MalformedPlace { partition: text("file")?, line: letter["line"].as_u64()?, reason: text("reason")? })
}

/// Dead letters travel as one column of NDJSON lines.
fn encode(batch: &Batch<Rejected>, topic: bool) -> Result<RecordBatch, SinkError> {
    let mut lines = Vec::with_capacity(batch.len());
    batch.for_each(|rejected| {
        let mut line = Vec::new();
        if topic {
            dead_letter_line(&rejected.letter, &rejected.partition, &mut line);
        } else {
            dead_letters::encode(&rejected.letter, &rejected.partition, &mut line);
        }
        lines.push(String::from_utf8_lossy(&line).into_owned());
    });
    let schema = Schema::new(vec![Field::new("line", DataType::Utf8, false)]);
    Ok(RecordBatch::try_new(Arc::new(schema), vec![Arc::new(StringArray::from(lines))])?)
}

struct DeadLetterFiles {
    store: Arc<dyn Store>,
}

impl TableWriter for DeadLetterFiles {
    fn write_epoch(&mut self, epoch: Epoch, shard: u32, rows: Vec<RecordBatch>) -> Result<Vec<DataFile>, SinkError> {
        let mut text = String::new();
        for batch in &rows {
            let lines = batch.column(0).as_any().downcast_ref::<StringArray>();
            for line in lines.into_iter().flatten().flatten() {
                text.push_str(line.trim_end_matches('\n'));
                text.push('\n');
            }
        }
        if !text.is_empty() {
            self.store.put(&format!("dead_letters/{epoch:012}-{shard:03}.ndjson"), text.as_bytes())?;
        }
        // They are no table: the folder is complete when the run is finished, and the log does not name its files.
        Ok(Vec::new())
    }
}
