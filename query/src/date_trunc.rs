//! `date_trunc` for every time that a table may hold.
//!
//! DataFusion's goes through nanoseconds, which end in the year 2262: one stray clock in a table, and no query over all of it
//! is answered. The calendar repeats itself every 400 years, days of the week included, so a time beyond is moved by a
//! multiple of them, cut, and moved back.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, TimestampMillisecondArray};
use arrow::compute::{binary, unary};
use arrow::datatypes::{DataType, FieldRef, Int64Type, TimeUnit, TimestampMillisecondType};
use datafusion::error::Result;
use datafusion::functions::datetime::date_trunc::DateTruncFunc;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};
use datafusion::scalar::ScalarValue;

/// Milliseconds of 400 years.
const CYCLE: i64 = 146_097 * 86_400_000;

/// Times within this many milliseconds of 1970 are those that nanoseconds can tell, with a year to spare for what is cut off.
const WITHIN: i64 = i64::MAX / 1_000_000 - 366 * 86_400_000;

/// By which multiple of 400 years a time is moved so that nanoseconds can tell it: by the nearest one, so that no more than
/// 200 years are left.
fn moved(time: i64) -> i64 {
    match time.unsigned_abs() <= WITHIN.unsigned_abs() {
        true => 0,
        // Where that one is beyond 64 bits, the next one towards 1970 is not: what is left is a little more, and fits.
        false => time.saturating_add(time.signum() * (CYCLE / 2)) / CYCLE * CYCLE,
    }
}

/// The function that takes the place of DataFusion's.
pub(crate) fn date_trunc() -> ScalarUDF {
    ScalarUDF::from(DateTrunc { inner: DateTruncFunc::new() })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct DateTrunc {
    inner: DateTruncFunc,
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(arguments)
    }

    fn output_ordering(&self, input: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(input)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, mut arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let by = match arguments.args.get(1) {
            Some(ColumnarValue::Scalar(ScalarValue::TimestampMillisecond(Some(time), zone))) if moved(*time) != 0 => {
                let (by, zone) = (moved(*time), zone.clone());
                let near = ScalarValue::TimestampMillisecond(Some(time - by), zone);
                arguments.args[1] = ColumnarValue::Scalar(near);
                ColumnarValue::Scalar(ScalarValue::Int64(Some(by)))
            }
            Some(ColumnarValue::Array(times)) if is_beyond(times) => {
                let times = times.as_primitive::<TimestampMillisecondType>();
                let by = unary::<_, _, Int64Type>(times, moved);
                let near: TimestampMillisecondArray = unary(times, |time| time - moved(time));
                arguments.args[1] = ColumnarValue::Array(Arc::new(near.with_timezone_opt(times.timezone())));
                ColumnarValue::Array(Arc::new(by))
            }
            _ => return self.inner.invoke_with_args(arguments),
        };
        Ok(match (self.inner.invoke_with_args(arguments)?, by) {
            (
                ColumnarValue::Scalar(ScalarValue::TimestampMillisecond(Some(cut), zone)),
                ColumnarValue::Scalar(ScalarValue::Int64(Some(by))),
            ) => ColumnarValue::Scalar(ScalarValue::TimestampMillisecond(Some(cut.saturating_add(by)), zone)),
            (ColumnarValue::Array(cut), ColumnarValue::Array(by)) => {
                let cut = cut.as_primitive::<TimestampMillisecondType>();
                let by = by.as_primitive::<Int64Type>();
                let back: TimestampMillisecondArray = binary(cut, by, i64::saturating_add)?;
                ColumnarValue::Array(Arc::new(back.with_timezone_opt(cut.timezone())))
            }
            (cut, _) => cut,
        })
    }
}

/// Whether any of the times is one that nanoseconds cannot tell.
fn is_beyond(times: &ArrayRef) -> bool {
    matches!(times.data_type(), DataType::Timestamp(TimeUnit::Millisecond, _))
        && times.as_primitive::<TimestampMillisecondType>().iter().flatten().any(|time| moved(time) != 0)
}

#[cfg(test)]
mod tests {
    use arrow::array::RecordBatch;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// What the function gives for times, cut to `part`, as the engine writes it.
    async fn cut(part: &str, times: &[Option<i64>]) -> Vec<Option<i64>> {
        let context = SessionContext::new();
        context.register_udf(date_trunc());
        let times = TimestampMillisecondArray::from(times.to_vec()).with_timezone("UTC");
        let batch = RecordBatch::try_from_iter([("at", Arc::new(times) as ArrayRef)]).unwrap();
        context.register_batch("times", batch).unwrap();
        let plan = context.sql(&format!("SELECT date_trunc('{part}', at) AS cut FROM times")).await.unwrap();
        let found = plan.collect().await.unwrap();
        found.iter().flat_map(|answer| answer.column(0).as_primitive::<TimestampMillisecondType>().iter()).collect()
    }

    #[tokio::test]
    async fn every_year_and_the_first_and_the_last_time_of_all_are_cut() {
        let day: i64 = 86_400_000;
        for year in [1600, 1677, 1678, 1769, 1770, 2170, 2262, 2300, 2369, 2370, 2570, 2662, 9_700, 262_000] {
            // 719,162 days are from the year 1 to 1970.
            let passed = year - 1;
            let begin = (passed * 365 + passed / 4 - passed / 100 + passed / 400 - 719_162) * day;
            let times = [Some(begin + 180 * day + 12_345_678), Some(begin)];
            assert_eq!(cut("year", &times).await, [Some(begin); 2], "{year}");
        }
        // What would be cut to before the first time stays at it.
        for (part, expected) in [
            ("second", [i64::MIN, i64::MAX.div_euclid(1_000) * 1_000]),
            ("day", [i64::MIN, i64::MAX.div_euclid(day) * day]),
        ] {
            let ends = [Some(i64::MIN), Some(i64::MAX)];
            assert_eq!(cut(part, &ends).await, expected.map(Some), "{part}");
        }
        for time in (0..64).flat_map(|bits| [i64::MIN >> bits, i64::MAX >> bits]) {
            let left = time - moved(time);
            assert!(left.unsigned_abs() <= WITHIN.unsigned_abs(), "{time} {left}");
        }
    }

    #[tokio::test]
    async fn stray_years_are_cut_like_all_others() {
        // 2026-03-10T10:17:05.123Z, 9999-12-31T23:59:59.999Z and 0001-01-02T03:04:05.678Z.
        let times = [Some(1_773_137_825_123), Some(253_402_300_799_999), None, Some(-62_135_499_354_322)];
        for (part, expected) in [
            ("second", [1_773_137_825_000, 253_402_300_799_000, -62_135_499_355_000]),
            ("minute", [1_773_137_820_000, 253_402_300_740_000, -62_135_499_360_000]),
            ("hour", [1_773_136_800_000, 253_402_297_200_000, -62_135_499_600_000]),
            ("day", [1_773_100_800_000, 253_402_214_400_000, -62_135_510_400_000]),
            ("week", [1_773_014_400_000, 253_401_868_800_000, -62_135_596_800_000]),
            ("month", [1_772_323_200_000, 253_399_622_400_000, -62_135_596_800_000]),
            ("year", [1_767_225_600_000, 253_370_764_800_000, -62_135_596_800_000]),
        ] {
            let [good, far, old] = expected;
            assert_eq!(cut(part, &times).await, [Some(good), Some(far), None, Some(old)], "{part}");
        }
        let context = SessionContext::new();
        context.register_udf(date_trunc());
        let text = "SELECT date_trunc('day', arrow_cast(253402300799999, 'Timestamp(Millisecond, None)')) AS cut";
        let found = context.sql(text).await.unwrap().collect().await.unwrap();
        assert_eq!(found[0].column(0).as_primitive::<TimestampMillisecondType>().value(0), 253_402_214_400_000);
    }
}
