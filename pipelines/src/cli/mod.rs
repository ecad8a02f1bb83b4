//! The command line: what each command does, its exit codes, and nothing of how.
//!
//! Results go to stdout, everything else to stderr. Exit codes: 0 finished or stopped, 1 failure, 2 usage, 3 state or
//! input refused, 4 fenced.

mod avro;
mod checkpoints;
mod explain;
mod generate;
mod measure;
mod progress;
mod query;
mod replay;
mod run;
mod schema;
mod tables;
mod units;

use std::fmt;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tidemill_dataflow::runtime::{RunError, RunErrorKind};
pub(crate) use tidemill_log::with_causes;

/// Exact, exactly-once stream processing for events and metrics.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, about, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline over files or topics, from where the last run stopped.
    Run(run::RunArguments),
    /// Ask the tables a question in SQL, at one commit.
    Query(query::QueryArguments),
    /// Print a pipeline's plan.
    Explain(explain::ExplainArguments),
    /// Write a file of made-up events.
    Generate(generate::GenerateArguments),
    /// Look at the checkpoints of a data folder.
    Checkpoints(checkpoints::CheckpointsArguments),
    /// Make or compare the tables of a ClickHouse database.
    Tables(tables::TablesArguments),
    /// Build the tables anew beside the live ones, compare them, put them in their place.
    Replay(replay::ReplayArguments),
    /// Register or check the Avro schema of a topic.
    Schema(schema::SchemaArguments),
}

/// Why a command failed, with its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn failed(message: impl fmt::Display) -> Failure {
        Failure { code: 1, message: message.to_string() }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Failure {
        Failure { code: 2, message: message.to_string() }
    }

    pub(crate) fn fenced(message: impl fmt::Display) -> Failure {
        Failure { code: 4, message: message.to_string() }
    }

    pub(crate) fn refused(message: impl fmt::Display) -> Failure {
        Failure { code: 3, message: message.to_string() }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        let code = match error.kind() {
            RunErrorKind::Failed => 1,
            RunErrorKind::Usage => 2,
            RunErrorKind::Refused => 3,
            RunErrorKind::Fenced => 4,
        };
        Failure { code, message: with_causes(&error) }
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    exit_on_panic();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    log_to_stderr();
    let done = match arguments.command {
        Command::Run(arguments) => run::run(arguments),
        Command::Query(arguments) => query::query(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Generate(arguments) => generate::generate(&arguments),
        Command::Checkpoints(arguments) => checkpoints::checkpoints(&arguments),
        Command::Tables(arguments) => tables::tables(&arguments),
        Command::Replay(arguments) => replay::replay(&arguments),
        Command::Schema(arguments) => schema::schema(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tidemill: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// What connectors have to say (a server that is waited for) goes to stderr, a line each.
fn log_to_stderr() {
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    lines.with_max_level(tracing::Level::INFO).init();
}

/// A panic anywhere ends the process at once: timely's other workers would wait for the one that is gone for ever.
fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        eprintln!(
            "tidemill: this is a bug; nothing that was committed is affected, and the same command goes on from there"
        );
        std::process::exit(1);
    }));
}
