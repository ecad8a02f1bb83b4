//! Sums of floats that do not depend on the order: every double is added exactly, into a number as wide as doubles
//! reach, and rounded once at the end (Kulisch 1971; the carries are put off as in Neal 2015, "Fast exact summation").
//!
//! The number is a row of digits of 32 bits in 64, so that many doubles are added before a carry has to go anywhere. Only
//! digits that are needed are kept: sums of values of like magnitude have three or four. `finish` brings it into the one
//! form that its value has: all digits of one sign, none of them 0 at either end.

use serde::{Deserialize, Serialize};

use super::Aggregate;
use super::rounding::{LEAST_EXPONENT, nearest};

const DIGIT_BITS: u32 = 32;
const DIGIT: i64 = (1 << DIGIT_BITS) - 1;
/// How many doubles are added before the carries are worked off: digits then stay below 2^62.
const MOST_LOOSE: u32 = 1 << 29;
/// The highest digit of a double begins at this place; what tables keep has none above the carry of 2^64 of them.
const HIGHEST: u32 = 68;

/// The places at which [`ExactSum::digits`] counts what is no finite number.
const NAN: i32 = -1;
const POSITIVE_INFINITY: i32 = -2;
const NEGATIVE_INFINITY: i32 = -3;

/// An exact sum of doubles; see [`sum_float`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExactSum {
    /// The place of the first digit; that of place 0 counts units of 2^-1074, the least double.
    first: u32,
    digits: Vec<i64>,
    /// How many doubles were added since carries were worked off.
    loose: u32,
    /// How many values were NaN, positive infinity and negative infinity.
    special: [i64; 3],
}

impl ExactSum {
    #[inline]
    fn insert(&mut self, value: f64) {
        let bits = value.to_bits();
        let (exponent, fraction) = ((bits >> 52) & 0x7ff, bits & ((1 << 52) - 1));
        if exponent == 0x7ff {
            let kind = if value.is_nan() {
                NAN
            } else if value > 0.0 {
                POSITIVE_INFINITY
            } else {
                NEGATIVE_INFINITY
            };
            self.special[special_index(kind)] += 1;
            return;
        }
        // The number is `mantissa << shift`, in units of 2^-1074.
        let (mantissa, shift) = if exponent == 0 { (fraction, 0) } else { (fraction | (1 << 52), exponent - 1) };
        if mantissa == 0 {
            return;
        }
        let place = u32::try_from(shift).expect("an exponent has 11 bits") / DIGIT_BITS;
        let wide = u128::from(mantissa) << (shift % u64::from(DIGIT_BITS));
        #[expect(clippy::cast_possible_truncation, reason = "a digit is the lowest 32 bits of what is left")]
        let digit = |at: u32| i64::from((wide >> (at * DIGIT_BITS)) as u32);
        let digits = self.room(place, 3);
        for (at, into) in (0..).zip(digits) {
            if value < 0.0 { *into -= digit(at) } else { *into += digit(at) }
        }
        self.loosen(1);
    }

    /// The digits from `place` on.
    #[inline]
    fn room(&mut self, place: u32, count: u32) -> &mut [i64] {
        if self.digits.is_empty() {
            self.first = place;
        }
        if place < self.first {
            let more = (self.first - place) as usize;
            self.digits.splice(0..0, std::iter::repeat_n(0, more));
            self.first = place;
        }
        let from = (place - self.first) as usize;
        let end = from + count as usize;
        if self.digits.len() < end {
            self.digits.resize(end, 0);
        }
        &mut self.digits[from..end]
    }

    #[inline]
    fn loosen(&mut self, by: u32) {
        self.loose += by;
        if self.loose > MOST_LOOSE {
            self.settle();
        }
    }

    fn merge(&mut self, from: ExactSum) {
        self.special.iter_mut().zip(from.special).for_each(|(into, from)| *into += from);
        if self.digits.is_empty() {
            (self.first, self.digits, self.loose) = (from.first, from.digits, from.loose);
        } else if !from.digits.is_empty() {
            let count = u32::try_from(from.digits.len()).expect("a sum has fewer than a hundred digits");
            self.room(from.first, count).iter_mut().zip(from.digits).for_each(|(into, from)| *into += from);
            self.loosen(from.loose + 1);
        }
    }

    /// Works off the carries: brings the sum into the one form that its value has.
    fn settle(&mut self) {
        // 1. Digits from 0 up to 2^32; the carry that is left is -1 for a negative number.
        let mut carry = 0;
        for digit in &mut self.digits {
            let loose = *digit + carry;
            (*digit, carry) = (loose & DIGIT, loose >> DIGIT_BITS);
        }
        while carry != 0 && carry != -1 {
            self.digits.push(carry & DIGIT);
            carry >>= DIGIT_BITS;
        }
        // 2. A negative number is its magnitude with all digits negative.
        if carry == -1 {
            let mut one = 1;
            for digit in &mut self.digits {
                let complement = (DIGIT - *digit) + one;
                (*digit, one) = (-(complement & DIGIT), complement >> DIGIT_BITS);
            }
            if one > 0 {
                self.digits.push(-1);
            }
        }
        // 3. No zeros at the ends.
        let used = self.digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
        self.digits.truncate(used);
        let unused = self.digits.iter().position(|digit| *digit != 0).unwrap_or(0);
        self.digits.drain(..unused);
        self.first += u32::try_from(unused).expect("a sum has fewer than a hundred digits");
        if self.digits.is_empty() {
            self.first = 0;
        }
        self.loose = 0;
    }

    /// The sum, rounded once to the nearest double, of two to the even one; infinite beyond the greatest double.
    ///
    /// NaN if a value was, or if infinities of both signs were among them; infinite if some of one sign were. The sum of
    /// nothing, and of zeros of whatever sign, is 0.
    #[must_use]
    pub fn value(&self) -> f64 {
        match self.special {
            [0, 0, 0] => {}
            [0, _, 0] => return f64::INFINITY,
            [0, 0, _] => return f64::NEG_INFINITY,
            _ => return f64::NAN,
        }
        let mut settled = self.clone();
        settled.settle();
        // Four digits have at least 97 bits: enough to round when it is known whether there is more.
        let from = settled.digits.len().saturating_sub(4);
        let shifted = |number: u128, digit: &i64| (number << DIGIT_BITS) | u128::from(digit.unsigned_abs());
        let leading = settled.digits[from..].iter().rev().fold(0, shifted);
        let place = settled.first as usize + from;
        let exponent = i32::try_from(place * DIGIT_BITS as usize).expect("places are few") + LEAST_EXPONENT;
        let magnitude = nearest(leading, from > 0, exponent);
        if settled.digits.last().is_some_and(|digit| *digit < 0) { -magnitude } else { magnitude }
    }

    /// What a table keeps: digits by their place, of which it adds up those of one place. At place -1, -2 and -3 it is
    /// how many values were NaN, positive infinity and negative infinity.
    pub fn digits(&self) -> impl Iterator<Item = (i32, i64)> + '_ {
        let kinds = [NEGATIVE_INFINITY, POSITIVE_INFINITY, NAN];
        let special = kinds.into_iter().map(|kind| (kind, self.special[special_index(kind)]));
        let places = (self.first.cast_signed()..).zip(self.digits.iter().copied());
        special.chain(places).filter(|(_, digit)| *digit != 0)
    }

    /// The sum of such [`digits`](Self::digits), in any order, some of them several times. Places that no sum has are
    /// passed over.
    #[must_use]
    pub fn of_digits(digits: impl IntoIterator<Item = (i32, i64)>) -> Self {
        let mut sum = ExactSum::default();
        for (place, digit) in digits {
            if (NEGATIVE_INFINITY..=NAN).contains(&place) {
                sum.special[special_index(place)] += digit;
            } else if let Some(place) = u32::try_from(place).ok().filter(|place| *place <= HIGHEST) {
                // Sums of digits may be larger than a digit.
                let room = sum.room(place, 2);
                room[0] += digit & DIGIT;
                room[1] += digit >> DIGIT_BITS;
                sum.loosen(1);
            }
        }
        sum.settle();
        sum
    }
}

/// Where the values of a kind are counted.
fn special_index(kind: i32) -> usize {
    (kind.unsigned_abs() - 1) as usize
}

/// See [`sum_float`].
#[derive(Clone, Copy, Debug)]
pub struct SumFloat<F>(F);

/// Adds up a float of each record, exactly; [`ExactSum::value`] rounds the sum once.
///
/// ```
/// use tidemill_operators::aggregate::{Aggregate, sum_float};
///
/// let energy = sum_float(|joules: &f64| *joules);
/// let mut partial = Default::default();
/// for joules in [1e100, 1.0, 0.1, -1e100] {
///     energy.add(&mut partial, &joules);
/// }
/// // Added one by one as doubles it would be 0, or 0.1, or 1.1, as the order has it.
/// assert_eq!(partial.value(), 1.1);
/// ```
pub fn sum_float<D, F: Fn(&D) -> f64 + 'static>(value: F) -> SumFloat<F> {
    SumFloat(value)
}

impl<D, F: Fn(&D) -> f64 + 'static> Aggregate<D> for SumFloat<F> {
    type Partial = ExactSum;

    fn name(&self) -> String {
        "sum_float".into()
    }

    #[inline]
    fn add(&self, partial: &mut ExactSum, record: &D) {
        partial.insert((self.0)(record));
    }

    fn merge(&self, into: &mut ExactSum, from: ExactSum) {
        into.merge(from);
    }

    fn finish(&self, partial: &mut ExactSum) {
        partial.settle();
    }

    fn heap_bytes(&self, partial: &ExactSum) -> usize {
        partial.digits.capacity() * size_of::<i64>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        values.iter().for_each(|&value| sum.insert(value));
        sum.settle();
        sum
    }

    /// Finite doubles of every kind, many of which cancel.
    fn double() -> impl Strategy<Value = f64> {
        let any = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite());
        let few =
            prop::sample::select(vec![1e300, -1e300, 1.0, -1.0, 0.1, 5e-324, -5e-324, 0.0, -0.0, f64::MAX, f64::MIN]);
        prop_oneof![any, few, -1e3..1e3f64]
    }

    proptest! {
        #[test]
        fn sums_of_integers_are_those_of_the_machine(values in prop::collection::vec(any::<i64>(), 0..200)) {
            let exact: i128 = values.iter().map(|&value| i128::from(value >> 11)).sum();
            let floats: Vec<_> = values.iter().map(|&value| (value >> 11) as f64).collect();
            prop_assert_eq!(of(&floats).value(), exact as f64);
            let tiny: Vec<_> = floats.iter().map(|value| value * 2f64.powi(-600)).collect();
            prop_assert_eq!(of(&tiny).value(), exact as f64 * 2f64.powi(-600));
        }

        #[test]
        fn two_doubles_add_up_as_the_machine_adds_them(a in double(), b in double()) {
            prop_assert_eq!(of(&[a, b]).value(), a + b);
            prop_assert_eq!(of(&[a]).value(), a);
            prop_assert_eq!(of(&[a, b, -a, -b]), ExactSum::default());
        }

        #[test]
        fn values_and_their_opposites_leave_what_was_between(
            noise in prop::collection::vec(double(), 0..40), kept in double(), at in 0usize..80,
        ) {
            let mut values: Vec<_> = noise.iter().copied().chain(noise.iter().rev().map(|value| -value)).collect();
            values.insert(at.min(values.len()), kept);
            prop_assert_eq!(of(&values), of(&[kept]));
        }

        #[test]
        fn the_form_depends_on_the_value_alone(values in prop::collection::vec(double(), 0..60), cut in 0usize..60) {
            let cut = cut.min(values.len());
            let backwards: Vec<_> = values.iter().rev().copied().collect();
            let mut parts = of(&values[cut..]);
            parts.merge(of(&values[..cut]));
            parts.settle();
            let all = of(&values);
            prop_assert_eq!(&all, &parts);
            prop_assert_eq!(&all, &of(&backwards));
            let sign = |digit: &i64| digit.signum();
            let signs: std::collections::BTreeSet<_> = all.digits.iter().map(sign).filter(|sign| *sign != 0).collect();
            prop_assert!(signs.len() <= 1 && all.digits.iter().all(|digit| digit.abs() <= DIGIT));
            let rows = of(&values[cut..]).digits().chain(of(&values[..cut]).digits()).collect::<Vec<_>>();
            prop_assert_eq!(&ExactSum::of_digits(rows), &all);
        }
    }

    #[test]
    fn what_is_not_finite_decides() {
        let (plus, minus) = (f64::INFINITY, f64::NEG_INFINITY);
        assert_eq!(of(&[1.0, plus]).value(), plus);
        assert_eq!(of(&[minus, f64::MAX, minus]).value(), minus);
        assert!(of(&[minus, plus]).value().is_nan());
        assert!(of(&[f64::NAN, plus]).value().is_nan());
        assert_eq!(ExactSum::of_digits([(NEGATIVE_INFINITY, 2), (0, 1)]).value(), minus);
        assert_eq!(of(&[minus, f64::NAN, 4.0]).digits().take(2).collect::<Vec<_>>(), [(-3, 1), (-1, 1)]);
    }

    #[test]
    fn sums_beyond_the_greatest_double_are_infinite_and_come_back() {
        assert_eq!(of(&[f64::MAX, f64::MAX]).value(), f64::INFINITY);
        assert_eq!(of(&[f64::MAX, f64::MAX, f64::MIN]).value(), f64::MAX);
        assert_eq!(of(&[f64::MIN; 1_000]).value(), f64::NEG_INFINITY);
    }

    #[test]
    fn zeros_add_up_to_zero() {
        for values in [&[][..], &[0.0, -0.0], &[-0.0], &[1.5, -1.5]] {
            assert_eq!(of(values), ExactSum::default());
            assert_eq!(of(values).value().to_bits(), 0);
        }
    }

    #[test]
    fn carries_are_worked_off_before_they_overflow() {
        let mut sum = of(&[-1.0]);
        sum.loose = MOST_LOOSE - 1;
        (0..4).for_each(|_| sum.insert(-f64::MAX));
        assert!(sum.loose < 4, "{}", sum.loose);
        let mut other = sum.clone();
        other.loose = MOST_LOOSE;
        sum.merge(other);
        (0..8).for_each(|_| sum.insert(f64::MAX));
        assert_eq!(sum.value(), -2.0);
    }
}
