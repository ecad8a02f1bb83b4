//! `--print-config`: the settings in effect as a configuration, each with where it comes from; secrets are left out.

use std::collections::BTreeMap;
use std::path::Path;

use tidemill_log::secrets::masked;

use super::file::{decided_at_start, is_number};
use super::{Origin, Setting, is_flag, key};
use crate::cli::secrets;

/// The settings of one command as TOML that `--config` takes again.
pub(super) fn print(command: &str, settings: &[Setting<'_>], file: Option<&Path>) -> String {
    let file = file.unwrap_or(Path::new("-")).display().to_string();
    let mut lines = vec![
        format!("# What `tidemill {command}` would start with, and where each setting comes from."),
        format!("[{command}]"),
    ];
    let mut operators: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for setting in settings {
        let (name, from) = (key(setting.option), setting.origin.said(&file));
        match name.as_str() {
            "disable_sink" => {
                for id in &setting.values {
                    operators.entry(id).or_default().push(format!("disabled = true  # {from}"));
                }
            }
            "source_setting" => {
                for (id, rest) in setting.values.iter().filter_map(|value| value.split_once('.')) {
                    let (tuned, value) = rest.split_once('=').unwrap_or((rest, ""));
                    operators.entry(id).or_default().push(format!("{tuned} = {}  # {from}", quoted(&masked(value))));
                }
            }
            _ if setting.values.is_empty() && matches!(setting.origin, Origin::Environment(_)) => {
                lines.push(format!("# {name} is set  # {from}"));
            }
            _ if setting.values.is_empty() => lines.push(format!("# {name} is not set")),
            _ if decided_at_start(command, &name).is_some() => {
                // It can only be given again; what it is by default says nothing.
                if setting.origin != Origin::Default {
                    lines.push(format!("# {name} = {}  # {from}", value(setting)));
                }
            }
            "keys" => lines.push(format!("keys_file = {}  # {from}", value(setting))),
            _ => lines.push(format!("{name} = {}  # {from}", value(setting))),
        }
    }
    for (id, said) in operators {
        lines.push(format!("\n[operators.{id}]"));
        lines.extend(said);
    }
    lines.push("\n# Secrets, which are never printed:".to_owned());
    lines.extend(secrets::SECRETS.iter().map(|(_, variable)| format!("# {}", secrets::origin(variable))));
    lines.join("\n") + "\n"
}

impl Origin {
    fn said(&self, file: &str) -> String {
        match self {
            Origin::Default => "default".to_owned(),
            Origin::File(line) => format!("{file}:{line}"),
            Origin::Environment(variable) => format!("environment, {variable}"),
            Origin::CommandLine => "command line".to_owned(),
        }
    }
}

/// The value as TOML.
fn value(setting: &Setting<'_>) -> String {
    let one = |value: &String| match is_flag(setting.option) || is_number(setting.option) {
        true => value.clone(),
        false => quoted(&masked(value)),
    };
    match (&*setting.values, setting.option.get_action()) {
        (values, clap::ArgAction::Append) => format!("[{}]", values.iter().map(one).collect::<Vec<_>>().join(", ")),
        ([], _) => String::new(),
        ([last, ..], _) => one(last),
    }
}

/// A text as TOML writes it, which for these is how JSON does.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
