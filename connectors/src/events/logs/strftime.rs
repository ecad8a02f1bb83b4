//! Times in a format of their own, as Apache's `%{FORMAT}t` writes them.

use chrono::format::{Item, Parsed, StrftimeItems};
use chrono::{NaiveTime, Timelike};
use tidemill_dataflow::time::EventTime;

/// How a time is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    items: Box<[Item<'static>]>,
    /// How many words a time is made of.
    pub(super) words: usize,
}

impl Stamp {
    /// A format of strftime; `None` if it is none.
    pub(super) fn new(format: &str) -> Option<Stamp> {
        let items = StrftimeItems::new(format).parse_to_owned().ok()?;
        // Names of days and composed formats have spaces of their own (`%c`); a sample shows how many.
        let sample = chrono::DateTime::from_timestamp(0, 0)?.format_with_items(items.iter()).to_string();
        let words = sample.split([' ', '\t']).filter(|word| !word.is_empty()).count();
        Some(Stamp { items: items.into(), words: words.max(1) })
    }

    /// Whether a day can be told from it.
    pub(super) fn has_date(&self) -> bool {
        let leap_day = chrono::DateTime::from_timestamp(951_782_400, 0);
        leap_day.is_some_and(|time| self.parse(&time.format_with_items(self.items.iter()).to_string()).is_some())
    }

    /// The time that a text stands for; UTC where it has no zone.
    pub(super) fn parse(&self, text: &str) -> Option<EventTime> {
        let mut parsed = Parsed::new();
        chrono::format::parse(&mut parsed, text, self.items.iter()).ok()?;
        if let Some(seconds) = parsed.timestamp() {
            let millis = parsed.nanosecond().map_or(0, |nanos| i64::from(nanos) / 1_000_000);
            return in_range(seconds.checked_mul(1_000)?.checked_add(millis)?);
        }
        let date = parsed.to_naive_date().ok()?;
        let time = parsed.to_naive_time().unwrap_or(NaiveTime::MIN);
        let zone = parsed.offset().unwrap_or(0);
        // A leap second is a second 59 with more than a thousand milliseconds here, and stays in its minute.
        let millis = i64::from(time.nanosecond() % 1_000_000_000 / 1_000_000);
        let seconds = date.and_time(time.with_nanosecond(0)?).and_utc().timestamp() - i64::from(zone);
        in_range(seconds * 1_000 + millis)
    }
}

fn in_range(millis: i64) -> Option<EventTime> {
    (0..=253_402_300_799_999).contains(&millis).then_some(EventTime(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_their_format_writes_them() {
        for (format, text, expected) in [
            ("%Y-%m-%dT%H:%M:%S%z", "2015-05-17T10:05:03+0200", 1_431_849_903_000),
            ("%d/%b/%Y:%T %z", "17/May/2015:10:05:03 +0000", 1_431_857_103_000),
            ("%F %T", "2015-05-17 10:05:03", 1_431_857_103_000),
            ("%d.%m.%Y %H:%M:%S", "17.05.2015 10:05:03", 1_431_857_103_000),
            ("%a %b %e %T %Y", "Sun May 17 10:05:03 2015", 1_431_857_103_000),
            ("%d/%b/%Y:%T.%3f %z", "17/May/2015:10:05:03.250 +0000", 1_431_857_103_250),
            ("%s", "1431857103", 1_431_857_103_000),
            ("%F %T", "2016-12-31 23:59:60", 1_483_228_799_000),
        ] {
            let stamp = Stamp::new(format).unwrap();
            assert_eq!(stamp.parse(text), Some(EventTime(expected)), "{format}");
            assert_eq!(stamp.words, text.split(' ').count(), "{format}");
            assert!(stamp.has_date(), "{format}");
            assert_eq!(stamp.parse("x"), None);
        }
        assert!(Stamp::new("%Q").is_none());
        assert!(!Stamp::new("%H:%M:%S").unwrap().has_date());
    }
}
