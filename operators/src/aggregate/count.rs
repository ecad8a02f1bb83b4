//! How many records.

use super::Aggregate;

/// See [`count`].
#[derive(Clone, Copy, Debug)]
pub struct Count;

/// Counts records.
///
/// ```
/// use tidemill_operators::aggregate::{Aggregate, count};
///
/// let mut views = 0;
/// ["/", "/cart", "/"].iter().for_each(|page| count().add(&mut views, page));
/// assert_eq!(views, 3);
/// ```
#[must_use]
pub fn count() -> Count {
    Count
}

impl<D> Aggregate<D> for Count {
    type Partial = i64;

    fn name(&self) -> String {
        "count".into()
    }

    #[inline]
    fn add(&self, partial: &mut i64, _record: &D) {
        *partial += 1;
    }

    fn merge(&self, into: &mut i64, from: i64) {
        *into += from;
    }

    fn finish(&self, _partial: &mut i64) {}
}
