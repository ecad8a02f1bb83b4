//! The times that servers write, read without allocation.
//!
//! A leap second (`:60`) counts as the second before it, so that it stays in its minute. A time without a zone is UTC.

use tidemill_dataflow::time::EventTime;
use tidemill_tables::calendar::Date;

/// The last second of the year 9999.
const LAST_SECOND: i64 = 253_402_300_799;

const MONTHS: [&[u8; 3]; 12] =
    [b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"];

/// A time of any of these kinds: `17/May/2015:10:05:03 +0000`, RFC 3339, seconds since 1970 with or without a fraction.
pub(super) fn parse(text: &str) -> Option<EventTime> {
    let bytes = text.as_bytes();
    match bytes {
        [_, _, b'/', ..] | [_, b'/', ..] => common(bytes),
        [_, _, _, _, b'-', ..] => rfc3339(bytes),
        // A shorter number is no time of this century.
        _ if bytes.len() >= 9 => epoch(text, None),
        _ => None,
    }
}

/// `17/May/2015:10:05:03 +0000`.
fn common(bytes: &[u8]) -> Option<EventTime> {
    if let Ok(usual) = <&[u8; 26]>::try_from(bytes)
        && let Some(time) = usual_common(usual)
    {
        return Some(time);
    }
    let mut at = Reader { bytes };
    let day = at.number(1, 2)?;
    at.byte(b'/')?;
    let month = at.month()?;
    at.byte(b'/')?;
    let year = at.number(4, 4)?;
    at.byte(b':')?;
    let Date(days) = Date::of(year, month, day)?;
    let millis = at.clock()?;
    let zone = at.zone()?;
    in_range(days * 86_400_000 + millis - zone * 60_000)
}

/// The same by places, as nearly every line has it; what does not fit is read again.
fn usual_common(text: &[u8; 26]) -> Option<EventTime> {
    let two = |at: usize| i64::from(text[at].wrapping_sub(b'0')) * 10 + i64::from(text[at + 1].wrapping_sub(b'0'));
    let digits = [0, 1, 7, 8, 9, 10, 12, 13, 15, 16, 18, 19, 22, 23, 24, 25];
    let marks = [(2, b'/'), (6, b'/'), (11, b':'), (14, b':'), (17, b':'), (20, b' ')];
    if !digits.iter().all(|at| text[*at].is_ascii_digit()) || marks.iter().any(|(at, mark)| text[*at] != *mark) {
        return None;
    }
    let Date(days) = Date::of(two(7) * 100 + two(9), month(&text[3..6])?, two(0))?;
    let (hour, minute, second) = (two(12), two(15), two(18));
    let zone = two(22) * 60 + two(24);
    let zone = match text[21] {
        b'+' => zone,
        b'-' => -zone,
        _ => return None,
    };
    if hour >= 24 || minute >= 60 || second >= 60 || zone.abs() >= 24 * 60 || two(24) >= 60 {
        return None;
    }
    in_range((days * 86_400 + hour * 3_600 + (minute - zone) * 60 + second) * 1_000)
}

/// `2015-05-17T10:05:03.250+02:00`, a space instead of the `T`, a comma for the point.
fn rfc3339(bytes: &[u8]) -> Option<EventTime> {
    let mut at = Reader { bytes };
    let days = at.date()?;
    match at.next()? {
        b'T' | b't' | b' ' | b'_' => {}
        _ => return None,
    }
    let millis = at.clock()?;
    let zone = at.zone()?;
    in_range(days * 86_400_000 + millis - zone * 60_000)
}

/// A date `2015-05-17` and a time of day `10:05:03`, in UTC, as W3C logs have them in two fields.
pub(super) fn of_date_and_clock(date: &str, clock: &str) -> Option<EventTime> {
    let mut at = Reader { bytes: date.as_bytes() };
    let days = at.date()?;
    let mut of_day = Reader { bytes: clock.as_bytes() };
    let millis = of_day.clock()?;
    (at.bytes.is_empty() && of_day.bytes.is_empty()).then_some(())?;
    in_range(days * 86_400_000 + millis)
}

/// A number since 1970. Without a power of ten that is known to be a second, the size of the number tells what it counts.
pub(super) fn epoch(text: &str, per_second: Option<i64>) -> Option<EventTime> {
    let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 19 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let number: i64 = whole.parse().ok()?;
    let per_second = per_second.unwrap_or(match number {
        ..=99_999_999_999 => 1,
        100_000_000_000..=99_999_999_999_999 => 1_000,
        100_000_000_000_000..=99_999_999_999_999_999 => 1_000_000,
        _ => 1_000_000_000,
    });
    let millis = match per_second {
        1 => number.checked_mul(1_000)? + thousandths(fraction.as_bytes()),
        more => number / (more / 1_000),
    };
    in_range(millis)
}

fn in_range(millis: i64) -> Option<EventTime> {
    (0..=LAST_SECOND * 1_000 + 999).contains(&millis).then_some(EventTime(millis))
}

/// The month, from 1, of a name of three letters in any case.
fn month(name: &[u8]) -> Option<i64> {
    (1..).zip(MONTHS).find(|(_, month)| name.eq_ignore_ascii_case(*month)).map(|(number, _)| number)
}

/// The first three digits of a fraction, as milliseconds.
fn thousandths(digits: &[u8]) -> i64 {
    (0..3).fold(0, |n, at| n * 10 + digits.get(at).map_or(0, |digit| i64::from(digit - b'0')))
}

/// What is left of a time while it is read.
struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn byte(&mut self, expected: u8) -> Option<()> {
        (self.next()? == expected).then_some(())
    }

    /// A number of at least and at most so many digits.
    fn number(&mut self, least: usize, most: usize) -> Option<i64> {
        let length = self.bytes.iter().take(most).take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        (length >= least).then(|| digits.iter().fold(0, |n, digit| n * 10 + i64::from(digit - b'0')))
    }

    fn month(&mut self) -> Option<i64> {
        let (name, rest) = self.bytes.split_at_checked(3)?;
        self.bytes = rest;
        month(name)
    }

    /// `2015-05-17`, in days since 1970.
    fn date(&mut self) -> Option<i64> {
        let year = self.number(4, 4)?;
        self.byte(b'-')?;
        let month = self.number(2, 2)?;
        self.byte(b'-')?;
        Date::of(year, month, self.number(2, 2)?).map(|Date(days)| days)
    }

    /// `10:05:03` with or without a fraction, in milliseconds of the day.
    fn clock(&mut self) -> Option<i64> {
        let hour = self.number(2, 2)?;
        self.byte(b':')?;
        let minute = self.number(2, 2)?;
        self.byte(b':')?;
        let second = self.number(2, 2)?;
        if hour >= 24 || minute >= 60 || second > 60 {
            return None;
        }
        let millis = match self.bytes.first() {
            Some(b'.' | b',') => {
                let digits = &self.bytes[1..];
                let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
                self.bytes = &digits[length..];
                thousandths(&digits[..length])
            }
            _ => 0,
        };
        Some(((hour * 60 + minute) * 60 + second.min(59)) * 1_000 + millis)
    }

    /// The zone in minutes, which ends the time: `+0200`, `+02:00`, ` +02`, `Z`, `UTC`, or nothing.
    fn zone(&mut self) -> Option<i64> {
        let text = self.bytes.trim_ascii();
        let sign = match text {
            [] | b"Z" | b"z" | b"UTC" | b"GMT" => return Some(0),
            [b'+', ..] => 1,
            [b'-', ..] => -1,
            _ => return None,
        };
        let mut at = Reader { bytes: &text[1..] };
        let hours = at.number(2, 2)?;
        if at.bytes.first() == Some(&b':') {
            at.next();
        }
        let minutes = if at.bytes.is_empty() { 0 } else { at.number(2, 2)? };
        (at.bytes.is_empty() && hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn time(text: &str, expected: Option<i64>) {
        assert_eq!(parse(text), expected.map(EventTime), "{text}");
    }

    #[test]
    fn times_are_real_days_with_their_zone() {
        for (text, expected) in [
            ("17/May/2015:10:05:03 +0000", 1_431_857_103_000),
            ("17/May/2015:10:05:03 +0200", 1_431_849_903_000),
            ("17/May/2015:10:05:03 -0330", 1_431_869_703_000),
            ("29/Feb/2016:00:00:00 +0000", 1_456_704_000_000),
            ("01/Jan/1970:00:00:00 +0000", 0),
            ("31/Dec/9999:23:59:59 +0000", 253_402_300_799_000),
            ("17/may/2015:10:05:03 +0000", 1_431_857_103_000),
            ("17/MAY/2015:10:05:03 Z", 1_431_857_103_000),
            ("7/May/2015:10:05:03", 1_430_993_103_000),
            ("17/May/2015:10:05:03.250 +0000", 1_431_857_103_250),
            ("2015-05-17T10:05:03Z", 1_431_857_103_000),
            ("2015-05-17T10:05:03+02:00", 1_431_849_903_000),
            ("2015-05-17 10:05:03,7", 1_431_857_103_700),
            ("2015-05-17T10:05:03.123456789Z", 1_431_857_103_123),
            ("2015-05-17T10:05:03 UTC", 1_431_857_103_000),
            ("1431857103", 1_431_857_103_000),
            ("1431857103.25", 1_431_857_103_250),
            ("1431857103250", 1_431_857_103_250),
            ("1431857103250999", 1_431_857_103_250),
            ("1431857103250999999", 1_431_857_103_250),
        ] {
            time(text, Some(expected));
        }
    }

    #[test]
    fn a_leap_second_stays_in_its_minute() {
        time("31/Dec/2016:23:59:60 +0000", Some(1_483_228_799_000));
        time("2016-12-31T23:59:60Z", Some(1_483_228_799_000));
        time("31/Dec/2016:23:59:61 +0000", None);
    }

    #[test]
    fn what_is_no_time_is_none() {
        for wrong in [
            "29/Feb/2015:00:00:00 +0000",
            "31/Apr/2015:00:00:00 +0000",
            "00/May/2015:00:00:00 +0000",
            "17/Foo/2015:10:05:03 +0000",
            "17/May/2015:24:05:03 +0000",
            "17/May/2015:10:60:03 +0000",
            "17/May/2015:10:05:03 00000",
            "17/May/2015:10:05:03 +2400",
            "17/May/2015 10:05:03 +0000",
            "01/Jan/1970:00:00:00 +0100",
            "31/Dec/9999:23:59:59 -0001",
            "2015-13-01T00:00:00Z",
            "2015-00-01T00:00:00Z",
            "2015-05-17",
            "2015-05-17T10:05Z",
            "",
            "-",
            "1e9",
            "99999999999999999999",
        ] {
            time(wrong, None);
        }
    }

    #[test]
    fn a_date_and_a_time_of_day_are_one_time() {
        assert_eq!(of_date_and_clock("2015-05-17", "10:05:03"), Some(EventTime(1_431_857_103_000)));
        assert_eq!(of_date_and_clock("2015-05-17", "10:05"), None);
        assert_eq!(of_date_and_clock("2015-05-17x", "10:05:03"), None);
    }
}
