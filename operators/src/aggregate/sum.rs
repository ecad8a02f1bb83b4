//! Sums of integers and decimals. Floats have a sum of their own: added as they are, its bits would depend on the order
//! of addition (INV-2).

use super::Aggregate;

/// See [`sum`].
#[derive(Clone, Copy, Debug)]
pub struct Sum<F>(F);

/// Adds up an integer of each record; what exceeds 64 bits wraps around, in every order to the same sum.
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

impl<D, F: Fn(&D) -> i64 + 'static> Aggregate<D> for Sum<F> {
    type Partial = i64;

    fn name(&self) -> String {
        "sum".into()
    }

    #[inline]
    fn add(&self, partial: &mut i64, record: &D) {
        *partial = partial.wrapping_add((self.0)(record));
    }

    fn merge(&self, into: &mut i64, from: i64) {
        *into = into.wrapping_add(from);
    }

    fn finish(&self, _partial: &mut i64) {}
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
