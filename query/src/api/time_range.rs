//! Times as people give them, ranges of whole buckets, and the steps that cut them. Milliseconds since 1970, UTC.

use std::fmt;

use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use tidemill_tables::calendar::Instant;

/// Milliseconds in a minute, the finest bucket of the tables.
pub(super) const MINUTE_MS: i64 = 60_000;

/// The last instant that RFC 3339 can write: 9999-12-31T23:59:59.999Z.
const LAST: i64 = 253_402_300_799_999;

/// The first one: 0000-01-01T00:00:00Z.
const FIRST: i64 = -62_167_219_200_000;

/// 2000-01-01T00:00:00Z.
const YEAR_2000: i64 = 946_684_800_000;

/// An instant as answers write it, RFC 3339 in UTC; what lies beyond the year 9999 (the end of time, once it was
/// declared) is written as that year's last millisecond.
pub(super) fn rfc3339(ms: i64) -> String {
    Instant(ms.clamp(FIRST, LAST)).to_string()
}

/// Reads an instant: RFC 3339 (a missing offset means UTC), or milliseconds since 1970.
pub(super) fn instant(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let ms = if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()?
    } else {
        string_to_timestamp_nanos(text).ok()?.div_euclid(1_000_000)
    };
    (FIRST..=LAST).contains(&ms).then_some(ms)
}

/// How long a bucket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day of UTC.
    Day,
}

impl Step {
    /// Its length in milliseconds.
    pub(super) fn ms(self) -> i64 {
        match self {
            Self::Minute => MINUTE_MS,
            Self::Hour => 60 * MINUTE_MS,
            Self::Day => 24 * 60 * MINUTE_MS,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        })
    }
}

/// What was asked for: either end may be left to where the data is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// The first instant.
    pub(super) from: Option<i64>,
    /// The first instant after.
    pub(super) to: Option<i64>,
}

impl Span {
    /// The whole buckets of `step` that the span touches; `data` is the first and the last minute with data, which
    /// stand in for an end that was not given.
    pub(super) fn whole(self, step: Step, data: Option<(i64, i64)>) -> Range {
        let after_data = data.map(|(_, last)| last.saturating_add(MINUTE_MS));
        let from = self.from.or_else(|| data.map(|(first, _)| first)).or(self.to).unwrap_or(0);
        let to = self.to.or(after_data).unwrap_or(from);
        let (from, step) = (from.div_euclid(step.ms()) * step.ms(), step.ms());
        let past = to.rem_euclid(step);
        let to = if past == 0 { to } else { to.saturating_add(step - past) };
        Range { from, to: to.max(from) }
    }

    /// The same, where an answer has room for so many buckets: if there are more from an open end to where the data is, stray
    /// times are left out, those after `now` first, then those before the year 2000.
    pub(super) fn whole_of(self, step: Step, data: Option<(i64, i64)>, most: u64, now: i64) -> Range {
        let ahead = data.filter(|(first, _)| *first <= now).map(|(first, last)| (first, last.min(now)));
        let old = ahead.filter(|(_, last)| *last >= YEAR_2000).map(|(first, last)| (first.max(YEAR_2000), last));
        let all = self.whole(step, data);
        let narrowed = [ahead, old].into_iter().flatten().map(|near| self.whole(step, Some(near)));
        std::iter::once(all).chain(narrowed).find(|range| range.buckets(step) <= most).unwrap_or(all)
    }

    /// Whether an end has to be found in the data.
    pub(super) fn is_open(self) -> bool {
        self.from.is_none() || self.to.is_none()
    }
}

/// Whole buckets: from `from` on, before `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    /// The first instant.
    pub(super) from: i64,
    /// The first instant after.
    pub(super) to: i64,
}

impl Range {
    /// How many buckets of `step` it has.
    pub(super) fn buckets(self, step: Step) -> u64 {
        self.to.abs_diff(self.from) / step.ms().unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_rfc_3339_or_milliseconds() {
        for (text, expected) in [
            ("2015-05-17T10:05:03Z", Some(1_431_857_103_000)),
            ("2015-05-17T12:05:03.250+02:00", Some(1_431_857_103_250)),
            ("2015-05-17T10:05:03", Some(1_431_857_103_000)),
            ("2015-05-17", Some(1_431_820_800_000)),
            ("1431857103000", Some(1_431_857_103_000)),
            ("-1", Some(-1)),
            ("", None),
            ("-", None),
            ("now", None),
            ("2015-05-17T25:00:00Z", None),
            ("99999999999999999", None),
            ("999999999999999999999999", None),
        ] {
            assert_eq!(instant(text), expected, "{text}");
        }
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(i64::MIN), "0000-01-01T00:00:00.000Z");
    }

    #[test]
    fn spans_grow_to_whole_buckets_and_open_ends_are_where_the_data_is() {
        let minute = |n: i64| n * MINUTE_MS;
        let data = Some((minute(61), minute(130)));
        let span = |from, to| Span { from, to };
        for (asked, step, extent, expected) in [
            (span(Some(minute(5)), Some(minute(7))), Step::Minute, data, (minute(5), minute(7))),
            (span(Some(minute(5) + 1), Some(minute(7) + 1)), Step::Minute, data, (minute(5), minute(8))),
            (span(Some(minute(5)), Some(minute(61))), Step::Hour, data, (0, minute(120))),
            (span(None, None), Step::Minute, data, (minute(61), minute(131))),
            (span(None, None), Step::Hour, data, (minute(60), minute(180))),
            (span(None, None), Step::Minute, None, (0, 0)),
            (span(Some(minute(200)), None), Step::Minute, data, (minute(200), minute(200))),
            (span(None, Some(minute(9))), Step::Minute, None, (minute(9), minute(9))),
            (span(Some(-1), Some(0)), Step::Day, None, (-minute(1440), 0)),
        ] {
            let range = asked.whole(step, extent);
            assert_eq!((range.from, range.to), expected, "{asked:?} {step}");
        }
        assert_eq!(Range { from: 0, to: minute(180) }.buckets(Step::Hour), 3);
    }

    #[test]
    fn stray_years_are_left_out_of_an_open_range_that_is_too_long_with_them() {
        let (day, now) = (Step::Day.ms(), 1_773_100_800_000);
        let first = now - 30 * day;
        let span = |from, to| Span { from, to };
        for (asked, data, expected) in [
            (span(None, None), (first, now), (first, now + day)),
            (span(None, None), (first, now + 60 * day), (first, now + 61 * day)),
            (span(None, None), (first, LAST), (first, now + day)),
            (span(None, None), (0, now), (YEAR_2000, now + day)),
            (span(None, None), (-1, LAST), (YEAR_2000, now + day)),
            (span(Some(first), None), (0, LAST), (first, now + day)),
            (span(None, None), (-600 * day, LAST), (YEAR_2000, now + day)),
            (span(None, None), (-600 * day, -500 * day), (-600 * day, -499 * day)),
            (span(None, Some(now)), (0, LAST), (YEAR_2000, now)),
            (span(Some(0), Some(now)), (first, now), (0, now)),
        ] {
            let range = asked.whole_of(Step::Day, Some(data), 10_000, now + 5);
            assert_eq!((range.from, range.to), expected, "{asked:?} of {data:?}");
        }
    }
}
