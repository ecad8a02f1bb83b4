//! `tidemill collect`: takes events over HTTP and stores them in an embedded log.

use std::env::VarError;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tidemill_collect::{CollectConfig, CollectError, Collector, Host, Limits, Network, TopicLogs, TrustedProxies};
use tidemill_connectors::events::Bounds;
use tidemill_embedded_log::{LogOptions, Retention};
use tidemill_http::{ApiKeys, ConnectionLimits, Descriptors, KeysError};
use tidemill_log::Location;

use super::access::{TlsArguments, open_to};
use super::otlp::{self, OtlpArguments};
use super::{Failure, lines, signals, units, with_causes};

/// The environment variable that keys are read from.
pub(super) const KEYS_VARIABLE: &str = "TIDEMILL_API_KEYS";
/// What the collector keeps beside its topics.
const OWN_FOLDER: &str = "_collector";

#[derive(Debug, Args)]
pub(crate) struct CollectArguments {
    /// The folder of the log; topics events.page_view, events.click, events.purchase, events.error and events.other.
    #[arg(long, value_name = "DIR", value_parser = units::folder)]
    log: PathBuf,
    /// Where to listen; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Partitions of each topic, fixed when the log is made.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    partitions: u32,
    /// A file with the hash of an API key and its tenant on each line, as `tidemill keys` writes it; read again when it
    /// changes. TIDEMILL_API_KEYS=key=tenant,.. does without a file.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Ask for no key: everybody may send, as tenant `default`.
    #[arg(long, conflicts_with = "keys")]
    open: bool,
    #[command(flatten)]
    tls: TlsArguments,
    /// Events a second that each key may send.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate_limit: Option<u32>,
    /// A MaxMind DB file from which events get their country and city.
    #[arg(long, value_name = "FILE.mmdb")]
    geo: Option<PathBuf>,
    /// Networks of proxies whose X-Forwarded-For is believed.
    #[arg(long, value_name = "NETWORK,..", value_delimiter = ',')]
    trusted_proxies: Vec<Network>,
    /// The first day of event times that are taken, from 1970-01-01 on; events of older ones are rejected. Give `run` the same.
    #[arg(long, value_name = "DATE", default_value = "2000-01-01", value_parser = units::oldest)]
    oldest: Bounds,
    /// The origin whose pages may post from a browser.
    #[arg(long, value_name = "ORIGIN", default_value = "*")]
    allow_origin: String,
    /// Delete what is older than this, unless a --pipeline still needs it; `forever` deletes nothing by age.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = units::retained)]
    retain: units::Retained,
    /// Delete the oldest of a partition that is larger than this.
    #[arg(long, value_name = "BYTES", value_parser = units::bytes)]
    retain_bytes: Option<u64>,
    /// The state of a pipeline that reads the log (its --state or --out): what it still needs is never deleted. May be
    /// given more than once.
    #[arg(long, value_name = "DIR|s3://BUCKET/PREFIX")]
    pipeline: Vec<Location>,
    /// The length from which on a segment is followed by another; only whole segments are deleted.
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = units::bytes)]
    segment_bytes: u64,
    /// Memory that requests may hold together, half of it for one client at most; further ones are told to come again.
    #[arg(long, value_name = "BYTES", default_value = "256MiB", value_parser = units::bytes)]
    memory_budget: u64,
    /// Connections at one time, half of them busy for one address at most; a further one takes the place of an idle one.
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = units::at_least_one)]
    connections: usize,
    /// How long requests that are under way get to finish when the collector is stopped.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    drain: Duration,
    /// Print the books at the end as one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pub(super) otlp: OtlpArguments,
}

pub(crate) fn collect(arguments: CollectArguments) -> Result<(), Failure> {
    let retention = Retention { age: arguments.retain.age(), bytes: arguments.retain_bytes };
    let options = LogOptions { segment_bytes: arguments.segment_bytes, retention };
    let guarded = !arguments.pipeline.is_empty();
    let log = TopicLogs::new(arguments.log.clone(), arguments.partitions, options, arguments.pipeline);
    let keys_file = arguments.keys;
    let config = CollectConfig {
        keys: keys(keys_file.as_deref(), arguments.open)?,
        rate_limit: arguments.rate_limit,
        geo: arguments.geo,
        trusted_proxies: TrustedProxies::new(arguments.trusted_proxies),
        allow_origin: arguments.allow_origin,
        bounds: arguments.oldest,
        tls: arguments.tls.read()?,
        limits: Limits {
            memory: arguments.memory_budget,
            front: ConnectionLimits {
                connections: Descriptors::raised().connections(arguments.connections),
                drain: arguments.drain,
                ..ConnectionLimits::default()
            },
            ..Limits::default()
        },
        ..CollectConfig::new(arguments.listen, arguments.log.join(OWN_FOLDER).join("salts"), arguments.partitions)
    };
    let caught = signals::catch()?;
    let collector =
        Collector::start(&config, Box::new(log), Arc::new(Host::new())).map_err(|error| not_started(&error))?;
    lines::say(&format!(
        "collecting on {}://{}, log {}",
        arguments.tls.scheme(),
        collector.address(),
        arguments.log.display()
    ));
    let needed = if guarded { ", and longer what a --pipeline still needs" } else { "" };
    lines::say(&format!("the log keeps records {}{needed}; --retain says otherwise", arguments.retain));
    let by_variable = || Some(Path::new(KEYS_VARIABLE)).filter(|_| !arguments.open);
    let senders = open_to(collector.address(), keys_file.as_deref().or_else(by_variable));
    lines::say(&format!("events are taken from {senders}; /metrics, /healthz and /readyz are open to everybody"));
    otlp::numbers(collector.openmetrics());
    let stop = collector.stop_handle();
    let stopping = "stopping once what is under way is stored and answered";
    caught.stop_on(stopping, Some("stopped at once; what was acknowledged is stored"), move || stop.stop())?;
    let books = collector.wait();
    lines::say(&format!("stopped: {books}"));
    if arguments.json {
        let line = serde_json::to_string(&books).map_err(Failure::failed)?;
        writeln!(std::io::stdout(), "{line}").map_err(Failure::failed)?;
    }
    Ok(())
}

fn not_started(error: &CollectError) -> Failure {
    let message = with_causes(error);
    match error {
        CollectError::Usage(_) => Failure::usage(message),
        CollectError::Log(_) => Failure::refused(message),
        _ => Failure::failed(message),
    }
}

fn keys(file: Option<&Path>, open: bool) -> Result<ApiKeys, Failure> {
    let usage = |error: KeysError| Failure::usage(error);
    match (file, std::env::var(KEYS_VARIABLE)) {
        (None, Ok(list)) if open && !list.is_empty() => {
            Err(Failure::usage(format!("{KEYS_VARIABLE} is set, and --open asks for no key; leave one out")))
        }
        (None, _) if open => Ok(ApiKeys::open_to_all()),
        (Some(file), _) => ApiKeys::from_file(file).map_err(usage),
        (None, Ok(list)) => ApiKeys::from_list(KEYS_VARIABLE, &list).map_err(usage),
        (None, Err(VarError::NotPresent)) => Err(Failure::usage(format!(
            "who may send? make a key with `tidemill keys --tenant NAME --file FILE` and give --keys FILE, or set \
             {KEYS_VARIABLE}=key=tenant,..; --open lets everybody in"
        ))),
        (None, Err(VarError::NotUnicode(_))) => Err(Failure::usage(format!("{KEYS_VARIABLE} is not UTF-8"))),
    }
}
