//! The mean of an integer. What travels, and what tables fold, is the exact sum and the count; the division comes last.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::Aggregate;
use super::rounding::nearest;

/// What a mean is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SumAndCount {
    /// The sum of the values.
    pub sum: i128,
    /// How many there are.
    pub count: i64,
}

impl SumAndCount {
    /// The mean as the nearest double, of two the even one; `None` over no records.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let count = u64::try_from(self.count).ok().filter(|count| *count > 0)?;
        let magnitude = self.sum.unsigned_abs();
        if magnitude == 0 {
            return Some(0.0);
        }
        // With its top bit set the dividend has 65 bits more than the divisor, so the quotient has enough to be rounded.
        let up = magnitude.leading_zeros();
        let (dividend, divisor) = (magnitude << up, u128::from(count));
        let mean = nearest(dividend / divisor, dividend % divisor != 0, -up.cast_signed());
        Some(if self.sum < 0 { -mean } else { mean })
    }

    /// The mean in units of `places` more decimal places than the values have, the nearest, of two the even one: with two
    /// places the mean of 1, 2 and 2 is 167. `None` over no records, or if it does not fit into 128 bits.
    #[must_use]
    pub fn decimal(&self, places: u32) -> Option<i128> {
        let scale = 10_i128.checked_pow(places)?;
        let count = Some(i128::from(self.count)).filter(|count| *count > 0)?;
        let rest = self.sum.rem_euclid(count).checked_mul(scale)?;
        let below = self.sum.div_euclid(count).checked_mul(scale)?.checked_add(rest / count)?;
        let up = match (rest % count * 2).cmp(&count) {
            Ordering::Less => false,
            Ordering::Equal => below % 2 != 0,
            Ordering::Greater => true,
        };
        below.checked_add(i128::from(up))
    }
}

/// See [`mean`].
#[derive(Clone, Copy, Debug)]
pub struct Mean<F>(F);

/// The mean of an integer of each record, exact until it is read.
///
/// ```
/// use tidemill_operators::aggregate::{Aggregate, mean};
///
/// let price = mean(|cents: &i64| *cents);
/// let mut partial = Default::default();
/// for cents in [100, 250, 250] {
///     price.add(&mut partial, &cents);
/// }
/// assert_eq!(partial.mean(), Some(200.0));
/// assert_eq!(partial.decimal(0), Some(200));
/// ```
pub fn mean<D, F: Fn(&D) -> i64 + 'static>(value: F) -> Mean<F> {
    Mean(value)
}

impl<D, F: Fn(&D) -> i64 + 'static> Aggregate<D> for Mean<F> {
    type Partial = SumAndCount;

    fn name(&self) -> String {
        "mean".into()
    }

    #[inline]
    fn add(&self, partial: &mut SumAndCount, record: &D) {
        partial.sum = partial.sum.wrapping_add(i128::from((self.0)(record)));
        partial.count += 1;
    }

    fn merge(&self, into: &mut SumAndCount, from: SumAndCount) {
        into.sum = into.sum.wrapping_add(from.sum);
        into.count += from.count;
    }

    fn finish(&self, _partial: &mut SumAndCount) {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether `double` is the nearest to `sum / count`: no neighbour of it is nearer. Exact for small numbers only.
    fn is_nearest(double: f64, sum: i64, count: i64) -> bool {
        // |double - sum / count| in units of 2^-60 / count, without rounding: both sides are integers of 128 bits.
        let distance = |d: f64| {
            let scaled = d * 2f64.powi(60);
            assert!(scaled.fract() == 0.0 && scaled.abs() < 2f64.powi(100));
            #[expect(clippy::cast_possible_truncation, reason = "it was seen to be a whole number that fits")]
            let scaled = scaled as i128;
            (scaled * i128::from(count) - (i128::from(sum) << 60)).unsigned_abs()
        };
        distance(double) <= distance(double.next_up()) && distance(double) <= distance(double.next_down())
    }

    proptest! {
        #[test]
        fn the_mean_is_the_nearest_double(values in prop::collection::vec(-1_000_000i64..1_000_000, 1..50)) {
            let (sum, count) = (values.iter().sum::<i64>(), i64::try_from(values.len()).unwrap());
            prop_assume!(sum.abs() > count * 2_000);
            let parts = SumAndCount { sum: i128::from(sum), count };
            prop_assert!(is_nearest(parts.mean().unwrap(), sum, count));
        }

        #[test]
        fn the_mean_of_equal_values_is_the_value(value in any::<i64>(), count in 1i64..1_000_000) {
            let parts = SumAndCount { sum: i128::from(value) * i128::from(count), count };
            prop_assert_eq!(parts.mean(), Some(value as f64));
            prop_assert_eq!(parts.decimal(3), Some(i128::from(value) * 1_000));
        }

        #[test]
        fn a_decimal_is_at_most_half_a_unit_away(sum in any::<i64>(), count in 1i64..1_000, places in 0u32..6) {
            let parts = SumAndCount { sum: i128::from(sum), count };
            let (scale, count) = (10i128.pow(places), i128::from(count));
            let off = (parts.decimal(places).unwrap() * count - i128::from(sum) * scale).abs() * 2;
            prop_assert!(off < count || (off == count && parts.decimal(places).unwrap() % 2 == 0));
        }
    }

    #[test]
    fn over_no_records_there_is_no_mean() {
        assert_eq!((SumAndCount::default().mean(), SumAndCount::default().decimal(2)), (None, None));
    }

    #[test]
    fn sums_beyond_64_bits_are_exact() {
        let parts = SumAndCount { sum: i128::from(i64::MAX) * 3, count: 2 };
        assert_eq!(parts.mean(), Some(1.383_505_805_528_216_4e19));
        assert_eq!(parts.decimal(1), Some(i128::from(i64::MAX) * 15));
        assert_eq!(SumAndCount { sum: i128::MIN, count: 1 }.mean(), Some(-(2f64.powi(127))));
        assert_eq!(SumAndCount { sum: i128::MAX, count: 1 }.decimal(1), None);
    }
}
