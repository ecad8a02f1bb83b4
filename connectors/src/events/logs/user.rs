//! Who a log's users are: pseudonyms, so that without the key nobody finds an address again.

use std::fmt;

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

/// The key of everybody who sets none: addresses can then be found again by trying them all.
impl Default for HashKey {
    fn default() -> Self {
        HashKey::from_secret("tidemill: no TIDEMILL_HASH_KEY was set")
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}
