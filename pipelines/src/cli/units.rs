//! Durations, byte counts and days as people write them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tidemill_connectors::events::Bounds;
use tidemill_tables::calendar::Date;

/// Reads `250ms`, `10s`, `5m`, `1h`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is no duration; write for example 250ms, 10s, 5m or 1h");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let millis = number.checked_mul(scale).filter(|millis| *millis > 0).ok_or_else(wrong)?;
    Ok(Duration::from_millis(millis))
}

/// Reads the path of a folder; an address would make a folder of that name.
pub(crate) fn folder(text: &str) -> Result<PathBuf, String> {
    if text.contains("://") {
        let path = text.split_once("://").map_or(text, |(_, path)| path);
        Err(format!("it is an address, and a folder is needed; write its path, such as {path}"))
    } else {
        Ok(text.into())
    }
}

/// Reads a number of days; 0 is for ever.
pub(crate) fn days(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{text}` is no number of days; write for example 90, or 0 for ever"))
}

/// How long a log keeps what it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retained {
    Within(Duration),
    Forever,
}

impl Retained {
    /// The age from which on records are deleted.
    pub(crate) fn age(self) -> Option<Duration> {
        match self {
            Retained::Within(age) => Some(age),
            Retained::Forever => None,
        }
    }
}

impl fmt::Display for Retained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Retained::Within(age) if age.as_secs() >= 172_800 => write!(f, "for {} days", age.as_secs() / 86_400),
            Retained::Within(age) if age.as_secs() >= 7_200 => write!(f, "for {} hours", age.as_secs() / 3_600),
            Retained::Within(age) => write!(f, "for {age:?}"),
            Retained::Forever => f.write_str("for ever"),
        }
    }
}

/// Reads `7d` or `forever`.
pub(crate) fn retained(text: &str) -> Result<Retained, String> {
    if text == "forever" {
        return Ok(Retained::Forever);
    }
    let wrong = || format!("`{text}` is no duration; write for example 36h or 7d, or forever");
    duration(text).map(Retained::Within).map_err(|_| wrong())
}

/// Reads a number of things of which there has to be one.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1 << 20).contains(n)).ok_or_else(|| "a number from 1 to 1048576".to_owned())
}

/// Reads `1048576`, `64KiB`, `32MiB`, `1GiB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let wrong = || format!("`{text}` is no number of bytes; write for example 8388608, 64KiB, 32MiB or 1GiB");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(scale).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// Reads the day from which on times are taken, from `1970-01-01` to before `2200-01-01`.
pub(crate) fn oldest(text: &str) -> Result<Bounds, String> {
    let days = 0..84_006;
    let day: Date = text.parse().map_err(|problem| format!("{problem}"))?;
    if days.contains(&day.0) {
        Ok(Bounds::since(day))
    } else {
        Err("give a day from 1970-01-01 to 2199-12-31".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_a_wrong_one_gets_an_example() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(604_800)));
        assert_eq!(bytes("64KiB"), Ok(65_536));
        assert_eq!(bytes("7"), Ok(7));
        for wrong in ["", "s", "0s", "1.5s", "10"] {
            assert!(duration(wrong).unwrap_err().contains("10s"), "{wrong}");
        }
        assert_eq!(retained("forever").map(Retained::age), Ok(None));
        assert_eq!(
            retained("7d").map(|kept| (kept.age(), kept.to_string())),
            Ok((duration("7d").ok(), "for 7 days".into()))
        );
        for wrong in ["ever", "0", "7", "1w"] {
            assert!(retained(wrong).unwrap_err().contains("forever"), "{wrong}");
        }
        assert_eq!((days("90"), days("0")), (Ok(90), Ok(0)));
        for wrong in ["x", "0.5", "-1", ""] {
            assert!(days(wrong).unwrap_err().contains("no number of days"), "{wrong}");
        }
        assert_eq!(folder("/a/b"), Ok("/a/b".into()));
        assert!(folder("log:///tmp/log").unwrap_err().contains("such as /tmp/log"));
        assert_eq!(oldest("2000-01-01"), Ok(Bounds::default()));
        for taken in ["1970-01-01", "2199-12-31"] {
            assert!(oldest(taken).is_ok(), "{taken}");
        }
        for wrong in ["", "1969-12-31", "2200-01-01", "2000-02-30", "2000", "now"] {
            assert!(oldest(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "0", "12parsecs", "-1"] {
            assert!(bytes(wrong).unwrap_err().contains("MiB"), "{wrong}");
        }
    }
}
