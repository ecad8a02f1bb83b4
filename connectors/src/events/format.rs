//! Which kind of lines a file holds.

use std::str::FromStr;

use thiserror::Error;

use super::logs::{LogReader, is_format};

/// The kind of lines of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Told from the first lines of each file: the format in which the most of them are records.
    #[default]
    Guess,
    /// One JSON object a line, an event.
    Ndjson,
    /// One JSON object a line, of an author's own type: nothing is guessed of it.
    Records,
    /// A web server's log.
    Log(LogReader),
}

/// A format that is none.
#[derive(Debug, Error)]
pub enum UnknownFormat {
    /// No format has this name.
    #[error("format {name:?} is unknown; use {}, or a format string of nginx or Apache", known())]
    Name {
        /// What was given.
        name: String,
    },
    /// A format string that lines cannot be read by.
    #[error("{problem}")]
    String {
        /// What is wrong, where, and what to do.
        problem: String,
    },
}

/// The formats with a name, as the command line and checkpoints have it; of two names of one format the first is written.
const NAMED: [(&str, Format); 11] = [
    ("guess", Format::Guess),
    ("ndjson", Format::Ndjson),
    ("combined", Format::Log(LogReader::Combined)),
    ("common", Format::Log(LogReader::Combined)),
    ("nginx-main", Format::Log(LogReader::Combined)),
    ("vhost-combined", Format::Log(LogReader::VhostCombined)),
    ("vhost_combined", Format::Log(LogReader::VhostCombined)),
    ("json-log", Format::Log(LogReader::Json)),
    ("w3c", Format::Log(LogReader::W3c)),
    ("alb", Format::Log(LogReader::Alb)),
    ("elb", Format::Log(LogReader::Alb)),
];

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        match NAMED.into_iter().find(|(known, _)| *known == name) {
            Some((_, format)) => Ok(format),
            None if is_format(name) => Format::of_log(name),
            None => Err(UnknownFormat::Name { name: name.to_owned() }),
        }
    }
}

/// The names that are told to whoever gave another.
fn known() -> String {
    NAMED
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| !matches!(*name, "guess" | "vhost_combined" | "elb"))
        .collect::<Vec<_>>()
        .join(", ")
}

impl Format {
    /// The log format that a format string of nginx or Apache describes.
    ///
    /// # Errors
    /// If lines cannot be read by it; says what is wrong, where, and what to do.
    pub fn of_log(format: &str) -> Result<Format, UnknownFormat> {
        LogReader::custom(format).map(Format::Log).map_err(|problem| UnknownFormat::String { problem })
    }

    /// Its name on the command line and in checkpoints: a format string is its own.
    #[must_use]
    pub fn name(&self) -> &str {
        if *self == Format::Records {
            return Format::Ndjson.name();
        }
        if let Format::Log(reader) = self
            && let Some(format) = reader.format_string()
        {
            return format;
        }
        NAMED.into_iter().find(|(_, format)| format == self).map_or("guess", |(name, _)| name)
    }

    /// Whether it is a web server's log.
    #[must_use]
    pub fn is_log(&self) -> bool {
        matches!(self, Format::Log(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_its_recorded_name() {
        for (name, format) in NAMED {
            assert_eq!(name.parse::<Format>().unwrap(), format, "{name}");
            assert_eq!(format.name().parse::<Format>().unwrap(), format, "{name}");
        }
        assert_eq!("combined".parse::<Format>().unwrap().name(), "combined");
        let custom = r#"$remote_addr [$time_local] "$request""#;
        let format: Format = custom.parse().unwrap();
        assert_eq!((format.name(), format.is_log()), (custom, true));
        let error = "apache".parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("\"apache\" is unknown; use ndjson, combined,"), "{error}");
    }
}
