//! Who a log's users are: pseudonyms, so that without the key nobody finds an address again.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// The key that makes users of web server logs from addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey([u8; 32]);

impl HashKey {
    /// The key derived from a secret text.
    #[must_use]
    pub fn from_secret(secret: &str) -> HashKey {
        HashKey(blake3::derive_key("tidemill 2025 web server log users", secret.as_bytes()))
    }

    /// A short mark by which another key is noticed; it tells nothing of the key but whether it is this one.
    pub(crate) fn mark(&self) -> String {
        let mark = blake3::keyed_hash(&self.0, b"mark").to_hex();
        mark[..8].to_owned()
    }

    /// The first 64 bits of the keyed hash of address, a zero byte and agent, in hexadecimal digits.
    pub(super) fn user(&self, address: &str, agent: &str, out: &mut String) {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(address.as_bytes()).update(&[0]).update(agent.as_bytes());
        out.push_str(&hasher.finalize().to_hex()[..16]);
    }
}

/// A key that everybody knows, so that addresses can be found again by trying them all: for tests, and for sources without
/// web server logs. Runs of earlier builds took it where none was set.
impl Default for HashKey {
    fn default() -> Self {
        HashKey::from_secret(KNOWN_TO_ALL)
    }
}

/// The secret behind the default key.
pub(crate) const KNOWN_TO_ALL: &str = "tidemill: no TIDEMILL_HASH_KEY was set";

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

/// Where the key comes from: it is there, or it is asked for once, when the first web server log is read. Clones share it.
#[derive(Clone)]
pub struct UserKey {
    known: Arc<OnceLock<HashKey>>,
    ask: Arc<Ask>,
}

type Ask = dyn Fn() -> Result<HashKey, String> + Send + Sync;

impl UserKey {
    /// A key that `ask` gives, or says in a sentence why it cannot.
    #[must_use]
    pub fn when_needed(ask: impl Fn() -> Result<HashKey, String> + Send + Sync + 'static) -> UserKey {
        UserKey { known: Arc::default(), ask: Arc::new(ask) }
    }

    /// Asks for the key, unless that was done.
    pub(crate) fn get(&self) -> Result<HashKey, String> {
        match self.known.get() {
            Some(key) => Ok(*key),
            None => (self.ask)().map(|key| *self.known.get_or_init(|| key)),
        }
    }

    /// The key of those who see a log only after it was asked for.
    ///
    /// # Panics
    /// If nobody has asked for it.
    pub(crate) fn known(&self) -> HashKey {
        *self.known.get().expect("the key is asked for before the first line of a log is read")
    }
}

impl From<HashKey> for UserKey {
    fn from(key: HashKey) -> Self {
        UserKey { known: Arc::new(key.into()), ask: Arc::new(move || Ok(key)) }
    }
}

impl Default for UserKey {
    fn default() -> Self {
        HashKey::default().into()
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserKey(..)")
    }
}
