//! The command line: what each command does, its exit codes, and nothing of how.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 finished or stopped, 1 failure, 2 usage, 3 state or
//! input refused, 4 fenced, 5 a server or the file system refuses who we are or what we may do. After 1 a supervisor starts again,
//! after the others it does not.

mod access;
mod alive;
mod avro;
mod books;
mod checkpoints;
mod collect;
mod config;
mod dead_letters;
mod demo;
mod diff;
mod ending;
mod explain;
mod generate;
mod keys;
mod lines;
mod measure;
mod otlp;
mod progress;
mod query;
mod refill;
mod replay;
mod rescale;
mod run;
mod schema;
mod secrets;
mod serve;
mod signals;
mod tables;
mod units;

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tidemill_connectors::dead_letters::mask_addresses;
use tidemill_dataflow::runtime::{RunError, RunErrorKind};
pub(crate) use tidemill_log::with_causes;

use crate::pipeline::{Catalog, Pipeline};

/// Exact, exactly-once stream processing for events and metrics.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
enum Command {
    /// Show the whole product on this machine: collector, log, pipeline, query API, dashboard, visitors.
    Demo(demo::DemoArguments),
    /// Run a pipeline over files or topics, from where the last run stopped.
    Run(run::RunArguments),
    /// Ask the tables a question in SQL, at one commit.
    Query(query::QueryArguments),
    /// Print a pipeline's plan.
    Explain(explain::ExplainArguments),
    /// Answer questions over HTTP and show the dashboard, while the tables grow.
    Serve(serve::ServeArguments),
    /// Answer SQL for `serve`, on stdin and stdout.
    #[command(hide = true)]
    SqlWorker(serve::SqlWorkerArguments),
    /// Take events over HTTP into a log.
    Collect(collect::CollectArguments),
    /// Make an API key for `collect` or `serve`: printed once, and kept as a hash.
    Keys(keys::KeysArguments),
    /// Make up events: a file, a topic, a log, or posted to a collector.
    Generate(generate::GenerateArguments),
    /// Look at the checkpoints of a data folder.
    Checkpoints(checkpoints::CheckpointsArguments),
    /// Make or compare the tables of a ClickHouse database.
    Tables(tables::TablesArguments),
    /// Repeat a run into new tables, in its recorded cuts or fresh ones; or build ClickHouse tables anew and swap them in.
    ///
    /// Into a new folder or bucket: with --out, and --bindings for the cuts of the run that is repeated. Beside the live
    /// tables of a ClickHouse database: with --to and --into, and --swap to put them in their place.
    Replay(replay::ReplayArguments),
    /// Go on with other numbers of workers and processes: a supervised run stops at a checkpoint and begins again.
    Rescale(rescale::RescaleArguments),
    /// Compare the tables of two places: says for each whether it is equal, and where it first differs.
    Diff(diff::DiffArguments),
    /// List what could not become an event, or put it back once it can.
    DeadLetters(dead_letters::DeadLettersArguments),
    /// Register or check the Avro schema of a topic.
    Schema(schema::SchemaArguments),
}

impl Command {
    fn messages(&self) -> lines::Messages {
        match self {
            Command::Run(arguments) => arguments.messages(),
            _ => lines::Messages::Text,
        }
    }

    /// Where telemetry goes; `None` for commands that have none.
    fn otlp(&self) -> Option<&otlp::OtlpArguments> {
        match self {
            Command::Run(arguments) => Some(&arguments.otlp),
            Command::Collect(arguments) => Some(&arguments.otlp),
            Command::Serve(arguments) => Some(&arguments.otlp),
            _ => None,
        }
    }
}

/// Why a command failed, with its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Ends with this code.
    pub(crate) fn exit(code: u8, message: impl fmt::Display) -> Failure {
        Failure { code, message: message.to_string() }
    }

    pub(crate) fn failed(message: impl fmt::Display) -> Failure {
        Failure { code: 1, message: message.to_string() }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Failure {
        Failure { code: 2, message: message.to_string() }
    }

    pub(crate) fn fenced(message: impl fmt::Display) -> Failure {
        Failure { code: 4, message: message.to_string() }
    }

    pub(crate) fn denied(message: impl fmt::Display) -> Failure {
        Failure { code: 5, message: message.to_string() }
    }

    pub(crate) fn refused(message: impl fmt::Display) -> Failure {
        Failure { code: 3, message: message.to_string() }
    }

    /// Whether somebody has to change something before it is tried again.
    pub(crate) fn is_refusal(&self) -> bool {
        self.code == 3
    }

    /// The same, with one thing more to know.
    pub(crate) fn adding(self, remark: &str) -> Failure {
        Failure { message: format!("{}; {remark}", self.message), ..self }
    }
}

fn masked_addresses(text: &str) -> String {
    String::from_utf8_lossy(&mask_addresses(text.as_bytes())).into_owned()
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        let code = match error.kind() {
            RunErrorKind::Failed => 1,
            RunErrorKind::Usage => 2,
            RunErrorKind::Refused => 3,
            RunErrorKind::Fenced => 4,
            RunErrorKind::Denied => 5,
        };
        let message = with_causes(&error);
        // It may say a key, or what a record holds.
        let shown = match error {
            RunError::WorkerPanicked(_) | RunError::PanicsAgain(_) => masked_addresses(&message),
            _ => message,
        };
        Failure { code, message: shown }
    }
}

/// Runs the command line of this process over these pipelines; what a binary's `main` returns.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     tidemill::main(tidemill::built_in())
/// }
/// ```
#[must_use]
pub fn main(pipelines: Vec<Pipeline>) -> ExitCode {
    exit_on_panic();
    let catalog = Catalog::new(pipelines);
    let given = std::env::args_os().collect();
    let commands = config::with_options(Arguments::command());
    let settled = match config::settle(given, &commands, &catalog) {
        Ok(settled) => settled,
        Err(failure) => return failed(&failure),
    };
    let matches = commands.try_get_matches_from(settled.arguments);
    let arguments = match matches.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => lines::exit(&error),
    };
    if let Some(settings) = settled.printed {
        return match lines::print(&settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&Failure::failed(error)),
        };
    }
    let traced = match otlp::start(arguments.command.otlp()) {
        Ok(traced) => traced,
        Err(failure) => return failed(&failure),
    };
    lines::start(arguments.command.messages(), traced);
    let done = match arguments.command {
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Run(arguments) => run::run(arguments, &catalog),
        Command::Query(arguments) => query::query(&arguments, &catalog),
        Command::Serve(arguments) => serve::serve(&arguments, &catalog),
        Command::SqlWorker(arguments) => serve::sql_worker(arguments, &catalog),
        Command::Explain(arguments) => explain::explain(&arguments, &catalog),
        Command::Collect(arguments) => collect::collect(arguments),
        Command::Keys(arguments) => keys::keys(&arguments),
        Command::Generate(arguments) => generate::generate(arguments),
        Command::Checkpoints(arguments) => checkpoints::checkpoints(&arguments),
        Command::Tables(arguments) => tables::tables(&arguments, &catalog),
        Command::Replay(arguments) => replay::replay(&arguments, &catalog),
        Command::Rescale(arguments) => rescale::rescale(arguments),
        Command::Diff(arguments) => diff::diff(&arguments, &catalog),
        Command::DeadLetters(arguments) => dead_letters::dead_letters(&arguments),
        Command::Schema(arguments) => schema::schema(&arguments),
    };
    otlp::end();
    let code = done.map_or_else(
        |failure| {
            lines::fail(failure.code, &failure.message);
            failure.code
        },
        |()| 0,
    );
    leave(i32::from(code))
}

/// Ends the process without the exit handlers of C libraries: OpenSSL's would take away what the threads of a client that is
/// still being closed, or that hangs, work with.
pub(crate) fn leave(code: i32) -> ! {
    // Nobody is left to tell.
    let _ = std::io::stdout().flush();
    let _ = std::io::stderr().flush();
    signal_hook::low_level::exit(code)
}

fn failed(failure: &Failure) -> ExitCode {
    lines::fail(failure.code, &failure.message);
    ExitCode::from(failure.code)
}

/// A panic ends the process at once: others may wait for ever for the thread that is gone. Only where the run contains it,
/// as it does those of its workers, it ends in order; one that is only looked into again was told of before.
fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if tidemill_dataflow::quarantine::is_looking() {
            return;
        }
        report(panic);
        if tidemill_dataflow::quarantine::is_contained() {
            return;
        }
        eprintln!(
            "tidemill: this is a bug; nothing that was committed is affected, and the same command goes on from there"
        );
        std::process::exit(1);
    }));
}
