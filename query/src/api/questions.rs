//! Answers a question on one commit.

use std::sync::Arc;

use arrow::array::RecordBatch;
use futures::StreamExt;
use serde::Serialize;

use super::answer::{Answered, Data};
use super::parameters::{MOST_BUCKETS, MetricQuery, Question, TopQuery};
use super::plans;
use super::refusal::Refusal;
use super::snapshot::Snapshot;
use super::time_range::{MINUTE_MS, Range, Span, Step, rfc3339};
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
            Ok(Answered { range, pending: all_pending(snapshot), data: Data::json(&Extent { from, to }) })
        }
        Question::Sql { text, csv } => {
            let answer = run_sql(snapshot, text, rows).await?;
            let data = write(&answer, *csv).map_err(crate::error::QueryError::Write)?;
            Ok(Answered { range: None, pending: all_pending(snapshot), data })
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
    Ok(Answered { range: Some(range), pending, data: Data::json(data) })
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

fn write(answer: &Answer, csv: bool) -> std::io::Result<Data> {
    if csv {
        let mut bytes = Vec::new();
        Format::Csv.write(answer, &mut bytes)?;
        return Ok(Data::Csv(bytes));
    }
    let names: Vec<&str> = answer.schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut text = format!("{{\"columns\":{},\"rows\":", serde_json::to_string(&names)?);
    write_rows_as_json(answer, &mut text)?;
    text.push('}');
    Ok(Data::Json(serde_json::value::RawValue::from_string(text)?))
}
