//! What the command says on stderr: sentences for people, or one JSON object a line for machines that collect them.
//!
//! Promise: no address in it shows a password. Whoever says something need not think of it: it is masked here, behind all
//! of them, connectors and the parser of the command line included.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::OnceLock;

use clap::ValueEnum;
use opentelemetry_sdk::trace::SdkTracer;
use tidemill_log::secrets::masked;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The target of spans of requests, in the collector and in the query API.
const REQUESTS: &str = "tidemill::requests";

/// How lines on stderr look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Messages {
    /// Sentences, and a bar on a terminal.
    #[default]
    Text,
    /// An object a line, with `timestamp`, `level` and `fields` (`message`, `run`, `epoch` and what else there is).
    Json,
}

static FORMAT: OnceLock<Messages> = OnceLock::new();

/// From now on all that is said, by connectors too (a server that is waited for), goes to stderr in this format.
///
/// Spans of requests go to `traced`, if there is one.
pub(crate) fn start(format: Messages, traced: Option<SdkTracer>) {
    let lines =
        tracing_subscriber::fmt::layer().with_writer(|| Masked(io::stderr())).with_target(false).with_ansi(false);
    let lines = match format {
        Messages::Text => lines.boxed(),
        Messages::Json => lines.json().with_current_span(false).with_span_list(false).boxed(),
    };
    let requests = traced.map(|tracer| {
        let spans = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
        let requests = filter_fn(|about| about.is_span() && about.target() == REQUESTS);
        spans.with_filter(requests.with_max_level_hint(LevelFilter::DEBUG))
    });
    tracing_subscriber::registry().with(lines.with_filter(LevelFilter::INFO)).with(requests).init();
    // Set once, at the start of the process.
    let _ = FORMAT.set(format);
}

/// Writes lines, each given as a whole, without the secrets of addresses in them.
struct Masked<W>(W);

impl<W: Write> Write for Masked<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(masked(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Ends the process as the parser of the command line wants it: with help on stdout, or with what is wrong on stderr.
pub(crate) fn exit(error: &clap::Error) -> ! {
    let plain = error.render().to_string();
    match masked(&plain) {
        // In colours where there are some.
        Cow::Borrowed(_) => error.exit(),
        Cow::Owned(shown) => {
            eprint!("{shown}");
            std::process::exit(error.exit_code());
        }
    }
}

/// Whether lines are for machines.
pub(crate) fn json() -> bool {
    FORMAT.get() == Some(&Messages::Json)
}

/// Prints a result on stdout.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
}

/// Says a sentence.
pub(crate) fn say(sentence: &str) {
    if json() {
        tracing::info!("{sentence}");
    } else {
        eprintln!("{}", masked(sentence));
    }
}

/// Says what the operator should look at, although the run goes on.
pub(crate) fn warn(sentence: &str) {
    if json() {
        tracing::warn!("{sentence}");
    } else {
        eprintln!("warning: {}", masked(sentence));
    }
}

/// Says why the command failed.
pub(crate) fn fail(code: u8, sentence: &str) {
    if json() {
        tracing::error!(code, "{sentence}");
    } else {
        eprintln!("tidemill: {}", masked(sentence));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_is_masked_where_it_is_written() {
        let mut out = Vec::new();
        let line = "WARN waiting for http://me:hunter2@db:8123/: refused\n";
        Masked(&mut out).write_all(line.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "WARN waiting for http://(hidden)@db:8123/: refused\n");
    }
}
