//! UTC calendar arithmetic on milliseconds since 1970: hours for folder names, RFC 3339 for people.
//!
//! Pure and total: every `i64` has an answer, years outside 0 to 9999 are written with a sign.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

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

impl Date {
    /// A day of the proleptic Gregorian calendar, months and days counted from 1; `None` if there is none such.
    #[must_use]
    pub fn of(year: i64, month: i64, day: i64) -> Option<Date> {
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let length = match month {
            2 => 28 + i64::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => return None,
        };
        (1..=length).contains(&day).then(|| Date(days(year, month, day)))
    }
}

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

/// A text that is no day of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this is no day; write it as in 2000-01-31")]
pub struct NoDate;

/// Reads `YYYY-MM-DD`.
impl FromStr for Date {
    type Err = NoDate;

    fn from_str(text: &str) -> Result<Date, NoDate> {
        <&[u8; 10]>::try_from(text.as_bytes()).ok().and_then(date).ok_or(NoDate)
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

/// Why a text is no instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoInstant {
    /// It says the time on some clock, and not on which.
    #[error("a time without an offset: write Z behind it, or an offset such as +01:00")]
    Offset,
    /// It is nothing of the kind.
    #[error("no RFC 3339 time such as 2000-01-31T10:00:00.250Z")]
    Form,
}

/// Reads RFC 3339, finer fractions cut to milliseconds, and what databases and loggers write of it: small letters, a space
/// for the `T` and before the offset, `UTC` for `Z`, offsets as `+01` and `+0100`. A leap second (`:60`) counts as the second
/// before it, in its minute.
impl FromStr for Instant {
    type Err = NoInstant;

    fn from_str(text: &str) -> Result<Instant, NoInstant> {
        let (day, rest) = text.as_bytes().split_first_chunk().ok_or(NoInstant::Form)?;
        let days = date(day).ok_or(NoInstant::Form)?.0;
        let (clock, rest) = rest.split_first_chunk().ok_or(NoInstant::Form)?;
        let seconds = time_of_day(clock).ok_or(NoInstant::Form)?;
        let (milliseconds, rest) = fraction(rest).ok_or(NoInstant::Form)?;
        if rest.is_empty() {
            return Err(NoInstant::Offset);
        }
        let east = offset(rest).ok_or(NoInstant::Form)?;
        Ok(Instant(days * DAY_MS + (seconds - east * 60) * 1_000 + milliseconds))
    }
}

/// `YYYY-MM-DD`.
fn date(text: &[u8; 10]) -> Option<Date> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *text else { return None };
    Date::of(two(y1, y2)? * 100 + two(y3, y4)?, two(m1, m2)?, two(d1, d2)?)
}

/// Days since 1970 of a day of the calendar: the inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

/// The seconds of `THH:MM:SS`.
fn time_of_day(text: &[u8; 9]) -> Option<i64> {
    let [b'T' | b't' | b' ', h1, h2, b':', m1, m2, b':', s1, s2] = *text else { return None };
    let (hours, minutes, seconds) = (two(h1, h2)?, two(m1, m2)?, two(s1, s2)?);
    (hours < 24 && minutes < 60 && seconds <= 60).then_some((hours * 60 + minutes) * 60 + seconds.min(59))
}

/// The milliseconds of `.250`, if the text begins with a fraction, and what stands behind it.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', fraction)) = text.split_first() else { return Some((0, text)) };
    let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 {
        return None;
    }
    let digit = |at: usize| if at < digits { i64::from(fraction[at] - b'0') } else { 0 };
    Some((digit(0) * 100 + digit(1) * 10 + digit(2), &fraction[digits..]))
}

/// How many minutes east of Greenwich an offset is.
fn offset(text: &[u8]) -> Option<i64> {
    let text = text.strip_prefix(b" ").unwrap_or(text);
    let (sign, h1, h2, m1, m2) = match *text {
        [b'Z' | b'z'] | [b'U', b'T', b'C'] => return Some(0),
        [sign, h1, h2] => (sign, h1, h2, b'0', b'0'),
        [sign, h1, h2, m1, m2] | [sign, h1, h2, b':', m1, m2] => (sign, h1, h2, m1, m2),
        _ => return None,
    };
    let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
    let east = (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)?;
    match sign {
        b'+' => Some(east),
        b'-' => Some(-east),
        _ => None,
    }
}

/// The number that two digits are.
fn two(tens: u8, ones: u8) -> Option<i64> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
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
            assert_eq!(days(year, month, date), day);
            before = (year, month, date);
        }
    }

    #[test]
    fn texts_are_read_as_the_instants_that_they_are() {
        let ten = 1_773_136_800_000;
        for (text, ms) in [
            ("2026-03-10T10:00:00Z", ten),
            ("2026-03-10T10:00:00.250Z", ten + 250),
            ("2026-03-10t10:00:00.2z", ten + 200),
            ("2026-03-10T10:00:00.2509999999999999999999Z", ten + 250),
            ("2026-03-10 11:00:00+01:00", ten),
            ("2026-03-10 10:00:00.25 UTC", ten + 250),
            ("2026-03-10 11:00:00.250000+01", ten + 250),
            ("2026-03-10T11:00:00 +0100", ten),
            ("2026-03-10T04:30:00-05:30", ten),
            ("2026-03-11T09:59:00+23:59", ten),
            ("2026-03-10T10:00:00-00:00", ten),
            ("2026-03-10T09:59:60Z", ten - 1_000),
            ("2016-12-31T23:59:60.5Z", 1_483_228_799_500),
            ("2000-02-29T00:00:00.123Z", 951_782_400_123),
            ("1970-01-01T00:00:00+00:01", -60_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000),
        ] {
            assert_eq!(text.parse(), Ok(Instant(ms)), "{text}");
        }
        for text in ["2026-03-10T10:00:00", "2026-03-10 10:00:00.250"] {
            assert_eq!(text.parse::<Instant>(), Err(NoInstant::Offset), "{text}");
        }
        for text in [
            "",
            "now",
            "1773136800000",
            "2026-03-10",
            "2026-03-10T10:00Z",
            "2026-03-10T10:00:00.Z",
            "2026-03-10T10:00:00,5Z",
            "2026-03-10T24:00:00Z",
            "2026-03-10T10:60:00Z",
            "2026-03-10T10:00:61Z",
            "2026-02-29T10:00:00Z",
            "2026-13-10T10:00:00Z",
            "2026-04-31T10:00:00Z",
            "2026-00-10T10:00:00Z",
            "2026-03-00T10:00:00Z",
            "2026-3-10T10:00:00Z",
            "+2026-03-10T10:00:00Z",
            "2026-03-10T10:00:00+24:00",
            "2026-03-10T10:00:00+1:00",
            "2026-03-10T10:00:00Z ",
            "2026-03-10T10:00:00  Z",
            "2026-03-10_10:00:00Z",
            "2026-03-10T10:00:00 CET",
            "Tue, 10 Mar 2026 10:00:00 GMT",
            "2026-03-10T10:00:00٠Z",
        ] {
            assert_eq!(text.parse::<Instant>(), Err(NoInstant::Form), "{text}");
        }
        assert_eq!(("2000-01-01".parse(), "2000-1-01".parse::<Date>()), (Ok(Date(10_957)), Err(NoDate)));
    }

    #[test]
    fn folders_change_exactly_on_the_hour() {
        let ten = 1_431_856_800_000;
        assert_eq!(hour_folder(hour_of(ten)), "dt=2015-05-17/hour=10");
        assert_eq!(hour_folder(hour_of(ten - 1)), "dt=2015-05-17/hour=09");
        assert_eq!(hour_folder(hour_of(-1)), "dt=1969-12-31/hour=23");
    }
}
