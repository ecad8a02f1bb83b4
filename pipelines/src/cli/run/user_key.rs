//! The key behind the users of web server logs: the one that is set, or a random one that is kept with the state.
//!
//! A kept key is part of the state: every later start over it names the same users, and a replay of the run reads it there.
//! It is written once, if absent, so two processes that begin at the same moment agree. Nobody but the owner of a folder
//! may read it. Its file is one that `TIDEMILL_HASH_KEY_FILE` takes.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rand::TryRngCore;
use rand::rngs::OsRng;
use tidemill_connectors::events::{HashKey, UserKey};
use tidemill_log::{Created, FOLDER, Faults, Location};

use crate::cli::{lines, secrets, with_causes};

const VARIABLE: &str = "TIDEMILL_HASH_KEY";
/// Its name in the log's folder.
const NAME: &str = "user_key";

/// Whether the key was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Before,
    MadeNow,
}

/// The key for a run over `state`, as the run over `original` has it where it repeats that.
pub(crate) fn user_key_of(original: Option<&Location>, state: &Location) -> UserKey {
    if let Some(secret) = secrets::secret(VARIABLE) {
        return HashKey::from_secret(&secret).into();
    }
    let (original, state) = (original.cloned(), state.clone());
    UserKey::when_needed(move || {
        let known = original.as_ref().map_or(Ok(None), kept)?;
        let (secret, found) = kept_or_made(&state, known)?;
        if found == Found::MadeNow {
            lines::say(&format!(
                "{VARIABLE} is not set: users of web server logs are named by a random key, made now and kept in {}; where \
                 it is lost, they get other names",
                file_of(&state)
            ));
        }
        Ok(HashKey::from_secret(&secret))
    })
}

/// What `state` keeps; where it keeps nothing, from now on what is `known`, or else a random secret.
fn kept_or_made(state: &Location, known: Option<String>) -> Result<(String, Found), String> {
    if let Some(secret) = kept(state)? {
        return Ok((secret, Found::Before));
    }
    let (secret, found) = match known {
        Some(secret) => (secret, Found::Before),
        None => (random().map_err(|error| problem(state, &error))?, Found::MadeNow),
    };
    let created = match state {
        Location::Folder(root) => create(&root.join(FOLDER), &secret).map_err(|error| problem(state, &error)),
        Location::S3 { .. } => {
            let store = state.open(true, Faults::None).map_err(|error| problem(state, &error))?;
            store.create(&format!("{FOLDER}/{NAME}"), secret.as_bytes()).map_err(|error| problem(state, &error))
        }
    };
    match created? {
        Created::New => Ok((secret, found)),
        // Somebody else made one in between.
        Created::Exists => kept(state)?.map(|first| (first, Found::Before)).ok_or_else(|| empty(state)),
    }
}

/// 256 bits that nobody can guess.
fn random() -> io::Result<String> {
    let mut random = [0; 32];
    OsRng.try_fill_bytes(&mut random).map_err(io::Error::other)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The key that a place keeps, if it does.
fn kept(place: &Location) -> Result<Option<String>, String> {
    let text = match place {
        Location::Folder(root) => match fs::read_to_string(root.join(FOLDER).join(NAME)) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(problem(place, &error)),
        },
        Location::S3 { .. } => {
            let store = place.open(true, Faults::None).map_err(|error| problem(place, &error))?;
            match store.get(&format!("{FOLDER}/{NAME}")).map_err(|error| problem(place, &error))? {
                Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                None => return Ok(None),
            }
        }
    };
    let secret = text.trim_end();
    if secret.is_empty() { Err(empty(place)) } else { Ok(Some(secret.to_owned())) }
}

/// Writes the secret to a file of its own and gives that its name, unless there is one of that name.
fn create(folder: &Path, secret: &str) -> io::Result<Created> {
    fs::create_dir_all(folder)?;
    let whole = folder.join(format!("{NAME}.{}", &random()?[..16]));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&whole)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    let created = match fs::hard_link(&whole, folder.join(NAME)) {
        Ok(()) => Ok(Created::New),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Created::Exists),
        Err(error) => Err(error),
    };
    fs::remove_file(&whole)?;
    fs::File::open(folder)?.sync_all()?;
    created
}

fn file_of(place: &Location) -> Location {
    place.below(FOLDER).below(NAME)
}

fn problem(place: &Location, error: &(dyn std::error::Error + 'static)) -> String {
    let why = with_causes(error);
    format!("the key of its users, {}: {why}; see to it that it can be kept there, or set {VARIABLE}", file_of(place))
}

fn empty(place: &Location) -> String {
    format!("the key of its users, {}, is empty; bring it back, or set {VARIABLE}", file_of(place))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use super::*;

    #[test]
    fn a_key_is_made_once_whoever_comes_first_and_nobody_else_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = Location::Folder(folder.path().join("new/state"));
        let made: Vec<(String, Found)> = thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| kept_or_made(&state, None).unwrap())).collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let (first, _) = &made[0];
        assert!(first.len() == 64 && made.iter().all(|(secret, _)| secret == first));
        assert_eq!(made.iter().filter(|(_, found)| *found == Found::MadeNow).count(), 1);
        assert_eq!(kept_or_made(&state, None).unwrap(), (first.clone(), Found::Before));
        let names: Vec<_> = fs::read_dir(folder.path().join("new/state").join(FOLDER)).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing is left beside it");
        let about = names[0].as_ref().unwrap().metadata().unwrap();
        assert_eq!(about.permissions().mode() & 0o777, 0o600);
        let (other, again) = (folder.path().join("other"), folder.path().join("again"));
        assert_ne!(kept_or_made(&Location::Folder(other), None).unwrap().0, *first);
        let repeated = Location::Folder(again);
        assert_eq!(kept_or_made(&repeated, kept(&state).unwrap()).unwrap(), (first.clone(), Found::Before));
        assert_eq!(kept(&repeated).unwrap().as_ref(), Some(first), "what repeats a run can be repeated as well");
    }

    #[test]
    fn a_key_that_cannot_be_read_is_no_reason_for_another() {
        let folder = tempfile::tempdir().unwrap();
        let state = Location::Folder(folder.path().to_owned());
        kept_or_made(&state, None).unwrap();
        let file = folder.path().join(FOLDER).join(NAME);
        fs::write(&file, "\n").unwrap();
        assert!(kept_or_made(&state, None).unwrap_err().contains("is empty"));
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(kept_or_made(&state, None).unwrap_err().contains("TIDEMILL_HASH_KEY"));
    }
}
