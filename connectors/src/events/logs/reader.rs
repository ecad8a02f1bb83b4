//! Every kind of log behind one reader of lines.

use std::sync::Arc;

use super::layout::Layout;
use super::line::LogLine;
use super::w3c::{self, Directives};
use super::{alb, combined, format_string, json, text};

/// What takes the lines of a log apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogReader {
    /// Common and Combined Log Format, with whatever servers add.
    Combined,
    /// The same, where each line begins with the host that was asked.
    VhostCombined,
    /// An object of JSON a line.
    Json,
    /// W3C Extended Log File Format.
    W3c,
    /// AWS load balancers.
    Alb,
    /// What a format string of nginx or Apache describes.
    Custom(Arc<Layout>),
}

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::events) enum Reading {
    /// A record of what people call this.
    Record(&'static str),
    /// It says what the lines behind it mean.
    Directive,
    Malformed,
}

impl LogReader {
    /// Those that a file's lines are tried with.
    pub(in crate::events) const GUESSED: [LogReader; 4] =
        [LogReader::Combined, LogReader::Json, LogReader::W3c, LogReader::Alb];

    /// The reader of a format string, or what is wrong with it.
    pub(in crate::events) fn custom(format: &str) -> Result<LogReader, String> {
        let layout = format_string::compile(format).map_err(|problem| problem.to_string())?;
        Ok(LogReader::Custom(Arc::new(layout)))
    }

    /// The format string, where there is one.
    pub(in crate::events) fn format_string(&self) -> Option<&str> {
        match self {
            LogReader::Custom(layout) => Some(layout.text()),
            _ => None,
        }
    }

    /// Reads lines in order, behind what was said before the first.
    pub(in crate::events) fn lines(&self, directives: Option<Arc<Directives>>) -> Lines<'_> {
        Lines { reader: self, directives }
    }

    /// Why a line is malformed.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            LogReader::Combined => "not a line of the Common or Combined Log Format",
            LogReader::VhostCombined => "not a line of the Combined Log Format behind a host",
            LogReader::Json => "not a line of a JSON access log: a time and a request are needed",
            LogReader::W3c => "not a line with the fields of the last #Fields line",
            LogReader::Alb => "not a line of an AWS load balancer's log",
            LogReader::Custom(_) => "not a line of the given --log-format",
        }
    }
}

/// Reads lines in order.
#[derive(Debug)]
pub(in crate::events) struct Lines<'r> {
    reader: &'r LogReader,
    directives: Option<Arc<Directives>>,
}

impl Lines<'_> {
    /// Reads a line without its terminator. Unless it is a record, `out` has no time.
    pub(in crate::events) fn read<'a>(&mut self, line: &'a str, out: &mut LogLine<'a>) -> Reading {
        out.clear();
        let line = text::trimmed(line);
        if *self.reader == LogReader::W3c && w3c::is_directive(line) {
            let before = self.directives.as_deref().cloned().unwrap_or_default();
            if let Some(changed) = before.changed_by(line) {
                self.directives = Some(Arc::new(changed));
            }
            return Reading::Directive;
        }
        let name = match self.reader {
            LogReader::Combined => combined::read(line, false, out),
            LogReader::VhostCombined => combined::read(line, true, out),
            LogReader::Json => json::read(line, out),
            LogReader::W3c => self.directives.as_ref().and_then(|directives| directives.read(line, out)),
            LogReader::Alb => alb::read(line, out),
            LogReader::Custom(layout) => layout.read(line, out).map(|()| "the given --log-format"),
        };
        match name.filter(|_| out.finish().is_some()) {
            Some(name) => Reading::Record(name),
            None => {
                out.time = None;
                Reading::Malformed
            }
        }
    }
}
