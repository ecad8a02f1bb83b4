//! `tidemill schema`: the schemas of topics, registered and compared.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use tidemill_registry::{Compatibility, Registry, RegistryError};

use super::{Failure, avro, with_causes};

#[derive(Debug, Args)]
pub(crate) struct SchemaArguments {
    #[command(subcommand)]
    command: SchemaCommand,
}

#[derive(Debug, Subcommand)]
enum SchemaCommand {
    /// Register a schema; one that older readers or messages would not understand is refused with the reason.
    Register(Given),
    /// Say whether a schema could be registered; changes nothing.
    Check(Given),
}

#[derive(Debug, Args)]
struct Given {
    /// The subject, for example events.page_view-value.
    #[arg(long, value_name = "SUBJECT")]
    subject: String,
    /// The Avro schema, a file of JSON.
    #[arg(value_name = "FILE")]
    schema: PathBuf,
}

pub(crate) fn schema(arguments: &SchemaArguments) -> Result<(), Failure> {
    let none = || Failure::usage("set SCHEMA_REGISTRY_URL to the registry's address, its API path included");
    let registry = avro::registry()?.ok_or_else(none)?;
    match &arguments.command {
        SchemaCommand::Register(given) => register(&registry, &given.subject, &given.schema),
        SchemaCommand::Check(given) => check(&registry, &given.subject, &given.schema),
    }
}

fn register(registry: &Registry, subject: &str, file: &Path) -> Result<(), Failure> {
    match registry.register(subject, &read(file)?) {
        Ok(id) => print(&format!("{subject}: registered, id {id}")),
        Err(error @ RegistryError::Incompatible { .. }) => Err(Failure::refused(with_causes(&error))),
        Err(error) => Err(Failure::failed(with_causes(&error))),
    }
}

fn check(registry: &Registry, subject: &str, file: &Path) -> Result<(), Failure> {
    let compatibility = registry.check(subject, &read(file)?);
    match compatibility.map_err(|error| Failure::failed(with_causes(&error)))? {
        Compatibility::Compatible => print(&format!("{subject}: compatible")),
        Compatibility::Incompatible(reasons) => {
            Err(Failure::refused(format!("{subject}: incompatible: {}", reasons.join("; "))))
        }
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))
}

fn print(line: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{line}").map_err(Failure::failed)
}
