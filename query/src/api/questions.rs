//! Answers a question on one commit.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::StreamExt;
use serde::Serialize;
use serde_json::value::RawValue;
use tidemill_http::Share;

use super::answer::{Answered, Data};
use super::parameters::{MOST_BUCKETS, MetricQuery, Question, TopQuery};
use super::plans;
use super::refusal::Refusal;
use super::snapshot::Snapshot;
use super::time_range::{MINUTE_MS, Range, Span, Step, rfc3339};
use crate::error::QueryError;
use crate::format::{Format, write_rows_as_json};
use crate::lake::Answer;
use crate::session;

/// Bytes of rows that an answer of SQL may take in memory.
const MOST_BYTES: usize = 64 << 20;

/// The first and the last minute with data.
#[derive(Serialize)]
struct Extent {
    from: Option<String>,
    to: Option<String>,
}

/// Answers `question` from `snapshot` alone; SQL with at most `rows` rows.
///
/// # Errors
/// When the question cannot be answered on this commit, or running it fails.
pub(super) async fn answer(snapshot: &Snapshot, question: &Question, rows: usize) -> Result<Answered, Refusal> {
    let metrics = &snapshot.metrics;
    match question {
        Question::Timeseries(query @ MetricQuery { span, step, tenant, .. }) => {
            let range = whole(snapshot, *span, (*step, MOST_BUCKETS), tenant).await?;
            let points = plans::timeseries(metrics, query, range).await?;
            of_range(snapshot, tenant, range, &points).await
        }
        Question::Top(query @ TopQuery { span, tenant, .. }) => {
            let range = whole(snapshot, *span, (Step::Minute, u64::MAX), tenant).await?;
            let ranks = plans::top(metrics, query, range).await?;
            of_range(snapshot, tenant, range, &ranks).await
        }
        Question::Totals { span, tenant } => {
            let range = whole(snapshot, *span, (Step::Minute, u64::MAX), tenant).await?;
            let totals = plans::totals(metrics, tenant, range).await?;
            of_range(snapshot, tenant, range, &totals).await
        }
        Question::Sessions { span, step, tenant } => {
            let range = whole(snapshot, *span, (*step, MOST_BUCKETS), tenant).await?;
            let sessions = plans::sessions(metrics, tenant, range, *step).await?;
            of_range(snapshot, tenant, range, &sessions).await
        }
        Question::Range { tenant } => {
            let extent = plans::extent(metrics, tenant.as_deref(), snapshot.tables.clock().now()).await?;
            let (from, to) = (extent.map(|extent| rfc3339(extent.0)), extent.map(|extent| rfc3339(extent.1)));
            let range = extent.map(|(first, last)| Range { from: first, to: last.saturating_add(MINUTE_MS) });
            Ok(Answered { range, pending: all_pending(snapshot), data: Data::json(&Extent { from, to }), held: None })
        }
        Question::Sql { text, csv } => {
            let bytes = answer_statement(snapshot, text, rows, *csv).await?;
            of_statement(snapshot, bytes, *csv, None)
        }
    }
}

async fn whole(snapshot: &Snapshot, span: Span, (step, most): (Step, u64), tenant: &str) -> Result<Range, Refusal> {
    let now = snapshot.tables.clock().now();
    let data = if span.is_open() { plans::extent(&snapshot.metrics, Some(tenant), now).await? } else { None };
    Ok(span.whole_of(step, data, most, now))
}

async fn of_range(snapshot: &Snapshot, tenant: &str, range: Range, data: &impl Serialize) -> Result<Answered, Refusal> {
    let any = all_pending(snapshot) > 0;
    let pending = if any { plans::pending(&snapshot.metrics, tenant, range).await? } else { 0 };
    Ok(Answered { range: Some(range), pending, data: Data::json(data), held: None })
}

/// Pending events of all tenants and times, as the log counts them.
fn all_pending(snapshot: &Snapshot) -> u64 {
    let files = snapshot.visible.tables.get("unverified_events");
    files.into_iter().flatten().map(|file| file.rows).sum()
}

/// Runs a statement and stops as soon as its answer is too large.
async fn run_sql(snapshot: &Snapshot, text: &str, most: usize) -> Result<Answer, Refusal> {
    let plan = session::plan(&snapshot.context, text).await?;
    let schema = Arc::clone(plan.schema().inner());
    let mut stream = plan.execute_stream().await.map_err(Refusal::running)?;
    let (mut batches, mut rows, mut bytes): (Vec<RecordBatch>, _, _) = (Vec::new(), 0, 0);
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(Refusal::running)?;
        rows += batch.num_rows();
        // Rows that are a slice of something larger count as what they are a slice of: that is what is held.
        bytes += batch.get_array_memory_size();
        if rows > most {
            return Err(Refusal::TooManyRows(most));
        }
        if bytes > MOST_BYTES {
            return Err(Refusal::TooLong(MOST_BYTES >> 20));
        }
        batches.push(batch);
    }
    Ok(Answer { schema, batches, epoch: snapshot.visible.epoch, complete_through: snapshot.complete_through() })
}

/// The answer to a statement, written out: what stands as `data` in JSON, or the whole in CSV.
///
/// # Errors
/// When the statement is refused, fails, or has too large an answer.
pub(crate) async fn answer_statement(
    snapshot: &Snapshot,
    text: &str,
    rows: usize,
    csv: bool,
) -> Result<Vec<u8>, Refusal> {
    let answer = run_sql(snapshot, text, rows).await?;
    let bytes = write(&answer, csv).map_err(QueryError::Write)?;
    if bytes.len() > MOST_BYTES { Err(Refusal::TooLong(MOST_BYTES >> 20)) } else { Ok(bytes) }
}

/// What [`answer_statement`] wrote, as an answer.
pub(super) fn of_statement(
    snapshot: &Snapshot,
    bytes: Vec<u8>,
    csv: bool,
    held: Option<Share>,
) -> Result<Answered, Refusal> {
    let unfinished = |_| Refusal::Unfinished("the answer is no text of JSON".to_owned());
    let data = if csv {
        Data::Csv(bytes)
    } else {
        let text = String::from_utf8(bytes).map_err(|error| Refusal::Unfinished(error.to_string()))?;
        Data::Json(RawValue::from_string(text).map_err(unfinished)?)
    };
    Ok(Answered { range: None, pending: all_pending(snapshot), data, held })
}

fn write(answer: &Answer, csv: bool) -> std::io::Result<Vec<u8>> {
    if csv {
        let mut bytes = Vec::new();
        Format::Csv.write(answer, &mut bytes)?;
        return Ok(bytes);
    }
    let names: Vec<&str> = answer.schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut text = format!("{{\"columns\":{},\"rows\":", serde_json::to_string(&names)?);
    write_rows_as_json(answer, &mut text)?;
    text.push('}');
    Ok(text.into_bytes())
}
