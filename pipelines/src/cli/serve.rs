//! `tidemill serve`: the query API and the dashboard over the tables in a folder or a bucket, while they grow.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;

use clap::Args;
use tidemill_log::Location;
use tidemill_query::api::{Server, ServerOptions};

use super::otlp::{self, OtlpArguments};
use super::{Failure, signals, units, with_causes};
use crate::pipeline::Catalog;

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Where a run writes tables: its --out, or an s3://BUCKET/PREFIX of its --to. A folder may not exist yet.
    #[arg(long, value_name = "DIR|s3://BUCKET/PREFIX")]
    data: Location,
    /// Where to answer; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// A name to answer to beside IP addresses and localhost: what a proxy before it passes on as Host. May be given several
    /// times. Without one, a loopback address answers to no other name, and another address to every name.
    #[arg(long, value_name = "NAME")]
    host: Vec<String>,
    /// The operations address of the running pipeline (its --ops), for its health on the dashboard.
    #[arg(long, value_name = "http://HOST:PORT")]
    status: Option<String>,
    /// Memory for queries.
    #[arg(long, value_name = "BYTES", default_value = "512MiB", value_parser = units::bytes)]
    memory: u64,
    /// How long a query may take.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::duration)]
    timeout: Duration,
    /// Rows that an answer to SQL may have.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    rows: usize,
    /// Requests that are answered at once; further ones are told to come again.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    requests: usize,
    #[command(flatten)]
    pub(super) otlp: OtlpArguments,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1 << 20).contains(n)).ok_or_else(|| "a number from 1 to 1048576".to_owned())
}

pub(crate) fn serve(arguments: ServeArguments, catalog: &Catalog) -> Result<(), Failure> {
    if arguments.status.as_ref().is_some_and(|status| !status.starts_with("http://")) {
        return Err(Failure::usage("--status takes http://HOST:PORT, what the pipeline was given as --ops"));
    }
    // A question that panics ends itself alone here, while the other commands have to end as a whole.
    drop(std::panic::take_hook());
    let (open, stopped) = mpsc::channel::<()>();
    signals::catch()?.stop_on("stopping once requests in flight are answered", None, move || drop(open))?;
    let listener = TcpListener::bind(arguments.listen).map_err(|error| {
        Failure::failed(format!("cannot listen at {}: {error}; give another --listen", arguments.listen))
    })?;
    let options = ServerOptions {
        status: arguments.status,
        memory: usize::try_from(arguments.memory).unwrap_or(usize::MAX),
        timeout: arguments.timeout,
        most_rows: arguments.rows,
        most_in_flight: arguments.requests,
        hosts: arguments.host,
        tables: catalog.tables(),
        ..ServerOptions::new(arguments.data)
    };
    let server = Server::start(&options, listener).map_err(|error| Failure::failed(with_causes(&error)))?;
    otlp::numbers(server.openmetrics());
    let line = format!("serving http://{}\n", server.address());
    let mut stdout = std::io::stdout();
    stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::failed)?;
    // The first signal closes the channel.
    let _ = stopped.recv();
    server.stop().map_err(Failure::failed)
}
