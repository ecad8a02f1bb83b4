//! Keys: a tenant and one more part, borrowed while a record is looked at, owned where state keeps them.
//!
//! Every key starts with the tenant. A [`KeyRef`] borrows from the record and carries its hash, so grouping a record
//! neither allocates nor copies; an [`OwnedKey`] is made once per key that is kept.

use serde::{Deserialize, Serialize};

use crate::hash::{hash64, mix};

/// A part of a key: its bytes and their [`hash64`].
pub trait KeyPart<'a> {
    /// The bytes that make this part equal to another.
    fn bytes(&self) -> &'a [u8];
    /// `hash64(self.bytes())`; a type that has it at hand returns it.
    fn hash64(&self) -> u64 {
        hash64(self.bytes())
    }
}

impl<'a> KeyPart<'a> for &'a str {
    fn bytes(&self) -> &'a [u8] {
        self.as_bytes()
    }
}

/// A text with its hash, computed once where the record was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashedText<'a> {
    /// The text.
    pub text: &'a str,
    /// `hash64(text.as_bytes())`.
    pub hash: u64,
}

impl<'a> HashedText<'a> {
    /// Hashes a text.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        HashedText { text, hash: hash64(text.as_bytes()) }
    }
}

impl<'a> KeyPart<'a> for HashedText<'a> {
    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }
    fn hash64(&self) -> u64 {
        self.hash
    }
}

/// The key of a record, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub struct KeyRef<'a> {
    tenant: &'a [u8],
    name: &'a [u8],
    hash: u64,
}

/// The key `(tenant, name)`.
#[inline]
#[expect(clippy::needless_pass_by_value, reason = "parts are small copies of borrows, and closures read better so")]
pub fn key<'a>(tenant: impl KeyPart<'a>, name: impl KeyPart<'a>) -> KeyRef<'a> {
    KeyRef { tenant: tenant.bytes(), name: name.bytes(), hash: mix(tenant.hash64(), name.hash64()) }
}

impl<'a> KeyRef<'a> {
    /// The fixed-seed hash of the key; it chooses the key group.
    #[must_use]
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Copies the key out of its record.
    #[must_use]
    pub fn to_owned(&self) -> OwnedKey {
        let mut bytes = Vec::with_capacity(4 + self.tenant.len() + self.name.len());
        let tenant = u32::try_from(self.tenant.len()).expect("a tenant is shorter than 4 GiB");
        bytes.extend_from_slice(&tenant.to_le_bytes());
        bytes.extend_from_slice(self.tenant);
        bytes.extend_from_slice(self.name);
        OwnedKey { hash: self.hash, bytes: bytes.into_boxed_slice() }
    }

    /// Whether `owned` is this key.
    #[must_use]
    #[inline]
    pub fn is(&self, owned: &OwnedKey) -> bool {
        self.hash == owned.hash && {
            let (tenant, name) = owned.parts();
            name == self.name && tenant == self.tenant
        }
    }
}

/// A key that state, a message or a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedKey {
    hash: u64,
    bytes: Box<[u8]>,
}

impl OwnedKey {
    /// The hash of the key it was made from.
    #[must_use]
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Tenant and name.
    #[must_use]
    #[inline]
    pub fn parts(&self) -> (&[u8], &[u8]) {
        let (length, rest) = self.bytes.split_at(4);
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
        rest.split_at(length as usize)
    }

    /// Tenant and name as texts; bytes that are no UTF-8 show as replacement characters.
    #[must_use]
    pub fn texts(&self) -> (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>) {
        let (tenant, name) = self.parts();
        (String::from_utf8_lossy(tenant), String::from_utf8_lossy(name))
    }

    /// Borrows it again.
    #[must_use]
    pub fn as_ref(&self) -> KeyRef<'_> {
        let (tenant, name) = self.parts();
        KeyRef { tenant, name, hash: self.hash }
    }

    /// Bytes of heap that the key holds.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl PartialOrd for OwnedKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OwnedKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.parts().cmp(&other.parts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_and_name_do_not_run_into_each_other() {
        let a = key("ab", "c").to_owned();
        let b = key("a", "bc").to_owned();
        assert_ne!(a, b);
        assert_ne!(a.hash(), b.hash());
        assert_eq!(a.texts(), ("ab".into(), "c".into()));
    }

    #[test]
    fn a_hashed_text_makes_the_same_key_as_a_plain_one() {
        let hashed = HashedText { text: "page", hash: hash64(b"page") };
        assert!(key("t", hashed).is(&key("t", "page").to_owned()));
    }
}
