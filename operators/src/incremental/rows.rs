//! What views often need beside the operators of differential dataflow: sums, counts and the largest of a group.

use std::cmp::Reverse;

use differential_dataflow::operators::CountTotal;
use serde::{Deserialize, Serialize};
use tidemill_dataflow::hash::hash64;

use super::{Row, Rows};

/// A place in a ranking.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ranked<I> {
    /// 1 is the first.
    pub rank: u32,
    /// What is ranked.
    pub item: I,
    /// How many of it there are.
    pub score: i64,
}

/// Rows of a group (a tenant, a user) and something in it.
pub trait KeyedRows<'s, G: Row, I: Row> {
    /// How many rows each group has; groups that have none are not there.
    fn count_by_key(self) -> Rows<'s, (G, i64)>;

    /// The sum of a number of each row; groups whose sum is 0 are not there.
    fn sum_by_key(self, of: impl Fn(&I) -> i64 + 'static) -> Rows<'s, (G, i64)>;

    /// The `n` items of which each group has the most, exactly; of those equal in number the smaller item comes first.
    ///
    /// A change of an item costs as much as looking at a 64th of the group, and at 64 `n` items.
    fn top_k(self, n: usize) -> Rows<'s, (G, Ranked<I>)>;
}

impl<'s, G: Row, I: Row> KeyedRows<'s, G, I> for Rows<'s, (G, I)> {
    fn count_by_key(self) -> Rows<'s, (G, i64)> {
        self.map(|(group, _)| group).count_total().map(|(group, n)| (group, n as i64))
    }

    fn sum_by_key(self, of: impl Fn(&I) -> i64 + 'static) -> Rows<'s, (G, i64)> {
        let weighed = self.explode(move |(group, item)| Some((group, weight(of(&item)))));
        weighed.count_total().map(|(group, sum)| (group, sum as i64))
    }

    fn top_k(self, n: usize) -> Rows<'s, (G, Ranked<I>)> {
        // In two steps, so that a change is not paid for by a look at the whole group.
        let parted = self.map(|(group, item)| ((group, share(&item)), item));
        let candidates = parted.reduce(move |_, items, out| {
            out.extend(largest(items, n).into_iter().map(|(item, score)| (item.clone(), score)));
        });
        candidates.map(|((group, _), item)| (group, item)).reduce(move |_, items, out| {
            for (rank, (item, score)) in (1..).zip(largest(items, n)) {
                out.push((Ranked { rank, item: item.clone(), score: score as i64 }, 1));
            }
        })
    }
}

fn weight(n: i64) -> isize {
    isize::try_from(n).expect("the engine runs on machines of 64 bits")
}

/// One of 64 shares of a group. Which one never shows in a result.
fn share<I: Row>(item: &I) -> u8 {
    use differential_dataflow::Hashable as _;
    (hash64(&item.hashed().to_le_bytes()) >> 58) as u8
}

/// The `n` items with the highest positive multiplicity, in order.
fn largest<'a, I: Ord>(items: &[(&'a I, isize)], n: usize) -> Vec<(&'a I, isize)> {
    let mut ranked: Vec<_> = items.iter().copied().filter(|(_, score)| *score > 0).collect();
    let order = |(item, score): &(&'a I, isize)| (Reverse(*score), *item);
    if ranked.len() > n {
        ranked.select_nth_unstable_by_key(n, order);
        ranked.truncate(n);
    }
    ranked.sort_unstable_by_key(order);
    ranked
}
