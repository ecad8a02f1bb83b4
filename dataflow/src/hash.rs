//! The one hash of the engine: XXH3 with fixed seeds, the same in every process and on every day (INV-2, INV-7).
//!
//! Key groups, distinct counts and dedup ids all derive from it; changing a seed invalidates every checkpoint.

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

const SEED_64: u64 = 0x7469_6465_6d69_6c6c;

/// The 64-bit hash of some bytes.
///
/// Two different values collide with probability 2^-64; among n values some pair does with about n^2 / 2^65
/// (one in four million for three million values).
#[must_use]
#[inline]
pub fn hash64(bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, SEED_64)
}

/// The 128-bit hash of some bytes under a seed; among n values a pair collides with about n^2 / 2^129.
#[must_use]
#[inline]
pub fn hash128(bytes: &[u8], seed: u64) -> u128 {
    xxh3_128_with_seed(bytes, SEED_64 ^ seed)
}

/// Folds `b` into `a`; not commutative, so the order of a compound key counts.
#[must_use]
#[inline]
pub fn mix(a: u64, b: u64) -> u64 {
    let x = (a.rotate_left(23) ^ b).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^ (x >> 32)
}
