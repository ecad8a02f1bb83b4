//! `tidemill serve`: the query API and the dashboard over the tables in a folder or a bucket, while they grow.

use std::ffi::OsString;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tidemill_http::{ApiKeys, ConnectionLimits, Descriptors};
use tidemill_log::{FOLDER, Location};
use tidemill_query::api::{Server, ServerOptions};
use tidemill_query::sql::{Program, SqlOptions, WorkerOptions, work};

use super::access::{TlsArguments, open_to};
use super::otlp::{self, OtlpArguments};
use super::{Failure, lines, secrets, signals, units, with_causes};
use crate::pipeline::Catalog;

/// The variable with the key that the pipeline's operations address asks for.
const STATUS_KEY: &str = "TIDEMILL_STATUS_KEY";

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
    /// The operations address of the running pipeline (its --ops), for its health on the dashboard. If it asks for a key:
    /// TIDEMILL_STATUS_KEY.
    #[arg(long, value_name = "http[s]://HOST:PORT")]
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
    /// A file of keys: whoever asks needs one, for its tenant or for all (`*`). A browser's user gives it as the password.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    #[command(flatten)]
    tls: TlsArguments,
    /// Whether SQL is answered. Without a word: on a loopback address, and where keys are asked for.
    #[arg(long, value_enum, value_name = "on|off")]
    sql: Option<Switch>,
    /// Statements of SQL that are answered at once, each in a process of its own.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one)]
    sql_workers: usize,
    /// Memory that a statement of SQL may take; one that takes more is ended.
    #[arg(long, value_name = "BYTES", default_value = "512MiB", value_parser = units::bytes)]
    sql_memory: u64,
    /// Requests that are answered at once, half of them of one address at most; further ones are told to come again.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = at_least_one)]
    requests: usize,
    /// Connections at one time, half of them busy for one address at most; a further one takes the place of an idle one.
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = at_least_one)]
    connections: usize,
    #[command(flatten)]
    pub(super) otlp: OtlpArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// What a process for SQL is started with; `serve` does it.
#[derive(Debug, Args)]
pub(crate) struct SqlWorkerArguments {
    #[arg(long)]
    data: Location,
    #[arg(long)]
    memory: usize,
}

pub(crate) fn sql_worker(arguments: SqlWorkerArguments, catalog: &Catalog) -> Result<(), Failure> {
    let SqlWorkerArguments { data, memory } = arguments;
    work(WorkerOptions { place: data, tables: catalog.tables(), memory }).map_err(Failure::failed)
}

/// How SQL is answered: in processes that run this program.
fn sql(arguments: &ServeArguments, keys: &ApiKeys, address: IpAddr) -> Result<SqlOptions, Failure> {
    // A name that a proxy passes on says that strangers come by a loopback address, too.
    let guarded = address.is_loopback() && arguments.host.is_empty() || !keys.is_open();
    let on = arguments.sql.map_or(guarded, |switch| switch == Switch::On);
    if !on {
        let why = "SQL is off: this server can be reached from elsewhere and asks for no key; start it with --keys FILE, or with --sql on";
        let told = "SQL is off: the server was started with --sql off";
        return Ok(SqlOptions::Off(if arguments.sql.is_some() { told } else { why }.to_owned()));
    }
    let memory = usize::try_from(arguments.sql_memory).unwrap_or(usize::MAX);
    let mut words: Vec<OsString> = vec!["sql-worker".into(), "--data".into(), arguments.data.to_string().into()];
    words.extend(["--memory".into(), memory.to_string().into()]);
    let program = Program { file: own_program().map_err(Failure::failed)?, arguments: words };
    Ok(SqlOptions::Workers { program, at_once: arguments.sql_workers, memory })
}

/// The file that this process runs, also when another was put in its place meanwhile.
fn own_program() -> std::io::Result<PathBuf> {
    let running = PathBuf::from("/proc/self/exe");
    if running.exists() { Ok(running) } else { std::env::current_exe() }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=1 << 20).contains(n)).ok_or_else(|| "a number from 1 to 1048576".to_owned())
}

pub(crate) fn serve(arguments: &ServeArguments, catalog: &Catalog) -> Result<(), Failure> {
    let is_address = |status: &String| status.starts_with("http://") || status.starts_with("https://");
    if !arguments.status.as_ref().is_none_or(is_address) {
        return Err(Failure::usage(
            "--status takes http://HOST:PORT or https://HOST:PORT, where the pipeline has its --ops",
        ));
    }
    // A question that panics ends itself alone here, while the other commands have to end as a whole.
    drop(std::panic::take_hook());
    let (open, stopped) = mpsc::channel::<()>();
    signals::catch()?.stop_on("stopping once requests in flight are answered", None, move || drop(open))?;
    let listener = TcpListener::bind(arguments.listen).map_err(|error| {
        Failure::failed(format!("cannot listen at {}: {error}; give another --listen", arguments.listen))
    })?;
    let keys = match &arguments.keys {
        Some(file) => ApiKeys::from_file(file).map_err(Failure::usage)?,
        None => ApiKeys::open_to_all(),
    };
    let options = ServerOptions {
        status: arguments.status.clone(),
        status_key: secrets::secret(STATUS_KEY).map(Into::into),
        tls: arguments.tls.read()?,
        memory: usize::try_from(arguments.memory).unwrap_or(usize::MAX),
        timeout: arguments.timeout,
        most_rows: arguments.rows,
        most_in_flight: arguments.requests,
        hosts: arguments.host.clone(),
        sql: sql(arguments, &keys, listener.local_addr().map_err(Failure::failed)?.ip())?,
        keys,
        front: ConnectionLimits {
            connections: Descriptors::raised().connections(arguments.connections),
            ..ConnectionLimits::default()
        },
        tables: catalog.tables(),
        ..ServerOptions::new(arguments.data.clone())
    };
    if let Location::Folder(folder) = &arguments.data
        && !folder.join(FOLDER).exists()
    {
        lines::warn(&format!(
            "no run has written to {} yet; its tables are empty until one does: check --data if none is to come",
            folder.display()
        ));
    }
    let server = Server::start(&options, listener).map_err(|error| Failure::failed(with_causes(&error)))?;
    otlp::numbers(server.openmetrics());
    let line = format!("serving {}://{}\n", arguments.tls.scheme(), server.address());
    let mut stdout = std::io::stdout();
    stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).map_err(Failure::failed)?;
    let readers = open_to(server.address(), arguments.keys.as_deref());
    lines::say(&format!("the tables are shown to {readers}; /healthz and /readyz are open to everybody"));
    // The first signal closes the channel.
    let _ = stopped.recv();
    server.stop();
    Ok(())
}
