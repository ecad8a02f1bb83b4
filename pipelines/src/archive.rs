//! Whole events as rows of the raw and unverified tables.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringBuilder, TimestampMillisecondArray};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use tidemill_connectors::events::Event;
use tidemill_dataflow::batch::Batch;

/// A text column and how to find its value.
type Text = fn(&Event) -> Option<&str>;

/// The text columns before the times, and after them, in the order of the schema.
const IDS: [Text; 5] = [
    |e| Some(e.tenant().text),
    |e| Some(e.event_id()),
    |e| Some(e.event_type()),
    |e| Some(e.user().text),
    Event::session_id,
];
const TEXTS: [Text; 8] = [
    Event::app_version,
    Event::os,
    Event::screen_resolution,
    Event::locale,
    Event::country,
    Event::city,
    |e| e.page().map(|page| page.text),
    Event::properties,
];

/// The events of a batch, in its order, as the columns of `raw_events`.
///
/// # Errors
/// If the schema is another one.
pub fn encode(batch: &Batch<Event>, schema: SchemaRef) -> Result<RecordBatch, ArrowError> {
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
    columns.extend(IDS.iter().map(|text| texts(batch, *text)));
    let (mut times, mut server_times) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    batch.for_each(|event| {
        times.push(event.timestamp().0);
        server_times.push(event.server_time().map(|t| t.0));
    });
    columns.push(Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")));
    columns.push(Arc::new(TimestampMillisecondArray::from(server_times).with_timezone("UTC")));
    columns.extend(TEXTS.iter().map(|text| texts(batch, *text)));
    let mut extra = StringBuilder::with_capacity(batch.len(), batch.len() * 64);
    batch.for_each(|event| extra.append_option(event.extra()));
    columns.push(Arc::new(extra.finish()));
    RecordBatch::try_new(schema, columns)
}

fn texts(batch: &Batch<Event>, text: Text) -> ArrayRef {
    let mut bytes = 0;
    batch.for_each(|event| bytes += text(event).map_or(0, str::len));
    let mut column = StringBuilder::with_capacity(batch.len(), bytes);
    batch.for_each(|event| column.append_option(text(event)));
    Arc::new(column.finish())
}
