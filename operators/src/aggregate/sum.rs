//! Sums of integers and decimals. Floats have a sum of their own: added as they are, its bits would depend on the order
//! of addition (INV-2).

use super::Aggregate;

/// See [`sum`].
#[derive(Clone, Copy, Debug)]
pub struct Sum<F>(F);

/// Adds up an integer of each record, in 128 bits, which no number of records exceeds.
///
/// In an `Int64` column, what exceeds 64 bits is written as several rows of a table that adds up, and refused by every other
/// table; see [`WindowRows`](crate::rows::WindowRows).
///
/// ```
/// use tidemill_operators::aggregate::{Aggregate, sum};
///
/// let bytes = sum(|(_, bytes): &(&str, i64)| *bytes);
/// let (mut here, mut there) = (0, 0);
/// bytes.add(&mut here, &("/logo.svg", 1_200));
/// bytes.add(&mut there, &("/", 34_000));
///
/// // Each worker adds up what it reads; the owner of the key merges.
/// bytes.merge(&mut here, there);
/// assert_eq!(here, 35_200);
/// ```
pub fn sum<D, F: Fn(&D) -> i64 + 'static>(value: F) -> Sum<F> {
    Sum(value)
}

// Stored as a varint, a sum is the same bytes in 64 and in 128 bits.
impl<D, F: Fn(&D) -> i64 + 'static> Aggregate<D> for Sum<F> {
    type Partial = i128;

    fn name(&self) -> String {
        "sum".into()
    }

    #[inline]
    fn add(&self, partial: &mut i128, record: &D) {
        *partial += i128::from((self.0)(record));
    }

    fn merge(&self, into: &mut i128, from: i128) {
        *into += from;
    }

    fn finish(&self, _partial: &mut i128) {}
}

/// See [`sum_decimal`].
#[derive(Clone, Copy, Debug)]
pub struct SumDecimal<F>(F);

/// Adds up a decimal of each record, given in units of its last place: 12.34 with two places is 1234.
///
/// The places are those of the table's `Decimal128` column. What exceeds 128 bits wraps around; a sum of more digits
/// than the column has is refused when its rows are encoded.
///
/// ```
/// use tidemill_operators::aggregate::{Aggregate, sum_decimal};
///
/// struct Payment {
///     cents: i64,
/// }
///
/// let paid = sum_decimal(|payment: &Payment| i128::from(payment.cents));
/// let mut total = 0;
/// for cents in [19_99, 5_01, i64::MAX] {
///     paid.add(&mut total, &Payment { cents });
/// }
/// // In a column declared `Decimal128(20, 2)` this is 92233720368547783.07.
/// assert_eq!(total, 9_223_372_036_854_778_307);
/// ```
pub fn sum_decimal<D, F: Fn(&D) -> i128 + 'static>(units: F) -> SumDecimal<F> {
    SumDecimal(units)
}

impl<D, F: Fn(&D) -> i128 + 'static> Aggregate<D> for SumDecimal<F> {
    type Partial = i128;

    fn name(&self) -> String {
        "sum_decimal".into()
    }

    #[inline]
    fn add(&self, partial: &mut i128, record: &D) {
        *partial = partial.wrapping_add((self.0)(record));
    }

    fn merge(&self, into: &mut i128, from: i128) {
        *into = into.wrapping_add(from);
    }

    fn finish(&self, _partial: &mut i128) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_values_add_up_and_small_sums_are_stored_as_before() {
        let amounts = sum(|cents: &i64| *cents);
        let mut total = 0;
        [i64::MAX, i64::MAX, 5].iter().for_each(|cents| amounts.add(&mut total, cents));
        amounts.merge(&mut total, i128::from(i64::MIN) * 4);
        assert_eq!(total, -18_446_744_073_709_551_613);
        for value in [0, 1, -1, 63, 64, i64::MIN, i64::MAX] {
            let stored = postcard::to_stdvec(&value).unwrap();
            assert_eq!(postcard::to_stdvec(&i128::from(value)).unwrap(), stored, "{value}");
            assert_eq!(postcard::from_bytes::<i128>(&stored).unwrap(), i128::from(value));
        }
    }
}
