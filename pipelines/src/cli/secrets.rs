//! Secrets: from a variable of the environment, or from a file that `VARIABLE_FILE` or the configuration names.
//!
//! A secret stands in no command line and in no configuration, and nothing here prints one. A variable beats a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::Failure;

/// The key under `[secrets]` that names a file, and the variable that holds the secret itself.
pub(super) const SECRETS: [(&str, &str); 6] = [
    ("clickhouse_password_file", "CLICKHOUSE_PASSWORD"),
    ("cluster_token_file", "TIDEMILL_CLUSTER_TOKEN"),
    ("hash_key_file", "TIDEMILL_HASH_KEY"),
    ("kafka_sasl_password_file", "KAFKA_SASL_PASSWORD"),
    ("schema_registry_password_file", "SCHEMA_REGISTRY_PASSWORD"),
    ("status_key_file", "TIDEMILL_STATUS_KEY"),
];

/// What was read from files, with their paths, by variable.
static FROM_FILES: OnceLock<BTreeMap<&'static str, (PathBuf, String)>> = OnceLock::new();

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The file that the environment names for a secret.
fn named_by_environment(name: &str) -> Option<PathBuf> {
    variable(&format!("{name}_FILE")).map(PathBuf::from)
}

/// Reads the files that hold secrets: those of the configuration, and those that the environment names instead.
///
/// # Errors
/// If one cannot be read or is empty.
pub(super) fn read(configured: &BTreeMap<&'static str, PathBuf>) -> Result<(), Failure> {
    let mut all = BTreeMap::new();
    for (_, name) in SECRETS {
        let file = named_by_environment(name).or_else(|| configured.get(name).cloned());
        if let Some(file) = file.filter(|_| variable(name).is_none()) {
            let secret = content(&file).map_err(|why| {
                let path = file.display();
                Failure::usage(format!("the file of {name}, {path}: {why}; name a file that holds it, or set {name}"))
            })?;
            all.insert(name, (file, secret));
        }
    }
    // Read once, at the start of the process.
    let _ = FROM_FILES.set(all);
    Ok(())
}

fn content(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() { Err("it is empty".to_owned()) } else { Ok(secret.to_owned()) }
}

/// The secret of this name, if one is given; an empty one counts as none.
pub(super) fn secret(name: &str) -> Option<String> {
    variable(name).or_else(|| FROM_FILES.get()?.get(name).map(|(_, secret)| secret.clone()))
}

/// Where the secret of this name comes from, for people; never the secret.
pub(super) fn origin(name: &str) -> String {
    if variable(name).is_some() {
        return format!("{name} is set (environment)");
    }
    match FROM_FILES.get().and_then(|files| files.get(name)) {
        Some((file, _)) => format!("{name} is set (file {})", file.display()),
        None => format!("{name} is not set"),
    }
}

/// Variables that let another process of this program read the same files.
pub(super) fn for_children() -> impl Iterator<Item = (String, PathBuf)> {
    let files = FROM_FILES.get().into_iter().flatten();
    files.map(|(name, (file, _))| (format!("{name}_FILE"), file.clone()))
}
