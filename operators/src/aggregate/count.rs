//! How many records.

use super::Aggregate;

/// See [`count`].
#[derive(Clone, Copy, Debug)]
pub struct Count;

/// Counts records.
#[must_use]
pub fn count() -> Count {
    Count
}

impl<D> Aggregate<D> for Count {
    type Partial = i64;

    #[inline]
    fn add(&self, partial: &mut i64, _record: &D) {
        *partial += 1;
    }

    fn merge(&self, into: &mut i64, from: i64) {
        *into += from;
    }

    fn finish(&self, _partial: &mut i64) {}
}
