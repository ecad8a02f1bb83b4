//! Mergeable aggregates: a partial value per window and key that grows record by record and merges in any order.
//!
//! Partial values are combined on the worker that read the records, travel once per epoch, and are merged by the owner
//! of the key; the table folds what the epochs gave. So every aggregate here is commutative and associative to the byte
//! after [`Aggregate::finish`], and an epoch's output does not depend on how many workers made it (INV-2).
//!
//! A tuple of one to six aggregates is an aggregate.

use tidemill_dataflow::keyed::Exchanged;

mod count;
mod distinct;
mod edge;
mod extreme;
mod float_sum;
mod hyperloglog;
mod mean;
mod quantiles;
mod rounding;
mod sum;

pub use count::{Count, count};
pub use distinct::{Distinct, Hashes, distinct};
pub use edge::{First, Last, Stamped, first, last};
pub use extreme::{Max, Min, max, min};
pub use float_sum::{ExactSum, SumFloat, sum_float};
pub use hyperloglog::{ApproxDistinct, HyperLogLog, approx_distinct};
pub use mean::{Mean, SumAndCount, mean};
pub use quantiles::{QuantileSketch, Quantiles, QuantilesFloat, quantiles, quantiles_float};
pub use sum::{Sum, SumDecimal, sum, sum_decimal};

/// A value over records of type `D` that can be computed in parts.
///
/// Laws, up to `finish`: `merge` is commutative and associative, and `Partial::default()` is its neutral element.
pub trait Aggregate<D>: 'static {
    /// The value over some of the records; `default()` over none.
    type Partial: Exchanged + Sync + Default + Clone;

    /// What it computes, with the parameters by which partial values differ: `quantiles 0.01`. A plan says it, and values
    /// that are held in state are those of this name: it stays from build to build.
    fn name(&self) -> String;

    /// Adds a record.
    fn add(&self, partial: &mut Self::Partial, record: &D);

    /// Adds the records of another part.
    fn merge(&self, into: &mut Self::Partial, from: Self::Partial);

    /// Brings a value into the one form in which equal values have equal bytes.
    fn finish(&self, partial: &mut Self::Partial);

    /// Heap bytes that a value holds, for windows that keep values in state.
    fn heap_bytes(&self, partial: &Self::Partial) -> usize {
        let _ = partial;
        0
    }

    /// Says what is wrong with the aggregate's parameters, for the check of the plan, one sentence each.
    fn problems(&self, report: &mut dyn FnMut(String)) {
        let _ = report;
    }
}

macro_rules! tuple {
    ($($name:ident $at:tt),+) => {
        impl<D, $($name: Aggregate<D>),+> Aggregate<D> for ($($name,)+) {
            type Partial = ($($name::Partial,)+);

            fn name(&self) -> String {
                [$(self.$at.name()),+].join(", ")
            }

            #[inline]
            fn add(&self, partial: &mut Self::Partial, record: &D) {
                $(self.$at.add(&mut partial.$at, record);)+
            }

            fn merge(&self, into: &mut Self::Partial, from: Self::Partial) {
                $(self.$at.merge(&mut into.$at, from.$at);)+
            }

            fn finish(&self, partial: &mut Self::Partial) {
                $(self.$at.finish(&mut partial.$at);)+
            }

            fn heap_bytes(&self, partial: &Self::Partial) -> usize {
                0 $(+ self.$at.heap_bytes(&partial.$at))+
            }

            fn problems(&self, report: &mut dyn FnMut(String)) {
                $(self.$at.problems(report);)+
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, E 3);
tuple!(A 0, B 1, C 2, E 3, F 4);
tuple!(A 0, B 1, C 2, E 3, F 4, G 5);

#[cfg(test)]
mod tests;
