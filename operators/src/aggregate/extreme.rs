//! The smallest and the largest of an integer.

use super::Aggregate;

/// See [`min`].
#[derive(Clone, Copy, Debug)]
pub struct Min<F>(F);

/// The smallest value; `None` over no records.
///
/// ```
/// use tidemill_operators::aggregate::{Aggregate, min};
///
/// let fastest = min(|millis: &i64| *millis);
/// let mut partial = None;
/// [31, 12, 54].iter().for_each(|millis| fastest.add(&mut partial, millis));
/// assert_eq!(partial, Some(12));
/// ```
pub fn min<D, F: Fn(&D) -> i64 + 'static>(value: F) -> Min<F> {
    Min(value)
}

impl<D, F: Fn(&D) -> i64 + 'static> Aggregate<D> for Min<F> {
    type Partial = Option<i64>;

    fn name(&self) -> String {
        "min".into()
    }

    #[inline]
    fn add(&self, partial: &mut Option<i64>, record: &D) {
        let value = (self.0)(record);
        *partial = Some(partial.map_or(value, |least| least.min(value)));
    }

    fn merge(&self, into: &mut Option<i64>, from: Option<i64>) {
        *into = [*into, from].into_iter().flatten().min();
    }

    fn finish(&self, _partial: &mut Option<i64>) {}
}

/// See [`max`].
#[derive(Clone, Copy, Debug)]
pub struct Max<F>(F);

/// The largest value; `None` over no records.
///
/// ```
/// use tidemill_operators::aggregate::{Aggregate, max};
///
/// let slowest = max(|millis: &i64| *millis);
/// let mut monday = Some(54);
/// slowest.merge(&mut monday, None); // On another worker nothing came.
/// assert_eq!(monday, Some(54));
/// ```
pub fn max<D, F: Fn(&D) -> i64 + 'static>(value: F) -> Max<F> {
    Max(value)
}

impl<D, F: Fn(&D) -> i64 + 'static> Aggregate<D> for Max<F> {
    type Partial = Option<i64>;

    fn name(&self) -> String {
        "max".into()
    }

    #[inline]
    fn add(&self, partial: &mut Option<i64>, record: &D) {
        *partial = (*partial).max(Some((self.0)(record)));
    }

    fn merge(&self, into: &mut Option<i64>, from: Option<i64>) {
        *into = (*into).max(from);
    }

    fn finish(&self, _partial: &mut Option<i64>) {}
}
