//! What `tidemill run` is told.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tidemill_connectors::events::{Bounds, Format, UnknownFormat};
use tidemill_log::{Location, Loss};

use super::source_setting::{SourceSetting, source_setting};
use crate::cli::access::OpsArguments;
use crate::cli::lines::Messages;
use crate::cli::otlp::OtlpArguments;
use crate::cli::{Failure, units};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// What `--log-format` says.
#[derive(Clone, Debug)]
pub(super) enum LogFormat {
    Of(Format),
    /// The name of `--messages` in earlier versions. A format has a `$` or a `%`, so the two cannot be mixed up.
    Messages(Messages),
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    if let Ok(messages) = Messages::from_str(text, false) {
        return Ok(LogFormat::Messages(messages));
    }
    text.parse().map(LogFormat::Of).map_err(|error: UnknownFormat| error.to_string())
}

impl RunArguments {
    /// What the files hold.
    pub(super) fn format(&self) -> Result<Format, Failure> {
        match (&self.format, &self.log_format) {
            (Some(_), Some(LogFormat::Of(_))) => {
                Err(Failure::usage("--format and --log-format both say what the files hold; leave one out"))
            }
            (None, Some(LogFormat::Of(format))) | (Some(format), _) => Ok(format.clone()),
            (None, _) => Ok(Format::Guess),
        }
    }

    /// Where the run keeps log and state, if that is said so that it can be read.
    pub(super) fn place(&self) -> Option<Location> {
        let folder = self.out.clone().map(Location::Folder);
        folder.or_else(|| self.state.as_deref()?.parse().ok())
    }

    /// How lines on stderr look.
    pub(crate) fn messages(&self) -> Messages {
        match self.log_format {
            Some(LogFormat::Messages(messages)) if self.messages == Messages::default() => messages,
            _ => self.messages,
        }
    }

    /// What to say to whoever gave an option under its earlier name.
    pub(super) fn renamed(&self) -> Option<&'static str> {
        let renamed = matches!(self.log_format, Some(LogFormat::Messages(_)));
        renamed.then_some(
            "how lines on stderr look is --messages text|json now; --log-format takes the format of a web server's log",
        )
    }
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// The pipeline; needed where there are several.
    pub(super) pipeline: Option<String>,
    /// Files of events or web server logs, plain or packed (gzip, Zstandard, bzip2, xz), in any order.
    #[arg(long, value_name = "FILE", num_args = 1.., required_unless_present = "from", conflicts_with = "from")]
    pub(super) input: Vec<PathBuf>,
    /// Topics to read instead, for example 'kafka://HOST:PORT?topics=events.*' or 'log://DIR'.
    #[arg(long, value_name = "URL")]
    pub(super) from: Option<String>,
    /// Read topics up to where they end now, then finish as a run of files does.
    #[arg(long, requires = "from")]
    pub(super) until_end: bool,
    /// The folder for tables, dead letters, log and state.
    #[arg(long, value_name = "DIR", value_parser = units::folder, required_unless_present = "state", conflicts_with = "state")]
    pub(super) out: Option<PathBuf>,
    /// A place for the tables, once or several times: clickhouse://HOST:PORT/DB, s3://BUCKET/PREFIX,
    /// kafka://HOST:PORT/PREFIX, or a folder.
    #[arg(long, value_name = "URL")]
    pub(super) to: Vec<String>,
    /// Where log and state are kept when the tables are elsewhere: a folder, or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "PLACE", requires = "to")]
    pub(super) state: Option<String>,
    /// Worker threads; may change from one start to the next.
    // A supervisor that rescales adds its own behind the one that was given.
    #[arg(long, value_name = "N", default_value_t = 1, overrides_with = "workers")]
    pub(super) workers: u32,
    /// Processes on this machine, each with --workers threads, started again together when one fails; may change from one
    /// start to the next.
    #[arg(long, value_name = "M", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(super) processes: u32,
    /// Start the run again when it fails, also where it is one process.
    #[arg(long)]
    pub(super) supervise: bool,
    /// This process's number, from 0, where each is started by itself (on several machines).
    #[arg(long, value_name = "I", requires = "hosts")]
    pub(super) process_index: Option<u32>,
    /// Where the processes reach each other, host:port for each, in order; the same for all of them.
    #[arg(long, value_name = "LIST", value_delimiter = ',', requires = "process_index")]
    pub(super) hosts: Vec<String>,
    /// Counted up by whoever starts the processes again: those of different attempts do not meet.
    #[arg(long, value_name = "K", default_value_t = 0, requires = "process_index")]
    pub(super) attempt: u64,
    /// How long the processes of a run wait for each other at a start; longer than reading the state takes.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = units::duration)]
    pub(super) meet_within: Duration,
    /// Print one JSON object on stdout at the end.
    #[arg(long)]
    pub(super) json: bool,
    /// What the files hold: ndjson, common, combined, nginx-main, vhost-combined, json-log, w3c or alb; told from each file's
    /// first 1,000 lines when not given.
    #[arg(long, value_name = "NAME")]
    format: Option<Format>,
    /// The format of a web server's log as its configuration has it: nginx's log_format or Apache's LogFormat, with or without
    /// name and quotes.
    #[arg(long, value_name = "FORMAT", value_parser = log_format)]
    log_format: Option<LogFormat>,
    /// The first day of event times that are taken, from 1970-01-01 on; older ones are malformed. A changed day starts only
    /// where no bound epoch waits to be replayed.
    #[arg(long, value_name = "DATE", default_value = "2000-01-01", value_parser = units::oldest)]
    pub(super) oldest: Bounds,
    /// Bytes of input that an epoch takes, for example 8388608 or 32MiB.
    #[arg(long, value_name = "BYTES", default_value = "32MiB", value_parser = units::bytes)]
    pub(super) epoch_bytes: u64,
    /// Length of an epoch of a live source, unless it is full before.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    pub(super) epoch_every: Duration,
    /// Time between checkpoints, for example 500ms, 10s or 5m.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub(super) checkpoint_every: Duration,
    /// Memory for what is read and not yet committed, for example 256MiB.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = units::bytes)]
    pub(super) memory_budget: u64,
    /// Epochs whose cuts are recorded for `replay --bindings`, beyond what recovery needs: a month of one-second epochs.
    /// Each takes some 100 bytes for every partition that moved in it. 0 records none.
    #[arg(long, value_name = "EPOCHS", default_value_t = tidemill_log::KEPT_BINDINGS)]
    pub(super) keep_bindings: u64,
    /// Days that the lake keeps events after they arrived; 0 keeps them for ever. By default 90 where a live source is read,
    /// and for ever where files are.
    #[arg(long, value_name = "DAYS", value_parser = units::days)]
    pub(super) raw_days: Option<u32>,
    /// The same for tables by minute: 730, or for ever. Sessions and views stay.
    #[arg(long, value_name = "DAYS", value_parser = units::days)]
    pub(super) rollup_days: Option<u32>,
    /// Leave a sink out; fixed when the folder is begun. May be given several times.
    #[arg(long, value_name = "ID")]
    pub(super) disable_sink: Vec<String>,
    /// How a source over Kafka fetches, with librdkafka's names, for example events.fetch.max.bytes=8388608. May be given
    /// several times.
    #[arg(long, value_name = "ID.NAME=VALUE", value_parser = source_setting)]
    pub(super) source_setting: Vec<SourceSetting>,
    /// `off`: no log and no checkpoints, in a new folder only; for measuring what they cost.
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub(super) exactly_once: Switch,
    /// Declare the end of the input the end of time: everything closes, nothing can be added afterwards.
    #[arg(long)]
    pub(super) drain: bool,
    /// Give up the state that the last checkpoint has of this operator, which is gone from the pipeline or starts empty. May
    /// be given several times.
    #[arg(long, value_name = "ID")]
    pub(super) drop_state: Vec<String>,
    /// Go on without records that are gone before they were read, as the refusal of such a start names them. Recorded, counted
    /// (`lost`) and shown. May be given several times.
    #[arg(long, value_name = "PARTITION:FROM-TO")]
    pub(super) accept_loss: Vec<Loss>,
    /// Go on with a sink's topic that was deleted or made anew since the run wrote to it, without what is gone with it, as
    /// the refusal of such a start names it. Noted in the state. May be given several times.
    #[arg(long, value_name = "TOPIC")]
    pub(super) accept_topic: Vec<String>,
    /// Let a changed pipeline or another build replay the epochs that were bound after the last checkpoint: what it does
    /// otherwise begins in the middle of them. Without it such a start is refused.
    #[arg(long)]
    pub(super) replay_with_changed_plan: bool,
    /// Fence a run that is alive on the same state and go on from what it has committed. Without it such a start is
    /// refused; a run that crashed is gone on with anyway.
    #[arg(long)]
    pub(super) take_over: bool,
    /// How lines on stderr look.
    #[arg(long, value_enum, default_value_t)]
    messages: Messages,
    #[command(flatten)]
    pub(crate) otlp: OtlpArguments,
    #[command(flatten)]
    pub(super) ops: OpsArguments,
}
