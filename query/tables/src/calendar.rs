//! UTC calendar arithmetic on milliseconds since 1970: hours for folder names, RFC 3339 for people.
//!
//! Pure and total: every `i64` has an answer, years outside 0 to 9999 are written with a sign.

use std::fmt;

/// Milliseconds in an hour.
pub const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// The hour (count of whole hours since 1970, UTC, rounded down) that a time in milliseconds lies in.
#[must_use]
pub fn hour_of(ms: i64) -> i64 {
    ms.div_euclid(HOUR_MS)
}

/// The folder of an hour (as [`hour_of`] counts them): `dt=2015-05-17/hour=10`.
#[must_use]
pub fn hour_folder(hour: i64) -> String {
    let days = hour.div_euclid(24);
    format!("dt={}/hour={:02}", Date(days), hour.rem_euclid(24))
}

/// A day, counted from 1970-01-01, printed as `YYYY-MM-DD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date(
    /// Days since 1970-01-01.
    pub i64,
);

impl fmt::Display for Date {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0);
        if (0..=9999).contains(&year) {
            write!(out, "{year:04}-{month:02}-{day:02}")
        } else {
            write!(out, "{year:+05}-{month:02}-{day:02}")
        }
    }
}

/// A time of day in nanoseconds since midnight, printed as `HH:MM:SS.mmm` (finer digits only when there are some).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay(
    /// Nanoseconds since midnight.
    pub u64,
);

impl fmt::Display for TimeOfDay {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        write!(out, "{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60, nanos / 1_000_000)?;
        match nanos % 1_000_000 {
            0 => Ok(()),
            finer => write!(out, "{finer:06}"),
        }
    }
}

/// An instant in milliseconds since 1970, printed as RFC 3339 in UTC with milliseconds: `2015-05-17T10:05:03.000Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant(
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub i64,
);

impl fmt::Display for Instant {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_day = self.0.rem_euclid(DAY_MS).unsigned_abs();
        write!(out, "{}T{}Z", Date(self.0.div_euclid(DAY_MS)), TimeOfDay(of_day * 1_000_000))
    }
}

/// Year, month (1-12) and day (1-31) of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
///
/// Years are counted from March, so that the leap day is a year's last; 146 097 days make a cycle of 400 years.
fn civil(days: i64) -> (i64, i64, i64) {
    let from_march_0000 = days.saturating_add(719_468);
    let cycle = from_march_0000.div_euclid(146_097);
    let day_of_cycle = from_march_0000.rem_euclid(146_097);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_cycle + cycle * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_print_as_rfc_3339_with_milliseconds() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_431_857_103_000, "2015-05-17T10:05:03.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "+10000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(Instant(ms).to_string(), text);
        }
    }

    #[test]
    fn every_day_follows_the_day_before() {
        let mut before = civil(-800_000);
        for day in -799_999..800_000 {
            let (year, month, date) = civil(day);
            let next_in_month = (year, month) == (before.0, before.1) && date == before.2 + 1;
            let first_of_next = date == 1 && before.2 >= 28 && (year * 12 + month) == before.0 * 12 + before.1 + 1;
            assert!(next_in_month || first_of_next, "{before:?} then {:?}", (year, month, date));
            before = (year, month, date);
        }
    }

    #[test]
    fn folders_change_exactly_on_the_hour() {
        let ten = 1_431_856_800_000;
        assert_eq!(hour_folder(hour_of(ten)), "dt=2015-05-17/hour=10");
        assert_eq!(hour_folder(hour_of(ten - 1)), "dt=2015-05-17/hour=09");
        assert_eq!(hour_folder(hour_of(-1)), "dt=1969-12-31/hour=23");
    }
}
