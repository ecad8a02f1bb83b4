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

/// What a key calls its record beside the tenant: a text, or a number, which is kept and shown as its decimal digits.
pub trait KeyName<'a> {
    /// The bytes of the name and their [`hash64`].
    fn name(&self) -> (Name<'a>, u64);
}

impl<'a, P: KeyPart<'a>> KeyName<'a> for P {
    #[inline]
    fn name(&self) -> (Name<'a>, u64) {
        (Name(Bytes::Borrowed(self.bytes())), self.hash64())
    }
}

impl KeyName<'_> for i64 {
    #[inline]
    fn name(&self) -> (Name<'static>, u64) {
        let digits = Digits::of(*self);
        (Name(Bytes::Number(digits)), hash64(digits.as_slice()))
    }
}

/// The bytes of a name.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a>(Bytes<'a>);

#[derive(Clone, Copy, Debug)]
enum Bytes<'a> {
    Borrowed(&'a [u8]),
    Number(Digits),
}

impl Name<'_> {
    #[inline]
    fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Bytes::Borrowed(bytes) => bytes,
            Bytes::Number(digits) => digits.as_slice(),
        }
    }
}

/// The decimal digits of a number, without a place on the heap.
#[derive(Clone, Copy, Debug)]
struct Digits {
    bytes: [u8; Digits::MOST],
    from: u8,
}

impl Digits {
    /// What `i64::MIN` takes.
    const MOST: usize = 20;

    #[inline]
    fn of(number: i64) -> Self {
        let (mut digits, mut rest) = (Digits { bytes: [0; Digits::MOST], from: 20 }, number.unsigned_abs());
        loop {
            digits.put(b'0' + u8::try_from(rest % 10).expect("a digit is less than ten"));
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            digits.put(b'-');
        }
        digits
    }

    fn put(&mut self, byte: u8) {
        self.from -= 1;
        self.bytes[usize::from(self.from)] = byte;
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[usize::from(self.from)..]
    }
}

/// The key of a record, borrowed from it.
#[derive(Clone, Copy, Debug)]
pub struct KeyRef<'a> {
    tenant: &'a [u8],
    name: Name<'a>,
    hash: u64,
}

/// The key `(tenant, name)`.
#[inline]
#[expect(clippy::needless_pass_by_value, reason = "parts are small copies of borrows, and closures read better so")]
pub fn key<'a>(tenant: impl KeyPart<'a>, name: impl KeyName<'a>) -> KeyRef<'a> {
    let (name, hash) = name.name();
    KeyRef { tenant: tenant.bytes(), name, hash: mix(tenant.hash64(), hash) }
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
        let name = self.name.as_slice();
        let mut bytes = Vec::with_capacity(4 + self.tenant.len() + name.len());
        let tenant = u32::try_from(self.tenant.len()).expect("a tenant is shorter than 4 GiB");
        bytes.extend_from_slice(&tenant.to_le_bytes());
        bytes.extend_from_slice(self.tenant);
        bytes.extend_from_slice(name);
        OwnedKey { hash: self.hash, bytes: bytes.into_boxed_slice() }
    }

    /// Whether `owned` is this key.
    #[must_use]
    #[inline]
    pub fn is(&self, owned: &OwnedKey) -> bool {
        self.hash == owned.hash && {
            let (tenant, name) = owned.parts();
            name == self.name.as_slice() && tenant == self.tenant
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

    /// The number that the name was made of, if it is one.
    #[must_use]
    pub fn number(&self) -> Option<i64> {
        std::str::from_utf8(self.parts().1).ok()?.parse().ok()
    }

    /// Borrows it again.
    #[must_use]
    pub fn as_ref(&self) -> KeyRef<'_> {
        let (tenant, name) = self.parts();
        KeyRef { tenant, name: Name(Bytes::Borrowed(name)), hash: self.hash }
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
    fn a_number_is_the_key_of_its_digits() {
        for number in [0, 7, -1, 1_234_567_890, i64::MIN, i64::MAX] {
            let owned = key("t", number).to_owned();
            assert_eq!(owned, key("t", number.to_string().as_str()).to_owned());
            assert_eq!(owned.hash(), key("t", number.to_string().as_str()).hash());
            assert!(key("t", number).is(&owned) && !key("t", number / 2 + 1).is(&owned));
            assert_eq!(owned.number(), Some(number));
        }
        assert_eq!(key("t", "seven").to_owned().number(), None);
    }

    #[test]
    fn a_hashed_text_makes_the_same_key_as_a_plain_one() {
        let hashed = HashedText { text: "page", hash: hash64(b"page") };
        assert!(key("t", hashed).is(&key("t", "page").to_owned()));
    }
}
