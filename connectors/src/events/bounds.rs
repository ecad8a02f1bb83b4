//! What an event may say and still be taken: when it happened, how much was paid, and how long its names are.
//!
//! A time that is read in the wrong unit, or that a stray clock gave, is no error anywhere later: it is a row in 1970 or in
//! the year 58156. So it is malformed here, with the reason in words. So is a name of a megabyte: a table has a row for
//! each page, currency and version, and whoever sends a few hundred of such names, well packed, makes a gigabyte of it.
//! What was taken once stays readable, whatever the bounds were then.

use std::ops::RangeInclusive;

use tidemill_dataflow::time::EventTime;
use tidemill_tables::calendar::{Date, Instant};

const DAY_MS: i64 = 86_400_000;

/// 2000-01-01T00:00:00Z, the first time that is taken unless `--oldest` says another.
const FIRST: i64 = 946_684_800_000;

/// 2200-01-01T00:00:00Z, the last time that is taken.
const LAST: i64 = 7_258_118_400_000;

/// The last millisecond of the year 9999.
const END_OF_CALENDAR: i64 = 253_402_300_799_999;

/// The largest amount, in cents, either way.
const MOST_CENTS: u64 = 1_000_000_000_000_000;

/// What an event may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    first: i64,
    last: i64,
    most_cents: u64,
    names: Names,
}

/// How long texts may be that tables have columns for; ids are bounded always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// As [`MAX_NAME_BYTES`](super::MAX_NAME_BYTES) and its like say.
    Bounded,
    /// As long as a line.
    OfAnyLength,
}

/// Times from 2000-01-01 to 2200-01-01, amounts up to 10^15 cents, names of a bounded length.
impl Default for Bounds {
    fn default() -> Self {
        Bounds { first: FIRST, last: LAST, most_cents: MOST_CENTS, names: Names::Bounded }
    }
}

impl Bounds {
    /// The same, with times from `oldest` on.
    #[must_use]
    pub fn since(oldest: Date) -> Bounds {
        Bounds { first: oldest.0.saturating_mul(DAY_MS).max(0), ..Bounds::default() }
    }

    /// Everything that any version has ever taken: for what was judged when it came.
    #[must_use]
    pub fn of_archive() -> Bounds {
        Bounds { first: 0, last: END_OF_CALENDAR, most_cents: u64::MAX, names: Names::OfAnyLength }
    }

    /// What differs from the default, in words; nothing if nothing does.
    #[must_use]
    pub fn setting(&self) -> Option<String> {
        (*self != Bounds::default()).then(|| format!("oldest {}", Date(self.first.div_euclid(DAY_MS))))
    }

    /// Whether an event may have happened then.
    #[must_use]
    #[inline]
    pub fn hold(&self, time: EventTime) -> bool {
        self.times().contains(&time.0)
    }

    /// Whether so much may have been paid.
    #[inline]
    pub(super) fn hold_cents(&self, cents: i64) -> bool {
        cents.unsigned_abs() <= self.most_cents
    }

    /// That a text of so many bytes is no longer than `limit`, if that is bounded.
    ///
    /// # Errors
    /// The reason with the name of the member, as a dead letter says it.
    #[inline]
    pub(super) fn check_length(&self, bytes: u32, limit: u32, member: &str) -> Result<(), String> {
        if bytes > limit && self.names == Names::Bounded { Err(too_long(member, limit)) } else { Ok(()) }
    }

    /// A time that an event may have.
    ///
    /// # Errors
    /// The reason why it may not, as a dead letter says it.
    pub fn check(&self, time: EventTime) -> Result<EventTime, String> {
        if self.hold(time) { Ok(time) } else { Err(self.beyond(&Instant(time.0).to_string(), as_float(time.0))) }
    }

    /// Why a number, as it stands in the line, is no time.
    #[cold]
    pub(super) fn number_refused(&self, number: &str, shown: &str) -> String {
        let value: f64 = number.parse().unwrap_or(f64::NAN);
        if !(as_float(self.first)..=as_float(self.last)).contains(&value) {
            for (unit, milliseconds) in [("seconds", 1e3), ("microseconds", 1e-3), ("nanoseconds", 1e-6)] {
                if (as_float(FIRST)..=as_float(LAST)).contains(&(value * milliseconds)) {
                    return format!("timestamp {shown} looks like {unit}; milliseconds are needed");
                }
            }
        }
        if number.contains(['.', 'e', 'E']) {
            return format!("timestamp {shown} is not an integer");
        }
        self.beyond(shown, value)
    }

    fn times(&self) -> RangeInclusive<i64> {
        self.first..=self.last
    }

    #[cold]
    fn beyond(&self, shown: &str, time: f64) -> String {
        let day = |start: i64| Date(start.div_euclid(DAY_MS));
        if time > as_float(self.last) {
            format!("timestamp {shown} is after {}", day(self.last))
        } else if time < 0.0 {
            format!("timestamp {shown} is before {}", Date(0))
        } else {
            format!("timestamp {shown} is before {}; --oldest {} takes older ones", day(self.first), Date(0))
        }
    }
}

/// Why a text that is too long is none that an event may have.
#[cold]
pub(super) fn too_long(member: &str, limit: u32) -> String {
    format!("{member} is longer than {limit} bytes")
}

#[expect(clippy::cast_precision_loss, reason = "all bounds are below 2^53, and what is beyond them need not be exact")]
fn as_float(milliseconds: i64) -> f64 {
    milliseconds as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(bounds: Bounds, number: &str, reason: &str) {
        assert_eq!(bounds.number_refused(number, number), format!("timestamp {number} {reason}"));
    }

    #[test]
    fn a_number_of_another_unit_is_told_by_its_size() {
        let usual = Bounds::default();
        for (unit, numbers) in [
            ("seconds", ["1773136800", "946684800", "7258118400", "1773136800.25", "1.7731368e9"]),
            (
                "microseconds",
                ["1773136800000000", "946684800000000", "7258118400000000", "1773136800000000.5", "1.7731368E15"],
            ),
            (
                "nanoseconds",
                ["1773136800000000000", "946684800000000000", "7258118400000000000", "1773136800000000000.5", "1.7e18"],
            ),
        ] {
            for number in numbers {
                refused(usual, number, &format!("looks like {unit}; milliseconds are needed"));
            }
        }
        let older = "is before 2000-01-01; --oldest 1970-01-01 takes older ones";
        for number in ["0", "60000", "946684799", "7258118401", "946684799999"] {
            refused(usual, number, older);
        }
        for number in ["7258118400001", "946684799999998", "253402300800000", "18446744073709551616"] {
            refused(usual, number, "is after 2200-01-01");
        }
        for number in ["-1", "-1773136800", "-99999999999999999999"] {
            refused(usual, number, "is before 1970-01-01");
        }
        for number in ["1e3", "1.0", "12.5", "-0.5", "1773136800000.5", "1.773e12", "1e400"] {
            refused(usual, number, "is not an integer");
        }
    }

    #[test]
    fn the_oldest_day_can_be_moved() {
        let since = |day: &str| Bounds::since(day.parse().unwrap());
        let epoch = since("1970-01-01");
        assert!([0, 1_773_136_800, FIRST - 1, LAST].iter().all(|time| epoch.hold(EventTime(*time))));
        assert!(![-1, LAST + 1].iter().any(|time| epoch.hold(EventTime(*time))));
        refused(epoch, "-1", "is before 1970-01-01");
        refused(epoch, "1773136800000000", "looks like microseconds; milliseconds are needed");
        refused(epoch, "1773136800.25", "is not an integer");
        refused(since("1990-01-01"), "1773136800", "looks like seconds; milliseconds are needed");
        let older = "is before 2026-01-01; --oldest 1970-01-01 takes older ones";
        refused(since("2026-01-01"), "1700000000000", older);
        assert_eq!(since("1969-12-31"), epoch);
        assert_eq!((epoch.setting().as_deref(), Bounds::default().setting()), (Some("oldest 1970-01-01"), None));
    }

    #[test]
    fn a_time_beyond_the_bounds_is_named_by_its_date() {
        let check = |ms| Bounds::default().check(EventTime(ms));
        assert_eq!((check(FIRST), check(LAST)), (Ok(EventTime(FIRST)), Ok(EventTime(LAST))));
        let before = "timestamp 1999-12-31T23:59:59.999Z is before 2000-01-01; --oldest 1970-01-01 takes older ones";
        assert_eq!(check(FIRST - 1), Err(before.to_owned()));
        assert_eq!(check(LAST + 1), Err("timestamp 2200-01-01T00:00:00.001Z is after 2200-01-01".to_owned()));
    }

    #[test]
    fn an_archive_holds_what_was_ever_taken() {
        let archive = Bounds::of_archive();
        assert!([0, END_OF_CALENDAR].iter().all(|time| archive.hold(EventTime(*time))));
        assert!([i64::MIN, i64::MAX].iter().all(|cents| archive.hold_cents(*cents)));
        assert!(
            Bounds::default().hold_cents(-1_000_000_000_000_000)
                && !Bounds::default().hold_cents(1_000_000_000_000_001)
        );
    }
}
