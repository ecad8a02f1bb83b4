//! `tidemill keys`: makes an API key, and the line by which servers know it.
//!
//! A key is shown once, to whoever makes it; what is kept is its hash.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use rand::TryRngCore;
use rand::rngs::OsRng;
use tidemill_http::ApiKeys;

use super::{Failure, lines};

/// By which a key that was left lying somewhere is known for one.
const PREFIX: &str = "tm_";
/// Bytes of a key that nobody can guess.
const RANDOM_BYTES: usize = 32;

#[derive(Debug, Args)]
pub(crate) struct KeysArguments {
    /// Whose events it sends, or reads: letters, digits, `.`, `_` and `-`; `*` reads those of all (for `serve`).
    #[arg(long, value_name = "NAME")]
    tenant: String,
    /// The file of keys that the line of this one is added to, for `--keys` of `collect` and `serve`, which read it again by
    /// themselves; made if need be, for its owner alone. Without it, the line is printed.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take a key that there is from stdin, instead of making one.
    #[arg(long)]
    hash: bool,
}

pub(crate) fn keys(arguments: &KeysArguments) -> Result<(), Failure> {
    let KeysArguments { tenant, file, hash } = arguments;
    let key = if *hash { given(&mut io::stdin().lock())? } else { random()? };
    let line = ApiKeys::line(&key, tenant).map_err(Failure::usage)?;
    if let Some(file) = file {
        add(file, &line)?;
        lines::say(&format!("{} lets in whoever has the key, for tenant {tenant}", file.display()));
    }
    // A key is shown when it is good.
    let shown = [(!*hash).then_some(&key), file.is_none().then_some(&line)];
    let shown: String = shown.into_iter().flatten().map(|text| format!("{text}\n")).collect();
    lines::print(&shown).map_err(Failure::failed)
}

fn random() -> Result<String, Failure> {
    let mut random = [0; RANDOM_BYTES];
    OsRng.try_fill_bytes(&mut random).map_err(|error| Failure::failed(format!("no key can be made: {error}")))?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
}

/// The key on stdin, which is its first line.
fn given(input: &mut impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    input.read_to_string(&mut text).map_err(|error| Failure::failed(format!("cannot read stdin: {error}")))?;
    match text.trim() {
        key if key.is_empty() || key.contains(['\n', '\r']) => {
            Err(Failure::usage("--hash takes one key from stdin: echo KEY | tidemill keys --hash --tenant NAME"))
        }
        key => Ok(key.to_owned()),
    }
}

/// Adds a line to a file of keys, as a whole: whoever reads it meanwhile sees it or does not.
fn add(file: &Path, line: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot add a key to {}: {error}", file.display()));
    let before = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    let hash = line.split(' ').next().unwrap_or_default();
    if before.split_whitespace().any(|word| word == hash) {
        return Err(Failure::usage(format!("{} has this key already", file.display())));
    }
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let separator = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    let mut opened = OpenOptions::new().append(true).create(true).mode(0o600).open(file).map_err(failed)?;
    opened.write_all(format!("{separator}{line}\n").as_bytes()).and_then(|()| opened.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_random_and_its_line_lets_it_in() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/keys");
        let keys = [random().unwrap(), random().unwrap()];
        assert_ne!(keys[0], keys[1]);
        for key in &keys {
            assert!(key.len() == 46 && key.starts_with("tm_") && key.bytes().all(|b| b.is_ascii_graphic()), "{key}");
            add(&file, &ApiKeys::line(key, "shop").unwrap()).unwrap();
        }
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let read = ApiKeys::from_file(&file).unwrap();
        assert!(keys.iter().all(|key| read.sender(Some(key.as_bytes())).is_some()));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(keys.iter().all(|key| !text.contains(&**key)), "a key itself is in no file");
        assert!(add(&file, &ApiKeys::line(&keys[0], "blog").unwrap()).is_err(), "a key is one tenant's");
        // A file whose last line was not ended.
        std::fs::write(&file, ApiKeys::line("mine", "shop").unwrap()).unwrap();
        add(&file, &ApiKeys::line(&keys[0], "shop").unwrap()).unwrap();
        assert!(ApiKeys::from_file(&file).unwrap().sender(Some(b"mine")).is_some());
    }

    #[test]
    fn one_key_is_taken_from_stdin() {
        assert_eq!(given(&mut &b" k1\n"[..]).unwrap(), "k1");
        for wrong in ["", "\n", "k1\nk2\n"] {
            assert!(given(&mut wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }
}
