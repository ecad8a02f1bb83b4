//! The plans behind the metrics: filters and sums over the stored rows, built as plans, never as text.
//!
//! What somebody asks for (a page, a tenant) only ever becomes a literal of a plan. Sums are taken in 128 bits and
//! refused beyond 64. Stored rows are summed as they are: folding them first gives the same sums, and a union of hash
//! lists is the same however the lists were united before.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Decimal128Type, Int64Type, TimestampMillisecondType};
use datafusion::common::TableReference;
use datafusion::functions_aggregate::expr_fn::{max, min};
use datafusion::logical_expr::{Expr, cast, col, lit, when};
use datafusion::prelude::{DataFrame, SessionContext};
use datafusion::scalar::ScalarValue;
use serde::Serialize;

use super::parameters::{Metric, MetricQuery, Ranked, TopQuery, few_enough};
use super::refusal::Refusal;
use super::time_range::{MINUTE_MS, Range, Step, rfc3339};
use crate::checked_sum::wide_sum;
use crate::union_count::union_count;

/// A bucket of time with its number.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Point {
    t: String,
    value: i64,
}

/// A row of a ranking.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Rank {
    key: String,
    value: i64,
}

/// All metrics of a range.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    views: i64,
    unique_users: i64,
    sessions: i64,
    errors: i64,
    events_in_sessions: i64,
    revenue: Vec<Revenue>,
}

/// What was earned in one currency.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Revenue {
    currency: String,
    amount_cents: i64,
    orders: i64,
}

/// Sessions of a range.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Sessions {
    started: Vec<Point>,
    lengths: Vec<Length>,
}

/// How many sessions are from `from_s` seconds long to less than `to_s`; the last has no end.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Length {
    from_s: i64,
    to_s: Option<i64>,
    count: i64,
}

/// Where the lengths of sessions are cut, in seconds.
const LENGTHS: [i64; 8] = [0, 1, 10, 60, 300, 900, 1_800, 3_600];

/// `name` of a plan's numbers and keys.
const KEY: &str = "key";
const VALUE: &str = "value";

/// A table that metrics are read from.
#[derive(Clone, Copy)]
struct Source {
    table: &'static str,
    time: &'static str,
}

const VIEWS: Source = Source { table: "page_views_by_minute", time: "window_start" };
const ERRORS: Source = Source { table: "errors_by_version_by_minute", time: "window_start" };
const REVENUE: Source = Source { table: "revenue_by_minute", time: "window_start" };
const SESSIONS: Source = Source { table: "sessions", time: "first_event" };
const UNVERIFIED: Source = Source { table: "unverified_events", time: "timestamp" };

fn failed(error: datafusion::error::DataFusionError) -> Refusal {
    Refusal::running(error)
}

fn at(ms: i64) -> Expr {
    lit(ScalarValue::TimestampMillisecond(Some(ms), Some("UTC".into())))
}

impl Source {
    /// The stored rows of a tenant in a range.
    async fn rows(self, context: &SessionContext, tenant: &str, range: Range) -> Result<DataFrame, Refusal> {
        let rows = context.table(TableReference::partial("stored", self.table)).await.map_err(failed)?;
        let time = || col(self.time);
        let asked = time().gt_eq(at(range.from)).and(time().lt(at(range.to))).and(col("tenant").eq(lit(tenant)));
        rows.filter(asked).map_err(failed)
    }

    /// The number of the bucket that a row lies in.
    fn bucket(self, range: Range, step: Step) -> Expr {
        (cast(col(self.time), DataType::Int64) - lit(range.from)) / lit(step.ms())
    }
}

fn users() -> Expr {
    cast(union_count().call(vec![col("users")]), DataType::Decimal128(38, 0))
}

/// +1 for a session, -1 for one taken back; summed over all rows it counts what is shown.
fn sign() -> Expr {
    cast(col("sign"), DataType::Int64)
}

/// What a metric is read from, and the number itself.
fn number(metric: Metric) -> (Source, Expr) {
    match metric {
        Metric::Views => (VIEWS, wide_sum(col("views"))),
        Metric::UniqueUsers => (VIEWS, users()),
        Metric::RevenueCents => (REVENUE, wide_sum(col("amount_cents"))),
        Metric::Errors => (ERRORS, wide_sum(col("errors"))),
        Metric::Sessions => (SESSIONS, wide_sum(sign())),
    }
}

fn narrow(value: i128) -> Result<i64, Refusal> {
    i64::try_from(value).map_err(|_| Refusal::Overflow)
}

/// The number in a column; that of no row at all is zero.
fn number_in(batch: &RecordBatch, column: &str, row: usize) -> Result<i64, Refusal> {
    let column = batch.column_by_name(column).expect("the plan names its columns");
    if column.is_null(row) {
        return Ok(0);
    }
    match column.as_primitive_opt::<Decimal128Type>() {
        Some(wide) => narrow(wide.value(row)),
        None => Ok(column.as_primitive::<Int64Type>().value(row)),
    }
}

fn text_in<'a>(batch: &'a RecordBatch, column: &str, row: usize) -> &'a str {
    batch.column_by_name(column).expect("the plan names its columns").as_string::<i32>().value(row)
}

/// Every row of what a plan answers.
async fn each(plan: DataFrame, mut row: impl FnMut(&RecordBatch, usize) -> Result<(), Refusal>) -> Result<(), Refusal> {
    for batch in plan.collect().await.map_err(failed)? {
        (0..batch.num_rows()).try_for_each(|at| row(&batch, at))?;
    }
    Ok(())
}

/// The numbers of one row, in the order of `numbers`.
async fn sums<const N: usize>(rows: DataFrame, numbers: [Expr; N]) -> Result<[i64; N], Refusal> {
    let names: [String; N] = std::array::from_fn(|at| format!("{VALUE} {at}"));
    let numbers = numbers.into_iter().zip(&names).map(|(number, name)| number.alias(name)).collect();
    let mut sums = [0; N];
    let plan = rows.aggregate(Vec::new(), numbers).map_err(failed)?;
    each(plan, |batch, row| {
        for (sum, name) in sums.iter_mut().zip(&names) {
            *sum = number_in(batch, name, row)?;
        }
        Ok(())
    })
    .await?;
    Ok(sums)
}

/// A number for each bucket that has rows.
async fn buckets(rows: DataFrame, bucket: Expr, number: Expr, into: &mut [i64]) -> Result<(), Refusal> {
    let plan = rows.aggregate(vec![bucket.alias(KEY)], vec![number.alias(VALUE)]).map_err(failed)?;
    each(plan, |batch, row| {
        let place = usize::try_from(number_in(batch, KEY, row)?).ok();
        let slot = place.and_then(|place| into.get_mut(place)).expect("the filter keeps rows to the range");
        *slot = number_in(batch, VALUE, row)?;
        Ok(())
    })
    .await
}

fn points(range: Range, step: Step, values: &[i64]) -> Vec<Point> {
    let start = |bucket: usize| i64::try_from(bucket).ok().and_then(|n| n.checked_mul(step.ms())).unwrap_or(0);
    values.iter().enumerate().map(|(n, &value)| Point { t: rfc3339(range.from + start(n)), value }).collect()
}

/// A metric in the buckets of a range, zero where there are no rows.
pub(super) async fn timeseries(
    context: &SessionContext,
    query: &MetricQuery,
    range: Range,
) -> Result<Vec<Point>, Refusal> {
    let mut values = vec![0; few_enough(range, query.step)?];
    let (source, number) = number(query.metric);
    let mut rows = source.rows(context, &query.tenant, range).await?;
    if let Some(page) = &query.page {
        rows = rows.filter(col("page").eq(lit(page))).map_err(failed)?;
    }
    if query.metric == Metric::RevenueCents {
        match &query.currency {
            Some(currency) => rows = rows.filter(col("currency").eq(lit(currency))).map_err(failed)?,
            None => one_currency(rows.clone()).await?,
        }
    }
    buckets(rows, source.bucket(range, query.step), number, &mut values).await?;
    Ok(points(range, query.step, &values))
}

/// That amounts can be added at all.
async fn one_currency(rows: DataFrame) -> Result<(), Refusal> {
    let mut found = Vec::new();
    let plan = rows.aggregate(vec![col("currency").alias(KEY)], Vec::new()).map_err(failed)?;
    each(plan, |batch, row| {
        found.push(text_in(batch, KEY, row).to_owned());
        Ok(())
    })
    .await?;
    if found.len() < 2 {
        return Ok(());
    }
    found.sort_unstable();
    Err(Refusal::Asked(format!(
        "currency: amounts in {} do not add up; ask for one of them (/api/v1/top?by=currency has them all)",
        found.join(", ")
    )))
}

/// The largest numbers, the largest first, equal ones by key; what counts nothing is left out.
pub(super) async fn top(context: &SessionContext, query: &TopQuery, range: Range) -> Result<Vec<Rank>, Refusal> {
    let (source, key) = match query.by {
        Ranked::Page => (VIEWS, "page"),
        Ranked::ErrorVersion => (ERRORS, "app_version"),
        Ranked::Currency => (REVENUE, "currency"),
    };
    let (_, number) = number(query.metric);
    let rows = source.rows(context, &query.tenant, range).await?;
    let plan = rows
        .aggregate(vec![col(key).alias(KEY)], vec![number.alias(VALUE)])
        .and_then(|plan| plan.filter(col(VALUE).not_eq(lit(ScalarValue::Decimal128(Some(0), 38, 0)))))
        .and_then(|plan| plan.sort(vec![col(VALUE).sort(false, false), col(KEY).sort(true, false)]))
        .and_then(|plan| plan.limit(0, Some(query.limit)))
        .map_err(failed)?;
    let mut ranks = Vec::new();
    each(plan, |batch, row| {
        ranks.push(Rank { key: text_in(batch, KEY, row).to_owned(), value: number_in(batch, VALUE, row)? });
        Ok(())
    })
    .await?;
    Ok(ranks)
}

/// All metrics of a range.
pub(super) async fn totals(context: &SessionContext, tenant: &str, range: Range) -> Result<Totals, Refusal> {
    let of_views = async {
        let numbers = [wide_sum(col("views")), users()];
        sums(VIEWS.rows(context, tenant, range).await?, numbers).await
    };
    let of_errors = async { sums(ERRORS.rows(context, tenant, range).await?, [wide_sum(col("errors"))]).await };
    let of_sessions = async {
        let numbers = [wide_sum(sign()), wide_sum(sign() * col("event_count"))];
        sums(SESSIONS.rows(context, tenant, range).await?, numbers).await
    };
    let of_revenue = revenue(context, tenant, range);
    let ([views, unique_users], [errors], [sessions, events_in_sessions], revenue) =
        futures::try_join!(of_views, of_errors, of_sessions, of_revenue)?;
    Ok(Totals { views, unique_users, sessions, errors, events_in_sessions, revenue })
}

/// By currency.
async fn revenue(context: &SessionContext, tenant: &str, range: Range) -> Result<Vec<Revenue>, Refusal> {
    let numbers = vec![wide_sum(col("amount_cents")).alias("amount_cents"), wide_sum(col("orders")).alias("orders")];
    let rows = REVENUE.rows(context, tenant, range).await?;
    let plan = rows.aggregate(vec![col("currency").alias(KEY)], numbers).map_err(failed)?;
    let mut found = BTreeMap::new();
    each(plan, |batch, row| {
        let earned = (number_in(batch, "amount_cents", row)?, number_in(batch, "orders", row)?);
        found.insert(text_in(batch, KEY, row).to_owned(), earned);
        Ok(())
    })
    .await?;
    let shown = found.into_iter().filter(|(_, earned)| *earned != (0, 0));
    Ok(shown.map(|(currency, (amount_cents, orders))| Revenue { currency, amount_cents, orders }).collect())
}

/// Sessions by when they began and by how long they are.
pub(super) async fn sessions(
    context: &SessionContext,
    tenant: &str,
    range: Range,
    step: Step,
) -> Result<Sessions, Refusal> {
    let mut started = vec![0; few_enough(range, step)?];
    let rows = SESSIONS.rows(context, tenant, range).await?;
    let milliseconds = |column: &str| cast(col(column), DataType::Int64);
    let length = || milliseconds("last_event") - milliseconds("first_event");
    // The first cut that the length does not reach ends its bucket.
    let mut bucket = when(length().lt(lit(LENGTHS[1] * 1_000)), lit(0_i64));
    for (&end, number) in LENGTHS[2..].iter().zip(1_i64..) {
        bucket = bucket.when(length().lt(lit(end * 1_000)), lit(number));
    }
    let last = i64::try_from(LENGTHS.len() - 1).expect("there are eight lengths");
    let bucket = bucket.otherwise(lit(last)).map_err(failed)?;
    let mut counts = vec![0; LENGTHS.len()];
    futures::try_join!(
        buckets(rows.clone(), SESSIONS.bucket(range, step), wide_sum(sign()), &mut started),
        buckets(rows, bucket, wide_sum(sign()), &mut counts),
    )?;
    let ends = LENGTHS[1..].iter().copied().map(Some).chain([None]);
    let lengths = LENGTHS.iter().zip(ends).zip(counts).map(|((&from_s, to_s), count)| Length { from_s, to_s, count });
    Ok(Sessions { started: points(range, step, &started), lengths: lengths.collect() })
}

/// How many events of a range are not known to be new or duplicates.
pub(super) async fn pending(context: &SessionContext, tenant: &str, range: Range) -> Result<u64, Refusal> {
    let rows = UNVERIFIED.rows(context, tenant, range).await?;
    let count = rows.count().await.map_err(failed)?;
    Ok(u64::try_from(count).unwrap_or(u64::MAX))
}

/// The first and the last minute with data that has happened by `now`, of one tenant or of all; where everything is to come
/// yet, of that.
pub(super) async fn extent(
    context: &SessionContext,
    tenant: Option<&str>,
    now: i64,
) -> Result<Option<(i64, i64)>, Refusal> {
    let happened = extent_before(context, tenant, Some(now.saturating_add(1))).await?;
    if happened.is_some() { Ok(happened) } else { extent_before(context, tenant, None).await }
}

async fn extent_before(
    context: &SessionContext,
    tenant: Option<&str>,
    before: Option<i64>,
) -> Result<Option<(i64, i64)>, Refusal> {
    let mut extent: Option<(i64, i64)> = None;
    for source in [VIEWS, ERRORS, REVENUE] {
        let rows = context.table(TableReference::partial("stored", source.table)).await.map_err(failed)?;
        widen(&mut extent, rows, source, (tenant, before)).await?;
    }
    // Of sessions only those count that are shown; folding is for the few that lie outside of what is known already.
    let rows = context.table(SESSIONS.table).await.map_err(failed)?;
    let rows = match extent {
        Some((first, last)) => {
            let outside = col(SESSIONS.time).lt(at(first)).or(col(SESSIONS.time).gt_eq(at(last + MINUTE_MS)));
            rows.filter(outside).map_err(failed)?
        }
        None => rows,
    };
    widen(&mut extent, rows, SESSIONS, (tenant, before)).await?;
    Ok(extent)
}

async fn widen(
    extent: &mut Option<(i64, i64)>,
    mut rows: DataFrame,
    source: Source,
    (tenant, before): (Option<&str>, Option<i64>),
) -> Result<(), Refusal> {
    if let Some(tenant) = tenant {
        rows = rows.filter(col("tenant").eq(lit(tenant))).map_err(failed)?;
    }
    if let Some(before) = before {
        rows = rows.filter(col(source.time).lt(at(before))).map_err(failed)?;
    }
    let ends = vec![min(col(source.time)).alias("first"), max(col(source.time)).alias("last")];
    let plan = rows.aggregate(Vec::new(), ends).map_err(failed)?;
    each(plan, |batch, row| {
        let end = |name| {
            let column = batch.column_by_name(name).expect("the plan names its columns");
            let minute = |ms: i64| ms.div_euclid(MINUTE_MS) * MINUTE_MS;
            (!column.is_null(row)).then(|| minute(column.as_primitive::<TimestampMillisecondType>().value(row)))
        };
        if let (Some(first), Some(last)) = (end("first"), end("last")) {
            let known = extent.get_or_insert((first, last));
            *known = (known.0.min(first), known.1.max(last));
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests;
