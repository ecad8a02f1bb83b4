//! Who asks, and for which tenant.
//!
//! Keys are random, so one fast hash of each is what is kept, in the file too; hashes are compared in constant time, and no
//! key is ever shown. The file is read again when it changes.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use blake3::Hash;
use tokio::task::spawn_blocking;
use tokio::time::interval;
use tracing::{info, warn};

/// The longest name of a tenant, in bytes.
const MAX_TENANT_BYTES: usize = 100;
/// How often the file is looked at.
const READ_EVERY: Duration = Duration::from_secs(1);
/// What stands before a hash in a file of keys.
const HASHED: &str = "blake3:";

/// The tenants that a key is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenants {
    /// One.
    One(Arc<str>),
    /// All: `*` in a file of keys.
    All,
}

/// Who gave a key that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Tells keys apart; the same for a key at all times.
    pub id: u64,
    /// What the key is good for.
    pub tenants: Tenants,
}

/// The keys that are accepted, or the word that none is needed. Clones share what is read anew.
#[derive(Clone)]
pub struct ApiKeys {
    /// None: whoever comes is let in.
    keys: Option<Arc<Keys>>,
}

struct Keys {
    /// Where they were read, if that can be done again.
    file: Option<PathBuf>,
    known: RwLock<Known>,
    /// Whether the file cannot be read as it is now, which is said once.
    damaged: AtomicBool,
}

#[derive(Default)]
struct Known {
    senders: Vec<(Hash, Tenants)>,
    /// As the file was when it was read.
    version: Option<Version>,
}

impl Known {
    /// The same, if it lets somebody in.
    fn of_somebody(self, place: &dyn fmt::Display) -> Result<Known, KeysError> {
        if self.senders.is_empty() { Err(KeysError::Empty { place: place.to_string() }) } else { Ok(self) }
    }
}

/// What changes when a file does: its length and the time of its last change.
type Version = (u64, Option<SystemTime>);

/// Keys that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read the keys in {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line or a pair is none.
    #[error("{place}: write {example}; a tenant has letters, digits, `.`, `_` and `-`, at most 100, or is `*` for all")]
    Malformed {
        /// Which line or pair.
        place: String,
        /// How it should look.
        example: &'static str,
    },
    /// A file holds a key itself.
    #[error(
        "{place} holds a key itself; files hold the hashes of keys: make one with `tidemill keys --file FILE --tenant NAME`, \
         or hash this one with --hash"
    )]
    Plain {
        /// Which line.
        place: String,
    },
    /// The same key stands there twice.
    #[error("{place}: the key was given before; give each key once")]
    Twice {
        /// Which line or pair.
        place: String,
    },
    /// A list of keys without a key lets nobody in.
    #[error("{place} names no key, so nobody could be let in; give one, or --open to let everybody in")]
    Empty {
        /// Which file or variable.
        place: String,
    },
}

impl ApiKeys {
    /// No keys: whoever comes is let in.
    #[must_use]
    pub fn open_to_all() -> ApiKeys {
        ApiKeys { keys: None }
    }

    /// Reads a file with the hash of a key and its tenant on each line; `#` begins a comment.
    ///
    /// # Errors
    /// [`KeysError`] names the line.
    pub fn from_file(path: &Path) -> Result<ApiKeys, KeysError> {
        let known = read(path)?.of_somebody(&path.display())?;
        let keys = Keys { file: Some(path.to_owned()), known: RwLock::new(known), damaged: AtomicBool::new(false) };
        Ok(ApiKeys { keys: Some(Arc::new(keys)) })
    }

    /// Reads `key=tenant,key=tenant`, the form of the environment variable `variable`.
    ///
    /// # Errors
    /// [`KeysError`] names the pair by its number.
    pub fn from_list(variable: &str, list: &str) -> Result<ApiKeys, KeysError> {
        let pairs = list.split(',').enumerate().filter(|(_, pair)| !pair.trim().is_empty());
        let pairs = pairs.map(|(at, pair)| {
            let place = format!("{variable}, pair {}", at + 1);
            let named = pair.trim().rsplit_once('=').map(|(key, tenant)| (key.trim(), tenant.trim()));
            match named.filter(|(key, _)| !key.is_empty()).map(|(key, tenant)| (key, tenants(tenant))) {
                Some((key, Some(tenants))) => Ok((place, blake3::hash(key.as_bytes()), tenants)),
                _ => Err(KeysError::Malformed { place, example: "a key and its tenant as key=tenant" }),
            }
        });
        let known = Known { senders: distinct(pairs)?, version: None }.of_somebody(&variable)?;
        let keys = Keys { file: None, known: RwLock::new(known), damaged: AtomicBool::new(false) };
        Ok(ApiKeys { keys: Some(Arc::new(keys)) })
    }

    /// The line of a file of keys that lets the holder of `key` in.
    ///
    /// # Errors
    /// When `tenant` is no name of a tenant, nor `*`.
    pub fn line(key: &str, tenant: &str) -> Result<String, KeysError> {
        let named = tenants(tenant).is_some();
        let malformed = || KeysError::Malformed { place: format!("the tenant `{tenant}`"), example: "its name" };
        named.then(|| format!("{HASHED}{} {tenant}", blake3::hash(key.as_bytes()).to_hex())).ok_or_else(malformed)
    }

    /// Whether everybody is let in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.keys.is_none()
    }

    /// Whether some key is good for all tenants.
    #[must_use]
    pub fn any_for_all(&self) -> bool {
        let known = |keys: &Arc<Keys>| keys.known().senders.iter().any(|(_, tenants)| *tenants == Tenants::All);
        self.keys.as_ref().is_some_and(known)
    }

    /// Who gives this key; none if it is missing or wrong.
    #[must_use]
    pub fn sender(&self, key: Option<&[u8]>) -> Option<Sender> {
        let Some(keys) = &self.keys else { return Some(Sender { id: 0, tenants: Tenants::All }) };
        // Comparing hashes takes equally long wherever they differ, and every key is looked at.
        let given = blake3::hash(key?);
        let mut found = None;
        for (known, tenants) in &keys.known().senders {
            if *known == given {
                let id = u64::from_le_bytes(known.as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
                found = Some(Sender { id, tenants: tenants.clone() });
            }
        }
        found
    }

    /// Reads the file again whenever it has changed, for as long as the runtime runs.
    pub async fn keep_fresh(self) {
        let mut due = interval(READ_EVERY);
        loop {
            due.tick().await;
            let fresh = self.clone();
            // It waits for a disk. A panic there would be a bug, and no reason to refuse those who have a key.
            let _ = spawn_blocking(move || fresh.refresh()).await;
        }
    }

    /// Reads the file again if it has changed; what it said holds on while it cannot be read.
    pub fn refresh(&self) {
        let Some((keys, path)) = self.keys.as_ref().and_then(|keys| Some((keys, keys.file.as_ref()?))) else { return };
        if version(path).is_some_and(|now| keys.known().version == Some(now)) {
            return;
        }
        match read(path) {
            Ok(known) => {
                info!("the keys were read again: {} has {} now", path.display(), known.senders.len());
                *keys.known.write().unwrap_or_else(PoisonError::into_inner) = known;
                keys.damaged.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                if !keys.damaged.swap(true, Ordering::Relaxed) {
                    warn!("the keys stay as they were, those that were taken away too: {error}");
                }
            }
        }
    }
}

impl Keys {
    fn known(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.keys.as_ref().map(|keys| keys.known().senders.len());
        f.debug_struct("ApiKeys").field("keys", &count).finish_non_exhaustive()
    }
}

/// The key of a request: `X-API-Key`, or `Authorization: Bearer`.
#[must_use]
pub fn key_of(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(key) = headers.get("x-api-key") {
        return Some(key.as_bytes());
    }
    let (scheme, key) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// The key of a request from a browser, whose user gave it as a password, or as [`key_of`] says.
#[must_use]
pub fn key_or_password_of(headers: &HeaderMap) -> Option<Cow<'_, [u8]>> {
    if let Some(key) = key_of(headers) {
        return Some(Cow::Borrowed(key));
    }
    let (scheme, text) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked(6)?;
    let decoded = STANDARD.decode(text.trim_ascii()).ok().filter(|_| scheme.eq_ignore_ascii_case(b"basic "))?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(Cow::Owned(decoded[colon + 1..].to_vec()))
}

fn version(path: &Path) -> Option<Version> {
    let about = std::fs::metadata(path).ok()?;
    Some((about.len(), about.modified().ok()))
}

fn read(path: &Path) -> Result<Known, KeysError> {
    // Looked at before it is read: a change in between is found the next time.
    let version = version(path);
    let unreadable = |source| KeysError::Unreadable { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let lines = text.lines().enumerate().filter_map(|(row, line)| {
        let line = line.split('#').next().unwrap_or_default().trim();
        let place = || format!("{}, line {}", path.display(), row + 1);
        (!line.is_empty()).then(|| of_line(line, place))
    });
    let known = Known { senders: distinct(lines)?, version };
    // A file without any text may be one that is just being written.
    if text.trim().is_empty() { known.of_somebody(&path.display()) } else { Ok(known) }
}

fn of_line(line: &str, place: impl Fn() -> String) -> Result<(String, Hash, Tenants), KeysError> {
    let example = "the hash of a key and its tenant with a space between them";
    let malformed = || KeysError::Malformed { place: place(), example };
    let (hashed, tenant) = line.split_once(char::is_whitespace).ok_or_else(malformed)?;
    let tenants = tenants(tenant.trim()).ok_or_else(malformed)?;
    let digits = hashed.strip_prefix(HASHED).ok_or_else(|| KeysError::Plain { place: place() })?;
    let hash = Hash::from_hex(digits).map_err(|_| malformed())?;
    Ok((place(), hash, tenants))
}

fn distinct(
    found: impl Iterator<Item = Result<(String, Hash, Tenants), KeysError>>,
) -> Result<Vec<(Hash, Tenants)>, KeysError> {
    let (mut senders, mut seen) = (Vec::new(), HashSet::new());
    for sender in found {
        let (place, hash, tenants) = sender?;
        if !seen.insert(*hash.as_bytes()) {
            return Err(KeysError::Twice { place });
        }
        senders.push((hash, tenants));
    }
    Ok(senders)
}

fn tenants(name: &str) -> Option<Tenants> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name == "*" {
        return Some(Tenants::All);
    }
    let named = !name.is_empty() && name.len() <= MAX_TENANT_BYTES && name.bytes().all(allowed);
    named.then(|| Tenants::One(name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(keys: &ApiKeys, key: &str) -> Option<String> {
        match keys.sender(Some(key.as_bytes()))?.tenants {
            Tenants::One(name) => Some(name.to_string()),
            Tenants::All => Some("*".to_owned()),
        }
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn a_key_names_its_tenant_and_no_other_key_is_accepted() {
        let (first, second) = (ApiKeys::line("k1", "shop").unwrap(), ApiKeys::line("k2", "*").unwrap());
        let (_folder, path) = file(&format!("# shop\n{first}\n\n {second} # everybody\n"));
        for keys in [ApiKeys::from_file(&path).unwrap(), ApiKeys::from_list("K", "k1=shop, k2=*").unwrap()] {
            assert_eq!((tenant(&keys, "k1"), tenant(&keys, "k2")), (Some("shop".into()), Some("*".into())));
            assert_eq!((tenant(&keys, "k3"), tenant(&keys, "")), (None, None));
            assert!(keys.sender(None).is_none() && keys.any_for_all());
            assert!(!format!("{keys:?}").contains("k1"));
        }
        let open = ApiKeys::open_to_all();
        assert_eq!(open.sender(None).map(|sender| sender.tenants), Some(Tenants::All));
    }

    #[test]
    fn a_file_is_read_again_when_it_changes_and_a_damaged_one_changes_nothing() {
        let (_folder, path) = file(&ApiKeys::line("old", "shop").unwrap());
        let keys = ApiKeys::from_file(&path).unwrap();
        let shared = keys.clone();
        std::fs::write(
            &path,
            format!("{}\n{}\n", ApiKeys::line("old", "shop").unwrap(), ApiKeys::line("new", "blog").unwrap()),
        )
        .unwrap();
        keys.refresh();
        assert_eq!(tenant(&shared, "new").as_deref(), Some("blog"));
        for damaged in ["", "new blog\n", "\n"] {
            std::fs::write(&path, damaged).unwrap();
            keys.refresh();
            assert_eq!(tenant(&shared, "new").as_deref(), Some("blog"), "{damaged:?}");
        }
        std::fs::write(&path, ApiKeys::line("new", "blog").unwrap()).unwrap();
        keys.refresh();
        assert_eq!((tenant(&shared, "old"), tenant(&shared, "new").as_deref()), (None, Some("blog")));
        std::fs::write(&path, "# all were taken away\n").unwrap();
        keys.refresh();
        assert_eq!((tenant(&shared, "new"), keys.is_open()), (None, false));
    }

    #[test]
    fn a_wrong_list_is_refused_with_its_place_and_never_with_the_key() {
        for (list, place) in [
            ("secret", "pair 1"),
            ("a=b,secret=", "pair 2"),
            ("secret=a b", "pair 1"),
            ("secret=x,secret=y", "pair 2"),
            ("", "names no key"),
            (" , ", "names no key"),
        ] {
            let said = ApiKeys::from_list("KEYS", list).unwrap_err().to_string();
            assert!(said.contains("KEYS") && said.contains(place) && !said.contains("secret"), "{list}: {said}");
        }
        let good = ApiKeys::line("a", "b").unwrap();
        for (text, sentence) in [
            ("secret shop\n".to_owned(), "line 1 holds a key itself"),
            (format!("{good}\nblake3:secret shop\n"), "line 2"),
            (format!("{good}\n{good}\n"), "given before"),
            ("\n# nobody\n".to_owned(), "names no key"),
        ] {
            let (_folder, path) = file(&text);
            let said = ApiKeys::from_file(&path).unwrap_err().to_string();
            assert!(said.contains(sentence) && !said.contains("secret"), "{text}: {said}");
        }
    }

    #[test]
    fn a_key_is_read_from_two_headers() {
        for (name, value, key) in [
            ("x-api-key", "k", Some(&b"k"[..])),
            ("authorization", "Bearer  k ", Some(b"k")),
            ("authorization", "bearer k", Some(b"k")),
            ("authorization", "Basic k", None),
            ("cookie", "k", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(key_of(&headers), key, "{name}: {value}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Basic {}", STANDARD.encode("anybody:k:1")).parse().unwrap());
        assert_eq!(key_or_password_of(&headers).as_deref(), Some(&b"k:1"[..]));
        assert_eq!(key_of(&headers), None);
    }
}
