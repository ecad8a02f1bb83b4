//! One configuration file for `run`, `collect`, `serve`, `replay` and `demo`, and the settings that follow from it.
//!
//! Every option of the command line that tunes can stand in the file, under the same name and in the same units: what the
//! file says becomes an argument, so there is one definition of each option. The command line beats the environment
//! (`TIDEMILL_RUN_EPOCH_EVERY`), which beats the file, which beats the default. Meaning cannot be set: it stands in the
//! pipeline's code. A file with mistakes is refused as a whole, with all of them.

mod file;
mod nearest;
mod print;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::OnceLock;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::{Failure, secrets};
use crate::pipeline::Catalog;
use file::File;

/// The commands that have a section.
const COMMANDS: [&str; 5] = ["run", "collect", "serve", "replay", "demo"];
/// Options about the file itself.
const ABOUT_THE_FILE: [&str; 2] = ["config", "print_config"];
/// Options that sections of operators fill: values of the command line come beside them.
const OF_OPERATORS: [&str; 2] = ["disable_sink", "source_setting"];
/// Variables that mean the same as an option, of one command or of all, and beat the file.
const ALSO_IN_ENVIRONMENT: [(Option<&str>, &str, &str); 2] =
    [(Some("collect"), "keys", "TIDEMILL_API_KEYS"), (None, "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT")];

/// Adds the options about the file to the commands that have a section in it.
pub(crate) fn with_options(commands: Command) -> Command {
    let file = "A TOML file with settings: a section for each command, [operators.ID] for each operator, [secrets] for \
                files that hold them. The command line and the environment beat it";
    let print = "Print the settings in effect, and where each comes from, and do nothing else. Secrets are not printed";
    commands.mut_subcommands(|command| match COMMANDS.contains(&command.get_name()) {
        true => command
            .next_help_heading(None::<&'static str>)
            .arg(Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf)).help(file))
            .arg(Arg::new("print_config").long("print-config").action(ArgAction::SetTrue).help(print)),
        false => command,
    })
}

/// Where a setting comes from; what is further down beats what is further up.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Default,
    /// A line of the file.
    File(usize),
    Environment(String),
    CommandLine,
}

/// The values of one option.
#[derive(Debug)]
struct Setting<'a> {
    option: &'a Arg,
    origin: Origin,
    /// As they would stand on the command line; `true` for a flag.
    values: Vec<String>,
}

/// What is wrong, and where.
type Mistake = String;

/// What [`command_line`] gives.
static COMMAND_LINE: OnceLock<Vec<OsString>> = OnceLock::new();

/// The command line of this process with all that environment and configuration add: what other processes of the same run
/// are started with, so that they need not read what may have changed meanwhile.
pub(crate) fn command_line() -> &'static [OsString] {
    COMMAND_LINE.get().expect("it is settled before any command runs")
}

/// A command line that says all that is in effect.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Arguments, from the program's name on.
    pub(crate) arguments: &'static [OsString],
    /// The settings, for whoever asked to see them instead of a run.
    pub(crate) printed: Option<String>,
}

/// What a key of an option is called in the file.
fn key(option: &Arg) -> String {
    option.get_long().unwrap_or_default().replace('-', "_")
}

fn is_flag(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::SetTrue)
}

/// Options of a command that have a name.
fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    let named = command.get_arguments().filter(|option| option.get_long().is_some());
    named.filter(|option| option.get_id() != "help" && !ABOUT_THE_FILE.contains(&option.get_id().as_str()))
}

/// Adds to these arguments what environment and configuration say, and reads the secrets that are in files.
///
/// # Errors
/// All mistakes of the configuration, each with file, line and key.
pub(crate) fn settle(arguments: Vec<OsString>, commands: &Command, catalog: &Catalog) -> Result<Settled, Failure> {
    // Mistakes of the command line are for the parser that follows, and what is a process's own comes from its supervisor.
    let lenient = commands.clone().ignore_errors(true).try_get_matches_from(&arguments);
    let Some((name, matches)) = lenient.as_ref().ok().and_then(ArgMatches::subcommand) else {
        return as_given(arguments);
    };
    let Some(command) = commands.find_subcommand(name).filter(|_| COMMANDS.contains(&name)) else {
        return as_given(arguments);
    };
    if super::run::supervised() {
        return as_given(arguments);
    }
    let path: Option<&PathBuf> = matches.get_one("config");
    let file = match path {
        None => File::default(),
        Some(path) => file::read(path, commands, &operators(catalog)?)?,
    };
    let mut mistakes = Vec::new();
    let settings = layered((name, command), matches, &file, |variable| std::env::var(variable).ok(), &mut mistakes);
    if !mistakes.is_empty() {
        return Err(Failure::usage(mistakes.join("\n")));
    }
    secrets::read(&file.secrets)?;
    let print = matches.get_one("print_config").copied().unwrap_or(false);
    let printed = print.then(|| print::print(name, &settings, path.map(PathBuf::as_path)));
    let added = settings.iter().flat_map(Setting::added);
    let (program, own) = (arguments.iter().take(2), arguments.iter().skip(2));
    let all = program.cloned().chain(added).chain(own.cloned()).collect();
    Ok(Settled { arguments: COMMAND_LINE.get_or_init(|| all), printed })
}

/// The arguments of a process that nothing is added to.
fn as_given(arguments: Vec<OsString>) -> Result<Settled, Failure> {
    secrets::read(&BTreeMap::new())?;
    Ok(Settled { arguments: COMMAND_LINE.get_or_init(|| arguments), printed: None })
}

impl Setting<'_> {
    /// The arguments that stand for it, unless the command line has them anyway.
    fn added(&self) -> Vec<OsString> {
        let name = self.option.get_long().unwrap_or_default();
        match self.origin {
            Origin::Default | Origin::CommandLine => Vec::new(),
            Origin::File(_) | Origin::Environment(_) => arguments(name, is_flag(self.option), &self.values),
        }
    }
}

fn arguments(name: &str, flag: bool, values: &[String]) -> Vec<OsString> {
    match flag {
        true => values.iter().filter(|value| *value == "true").map(|_| format!("--{name}").into()).collect(),
        false => values.iter().map(|value| format!("--{name}={value}").into()).collect(),
    }
}

/// Operators that a section may name, with their families.
fn operators(catalog: &Catalog) -> Result<BTreeMap<&'static str, String>, Failure> {
    let mut all = BTreeMap::new();
    for pipeline in catalog.pipelines() {
        let plan = pipeline.plan()?;
        all.extend(plan.operators().iter().filter_map(|o| Some((o.id?, o.family().to_owned()))));
    }
    Ok(all)
}

/// Every option with the value that is in effect, the weaker of two that exclude each other left out.
fn layered<'a>(
    (name, command): (&str, &'a Command),
    matches: &ArgMatches,
    file: &File,
    environment: impl Fn(&str) -> Option<String>,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Setting<'a>> {
    let mut settings = Vec::new();
    for option in options(command) {
        let key = key(option);
        let variable = format!("TIDEMILL_{}_{}", name.to_uppercase(), key.to_uppercase());
        let on_line = matches.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine);
        let mut push = |origin, values| settings.push(Setting { option, origin, values });
        let in_file = file.of(name, &key);
        if on_line {
            let raw = matches.get_raw(option.get_id().as_str()).into_iter().flatten();
            let raw = raw.map(|value| value.to_string_lossy().into_owned()).collect();
            push(Origin::CommandLine, if is_flag(option) { vec!["true".to_owned()] } else { raw });
        } else if let Some(value) = environment(&variable).filter(|value| !value.is_empty()) {
            let values = vec![value];
            if let Err(why) = check(command, option, &values) {
                mistakes.push(format!("{variable}: {why}"));
            }
            push(Origin::Environment(variable), values);
        } else if let Some((.., same)) = ALSO_IN_ENVIRONMENT
            .iter()
            .filter(|(of, also, _)| of.is_none_or(|of| of == name) && *also == key)
            .find(|(.., same)| environment(same).is_some_and(|value| !value.is_empty()))
        {
            push(Origin::Environment((*same).to_owned()), Vec::new());
        } else if in_file.is_none() {
            let defaults = option.get_default_values().iter();
            push(Origin::Default, defaults.map(|value| value.to_string_lossy().into_owned()).collect());
        }
        // What sections of operators say stands beside what the command line says.
        if let Some((line, values)) =
            in_file.filter(|_| OF_OPERATORS.contains(&key.as_str()) || !decided(&settings, option))
        {
            settings.push(Setting { option, origin: Origin::File(line), values: values.to_vec() });
        }
    }
    without_beaten(command, settings)
}

fn decided(settings: &[Setting<'_>], option: &Arg) -> bool {
    settings.last().is_some_and(|last| last.option.get_id() == option.get_id())
}

/// Leaves out what excludes something that stands higher: `out` of the file where the command line has `--state`.
fn without_beaten<'a>(command: &Command, settings: Vec<Setting<'a>>) -> Vec<Setting<'a>> {
    let given = |setting: &&Setting<'_>| setting.origin != Origin::Default && !setting.values.is_empty();
    let excludes = |one: &Arg, other: &Arg| {
        command.get_arg_conflicts_with(one).iter().any(|conflict| conflict.get_id() == other.get_id())
    };
    let rank = |origin: &Origin| match origin {
        Origin::Default => 0,
        Origin::File(_) => 1,
        Origin::Environment(_) => 2,
        Origin::CommandLine => 3,
    };
    let beaten = |setting: &Setting<'_>| {
        settings.iter().filter(given).any(|other| {
            rank(&other.origin) > rank(&setting.origin)
                && (excludes(setting.option, other.option) || excludes(other.option, setting.option))
        })
    };
    let keep: Vec<bool> = settings.iter().map(|setting| !beaten(setting)).collect();
    settings.into_iter().zip(keep).filter_map(|(setting, keep)| keep.then_some(setting)).collect()
}

/// Why the command line would not take these values for an option, if so.
fn check(command: &Command, option: &Arg, values: &[String]) -> Result<(), String> {
    if is_flag(option) && values.iter().any(|value| value != "true" && value != "false") {
        return Err("write true or false".to_owned());
    }
    let line = arguments(option.get_long().unwrap_or_default(), is_flag(option), values);
    let line = [OsString::from("tidemill")].into_iter().chain(line);
    match command.clone().try_get_matches_from(line) {
        Ok(_) => Ok(()),
        // What else is needed may come from elsewhere.
        Err(error) if matches!(error.kind(), ErrorKind::MissingRequiredArgument | ErrorKind::ArgumentConflict) => {
            Ok(())
        }
        Err(error) => Err(match (std::error::Error::source(&error), error.get(ContextKind::ValidValue)) {
            (Some(cause), _) => cause.to_string(),
            (None, Some(ContextValue::Strings(valid))) => format!("give one of {}", valid.join(", ")),
            (None, _) => error.kind().to_string(),
        }),
    }
}

#[cfg(test)]
mod tests;
