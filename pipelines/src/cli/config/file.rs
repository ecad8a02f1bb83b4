//! Reading the file: every value as it would stand on the command line, every mistake as a sentence with its line.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use tidemill_log::secrets::{holds_secret, names_secret};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::nearest::nearest;
use super::{COMMANDS, Mistake, check, key, options};
use crate::cli::secrets::SECRETS;
use crate::cli::{Failure, run};

/// What is decided at each start, and what to do instead of writing it into a file.
const DECIDED_AT_START: [(&str, &str, &str); 20] = [
    ("run", "until_end", "is decided at each start: give --until-end"),
    ("run", "drain", "ends the input for good and is decided at a start: give --drain"),
    ("run", "exactly_once", "is decided at each start: give --exactly-once"),
    ("run", "drop_state", "gives up state and is decided at a start: give --drop-state"),
    ("run", "accept_loss", "gives up records and is decided at a start: give --accept-loss"),
    ("run", "accept_topic", "gives up rows and is decided at a start: give --accept-topic"),
    ("run", "replay_with_changed_plan", "is decided at a start: give --replay-with-changed-plan"),
    ("run", "take_over", "fences a living run and is decided at a start: give --take-over"),
    ("run", "process_index", "differs from process to process: give --process-index"),
    ("run", "attempt", "is counted by whoever starts the processes: give --attempt"),
    ("run", "json", "is decided at each start: give --json"),
    ("run", "disable_sink", "is said of the operator: write disabled = true in [operators.ID]"),
    ("run", "source_setting", "is said of the operator: write NAME = VALUE in [operators.ID]"),
    ("collect", "json", "is decided at each start: give --json"),
    ("replay", "swap", "puts tables in the place of others and is decided at a start: give --swap"),
    ("replay", "take_over", "fences a living run and is decided at a start: give --take-over"),
    ("replay", "since", "is decided at each start: give --since"),
    ("replay", "until", "is decided at each start: give --until"),
    ("replay", "disable_sink", "is as in the run that is repeated: give --disable-sink"),
    ("demo", "dir", "is a new folder each time: give --dir"),
];

/// Keys that people may look for here and that are the pipeline's.
const MEANING: [&str; 22] = [
    "aggregate",
    "allowed_lateness",
    "every",
    "event_time",
    "filter",
    "gap",
    "group",
    "group.id",
    "horizon",
    "key",
    "key_by",
    "late",
    "lateness",
    "out_of_order",
    "session",
    "size",
    "slide",
    "start",
    "topics",
    "watermark",
    "watermarks",
    "window",
];

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct File {
    /// By command and key: the line, and the values as they would stand on the command line.
    values: BTreeMap<(String, String), (usize, Vec<String>)>,
    /// Files that hold secrets, by the variable that would hold them.
    pub(super) secrets: BTreeMap<&'static str, PathBuf>,
}

impl File {
    /// The values of an option, and their line.
    pub(super) fn of(&self, command: &str, key: &str) -> Option<(usize, &[String])> {
        let (line, values) = self.values.get(&(command.to_owned(), key.to_owned()))?;
        Some((*line, values))
    }

    fn add(&mut self, command: &str, key: &str, line: usize, values: Vec<String>) {
        let (_, all) = self.values.entry((command.to_owned(), key.to_owned())).or_insert((line, Vec::new()));
        all.extend(values);
    }
}

/// Why an option has no place in a file, if so.
pub(super) fn decided_at_start(command: &str, key: &str) -> Option<&'static str> {
    DECIDED_AT_START.iter().find(|(of, name, _)| *of == command && *name == key).map(|(_, _, why)| *why)
}

/// Whether an option takes a bare number, and not a duration or a number of bytes with its unit.
pub(super) fn is_number(option: &Arg) -> bool {
    let taken = option.get_value_parser().type_id();
    [TypeId::of::<u32>(), TypeId::of::<usize>()].iter().any(|number| taken == *number)
}

/// Reads a file for these commands and operators (ids and families).
///
/// # Errors
/// If it cannot be read, and all mistakes in it.
pub(super) fn read(path: &Path, commands: &Command, operators: &BTreeMap<&str, String>) -> Result<File, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("--config {}: {error}; name a file in TOML", path.display())))?;
    parse(&path.display().to_string(), &text, commands, operators).map_err(|all| Failure::usage(all.join("\n")))
}

/// The same for a text; `path` is what it is called.
pub(super) fn parse(
    path: &str,
    text: &str,
    commands: &Command,
    operators: &BTreeMap<&str, String>,
) -> Result<File, Vec<Mistake>> {
    let mut reader = Reader { path, text, commands, operators, file: File::default(), mistakes: Vec::new() };
    let (table, broken) = DeTable::parse_recoverable(text);
    for error in &broken {
        // Its own words, not the line: that may hold a secret.
        reader.mistake(error.span().map_or(0, |span| span.start), "", error.message());
    }
    if broken.is_empty() {
        reader.sections(table.get_ref());
    }
    // As they stand in the file, not in the order of names.
    reader.mistakes.sort_by_key(|(line, _)| *line);
    match reader.mistakes.is_empty() {
        true => Ok(reader.file),
        false => Err(reader.mistakes.into_iter().map(|(_, mistake)| mistake).collect()),
    }
}

struct Reader<'a> {
    path: &'a str,
    text: &'a str,
    commands: &'a Command,
    operators: &'a BTreeMap<&'a str, String>,
    file: File,
    mistakes: Vec<(usize, Mistake)>,
}

impl Reader<'_> {
    /// The line of a place in the text, counted from 1.
    fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
    }

    fn mistake(&mut self, at: usize, place: &str, what: &str) {
        let line = self.line(at);
        let place = if place.is_empty() { String::new() } else { format!("{place} ") };
        self.mistakes.push((line, format!("{}:{line}: {place}{what}", self.path)));
    }

    fn sections(&mut self, table: &DeTable<'_>) {
        for (name, value) in table {
            let (at, section): (usize, &str) = (name.span().start, name.get_ref());
            let Some(inside) = value.get_ref().as_table() else {
                self.outside(at, section);
                continue;
            };
            match section {
                "operators" => self.operators(inside),
                "secrets" => self.secrets(inside),
                _ if COMMANDS.contains(&section) => self.command(section, inside),
                _ => {
                    let known = COMMANDS.into_iter().chain(["operators", "secrets"]);
                    let meant = nearest(section, known).unwrap_or_default();
                    self.mistake(
                        at,
                        &format!("[{section}]"),
                        &format!("there is no such section; is [{meant}] meant?"),
                    );
                }
            }
        }
    }

    /// A key before the first section.
    fn outside(&mut self, at: usize, name: &str) {
        let what = match names_secret(name) {
            true => "is a secret, which has no place here; name a file with it in [secrets]",
            false => "stands in no section; write it below that of its command, as [run] or [collect]",
        };
        self.mistake(at, &format!("`{name}`"), what);
    }

    fn command(&mut self, name: &str, table: &DeTable<'_>) {
        let command = self.commands.find_subcommand(name).expect("every section of a command has its command");
        for (written, value) in table {
            let (at, written): (usize, &str) = (written.span().start, written.get_ref());
            let place = format!("[{name}] {written}:");
            let has_keys = options(command).any(|option| key(option) == "keys");
            let keys_file = has_keys && written == "keys_file";
            if names_secret(written) {
                let instead = if has_keys && written == "keys" { "keys_file" } else { "a key of [secrets]" };
                self.mistake(at, &place, &format!("a secret has no place here; name a file with it in {instead}"));
                continue;
            }
            let wanted = if keys_file { "keys" } else { written };
            let Some(option) = options(command).find(|option| key(option) == wanted) else {
                self.unknown(at, &place, name, written, command);
                continue;
            };
            if let Some(why) = decided_at_start(name, written) {
                self.mistake(at, &place, &format!("this {why}"));
                continue;
            }
            let read = values(option, value).and_then(|values| {
                check(command, option, &values)?;
                Ok(values)
            });
            match read {
                Ok(values) => {
                    let line = self.line(at);
                    self.file.add(name, wanted, line, values);
                }
                Err(why) => self.mistake(value.span().start, &place, &why),
            }
        }
    }

    fn unknown(&mut self, at: usize, place: &str, name: &str, written: &str, command: &Command) {
        if MEANING.contains(&written) {
            self.mistake(at, place, "what a pipeline means stands in its code, and only tuning here");
            return;
        }
        let shown = |option: &Arg| if key(option) == "keys" { "keys_file".to_owned() } else { key(option) };
        let known = options(command).filter(|option| decided_at_start(name, &key(option)).is_none()).map(shown);
        let known: Vec<String> = known.collect();
        let meant = nearest(written, known.iter().map(String::as_str)).unwrap_or_default();
        self.mistake(at, place, &format!("there is no such setting; is {meant} meant?"));
    }

    fn secrets(&mut self, table: &DeTable<'_>) {
        for (written, value) in table {
            let (at, written): (usize, &str) = (written.span().start, written.get_ref());
            let place = format!("[secrets] {written}:");
            match SECRETS.iter().find(|(key, _)| *key == written) {
                Some((_, variable)) => match value.get_ref().as_str() {
                    Some(path) => drop(self.file.secrets.insert(*variable, PathBuf::from(path))),
                    None => self.mistake(value.span().start, &place, "write the name of a file, in quotes"),
                },
                None => {
                    let meant = nearest(written, SECRETS.iter().map(|(key, _)| *key)).unwrap_or_default();
                    let what = match names_secret(written) {
                        true => "a secret has no place here; name a file with it in",
                        false => "there is no such secret; is this meant:",
                    };
                    self.mistake(at, &place, &format!("{what} {meant}"));
                }
            }
        }
    }

    fn operators(&mut self, table: &DeTable<'_>) {
        for (id, value) in table {
            let (at, id): (usize, &str) = (id.span().start, id.get_ref());
            let place = format!("[operators.{id}]");
            let Some(family) = self.operators.get(id) else {
                let meant = nearest(id, self.operators.keys().copied()).unwrap_or_default();
                self.mistake(at, &place, &format!("there is no such operator; is {meant} meant?"));
                continue;
            };
            let Some(inside) = value.get_ref().as_table() else {
                self.mistake(at, &place, &format!("is a section: write [operators.{id}] and its settings below"));
                continue;
            };
            let mut settings = Vec::new();
            flatten("", inside, &mut settings);
            for (start, name, setting) in settings {
                self.operator(&place, (id, family.as_str()), (start, &name), setting);
            }
        }
    }

    fn operator(
        &mut self,
        place: &str,
        (id, family): (&str, &str),
        (at, name): (usize, &str),
        value: &Spanned<DeValue<'_>>,
    ) {
        let place = format!("{place} {name}:");
        if names_secret(name) {
            self.mistake(at, &place, "a secret has no place here; name a file with it in [secrets]");
            return;
        }
        if MEANING.contains(&name) {
            self.mistake(at, &place, "what an operator means stands in the pipeline's code, and only tuning here");
            return;
        }
        let line = self.line(at);
        match (family, name, value.get_ref()) {
            ("sink", "disabled", DeValue::Boolean(disabled)) => {
                if *disabled {
                    self.file.add("run", "disable_sink", line, vec![id.to_owned()]);
                }
            }
            ("sink", "disabled", _) => self.mistake(value.span().start, &place, "write true or false"),
            ("source", _, value_given) => {
                let setting = scalar(value_given).and_then(|text| run::source_setting(&format!("{id}.{name}={text}")));
                match setting {
                    Ok(setting) => self.file.add("run", "source_setting", line, vec![setting.to_string()]),
                    Err(why) => self.mistake(at, &place, &why),
                }
            }
            ("sink", _, _) => self.mistake(at, &place, "there is no such setting of a sink; is disabled meant?"),
            _ => self.mistake(
                at,
                &place,
                "this operator has nothing to tune: sinks have disabled, sources settings of fetches",
            ),
        }
    }
}

/// `fetch.max.bytes = 1` is three tables in TOML, and one name here.
fn flatten<'a, 'i>(prefix: &str, table: &'a DeTable<'i>, into: &mut Vec<(usize, String, &'a Spanned<DeValue<'i>>)>) {
    for (name, value) in table {
        let full = format!("{prefix}{}", name.get_ref());
        match value.get_ref().as_table() {
            Some(inside) => flatten(&format!("{full}."), inside, into),
            None => into.push((name.span().start, full, value)),
        }
    }
}

/// A text or a number, as it would stand on the command line.
fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    let text = match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Integer(number) => {
            let read = i64::from_str_radix(number.as_str(), number.radix());
            read.map_err(|_| "no number is as large as this one".to_owned())?.to_string()
        }
        other => return Err(format!("write a text or a number, not {}", other.type_str())),
    };
    match holds_secret(&text) {
        true => {
            Err("an address has no user, password or other secret in it here; set the variable of the environment, \
                     or name a file in [secrets]"
                .to_owned())
        }
        false => Ok(text),
    }
}

/// The values of an option.
fn values(option: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, String> {
    let one = |given: &DeValue<'_>| match given {
        DeValue::String(_) if is_number(option) => Err("write a number, without quotes".to_owned()),
        DeValue::Boolean(_) => Err("write a text or a number, not true or false".to_owned()),
        given => scalar(given),
    };
    match (option.get_action(), value.get_ref()) {
        (ArgAction::SetTrue, DeValue::Boolean(flag)) => Ok(vec![flag.to_string()]),
        (ArgAction::SetTrue, _) => Err("write true or false, without quotes".to_owned()),
        (ArgAction::Append, DeValue::Array(all)) => all.iter().map(|each| one(each.get_ref())).collect(),
        (_, DeValue::Array(_)) => Err("write one value, not a list".to_owned()),
        (_, value) => Ok(vec![one(value)?]),
    }
}
