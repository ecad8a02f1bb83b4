//! Who may send, and which tenant their events belong to.
//!
//! Keys are kept and compared as hashes, in constant time, and never shown.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tidemill_connectors::events::DEFAULT_TENANT;

/// The longest name of a tenant, in bytes.
const MAX_TENANT_BYTES: usize = 100;

/// The keys that are accepted. Without any, everybody is, as tenant `default`.
#[derive(Clone)]
pub struct ApiKeys {
    keys: Vec<(blake3::Hash, Arc<str>)>,
    default: Arc<str>,
}

/// Keys that cannot be used.
#[derive(Debug, Error)]
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
    #[error(
        "{place}: write a key and its tenant{example}; a tenant has letters, digits, `.`, `_` and `-`, at most 100"
    )]
    Malformed {
        /// Which line or pair.
        place: String,
        /// How it should look.
        example: &'static str,
    },
    /// The same key stands there twice.
    #[error("{place}: the key was given before; give each key once")]
    Twice {
        /// Which line or pair.
        place: String,
    },
    /// A list of keys without a key would let everybody in.
    #[error("{place} names no key; without a list of keys everybody is accepted, with one somebody must be in it")]
    Empty {
        /// Which file or variable.
        place: String,
    },
}

impl ApiKeys {
    /// No keys: everybody may send, as tenant `default`.
    #[must_use]
    pub fn open_to_all() -> ApiKeys {
        ApiKeys { keys: Vec::new(), default: DEFAULT_TENANT.into() }
    }

    /// Reads a file with a key and its tenant on each line; `#` begins a comment.
    ///
    /// # Errors
    /// [`KeysError`] names the line.
    pub fn from_file(path: &Path) -> Result<ApiKeys, KeysError> {
        let unreadable = |source| KeysError::Unreadable { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let lines = text.lines().enumerate().filter_map(|(row, line)| {
            let line = line.split('#').next().unwrap_or_default().trim();
            let place = format!("{}, line {}", path.display(), row + 1);
            (!line.is_empty()).then(|| (place, line.split_once(char::is_whitespace)))
        });
        ApiKeys::from_pairs(lines, " with a space between them").and_then(|keys| keys.or_empty(&path.display()))
    }

    /// Reads `key=tenant,key=tenant`, the form of the environment variable `variable`.
    ///
    /// # Errors
    /// [`KeysError`] names the pair by its number.
    pub fn from_list(variable: &str, list: &str) -> Result<ApiKeys, KeysError> {
        let pairs = list.split(',').enumerate().filter(|(_, pair)| !pair.trim().is_empty());
        let pairs = pairs.map(|(at, pair)| (format!("{variable}, pair {}", at + 1), pair.trim().rsplit_once('=')));
        ApiKeys::from_pairs(pairs, " as key=tenant").and_then(|keys| keys.or_empty(&variable))
    }

    fn from_pairs<'a>(
        pairs: impl Iterator<Item = (String, Option<(&'a str, &'a str)>)>,
        example: &'static str,
    ) -> Result<ApiKeys, KeysError> {
        let mut found = ApiKeys::open_to_all();
        for (place, pair) in pairs {
            let named = pair.map(|(key, tenant)| (key.trim(), tenant.trim()));
            let Some((key, tenant)) = named.filter(|(key, tenant)| !key.is_empty() && is_tenant(tenant)) else {
                return Err(KeysError::Malformed { place, example });
            };
            let hash = blake3::hash(key.as_bytes());
            if found.keys.iter().any(|(known, _)| *known == hash) {
                return Err(KeysError::Twice { place });
            }
            found.keys.push((hash, tenant.into()));
        }
        Ok(found)
    }

    fn or_empty(self, place: &dyn fmt::Display) -> Result<ApiKeys, KeysError> {
        if self.keys.is_empty() { Err(KeysError::Empty { place: place.to_string() }) } else { Ok(self) }
    }

    /// Whether everybody may send.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many senders are told apart: one at least.
    pub(crate) fn senders(&self) -> usize {
        self.keys.len().max(1)
    }

    /// The sender's number and tenant; none if the key is missing or wrong.
    pub(crate) fn sender(&self, key: Option<&[u8]>) -> Option<(usize, &Arc<str>)> {
        if self.is_open() {
            return Some((0, &self.default));
        }
        // Comparing hashes takes equally long wherever they differ, and every key is looked at.
        let given = blake3::hash(key?);
        let mut found = None;
        for (number, (known, tenant)) in self.keys.iter().enumerate() {
            if *known == given {
                found = Some((number, tenant));
            }
        }
        found
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

fn is_tenant(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name.len() <= MAX_TENANT_BYTES && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant<'a>(keys: &'a ApiKeys, key: &str) -> Option<&'a str> {
        keys.sender(Some(key.as_bytes())).map(|(_, tenant)| &**tenant)
    }

    #[test]
    fn a_key_names_its_tenant_and_no_other_key_is_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        std::fs::write(&file, "# shop\nk1 shop\n\n k2\tblog # the blog\n").unwrap();
        for keys in [ApiKeys::from_file(&file).unwrap(), ApiKeys::from_list("K", "k1=shop, k2=blog").unwrap()] {
            assert_eq!((tenant(&keys, "k1"), tenant(&keys, "k2")), (Some("shop"), Some("blog")));
            assert_eq!((tenant(&keys, "k3"), tenant(&keys, "")), (None, None));
            assert!(keys.sender(None).is_none());
            assert!(!format!("{keys:?}").contains("k1"));
        }
        assert_eq!(ApiKeys::open_to_all().sender(None).map(|(_, tenant)| &**tenant), Some("default"));
    }

    #[test]
    fn a_wrong_list_is_refused_with_its_place_and_never_with_the_key() {
        for (list, place) in [
            ("secret", "pair 1"),
            ("a=b,secret=", "pair 2"),
            ("secret=a b", "pair 1"),
            ("secret=x,secret=y", "pair 2"),
            ("", "names no key"),
        ] {
            let said = ApiKeys::from_list("KEYS", list).unwrap_err().to_string();
            assert!(said.contains("KEYS") && said.contains(place) && !said.contains("secret"), "{list}: {said}");
        }
    }
}
