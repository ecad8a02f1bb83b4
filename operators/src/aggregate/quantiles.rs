//! Quantiles within a relative error: DDSketch (Masson, Rim, Lee 2019), counts of values in buckets that grow with the
//! values.
//!
//! A bucket is a range of doubles with one exponent and the same first bits of the mantissa, so a value's bucket is read
//! from its bits: the mapping that the paper calls linearly interpolated, without a logarithm whose last digit could
//! differ between machines. Counts are integers and merging adds them; no bucket is ever given up to save memory,
//! which would depend on the order of records (INV-2). What bounds a sketch is the range: magnitudes below 2^-64 count as
//! zero and those from 2^64 on as just below it, so with a relative error of 1 % there are at most 16,385 buckets, and 4,033
//! for integers that are not negative; a cell has those that it has values in.

use serde::{Deserialize, Serialize};

use super::Aggregate;

/// The bits of a mantissa.
const MANTISSA_BITS: u8 = 52;
/// The most bits of it that tell buckets apart: a relative error of 1 in 8,193.
const MOST_BITS: u8 = 12;
/// More bits than any sketch has: of one without values.
const UNDECIDED: u8 = u8::MAX;
/// The least magnitude that is not counted as zero, 2^-64, and the first that is too large, 2^64.
const LEAST: f64 = 1.0 / 18_446_744_073_709_551_616.0;
const TOO_LARGE: f64 = 18_446_744_073_709_551_616.0;

/// How many values fell into each bucket; see [`quantiles`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuantileSketch {
    /// Bits of the mantissa that tell buckets apart.
    bits: u8,
    /// Bucket and count, ascending. Zero is bucket 0, the n-th range of positive values n, of negative ones -n.
    buckets: Vec<(i32, i64)>,
}

impl Default for QuantileSketch {
    fn default() -> Self {
        QuantileSketch { bits: UNDECIDED, buckets: Vec::new() }
    }
}

/// The number before that of the first range of magnitudes.
#[inline]
fn base(bits: u8) -> u64 {
    (LEAST.to_bits() >> (MANTISSA_BITS - bits)) - 1
}

/// The bucket of a value that is a number.
#[inline]
fn bucket_of(value: f64, bits: u8) -> i32 {
    let magnitude = value.abs();
    if magnitude < LEAST {
        return 0;
    }
    let inside = if magnitude < TOO_LARGE { magnitude } else { TOO_LARGE.next_down() };
    let range = (inside.to_bits() >> (MANTISSA_BITS - bits)) - base(bits);
    let range = i32::try_from(range).expect("there are at most 2^19 ranges");
    if value < 0.0 { -range } else { range }
}

/// The value that stands for a bucket: no value of the bucket is further from it than the relative error.
fn representative(bucket: i32, bits: u8) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    let edge = |range: u32| f64::from_bits((u64::from(range) + base(bits)) << (MANTISSA_BITS - bits));
    let (low, high) = (edge(bucket.unsigned_abs()), edge(bucket.unsigned_abs() + 1));
    let middle = 2.0 * low / (low + high) * high;
    if bucket < 0 { -middle } else { middle }
}

/// The fewest bits that keep a relative error: a bucket from `a` to `a + a / 2^bits` has its middle within
/// 1 / (2^(bits + 1) + 1) of all its values.
fn bits_for(relative_error: f64) -> Option<u8> {
    let kept = |bits: &u8| 1.0 / (f64::from(2_u32 << bits) + 1.0) <= relative_error;
    (0..=MOST_BITS).find(kept).filter(|_| relative_error < 1.0)
}

impl QuantileSketch {
    #[inline]
    fn insert(&mut self, value: f64, bits: u8) {
        if value.is_nan() {
            return;
        }
        self.limit(bits);
        let bucket = bucket_of(value, self.bits);
        match self.buckets.binary_search_by_key(&bucket, |&(bucket, _)| bucket) {
            Ok(at) => self.buckets[at].1 += 1,
            Err(at) => self.buckets.insert(at, (bucket, 1)),
        }
    }

    /// Joins buckets until at most `bits` of a mantissa tell them apart.
    #[inline]
    fn limit(&mut self, bits: u8) {
        if self.bits <= bits {
            return;
        }
        let fewer = self.bits - bits;
        self.bits = bits;
        if !self.buckets.is_empty() {
            for (bucket, _) in &mut self.buckets {
                let range = i32::try_from(((bucket.unsigned_abs().max(1) - 1) >> fewer) + 1).expect("it was larger");
                *bucket = bucket.signum() * range;
            }
            self.join();
        }
    }

    /// Adds up counts of one bucket; they stand side by side.
    fn join(&mut self) {
        self.buckets.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            kept.1 += if same { later.1 } else { 0 };
            same
        });
    }

    fn merge(&mut self, mut from: QuantileSketch) {
        self.limit(from.bits);
        from.limit(self.bits);
        if self.buckets.is_empty() {
            self.buckets = from.buckets;
        } else {
            self.buckets.append(&mut from.buckets);
            // A stable sort merges two sorted lists in one pass.
            self.buckets.sort_by_key(|&(bucket, _)| bucket);
            self.join();
        }
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.buckets.iter().map(|&(_, count)| count).sum()
    }

    /// The value that a share `q` of the others is not above: 0.5 for the median, 0 for the least, 1 for the greatest.
    ///
    /// It is within the relative error of the value at place `floor(q * (count - 1))`, counted from 0, of all values in
    /// order. `None` over no values, or if `q` is not from 0 to 1.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let count = self.count();
        if count <= 0 || !(0.0..=1.0).contains(&q) {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, reason = "a product with a share of 1 at most is no larger")]
        let place = (q * (count - 1) as f64).floor() as i64;
        let mut passed = 0;
        let at = self.buckets.iter().find(|&&(_, values)| {
            passed += values;
            passed > place
        });
        // Of more values than a double can count the last place may round up: then it is in the last bucket.
        at.or(self.buckets.last()).map(|&(bucket, _)| representative(bucket, self.bits))
    }

    /// What a table keeps: buckets and their counts, of which it adds up those of one bucket.
    pub fn buckets(&self) -> impl Iterator<Item = (i32, i64)> + '_ {
        self.buckets.iter().copied()
    }

    /// The sketch of such [`buckets`](Self::buckets), in any order, some of them several times, if `relative_error` is one
    /// that [`quantiles`] takes: the same that they were made with.
    #[must_use]
    pub fn of_buckets(relative_error: f64, buckets: impl IntoIterator<Item = (i32, i64)>) -> Option<Self> {
        let mut sketch = QuantileSketch { bits: bits_for(relative_error)?, buckets: buckets.into_iter().collect() };
        sketch.buckets.sort_by_key(|&(bucket, _)| bucket);
        sketch.join();
        Some(sketch)
    }
}

/// What the aggregates of integers and floats share.
#[derive(Clone, Copy, Debug)]
struct Accuracy {
    relative_error: f64,
    bits: u8,
}

impl Accuracy {
    fn of(relative_error: f64) -> Self {
        Accuracy { relative_error, bits: bits_for(relative_error).unwrap_or(0) }
    }

    fn problems(&self, report: &mut dyn FnMut(String)) {
        if bits_for(self.relative_error).is_none() {
            let error = self.relative_error;
            report(format!(
                "quantiles within a relative error of {error}: it must be from 0.00013 to less than 1, such as 0.01"
            ));
        }
    }
}

/// See [`quantiles`].
#[derive(Clone, Copy, Debug)]
pub struct Quantiles<F>(F, Accuracy);

/// See [`quantiles_float`].
#[derive(Clone, Copy, Debug)]
pub struct QuantilesFloat<F>(F, Accuracy);

/// Any quantile of an integer of each record, within a relative error (0.01 for 1 %) from 0.00013 to less than 1.
///
/// ```
/// use tidemill_operators::aggregate::{Aggregate, quantiles};
///
/// let latency = quantiles(|millis: &i64| *millis, 0.01);
/// let mut partial = Default::default();
/// (1..=1_000).for_each(|millis| latency.add(&mut partial, &millis));
/// assert!((495.0..505.0).contains(&partial.quantile(0.5).unwrap()));
/// assert!((980.0..1_000.0).contains(&partial.quantile(0.99).unwrap()));
/// ```
pub fn quantiles<D, F: Fn(&D) -> i64 + 'static>(value: F, relative_error: f64) -> Quantiles<F> {
    Quantiles(value, Accuracy::of(relative_error))
}

/// The same of a float. Magnitudes below 2^-64 count as zero, those from 2^64 on, infinities among them, as just below it;
/// what is no number (NaN) has no place in the order and is not counted: count records beside it to see how many there
/// are.
///
/// ```
/// use tidemill_operators::aggregate::{Aggregate, quantiles_float};
///
/// let load = quantiles_float(|load: &f64| *load, 0.05);
/// let mut partial = Default::default();
/// [0.1, 0.2, 0.4, f64::NAN, 12.0].iter().for_each(|sample| load.add(&mut partial, sample));
/// assert_eq!(partial.count(), 4);
/// assert!((11.4..12.6).contains(&partial.quantile(1.0).unwrap()));
/// ```
pub fn quantiles_float<D, F: Fn(&D) -> f64 + 'static>(value: F, relative_error: f64) -> QuantilesFloat<F> {
    QuantilesFloat(value, Accuracy::of(relative_error))
}

macro_rules! aggregate {
    ($name:ident, $value:ty, $float:expr) => {
        impl<D, F: Fn(&D) -> $value + 'static> Aggregate<D> for $name<F> {
            type Partial = QuantileSketch;

            fn name(&self) -> String {
                format!("quantiles {}", self.1.relative_error)
            }

            #[inline]
            fn add(&self, partial: &mut QuantileSketch, record: &D) {
                partial.insert($float((self.0)(record)), self.1.bits);
            }

            fn merge(&self, into: &mut QuantileSketch, from: QuantileSketch) {
                into.merge(from);
            }

            fn finish(&self, _partial: &mut QuantileSketch) {}

            fn heap_bytes(&self, partial: &QuantileSketch) -> usize {
                partial.buckets.capacity() * size_of::<(i32, i64)>()
            }

            fn problems(&self, report: &mut dyn FnMut(String)) {
                self.1.problems(report);
            }
        }
    };
}

aggregate!(Quantiles, i64, |value: i64| value as f64);
aggregate!(QuantilesFloat, f64, |value: f64| value);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(values: &[f64], bits: u8) -> QuantileSketch {
        let mut sketch = QuantileSketch::default();
        values.iter().for_each(|&value| sketch.insert(value, bits));
        sketch
    }

    /// Numbers of every magnitude that is told apart, and zero.
    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            (-63i32..64, 1.0..2.0f64, any::<bool>()).prop_map(|(exponent, mantissa, minus)| mantissa
                * 2f64.powi(exponent)
                * if minus { -1.0 } else { 1.0 }),
            (-1_000i64..1_000).prop_map(|n| n as f64),
        ]
    }

    proptest! {
        #[test]
        fn every_quantile_is_within_the_relative_error(
            mut values in prop::collection::vec(number(), 1..200), q in 0.0..=1.0f64,
            error in prop_oneof![Just(0.01), Just(0.05), 0.0002..0.9f64],
        ) {
            let sketch = of(&values, bits_for(error).unwrap());
            values.sort_by(f64::total_cmp);
            let place = q * (values.len() - 1) as f64;
            let exact = values[(0..values.len()).rev().find(|at| *at as f64 <= place).unwrap()];
            let given = sketch.quantile(q).unwrap();
            prop_assert!((given - exact).abs() <= error * exact.abs() * (1.0 + 1e-12), "{} for {}", given, exact);
        }

        #[test]
        fn sketches_of_different_errors_merge_in_any_order_to_the_same(
            parts in prop::collection::vec((prop::collection::vec(number(), 0..20), 0u8..=MOST_BITS), 1..6),
        ) {
            let sketches: Vec<_> = parts.iter().map(|(values, bits)| of(values, *bits)).collect();
            let merged = |these: &mut dyn Iterator<Item = &QuantileSketch>| {
                let mut all = QuantileSketch::default();
                these.for_each(|sketch| all.merge(sketch.clone()));
                all
            };
            let forth = merged(&mut sketches.iter());
            prop_assert_eq!(&forth, &merged(&mut sketches.iter().rev()));
            // It is the sketch of all values with the largest of the errors.
            let with_values = parts.iter().filter(|(values, _)| !values.is_empty());
            let bits = with_values.map(|(_, bits)| *bits).min().unwrap_or(UNDECIDED);
            let all: Vec<_> = parts.into_iter().flat_map(|(values, _)| values).collect();
            prop_assert_eq!(forth, of(&all, bits));
        }

        #[test]
        fn the_sum_of_what_tables_keep_is_the_sketch_of_all(
            left in prop::collection::vec(number(), 1..30), right in prop::collection::vec(number(), 0..30),
        ) {
            let bits = bits_for(0.01).unwrap();
            let rows = of(&right, bits).buckets().chain(of(&left, bits).buckets()).collect::<Vec<_>>();
            prop_assert_eq!(QuantileSketch::of_buckets(0.01, rows), Some(of(&[left, right].concat(), bits)));
        }

        #[test]
        fn buckets_follow_the_order_of_values(a in number(), b in number(), bits in 0u8..=MOST_BITS) {
            prop_assert!((a <= b) <= (bucket_of(a, bits) <= bucket_of(b, bits)));
        }
    }

    #[test]
    fn values_outside_the_range_stay_at_its_ends() {
        let sketch = of(&[f64::NEG_INFINITY, f64::MIN, -1e-30, 0.0, -0.0, 5e-324, f64::MAX, f64::INFINITY], 6);
        assert_eq!(sketch.buckets, [(-8_192, 2), (0, 4), (8_192, 2)]);
        assert!((sketch.quantile(1.0).unwrap() / TOO_LARGE - 1.0).abs() < 0.01);
        assert_eq!(of(&[i64::MAX as f64, i64::MIN as f64], 6).buckets, [(-8_129, 1), (8_129, 1)]);
    }

    #[test]
    fn what_is_no_number_is_not_counted() {
        let sketch = of(&[f64::NAN, 1.0, -f64::NAN], 6);
        assert_eq!((sketch.count(), sketch.quantile(0.5).unwrap().round()), (1, 1.0));
    }

    #[test]
    fn no_values_have_no_quantile_and_a_share_is_from_0_to_1() {
        assert_eq!(QuantileSketch::default().quantile(0.5), None);
        assert_eq!([-0.1, 1.1, f64::NAN].map(|q| of(&[1.0], 6).quantile(q)), [None; 3]);
    }

    #[test]
    fn an_error_that_no_sketch_keeps_is_reported_with_a_remedy() {
        for (error, count) in [(0.0, 1), (-1.0, 1), (f64::NAN, 1), (0.0001, 1), (1.0, 1), (0.99, 0), (0.000_13, 0)] {
            let mut problems = Vec::new();
            let aggregate = (quantiles(|n: &i64| *n, error),);
            aggregate.problems(&mut |problem| problems.push(problem));
            assert_eq!(problems.len(), count, "{error}");
            assert!(problems.iter().all(|problem| problem.contains("such as 0.01")), "{problems:?}");
        }
    }
}
