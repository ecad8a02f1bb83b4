//! Exact distinct: the 64-bit hashes that an epoch saw. The table unites them, so a hash that comes twice is harmless
//! and nothing is kept between epochs.

use serde::{Deserialize, Serialize};

use super::Aggregate;

/// Hashes seen; sorted and each once after `finish`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashes(pub Vec<u64>);

/// Below this many hashes none are looked for that came twice.
const UNCOMPACTED: usize = 64;

impl Hashes {
    #[inline]
    fn push(&mut self, hash: u64) {
        // A hot cell sees the same few values over and over: before its list grows it drops what came twice.
        if self.0.len() == self.0.capacity() && self.0.len() >= UNCOMPACTED {
            self.compact();
            if self.0.len() > self.0.capacity() / 2 {
                self.0.reserve(self.0.capacity());
            }
        }
        self.0.push(hash);
    }

    fn compact(&mut self) {
        if !self.0.is_sorted_by(|a, b| a < b) {
            self.0.sort();
            self.0.dedup();
        }
    }
}

/// See [`distinct`].
#[derive(Clone, Copy, Debug)]
pub struct Distinct<F>(F);

/// Counts distinct values by a 64-bit hash of each, such as `tidemill_dataflow::hash::hash64`.
///
/// Two values with one hash count once. That happens somewhere among n distinct values of a cell with probability
/// n^2 / 2^65: one in four million for three million values.
///
/// ```
/// use tidemill_dataflow::hash::hash64;
/// use tidemill_operators::aggregate::{Aggregate, distinct};
///
/// let visitors = distinct(|user: &&str| hash64(user.as_bytes()));
/// let mut partial = Default::default();
/// ["ada", "bob", "ada"].iter().for_each(|user| visitors.add(&mut partial, user));
/// visitors.finish(&mut partial);
/// assert_eq!(partial.0.len(), 2);
/// ```
pub fn distinct<D, F: Fn(&D) -> u64 + 'static>(hash: F) -> Distinct<F> {
    Distinct(hash)
}

impl<D, F: Fn(&D) -> u64 + 'static> Aggregate<D> for Distinct<F> {
    type Partial = Hashes;

    fn name(&self) -> String {
        "distinct".into()
    }

    #[inline]
    fn add(&self, partial: &mut Hashes, record: &D) {
        partial.push((self.0)(record));
    }

    fn merge(&self, into: &mut Hashes, from: Hashes) {
        if into.0.is_empty() {
            *into = from;
        } else {
            into.0.extend_from_slice(&from.0);
        }
    }

    fn finish(&self, partial: &mut Hashes) {
        // The sort is a stable one because it merges the sorted lists of several workers in one pass.
        partial.compact();
    }

    fn heap_bytes(&self, partial: &Hashes) -> usize {
        partial.0.capacity() * size_of::<u64>()
    }
}
